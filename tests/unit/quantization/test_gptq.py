"""GPTQ: one batch or one layer, three ways to the same integers, and what it refuses."""
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lecturelib.llm import layers
from lecturelib.quantization import gptq


def gauss(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def covariance(n, seed=1, batch=(), dtype=torch.float64):
    x = gauss(*batch, 3 * n, n, seed=seed, dtype=dtype) * torch.linspace(0.2, 2, n, dtype=dtype)
    x = x.cumsum(-1)
    return x.mT @ x / (3 * n)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10**6), st.floats(0.01, 3.0))
def test_three_ways_to_the_same_integers(n, seed, step):
    W, sigma = gauss(17, n, seed=seed), covariance(n, seed + 1)
    z = gptq.integers(W, sigma, step)
    assert torch.equal(z, gptq.textbook(W, sigma, step))
    lam, Q = torch.linalg.eigh(sigma)
    root = Q @ torch.diag(lam.sqrt()) @ Q.T                # any root of sigma: here the symmetric one
    assert torch.equal(z, gptq.nearest_plane(step * root.flip(0), W @ root).flip(1))


@pytest.mark.parametrize("group", [None, 16, 48])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_is_its_layers(group, dtype):
    W, sigma = gauss(3, 20, 48, dtype=dtype), covariance(48, batch=(3,), dtype=dtype)
    W_hat, bits = gptq.quantize(W, sigma, 3, group)
    assert W_hat.shape == W.shape and W_hat.dtype == dtype and bits == 3 + 19 / (group or 48)
    for k in range(3):
        one = gptq.quantize(W[k], sigma[k], 3, group)[0]
        assert torch.allclose(one, W_hat[k], atol=1e-5 if dtype == torch.float32 else 1e-12)


def test_groups_take_the_grid_of_fresh_columns():
    W, sigma = gauss(6, 12), covariance(12)
    N, _ = gptq.factor(sigma, 0.01)
    want = torch.empty_like(W)
    for j in range(12):                                    # the definition, column by column
        y = [W[:, i] + (W - want)[:, :4 * (j // 4)] @ N[:4 * (j // 4), i] for i in range(12)]
        if j % 4 == 0:
            s, low, high = (v[0] for v in gptq._grid(torch.stack(y[j:j + 4]), 2, (1.0, 0.8)))
        here = W[:, j] + (W - want)[:, :j] @ N[:j, j]
        want[:, j] = s * torch.clamp(torch.round(here / s), low, high)
    assert torch.allclose(want, gptq.quantize(W, sigma, 2, 4, shrink=(1.0, 0.8))[0], atol=1e-12)


def test_few_values_in_each_group():
    W_hat, _ = gptq.quantize(gauss(9, 24), covariance(24), 2, 8)
    assert all(len(g.unique()) <= 4 for row in W_hat for g in row.split(8))


def test_without_correlation_it_is_rounding_to_nearest():
    W = gauss(5, 32)
    assert torch.equal(gptq.quantize(W, torch.diag(gauss(32, seed=3).square()), 3, 8, damping=0.0)[0], gptq.rtn(W, 3, 8)[0])


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_feedback_lowers_the_loss_and_search_the_error(bits):
    W, sigma = gauss(200, 64), covariance(64)
    nearest, fed = gptq.rtn(W, bits, 16)[0], gptq.quantize(W, sigma, bits, 16)[0]
    assert float(layers.loss(W, fed, sigma)) < 0.7 * float(layers.loss(W, nearest, sigma))
    searched = gptq.rtn(W, bits, 16, shrink=(1.0, 0.9, 0.8))[0]
    assert float(layers.loss(W, searched)) < float(layers.loss(W, nearest))


def test_order_is_a_permutation_of_the_problem():
    W, sigma = gauss(2, 7, 24), covariance(24, batch=(2,))
    W_hat, bits = gptq.quantize(W, sigma, 3, 8, order=True)
    assert bits == 3 + 19 / 8 + 16 / 7
    p = sigma[0].diagonal().argsort(descending=True)
    assert torch.allclose(W_hat[0][:, p], gptq.quantize(W[0][:, p], sigma[0][p][:, p], 3, 8)[0])


def test_rotation_keeps_the_loss_of_the_rotated_pair():
    W, sigma = gauss(30, 24), covariance(24)
    W_hat, bits = gptq.rotated(W, sigma, functools.partial(gptq.quantize, bits=3, group=8), seed=2)
    turn = gptq.rotations.RandomHadamard(24, 2)
    inside = gptq.quantize(turn.apply(W), turn.apply(turn.apply(sigma).mT.contiguous()), 3, 8)[0]
    assert torch.allclose(turn.apply(W_hat), inside, atol=1e-10)
    assert bits == 3 + 19 / 8 and gptq.rotated(W, None, lambda w, s: gptq.rtn(w, 3, 8))[0].shape == W.shape


def test_factor_reproduces_the_covariance():
    sigma = covariance(20, batch=(2,))
    N, d = gptq.factor(sigma, 0.1)
    mean = sigma.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    assert torch.allclose(N * d.unsqueeze(-2) @ N.mT, sigma + 0.1 * mean * torch.eye(20, dtype=sigma.dtype))
    assert torch.equal(N, N.triu()) and torch.allclose(N.diagonal(dim1=-2, dim2=-1), torch.ones(2, 20, dtype=sigma.dtype))


def test_damping_adds_to_the_diagonal_only():
    sigma = covariance(6, batch=(2,))
    more = gptq.damped(sigma, 0.5) - sigma
    want = 0.5 * sigma.diagonal(dim1=-2, dim2=-1).mean(-1)
    assert torch.allclose(more, want[:, None, None] * torch.eye(6, dtype=sigma.dtype))
    assert torch.allclose(gptq.factor(gptq.damped(sigma, 0.5))[1], gptq.factor(sigma, 0.5)[1], rtol=1e-12)


def test_zero_rows_and_integers_stay():
    W = torch.zeros(3, 8)
    W[1] = torch.arange(8) - 3.0
    assert torch.equal(gptq.rtn(W, 3)[0], W) and torch.equal(gptq.quantize(W, torch.eye(8), 3)[0], W)


W, S = torch.ones(4, 6), torch.eye(6)
BAD = [(lambda: gptq.quantize(W, S, 3, 4), "group must divide the width 6"),
       (lambda: gptq.rtn(W, 3, 0), "group"), (lambda: gptq.rtn(W, 9), "bits"), (lambda: gptq.rtn(W, 2.5), "bits"),
       (lambda: gptq.quantize(W, torch.eye(5), 3), "sigma must have shape"),
       (lambda: gptq.quantize(W, S + torch.tensor([0.0, 0, 0, 0, 0, 1]), 3), "not symmetric"),
       (lambda: gptq.quantize(W, S - 2 * torch.ones(6, 6).tril(-1) - 2 * torch.ones(6, 6).triu(1), 3), "negative eigenvalue"),
       (lambda: gptq.quantize(W, -S, 3), "positive semidefinite"), (lambda: gptq.quantize(W, 0 * S, 3), "not zero"),
       (lambda: gptq.quantize(W, torch.ones(6, 6), 3, damping=0.0), "singular"),
       (lambda: gptq.quantize(W, S * float("nan"), 3), "sigma must be finite"),
       (lambda: gptq.quantize(W * float("inf"), S, 3), "W must be finite"),
       (lambda: gptq.quantize(W, S, 3, damping=-1.0), "damping"), (lambda: gptq.quantize(W.int(), S, 3), "W must be"),
       (lambda: gptq.integers(W, S, 0.0), "step"), (lambda: gptq.integers(W, S, torch.ones(5)), "step"),
       (lambda: gptq.rtn(1e6 * S, 2), "float16"), (lambda: gptq.quantize(1e6 * S, S, 2), "float16")]


@pytest.mark.parametrize("call, message", BAD, ids=range(len(BAD)))
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_singular_covariance_is_damped():
    x = gauss(3, 6)
    assert bool(gptq.quantize(gauss(4, 6), x.T @ x, 3)[0].isfinite().all())


def test_integers_without_a_covariance_take_a_number_as_step():
    W = torch.tensor([[0.4, 1.6], [-2.6, 5.1]])
    assert torch.equal(gptq.integers(W, None, 2.0), torch.round(W / 2)) and torch.equal(gptq.integers(W, None, torch.tensor([2.0, 1.0])), torch.round(W / torch.tensor([2.0, 1.0])))
