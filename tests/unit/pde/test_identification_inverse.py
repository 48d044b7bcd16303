"""The elliptic map, its inverse by Gauss-Newton, regularization and posterior; regression and PINN."""
import math

import pytest
import skfem
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lecturelib.pde import approximation, equation_error, inverse
from lecturelib.pde.domains import Box
from lecturelib.pde.inverse_pinn import InversePinn, Shallow
from skfem.helpers import dot
from skfem.helpers import grad as skgrad

F64 = torch.float64
X, Y = sp.symbols("x y", real=True)


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def problem(u, a, variables):
    u_, minus_laplacian = approximation.manufactured(u, variables)
    a_, _ = approximation.manufactured(a, variables)
    return u_, a_, lambda x: a_(x) * minus_laplacian(x) - (a_.gradient(x) * u_.gradient(x)).sum(1)


def cos(k, v):
    return sp.cos(k * sp.pi * v)


PROBLEMS = {
    ("neumann", 1): problem(cos(1, X) + cos(3, X) / 4, sp.exp(X) / 2, (X,)),
    ("dirichlet", 1): problem(sp.sin(sp.pi * X) * sp.exp(X), 1 + X / 2, (X,)),
    ("neumann", 2): problem(cos(1, X) * cos(2, Y) + cos(1, Y), 1 + cos(1, X) * cos(1, Y) / 3, (X, Y)),
    ("dirichlet", 2): problem(sp.sin(sp.pi * X) * sp.sin(2 * sp.pi * Y), 1 + X * Y, (X, Y)),
}


@pytest.mark.parametrize("boundary, d", PROBLEMS)
def test_the_forward_map_is_of_second_order(boundary, d):
    u, a, f = PROBLEMS[boundary, d]
    errors = []
    for n in (16, 32):
        model = inverse.Elliptic(n, f, d, boundary)
        exact = u(model.nodes)
        if boundary == "neumann":
            exact = exact - model.weights @ exact
        gap = model.solve(a(model.centers)) - exact
        errors.append(float((model.weights @ gap**2).sqrt()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)


def test_agreement_with_scikit_fem():
    n, f = 6, PROBLEMS["dirichlet", 2][2]
    model = inverse.Elliptic(n, f, 2, "dirichlet", order=6)
    a = torch.exp(numbers(0, n * n))
    mesh = skfem.MeshQuad.init_tensor(torch.linspace(0, 1, n + 1, dtype=F64).numpy(),
                                      torch.linspace(0, 1, n + 1, dtype=F64).numpy())
    basis = skfem.Basis(mesh, skfem.ElementQuad1(), intorder=10)

    def cell(x):                                        # the coefficient by position, not by numbering
        i, j = ((t * n).astype(int).clip(0, n - 1) for t in x)
        return a.numpy()[i * n + j]
    A = skfem.BilinearForm(lambda u, v, w: cell(w.x) * dot(skgrad(u), skgrad(v))).assemble(basis)
    b = skfem.LinearForm(lambda v, w: f(torch.tensor(w.x.reshape(2, -1).T)).numpy().reshape(w.x.shape[1:]) * v).assemble(basis)
    reference = skfem.solve(*skfem.condense(A, b, D=basis.get_dofs()))
    where = (mesh.p * n).round().astype(int)
    ours = model.solve(a).numpy()[where[0] * (n + 1) + where[1]]
    assert abs(ours - reference).max() < 1e-8 * abs(reference).max()


@pytest.mark.parametrize("boundary, d", PROBLEMS)
def test_jacobian_gradient_and_adjointness(boundary, d):
    model = inverse.Elliptic(6, PROBLEMS[boundary, d][2], d, boundary)
    a = torch.exp(0.3 * numbers(1, 6**d)).requires_grad_()
    u = model.solve(a)
    v, w = numbers(2, 6**d), numbers(3, len(u))
    reverse = torch.autograd.grad(u @ w, a)[0] @ v
    forward = w @ model.jacobian(a.detach(), u.detach(), v[:, None])[:, 0]
    assert float(reverse) == pytest.approx(float(forward), rel=1e-10)


def test_second_derivatives_of_the_forward_map():
    model = inverse.Elliptic(3, PROBLEMS["neumann", 1][2])
    a = (1 + torch.arange(3, dtype=F64) / 3).requires_grad_()
    assert torch.autograd.gradcheck(model.solve, (a,)) and torch.autograd.gradgradcheck(model.solve, (a,))


def test_the_stiffness_is_symmetric_and_monotone():
    model = inverse.Elliptic(5, PROBLEMS["neumann", 2][2], 2)
    assert torch.allclose(model.stiffness, model.stiffness.T)
    assert float(model.stiffness.sum(1).abs().max()) < 1e-14             # constants cost nothing
    energy = lambda a: float(model.load @ model.solve(a))                # ∫fu decreases in a
    a = torch.exp(0.3 * numbers(0, 25))
    assert energy(a) > energy(1.1 * a)
    assert energy(a) == pytest.approx(2 * energy(2 * a))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_the_flux_determines_the_coefficient_where_it_is_not_zero(seed):
    model = inverse.Elliptic(20, lambda x: torch.cos(math.pi * x[:, 0]))
    a = torch.exp(numbers(seed, 20))
    slope = model.n * torch.diff(model.solve(a))
    assert torch.allclose(-model.load.cumsum(0)[:-1] / slope, a, rtol=1e-8)


def test_what_carries_no_flux_is_not_seen():
    def f(x):
        x = x[:, 0]
        return torch.where((x < 0.25) | (x > 0.75), torch.sin(8 * math.pi * x), 0 * x)
    model = inverse.Elliptic(24, f, order=12)
    a = torch.exp(0.3 * numbers(0, 24))
    other = a.clone()
    other[6:18] *= 50
    assert float((model.solve(a) - model.solve(other)).abs().max()) < 1e-12


def test_fit_recovers_a_coefficient_and_equals_least_squares_when_linear():
    A, d = numbers(0, 12, 4), numbers(1, 12)
    L, m0 = numbers(2, 4, 4), numbers(3, 4)
    result = inverse.fit(lambda m: (A @ m, A), d, 0.5, m0, L)
    exact = torch.linalg.solve(A.T @ A / 0.25 + L.T @ L, A.T @ d / 0.25 + L.T @ L @ m0)
    assert torch.allclose(result.m, exact) and result.steps <= 2
    assert result.misfit == pytest.approx(float((A @ exact - d).norm()) / 0.5)
    model = inverse.Elliptic(16, PROBLEMS["neumann", 1][2])
    truth = 0.3 * torch.sin(3 * model.centers[:, 0])

    def forward(m):
        a = torch.exp(m)
        u = model.solve(a)
        return u, model.jacobian(a, u, torch.diag(a))
    fitted = inverse.fit(forward, model.solve(torch.exp(truth)), 1e-8, torch.zeros(16, dtype=F64), 1e-2 * torch.eye(16, dtype=F64))
    assert float((fitted.m - truth).abs().max()) < 1e-6


def test_the_laplace_approximation_is_exact_for_linear_maps():
    J, L = numbers(0, 9, 5), numbers(1, 5, 5)
    assert torch.allclose(inverse.laplace(J, L), torch.linalg.inv(J.T @ J + L.T @ L))


@pytest.mark.parametrize("sigma", [0.05, 0.5])
def test_risk_is_the_expected_error_of_the_filtered_solution(sigma):
    A, x = numbers(0, 20, 6) / torch.arange(1.0, 7, dtype=F64) ** 3, numbers(1, 6)
    gamma = torch.logspace(-6, 1, 6, dtype=F64)
    bias, variance = inverse.risk(A, x, sigma, gamma)
    solutions = torch.stack([inverse.filtered(A, A @ x + sigma * numbers(k + 9, 20), gamma)[0] for k in range(2000)])
    squared = (solutions - x).square().sum(2)
    z = (squared.mean(0) - bias - variance) / (squared.std(0) / 2000**0.5)
    assert float(z.abs().max()) < 5


def test_filtered_solves_the_regularized_equations():
    A, d = numbers(0, 8, 3), numbers(1, 8)
    x, residual = inverse.filtered(A, d, torch.tensor([0.1, 10.0], dtype=F64))
    for k, g in enumerate((0.1, 10.0)):
        assert torch.allclose(x[k], torch.linalg.solve(A.T @ A + g * torch.eye(3, dtype=F64), A.T @ d))
        assert float(residual[k]) == pytest.approx(float((A @ x[k] - d).norm()))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 0.9))
def test_the_discrepancy_principle_is_unique_and_of_least_norm(seed, where):
    A, d = numbers(seed, 8, 5), numbers(seed + 1, 8)
    residual = lambda g: float(inverse.filtered(A, d, torch.tensor([g], dtype=F64))[1])
    target = residual(1e-9) + where * (residual(1e9) - residual(1e-9))
    g = inverse.discrepancy(residual, target, 1e-9, 1e9, tolerance=1e-6)
    assert residual(g) == pytest.approx(target, rel=1e-4)
    x = inverse.filtered(A, d, torch.tensor([g], dtype=F64))[0][0]
    for k in range(5):                                  # any other vector within the level is longer
        y = x + 0.1 * numbers(seed + 2 + k, 5)
        assert (A @ y - d).norm() > target * (1 - 1e-4) or y.norm() >= x.norm() * (1 - 1e-4)


@pytest.mark.parametrize("n", [8, 16])
def test_weak_regression_is_exact_on_exact_data(n):
    k = torch.tensor([(0, 0), (1, 0), (0, 1)])
    u, a, f = problem(cos(1, X) + cos(1, Y) * cos(1, X) / 2, 1 + cos(1, X) / 4 - cos(1, Y) / 5, (X, Y))
    x = inverse.Elliptic(n, f, 2).nodes
    c = equation_error.weak(f, u(x), n, k, equation_error.modes(4)[1:])
    assert torch.allclose(c, torch.tensor([1, 0.25, -0.2], dtype=F64), atol=1e-10)


def test_strong_regression_is_of_second_order():
    k = torch.tensor([(0,), (1,)])
    u, a, f = problem(cos(1, X) + cos(2, X) / 3, 1 + cos(1, X) / 4, (X,))
    errors = []
    for n in (32, 64):
        x = torch.arange(n + 1, dtype=F64)[:, None] / n
        errors.append(float((equation_error.strong(f, u(x), n, k) - torch.tensor([1, 0.25], dtype=F64)).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)


def test_cosines_against_automatic_differentiation():
    x, k = torch.rand(5, 2, dtype=F64, generator=torch.Generator().manual_seed(0)), equation_error.modes(3)
    jacobian = torch.autograd.functional.jacobian
    gradient = torch.stack([jacobian(lambda p: equation_error.cosines(p[None], k)[0][0], row) for row in x])
    assert torch.allclose(equation_error.cosines(x, k)[1], gradient)
    psi, phi = k[1:3], k[3:6]
    divergence = equation_error._divergence(x, psi, phi)

    def field(p):                                       # ψ_k ∇φ_j for all j and k: (3, 2, d)
        P, F = equation_error.cosines(p[None], psi)[0][0], equation_error.cosines(p[None], phi)[1][0]
        return P[None, :, None] * F[:, None, :]
    trace = torch.stack([jacobian(field, row).diagonal(dim1=2, dim2=3).sum(2) for row in x])
    assert torch.allclose(divergence, trace)


def test_the_networks_jacobian_against_automatic_differentiation():
    gen = torch.Generator().manual_seed(0)
    net = Shallow.random(4, 2, 1.5, gen)
    net = Shallow(net.W, net.b, numbers(5, 5))
    x = torch.rand(6, 2, generator=gen, dtype=F64)
    flat = torch.cat([net.W.reshape(-1), net.b, net.c])

    def at(p):
        moved = Shallow(p[:8].view(4, 2), p[8:12], p[12:])
        return moved.value(x), moved.gradient(x), moved.laplacian(x)
    for ours, theirs in zip(net.jacobian(x), torch.func.jacrev(at)(flat)):
        assert torch.allclose(ours, theirs)
    auto = approximation.Function(net.value)
    assert torch.allclose(net.gradient(x), auto.gradient(x)) and torch.allclose(net.laplacian(x), auto.laplacian(x))


@pytest.mark.parametrize("hidden_steps", [0, 3])
def test_the_inverse_pinn_finds_a_smooth_coefficient(hidden_steps):
    u, a, f = problem(cos(1, X) + cos(1, Y) / 2, 1 + cos(1, X) / 4, (X, Y))
    grid = inverse.Elliptic(12, f, 2).nodes
    gen = torch.Generator().manual_seed(0)
    d = u(grid) + 1e-3 * torch.randn(len(grid), generator=gen, dtype=F64)
    result = InversePinn(f, grid, d, 1e-3, order=10).train(
        Shallow.random(80, 2, 2.0, gen), Shallow.random(20, 2, 1.0, gen), hidden_steps=hidden_steps)
    points, weights = Box.unit(2).quadrature(10)
    assert approximation.errors(result.a, a, points, weights).relative_l2 < 0.03
    assert result.misfit < 2 and result.residual < 0.01


def test_refusals():
    one = lambda x: torch.ones(len(x), dtype=F64)
    with pytest.raises(ValueError, match="integral is 1"):
        inverse.Elliptic(4, one)
    with pytest.raises(ValueError, match="d must be 1 or 2"):
        inverse.Elliptic(4, one, 3, "dirichlet")
    with pytest.raises(ValueError, match="boundary"):
        inverse.Elliptic(4, one, boundary="robin")
    with pytest.raises(ValueError, match="f must return 20 values"):
        inverse.Elliptic(4, lambda x: x, boundary="dirichlet")
    with pytest.raises(ValueError, match="finite"):
        inverse.Elliptic(4, lambda x: one(x) * torch.nan, boundary="dirichlet")
    model = inverse.Elliptic(4, one, boundary="dirichlet")
    with pytest.raises(ValueError, match="4 positive values; got 4, the smallest -1"):
        model.solve(torch.tensor([1.0, 1, 1, -1], dtype=F64))
    A = torch.ones(3, 2, dtype=F64)
    with pytest.raises(ValueError, match="full column rank"):
        inverse.fit(lambda m: (A @ m, A), torch.ones(3, dtype=F64), 1.0, torch.zeros(2, dtype=F64), torch.zeros(0, 2, dtype=F64))
    with pytest.raises(ValueError, match="did not converge"):
        inverse.fit(lambda m: (m**3, torch.diag(3 * m**2)), torch.ones(1, dtype=F64), 1.0,
                    torch.full((1,), 5.0, dtype=F64), torch.zeros(0, 1, dtype=F64), steps=2)
    with pytest.raises(ValueError, match="rank 1 of 2"):
        inverse.laplace(A, torch.zeros(0, 2, dtype=F64))
    with pytest.raises(ValueError, match="target must lie between"):
        inverse.discrepancy(lambda g: g, 1e20)
    with pytest.raises(ValueError, match="25 nodal values"):
        equation_error.weak(one, torch.ones(9, dtype=F64), 4, equation_error.modes(1), equation_error.modes(2))
    with pytest.raises(ValueError, match="at least 4 tests"):
        equation_error.weak(one, torch.ones(25, dtype=F64), 4, equation_error.modes(2), equation_error.modes(1))
    with pytest.raises(ValueError, match="one value per point"):
        InversePinn(one, torch.zeros(3, 2, dtype=F64), torch.zeros(2, dtype=F64), 0.1)
    with pytest.raises(ValueError, match="sigma"):
        InversePinn(one, torch.zeros(3, 2, dtype=F64), torch.zeros(3, dtype=F64), 0.0)
    pinn = InversePinn(lambda x: x[:, 0], torch.rand(3, 2, dtype=F64), torch.zeros(3, dtype=F64), 0.1)
    nets = (Shallow.random(3, 2, 1.0, torch.Generator().manual_seed(0)) for _ in range(2))
    with pytest.raises(ValueError, match="weights must be positive"):
        pinn.train(*nets, weights=())


def test_what_is_not_finite_or_does_not_fit_is_refused():
    eye = torch.eye(2, dtype=F64)
    broken = lambda m: (m / torch.where(m.abs().sum() > 0, 0.0, 1.0) * 0, eye)        # NaN away from the start
    with pytest.raises(ValueError, match="forward.*finite"):
        inverse.fit(broken, torch.ones(2, dtype=F64), 1.0, torch.zeros(2, dtype=F64), torch.zeros(0, 2, dtype=F64))
    gamma = torch.tensor([1.0, -1.0], dtype=F64)
    with pytest.raises(ValueError, match="gamma must not be negative"):
        inverse.filtered(eye, torch.ones(2, dtype=F64), gamma)
    with pytest.raises(ValueError, match="data must have 2"):
        inverse.filtered(eye, torch.ones(3, dtype=F64), gamma.abs())
    with pytest.raises(ValueError, match="x must be finite"):
        inverse.risk(eye, torch.full((2,), torch.nan, dtype=F64), 1.0, gamma.abs())
    with pytest.raises(ValueError, match="tolerance"):
        inverse.discrepancy(lambda g: g, 2.0, tolerance=0.0)
    assert inverse.discrepancy(lambda g: g, 2.0, tolerance=1e-300) == pytest.approx(2.0, rel=1e-12)
    with pytest.raises(ValueError, match="root must have 2 columns"):
        inverse.laplace(eye, torch.eye(3, dtype=F64))
    model = inverse.Elliptic(4, lambda x: torch.cos(math.pi * x[:, 0]))
    with pytest.raises(ValueError, match="load must have 5"):
        model.solve(torch.ones(4, dtype=F64), torch.ones(4, dtype=F64))
    with pytest.raises(ValueError, match="norm of f"):
        InversePinn(lambda x: 0 * x[:, 0], torch.rand(3, 2, dtype=F64), torch.zeros(3, dtype=F64), 0.1)
