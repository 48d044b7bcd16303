"""Random fields, Burgers' equation and Darcy flow: two routes agree, rates, conservation, refusals."""
import math

import pytest
import sympy as sp
import torch
from hypothesis import given, settings, strategies as st
from lecturelib.pde import discretize, evolution, operators, spectral

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def field(n, count=3, seed=0, modes=12):
    basis = spectral.Fourier(modes)
    return spectral.values(basis, evolution.gaussian_field(basis, count, 5.0, 2.0, gen(seed)), n)


# -------------------------------------------------------------------------------------- fields
@pytest.mark.parametrize("basis", [spectral.Fourier(6), spectral.Cosine(3, 2)], ids=repr)
def test_variances_of_the_field(basis):
    count = 40_000
    c = evolution.gaussian_field(basis, count, 3.0, 2.0, gen())
    mu = basis.eigenvalues()
    expected = torch.where(mu > 0, (1 + mu / 9) ** -2.0, 0.0)
    assert ((c.square().mean(0) - expected).abs() <= 5 * math.sqrt(2 / count) * expected).all()
    assert (c.mean(0).abs() <= 5 * (expected / count).sqrt()).all()


def test_deviation_is_the_root_mean_square():
    basis = spectral.Cosine(5, 2)
    c = evolution.gaussian_field(basis, 20_000, 3.0, 2.0, gen(), deviation=0.5)
    assert float(c.square().sum(1).mean().sqrt()) == pytest.approx(0.5, rel=0.02)


# ------------------------------------------------------------------------------------- Burgers
def test_burgers_against_a_solution_derived_by_sympy():
    x, t, nu = sp.symbols("x t nu", positive=True)
    phi = 2 + sp.exp(-nu * (2 * sp.pi) ** 2 * t) * sp.cos(2 * sp.pi * x)
    u = -2 * nu * sp.diff(phi, x) / phi
    assert sp.simplify(sp.diff(u, t) + u * sp.diff(u, x) - nu * sp.diff(u, x, 2)) == 0
    exact = sp.lambdify((x, t, nu), u, "numpy")
    grid = torch.arange(128, dtype=F64) / 128
    start, end = (torch.as_tensor(exact(grid.numpy(), T, 0.05)) for T in (0.0, 0.3))
    assert torch.allclose(evolution.burgers(start, 0.05, 0.3), end, atol=1e-13)


@pytest.mark.parametrize("nu", [0.1, 0.02])
def test_cole_hopf_agrees_with_time_stepping(nu):
    a = field(256)
    exact = evolution.burgers(a, nu, 0.5)
    assert (evolution.burgers_stepping(a, nu, 0.5, 100) - exact).abs().max() < 1e-5


def test_time_stepping_has_order_four():
    a = torch.sin(2 * math.pi * torch.arange(64, dtype=F64) / 64)
    exact = evolution.burgers(a, 0.05, 0.3)
    errors = [float((evolution.burgers_stepping(a, 0.05, 0.3, m) - exact).abs().max()) for m in (40, 80)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.25)


@given(st.floats(-2, 2), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_galilean_invariance_and_conservation(mean, seed):
    n, T = 64, 0.25
    a = field(n, 2, seed)
    shift = mean * T * n
    u = evolution.burgers(a + mean, 0.05, T)
    k = torch.arange(n // 2 + 1, dtype=F64)
    moved = torch.fft.irfft(torch.fft.rfft(evolution.burgers(a, 0.05, T))
                            * torch.exp(-2j * math.pi * k * shift / n), n=n) + mean
    assert torch.allclose(u, moved, atol=1e-5)
    assert torch.allclose(u.mean(1), a.mean(1) + mean, atol=1e-9)
    assert (u.square().mean(1) <= (a + mean).square().mean(1) + 1e-9).all()


def test_semigroup():
    a = field(256)
    assert torch.allclose(evolution.burgers(evolution.burgers(a, 0.05, 0.2), 0.05, 0.3),
                          evolution.burgers(a, 0.05, 0.5), atol=1e-11)


# --------------------------------------------------------------------------------------- Darcy
def medium(n, count=3, seed=0, deviation=0.5):
    basis = spectral.Cosine(6, 2)
    g = evolution.gaussian_field(basis, count, 3.0, 2.0, gen(seed), deviation)
    return torch.exp(spectral.values(basis, g, n)).reshape(count, n, n)


def test_unit_coefficient_is_the_neumann_laplacian():
    u = torch.randn(2, 6, 6, dtype=F64, generator=gen())
    assert torch.allclose(evolution.Darcy(torch.ones(2, 6, 6, dtype=F64)).apply(u),
                          discretize.neumann_laplacian(u, 2))


@given(st.integers(2, 7), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_operator_is_symmetric_and_kills_constants(n, seed):
    flow = evolution.Darcy(medium(n, 1, seed))
    A = torch.stack([flow.apply(e.reshape(1, n, n)).flatten() for e in torch.eye(n * n, dtype=F64)])
    assert torch.allclose(A, A.T) and torch.allclose(A.sum(1), torch.zeros(n * n, dtype=F64), atol=1e-9)
    assert (torch.linalg.eigvalsh(A)[1:] > 0).all()


def test_conjugate_gradients_agree_with_a_dense_solve():
    n = 8
    flow, f = evolution.Darcy(medium(n)), torch.randn(n, n, dtype=F64, generator=gen(1))
    f -= f.mean()
    u = flow.solve(f, 1e-12)
    identity = torch.eye(n * n, dtype=F64).reshape(-1, n, n)
    for i in range(3):
        A = evolution.Darcy(flow.a[i].expand(n * n, n, n)).apply(identity).flatten(1)
        x = torch.linalg.lstsq(A, f.reshape(-1, 1), driver="gelsd").solution.reshape(n, n)
        assert torch.allclose(u[i], x, atol=1e-10)
    alone = evolution.Darcy(flow.a[1:2]).solve(f, 1e-12)
    assert torch.allclose(u[1], alone[0], atol=1e-11)


def test_second_order_against_a_solution_derived_by_sympy():
    x, y = sp.symbols("x y")
    u, a = sp.cos(sp.pi * x) * sp.cos(2 * sp.pi * y), sp.exp(x * y)
    f = -sum(sp.diff(a * sp.diff(u, s), s) for s in (x, y))
    functions = [sp.lambdify((x, y), g, "numpy") for g in (a, f, u)]
    errors = []
    for n in (16, 32):
        points = discretize.centers(n, 2).numpy()
        a_n, f_n, u_n = (torch.as_tensor(g(*points.T)).reshape(n, n) for g in functions)
        found = evolution.Darcy(a_n[None]).solve(f_n - f_n.mean(), 1e-10)[0]
        errors.append(float((found - u_n + u_n.mean()).norm()) / n)
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("n", [4, 8, 12])
def test_preconditioned_condition_number_is_the_contrast_at_most(n):
    flow = evolution.Darcy(medium(n, 1, 3, 1.0))
    identity = torch.eye(n * n, dtype=F64).reshape(-1, n, n)
    many = evolution.Darcy(flow.a.expand(n * n, n, n))
    A, P = many.apply(identity).flatten(1), many.precondition(identity).flatten(1)
    spectrum = torch.linalg.eigvals(P @ A).real.sort().values[1:]
    faces = torch.cat([a.flatten() for a in flow.faces])
    assert spectrum[-1] / spectrum[0] <= faces.max() / faces.min() * (1 + 1e-9)
    assert faces.min() - 1e-9 <= spectrum[0] and spectrum[-1] <= faces.max() + 1e-9


def test_start_at_the_solution_costs_no_iteration():
    flow = evolution.Darcy(medium(8))
    f = torch.randn(3, 8, 8, dtype=F64, generator=gen(2))
    f -= f.mean((1, 2), keepdim=True)
    seen = []
    u = flow.solve(f, 1e-9)
    flow.solve(f, 1e-8, start=u, watch=lambda j, u: seen.append(j))
    assert seen == [0]


ONE, ROW = torch.ones(1, 4, 4, dtype=F64), torch.linspace(-1, 1, 4, dtype=F64)


@pytest.mark.parametrize("call, names", [
    (lambda: evolution.gaussian_field(spectral.Fourier(2), 0, 1.0, 2.0, gen()), "count"),
    (lambda: evolution.gaussian_field(spectral.Fourier(2), 1, -1.0, 2.0, gen()), "tau"),
    (lambda: evolution.burgers(field(32), -0.1, 1.0), "viscosity"),
    (lambda: evolution.burgers(field(32), 1e-4, 1.0), "too small"),
    (lambda: evolution.burgers(field(32) * math.nan, 0.1, 1.0), "a must be finite"),
    (lambda: evolution.burgers_stepping(100 * field(128), 0.001, 10.0, 3), "more steps"),
    (lambda: evolution.Darcy(-ONE), "positive"),
    (lambda: evolution.Darcy(ONE[:, :, :3]), "positive, of shape"),
    (lambda: evolution.Darcy(ONE).solve(ONE[0]), "mean zero"),
    (lambda: evolution.Darcy(ONE).solve(ONE[0, :3]), "f must end in"),
    (lambda: evolution.Darcy(ONE).solve(0 * ONE[0], tolerance=math.nan), "tolerance"),
    (lambda: evolution.Darcy(ONE).solve(0 * ONE[0], start=ONE * math.nan), "start must be finite"),
    (lambda: evolution.Darcy(ONE).solve(0 * ONE[0], start=ONE[:, :3]), "start must have shape"),
    (lambda: evolution.Darcy(medium(8)).solve(medium(8)[0] - medium(8)[0].mean(), iterations=2), "no convergence in 2"),
])
def test_refusals_name_the_argument(call, names):
    with pytest.raises(ValueError, match=names):
        call()


def test_data_are_what_operators_take():
    a = field(32)
    assert operators.relative_errors(evolution.burgers(a, 0.1, 0.1), a).shape == (3,)
