"""Rate-distortion theory against closed forms and against other routes."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lecturelib.quantization import rate_theory as rt
from scipy import integrate, optimize, stats


@settings(max_examples=40, deadline=None)
@given(v=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12), rate=st.floats(0, 6))
def test_water_filling_meets_its_rate_and_its_conditions(v, rate):
    a = rt.water_filling(v, rate=rate)
    assert abs(a.rate - rate) < 1e-9 * (1 + rate)
    assert np.all(a.distortions <= a.level * (1 + 1e-12)) and np.all((a.rates == 0) | np.isclose(a.distortions, a.level))
    again = rt.water_filling(v, distortion=a.distortion)
    assert np.isclose(again.level, a.level, rtol=1e-6) and abs(again.rate - a.rate) < 3e-6


@settings(max_examples=30, deadline=None)
@given(v=st.lists(st.floats(0.05, 20), min_size=2, max_size=6), rate=st.floats(0.1, 3), seed=st.integers(0, 99))
def test_no_other_allocation_is_better(v, rate, seed):
    best = rt.water_filling(v, rate=rate)
    rates = np.random.default_rng(seed).dirichlet(np.ones(len(v)), 200) * rate * len(v)
    assert np.all((np.array(v) * 4.0**-rates).mean(1) >= best.distortion * (1 - 1e-9))


def test_water_level_by_bisection():
    v = np.geomspace(0.01, 10, 17)
    for D in (0.02, 0.3, 1.0):
        level = optimize.brentq(lambda t: np.minimum(v, t).mean() - D, 1e-6, 10)
        assert abs(rt.water_filling(v, distortion=D).level - level) < 1e-9


@pytest.mark.parametrize("n", [2, 3, 8, 51, 300])
def test_caps_by_quadrature(n):
    for t in (0.0, 0.2, 0.6):
        part = integrate.quad(lambda s: (1 - s * s)**((n - 3) / 2), t, 1, epsabs=0)[0] if n > 2 else math.acos(t)
        whole = integrate.quad(lambda s: (1 - s * s)**((n - 3) / 2), -1, 1, epsabs=0)[0] if n > 2 else math.pi
        assert abs(float(np.exp(rt.log_cap(n, np.array(t)))) / (part / whole) - 1) < 3e-6


def test_random_code_by_simulation():
    rng = np.random.default_rng(0)
    for n, rate in ((4, 1.0), (8, 0.5)):
        x = rng.standard_normal((1500, n))
        u = rng.standard_normal((1500, round(2**(n * rate)), n))
        u /= np.linalg.norm(u, axis=2, keepdims=True)
        best = np.einsum("bmn,bn->bm", u, x).max(1)
        radius = best.mean()
        errors = ((x**2).sum(1) - 2 * radius * best + radius**2) / n
        assert abs(errors.mean() - rt.random_code(n, rate)) < 4 * errors.std() / 1500**0.5


@pytest.mark.parametrize("rate", [0.01, 0.5, 1.0, 3.0, 6.0, 15.0])
def test_random_codes_in_closed_form(rate):
    words = 4.0**rate                                       # on the circle the least angle has P(angle > a) = (1 - a / pi)^M
    share = integrate.quad(lambda a: math.sin(a) * math.exp(words * math.log1p(-a / math.pi)), 0, min(math.pi, 60 / words),
                           epsabs=0, epsrel=1e-12, limit=200)[0]
    assert abs(rt.random_code(2, rate) - (1 - math.pi / 4 * (1 - share)**2)) < 1e-10
    cosine = 1 - 2 / (8.0**rate + 1)                        # on the sphere in space the cosine is uniform
    assert abs(rt.random_code(3, rate) - (1 - 8 / (3 * math.pi) * cosine**2)) < 1e-12


@pytest.mark.parametrize("rate", [1.0, 2.0])
def test_loss_of_long_random_codes_tends_to_its_leading_term(rate):
    ratios = [(rate + 0.5 * math.log2(rt.random_code(n, rate))) / (math.log2(n) / 2 / n) for n in (2**12, 2**16, 2**20, 2**24)]
    assert all(a > b > 1 for a, b in zip(ratios, ratios[1:])) and ratios[-1] < 1.4


@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0])
def test_random_codes_converge_at_the_rate_of_the_proof(rate):
    gaps = [rate + 0.5 * math.log2(rt.random_code(n, rate)) for n in (64, 256, 1024, 4096)]
    assert all(a > b > 0 for a, b in zip(gaps, gaps[1:]))
    assert all(g < 3 * math.log2(n) / n for g, n in zip(gaps, (64, 256, 1024, 4096)))


def test_blahut_arimoto_on_closed_forms():
    for p in (0.5, 0.2):                                    # Bernoulli, Hamming: h(p) - h(D)
        h = lambda v: -v * math.log2(v) - (1 - v) * math.log2(1 - v)
        point = rt.blahut_arimoto([1 - p, p], [[0, 1], [1, 0]], slope=math.log((1 - 0.05) / 0.05), tolerance=1e-9)
        assert abs(point.distortion - 0.05) < 1e-5 and abs(point.rate - (h(p) - h(0.05))) < 1e-5
        assert point.lower <= point.rate + 1e-12 and abs(point.law.sum() - 1) < 1e-9


def test_letters_that_never_come_do_not_matter():
    d = 1e4 * (1 - np.eye(3))                               # the third column is for the third letter only
    two, three = rt.blahut_arimoto([0.5, 0.5], d[:2], slope=1.0), rt.blahut_arimoto([0.5, 0.5, 0.0], d, slope=1.0)
    assert three.rate == two.rate and three.distortion == two.distortion and abs(three.rate - 1) < 1e-6


def test_blahut_arimoto_brackets_the_gaussian():
    grid = np.linspace(-5, 5, 201)
    p = stats.norm.pdf(grid)
    p /= p.sum()
    point = rt.blahut_arimoto(p, (grid[:, None] - grid)**2, slope=1 / (2 * 0.25), tolerance=1e-4)
    truth = float(rt.gaussian_rate(point.distortion))
    assert point.lower - 2e-3 < truth < point.rate + 2e-3 and abs(point.distortion - 0.25) < 2e-3


def test_lower_bound_is_exact_for_gaussians_and_below_for_others():
    assert abs(rt.shannon_lower_bound(stats.norm(0, 3), 1.0) - math.log2(3)) < 1e-9
    h = math.log2(2 * math.e * 0.5**0.5)                    # Laplace of variance 1
    assert abs(rt.shannon_lower_bound(stats.laplace(scale=0.5**0.5), 0.1) - (h - 0.5 * math.log2(2 * math.pi * math.e * 0.1))) < 3e-6


@pytest.mark.parametrize("call", [
    lambda: rt.gaussian_rate(0.0), lambda: rt.gaussian_rate(math.nan), lambda: rt.random_code(1, 1.0), lambda: rt.random_code(4, 0.0),
    lambda: rt.water_filling([1.0, -1.0], rate=1.0), lambda: rt.water_filling([1.0], rate=-1.0), lambda: rt.water_filling([1.0], distortion=2.0),
    lambda: rt.water_filling([1.0]), lambda: rt.water_filling([], rate=1.0), lambda: rt.blahut_arimoto([0.5, 0.4], [[0, 1], [1, 0]], 1.0),
    lambda: rt.blahut_arimoto([1.0], [[-1.0]], 1.0), lambda: rt.blahut_arimoto([1.0], [[1.0]], 0.0),
    lambda: rt.blahut_arimoto([1.0], [[]], 1.0), lambda: rt.blahut_arimoto([1.0], [[1.0]], 1.0, limit=0), lambda: rt.random_code(math.inf, 1.0),
    lambda: rt.blahut_arimoto([1.0], [[1.0]], 1.0, tolerance=math.nan), lambda: rt.log_cap(1, 0.5), lambda: rt.log_cap(3, [0.5, 1.0]),
    lambda: rt.log_cap(3, math.nan)])
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError):
        call()
