"""High-rate theory: constants in closed form, limits and rates as parameters, bounds that hold."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special, stats

from lecturelib.quantization import companding, panter_dite
from lecturelib.quantization.lloyd_max import lloyd_max

NORMAL, LAPLACE = stats.norm(), stats.laplace(scale=0.5**0.5)


def student_constant(nu):
    """(1/12) (integral of p^(1/3))^3 for Student's t: a beta function."""
    peak = special.gamma((nu + 1) / 2) / (np.sqrt(nu * np.pi) * special.gamma(nu / 2))
    return peak * nu**1.5 * special.beta(0.5, (nu + 1) / 6 - 0.5)**3 / 12


@pytest.mark.parametrize("density, value", [
    (NORMAL, np.sqrt(3) * np.pi / 2), (LAPLACE, 4.5), (stats.expon(), 9 / 4), (stats.uniform(), 1 / 12),
    (stats.norm(1e3, 1e-3), np.sqrt(3) * np.pi / 2 * 1e-6), (stats.t(2.5), student_constant(2.5)),
    (stats.t(4), student_constant(4)), (stats.triang(0.5, -1, 2), (3 / 2)**3 / 12)])
def test_constants_in_closed_form(density, value):
    assert panter_dite.constant(density) == pytest.approx(value, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 20.0), st.floats(-50, 50), st.floats(0.1, 1.0))
def test_units_of_the_power_integral(scale, shift, exponent):
    """Under X -> sX + b the integral of p^a is multiplied by s^(1-a); cubed, by s^2 only for a = 1/3."""
    plain = panter_dite.power_integral(stats.logistic(), exponent)
    assert panter_dite.power_integral(stats.logistic(shift, scale), exponent) == \
        pytest.approx(plain * scale**(1 - exponent), rel=1e-7)


@pytest.mark.parametrize("make, density", [(companding.gaussian, NORMAL), (companding.laplace, LAPLACE)])
def test_best_density_attains_hoelder_and_others_do_not(make, density):
    C = panter_dite.constant(density)
    assert panter_dite.bennett(density, make().slope) == pytest.approx(C, rel=1e-8)
    for other in (make(1.3 if make is companding.gaussian else 1.0), companding.laplace(0.8)):
        assert panter_dite.bennett(density, other.slope) > C * (1 + 1e-3)


@pytest.mark.parametrize("make, density", [(companding.gaussian, NORMAL), (companding.laplace, LAPLACE)])
def test_companded_error_approaches_bennetts_integral(make, density):
    C = panter_dite.bennett(density, make().slope)
    miss = [abs(companding.distortion(density, make().expand, 4**k) * 16**k / C - 1) for k in (2, 3, 4, 5)]
    assert all(b < a / 3 for a, b in zip(miss, miss[1:])) and miss[-1] < 1e-3


def test_mu_law_approaches_bennetts_integral():
    source, G = stats.truncnorm(-4, 4), companding.mu_law(255.0, 4.0)
    limit = panter_dite.bennett(source, G.slope)
    assert companding.distortion(source, G.expand, 1024) * 2**20 == pytest.approx(limit, rel=2e-4)


@pytest.mark.parametrize("bits", range(1, 9))
def test_gaussian_lies_between_the_bound_and_the_compander(bits):
    N = 2**bits
    D = lloyd_max(NORMAL, N).distortion
    assert panter_dite.unimodal_bound(NORMAL, N) < D < companding.distortion(NORMAL, companding.gaussian().expand, N)
    assert 4.0**-bits < D < panter_dite.GAUSSIAN / N**2


def test_rate_of_convergence_is_one_over_the_levels():
    y = np.array([lloyd_max(NORMAL, 2**b).distortion * 4**b for b in range(5, 9)])
    miss = panter_dite.GAUSSIAN - y
    assert np.log2(miss[:-1] / miss[1:]) == pytest.approx(1, abs=0.1)
    assert 2 * y[-1] - y[-2] == pytest.approx(panter_dite.GAUSSIAN, rel=1e-3)
    delta = panter_dite.exponential_points(512)
    z = np.array([2 * n**2 * delta[n - 1]**2 for n in (128, 256, 512)])       # Laplace, N = 2n
    assert 2 * z[-1] - z[-2] == pytest.approx(4.5, rel=1e-4)
    assert np.log2((4.5 - z[0]) / (4.5 - z[1])) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("levels", [2, 4, 16, 256])
def test_laplace_is_two_exponentials(levels):
    delta = panter_dite.exponential_points(levels // 2)
    assert lloyd_max(LAPLACE, levels).distortion == pytest.approx(delta[-1]**2 / 2, rel=1e-10)


def test_exponential_points_by_direct_minimization():
    """The recursion against a minimizer of the error over all levels."""
    def error(gaps):
        c = np.cumsum(np.exp(gaps))
        t = np.concatenate(([0], (c[1:] + c[:-1]) / 2, [60]))
        return sum(integrate.quad(lambda x: (x - v)**2 * np.exp(-x), a, b)[0] for a, b, v in zip(t[:-1], t[1:], c))
    delta = panter_dite.exponential_points(3)
    found = optimize.minimize(error, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-13})
    assert found.fun == pytest.approx(delta[2]**2, rel=1e-7)
    assert np.exp(found.x[0]) == pytest.approx(delta[2], rel=1e-4)


def test_shift_of_the_exponential_converges():
    """D(n) = (9/4) / (n + b)^2 to leading order, b = 0.5664."""
    n = np.array([1, 10, 100, 1000, 4000])
    b = 1.5 / panter_dite.exponential_points(4000)[n - 1] - n
    assert b[0] == 0.5 and np.all(np.diff(b) > 0) and b[-1] == pytest.approx(0.5664, abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.01, 2)), min_size=1, max_size=5), st.integers(1, 12))
def test_step_bound_holds_for_random_codebooks(pieces, levels):
    s, ell = np.array(pieces).T
    edges = np.append(0.0, np.cumsum(ell))
    c = np.sort(torch.rand(levels, generator=torch.Generator().manual_seed(levels)).double().numpy()) * edges[-1]
    t = np.concatenate(([-np.inf], (c[1:] + c[:-1]) / 2, [np.inf]))
    error = 0.0
    for a, b, h in zip(edges[:-1], edges[1:], s):
        low, high = np.clip(t[:-1], a, b), np.clip(t[1:], a, b)
        error += h * np.sum((high - c)**3 - (low - c)**3) / 3
    assert error >= panter_dite.step_bound(s, ell, levels) * (1 - 1e-9)


def test_step_bound_is_attained_by_equal_cells_of_a_uniform_law():
    for N in (1, 2, 7):
        assert panter_dite.step_bound([0.5], [2.0], N) == pytest.approx(4 / (12 * N**2))
    bounds = [panter_dite.unimodal_bound(NORMAL, N) * N**2 / panter_dite.GAUSSIAN for N in (2**8, 2**12, 2**16)]
    assert 0.55 < bounds[0] < bounds[1] < bounds[2] < 1 and bounds[2] > 0.95


@pytest.mark.parametrize("call, name", [
    (lambda: panter_dite.power_integral(NORMAL, 0.0), "exponent"),
    (lambda: panter_dite.power_integral(NORMAL, 1.5), "exponent"),
    (lambda: panter_dite.constant(stats.t(2)), "converge"),
    (lambda: panter_dite.constant(stats.cauchy()), "converge"),
    (lambda: panter_dite.bennett(NORMAL, companding.mu_law(255.0, 4.0).slope), "slope"),
    (lambda: panter_dite.bennett(NORMAL, companding.gaussian(3**-0.5).slope), "converge"),
    (lambda: panter_dite.step_bound([-1.0], [1.0], 4), "heights"),
    (lambda: panter_dite.step_bound([1.0], [0.0], 4), "lengths"),
    (lambda: panter_dite.step_bound([1.0], [1.0, 1.0], 4), "same size"),
    (lambda: panter_dite.step_bound([1.0], [1.0], 0), "levels"),
    (lambda: panter_dite.unimodal_bound(NORMAL, 16, 0), "pieces"),
    (lambda: panter_dite.exponential_points(0), "levels"),
])
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()
