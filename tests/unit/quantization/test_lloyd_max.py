"""Densities and Lloyd-Max codebooks: both conditions, two routes to every number, closed forms."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from lecturelib.quantization import density, lloyd_max, wasserstein

LINE = (-np.inf, np.inf)
TABLE = {1: 0.3633802276, 2: 0.1174818478, 3: 0.0345477608, 4: 0.0095010080, 5: 0.0025046684, 6: 0.00064423967,
         7: 0.00016347823, 8: 0.0000411850829}
OTHER = {3: 0.190174, 5: 0.079941, 6: 0.057978, 7: 0.044000, 12: 0.016340, 14: 0.012232, 15: 0.010737}
SMOOTH = {"norm": stats.norm(1, 3), "laplace": stats.laplace(-2, 0.5), "logistic": stats.logistic(),
          "t5": stats.t(5), "gumbel": stats.gumbel_r(), "gamma": stats.gamma(2.5), "beta": stats.beta(2, 5),
          "expon": stats.expon(1), "lognorm": stats.lognorm(0.8), "uniform": stats.uniform(-1, 5)}


class Bare:
    """N(0,1) without its name, so that the library has to integrate."""
    support = staticmethod(lambda: LINE)
    cdf = staticmethod(stats.norm.cdf)

    @staticmethod
    def pdf(x):
        return np.exp(-np.asarray(x)**2 / 2) / np.sqrt(2 * np.pi)


def shooting(levels, first):
    """Max's recursion for N(0,1) from the right half's first point: how far the last is from its centroid."""
    upper = lambda x: math.erfc(x / math.sqrt(2)) / 2
    phi = lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    centroid = lambda a, b: (phi(a) - phi(b)) / (upper(a) - upper(b))
    a, c = 0.0, first
    for _ in range(levels // 2 - 1):
        if centroid(a, 39.0) <= c:
            return math.inf
        b = optimize.brentq(lambda b: centroid(a, b) - c, c + 1e-13, 39.0, xtol=1e-15, rtol=1e-15)
        a, c = b, 2 * b - c
    return c - phi(a) / upper(a)


@pytest.mark.parametrize("bits", TABLE)
def test_gaussian_table_by_closed_forms_and_by_quadrature(bits):
    """Done-when: eight significant digits for 1 to 8 bits, by two routes."""
    closed, numeric = lloyd_max.lloyd_max(stats.norm(), 2**bits), lloyd_max.lloyd_max(Bare, 2**bits)
    digits = {5: 2e-8, 6: 8e-9}.get(bits, 2e-9)            # the table above is rounded to its digits
    assert closed.distortion == pytest.approx(TABLE[bits], rel=digits)
    assert numeric.distortion == pytest.approx(closed.distortion, rel=1e-10)
    np.testing.assert_allclose(numeric.points, closed.points, atol=1e-10)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gaussian_codebook_by_shooting(bits):
    book = lloyd_max.lloyd_max(stats.norm(), 2**bits)
    first = book.points[2**bits // 2]
    assert optimize.brentq(lambda c: min(shooting(2**bits, c), 1.0), 0.7 * first, 1.2 * first,
                           xtol=1e-15) == pytest.approx(first, abs=1e-10)


@pytest.mark.parametrize("levels", OTHER)
def test_gaussian_with_other_numbers_of_levels(levels):
    assert lloyd_max.lloyd_max(stats.norm(), levels).distortion == pytest.approx(OTHER[levels], abs=6e-7)


@pytest.mark.parametrize("levels", [1024, 4096, 8192, 65536])
def test_many_levels_of_a_gaussian_meet_the_conditions_and_panter_and_dite(levels):
    book = lloyd_max.lloyd_max(stats.norm(), levels)
    assert np.abs(lloyd_max.lloyd_step(stats.norm(), book.points) - book.points).max() < 1e-12
    limit = math.pi * math.sqrt(3) / 2
    assert 1 - 4 / levels < levels**2 * book.distortion / limit < 1


def test_moments_of_narrow_gaussian_cells():
    r"""E X | cell = t + h/2 - t h^2 / 12 + O(h^4), and the spread of a cell is h^2/12 of its mass."""
    h = 2.0**-13
    t = np.array([0.0, 0.5, 2.0, 5.0])
    for a in t:
        mass, centroid, spread = density.cells(stats.norm(), [a, a + h])
        middle = a + h / 2
        assert np.isclose(mass[0], h * stats.norm.pdf(middle) * (1 + (middle**2 - 1) * h**2 / 24), rtol=1e-13, atol=0)
        assert abs(centroid[0] - (middle - middle * h**2 / 12)) < 1e-14
        assert np.isclose(spread[0], mass[0] * h**2 / 12, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("levels", [1, 2, 3, 8, 33])
def test_conditions_and_their_consequences(name, levels):
    source = SMOOTH[name]
    book = lloyd_max.lloyd_max(source, levels)
    np.testing.assert_allclose(book.thresholds, (book.points[1:] + book.points[:-1]) / 2, rtol=1e-14)
    centroids = lloyd_max.lloyd_step(source, book.points)
    np.testing.assert_allclose(centroids, book.points, atol=1e-10 * source.std())
    p = np.diff(source.cdf(np.concatenate(([-np.inf], book.thresholds, [np.inf]))))
    assert p @ book.points == pytest.approx(source.mean(), abs=1e-9)
    assert book.distortion == pytest.approx(source.var() + source.mean()**2 - p @ book.points**2, rel=1e-7)
    assert book.entropy <= np.log2(levels) + 1e-12


@settings(max_examples=15, deadline=None)
@given(st.floats(-50, 50), st.floats(0.01, 100), st.integers(2, 12), st.sampled_from(["gumbel", "logistic", "norm"]))
def test_codebook_moves_and_scales_with_the_source(shift, scale, levels, name):
    family = {"gumbel": stats.gumbel_r, "logistic": stats.logistic, "norm": stats.norm}[name]
    base, moved = lloyd_max.lloyd_max(family(), levels), lloyd_max.lloyd_max(family(shift, scale), levels)
    np.testing.assert_allclose(moved.points, shift + scale * base.points, atol=1e-8 * (scale + abs(shift)))
    assert moved.distortion == pytest.approx(scale**2 * base.distortion, rel=1e-8)


@pytest.mark.parametrize("levels", [2, 3, 4, 7])
def test_reflected_source_has_the_reflected_codebook(levels):
    np.testing.assert_allclose(lloyd_max.lloyd_max(stats.gumbel_l(), levels).points,
                               -lloyd_max.lloyd_max(stats.gumbel_r(), levels).points[::-1], atol=1e-10)


@pytest.mark.parametrize("levels", [2, 5, 16, 64])
def test_uniform_source_in_closed_form(levels):
    book = lloyd_max.lloyd_max(stats.uniform(), levels)
    np.testing.assert_allclose(book.points, (np.arange(levels) + 0.5) / levels, atol=1e-12)
    assert book.distortion == pytest.approx(1 / (12 * levels**2), rel=1e-10)
    assert 1 - lloyd_max.contraction(stats.uniform(), book.points) == \
        pytest.approx(np.sin(np.pi / (2 * levels))**2, rel=1e-9)


@pytest.mark.parametrize("levels", [2, 4, 16, 64])
def test_exponential_source_by_the_backward_recursion(levels):
    """The last point lies 1 above its threshold, and each point as far below the next threshold as above it."""
    below, widths = 1.0, []
    for _ in range(levels - 1):
        w = optimize.brentq(lambda w: w - 1 + w / np.expm1(w) - below, 1e-6, 3.0, xtol=1e-15)
        widths.append(w)
        below = w - below
    t = np.cumsum(widths[::-1])
    book = lloyd_max.lloyd_max(stats.expon(), levels)
    np.testing.assert_allclose(book.thresholds, t, atol=1e-10)
    half = lloyd_max.lloyd_max(stats.laplace(), 2 * levels)
    np.testing.assert_allclose(half.thresholds[levels:], t, atol=1e-10)


@pytest.mark.parametrize("source", [stats.norm(), stats.gumbel_r(), stats.logistic()])
@pytest.mark.parametrize("levels", [3, 6])
def test_lloyd_contracts_at_the_predicted_rate(source, levels):
    book = lloyd_max.lloyd_max(source, levels)
    c = book.points + 1e-4 * np.linspace(1, 2, levels)
    errors = []
    for _ in range(60):
        c = lloyd_max.lloyd_step(source, c)
        errors.append(np.linalg.norm(c - book.points))
    assert errors[-1] / errors[-2] == pytest.approx(lloyd_max.contraction(source, book.points), rel=1e-3)


@pytest.mark.parametrize("levels", [2, 3, 5])
def test_one_codebook_for_log_concave_densities(levels):
    generator = np.random.default_rng(0)
    for source in (stats.norm(), stats.gumbel_r(), stats.expon()):
        best = lloyd_max.lloyd_max(source, levels)
        for _ in range(10):
            start = np.sort(source.ppf(generator.uniform(0.01, 0.99, levels)))
            np.testing.assert_allclose(lloyd_max.lloyd_max(source, levels, start).points, best.points, atol=1e-8)


def test_several_codebooks_for_three_humps():
    humps = density.from_pdf(lambda x: sum(stats.norm.pdf(x, m, 0.3) for m in (-2, 0, 2)) / 3, LINE, (-2, 2))
    books = [lloyd_max.lloyd_max(humps, 2, s) for s in ([-2.0, 1.0], [-1.0, 2.0], [-1.0, 1.0])]
    np.testing.assert_allclose(books[0].points, -books[1].points[::-1], atol=1e-9)
    assert books[0].distortion < books[2].distortion - 0.01
    assert lloyd_max.contraction(humps, books[0].points) < 1 < lloyd_max.contraction(humps, books[2].points)


@pytest.mark.parametrize("name", ["norm", "gumbel", "beta"])
def test_wasserstein_projection(name):
    """No law with three atoms is closer, and searching points and weights finds the codebook."""
    source = SMOOTH[name]
    book = lloyd_max.lloyd_max(source, 3)
    p = np.diff(source.cdf(np.concatenate(([-np.inf], book.thresholds, [np.inf]))))
    assert wasserstein.squared(source, book.points, p) == pytest.approx(book.distortion, rel=1e-9)
    generator = np.random.default_rng(0)
    for _ in range(50):
        c = book.points + 0.1 * source.std() * generator.standard_normal(3)
        w = np.clip(p + 0.05 * generator.standard_normal(3), 0, None)
        assert wasserstein.squared(source, np.sort(c), w / w.sum()) >= book.distortion


def test_linear_program_agrees_with_quantiles():
    """A discretized Gaussian: the program's coupling is the increasing one."""
    u = (np.arange(400) + 0.5) / 400
    x, c, w = stats.norm.ppf(u), np.array([-1.0, 0.2, 1.5]), np.array([0.3, 0.45, 0.25])
    value, plan = wasserstein.transport((x[:, None] - c)**2, np.full(400, 1 / 400), w)
    assert value == pytest.approx(wasserstein.squared(stats.norm(), c, w), abs=5e-3)
    free, _ = wasserstein.transport((x[:, None] - c)**2, np.full(400, 1 / 400))
    assert free == pytest.approx(np.mean(np.min((x[:, None] - c)**2, 1)), abs=1e-12) and free < value
    assert wasserstein.transport((x[:, None] - x)**2)[0] == 0


@pytest.mark.parametrize("name", SMOOTH)
def test_cells_against_the_distribution_function(name):
    source = SMOOTH[name]
    t = np.concatenate(([source.support()[0]], source.ppf(np.arange(1, 10) / 10), [source.support()[1]]))
    mass, centroid, spread = density.cells(source, t)
    np.testing.assert_allclose(mass, 0.1, atol=1e-12)
    assert mass @ centroid == pytest.approx(source.mean(), abs=1e-11)
    assert spread.sum() + mass @ (centroid - source.mean())**2 == pytest.approx(source.var(), rel=1e-11)


@pytest.mark.parametrize("place", [1e-12, 1e-9, 1e-6, 1e-3, 0.3])
def test_a_kink_or_a_jump_may_lie_anywhere(place):
    """Laplace cells that end close to the kink; a histogram density whose jump is close to a threshold."""
    mass, centroid, _ = density.cells(stats.laplace(), [-1.0, place, 2.0])
    np.testing.assert_allclose(mass, np.diff(stats.laplace.cdf([-1.0, place, 2.0])), rtol=1e-12)
    exact = (-1 + 2 * np.exp(-1) + 1 - (1 + place) * np.exp(-place)) / 2
    assert mass[0] * centroid[0] == pytest.approx(exact, abs=1e-13)
    steps = density.from_pdf(lambda x: np.where(x < 1 / 3, 2.0, 0.5), (0, 1))
    t = [0.0, 1 / 3 + place, 1.0]
    np.testing.assert_allclose(density.cells(steps, t)[0], np.diff(steps.cdf(t)), atol=1e-11)
    assert steps.cdf(1 / 3) == pytest.approx(2 / 3, abs=1e-11)


@pytest.mark.parametrize("name", ["logistic", "gumbel", "expon", "beta"])
def test_density_from_its_formula(name):
    source = SMOOTH[name]
    made = density.from_pdf(source.pdf, source.support())
    density.check(made)
    u = np.array([1e-6, 0.01, 0.3, 0.5, 0.9, 0.999])
    np.testing.assert_allclose(made.ppf(u), source.ppf(u), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(made.cdf(source.ppf(u)), u, atol=1e-12)
    assert (made.mean(), made.std()) == pytest.approx((source.mean(), source.std()), rel=1e-10)
    assert made.pdf(source.support()[0] - 1) == 0 or np.isinf(source.support()[0])
    np.testing.assert_allclose(lloyd_max.lloyd_max(made, 5).points, lloyd_max.lloyd_max(source, 5).points, atol=1e-9)


class Broken(Bare):
    def __init__(self, pdf=Bare.pdf, cdf=stats.norm.cdf):
        self.pdf, self.cdf = pdf, cdf


@pytest.mark.parametrize("call, name", [
    (lambda: density.check(Broken(pdf=lambda x: 2 * Bare.pdf(x))), "integral is 1 \\+ 1"),
    (lambda: density.check(Broken(cdf=stats.logistic.cdf)), "cdf .* differ by"),
    (lambda: density.check(Broken(pdf=lambda x: np.sin(x))), "at least 0"),
    (lambda: density.check(stats.poisson(3)), "pdf"),
    (lambda: density.check(3.0), "pdf"),
    (lambda: density.from_pdf(lambda x: np.exp(-x), (0, 1)), "integrate to 1"),
    (lambda: density.from_pdf(lambda x: np.exp(-x), (1, 0)), "support"),
    (lambda: density.from_pdf(lambda x: np.exp(-x), (0, np.inf), (-1,)), "points"),
    (lambda: density.from_pdf("exp", (0, 1)), "pdf"),
    (lambda: density.from_pdf(lambda x: 1 + 0 * x, (0, 1)).ppf(1.5), "u must"),
    (lambda: density.from_pdf(lambda x: 1 + 0 * x, (0, 1)).moment(3), "order"),
    (lambda: density.quantiles(stats.norm(), [0.0]), "u must"),
    (lambda: density.cells(stats.norm(), [1.0, 0.0]), "t must"),
    (lambda: lloyd_max.lloyd_max(stats.norm(), 0), "levels"),
    (lambda: lloyd_max.lloyd_max(stats.norm(), 2.5), "levels"),
    (lambda: lloyd_max.lloyd_max(stats.norm(), True), "levels"),
    (lambda: lloyd_max.lloyd_max(Broken(pdf=lambda x: 2 * Bare.pdf(x)), 4), "integrate to 1"),
    (lambda: lloyd_max.lloyd_max(stats.cauchy(), 4), "variance"),
    (lambda: lloyd_max.lloyd_max(stats.norm(), 2, [1.0, 0.0]), "increasing"),
    (lambda: lloyd_max.lloyd_max(stats.norm(), 3, [0.0, 1.0]), "3 finite"),
    (lambda: lloyd_max.lloyd_max(stats.uniform(), 2, [3.0, 4.0]), "support"),
    (lambda: lloyd_max.lloyd_max(stats.t(2.5), 256), "did not converge .* by up to"),
    (lambda: lloyd_max.lloyd_step(stats.norm(), [0.0, np.nan]), "finite"),
    (lambda: wasserstein.squared(stats.norm(), [1.0, 0.0], [0.5, 0.5]), "points"),
    (lambda: wasserstein.squared(stats.norm(), [0.0, 1.0], [0.5, 0.6]), "weights"),
    (lambda: wasserstein.transport([[np.nan]]), "cost"),
    (lambda: wasserstein.transport([[1.0, 2.0]], [1.0], [0.5, 0.6]), "target"),
])
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()
