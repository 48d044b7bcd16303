"""Principal components, least squares and kernels: optimality, exactness, leave-one-out."""
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from lecturelib.pde import regression

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


@given(st.integers(2, 12), st.integers(1, 8), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_no_affine_space_beats_principal_components(count, N, seed):
    u = randn(count, N, seed=seed)
    pca = regression.PCA.fit(u)
    for rank in range(min(count, N) + 1):
        error = float((pca.decode(pca.encode(u, rank)) - u).square().mean())
        assert error == pytest.approx(pca.tail(rank), abs=1e-12)
        V, _ = torch.linalg.qr(randn(N, max(rank, 1), seed=seed + 1))
        shifted = u - randn(N, seed=seed + 2) / 10
        rest = shifted - shifted @ V[:, :rank] @ V[:, :rank].T
        assert float(rest.square().mean()) >= pca.tail(rank) - 1e-12


def test_modes_are_orthonormal_and_tails_add_up():
    u = randn(20, 6)
    pca = regression.PCA.fit(u)
    assert torch.allclose(pca.modes.T @ pca.modes / 6, torch.eye(6, dtype=F64), atol=1e-12)
    assert pca.tail(0) == pytest.approx(float((u - u.mean(0)).square().mean()))
    assert pca.tail(6) < 1e-28


def test_linear_map_is_exact_on_affine_data_and_of_least_norm():
    x, W = randn(30, 4), randn(4, 3, seed=1)
    fit = regression.LinearMap.fit(x, x @ W + 2)
    assert torch.allclose(fit(x), x @ W + 2, atol=1e-12)
    few = regression.LinearMap.fit(x[:3], x[:3] @ W)
    assert torch.allclose(few(x[:3]), x[:3] @ W, atol=1e-12)
    centered = x[:3] - x[:3].mean(0)
    null = torch.eye(4, dtype=F64) - torch.linalg.pinv(centered) @ centered
    assert (null @ few.W).abs().max() < 1e-12


def test_kernel_interpolates_and_converges():
    f = lambda x: torch.sin(3 * x[:, :1]) * torch.exp(x[:, 1:])
    test = torch.rand(200, 2, dtype=F64, generator=torch.Generator().manual_seed(9))
    errors = []
    for n in (50, 800):
        x = torch.rand(n, 2, dtype=F64, generator=torch.Generator().manual_seed(n))
        k = regression.Kernel.fit(x, f(x))
        assert (k(x) - f(x)).abs().max() < 1e-4
        errors.append(float((k(test) - f(test)).square().mean().sqrt()))
    assert errors[1] < errors[0] / 16                       # order 5/2 in two dimensions: 16^(5/4)


def test_leave_one_out_is_what_leaving_one_out_gives():
    x = randn(12, 2)
    y = torch.sin(x[:, :1])
    k = regression.Kernel.fit(x, y, lengths=(2.0,))
    misses = []
    for i in range(12):
        keep = torch.arange(12) != i
        K = regression.matern(torch.cdist(x[keep], x[keep]) / k.length)
        weights = torch.linalg.solve(K + 1e-10 * torch.eye(11, dtype=F64), y[keep])
        misses.append(regression.matern(torch.cdist(x[i:i + 1], x[keep]) / k.length) @ weights - y[i])
    direct = torch.cat(misses).square().sum() / y.square().sum()
    assert k.leave_one_out == pytest.approx(float(direct.sqrt()), rel=1e-5)


def test_matern_is_positive_definite_and_twice_differentiable_at_zero():
    x = randn(40, 3)
    assert torch.linalg.eigvalsh(regression.matern(torch.cdist(x, x)))[0] > 0
    h = 1e-3
    curvature = (regression.matern(torch.tensor(h, dtype=F64)) - 1) * 2 / h**2
    assert float(curvature) == pytest.approx(-5 / 3, rel=2e-2)


@pytest.mark.parametrize("call, names", [
    (lambda: regression.PCA.fit(randn(1, 3)), "number of samples"),
    (lambda: regression.PCA.fit(randn(3, 3)).tail(-1), "rank"),
    (lambda: regression.LinearMap.fit(randn(3, 2), randn(4, 2)), "same number"),
    (lambda: regression.Kernel.fit(torch.zeros(3, 2, dtype=F64), randn(3, 1)), "coincide"),
    (lambda: regression.Kernel.fit(randn(3, 2) * math.inf, randn(3, 1)), "x must be finite"),
    (lambda: regression.Kernel.fit(randn(3, 2), randn(3, 1), lengths=(0.0,)), "lengths"),
    (lambda: regression.Kernel.fit(randn(3, 2), 0 * randn(3, 1)), "y must not vanish"),
    (lambda: regression.Kernel.fit(randn(3, 2), randn(3, 1))(randn(3, 1)), "x must have 2 columns"),
    (lambda: regression.Kernel.fit(randn(3, 2), randn(3, 1))(randn(3, 2) * math.nan), "x must be finite"),
    (lambda: regression.LinearMap.fit(randn(3, 2), randn(3, 1))(randn(3, 2) * math.nan), "x must be finite"),
    (lambda: regression.PCA.fit(randn(3, 3)).encode(randn(3, 3), -1), "rank"),
    (lambda: regression.PCA.fit(randn(3, 3)).decode(randn(3, 3) * math.nan), "c must be finite"),
    (lambda: regression.Kernel.fit(randn(60, 1) * 1e-3, randn(60, 1), lengths=(1e9,), nugget=1e-30), "no length"),
])
def test_refusals_name_the_argument(call, names):
    with pytest.raises(ValueError, match=names):
        call()
