"""Bases, Ritz-Galerkin systems, least squares, the curse: theory as parameters of the tests."""
import functools
import math

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lecturelib.pde import approximation, bases, curse, forms, galerkin
from lecturelib.pde.domains import Box

PI = math.pi
F64 = torch.float64
X = sympy.symbols("x y")
COSINES = sympy.exp(sympy.cos(sympy.pi * X[0]) * sympy.cos(sympy.pi * X[1]))
SINES = sympy.sin(sympy.pi * X[0]) * sympy.sin(2 * sympy.pi * X[1])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def every_basis(d):
    box = Box([0.5] * d, [1.5 + i for i in range(d)])
    first = {"cosine": 0, "legendre": 0, "sine": 1, "bubble": 1}
    made = [bases.Tensor(name, box, bases.full(3, d, k)) for name, k in first.items()]
    return made + [bases.RandomFeatures.sample(box, 5, 2.0, generator(), a) for a in ("tanh", "cos")]


# ------------------------------------------------------------------------------- approximations
@pytest.mark.parametrize("d", [1, 2, 3])
def test_closed_derivatives_agree_with_automatic_ones(d):
    for basis in every_basis(d):
        c = torch.randn(basis.N, generator=generator(1), dtype=F64)
        u = basis.function(c)
        x, _ = basis.box.quadrature(3)
        auto = approximation.Function(u.value)
        assert torch.allclose(u.gradient(x), auto.gradient(x), rtol=1e-9, atol=1e-9)
        assert torch.allclose(u.laplacian(x), auto.laplacian(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("d", [1, 2])
def test_stiffness_and_load_agree_with_quadrature_of_the_functions(d):
    for basis in every_basis(d):
        x, w = basis.box.quadrature(30)
        slope = basis.gradient(x)
        assert torch.allclose(basis.stiffness(), torch.einsum("q,qid,qjd->ij", w, slope, slope), atol=1e-9)
        load = basis.load(lambda x: torch.exp(x[:, 0]))
        assert torch.allclose(load, basis.evaluate(x).T @ (w * torch.exp(x[:, 0])), atol=1e-11)


@pytest.mark.parametrize("family", ["cosine", "sine", "legendre"])
def test_families_are_orthonormal(family):
    box = Box([0.0, -1.0], [2.0, 1.0])
    basis = bases.Tensor(family, box, bases.full(4, 2, 1))
    x, w = box.quadrature(20)
    phi = basis.evaluate(x)
    assert torch.allclose(phi.T @ (w[:, None] * phi), torch.eye(16, dtype=F64), atol=1e-12)


def test_manufactured_pairs_satisfy_the_equation():
    u, f = approximation.manufactured(COSINES, X)
    x = torch.rand(50, 2, generator=generator(), dtype=F64)
    assert torch.allclose(f.value(x), -forms.laplacian(u.value, x), atol=1e-11)
    assert torch.allclose(u.gradient(x), forms.gradient(u.value, x), atol=1e-12)


def test_errors_ignore_constants_on_request():
    x, w = Box.unit(2).quadrature(12)
    u, _ = approximation.manufactured(COSINES, X)
    shifted = approximation.Function(lambda x: u.value(x) + 3, u.gradient)
    assert approximation.errors(shifted, u, x, w).l2 == pytest.approx(3)
    assert approximation.errors(shifted, u, x, w, modulo_constants=True).relative_l2 < 1e-14


# ---------------------------------------------------------------------------- Ritz and Galerkin
@functools.cache
def legendre_solution():
    u, f = approximation.manufactured(COSINES, X)
    basis = bases.Tensor("legendre", Box.unit(2), bases.full(4, 2))
    return u, basis, galerkin.ritz(basis, f.value)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_galerkin_solution_is_the_best_approximation(seed):
    u, basis, best = legendre_solution()
    x, w = basis.box.quadrature(24)
    other = basis.function(best.c + torch.randn(basis.N, generator=generator(seed), dtype=F64))
    error, worse, step = (approximation.errors(v, t, x, w).h1 for v, t in (
        (best, u), (other, u), (other, best)))
    assert worse**2 == pytest.approx(error**2 + step**2, rel=1e-9)          # Pythagoras


def test_the_energy_counts_the_error():
    box = Box.unit(2)
    u, f = approximation.manufactured(COSINES, X)
    basis = bases.Tensor("cosine", box, bases.full(5, 2))
    K, F = basis.stiffness(), basis.load(f.value)
    c = galerkin.solve(K, F)
    x, w = box.quadrature(30)
    total = float(w @ u.gradient(x).square().sum(1))
    assert approximation.errors(basis.function(c), u, x, w).h1 ** 2 == pytest.approx(total - float(F @ c))
    assert float(galerkin.discrete_energy(K, F, c)) == pytest.approx(-float(F @ c) / 2)


def test_projection_is_the_galerkin_solution():
    box = Box.unit(2)
    u, f = approximation.manufactured(COSINES, X)
    basis = bases.Tensor("legendre", box, bases.full(5, 2))
    projected = galerkin.project(basis, u, *box.quadrature(30))
    assert torch.allclose(projected.c, galerkin.ritz(basis, f.value).c, atol=1e-10)


@pytest.mark.parametrize("family, first", [("sine", 1), ("bubble", 1)])
def test_dirichlet_bases_converge_to_rounding(family, first):
    u, f = approximation.manufactured(SINES, X)
    basis = bases.Tensor(family, Box.unit(2), bases.full(17, 2, first))
    error = approximation.errors(galerkin.ritz(basis, f.value), u, *basis.box.quadrature(40))
    assert error.relative_l2 < 1e-12 and error.relative_h1 < 1e-11


@pytest.mark.parametrize("a", [1.1, 1.5, 3.0])
def test_cosine_error_decays_at_the_width_of_the_strip(a):
    box = Box.unit(1)
    x, w = box.quadrature(300)
    u, _ = approximation.manufactured(1 / (sympy.Float(a) - sympy.cos(sympy.pi * X[0])), X[:1])
    eta = math.acosh(a)
    n = [int(k / eta) for k in (4, 10)]
    e = [approximation.errors(galerkin.project(bases.Tensor("cosine", box, bases.full(k + 1, 1)), u, x, w),
                              u, x, w).h1 / (k + 1) for k in n]
    assert math.log(e[0] / e[1]) / (n[1] - n[0]) == pytest.approx(eta, rel=0.1)


def test_cosine_error_is_algebraic_without_a_smooth_even_extension():
    box = Box.unit(1)                                   # the rod, f = 2x − 1: order 5/2
    u, f = approximation.manufactured(X[0] ** 2 / 2 - X[0] ** 3 / 3, X[:1])
    x, w = box.quadrature(200)
    e = [approximation.errors(galerkin.ritz(bases.Tensor("cosine", box, bases.full(n + 1, 1)), f.value),
                              u, x, w).h1 for n in (16, 64)]
    assert math.log(e[0] / e[1], 4) == pytest.approx(2.5, abs=0.1)
    legendre = galerkin.ritz(bases.Tensor("legendre", box, bases.full(4, 1)), f.value)
    assert approximation.errors(legendre, u, x, w).h1 < 1e-14


# ------------------------------------------------------------------------------------ condition
@pytest.mark.parametrize("N", [2, 5, 11])
def test_conditions_in_closed_form(N):
    box = Box.unit(1)
    cosine = bases.Tensor("cosine", box, bases.full(N + 1, 1)).stiffness()
    bubble = bases.Tensor("bubble", box, bases.full(N, 1, 1)).stiffness()
    legendre = bases.Tensor("legendre", box, bases.full(N + 1, 1)).stiffness()
    assert galerkin.condition(cosine) == pytest.approx(N**2)
    assert float(galerkin.spectrum(cosine)[0]) == pytest.approx(1)
    assert torch.allclose(bubble, torch.eye(N, dtype=F64), atol=1e-13)
    trace = N * (N + 1) ** 2 * (N + 2)
    assert float(legendre.trace()) == pytest.approx(trace)
    assert PI**2 * (1 - 1e-9) <= float(torch.linalg.eigvalsh(legendre)[0])
    assert galerkin.condition(legendre) <= trace / PI**2


@pytest.mark.parametrize("bound", [2.0, 6.0])
def test_bounded_random_features_are_exponentially_ill_conditioned(bound):
    for N in range(2, 9):
        basis = bases.RandomFeatures.sample(Box.unit(1), N, bound, generator(N), "cos", order=40)
        least = float(torch.linalg.eigvalsh(basis.stiffness())[0])
        assert least <= 4 * N * bound ** (2 * N) / math.factorial(N - 1) ** 2 / 16 ** (N - 1) + 1e-13


# -------------------------------------------------------------------------------- least squares
@pytest.mark.parametrize("activation, scale", [("tanh", 2.0), ("cos", 6.0)])
@pytest.mark.parametrize("seed", range(3))
def test_random_features_reach_1e_9(activation, scale, seed):
    u, f = approximation.manufactured(sympy.sin(sympy.pi * X[0]) * sympy.sin(sympy.pi * X[1]), X)
    box = Box.unit(2)
    basis = bases.RandomFeatures.sample(box, 300, scale, generator(seed), activation)
    fit = galerkin.least_squares(basis, f.value, lambda x: 0 * x[:, 0], box.quadrature(30),
                                 box.boundary(30)[:2])
    assert approximation.errors(fit.u, u, *box.quadrature(25)).relative_l2 < 1e-9
    assert fit.residual < 1e-7 and fit.rank <= 300


def test_least_squares_agrees_with_dense_lstsq():
    box = Box.unit(2)
    basis = bases.RandomFeatures.sample(box, 20, 2.0, generator(), "tanh")
    (x, w), (s, v, _) = box.quadrature(10), box.boundary(10)
    fit = galerkin.least_squares(basis, lambda x: x[:, 0], lambda x: x[:, 1], (x, w), (s, v), weight=7.0)
    A = torch.cat([basis.laplacian(x) * w.sqrt()[:, None], basis.evaluate(s) * (7 * v).sqrt()[:, None]])
    b = torch.cat([-x[:, 0] * w.sqrt(), s[:, 1] * (7 * v).sqrt()])
    assert torch.allclose(A @ fit.u.c, A @ torch.linalg.lstsq(A, b[:, None]).solution[:, 0], atol=1e-9)


def test_least_squares_with_no_data_at_all():
    box = Box.unit(1)
    zero = lambda x: 0 * x[:, 0]
    fit = galerkin.least_squares(bases.Tensor("sine", box, bases.full(3, 1, 1)), zero, zero, box.quadrature(8),
                                 box.boundary(1)[:2])
    assert fit.residual == 0.0 and float(fit.u.c.abs().max()) == 0.0


# ---------------------------------------------------------------------------------------- curse
@pytest.mark.parametrize("d", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [2, 5])
def test_solved_q1_error_is_the_closed_form(n, d):
    error, size = curse.solved_error(n, d)
    assert error == pytest.approx(curse.q1_error(n, d), rel=1e-9) and size == curse.nodes(n, 1, d)


@pytest.mark.parametrize("d", range(1, 8))
def test_q1_error_expansion(d):
    t = PI / 40
    assert curse.q1_error(40, d) ** 2 == pytest.approx(t**2 / 12 + (d - 3) * t**4 / 720, rel=1e-6 * d)


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_accuracy_per_unknown(degree, d):
    (e1, n1), (e2, n2) = (curse.solved_error(n, d, degree) for n in (8, 16))
    assert math.log(e1 / e2) / math.log(n2 / n1) == pytest.approx(degree / d, rel=0.12)


@pytest.mark.parametrize("error", [0.3, 0.1, 0.02])
def test_q1_cells_is_least(error):
    for d in (1, 4, 9):
        n = curse.q1_cells(error, d)
        assert curse.q1_error(n, d) <= error and (n == 1 or curse.q1_error(n - 1, d) > error)


# ------------------------------------------------------------------------------------ bad input
def cosine_basis(n=3):
    return bases.Tensor("cosine", Box.unit(2), bases.full(n, 2))


def with_constant():
    return bases.Tensor("legendre", Box.unit(1), torch.tensor([[0], [1]]))


def twice():
    return bases.RandomFeatures(torch.ones(2, 1, dtype=F64), torch.zeros(2, dtype=F64), Box.unit(1))


@pytest.mark.parametrize("call, message", [
    (lambda: galerkin.ritz(cosine_basis(), lambda x: 1 + 0 * x[:, 0]), "∫f = 1"),
    (lambda: galerkin.ritz(cosine_basis(), lambda x: x), r"shape \(.*, 2\)"),
    (lambda: galerkin.ritz(cosine_basis(), lambda x: x[:, 0] * torch.nan), "NaN or infinite"),
    (lambda: galerkin.ritz(twice(), lambda x: x[:, 0] - 0.5), "rank 1 of 2"),
    (lambda: galerkin.ritz(with_constant(), lambda x: x[:, 0] - 0.5), "constants"),
    (lambda: galerkin.solve(torch.eye(2), torch.ones(3)), "K must have shape"),
    (lambda: galerkin.rank(torch.tensor([[1.0, 2.0], [0.0, 1.0]])), "symmetric"),
    (lambda: galerkin.solve(torch.diag(torch.tensor([1.0, 0.0])), torch.ones(2), cutoff=1e-9), "no constants"),
    (lambda: galerkin.least_squares(twice(), lambda x: x[:, 0], lambda x: x[:, 0],
                                    (torch.zeros(3, 1), -torch.ones(3)),
                                    (torch.zeros(0, 1), torch.ones(0))), "one weight ≥ 0 for each of its 3"),
    (lambda: cosine_basis().evaluate(torch.zeros(4, 3, dtype=F64)), r"shape \(n, 2\); got \(4, 3\)"),
    (lambda: twice().gradient(torch.zeros(4, dtype=F64)), r"shape \(n, 1\)"),
    (lambda: curse.tensor_solve(torch.eye(2), torch.eye(2), torch.full((2, 2), torch.nan)), "F must be finite"),
    (lambda: galerkin.least_squares(twice(), lambda x: x[:, 0], lambda x: x[:, 0],
                                    (torch.zeros(1, 1), torch.ones(1)),
                                    (torch.zeros(0, 1), torch.ones(0))), "at least 2 points"),
    (lambda: bases.Tensor("wave", Box.unit(1), bases.full(2, 1)), "family"),
    (lambda: bases.Tensor("sine", Box.unit(1), torch.tensor([[0]])), "at least 1"),
    (lambda: bases.Tensor("cosine", Box.unit(1), torch.tensor([[1], [1]])), "distinct"),
    (lambda: bases.Tensor("cosine", Box.unit(2), torch.tensor([[1]])), "index"),
    (lambda: bases.RandomFeatures(torch.ones(2, 2), torch.ones(2), Box.unit(1)), "weight"),
    (lambda: bases.RandomFeatures(torch.ones(2, 1), torch.ones(2), Box.unit(1), "relu"), "activation"),
    (lambda: cosine_basis().function(torch.ones(3)), "8 entries"),
    (lambda: approximation.manufactured(X[0] * X[1], X[:1]), "also contains"),
    (lambda: approximation.errors(with_constant().function(torch.ones(2, dtype=F64)),
                                  approximation.Function(lambda x: 1 + 0 * x[:, 0]),
                                  *Box.unit(1).quadrature(3)), "not be constant"),
    (lambda: curse.nodes(1.0, 0.3, 2), "divide"),
    (lambda: curse.q1_cells(2.0, 2), "between 0 and 1"),
    (lambda: curse.tensor_solve(torch.eye(2), torch.eye(2), torch.ones(2, 3)), "shape"),
])
def test_bad_input_is_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
