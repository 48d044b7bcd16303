"""The limit at two rates by independent routes, the steps of the proof, measured products."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from lecturelib.quantization import codebooks, matrix_products, products
from lecturelib.quantization.lloyd_max import lloyd_max
from scipy.stats import norm

RATES = st.floats(0.01, 6.0)


@settings(max_examples=60, deadline=None)
@given(RATES, RATES)
def test_limit_is_the_best_fraction(a, b):
    def error(k):
        return 1 - k * matrix_products.gain(a / k) * matrix_products.gain(b / k)
    grid = np.linspace(1e-3, 1, 4000)
    assert matrix_products.limit(a, b) == pytest.approx(error(grid).min(), abs=2e-6)
    assert matrix_products.limit(a, b) == pytest.approx(error(matrix_products.fraction(a, b)), abs=1e-12)
    assert matrix_products.limit(a, b) == pytest.approx(matrix_products.limit(b, a), abs=1e-14)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 8.0))
def test_equal_rates_and_one_side(r):
    assert matrix_products.limit(r, r) == pytest.approx(float(products.gaussian_limit(r)), abs=1e-12)
    assert matrix_products.limit(r, math.inf) == pytest.approx(4.0**-r, abs=1e-12)
    assert matrix_products.fraction(r, r) == pytest.approx(min(1, r / products.CRITICAL_RATE), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(RATES, RATES, RATES, RATES, st.floats(0, 1))
def test_limit_is_convex(a, b, c, d, w):
    mixed = matrix_products.limit(w * a + (1 - w) * c, w * b + (1 - w) * d)
    assert mixed <= w * matrix_products.limit(a, b) + (1 - w) * matrix_products.limit(c, d) + 1e-12


@pytest.mark.parametrize("a, b", [(0.3, 0.3), (1.0, 0.4), (2.0, 0.1), (0.2, 1.5), (1.5, 2.0)])
def test_limit_is_the_concave_envelope_by_duality(a, b):
    """min over prices of a l + b m + max over (r, s) of phi(r) phi(s) - l r - m s, on a fine grid."""
    r = np.linspace(0, 7, 500)
    f = np.outer(matrix_products.gain(r), matrix_products.gain(r))

    def dual(log_price):
        l, m = np.exp(log_price)
        return l * a + m * b + (f - l * r[:, None] - m * r).max()
    best = min(optimize.minimize(dual, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).fun
               for start in ((-1.0, -1.0), (-2.0, -0.5), (-0.5, -2.0)))
    assert 1 - best == pytest.approx(matrix_products.limit(a, b), abs=3e-4)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(0.05, 4), st.floats(0.05, 4))
def test_no_allocation_is_better(n, seed, a, b):
    rng = np.random.default_rng(seed)
    r, s = (rng.dirichlet(np.full(n, 0.5)) * n * rate for rate in (a, b))
    assert matrix_products.gain(r) @ matrix_products.gain(s) <= n * (1 - matrix_products.limit(a, b)) + 1e-9


@pytest.mark.parametrize("rate", [0.6, 1.5])
def test_gradient_ascent_ends_at_the_limit_or_below(rate):
    rng = np.random.default_rng(1)
    values = []
    for _ in range(12):
        r, s = matrix_products.allocate(rate, rate, rng.exponential(rate, 30), rng.exponential(rate, 30))
        assert r.sum() <= 30 * rate + 1e-9 and s.sum() <= 30 * rate + 1e-9 and r.min() >= 0
        kept = int((r > 1e-6).sum())
        assert np.allclose(r[r > 1e-6], 30 * rate / kept, atol=1e-4) and np.allclose(r, s, atol=1e-4)
        values.append(matrix_products.gain(r) @ matrix_products.gain(s) / 30)
        assert values[-1] == pytest.approx(kept / 30 * matrix_products.gain(30 * rate / kept)**2, abs=1e-6)
    assert max(values) <= 1 - matrix_products.limit(rate, rate) + 1e-9


@pytest.mark.parametrize("rate", [10.0, 25.0, 40.0])
def test_high_rates_do_not_cancel(rate):
    assert products.gaussian_limit(rate) == pytest.approx(2 * 4.0**-rate, rel=2 * 4.0**-rate + 1e-12)
    assert matrix_products.limit(rate, rate) == pytest.approx(2 * 4.0**-rate, rel=2 * 4.0**-rate + 1e-12)


def test_rates_of_a_matrix():
    M = np.array([[0.5, 0.25], [0.25, 0.5]])
    assert matrix_products.rates(M).sum() == pytest.approx(-0.5 * math.log2(np.linalg.det(np.eye(2) - M)))
    for bad in (np.eye(2), np.array([[0.1, 0.5], [0.0, 0.1]]), -0.1 * np.eye(2), np.ones(3)):
        with pytest.raises(ValueError, match="M must"):
            matrix_products.rates(bad)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_measured_lloyd_max_product_is_the_prediction(bits):
    book = lloyd_max(norm(), 2**bits)
    points = torch.tensor(book.points, dtype=torch.float32)
    m = matrix_products.measure(lambda x: (codebooks.quantize(x, points), bits), torch.Generator().manual_seed(bits),
                                n=256, columns=48, pairs=16)
    D = book.distortion
    assert abs(m.error - (2 * D - D * D)) < 4.5 * m.spread and m.rate == bits
    assert m.distortion == pytest.approx(D, rel=0.02)
    assert m.ratio == pytest.approx(m.error / float(products.gaussian_limit(bits)))


def test_measured_with_rows_dropped():
    sign = 2 / math.pi
    m = matrix_products.measure(lambda x: (x.sign() * sign**0.5, 1.0), torch.Generator().manual_seed(0),
                                n=256, columns=32, pairs=32, keep=0.5)
    assert m.rate == 0.5 and abs(m.error - (1 - 0.5 * sign**2)) < 4.5 * m.spread
    assert m.distortion == pytest.approx(1 - sign / 2, rel=0.01)


def test_bad_input():
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="rate_a"):
            matrix_products.limit(bad, 1.0)
        with pytest.raises(ValueError, match="rate_b"):
            matrix_products.fraction(1.0, bad)
    with pytest.raises(ValueError, match="start_a"):
        matrix_products.allocate(1, 1, [1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="start_a"):
        matrix_products.allocate(1, 1, [], [])
    with pytest.raises(ValueError, match="M must"):
        matrix_products.rates(np.empty((0, 0)))
    for options in ({"keep": 0.0}, {"keep": math.nan}, {"keep": 1.5}, {"columns": 1}):
        with pytest.raises(ValueError, match="keep"):
            matrix_products.measure(lambda x: (x, 1), torch.Generator(), **options)
    for x_hat, bits in ((math.nan, 1.0), (0.0, math.nan), (0.0, 0.0)):
        with pytest.raises(ValueError, match="quantize must return finite"):
            matrix_products.measure(lambda x: (x * 0 + x_hat, bits), torch.Generator(), n=8, columns=2)
    with pytest.raises(ValueError, match="floating-point"):
        products.measured_error(torch.ones(2, 2, dtype=torch.int64), torch.ones(3, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="shape"):
        matrix_products.measure(lambda x: (x[:1], 1), torch.Generator(), n=8, columns=2)
