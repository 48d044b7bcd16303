"""The limit of a linear layer: water-filling two ways, and the gaps of rounding against simulation."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lecturelib.quantization import gptq, layer_theory, rate_theory
from lecturelib.quantization.entropy import QUARTER_BIT


def gauss(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def autoregressive(n, rho):
    k = torch.arange(n, dtype=torch.float64)
    return rho**(k[:, None] - k).abs()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 7), st.floats(0.0, 6.0), st.integers(0, 10**6))
def test_water_filling_over_rows_and_eigenvalues(n, m, rate, seed):
    rng = np.random.default_rng(seed)
    lam, var = np.sort(np.exp(3 * rng.standard_normal(n))), np.exp(rng.standard_normal(m))
    want = rate_theory.water_filling(np.outer(var, lam).ravel(), rate=rate).distortion
    got = layer_theory.limit_of_spectrum(torch.tensor(lam), rate, torch.tensor(var))
    assert abs(float(got) / want - 1) < 1e-9
    if rate > 0.01:
        assert abs(float(layer_theory.needed_of_spectrum(torch.tensor(lam), got, torch.tensor(var))) - rate) < 1e-8


def test_batches_rows_and_zero_eigenvalues():
    lam = torch.tensor([[0.0, 1.0, 4.0], [1.0, 1.0, 1.0]])
    D = layer_theory.limit_of_spectrum(lam, torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0]))
    assert abs(float(D[1]) - 3 / 16) < 1e-9
    assert abs(float(D[0]) - rate_theory.water_filling([8.0, 2.0, 1e-300], rate=1.0).distortion) < 1e-9
    assert float(layer_theory.needed_of_spectrum(lam, torch.tensor([1e9, 1e9])).max()) == 0


def test_high_rate_is_the_determinant():
    sigma = autoregressive(12, 0.8)
    D = float(layer_theory.limit(sigma, 4.0, 2.5))
    assert abs(D / (2.5 * float(torch.det(sigma))**(1 / 12) / 4**4) - 1) < 1e-9


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.95])
def test_gaps_of_an_autoregression(rho):
    sigma = autoregressive(30, rho)
    d = layer_theory.pivots(sigma)
    assert torch.allclose(d, torch.tensor([1 - rho**2] * 29 + [1.0], dtype=d.dtype))
    least = QUARTER_BIT - 29 / 60 * math.log2(1 - rho**2)
    assert abs(float(layer_theory.rtn_gap(sigma)) - least) < 1e-9
    assert abs(float(layer_theory.sic_gap(sigma, d**-0.5)) - QUARTER_BIT) < 1e-12
    assert QUARTER_BIT - 1e-12 <= float(layer_theory.sic_gap(sigma)) <= float(layer_theory.rtn_gap(sigma)) + 1e-12


def test_predicted_gap_of_gptq_is_met():
    sigma, step = autoregressive(32, 0.9), 0.1
    W = gauss(8000, 32)
    z = gptq.integers(W, sigma, step)
    e = W - step * z
    D = float(((e @ sigma) * e).mean())
    H = np.mean([-(p * np.log2(p)).sum() for c in z.T for p in [np.unique(c, return_counts=True)[1] / len(c)]])
    assert abs(float(layer_theory.gap(sigma, H, D)) - float(layer_theory.sic_gap(sigma))) < 0.02


@pytest.mark.parametrize("call, message", [
    (lambda: layer_theory.limit(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), 1.0), "positive semidefinite"),
    (lambda: layer_theory.limit(torch.eye(2), -1.0), "rate"), (lambda: layer_theory.limit(torch.eye(2), 1.0, -1.0), "variance"),
    (lambda: layer_theory.needed(torch.eye(2), 0.0), "distortion"), (lambda: layer_theory.pivots(torch.ones(2, 2)), "singular"),
    (lambda: layer_theory.limit_of_spectrum(torch.tensor([2.0, 1.0]), 1.0), "ascending"),
    (lambda: layer_theory.limit_of_spectrum(torch.tensor([-1.0, 1.0]), 1.0), "not negative"),
    (lambda: layer_theory.limit_of_spectrum(torch.tensor([math.nan, 1.0]), 1.0), "finite"),
    (lambda: layer_theory.gap(torch.eye(2), math.nan, 0.5), "bits"), (lambda: layer_theory.sic_gap(torch.eye(2), math.nan), "step"),
    (lambda: layer_theory.rtn_gap(torch.eye(2), torch.tensor([1.0, 0.0])), "step")])
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_rates_and_variances_of_another_shape_are_named():
    S = torch.eye(3).expand(2, 3, 3)
    for arguments, name in (((torch.ones(4),), "rate"), ((1.0, torch.ones(4)), "variance")):
        with pytest.raises(ValueError, match=f"{name} must be a number"):
            layer_theory.limit(S, *arguments)
