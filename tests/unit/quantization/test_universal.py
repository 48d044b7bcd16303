"""The price of universality: the published constant, its bound over spectra, and the exactness of the weighted search."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lecturelib.quantization import rate_theory, trellis, trellis_codes, universal

BEST, PRICE = universal.best_variance()


def test_published_constant():
    """Harbuzova, Ordentlich and Polyanskiy print 0.11 bit."""
    assert round(PRICE, 2) == 0.11 and round(PRICE, 6) == 0.108326


@pytest.mark.parametrize("variance", [0.2, 0.5, BEST, 0.7, 1.0, 2.0])
def test_price_is_the_maximum(variance):
    u = np.logspace(-5, 8, 200_001)
    excess = (universal.random_code(u, variance) - universal.adapted(u)) / math.log(2)
    assert universal.price(variance) == pytest.approx(excess.max(), abs=2e-6)


@given(spread=st.floats(0, 6), fall=st.floats(0.01, 9), seed=st.integers(0, 1000))
def test_no_spectrum_loses_more(spread, fall, seed):
    lam = np.exp(np.random.default_rng(seed).normal(size=12) * spread)
    D = lam.mean() * math.exp(-fall)
    lost = universal.random_code_rate(lam, D, BEST) - rate_theory.water_filling(lam, distortion=D).rate
    assert -1e-6 <= lost <= PRICE + 1e-6


def test_equal_eigenvalues_meet_the_bound_where_nothing_need_be_sent():
    assert universal.random_code_rate(np.ones(3), 1.0, BEST) == pytest.approx(PRICE, abs=1e-8)


@pytest.mark.parametrize("D", [0.4, 0.6, 0.9])
def test_rate_is_the_exponent_of_a_hit(D):
    """For equal eigenvalues and |w|^2 = n the loss of a random word is a noncentral chi-square variable."""
    over = [-math.log2(stats.ncx2.cdf(n * D / BEST, n, n / BEST)) / n - universal.random_code_rate([1.0], D, BEST) for n in (100, 400)]
    assert 0 < over[1] < 0.4 * over[0] and over[1] < math.log2(400) / 400


def test_high_rate_meets_the_bound():
    lam, D = np.array([1.0, 2.0, 5.0]), 1e-9
    lost = universal.random_code_rate(lam, D, BEST) - rate_theory.water_filling(lam, distortion=D).rate
    assert lost == pytest.approx(PRICE, abs=1e-6)


@given(seed=st.integers(0, 1000))
def test_search_is_exact(seed):
    g = torch.Generator().manual_seed(seed)
    code = trellis_codes.random_code(5, 1, g)
    x, w = torch.randn(1, 5, generator=g), torch.rand(5, generator=g)
    paths = (torch.arange(1 << 9)[:, None] >> torch.arange(8, -1, -1) & 1).to(torch.uint8)
    least = (w * (x - trellis.decode(paths, code)).square()).sum(1).min()
    found = (w * (x - trellis.decode(universal.search(x, w, code), code)).square()).sum()
    assert float(found) == pytest.approx(float(least), rel=1e-5, abs=1e-7)


def test_equal_weights_are_the_plain_search():
    g = torch.Generator().manual_seed(0)
    code, x = trellis_codes.sum_code(8, 2), torch.randn(4, 64, generator=g)
    a, b = universal.search(x, torch.full((64,), 3.0), code), trellis.viterbi(x, code)
    assert torch.allclose((x - trellis.decode(a, code)).square().sum(1), (x - trellis.decode(b, code)).square().sum(1), rtol=1e-5)


@pytest.mark.parametrize("call, name", [
    (lambda: universal.price(0.0), "variance"), (lambda: universal.price(math.nan), "variance"),
    (lambda: universal.random_code_rate([1.0, -1.0], 0.5, 1.0), "weights"), (lambda: universal.random_code_rate([0.0], 0.5, 1.0), "weights"),
    (lambda: universal.random_code_rate([1.0], 0.0, 1.0), "distortion"), (lambda: universal.random_code_rate([1.0], 0.5, -1.0), "variance"),
    (lambda: universal.search(torch.randn(2, 8), torch.ones(7), trellis_codes.sum_code(8, 2)), "weights"),
    (lambda: universal.search(torch.randn(2, 8), torch.full((8,), math.nan), trellis_codes.sum_code(8, 2)), "weights"),
    (lambda: universal.search(torch.full((2, 8), math.nan), torch.ones(8), trellis_codes.sum_code(8, 2)), "x"),
])
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=name):
        call()
