"""The three forms of the Neumann problem, of its discretization, and of Ax = b."""
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from lecturelib.pde import discretize, forms, linear
from lecturelib.pde.domains import Box, gauss_legendre

F64 = torch.float64
NAN = torch.tensor([math.nan], dtype=F64)


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def rod(x):
    return x[:, 0] ** 2 / 2 - x[:, 0] ** 3 / 3 - 1 / 12


def heating(x):
    return 2 * x[:, 0] - 1


# ------------------------------------------------------------------------------------ domains
@given(st.integers(1, 12), st.floats(-3, 3), st.floats(0.1, 4))
@settings(max_examples=40, deadline=None)
def test_gauss_is_exact_to_degree_2n_minus_1(order, lower, length):
    upper, p = lower + length, 2 * order - 1
    x, w = gauss_legendre(order, lower, upper)
    t = (x - lower) / length
    assert float(w @ t**p) == pytest.approx(length / (p + 1), rel=1e-11)
    assert float(w @ t ** (p + 1)) != pytest.approx(length / (p + 2), rel=1e-15) or order > 6


@pytest.mark.parametrize("d", [1, 2, 3])
def test_divergence_theorem(d):
    box = Box([-0.5] * d, [0.5 + i for i in range(d)])
    x, w = box.quadrature(5)
    s, ws, normal = box.boundary(5)
    field = lambda x: torch.stack([x[:, i] ** 3 * (1 + x[:, -1]) for i in range(d)], 1)
    divergence = sum(torch.func.grad(lambda z, i=i: field(z)[:, i].sum())(x)[:, i] for i in range(d))
    assert float(w @ divergence) == pytest.approx(float(ws @ (field(s) * normal).sum(1)), rel=1e-12)


def test_poincare_constant_is_attained_along_the_longest_side():
    box = Box([0, 0], [1, 3])
    x, w = box.quadrature(30)
    v = lambda x: torch.cos(math.pi * x[:, 1] / 3)
    gradient = (w @ forms.gradient(v, x).square().sum(1)).sqrt()
    assert float((w @ v(x).square()).sqrt() / gradient) == pytest.approx(box.poincare, rel=1e-12)


# -------------------------------------------------------------------------------------- forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivatives_keep_dtype_and_match_closed_forms(dtype):
    x = randn(20, 3).to(dtype)
    u = lambda x: torch.sin(x[:, 0]) * x[:, 1] ** 2 + torch.exp(x[:, 2])
    expected = -torch.sin(x[:, 0]) * x[:, 1] ** 2 + 2 * torch.sin(x[:, 0]) + torch.exp(x[:, 2])
    assert forms.laplacian(u, x).dtype == dtype
    torch.testing.assert_close(forms.laplacian(u, x), expected)
    assert torch.equal(forms.gradient(lambda x: 0 * x[:, 0] + 3, x), torch.zeros_like(x))


@given(st.lists(st.floats(-2, 2), min_size=4, max_size=4))
@settings(max_examples=30, deadline=None)
def test_energy_identity(c):
    """E(u + e) − E(u) = ½‖∇e‖² and a(u, e) = ℓ(e), for e without boundary condition."""
    x, w = Box.unit(1).quadrature(12)
    e = lambda x: sum(a * x[:, 0] ** k for k, a in enumerate(c))
    gap = forms.energy(lambda x: rod(x) + e(x), heating, x, w) - forms.energy(rod, heating, x, w)
    half = w @ forms.gradient(e, x).square().sum(1) / 2
    assert float(gap) == pytest.approx(float(half), abs=1e-12)
    assert abs(float(forms.weak_residual(rod, e, heating, x, w))) < 1e-13


def test_green_formula_ties_the_strong_to_the_weak_form():
    """∫ v(−Δu − f) = a(u,v) − ℓ(v) − ∫ v ∂ₙu for u without boundary condition."""
    box = Box.unit(2)
    x, w = box.quadrature(20)
    s, ws, normal = box.boundary(20)
    u, v = (lambda x: torch.exp(x[:, 0]) * x[:, 1] ** 3), (lambda x: torch.cos(x[:, 0] + x[:, 1]))
    f = lambda x: x[:, 0] - x[:, 1] ** 2
    left = w @ (v(x) * (-forms.laplacian(u, x) - f(x)))
    flux = ws @ (v(s) * (forms.gradient(u, s) * normal).sum(1))
    assert float(left) == pytest.approx(float(forms.weak_residual(u, v, f, x, w) - flux), rel=1e-12)


def test_forms_are_differentiable_in_parameters():
    x, w = Box.unit(1).quadrature(10)
    theta = torch.tensor(0.3, dtype=F64, requires_grad=True)
    u = lambda x: theta * rod(x)
    for loss in (forms.energy(u, heating, x, w), forms.strong_loss(u, heating, x, w)):
        (slope,) = torch.autograd.grad(loss, theta)
        assert slope < 0                                     # both are minimal at θ = 1


# --------------------------------------------------------------------------------- discretize
@pytest.mark.parametrize("bc", discretize.BOUNDARY)
@pytest.mark.parametrize("n, d", [(2, 1), (7, 1), (4, 2), (3, 3)])
def test_matrix_is_symmetric_with_the_stated_spectrum(bc, n, d):
    A = discretize.matrix(n, d, bc)
    assert torch.equal(A, A.T)
    expected = discretize.eigenvalues(n, d, bc).sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(A), expected, atol=1e-10, rtol=1e-12)


@pytest.mark.parametrize("bc", discretize.BOUNDARY)
def test_modes_diagonalize_by_tensor_products(bc):
    n = 6
    Q, lam = discretize.modes(n, bc), discretize.eigenvalues(n, 2, bc)
    QQ = torch.kron(Q, Q)
    torch.testing.assert_close(QQ.T @ QQ, torch.eye(len(QQ), dtype=F64))
    torch.testing.assert_close(QQ.T @ discretize.matrix(n, 2, bc) @ QQ, torch.diag(lam),
                               atol=1e-10, rtol=1e-12)


@given(st.integers(2, 9), st.integers(1, 3), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_neumann_laplacian_conserves_and_is_the_gradient_of_the_energy(n, d, seed):
    u, v = randn(*[n] * d, seed=seed), randn(*[n] * d, seed=seed + 1)
    Au = discretize.neumann_laplacian(u, d)
    assert abs(float(Au.sum())) < 1e-9 * n**2 * u.numel()
    assert float((v * Au).sum()) == pytest.approx(float((u * discretize.neumann_laplacian(v, d)).sum()),
                                                  abs=1e-9 * n**2)
    assert float(discretize.difference_norm(u, d)) ** 2 == pytest.approx(float((u * Au).sum()) / n**d)
    out = torch.full_like(u, math.nan)
    assert discretize.neumann_laplacian(u, d, out=out) is out and torch.equal(out, Au)


def test_leading_axes_are_a_batch():
    u = randn(3, 5, 5)
    for apply in (discretize.neumann_laplacian, discretize.dirichlet_laplacian):
        torch.testing.assert_close(apply(u, 2), torch.stack([apply(v, 2) for v in u]))


@pytest.mark.parametrize("bc, exact, source", [
    ("neumann", rod, heating),
    ("dirichlet", lambda x: torch.sin(math.pi * x[:, 0]) * torch.exp(x[:, 0]),
     lambda x: torch.exp(x[:, 0]) * ((math.pi**2 - 1) * torch.sin(math.pi * x[:, 0])
                                     - 2 * math.pi * torch.cos(math.pi * x[:, 0])))])
def test_second_order(bc, exact, source, order=2):
    errors = []
    for n in (32, 64):
        x = discretize.centers(n) if bc == "neumann" else torch.arange(1, n, dtype=F64)[:, None] / n
        b, A = source(x), discretize.matrix(n, 1, bc)
        if bc == "neumann":
            b, A = b - b.mean(), A + 1 / n
        e = torch.linalg.solve(A, b) - exact(x)
        errors.append(float((e - e.mean() if bc == "neumann" else e).square().mean().sqrt()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.05)


@pytest.mark.parametrize("n", [4, 16, 50])
def test_cubic_attains_the_bound(n):
    """On the rod the error is a line of slope h²/12: ‖De‖ = h²√(1−h)/12."""
    x = discretize.centers(n)
    b = heating(x)
    e = torch.linalg.solve(discretize.matrix(n) + 1 / n, b - b.mean()) - rod(x)
    assert float(discretize.difference_norm(e)) == pytest.approx(math.sqrt(1 - 1 / n) / (12 * n * n), rel=1e-7)


def test_inconsistent_source_leaves_its_mean():
    b = randn(20)
    x = torch.linalg.lstsq(discretize.matrix(20), b[:, None], driver="gelsd").solution[:, 0]
    residual = discretize.matrix(20) @ x - b
    assert float(residual.norm()) == pytest.approx(abs(float(b.mean())) * math.sqrt(20), rel=1e-10)


# ------------------------------------------------------------------------------------- linear
@given(st.integers(1, 8), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_three_routes_agree_for_spd(n, seed):
    R, b, W = randn(n, n, seed=seed), randn(n, seed=seed + 1), randn(n, n, seed=seed + 2)
    A = R @ R.T + torch.eye(n, dtype=F64)
    x = linear.solve_variational(A, b)
    torch.testing.assert_close(linear.solve_strong(A, b), x, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(linear.solve_weak(A, b, torch.linalg.qr(W)[0]), x, atol=1e-9, rtol=1e-7)
    y = randn(n, seed=seed + 3)
    gap = float(linear.variational(A, b, y) - linear.variational(A, b, x))
    assert gap == pytest.approx(float((y - x) @ A @ (y - x)) / 2, rel=1e-8, abs=1e-12)
    assert float(linear.strong(A, b, x)) < 1e-16 * (1 + float(b.square().sum())) * linear.condition(A)
    assert float(linear.weak(A, b, x, W).norm()) < 1e-10 * (1 + float(W.norm() * b.norm()))


def test_galerkin_is_ritz_and_petrov_is_least_squares():
    R, V, b = randn(6, 6, seed=1), randn(6, 2, seed=2), randn(6, seed=3)
    A = R @ R.T + torch.eye(6, dtype=F64)
    galerkin, petrov = linear.solve_weak(A, b, V, V), linear.solve_weak(A, b, A @ V, V)
    for c in randn(20, 2, seed=4):
        assert linear.variational(A, b, V @ c) >= linear.variational(A, b, galerkin)
        assert linear.strong(A, b, V @ c) >= linear.strong(A, b, petrov)


def test_condition_of_a_singular_matrix_is_infinite():
    assert linear.condition(torch.zeros(2, 2)) == linear.condition(torch.diag(torch.tensor([1.0, 0.0]))) == math.inf


def test_condition_of_the_normal_equations_is_the_square():
    A = randn(7, 7, seed=5)
    assert linear.condition(A.T @ A) == pytest.approx(linear.condition(A) ** 2, rel=1e-9)


# ------------------------------------------------------------------------------------ refusals
EYE, ONE = torch.eye(2, dtype=F64), torch.ones(2, dtype=F64)
X1, W1 = Box.unit(1).quadrature(3)


@pytest.mark.parametrize("call, names", [
    (lambda: gauss_legendre(0), "order"),
    (lambda: gauss_legendre(3, 1.0, 1.0), "lower"),
    (lambda: gauss_legendre(3, 0.0, math.inf), "finite"),
    (lambda: Box([0], [1, 2]), "same positive length"),
    (lambda: Box([0, math.nan], [1, 1]), "finite"),
    (lambda: Box([1], [0]), "lower"),
    (lambda: Box(5, 6), "sequences"),
    (lambda: Box.unit(0), "d must"),
    (lambda: forms.gradient(rod, X1[:, 0]), "x must have 2 axes"),
    (lambda: forms.laplacian(rod, X1 * math.nan), "x must be finite"),
    (lambda: forms.gradient(rod, torch.ones(3, 1, dtype=torch.int64)), "floating"),
    (lambda: forms.energy(rod, heating, X1, W1[:2]), "one weight per point"),
    (lambda: forms.strong_loss(rod, heating, X1, W1 * math.inf), "w must be finite"),
    (lambda: forms.boundary_loss(rod, X1, W1, W1), "normal"),
    (lambda: forms.boundary_loss(rod, X1, W1, X1[:2]), "normal"),
    (lambda: forms.energy(rod, heating, X1, W1.float()), "dtype of x"),
    (lambda: forms.energy(lambda x: x**2, heating, X1, W1), "must map points"),
    (lambda: forms.strong_loss(rod, lambda x: x, X1, W1), "must map points"),
    (lambda: forms.weak_residual(rod, lambda x: x, heating, X1, W1), "must map points"),
    (lambda: discretize.centers(0), "n must"),
    (lambda: discretize.matrix(1), "n must"),
    (lambda: discretize.matrix(4, 1, "robin"), "bc"),
    (lambda: discretize.eigenvalues(4, 0), "d must"),
    (lambda: discretize.neumann_laplacian(ONE[:1]), "at least 2"),
    (lambda: discretize.neumann_laplacian(torch.ones(2, 3), 2), "one length"),
    (lambda: discretize.neumann_laplacian(ONE, 2), "2 axes"),
    (lambda: discretize.neumann_laplacian(ONE * math.nan), "u must be finite"),
    (lambda: discretize.neumann_laplacian(ONE, out=ONE), "out"),
    (lambda: discretize.neumann_laplacian(ONE, out=torch.ones(3, 2, dtype=F64)), "out"),
    (lambda: discretize.neumann_laplacian(ONE, out=torch.ones(2)), "out"),
    (lambda: (lambda s: discretize.neumann_laplacian(s[:4], out=s[1:]))(torch.ones(5)), "share memory"),
    (lambda: linear.strong(EYE, ONE, torch.ones(3, dtype=F64)), "x must have 2"),
    (lambda: linear.strong(EYE, ONE[:, None], ONE), "b must"),
    (lambda: linear.variational(EYE[:1], ONE[:1], ONE), "square"),
    (lambda: linear.weak(EYE, ONE, ONE, EYE * math.nan), "Y must"),
    (lambda: linear.solve_weak(EYE, ONE, EYE * math.nan), "W must"),
    (lambda: linear.solve_strong(EYE, torch.ones(2)), "dtype of A"),
    (lambda: linear.condition(EYE[:0]), "empty"),
    (lambda: linear.solve_strong(EYE[:1], ONE[:1]), "rows"),
    (lambda: linear.solve_strong(torch.ones(2, 2, dtype=F64), ONE), "rank"),
    (lambda: linear.solve_strong(EYE, torch.ones(3, dtype=F64)), "b must"),
    (lambda: linear.solve_strong(EYE * math.nan, ONE), "A must be finite"),
    (lambda: linear.solve_variational(torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.ones(2)), "symmetric"),
    (lambda: linear.solve_variational(-EYE, ONE), "positive definite"),
    (lambda: linear.solve_weak(EYE, ONE, EYE[:, :1]), "columns"),
    (lambda: linear.solve_weak(EYE, ONE, torch.zeros(2, 2, dtype=F64)), "invertible"),
    (lambda: linear.condition(NAN[:, None]), "finite"),
])
def test_refusals_name_the_argument(call, names):
    with pytest.raises(ValueError, match=names):
        call()
