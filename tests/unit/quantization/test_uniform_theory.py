"""Error law, distortion and entropy of uniform quantizers: two routes to every number."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from lecturelib.quantization import distortion, entropy, error_law, uniform

CF = {"norm": (stats.norm(), lambda t: np.exp(-t**2 / 2), 2 / np.sqrt(2 * np.pi)),
      "laplace": (stats.laplace(), lambda t: 1 / (1 + t**2), 1.0)}


class Bare:
    """N(0,1) without its name, so that the library has to integrate."""
    @staticmethod
    def pdf(x):
        return np.exp(-np.asarray(x)**2 / 2) / np.sqrt(2 * np.pi)


def direct(density, step, offset):
    """E(X-q)^2 from the wrapped density: another route than cells or series; cut where q jumps at 0."""
    z, w = np.polynomial.legendre.leggauss(60)
    kink = -(round(-offset) + offset) * step            # where the wrapped density meets x = 0
    ends = np.unique([-step / 2, kink, step / 2])
    total = 0.0
    for a, b in zip(ends[:-1], ends[1:]):
        e = (a + b) / 2 + (b - a) / 2 * z
        total += (b - a) / 2 * np.sum(w * e**2 * error_law.wrapped_density(density.pdf, e, step, offset))
    return total


@pytest.mark.parametrize("name", CF)
@pytest.mark.parametrize("step", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("offset", [0.0, 0.3, 0.5])
def test_series_is_the_second_moment_of_the_wrapped_density(name, step, offset):
    density, cf, variation = CF[name]
    series = error_law.mean_square(cf, step, offset)
    assert series == pytest.approx(direct(density, step, offset), abs=1e-9)
    assert abs(series - step**2 / 12) <= error_law.variation_bound(variation, step)


def test_wrapped_density_of_a_shifted_grid_is_centered_on_the_source():
    for offset in (0.0, 0.3, 100.3):
        e = np.linspace(-0.5, 0.5, 5)
        np.testing.assert_allclose(error_law.wrapped_density(stats.norm.pdf, e, 1.0, offset),
                                   error_law.wrapped_density(stats.norm.pdf, e, 1.0, offset % 1), rtol=1e-10)


def test_point_mass():
    """No density at all: the series still gives the square of the error."""
    for x in (0.0, 0.2, 0.5, 0.7):
        q = float(uniform.quantize(torch.tensor(x, dtype=torch.float64), 1.0))
        assert error_law.mean_square(lambda t: np.exp(1j * t * x), 1.0, terms=100000) == pytest.approx((x - q)**2, abs=2e-6)


@pytest.mark.parametrize("levels, value", [(2, 0.3634), (4, 0.1188), (8, 0.03744), (16, 0.01154)])
def test_best_range_of_a_gaussian_reaches_the_classical_errors(levels, value):
    A = distortion.optimal_range(stats.norm(), levels)
    D = sum(distortion.clipped_distortion(stats.norm(), A, levels))
    assert float(f"{D:.4g}") == value
    p, _, _ = distortion.gaussian_moments(distortion.clipped_grid(A, levels)[0])
    assert D == pytest.approx(1 - distortion.clipped_grid(A, levels)[1]**2 @ p, abs=1e-13)


@pytest.mark.parametrize("levels", [3, 8, 15, 32])
def test_best_range_is_a_minimum_by_brute_force(levels):
    A = distortion.optimal_range(stats.norm(), levels)
    found = optimize.minimize_scalar(lambda a: sum(distortion.clipped_distortion(Bare, a, levels)),
                                     bracket=(0.9 * A, 1.1 * A), tol=1e-9)
    assert found.x == pytest.approx(A, rel=1e-5)
    assert found.fun == pytest.approx(sum(distortion.clipped_distortion(stats.norm(), A, levels)), rel=1e-11)


@pytest.mark.parametrize("levels", [4, 16, 255])
def test_kernel_and_theory_agree(levels):
    A = distortion.optimal_range(stats.norm(), levels)
    x = torch.randn(2**18, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    offset, bounds = uniform.grid(levels)
    square = (x - uniform.quantize(x, 2 * A / levels, offset=offset, bounds=bounds))**2
    D = sum(distortion.clipped_distortion(stats.norm(), A, levels))
    assert abs(float(square.mean()) - D) < 5 * float(square.std()) / len(x)**0.5


def test_moments_of_other_densities():
    t = [-np.inf, -1.0, 0.0, 0.4, np.inf]
    for closed, brute in zip(distortion.gaussian_moments(t), distortion.cell_moments(Bare, t)):
        np.testing.assert_allclose(brute, closed, atol=1e-13)
    p, m, s = distortion.cell_moments(stats.laplace(), [-np.inf, 0.0, np.inf])
    np.testing.assert_allclose((p.sum(), m.sum(), s.sum()), (1, 0, 2), atol=1e-12)
    shifted = distortion.cell_moments(stats.norm(1, 2), [-np.inf, 1.0, np.inf])
    np.testing.assert_allclose([v.sum() for v in shifted], (1, 1, 5), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 6.0))
def test_entropy_lies_between_renyi_and_the_fisher_bound(step):
    """0 <= H - (h - log2 step) <= step^2 / (2 pi^2 ln 2) for N(0,1)."""
    p = distortion.gaussian_moments(entropy.uniform_thresholds(step))[0]
    excess = entropy.entropy(p) - entropy.GAUSSIAN_ENTROPY + np.log2(step)
    assert -1e-12 <= excess <= step**2 / (2 * np.pi**2 * np.log(2))


@pytest.mark.parametrize("rate, gap", [(0.1, 0.0308), (0.25, 0.0795), (0.5, 0.1521), (1, 0.2391), (1.5, 0.2534),
                                       (2, 0.2544), (3, 0.2546)])
def test_best_thresholds_at_seven_rates(rate, gap):
    t, D, lam = entropy.ecsq_gaussian(rate)
    H, again = entropy.rate_distortion(stats.norm(), t)
    assert H == pytest.approx(rate, abs=1e-9) and again == D
    assert entropy.excess(rate, D) == pytest.approx(gap, abs=6e-5)
    assert D <= entropy.ecsq_uniform(stats.norm(), rate)[1] + 1e-10


@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0])
def test_multiplier_is_the_slope_of_the_curve(rate):
    down, up = (entropy.ecsq_gaussian(rate + d)[1] for d in (-1e-3, 1e-3))
    assert entropy.ecsq_gaussian(rate)[2] == pytest.approx((down - up) / 2e-3, rel=1e-4)


def test_quarter_bit_is_the_limit_for_two_sources():
    assert entropy.QUARTER_BIT == pytest.approx(0.25461, abs=5e-6)
    assert entropy.excess(4, entropy.ecsq_gaussian(4)[1]) == pytest.approx(entropy.QUARTER_BIT, abs=1e-5)
    H, D = entropy.rate_distortion(stats.laplace(), entropy.uniform_thresholds(0.05, 0.5, reach=40.0))
    gap = H + 0.5 * np.log2(2 * np.pi * np.e * D) - np.log2(2 * np.e)
    assert gap == pytest.approx(entropy.QUARTER_BIT, abs=1e-3)


def test_levels_other_than_centroids_cost():
    t = entropy.uniform_thresholds(1.0, reach=8.0)
    levels = np.concatenate(([t[1] - 0.5], (t[1:-2] + t[2:-1]) / 2, [t[-2] + 0.5]))
    H, D = entropy.rate_distortion(stats.norm(), t, levels)
    H_c, D_c = entropy.rate_distortion(stats.norm(), t)
    assert H == H_c and D_c < D == pytest.approx(1 / 12, rel=1e-6)


@pytest.mark.parametrize("call, name", [
    (lambda: error_law.mean_square(np.cos, -1.0), "step"),
    (lambda: error_law.wrapped_density(stats.norm.pdf, 0.0, 1.0, reach=0), "reach"),
    (lambda: error_law.mean_square(np.cos, 1.0, float("nan")), "offset"),
    (lambda: error_law.mean_square(np.cos, 1.0, terms=0.5), "terms"),
    (lambda: error_law.mean_square(lambda t: t * np.nan, 1.0), "cf"),
    (lambda: error_law.wrapped_density(stats.norm.pdf, np.nan, 1.0), "e must"),
    (lambda: error_law.variation_bound(float("nan"), 1.0), "variation"),
    (lambda: distortion.clipped_grid(1.0, np.inf), "levels"),
    (lambda: distortion.optimal_range(stats.cauchy(), 4), "second moment"),
    (lambda: distortion.clipped_grid(1.0, 1), "levels"),
    (lambda: distortion.clipped_grid(np.inf, 4), "half_range"),
    (lambda: distortion.gaussian_moments([0.0, 0.0]), "t must"),
    (lambda: distortion.cell_moments(stats.norm(), [0.0, np.nan]), "t must"),
    (lambda: distortion.optimal_range(stats.norm(), 4, (10.0, 20.0)), "bracket"),
    (lambda: entropy.entropy([0.5, 0.6]), "p must"),
    (lambda: entropy.entropy([np.nan, 1.0]), "p must"),
    (lambda: entropy.uniform_thresholds(0.0), "step"),
    (lambda: entropy.uniform_thresholds(1.0, np.nan), "offset"),
    (lambda: entropy.rate_distortion(stats.norm(), [-np.inf, 0, np.inf], [1.0]), "levels"),
    (lambda: entropy.excess(1.0, 0.0), "distortion"),
    (lambda: entropy.ecsq_uniform(stats.norm(), 1.0, steps=(-1.0, 3.0)), "steps"),
    (lambda: entropy.ecsq_uniform(stats.norm(), 0.5, 0.5), "rate"),
    (lambda: entropy.ecsq_gaussian(0.0), "rate"),
    (lambda: entropy.ecsq_gaussian(1.0, midrise=True), "rate"),
])
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()


def test_a_kink_inside_a_cell_costs_nothing():
    """For the Laplace density e^{-|x|}/2 and the cell (-1/2, 1/2): mass 1 − e^{-1/2}, spread 2 − (13/4) e^{-1/2}."""
    laplace, e = stats.laplace(), np.exp(-0.5)
    tail = e / 2                                         # memoryless: centroid 3/2, variance 1
    H, D = entropy.rate_distortion(laplace, [-np.inf, -0.5, 0.5, np.inf])
    assert abs(D - (2 - 3.25 * e + 2 * tail)) < 1e-13
    assert abs(H - entropy.entropy([tail, 1 - e, tail])) < 1e-13
    D = entropy.ecsq_uniform(laplace, 5.0)[1]            # h = log2(2e): D -> 4^(h - R) / 12
    assert abs(0.5 * np.log2(12 * D) + 5 - np.log2(2 * np.e)) < 1e-3
