"""Formulas where a fault could hide: boxes off the origin with unequal sides, unequal counts, coefficients that are not 1, d = 1, 2, 3."""
import functools
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lecturelib.pde import (approximation, baselines, bases, boundary, bounds, certificates, certified, curse, discretize, domains, energies, equation_error,
                            equilibrium, evolution, fem, forms, galerkin, implicit, inverse, inverse_pinn, iteration, linear, marini, mesh, natural_gradient,
                            networks, operators, poincare, regression, sample_space, sindy, spectral)
from lecturelib.pde.approximation import Function
from lecturelib.pde.domains import Box
from numpy.polynomial import Legendre

F64, PI = torch.float64, math.pi
LINE, PLATE, BRICK = Box([1.0], [3.0]), Box([1.0, -2.0], [3.0, 5.0]), Box([1.0, -2.0, 0.5], [3.0, 5.0, 3.5])
BOXES = (LINE, PLATE, BRICK)
SIDES = {1: (2.0,), 2: (2.0, 7.0), 3: (2.0, 7.0, 3.0)}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=gen(seed))


def rand(*shape, seed=0):
    return torch.rand(*shape, dtype=F64, generator=gen(seed))


def numbers(*values):
    return torch.tensor(values, dtype=F64)


def inside(box, n, seed=0):
    low, high = numbers(*box.lower), numbers(*box.upper)
    return low + (high - low) * rand(n, box.d, seed=seed)


def close(a, b, tolerance=1e-12):
    return torch.allclose(torch.as_tensor(a, dtype=F64), torch.as_tensor(b, dtype=F64), rtol=tolerance, atol=tolerance)


def zero(x):
    return 0 * x[:, 0]


def column(i, power=1):
    return lambda x: x[:, i] ** power


# ------------------------------------------------------------------------------------------ domains and forms
@pytest.mark.parametrize("box", BOXES, ids=repr)
def test_rules_measure_the_box_its_faces_and_their_moments(box):
    sides = SIDES[box.d]
    x, w = box.quadrature(3)
    assert len(x) == 3**box.d and float(w.sum()) == pytest.approx(math.prod(sides))
    for i, (a, b) in enumerate(zip(box.lower, box.upper)):
        assert float(w @ x[:, i] ** 5) == pytest.approx(math.prod(sides) / (b - a) * (b**6 - a**6) / 6)
    y, v, normal = box.boundary(3)
    on = torch.stack([numbers(*box.lower), numbers(*box.upper)])
    assert float(v.sum()) == pytest.approx(sum(2 * math.prod(sides) / s for s in sides)) and len(y) == 2 * box.d * 3 ** (box.d - 1)
    for i, s in enumerate(sides):
        for end, sign in enumerate((-1.0, 1.0)):
            face = normal[:, i] == sign
            assert float(v[face].sum()) == pytest.approx(math.prod(sides) / s) and bool((y[face, i] == on[end, i]).all())
            assert bool((normal[face].abs().sum(1) == 1).all())
    assert box.poincare == pytest.approx(max(sides) / PI) and box.d == len(sides)


def test_nodes_of_a_rule_are_symmetric_about_the_middle_of_its_interval():
    x, w = domains.gauss_legendre(2, 1.0, 5.0)
    assert close(x, numbers(3 - 2 / 3**0.5, 3 + 2 / 3**0.5)) and close(w, numbers(2, 2))


def test_the_forms_of_a_polynomial_on_a_plate():
    """u = x²y, f = 3, v = xy on [1, 3] × [−2, 5], by hand."""
    x, w = PLATE.quadrature(6)
    u, f = lambda x: x[:, 0] ** 2 * x[:, 1], lambda x: 3 + zero(x)
    m = lambda p, a, b: (b ** (p + 1) - a ** (p + 1)) / (p + 1)
    X, Y = [m(p, 1, 3) for p in range(5)], [m(p, -2, 5) for p in range(5)]
    assert float(forms.energy(u, f, x, w)) == pytest.approx((4 * X[2] * Y[2] + X[4] * Y[0]) / 2 - 3 * X[2] * Y[1])
    assert float(forms.strong_loss(u, f, x, w)) == pytest.approx(4 * X[0] * Y[2] + 12 * X[0] * Y[1] + 9 * X[0] * Y[0])
    assert float(forms.weak_residual(u, lambda x: x[:, 0] * x[:, 1], f, x, w)) == pytest.approx(2 * X[1] * Y[2] + X[3] * Y[0] - 3 * X[1] * Y[1])
    assert float(forms.boundary_loss(u, *PLATE.boundary(6))) == pytest.approx((4 + 36) * Y[2] + 2 * X[4])
    assert close(forms.laplacian(u, x), 2 * x[:, 1])


# -------------------------------------------------------------------------------------------- approximation
def test_errors_in_closed_form_on_a_line():
    """u_* = x, u = 3x + 3 on [1, 3]: ‖u_*‖² = 26/3, ‖u − u_*‖² = 302/3, without the means 2/3 and 8/3, and slopes 1 and 2."""
    exact, u = Function(column(0)), Function(lambda x: 3 * x[:, 0] + 3)
    e, m = (approximation.errors(u, exact, *LINE.quadrature(4), modulo_constants=flag) for flag in (False, True))
    assert (e.l2, e.relative_l2, m.l2, m.relative_l2) == pytest.approx((math.sqrt(302 / 3), math.sqrt(302 / 26), math.sqrt(8 / 3), 2))
    assert (e.h1, e.relative_h1, m.h1, m.relative_h1) == pytest.approx((math.sqrt(8), 2, math.sqrt(8), 2))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_manufactured_sources_against_finite_differences(d):
    import sympy
    s = sympy.symbols("x y z")[:d]
    u, f = approximation.manufactured(sum((k + 2) * sympy.sin((k + 1) * v) for k, v in enumerate(s)) * sympy.exp(s[-1] / 3) + 5, s)
    x, h, e = inside(BOXES[d - 1], 6), 1e-4, torch.eye(d, dtype=F64)
    up, down = ([u.value(x + t * h * e[i]) for i in range(d)] for t in (1, -1))
    assert close(f.value(x), -sum(a + b - 2 * u.value(x) for a, b in zip(up, down)) / h**2, 1e-5)
    assert close(u.gradient(x), torch.stack([(a - b) / (2 * h) for a, b in zip(up, down)], 1), 1e-6)
    assert close(u.laplacian(x), -f.value(x)) and f.gradient(x).shape == x.shape


def test_derivatives_that_are_given_are_not_computed():
    x = inside(PLATE, 3)
    u = Function(column(0), lambda x: 7 * x, lambda x: 9 * x[:, 1])
    assert torch.equal(u.gradient(x), 7 * x) and torch.equal(u.laplacian(x), 9 * x[:, 1]) and torch.equal(u(x), x[:, 0])


# ------------------------------------------------------------------------------------------------ bases
def by_numpy(family, k, a, b):
    """One basis function on (a, b) with its first two derivatives, by numpy."""
    L = b - a
    if family in ("cosine", "sine"):
        w, size = k * PI / L, math.sqrt((2 if k else 1) / L)
        c, s = (lambda t: size * np.cos(w * (t - a))), (lambda t: size * np.sin(w * (t - a)))
        return [c, lambda t: -w * s(t), lambda t: -w * w * c(t)] if family == "cosine" else [s, lambda t: w * c(t), lambda t: -w * w * s(t)]
    p = Legendre.basis(k, [a, b]) * math.sqrt((2 * k + 1) / L)
    p = p.integ(1, lbnd=a) if family == "bubble" else p
    return [p, p.deriv(), p.deriv(2)]


@pytest.mark.parametrize("family", bases.FAMILIES)
@pytest.mark.parametrize("index", [[[1], [4], [2]], [[1, 2], [3, 1], [2, 5]], [[1, 2, 1], [3, 1, 2]]], ids=["1", "2", "3"])
def test_tensor_bases_against_numpy(family, index):
    box = BOXES[len(index[0]) - 1]
    basis, x = bases.Tensor(family, box, torch.tensor(index)), inside(box, 5)
    one = [[[torch.as_tensor(g(x[:, i].numpy())) for g in by_numpy(family, k, a, b)] for i, (k, a, b) in enumerate(zip(row, box.lower, box.upper))] for row in index]
    product = lambda row, orders: math.prod(row[i][m] for i, m in enumerate(orders))
    unit = lambda i, m: [m * (i == j) for j in range(box.d)]
    assert close(basis.evaluate(x), torch.stack([product(row, unit(0, 0)) for row in one], 1))
    assert close(basis.gradient(x), torch.stack([torch.stack([product(row, unit(i, 1)) for i in range(box.d)], 1) for row in one], 1))
    assert close(basis.laplacian(x), torch.stack([sum(product(row, unit(i, 2)) for i in range(box.d)) for row in one], 1))
    assert basis.order == 2 * max(map(max, index)) + 16 and basis.natural == (family in ("cosine", "legendre"))


@pytest.mark.parametrize("family", bases.FAMILIES)
def test_stiffness_and_load_by_quadrature_of_numpys_functions(family):
    index = [[1, 2], [3, 1], [2, 5], [3, 2]]
    basis, (x, w) = bases.Tensor(family, PLATE, torch.tensor(index)), PLATE.quadrature(24)
    grad = [[torch.as_tensor(f[int(i == 0)](x[:, 0].numpy()) * g[int(i == 1)](x[:, 1].numpy())) for i in (0, 1)]
            for f, g in ((by_numpy(family, j, 1, 3), by_numpy(family, k, -2, 5)) for j, k in index)]
    assert close(basis.stiffness(), [[float(w @ (a[0] * b[0] + a[1] * b[1])) for a in grad] for b in grad], 1e-9)
    f = lambda x: torch.exp(-x[:, 0]) * x[:, 1] ** 2
    assert close(basis.load(f), basis.evaluate(x).T @ (w * f(x)), 1e-10)


def test_the_constant_is_one_over_the_root_of_the_volume():
    for family in ("cosine", "legendre"):
        basis = bases.Tensor(family, PLATE, torch.tensor([[0, 0], [0, 3], [2, 0]]))
        x, w = PLATE.quadrature(20)
        phi = basis.evaluate(x)
        assert close(phi[:, 0], 14**-0.5) and close(phi.T @ (w[:, None] * phi), torch.eye(3), 1e-11)


def test_full_lists_every_index_once():
    for n, d, first in ((3, 2, 0), (2, 3, 1), (4, 1, 0), (2, 2, 3)):
        listed = [tuple(k) for k in bases.full(n, d, first).tolist()]
        assert listed == [k for k in itertools.product(range(first, first + n), repeat=d) if any(k)]


@pytest.mark.parametrize("activation, sigma", [("tanh", [torch.tanh, lambda z: torch.cosh(z) ** -2, lambda z: -2 * torch.tanh(z) * torch.cosh(z) ** -2]),
                                               ("cos", [torch.cos, lambda z: -torch.sin(z), lambda z: -torch.cos(z)])])
def test_random_features_are_ridges(activation, sigma):
    W, b, x = randn(4, 2), randn(4, seed=1), inside(PLATE, 6)
    basis = bases.RandomFeatures(W, b, PLATE, activation, order=20)
    z = x @ W.T + b
    assert close(basis.evaluate(x), sigma[0](z)) and close(basis.gradient(x), sigma[1](z)[:, :, None] * W)
    assert close(basis.laplacian(x), sigma[2](z) * (W * W).sum(1))
    y, w = PLATE.quadrature(20)
    slope = basis.gradient(y)
    assert close(basis.stiffness(), torch.einsum("q,qid,qjd->ij", w, slope, slope), 1e-9)
    assert close(basis.load(column(1)), basis.evaluate(y).T @ (w * y[:, 1]), 1e-9)


def through_the_box(W, b, box):
    """Does every ridge w·x + b = 0 meet the box?"""
    low, high = numbers(*box.lower), numbers(*box.upper)
    least, most = (torch.where(W > 0, p, q) for p, q in ((low, high), (high, low)))
    return bool((((W * least).sum(1) + b <= 1e-12) & ((W * most).sum(1) + b >= -1e-12)).all())


@pytest.mark.parametrize("box", BOXES, ids=repr)
def test_random_ridges_are_spread_over_the_box(box):
    drawn = bases.RandomFeatures.sample(box, 4000, 0.5, gen())
    W, b = drawn.weight, drawn.bias
    assert through_the_box(W, b, box) and float(W.abs().max()) <= 0.5
    assert float(W.mean()) == pytest.approx(0, abs=0.02) and float(W.var()) == pytest.approx(0.25 / 3, rel=0.05)
    for net, variance in ((networks.Shallow.random(4000, box, gen(), 0.5), 0.25), (networks.Shallow.random(4000, box, gen(), 3.0), 9.0)):
        assert through_the_box(net.W, net.b, box) and float(net.W.var()) == pytest.approx(variance, rel=0.08)
        assert float(net.a.std()) == pytest.approx(1 / 4000, rel=0.05) and float(net.c) == 0
    if box.d == 1:                                          # where the ridge crosses is uniform on (1, 3)
        for where in (-b / W[:, 0], -net.b / net.W[:, 0]):
            assert float(where.mean()) == pytest.approx(2, abs=0.05) and float(where.var()) == pytest.approx(1 / 3, rel=0.06)


# ---------------------------------------------------------------------------------------------- boundary
@pytest.mark.parametrize("box", BOXES, ids=repr)
def test_the_bubble_is_one_in_the_middle_and_a_product_of_parabolas(box):
    phi, x = boundary.bubble(box), inside(box, 5)
    middle = (numbers(*box.lower) + numbers(*box.upper)) / 2
    exact = Function(lambda x: math.prod(1 - ((x[:, i] - middle[i]) * 2 / s) ** 2 for i, s in enumerate(SIDES[box.d])))
    assert float(phi.value(middle[None])) == pytest.approx(1)
    assert close(phi.value(x), exact.value(x)) and close(phi.gradient(x), exact.gradient(x)) and close(phi.laplacian(x), exact.laplacian(x))


@pytest.mark.parametrize("box", BOXES, ids=repr)
def test_trace_constant_is_the_maximum_of_a_parabola(box):
    """C² = (4/l) max over t ≤ C_F of ½ diam·t − (d/2 − 1)t², l the shortest side."""
    sides, d = SIDES[box.d], box.d
    friedrichs = 1 / (PI * math.sqrt(sum(s**-2 for s in sides)))
    t = torch.linspace(0, friedrichs, 1001, dtype=F64)
    square = 4 / min(sides) * float((math.hypot(*sides) / 2 * t - (d / 2 - 1) * t * t).max())
    assert equilibrium.friedrichs(box) == pytest.approx(friedrichs) and boundary.trace_constant(box) ** 2 == pytest.approx(square)
    assert boundary.balanced_weight(box) == pytest.approx(square / friedrichs**4)


@pytest.mark.parametrize("box", BOXES, ids=repr)
def test_the_soft_certificate_by_hand(box):
    """u = x₁², f = 1, g = u + 2: the residual is 3, the misfit 2; points alone add standard errors."""
    sides = SIDES[box.d]
    volume, surface = math.prod(sides), sum(2 * math.prod(sides) / s for s in sides)
    C, T = equilibrium.friedrichs(box) ** 2, boundary.trace_constant(box)
    u, f, g = Function(column(0, 2)), lambda x: 1 + zero(x), lambda x: x[:, 0] ** 2 + 2
    exact = boundary.soft_dirichlet_bound(u, f, g, box, box.quadrature(3), box.boundary(3))
    assert (exact.interior, exact.boundary) == pytest.approx((C * 3 * math.sqrt(volume), T * 2 * math.sqrt(surface)))
    assert exact.bound == pytest.approx(exact.interior + exact.boundary) and "exactly" in exact.assumed
    x, y, f = inside(box, 50), torch.cat([box.boundary(3)[0]] * 3), lambda x: x[:, 0]
    drawn = boundary.soft_dirichlet_bound(u, f, lambda x: x[:, 0], box, x, y, sigmas=2.0)
    means = [float(s.mean() + 2 * (s - s.mean()).square().sum().div(len(s) - 1).sqrt() / len(s) ** 0.5) for s in ((x[:, 0] + 2) ** 2, (y[:, 0] - y[:, 0] ** 2) ** 2)]
    assert (drawn.interior, drawn.boundary) == pytest.approx((C * math.sqrt(volume * means[0]), T * math.sqrt(surface * means[1])))
    assert "within 2 standard errors" in drawn.assumed


# ------------------------------------------------------------------------------------------------ bounds
def test_coercivity_of_a_form_that_is_not_symmetric():
    alpha, M = bounds.coercivity(numbers(2, 3, -1, 5).reshape(2, 2))
    assert alpha == pytest.approx(3.5 - math.hypot(1.5, 1)) and M == pytest.approx(float(np.linalg.norm([[2, 3], [-1, 5]], 2)))


def test_the_galerkin_factor_is_the_worst_ratio_over_all_u():
    """d = 2: P u = x (xᵀAu)/(xᵀAx), the best approximation is orthogonal."""
    A, X = numbers(2, 3, -1, 5).reshape(2, 2), numbers(1, 2)[:, None]
    t = torch.linspace(0, PI, 4001, dtype=F64)
    u = torch.stack([torch.cos(t), torch.sin(t)])
    galerkin_error = (u - X @ (X.T @ A @ u) / (X.T @ A @ X)).norm(dim=0)
    best = (u - X @ (X.T @ u) / (X.T @ X)).norm(dim=0)
    assert bounds.galerkin_factor(A, X) == pytest.approx(float((galerkin_error / best)[best > 1e-3].max()), rel=1e-6)
    assert bounds.symmetric_factor(9.0) == pytest.approx(5 / 3)


@pytest.mark.parametrize("box", [LINE, PLATE], ids=repr)
def test_the_chain_of_a_one_dimensional_space_by_hand(box):
    """Projections of u = cos(π(x − a)/l) + x² − mean on the span of φ = (x − 2)³: fractions of inner products."""
    x, w = box.quadrature(24)
    L = Function(lambda x: torch.cos(PI * (x[:, 0] - 1) / 2))
    f = lambda x: (PI / 2) ** 2 * L.value(x)
    phi = Function(lambda x: torch.sin(x[:, 0]) + x[:, -1] / 5)

    class Basis:
        N = 1

        def evaluate(self, x):
            return phi.value(x)[:, None]

        def gradient(self, x):
            return phi.gradient(x)[:, None]
    c = bounds.chain(L, f, Basis(), x, w, 1.7)
    p, u = (v.value(x) - float(w @ v.value(x)) / float(w.sum()) for v in (phi, L))
    dp, du = phi.gradient(x), L.gradient(x)
    ip, ig = (lambda a, b: float(w @ (a * b))), (lambda a, b: float(w @ (a * b).sum(1)))
    k = ip(f(x), p) / ig(dp, dp)
    rest = lambda uu, pu, pp: (uu - pu**2 / pp) / 2
    assert c.gradient == pytest.approx(ig(du - k * dp, du - k * dp) / 2) and c.gap == pytest.approx(c.gradient)
    assert c.l2 == pytest.approx(ip(u - k * p, u - k * p) / 2 / 1.7**2)
    assert c.best_gradient == pytest.approx(rest(ig(du, du), ig(du, dp), ig(dp, dp)))
    assert c.best_l2 == pytest.approx(rest(ip(u, u), ip(u, p), ip(p, p)))
    assert c.best_h1 == pytest.approx(rest(ip(u, u) + ig(du, du), ip(u, p) + ig(du, dp), ip(p, p) + ig(dp, dp)))


# ------------------------------------------------------------------------------------------ certificates
@pytest.mark.parametrize("box", BOXES, ids=repr)
def test_vanish_takes_squares_to_products_of_their_zeros(box):
    u = certificates.vanish(Function(lambda x: (3 * x**2 + x).prod(1)), box)
    x = inside(box, 6)
    assert close(u.value(x), math.prod(3 * (x[:, i] - a) * (x[:, i] - b) for i, (a, b) in enumerate(zip(box.lower, box.upper))), 1e-10)


def test_what_a_certificate_says():
    c = certificates.Certificate(3.0, 1.0, 0.5, "")
    assert (c.l2, c.gap, c.effectivity(1.5)) == (1.5, 4.5, 2.0)


def residual():
    """u and f on the plate with the residual r = cos(π(x − 1)/2)·3 + cos(2π(y + 2)/7), of mean zero."""
    r = lambda x: 3 * torch.cos(PI * (x[:, 0] - 1) / 2) + torch.cos(2 * PI * (x[:, 1] + 2) / 7)
    return Function(zero, None, lambda x: 5 + zero(x)), (lambda x: r(x) - 5), r


def test_the_residual_bound_on_a_plate_and_by_points():
    u, f, r = residual()
    c = certificates.residual_bound(u, f, *PLATE.quadrature(20), constant=0.7)
    assert c.bound == pytest.approx(0.7 * math.sqrt(14 * (9 / 2 + 1 / 2))) and (c.lower, c.constant) == (0.0, 0.7)
    x = inside(PLATE, 400)
    s = r(x).square().numpy()
    drawn = certificates.residual_bound(u, f, x, constant=0.7, volume=14.0, sigmas=2.0)
    assert drawn.bound == pytest.approx(0.7 * math.sqrt(14 * (s.mean() + 2 * s.std(ddof=1) / 20)))


def test_cosines_are_listed_by_frequency_and_scaled():
    x = rand(7, 2)
    phi, k2 = certificates.cosines(x, 9)
    ks = sorted(((i, j) for i in range(3) for j in range(3) if 0 < i * i + j * j < 9), key=lambda k: k[0] ** 2 + k[1] ** 2)
    assert k2.tolist() == [i * i + j * j for i, j in ks]
    exact = torch.stack([math.sqrt(2) ** ((i > 0) + (j > 0)) * torch.cos(i * PI * x[:, 0]) * torch.cos(j * PI * x[:, 1]) for i, j in ks], 1)
    assert close(phi.sort(1).values, exact.sort(1).values) and [certificates.cosines(x, m)[1].numel() for m in (1, 2, 3, 5, 6)] == [0, 2, 3, 5, 7]
    assert certificates.cosines(rand(2, 4), 5)[1].tolist() == [1.0] * 4 + [2.0] * 6 + [3.0] * 4 + [4.0] * 5


@pytest.mark.parametrize("m", [1, 2, 4])
def test_the_deflated_bounds_of_three_modes(m):
    """r = Σ r_kφ_k with |k|² = 1, 2, 9: ∇-norms r_k/π|k| below the cutoff, π⁻²m⁻¹ per r_k² above."""
    modes = {(1, 0): 2.0, (1, 1): -3.0, (0, 3): 0.5}
    phi = lambda k: lambda x: math.sqrt(2) ** sum(j > 0 for j in k) * torch.cos(PI * k[0] * x[:, 0]) * torch.cos(PI * k[1] * x[:, 1])
    f = lambda x: sum(c * phi(k)(x) for k, c in modes.items())
    split = [[(c, i * i + j * j) for (i, j), c in modes.items() if (i * i + j * j < m) is low] for low in (True, False)]
    low = sum(c * c / (PI**2 * k2) for c, k2 in split[0])
    u, box = Function(zero, None, zero), Box.unit(2)
    c = certificates.deflated_residual_bound(u, f, *box.quadrature(16), cutoff=m)
    assert c.lower == pytest.approx(math.sqrt(low)) and c.bound == pytest.approx(math.sqrt(low + sum(c * c for c, _ in split[1]) / (PI**2 * m)))
    x = rand(901, 2)                                        # by points: odd, so that the halves differ
    d = certificates.deflated_residual_bound(u, f, x, cutoff=m, sigmas=2.0)
    table, k2 = (v.numpy() for v in certificates.cosines(x, m))
    r, lam = f(x).numpy(), PI**2 * k2
    gain, rk = 1 / lam - 1 / (PI**2 * m), (r @ table) / 901
    terms = r**2 / (PI**2 * m) + 2 * r * (table @ (gain * rk))
    assert d.bound**2 == pytest.approx((r**2).mean() / (PI**2 * m) + gain @ rk**2 + 2 * terms.std(ddof=1) / 901**0.5)
    if m > 1:
        products = r[:450, None] * table[:450]
        mean = products.mean(0)
        w = mean * np.maximum(1 - products.var(0, ddof=1) / 450 / mean**2, 0) / lam
        tested = r[450:] * (table[450:] @ w)
        assert d.lower == pytest.approx((tested.mean() - 2 * tested.std(ddof=1) / 451**0.5) / math.sqrt(lam @ w**2))
        assert 0.5 * c.lower < d.lower < c.lower < c.bound < d.bound < 1.2 * c.bound


def test_the_bracket_of_a_plate_with_a_flux_that_is_not_the_gradient():
    """f is not a polynomial: bound = ‖∇v − q‖ + o, lower = √(‖∇v − q‖² − ‖∇w − q‖²) − o, and twice the difference of the rules is allowed for."""
    f = lambda x: torch.cos(PI * (x[:, 0] - 1)) * torch.exp(x[:, 1] / 4)
    v = Function(lambda x: torch.sin(x[:, 0]) * x[:, 1])
    for bc, u in (("neumann", v), ("dirichlet", certificates.vanish(v, PLATE))):
        pair = equilibrium.Equilibrium(f, PLATE, 7, bc)
        x, w = PLATE.quadrature(33)
        size = float((w @ (u.gradient(x) - pair.flux(x)).square().sum(1)).sqrt())
        c = certificates.certify(u, pair, x, w)
        assert c.bound == pytest.approx(size + pair.oscillation) and c.constant == pair.constant
        assert c.lower == pytest.approx(math.sqrt(size**2 - pair.width**2) - pair.oscillation) and 0 < c.lower < c.bound


@pytest.mark.parametrize("sizes", [(2.0, 2.01), (2.01, 2.0)])
def test_the_difference_of_two_rules_is_added_to_the_larger_and_taken_off_the_smaller(sizes):
    class Pair:
        domain, order, dtype, device, bc, width, oscillation, constant = Box.unit(1), 3, F64, None, "neumann", 1.2, 0.25, 1.0
        flux = staticmethod(lambda x: 0 * x)
    c = certificates.certify(Function(zero, lambda x: 0 * x + sizes[len(x) == 6]), Pair())
    assert c.bound == pytest.approx(2.02 + 0.25) and c.lower == pytest.approx(math.sqrt(1.99**2 - 1.2**2) - 0.25)
    Pair.width = 5.0
    assert certificates.certify(Function(zero, lambda x: 0 * x + 2.0), Pair()).lower == 0


# -------------------------------------------------------------------------------------------- equilibrium
def test_legendre_polynomials_on_an_interval_off_the_origin():
    x = inside(LINE, 5)[:, 0]
    assert close(equilibrium.legendre(x, 6, 1.0, 3.0), np.stack([by_numpy("legendre", k, 1, 3)[0](x.numpy()) for k in range(7)], 1))


def parabolas(box):
    """u = ∏(x_i − a_i)(b_i − x_i)."""
    return Function(lambda x: math.prod((x[:, i] - a) * (b - x[:, i]) for i, (a, b) in enumerate(zip(box.lower, box.upper))))


def quartics(box):
    """u = Σ (i + 1)(x_i − a_i)²(b_i − x_i)²: ∂ₙu = 0."""
    return Function(lambda x: sum((i + 1) * ((x[:, i] - a) * (b - x[:, i])) ** 2 for i, (a, b) in enumerate(zip(box.lower, box.upper))))


@pytest.mark.parametrize("box", BOXES, ids=repr)
@pytest.mark.parametrize("bc, make", [("dirichlet", parabolas), ("neumann", quartics)])
def test_polynomial_solutions_are_reproduced(box, bc, make):
    u, x = make(box), inside(box, 9)
    degree = 4 if bc == "dirichlet" else 5
    pair = equilibrium.Equilibrium(lambda x: -u.laplacian(x), box, degree, bc)
    scale = float(u.gradient(x).abs().max())
    assert close(pair.gradient(x) / scale, u.gradient(x) / scale, 1e-10) and close(pair.flux(x) / scale, u.gradient(x) / scale, 1e-10)
    assert close(pair.divergence(x) / scale, u.laplacian(x) / scale, 1e-10) and max(pair.oscillation, pair.width) < 1e-9 * scale
    gap = pair.value(x) - u.value(x)
    assert float(gap.std()) < 1e-10 * scale and (bc == "neumann" or float(gap.abs().max()) < 1e-10 * scale)
    assert pair.constant == pytest.approx(max(SIDES[box.d]) / PI if bc == "neumann" else equilibrium.friedrichs(box)) and pair.order == degree + 8
    y, w = box.quadrature(6)
    assert bc == "dirichlet" or abs(float(w @ pair.value(y))) < 1e-9 * scale


def test_oscillation_and_width_by_another_rule():
    f = lambda x: torch.exp(x[:, 0]) * torch.cos(x[:, 1])
    pair = equilibrium.Equilibrium(f, PLATE, 4, "dirichlet")
    x, w = PLATE.quadrature(40)
    assert pair.oscillation == pytest.approx(pair.constant * float((w @ (f(x) + pair.divergence(x)).square()).sqrt()), rel=1e-9)
    assert pair.width == pytest.approx(float((w @ (pair.gradient(x) - pair.flux(x)).square().sum(1)).sqrt()), rel=1e-9)
    parts = x.split(700)
    assert close(pair.flux(x), torch.cat([pair.flux(y) for y in parts]))


@pytest.mark.parametrize("n", [5, 6])
@pytest.mark.parametrize("clamped", [False, True])
def test_the_ladder_differentiates_legendre_series(n, clamped):
    U, s, V = equilibrium.derivative_svd(n, 2.5, clamped)
    assert U.shape == (n, n) and V.shape == (n + 1, n - 1 if clamped else n + 1) and bool((s.diff() <= 0).all())
    size = np.sqrt((2 * np.arange(n + 1) + 1) / 2.5)
    for k in range(len(s)):
        slope = Legendre(V[:, k].numpy() * size, [0, 2.5]).deriv().coef / size[:n]
        assert close(slope, s[k] * U[:, k], 1e-10)
        assert not clamped or abs(Legendre(V[:, k].numpy() * size, [0, 2.5])(np.array([0, 2.5]))).max() < 1e-11


# ---------------------------------------------------------------------------------------------- certified
def ridges(m=5, d=3, cosine=False):
    return certified.RidgeSum(randn(m, d), randn(m, seed=1), randn(m, seed=2), cosine)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("d", [1, 3])
def test_ridge_sums_are_linear_in_their_outer_weights_and_flat_in_theta(cosine, d):
    v, x = ridges(5, d, cosine), rand(6, d)
    y = torch.cos(PI * x) if cosine else x
    assert close(v.value(x), sum(v.a[j] * torch.tanh(y @ v.W[j] + v.b[j]) for j in range(5)))
    assert v.parameters == 5 * (d + 2)
    assert close((v.gradient_features(x) @ v.a).reshape(6, d), v.gradient(x)) and close(v.laplacian_features(x) @ v.a, v.laplacian(x))
    assert close(v.gradient(x), forms.gradient(v.value, x)) and close(v.laplacian(x), forms.laplacian(v.value, x), 1e-10)
    step = randn(v.parameters, seed=3)
    u = v.moved(step)
    assert torch.equal(u.a, v.a + step[:5]) and torch.equal(u.b, v.b + step[5:10]) and torch.equal(u.W, v.W + step[10:].reshape(5, d)) and u.cosine is cosine


@pytest.mark.parametrize("cosine", [False, True])
def test_random_ridge_sums_have_the_stated_scale_and_cross_the_domain(cosine):
    v = certified.ridge_sum(3000, 4, gen(), scale=3.0, cosine=cosine)
    assert float(v.W.std()) == pytest.approx(1.5, rel=0.03) and not v.a.any() and v.cosine is cosine
    assert through_the_box(v.W, v.b, Box([-1.0 if cosine else 0.0] * 4, [1.0] * 4))
    line = certified.ridge_sum(3000, 1, gen(), cosine=cosine)
    y0 = -line.b / line.W[:, 0]
    y0 = torch.acos(y0.clamp(-1, 1)) / PI if cosine else y0                 # uniform on (0, 1)
    assert float(y0.mean()) == pytest.approx(0.5, abs=0.02) and float(y0.var()) == pytest.approx(1 / 12, rel=0.06)


def test_half_of_the_spread_points_lean_to_two_corners():
    """E x² = ¼ ln(7/3) + ½ − ½ ln 2 for u^P or 1 − u^P, P uniform in (1, 3)."""
    n = 100001
    x = certified.spread_points(n, 2, gen())
    pushed, uniform = x[:n // 2], x[n // 2:]
    assert x.shape == (n, 2) and 0 <= float(x.min()) and float(x.max()) <= 1
    assert float(pushed.square().mean()) == pytest.approx(math.log(7 / 3) / 4 + 0.5 - math.log(2) / 2, abs=0.003)
    assert float(uniform.square().mean()) == pytest.approx(1 / 3, abs=0.003) and float(x.mean()) == pytest.approx(0.5, abs=0.003)
    assert float(((pushed < 0.5).all(1) | (pushed > 0.5).all(1)).double().mean()) > 0.54        # both coordinates lean the same way
    assert len(certified.spread_points(3, 1, gen())) == 3


@pytest.mark.parametrize("cosine", [False, True])
def test_fits_leave_residuals_orthogonal_to_the_features(cosine):
    v = ridges(4, 2, cosine)
    x, w, q = rand(30, 2, seed=4), rand(30, seed=5), randn(30, 2, seed=6)
    u = certified.fit_flux(v, q, x, w)
    weights = w.repeat_interleave(2)[:, None]
    assert float((v.gradient_features(x).T @ (weights * (u.gradient(x) - q).reshape(-1, 1))).abs().max()) < 1e-10
    f = lambda x: torch.exp(x[:, 0])
    u = certified.fit_residual(v, f, x)
    assert float((v.laplacian_features(x).T @ (u.laplacian(x) + f(x))).abs().max()) < 1e-7 and u.cosine is cosine


class Arc:
    """r(t) = atan t in the place of a network."""

    def __init__(self, t):
        self.t = t

    def moved(self, step):
        return Arc(self.t + step)


@pytest.mark.parametrize("start", [0.5, 3.0, 1e4])
def test_levenberg_marquardt_doubles_and_divides_by_three(start):
    """Newton on atan overshoots; the damped step is r'r/(r'² + (λr')²), twelve doublings at most."""
    runs = certified._levenberg_marquardt(Arc(numbers(start)), lambda v: torch.atan(v.t), lambda v: (1 / (1 + v.t**2))[:, None], 6)
    t, damping = start, 1e-2
    for v in runs:
        for _ in range(12):
            trial = t - math.atan(t) * (1 + t * t) / (1 + damping**2)
            if abs(math.atan(trial)) < abs(math.atan(t)):
                t, damping = trial, damping / 3
                break
            damping *= 2
        assert float(v.t) == pytest.approx(t, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kind", ["flux", "residual"])
def test_the_first_damped_step_solves_the_regularized_normal_equations(kind):
    v, x, w, q = ridges(3, 2), rand(20, 2), rand(20, seed=1) + 0.1, randn(20, 2, seed=2)
    f = lambda x: x[:, 0] - 2
    if kind == "flux":
        root = w.sqrt().repeat_interleave(2)
        u = next(certified.train_flux(v, q, x, w, 1))
        J, r = root[:, None] * v.gradient_jacobian(x), root * (v.gradient(x) - q).reshape(-1)
    else:
        u = next(certified.train_residual(v, f, x, 1))
        J, r = v.laplacian_jacobian(x) / 20**0.5, (v.laplacian(x) + f(x)) / 20**0.5
    lam = (1e-2 * torch.linalg.matrix_norm(J, 2)) ** 2
    step = lambda k: -torch.linalg.solve(J.T @ J + lam * 4**k * torch.eye(12, dtype=F64), J.T @ r)
    trials = [v.moved(step(k)) for k in range(6)]
    assert any(close(u.a, t.a, 1e-8) and close(u.W, t.W, 1e-8) for t in trials)


# ------------------------------------------------------------------------------------------------- curse
def test_grid_points_and_errors_of_multilinear_elements():
    assert [curse.nodes(3.0, 0.25, d) for d in (1, 2, 3)] == [13, 169, 2197] and curse.nodes(0.5, 0.5, 4) == 16
    for n, d in ((1, 1), (1, 4), (2, 3), (5, 2), (7, 6)):           # 1 − Σ a_i of the best product: ∏ over the axes
        t = PI / n
        mass, energy = (2 + math.cos(t)) / 3, 2 * (1 - math.cos(t)) / t**2         # of the interpolant's symbol
        # b·cos = 2(1−cos t)/t² of ∫cos φ; captured = d π² ∏ b² / (energy mass^{d−1} d)
        share = energy**(2 * d) / (energy * mass ** (d - 1))
        assert curse.q1_error(n, d) == pytest.approx(math.sqrt(1 - share), rel=1e-9)


def test_line_matrices_of_three_cells():
    space, A, M = curse.line_matrices(3)
    off = torch.ones(3, dtype=F64)
    K = torch.diag(numbers(1, 2, 2, 1)) - torch.diag(off, 1) - torch.diag(off, -1)
    assert close(A, 3 * K) and close(M, (torch.diag(numbers(2, 4, 4, 2)) + torch.diag(off, 1) + torch.diag(off, -1)) / 18) and space.N == 4
    assert curse.line_matrices(3, 2)[1].shape == (7, 7)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_tensor_solve_against_kronecker_products(d):
    R = randn(4, 4)
    M = R @ R.T + torch.eye(4, dtype=F64)
    B = randn(4, 4, seed=1)
    B = B - B.mean(1, keepdim=True)                                              # kernel of BᵀB: constants
    A, F = B.T @ B, randn(*[4] * d, seed=2)
    K = sum(functools.reduce(torch.kron, [A if i == j else M for j in range(d)]) for i in range(d))
    F = F - F.mean()
    C = curse.tensor_solve(A, M, F)
    exact = torch.linalg.lstsq(K, F.reshape(-1, 1), driver="gelsd").solution[:, 0]
    gap = C.reshape(-1) - exact
    assert close(K @ C.reshape(-1), F.reshape(-1), 1e-9) and float(gap.std()) < 1e-9


def test_the_least_number_of_cells_by_counting_up():
    for d in (1, 2, 3, 6, 12):
        for error in (0.9, 0.77, 0.5, 0.3, 0.2, 0.13, 0.1, 0.05):
            assert curse.q1_cells(error, d) == next(n for n in itertools.count(1) if curse.q1_error(n, d) <= error)


# --------------------------------------------------------------------------------------------- discretize
def test_centers_run_along_the_last_axis_first():
    assert discretize.centers(3, 2).tolist() == [[a / 6, b / 6] for a in (1, 3, 5) for b in (1, 3, 5)]
    assert discretize.centers(1, 3).tolist() == [[0.5] * 3]


@pytest.mark.parametrize("bc", discretize.BOUNDARY)
@pytest.mark.parametrize("d", [1, 2, 3])
def test_laplacians_by_loops_over_neighbors(bc, d):
    n = 4
    side = n if bc == "neumann" else n - 1
    A = torch.zeros(side**d, side**d, dtype=F64)
    for i in itertools.product(range(side), repeat=d):
        p = int(np.ravel_multi_index(i, [side] * d))
        for axis, s in itertools.product(range(d), (-1, 1)):
            j = list(i)
            j[axis] += s
            if 0 <= j[axis] < side:
                A[p, int(np.ravel_multi_index(j, [side] * d))] -= n * n
            if 0 <= j[axis] < side or bc == "dirichlet":
                A[p, p] += n * n
    assert close(discretize.matrix(n, d, bc), A)
    lam = discretize.eigenvalues(n, d, bc).reshape([side] * d)
    k = torch.arange(n - side, n, dtype=F64)
    one = 2 * n * n * (1 - torch.cos(PI * k / n))
    assert close(lam, sum(one.reshape([-1 if i == j else 1 for j in range(d)]) for i in range(d)))


@pytest.mark.parametrize("bc", discretize.BOUNDARY)
@pytest.mark.parametrize("n", [2, 5, 6])
def test_modes_are_sampled_trigonometric_functions(bc, n):
    Q = discretize.modes(n, bc)
    exact = np.array([[math.cos(k * PI * (i + 0.5) / n) for k in range(n)] for i in range(n)] if bc == "neumann" else
                     [[math.sin(k * PI * i / n) for k in range(1, n)] for i in range(1, n)])
    assert close(Q, exact / np.linalg.norm(exact, axis=0))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_difference_norm_of_linear_functions(d):
    """u = Σ (i + 2) x_i: n − 1 of n differences per axis."""
    n = 5
    x = discretize.centers(n, d)
    u = sum((i + 2) * x[:, i] for i in range(d)).reshape([n] * d)
    exact = math.sqrt(sum((i + 2) ** 2 for i in range(d)) * (n - 1) / n)
    assert close(discretize.difference_norm(torch.stack([u, 3 * u]), d), numbers(exact, 3 * exact))


# ------------------------------------------------------------------------------------------------ energies
def test_the_rows_of_the_strong_form_by_hand():
    """−Δu + c(u) − f and u − g with weights that are not equal and β = 5."""
    u = networks.Shallow.random(4, PLATE, gen(), 0.6)
    (x, w), (y, v) = (inside(PLATE, 7), rand(7, seed=1) + 0.2), (inside(PLATE, 5, 2), rand(5, seed=3) + 0.2)
    f, g = (lambda x: x[:, 0] * x[:, 1]), (lambda x: x[:, 1])
    form = energies.StrongForm(f, (x, w), g, (y, v), (lambda s: 2 * s**3, lambda s: 6 * s**2))
    r = torch.cat([w.sqrt() * (-u.laplacian(x) + 2 * u.value(x) ** 3 - f(x)), (5 * v).sqrt() * (u.value(y) - g(y))])
    assert close(form.residual(u, 5.0), r) and float(form.loss(u, 5.0)) == pytest.approx(float(r @ r) / 2)
    assert float(form.loss(u)) == pytest.approx(float(r[:7] @ r[:7] + r[7:] @ r[7:] / 5) / 2)
    assert close(form.jacobian(u, 5.0), torch.func.jacrev(lambda t: form.residual(u.at(t), 5.0))(u.theta), 1e-10)


@pytest.mark.parametrize("potential, vanishing", [(None, False), (None, True), ((lambda v: v**4, lambda v: 4 * v**3, lambda v: 12 * v**2), False)])
def test_the_ritz_energy_by_hand(potential, vanishing):
    u = networks.Shallow.random(4, PLATE, gen(), 0.6)
    x, w = PLATE.quadrature(6)
    f = lambda x: 3 * x[:, 0] - 6
    form = energies.RitzForm(f, (x, w), potential, vanishing)
    v = u.value(x)
    energy = float(w @ (u.gradient(x).square().sum(1) / 2 - f(x) * v)) + (float(w @ v**4) if potential else 0 if vanishing else float(w @ v) ** 2 / 2)
    assert float(form.energy(u)) == pytest.approx(energy)
    g, B = form.tangent(u)
    assert close(g, torch.func.grad(lambda t: form.energy(u.at(t)))(u.theta), 1e-10)
    outer = lambda t: networks.Shallow(u.W, u.b, t[:4], t[4:])                   # E in the outer weights alone
    hessian = torch.func.hessian(lambda t: form.energy(outer(t)))(torch.cat([u.a, u.c]))
    assert close((B.T @ B)[-5:, -5:], hessian, 1e-9)


@pytest.mark.parametrize("box", BOXES, ids=repr)
def test_samples_are_uniform_inside_and_on_the_faces(box):
    n, sides = 20000, SIDES[box.d]
    low, side = numbers(*box.lower), numbers(*sides)
    x, w = energies.interior_sample(box, n, gen())
    t = (x - low) / side
    assert 0 <= float(t.min()) and float(t.max()) <= 1 and close(w, math.prod(sides) / n)
    assert close(t.mean(0), 0.5, 0.02) and close(t.var(0), 1 / 12, 0.02)
    y, v = energies.boundary_sample(box, n, gen(1))
    surface = sum(2 * math.prod(sides) / s for s in sides)
    assert close(v, surface / n)
    t = (y - low) / side
    for i, s in enumerate(sides):
        for end in (0, 1):
            assert float((y[:, i] == (box.lower, box.upper)[end][i]).double().mean()) == pytest.approx(math.prod(sides) / s / surface, abs=0.012)
    assert bool((((t == 0) | ((t - 1).abs() < 1e-15)).sum(1) == 1).all())


# ------------------------------------------------------------------------------------------ equation error
def test_modes_and_gradients_of_products_of_cosines():
    assert equation_error.modes(3, 2).tolist() == [[i, j] for i in range(3) for j in range(3)] and equation_error.modes(2, 3).shape == (8, 3)
    x, k = rand(4, 3), torch.tensor([[1, 2, 0], [3, 1, 2]])
    value, gradient = equation_error.cosines(x, k)
    f = lambda j: lambda x: torch.cos(PI * x * k[j]).prod(1)
    for j in (0, 1):
        assert close(value[:, j], f(j)(x)) and close(gradient[:, j], forms.gradient(f(j), x))


@pytest.mark.parametrize("k", [(1,), (3,), (1, 2), (2, 3), (1, 0, 2)])
def test_strong_regression_of_a_cosine_has_the_symbol_of_the_differences(k):
    """u = ∏ cos k_iπx_i and a = c: c = π²|k|² / Σ 4n² sin²(k_iπ/2n), exactly."""
    n, d = 8, len(k)
    x = torch.cartesian_prod(*[torch.arange(n + 1, dtype=F64) / n] * d).reshape(-1, d)
    u = lambda x: torch.cos(PI * x * torch.tensor(k)).prod(1)
    f = lambda x: 5 * PI**2 * sum(j * j for j in k) * u(x)
    c = equation_error.strong(f, u(x), n, torch.zeros(1, d, dtype=torch.long))
    assert float(c) == pytest.approx(5 * PI**2 * sum(j * j for j in k) / sum(4 * n * n * math.sin(j * PI / 2 / n) ** 2 for j in k))


def test_strong_regression_with_a_gradient_against_loops():
    """Rows −(ψΔ_hu + ∇ψ·∇_hu) at the inner nodes of a grid with data of no symmetry."""
    n, psi = 5, torch.tensor([[0, 0], [1, 2], [2, 1]])
    u = randn((n + 1) ** 2).reshape(n + 1, n + 1)
    rows, right = [], []
    f = lambda x: torch.exp(x[:, 0] - 2 * x[:, 1])
    for i, j in itertools.product(range(1, n), repeat=2):
        x = numbers(i / n, j / n)[None]
        lap = n * n * (u[i + 1, j] + u[i - 1, j] + u[i, j + 1] + u[i, j - 1] - 4 * u[i, j])
        slope = n / 2 * torch.stack([u[i + 1, j] - u[i - 1, j], u[i, j + 1] - u[i, j - 1]])
        P, dP = equation_error.cosines(x, psi)
        rows.append(-(lap * P[0] + dP[0] @ slope)), right.append(f(x)[0])
    exact = torch.linalg.lstsq(torch.stack(rows), torch.stack(right)[:, None]).solution[:, 0]
    assert close(equation_error.strong(f, u.reshape(-1), n, psi), exact, 1e-9)


@pytest.mark.parametrize("rounds", [0, 1, 2])
@pytest.mark.parametrize("d", [1, 2])
def test_weak_regression_against_generalized_least_squares(d, rounds):
    """G = −∫u∇·(ψ∇φ) by the trapezoidal rule, rows scaled by 1/|k|², then by the covariance BBᵀ."""
    n, order = 6, 9
    psi, phi = equation_error.modes(2, d), equation_error.modes(4 if d == 1 else 3, d)[1:]
    phi = torch.cat([phi, equation_error.modes(1, d) * 0 + 4])
    x = torch.cartesian_prod(*[torch.arange(n + 1, dtype=F64) / n] * d).reshape(-1, d)
    data, f = randn(len(x)), lambda x: torch.exp(x[:, 0])
    weight = torch.tensor([math.prod((0.5 if t in (0.0, 1.0) else 1.0) / n for t in row) for row in x.tolist()], dtype=F64)
    div = lambda k, j: torch.func.vmap(lambda p: torch.func.jacfwd(lambda q: torch.cos(PI * q * k).prod() * torch.func.grad(lambda s: torch.cos(PI * s * j).prod())(q))(p).trace())(x)
    D = torch.stack([torch.stack([-weight * div(k, j) for k in psi], 1) for j in phi], 1)              # (n, J, K)
    y, w = Box.unit(d).quadrature(order)
    F = torch.stack([w @ (f(y) * torch.cos(PI * y * j).prod(1)) for j in phi])
    G = torch.einsum("n,njk->jk", data, D)
    S = torch.diag(1 / (phi.to(F64) ** 2).sum(1).clamp(min=1))
    c = torch.linalg.lstsq(S @ G, (S @ F)[:, None]).solution[:, 0]
    for _ in range(rounds):
        inverse_covariance = torch.linalg.inv((D @ c).T @ (D @ c))
        c = torch.linalg.solve(G.T @ inverse_covariance @ G, G.T @ inverse_covariance @ F)
    assert close(equation_error.weak(f, data, n, psi, phi, rounds, order), c, 1e-5)


# ----------------------------------------------------------------------------------------------- evolution
@pytest.mark.parametrize("basis", [spectral.Fourier(4), spectral.Cosine(3, 2)], ids=repr)
@pytest.mark.parametrize("deviation", [None, 0.3])
def test_fields_are_scaled_white_noise(basis, deviation):
    """Standard deviations (1 + μ/τ²)^{−p/2} for τ = 2, p = 3, none for the constant; `deviation` is the root of their sum of squares."""
    c = evolution.gaussian_field(basis, 3, 2.0, 3.0, gen(), deviation)
    mu = basis.eigenvalues()
    s = (1 + mu / 4) ** -1.5 * (mu > 0)
    assert close(c, randn(3, basis.size) * s * (1 if deviation is None else deviation / float(s @ s) ** 0.5))


@pytest.mark.parametrize("n", [31, 32])
def test_small_waves_decay_and_move_with_the_mean(n):
    """a = m + ε Σ c_k cos 2πk(x − x_k): to first order u = m + ε Σ c_k e^{−ν(2πk)²T} cos 2πk(x − x_k − mT), for odd and even n."""
    x, m, nu, T, eps = torch.arange(n, dtype=F64) / n, 0.7, 0.05, 0.3, 1e-7
    wave = lambda t: sum(c * math.exp(-nu * (2 * PI * k) ** 2 * t) * torch.cos(2 * PI * k * (x - s - m * t)) for k, c, s in ((1, 1.0, 0.1), (3, -2.0, 0.4)))
    for u in (evolution.burgers(m + eps * wave(0), nu, T), evolution.burgers_stepping(m + eps * wave(0), nu, T, 40)):
        assert close((u - m) / eps, wave(T), 1e-5)


@pytest.mark.parametrize("n, survives", [(15, False), (16, True)])
def test_products_keep_two_thirds_of_the_frequencies(n, survives):
    """cos 2π2x + cos 2π3x makes frequency 5: kept if 3·5 < n."""
    x = torch.arange(n, dtype=F64) / n
    u = evolution.burgers_stepping(torch.cos(4 * PI * x) + torch.cos(6 * PI * x), 0.01, 0.01, 1)
    assert (float(torch.fft.rfft(u)[5].abs()) > 1e-3) is survives


def test_one_step_is_the_integrating_factor_method_of_order_four():
    """v = e^{νk²t}û: the classical tableau for v' = e^{νk²t} N(e^{−νk²t} v), written out."""
    n, nu, dt = 24, 0.02, 0.05
    a = randn(n)
    k = 2 * PI * torch.arange(n // 2 + 1, dtype=F64)
    keep = 3 * torch.arange(n // 2 + 1) < n
    N = lambda v: -0.5j * k * torch.fft.rfft(torch.fft.irfft(v, n=n) ** 2) * keep
    g = lambda t, v: torch.exp(nu * k**2 * t) * N(torch.exp(-nu * k**2 * t) * v)
    v = torch.fft.rfft(a)
    k1 = g(0, v)
    k2 = g(dt / 2, v + dt / 2 * k1)
    k3 = g(dt / 2, v + dt / 2 * k2)
    k4 = g(dt, v + dt * k3)
    exact = torch.fft.irfft(torch.exp(-nu * k**2 * dt) * (v + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)), n=n)
    assert close(evolution.burgers_stepping(a, nu, dt, 1), exact, 1e-10)
    assert close(evolution.burgers_stepping(evolution.burgers_stepping(a, nu, dt, 1), nu, 2 * dt, 2), evolution.burgers_stepping(a, nu, 3 * dt, 3), 1e-10)


def test_darcys_flow_by_loops_over_faces():
    """The flux through a face is the harmonic mean of a times n times the jump of u."""
    n, a, u = 4, rand(2, 4, 4) + 0.1, randn(2, 4, 4, seed=1)
    out = torch.zeros_like(u)
    for b, i, j, (di, dj) in itertools.product(range(2), range(n), range(n), ((0, 1), (1, 0), (0, -1), (-1, 0))):
        p, q = i + di, j + dj
        if 0 <= p < n and 0 <= q < n:
            out[b, i, j] += n * n * 2 * a[b, i, j] * a[b, p, q] / (a[b, i, j] + a[b, p, q]) * (u[b, i, j] - u[b, p, q])
    flow = evolution.Darcy(a)
    assert close(flow.apply(u), out, 1e-11)
    f = randn(4, 4, seed=2)
    f = f - f.mean()
    seen = []
    v = flow.solve(f, 1e-11, watch=lambda j, u: seen.append(j))
    assert close(flow.apply(v), f.expand(2, 4, 4), 1e-9) and close(v.mean((1, 2)), 0.0) and seen == list(range(len(seen)))
    again = flow.solve(f, 1e-11, start=v + randn(2, 4, 4, seed=3) + 5)
    assert close(again, v, 1e-9) and close(flow.solve(0 * f), 0.0)


def test_the_preconditioner_inverts_the_unit_coefficient():
    r = randn(2, 5, 5)
    r = r - r.mean((1, 2), keepdim=True)
    flow = evolution.Darcy(torch.ones(2, 5, 5, dtype=F64))
    assert close(flow.apply(flow.precondition(r)), r, 1e-11) and close(flow.precondition(r).mean((1, 2)), 0.0)
    assert close(flow.solve(r, iterations=1), flow.precondition(r), 1e-10)              # one step with an exact preconditioner
    with pytest.raises(ValueError, match="no convergence in 0 iterations"):
        flow.solve(r, iterations=0)


# ----------------------------------------------------------------------------------------- mesh and elements
def plate(n=3):
    """Triangles of [1, 3] × [−2, 5], every second one turned around."""
    grid = mesh.square(n)
    cells = grid.cells.clone()
    cells[::2] = cells[::2][:, [0, 2, 1]]
    return mesh.Mesh(numbers(1, -2) + grid.points * numbers(2, 7), cells)


def test_geometry_of_a_plate_of_triangles():
    m = plate()
    assert close(m.volumes, 14 / 18) and m.h == pytest.approx(math.hypot(2 / 3, 7 / 3)) and m.d == 2
    x = torch.cat([m.points[m.cells], torch.ones(18, 3, 1, dtype=F64)], 2)              # ∇λ_i from λ_i(x_j) = δ_ij
    assert close(m.gradients(), torch.linalg.inv(x)[:, :2].mT)
    line = mesh.interval([1, 1.5, 4])
    assert close(line.gradients()[:, :, 0], [[-2, 2], [-0.4, 0.4]]) and line.h == 2.5


@pytest.mark.parametrize("degree", range(8))
def test_rules_on_meshes_are_exact_to_their_degree(degree):
    m, line = plate(2), mesh.interval([1, 1.5, 3])
    x, w = m.quadrature(degree)
    for i in range(degree + 1):
        exact = (3 ** (i + 1) - 1) / (i + 1) * (5 ** (degree - i + 1) - (-2) ** (degree - i + 1)) / (degree - i + 1)
        assert float(w @ (x[:, 0] ** i * x[:, 1] ** (degree - i))) == pytest.approx(exact, rel=1e-11)
    x, w = line.quadrature(degree)
    assert float(w @ x[:, 0] ** degree) == pytest.approx((3 ** (degree + 1) - 1) / (degree + 1))
    assert len(x) == 2 * (degree // 2 + 1) and len(m.quadrature(degree)[0]) == 8 * (degree // 2 + 2) ** 2


@pytest.mark.parametrize("n", [1, 4])
def test_points_are_found_with_their_coordinates(n):
    for m in (plate(n), mesh.interval([1, 1.01, 2, 3])):
        x = inside(PLATE if m.d == 2 else LINE, 200)
        cell, bary = m.locate(x)
        assert close((bary[:, :, None] * m.points[m.cells[cell]]).sum(1), x) and close(bary.sum(1), 1.0) and float(bary.min()) > -1e-12


def test_squares_and_the_l_shape():
    m = mesh.square(2)
    assert m.points.tolist() == [[i / 2, j / 2] for i in range(3) for j in range(3)]
    assert sorted(map(sorted, m.cells.tolist())) == sorted([a, a + k, a + 4] for a in (0, 1, 3, 4) for k in (1, 3))
    for n in (1, 3):
        m = mesh.lshape(n)
        x, w = m.quadrature(4)
        assert float(w.sum()) == pytest.approx(3) and len(m.cells) == 6 * n * n and len(m.points) == (2 * n + 1) ** 2 - n * n
        assert not bool(((x[:, 0] > 0) & (x[:, 1] < 0)).any()) and float(w @ x[:, 0]) == pytest.approx(-0.5) and float(w @ x[:, 1]) == pytest.approx(0.5)
        assert close(m.points.abs().amax(0), 1.0) and m.h == pytest.approx(math.sqrt(2) / n)


def test_ragged_rows_and_cross_products():
    row, offset = mesh.ragged(torch.tensor([3, 0, 1, 2]))
    assert row.tolist() == [0, 0, 0, 2, 3, 3] and offset.tolist() == [0, 1, 2, 0, 0, 1]
    assert mesh.cross(numbers(2, 3), numbers(5, 11)) == 7


@pytest.mark.parametrize("degree", [1, 2])
def test_matrices_of_elements_on_a_plate_by_quadrature(degree):
    for m in (plate(2), mesh.interval([1, 1.5, 3])):
        space = fem.Space(m, degree)
        x, w = m.quadrature(6)
        phi, slope = space.evaluate(x), space.gradient(x)
        assert close(space.stiffness().to_dense(), torch.einsum("q,qid,qjd->ij", w, slope, slope), 1e-10)
        assert close(space.mass().to_dense(), phi.T @ (w[:, None] * phi), 1e-10) and close(phi.sum(1), 1.0)
        f = lambda x: x[:, 0] ** 3 - x[:, -1]
        assert close(space.load(f, 5), phi.T @ (w * f(x)), 1e-10) and close(space.evaluate(space.nodes), torch.eye(space.N), 1e-10)


@pytest.mark.parametrize("degree, N, edge", [(1, 16, 12), (2, 49, 24)])
def test_counts_and_boundary_of_spaces(degree, N, edge):
    space = fem.Space(plate(), degree)
    on = ((space.nodes == numbers(1, -2)) | (space.nodes == numbers(3, 5))).any(1)
    assert space.N == N and len(space.boundary) == edge and torch.equal(space.boundary, on.nonzero()[:, 0])
    line = fem.Space(mesh.interval([1, 2, 4, 5]), degree)
    assert line.boundary.tolist() == [0, 3] and line.N == 3 * degree + 1


@pytest.mark.parametrize("m", [plate(2), mesh.interval([1, 1.5, 3])], ids=["plate", "line"])
def test_quadratic_solutions_are_reproduced(m):
    u = Function(lambda x: (2 + x[:, 0]) * x[:, -1] - x[:, 0] ** 2 / 3)
    space = fem.Space(m, 2)
    found = fem.poisson(space, lambda x: -u.laplacian(x), u.value)
    assert close(found.c, u.value(space.nodes), 1e-10)
    x = inside(PLATE if m.d == 2 else LINE, 20)
    assert close(found.value(x), u.value(x), 1e-10) and close(found.gradient(x), u.gradient(x), 1e-9)


def test_the_neumann_solution_is_the_one_of_mean_zero():
    """f = cos(π(x − 1)/2): the mean of u is zero by the area, and u → (2/π)² f with the square of h."""
    gaps = []
    for n in (4, 8):
        space = fem.Space(plate(n))
        f = lambda x: torch.cos(PI * (x[:, 0] - 1) / 2)
        u = fem.poisson(space, f)
        x, w = space.mesh.quadrature(8)
        assert abs(float(w @ u.value(x))) < 1e-9
        gaps.append(float((w @ (u.value(x) - (2 / PI) ** 2 * f(x)).square()).sqrt()))
    assert math.log2(gaps[0] / gaps[1]) == pytest.approx(2, abs=0.25)


def test_a_residual_above_the_tolerance_is_refused():
    space = fem.Space(mesh.square(3))
    free, F = torch.ones(16, dtype=torch.bool), randn(16)
    K = fem.assemble(torch.eye(16, dtype=F64)[None] * 3, torch.arange(16)[None], 16)
    assert close(fem.solve(K, F, free), F / 3)
    free[3] = False
    c = fem.solve(K, F, free)
    assert float(c[3]) == 0 and close(c[free], F[free] / 3)
    with pytest.raises(ValueError, match="did not converge"):
        fem.solve(space.stiffness(), F, free, 1e-30)


def test_shape_functions_of_degree_two():
    bary = numbers(0.2, 0.3, 0.5)[None]
    phi, slope = fem.shapes(2, bary)
    assert close(phi[0], [-0.12, -0.12, 0.0, 0.24, 0.6, 0.4])
    assert close(slope[0], torch.func.jacrev(lambda b: fem.shapes(2, b[None])[0][0])(bary[0])) and close(fem.shapes(1, bary)[1][0], torch.eye(3))


# ------------------------------------------------------------------------------------------------ galerkin
def test_energy_spectrum_rank_and_condition_by_hand():
    K, F, c = numbers(4, 2, 2, 9).reshape(2, 2), numbers(1, -2), numbers(3, 5)
    assert float(galerkin.discrete_energy(K, F, c)) == (4 * 9 + 2 * 2 * 15 + 9 * 25) / 2 - (3 - 10)
    assert close(galerkin.spectrum(K), numbers(1 - 1 / 3, 1 + 1 / 3))
    assert galerkin.condition(K) == pytest.approx((6.5 + math.hypot(2.5, 2)) / (6.5 - math.hypot(2.5, 2))) and galerkin.condition(-K) == math.inf
    v = randn(6, 3)
    assert [galerkin.rank(v @ v.T + 1e-3 * t * torch.eye(6, dtype=F64)) for t in (0, 1)] == [3, 6]


def test_solve_with_a_cutoff_inverts_the_scaled_matrix_on_large_eigenvalues():
    """D^{−1/2}KD^{−1/2} has eigenvalues 2/3 and 4/3 = 2·2/3: at the cutoff 0.51 only 4/3 with (1, 1)/√2 is kept."""
    K, F, one = numbers(4, 2, 2, 9).reshape(2, 2), numbers(1, -2), numbers(1 / 2, 1 / 3)
    assert close(galerkin.solve(K, F), torch.linalg.solve(K, F)) and close(galerkin.solve(K, F, 0.49), torch.linalg.solve(K, F))
    assert close(galerkin.solve(K, F, 0.51), one * float(one @ F) / (8 / 3))


def test_ritz_and_projection_on_a_plate():
    """u = 3 cos(π(x − 1)/2) − cos(2π(y + 2)/7)/2 in cosines, from f and from ∇u."""
    a, b = (PI / 2) ** 2, (2 * PI / 7) ** 2
    p, q = (lambda x: torch.cos(PI * (x[:, 0] - 1) / 2)), (lambda x: torch.cos(2 * PI * (x[:, 1] + 2) / 7))
    u = Function(lambda x: 3 * p(x) - q(x) / 2)
    basis = bases.Tensor("cosine", PLATE, torch.tensor([[1, 0], [0, 2], [2, 1]]))
    exact = numbers(3 * math.sqrt(7), -math.sqrt(7) / 2, 0)
    assert close(galerkin.ritz(basis, lambda x: 3 * a * p(x) - b * q(x) / 2).c, exact, 1e-9)
    assert close(galerkin.project(basis, u, *PLATE.quadrature(20)).c, exact, 1e-9)


@pytest.mark.parametrize("rows", [6, 20])
def test_least_squares_with_weights_and_a_cutoff(rows):
    """min ‖√w(Δu + f)‖² + β‖√v(u − g)‖²; directions below the cutoff are left out."""
    basis = bases.Tensor("legendre", PLATE, bases.full(2, 2))
    x, w, y, v = inside(PLATE, rows), rand(rows, seed=1) + 0.1, inside(PLATE, rows, 2), rand(rows, seed=3) + 0.1
    f, g = (lambda x: x[:, 0]), (lambda x: x[:, 1] ** 2)
    A = torch.cat([w.sqrt()[:, None] * basis.laplacian(x), (7 * v).sqrt()[:, None] * basis.evaluate(y)])
    b = torch.cat([-w.sqrt() * f(x), (7 * v).sqrt() * g(y)])
    U, s, V = torch.linalg.svd(A, full_matrices=False)
    for cutoff in (1e-15, float(s[1] / s[0]) * 0.99, float(s[1] / s[0]) * 1.01):
        fit = galerkin.least_squares(basis, f, g, (x, w), (y, v), 7.0, cutoff)
        keep = s > cutoff * s[0]
        c = V.T[:, keep] @ ((U.T @ b)[keep] / s[keep])
        assert close(fit.u.c, c, 1e-9) and fit.rank == int(keep.sum()) and fit.residual == pytest.approx(float((A @ c - b).norm() / b.norm()))


# ------------------------------------------------------------------------------------- implicit and inverse
def test_patterns_name_the_entries_of_a_matrix_that_is_not_symmetric():
    i = torch.arange(7.0, dtype=F64)
    assert implicit.Pattern.tridiagonal(3).matrix(i).tolist() == [[2, 5, 0], [0, 3, 6], [0, 1, 4]]
    assert implicit.Pattern.dense(2).matrix(i[:4]).tolist() == [[0, 1], [2, 3]]
    A, b = randn(4, 4), randn(4, 2, seed=1)
    for transposed in (False, True):
        x = implicit.solve(A.reshape(-1), implicit.Pattern.dense(4), b, transposed)
        assert close((A.T if transposed else A) @ x, b, 1e-10)


@pytest.mark.parametrize("start", [0.5, 3.0, 20.0])
def test_newton_halves_its_step_until_the_residual_decreases(start):
    """F = atan u − θ: Newton's own step diverges from 3; the root is tan θ and its slope 1 + tan²θ."""
    F = implicit.Problem(lambda u, t: torch.atan(u) - t, lambda u, t: 1 / (1 + u**2), implicit.Pattern.dense(1))
    theta = numbers(0.3).requires_grad_()
    u = implicit.root(F, theta, numbers(start))
    assert close(u.detach(), math.tan(0.3), 1e-11) and close(torch.autograd.grad(u, theta)[0], 1 + math.tan(0.3) ** 2, 1e-10)


def test_newton_stops_at_its_tolerance():
    """u ← u/2 for F = u² from 1: steps ½, ¼, ⅛ against 0.12(1 + u) = 0.18, 0.15, 0.135."""
    seen = []
    F = implicit.Problem(lambda u, t: u**2 + 0 * t, lambda u, t: seen.append(float(u)) or 2 * u, implicit.Pattern.dense(1))
    u = implicit.root(F, numbers(0.0), numbers(1.0), tolerance=0.12)
    assert seen == [1.0, 0.5, 0.25] and float(u) == 0.125
    with pytest.raises(ValueError, match="in 2 steps"):
        implicit.root(F, numbers(0.0), numbers(1.0), tolerance=0.12, steps=2)


def test_differences_along_a_direction():
    """J = x³ + xy² at (1, 2) along v = (3, −1): J'v = 3·3 + 4·3 − 4, J'''vvv = 6·27 + 6·3."""
    x, v, third = numbers(1, 2), numbers(3, -1), 6 * 27 + 6 * 3
    J = lambda x: x[0] ** 3 + x[0] * x[1] ** 2
    assert float(implicit.central_difference(J, x, v, 0.1)) == pytest.approx(17 + 0.01 * third / 6)
    assert implicit.difference_error(0.1, -third, 1e-3) == pytest.approx(0.01 * third / 6 + 1e-2)
    assert implicit.optimal_step(-6.0, 2.0) == pytest.approx(1.0) and implicit.optimal_step(3.0, 27.0) == pytest.approx(3.0)


def line_matrices(a):
    """Stiffness and mass of hat functions on a uniform line, both with the coefficient a `(n,)` of the cells."""
    n = len(a)
    K, M = (torch.zeros(n + 1, n + 1, dtype=F64) for _ in range(2))
    for i in range(n):
        K[i:i + 2, i:i + 2] += a[i] * n * numbers(1, -1, -1, 1).reshape(2, 2)
        M[i:i + 2, i:i + 2] += a[i] / (6 * n) * numbers(2, 1, 1, 2).reshape(2, 2)
    return K, M


@pytest.mark.parametrize("bc", inverse.BOUNDARY)
@pytest.mark.parametrize("d", [1, 2])
def test_the_elliptic_map_against_kronecker_products(bc, d):
    n = 4
    f = (lambda x: torch.cos(PI * x[:, 0])) if bc == "neumann" else (lambda x: 1 + x[:, 0] - 3 * x[:, -1] ** 2)
    model = inverse.Elliptic(n, f, d, bc)
    assert model.nodes.tolist() == [list(p) for p in itertools.product([i / n for i in range(n + 1)], repeat=d)]
    assert model.centers.tolist() == [list(p) for p in itertools.product([(i + 0.5) / n for i in range(n)], repeat=d)]
    line = torch.cat([numbers(0.5), torch.ones(n - 1, dtype=F64), numbers(0.5)]) / n
    weights = line if d == 1 else torch.kron(line, line)
    assert close(model.weights, weights)
    a = rand(n) + 0.3                                        # depends on the first variable only
    (K, Ma), (L, M) = line_matrices(a), line_matrices(torch.ones(n, dtype=F64))
    A, load = K if d == 1 else torch.kron(K, M) + torch.kron(Ma, L), model.load
    if bc == "neumann":
        u = torch.linalg.lstsq(A, load[:, None], driver="gelsd").solution[:, 0]
        u = u - weights @ u
    else:
        inner = ((model.nodes > 0) & (model.nodes < 1)).all(1)
        u = torch.zeros_like(load)
        u[inner] = torch.linalg.solve(A[inner][:, inner], load[inner])
    assert close(model.solve(a if d == 1 else a.repeat_interleave(n)), u, 1e-10)
    other, one = randn(len(load), seed=3), torch.ones(n**d, dtype=F64)
    assert close(model.solve(one, other), model.solve(one, other - weights * other.sum() if bc == "neumann" else other), 1e-10)


@pytest.mark.parametrize("d", [1, 2])
def test_the_load_integrates_against_hat_functions(d):
    """f = 1 + x₁ + 2x_d² by a rule on every cell."""
    n, f = 3, lambda x: 1 + x[:, 0] + 2 * x[:, -1] ** 2
    model = inverse.Elliptic(n, f, d, "dirichlet")
    x, w = mesh.interval([i / n for i in range(n + 1)]).quadrature(4)
    x, w = torch.cartesian_prod(*[x[:, 0]] * d).reshape(-1, d), torch.cartesian_prod(*[w] * d).reshape(-1, d).prod(1)
    hat = (1 - (x[:, None] - model.nodes).abs() * n).clamp(min=0).prod(2)
    assert close(model.load, (w * f(x)) @ hat)


@pytest.mark.parametrize("bc, d", [("neumann", 1), ("dirichlet", 2)])
def test_the_jacobian_of_the_elliptic_map_by_differences(bc, d):
    f = lambda x: torch.cos(PI * x[:, 0])
    model, a, v = inverse.Elliptic(3, f, d, bc), rand(3**d) + 0.5, randn(3**d, 2, seed=1)
    u, h = model.solve(a), 1e-5
    exact = torch.stack([(model.solve(a + h * v[:, k]) - model.solve(a - h * v[:, k])) / (2 * h) for k in (0, 1)], 1)
    assert close(model.jacobian(a, u, v), exact, 1e-7)


def test_fit_halves_its_steps_and_reports_both_parts():
    """From 3 Newton on atan overshoots; misfit and penalty of a linear map are those of the normal equations."""
    result = inverse.fit(lambda m: (torch.atan(m), torch.diag(1 / (1 + m**2))), numbers(0.2), 0.1, numbers(3.0), torch.zeros(0, 1, dtype=F64))
    assert close(result.m, math.tan(0.2), 1e-8) and result.misfit < 1e-8 and result.penalty == 0 and result.steps > 2
    A, L, data, m0 = randn(5, 2), randn(3, 2, seed=1), randn(5, seed=2), randn(2, seed=3)
    fit = inverse.fit(lambda m: (A @ m, A), data, 0.5, m0, L)
    m = torch.linalg.solve(4 * A.T @ A + L.T @ L, 4 * A.T @ data + L.T @ L @ m0)
    assert close(fit.m, m, 1e-9) and fit.penalty == pytest.approx(float((L @ (m - m0)).norm())) and fit.misfit == pytest.approx(2 * float((A @ m - data).norm()))
    assert close(fit.J, 2 * A) and fit.steps <= 2 and close(inverse.laplace(fit.J, L), torch.linalg.inv(4 * A.T @ A + L.T @ L), 1e-9)


@pytest.mark.parametrize("shape", [(6, 3), (3, 5)])
def test_filters_and_risks_of_tall_and_wide_matrices(shape):
    A, gamma = randn(*shape), numbers(0.3, 2.0)
    data, x = randn(shape[0], seed=1), randn(shape[1], seed=2)
    solutions, residuals = inverse.filtered(A, data, gamma)
    bias, variance = inverse.risk(A, x, 0.7, gamma)
    for k, g in enumerate((0.3, 2.0)):
        R = torch.linalg.solve(A.T @ A + g * torch.eye(shape[1], dtype=F64), A.T)
        assert close(solutions[k], R @ data, 1e-9) and float(residuals[k]) == pytest.approx(float((A @ R @ data - data).norm()))
        assert float(bias[k]) == pytest.approx(float((R @ A @ x - x).square().sum())) and float(variance[k]) == pytest.approx(0.49 * float(R.square().sum()))


def test_discrepancy_bisects_in_the_logarithm():
    assert inverse.discrepancy(lambda g: g**2, 9.0, 1e-3, 1e5, 1e-9) == pytest.approx(3.0, rel=1e-8)
    seen = []
    g = inverse.discrepancy(lambda g: seen.append(g) or g, 2.0, 1e-2, 1e4, 0.5)
    assert seen[:4] == pytest.approx([1e-2, 1e4, 10.0, 10**-0.5]) and abs(math.log(g / 2.0)) <= 0.25 and len(seen) == 2 + math.ceil(math.log2(math.log(1e6) / 0.5))


# ------------------------------------------------------------------------------------------- inverse PINN
def kinks(m, seed=0, d=2):
    return inverse_pinn.Shallow(randn(m, d, seed=seed), randn(m, seed=seed + 1), randn(m + 1, seed=seed + 2))


def test_random_kinks_cross_the_cube():
    v = inverse_pinn.Shallow.random(3000, 1, 2.5, gen())
    where = -v.b / v.W[:, 0]
    assert float(v.W.std()) == pytest.approx(2.5, rel=0.05) and float(where.min()) >= 0 and float(where.max()) <= 1 and not v.c.any() and len(v.c) == 3001
    assert float(where.mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("hidden", [False, True])
def test_the_stacked_residual_and_its_jacobian(hidden):
    """(u − d)/σ, weight √(N w)/‖f‖ (aΔu + ∇a·∇u + f), weight √(N w_b)/‖f‖ ∂ₙu, and ridges on the outer weights."""
    u, a = kinks(3), kinks(2, 5)
    points, data, f = rand(4, 2), randn(4, seed=8), lambda x: x[:, 0] - 2 * x[:, 1] + 3
    pinn = inverse_pinn.InversePinn(f, points, data, 0.2, order=3)
    (x, w), (y, v, normal) = Box.unit(2).quadrature(3), Box.unit(2).boundary(3)
    scale = 3.0 * (4 / (w @ f(x) ** 2)).sqrt()
    pde = a.value(x) * u.laplacian(x) + (a.gradient(x) * u.gradient(x)).sum(1) + f(x)
    exact = torch.cat([(u.value(points) - data) / 0.2, scale * w.sqrt() * pde, scale * v.sqrt() * (u.gradient(y) * normal).sum(1)])
    r, J = pinn.residual(u, a, 3.0, hidden)
    assert close(r, exact)
    size = (u.W.numel() + 3 if hidden else 0) + 4
    moved = lambda t: (u.moved(t[:size], hidden), a.moved(t[size:], hidden))
    flat = torch.zeros(J.shape[1], dtype=F64)
    by_hand = lambda u, a: torch.cat([(u.value(points) - data) / 0.2, scale * w.sqrt() * (a.value(x) * u.laplacian(x) + (a.gradient(x) * u.gradient(x)).sum(1) + f(x)),
                                      scale * v.sqrt() * (u.gradient(y) * normal).sum(1)])
    assert close(J, torch.func.jacfwd(lambda t: by_hand(*moved(t)))(flat), 1e-9)
    damped, K, loss = pinn._damped(u, a, 3.0, hidden, (0.3, 0.7))
    rows = lambda u, a: torch.cat([0.3 * u.c, 0.7 * (a.c - numbers(0, 0, 1))])
    assert close(damped, torch.cat([exact, rows(u, a)])) and loss == pytest.approx(float(damped @ damped))
    assert close(K, torch.cat([J, torch.func.jacfwd(lambda t: rows(*moved(t)))(flat)]))


def test_moving_a_network_adds_to_its_weights_in_a_row():
    v, step = kinks(3), randn(13, seed=9)
    u = v.moved(step, True)
    assert torch.equal(u.W, v.W + step[:6].reshape(3, 2)) and torch.equal(u.b, v.b + step[6:9]) and torch.equal(u.c, v.c + step[9:])
    w = v.moved(step[:4], False)
    assert torch.equal(w.W, v.W) and torch.equal(w.b, v.b) and torch.equal(w.c, v.c + step[:4])


def test_training_reports_the_misfit_and_the_residual_of_the_networks_it_returns():
    points, f = rand(12, 2), lambda x: torch.cos(PI * x[:, 0])
    data = torch.cos(PI * points[:, 0]) / PI**2
    pinn = inverse_pinn.InversePinn(f, points, data, 0.1, order=5)
    result = pinn.train(inverse_pinn.Shallow.random(6, 2, 2.0, gen()), inverse_pinn.Shallow.random(4, 2, 1.0, gen(1)), (1.0, 5.0), steps=2)
    x, w = Box.unit(2).quadrature(5)
    u, a = result.u, result.a
    pde = a.value(x) * u.laplacian(x) + (a.gradient(x) * u.gradient(x)).sum(1) + f(x)
    assert result.misfit == pytest.approx(float(((u.value(points) - data) / 0.1).square().mean())) and 1 <= result.steps <= 4
    assert result.residual == pytest.approx(float((w @ pde**2).sqrt() / (w @ f(x) ** 2).sqrt()))


# --------------------------------------------------------------------------------------- iteration and linear
@pytest.mark.parametrize("step", [None, 0.1, 0.39])
@pytest.mark.parametrize("tolerance", [0.9, 0.3, 1e-3])
def test_the_count_of_gradient_descent_by_counting(step, tolerance):
    lam, e = numbers(0.5, 2.0, 5.0), numbers(3.0, -2.0, 0.5)
    omega, j, left = step or 2 / 5.5, 0, e.clone()
    while float(left.norm()) > tolerance * float(e.norm()):
        left, j = left * (1 - omega * lam), j + 1
    assert iteration.gradient_descent_count(lam, e, tolerance, step) == j and iteration.optimal_step(lam) == pytest.approx(2 / 5.5)


def test_iterations_written_out():
    A, b, x = numbers(4, 1, 1, 3).reshape(2, 2), numbers(1, 2), numbers(2, 1)
    y = x - 0.1 * (A @ x - b)
    found, count = iteration.gradient_descent(lambda v: A @ v, b, x, 0.1, 2)
    assert close(found, y - 0.1 * (A @ y - b)) and count == 2
    r = b - A @ x
    y = x + (r @ r) / (r @ A @ r) * r
    found, count = iteration.conjugate_gradients(lambda v: A @ v, b, x, 1)
    assert close(found, y) and count == 1
    found, count = iteration.conjugate_gradients(lambda v: A @ v, b, x, 9)
    assert close(found, torch.linalg.solve(A, b)) and count == 2
    assert iteration.conjugate_gradients(lambda v: A @ v, b, torch.linalg.solve(A, b), 9)[1] == 0


def test_conjugate_gradients_go_on_to_sixteen_roundings():
    """A = 1: the first step solves; a start that is off by 8 (17) ε of |b| is at (above) the level of rounding."""
    for off, count in ((15.0, 0), (17.0, 1)):
        b = numbers(1.0)
        assert iteration.conjugate_gradients(lambda v: v, b, b * (1 + off * 2.0**-52), 3)[1] == count
    for done, count in ((lambda x: False, 3), (lambda x: float(x) > 0.7, 2)):
        assert iteration.gradient_descent(lambda x: x, numbers(1.0), numbers(0.0), 0.5, 3, done)[1] == count


def test_bounds_of_both_iterations_in_closed_form():
    assert iteration.gradient_descent_bound(9.0, 1e-3) == pytest.approx(math.log(1e3) / math.log(10 / 8))
    assert iteration.conjugate_gradients_bound(9.0, 1e-3) == pytest.approx(math.log(2e3) / math.log(4 / 2))


def test_the_three_forms_of_a_system_by_hand():
    A, b, x = numbers(2, 1, 0, 1, 3, 1).reshape(3, 2), numbers(1, -1, 2), numbers(2, 3)
    assert float(linear.strong(A, b, x)) == (36 + 16 + 49) / 2
    assert linear.weak(A, b, x, numbers(1, 2, 0, 1, 1, -1).reshape(3, 2)).tolist() == [13.0, 9.0]
    S = numbers(2, 1, 1, 4).reshape(2, 2)
    assert float(linear.variational(S, b[:2], x)) == (8 + 12 + 36) / 2 - (2 - 3)
    assert close(linear.solve_strong(A, b), torch.linalg.lstsq(A, b[:, None]).solution[:, 0]) and close(linear.solve_variational(S, b[:2]), torch.linalg.solve(S, b[:2]))
    W, V = randn(3, 2), randn(2, 2, seed=1)
    assert close(W.T @ (A @ linear.solve_weak(A, b, W, V) - b), 0.0, 1e-10) and linear.condition(torch.diag(numbers(2, -8, 4))) == pytest.approx(4)


# ------------------------------------------------------------------------------------------- Marini and Poincaré
def test_marinis_flux_on_a_plate():
    """div q = −f̄ on every triangle, jumps of q·n vanish, q·n = 0 outside; oscillation Σ (h/π)²‖f − f̄‖² + C|∫f|/√|Ω|."""
    m, f = plate(4), lambda x: (x[:, 0] - 2) * (1 + x[:, 1])
    q = marini.MariniFlux(f, m, 3.0, 6)
    x, w = m.quadrature(6)
    at = (w * f(x)).reshape(32, -1).sum(1) / m.volumes
    e = 1e-3 * torch.eye(2, dtype=F64)
    center = m.points[m.cells].mean(1)
    div = sum((q.flux(center + e[i]) - q.flux(center - e[i]))[:, i] / 2e-3 for i in (0, 1))
    assert close(div, -at, 1e-8) and close(q.slope(center), q.flux(center)) and q.constant == 3.0
    y, _, normal = PLATE.boundary(4)                           # no corner of a triangle among the nodes
    assert float((q.flux(y) * normal).sum(1).abs().max()) < 1e-9
    v = Function(lambda x: torch.sin(x[:, 0]) * x[:, 1])
    assert float(w @ ((q.flux(x) * v.gradient(x)).sum(1) - at.repeat_interleave(len(x) // 32) * v.value(x))) == pytest.approx(0, abs=1e-4)
    h = math.hypot(2 / 4, 7 / 4)
    off = (w * (f(x) - at.repeat_interleave(len(x) // 32)) ** 2).sum()
    assert q.oscillation == pytest.approx(h / PI * float(off.sqrt()))
    better = fem.poisson(fem.Space(m, 2), f, degree=6)
    assert q.width == pytest.approx(float((w @ (better.gradient(x) - q.flux(x)).square().sum(1)).sqrt()))
    assert marini.MariniFlux(f, m).constant == pytest.approx(poincare.neumann_bracket(m)[0] ** -0.5)


def test_an_error_of_the_rule_goes_into_the_oscillation():
    """∫f = s by a rule that is too coarse: the means lose s/|Ω|, and C·|s|/√|Ω| is added."""
    m, q = plate(2), lambda x: (x[:, 0] - 1) ** 6 - 64 / 7
    x, w = m.quadrature(0)
    off = 9e-6 * 14 / float(w @ q(x))
    f = lambda x: torch.sign(x[:, 0] - 2) + off * q(x)
    total = float(w @ f(x))
    mean = (w * f(x)).reshape(8, -1).sum(1) / m.volumes - total / 14
    local = (w * (f(x) - mean.repeat_interleave(4)) ** 2).sum()
    flux = marini.MariniFlux(f, m, 2.0, 0)
    assert flux.oscillation == pytest.approx(math.hypot(1, 3.5) / PI * float(local.sqrt()) + 2.0 * abs(total) / 14**0.5, rel=1e-9)
    assert total == pytest.approx(9e-6 * 14) and 2.0 * total / 14**0.5 > 1e-5


def test_eigenvalues_scale_like_one_over_the_square_of_the_length():
    low, high = poincare.neumann_bracket(plate(8))
    assert low < (PI / 7) ** 2 < high < 1.15 * low
    big = mesh.Mesh(3 * plate(8).points, plate(8).cells)
    assert poincare.neumann_bracket(big) == pytest.approx((low / 9, high / 9), rel=1e-6)
    _, value, v = poincare.neumann_bracket(plate(8), eigenfunction=True)
    space = fem.Space(plate(8))
    K, M = space.stiffness(), space.mass()
    assert value == pytest.approx(high) and float(v @ (K @ v) / (v @ (M @ v))) == pytest.approx(high) and float((M @ v).sum()) == pytest.approx(0, abs=1e-8)
    K, M, edges = poincare.crouzeix_raviart(plate(8))
    from scipy.linalg import eigh
    cr = eigh(K.to_dense().numpy(), np.diag(M.numpy()), eigvals_only=True)[1]
    assert low == pytest.approx(1 / (1 / cr + (1 / PI**2 + 1 / 48) * (math.hypot(2, 7) / 8) ** 2)) and cr < (PI / 7) ** 2


def test_crouzeix_raviart_matrices_by_quadrature_of_one_minus_two_lambda():
    m = plate(2)
    K, M, edges = poincare.crouzeix_raviart(m)
    x, w = m.quadrature(2)
    cell, bary = m.locate(x)
    phi = torch.zeros(len(x), len(M), dtype=F64).scatter_(1, edges[cell], 1 - 2 * bary)
    assert close(torch.diag(M), phi.T @ (w[:, None] * phi)) and len(M) == 16
    slope = torch.zeros(len(x), len(M), 2, dtype=F64).scatter_(1, edges[cell][:, :, None].expand(-1, -1, 2), -2 * m.gradients()[cell])
    assert close(K.to_dense(), torch.einsum("q,qid,qjd->ij", w, slope, slope))
    for T in range(len(m.cells)):                              # the edge number belongs to the two vertices that are not i
        for i in range(3):
            pair = set(m.cells[T].tolist()) - {int(m.cells[T, i])}
            assert all(pair == set(m.cells[S].tolist()) - {int(m.cells[S, j])} for S, j in (edges == edges[T, i]).nonzero().tolist())


@pytest.mark.parametrize("sides", [[2.0], [2.0, 7.0], [2.0, 7.0, 3.0], [0.5, 0.25]])
def test_boxes_and_weighted_intervals_in_closed_form(sides):
    assert poincare.box_eigenvalue(sides, 8) == pytest.approx((PI / max(sides)) ** 2, rel=1e-6) and poincare.payne_weinberger(7.0) == 7 / PI
    L = max(sides)
    assert poincare.weighted_eigenvalue(lambda x: 3 * torch.exp(-2 * x / L), L) == pytest.approx((1 + PI**2) / L**2, rel=1e-9)
    assert poincare.weighted_eigenvalue(lambda x: x, L) == pytest.approx((3.8317059702075125 / L) ** 2, rel=1e-9)      # J₁ vanishes there


def test_the_eigenvalue_of_low_degree_is_that_of_rayleigh_and_ritz():
    """Odd cubics in t on (−1, 1): t and t³ have K = [[2, 2], [2, 18/5]] and M = [[2/3, 2/5], [2/5, 2/7]]."""
    from scipy.linalg import eigh
    mu = eigh([[2, 2], [2, 18 / 5]], [[2 / 3, 2 / 5], [2 / 5, 2 / 7]], eigvals_only=True)[0]
    for L in (1.0, 2.0, 5.0):
        for value in (poincare.box_eigenvalue([L], 3), poincare.box_eigenvalue([L, L / 2], 3), poincare.weighted_eigenvalue(lambda x: 1 + 0 * x, L, 4)):
            assert value == pytest.approx(mu * 4 / L**2, rel=1e-9)


def test_triangles_are_cut_into_congruent_ones():
    corners = numbers(1, 2, 4, 3, 2, 7).reshape(3, 2)
    for n in (1, 3):
        m = poincare.triangle(corners, n)
        assert len(m.cells) == n * n and len(m.points) == (n + 1) * (n + 2) // 2 and close(m.volumes, 7 / n**2)
        bary = torch.linalg.solve(torch.cat([corners.T, torch.ones(1, 3, dtype=F64)]), torch.cat([m.points.T, torch.ones(1, len(m.points), dtype=F64)]))
        assert close(bary * n, (bary * n).round(), 1e-9) and float(bary.min()) > -1e-12


@pytest.mark.parametrize("neck, length, h", [(0.3, 0.6, 0.2), (1.0, 0.4, 0.25), (0.05, 1.0, 0.3)])
def test_the_dumbbell_by_its_sides(neck, length, h):
    m = poincare.dumbbell(neck, length, h)
    x, y = m.points.T
    a = length / 2
    assert close(m.volumes.sum(), 2 + neck * length) and close(x.abs().max(), 1 + a) and close(y.abs().max(), 0.5)
    px, w = m.quadrature(2)
    assert float(w @ px[:, 0] ** 2) == pytest.approx(2 * ((1 + a) ** 3 - a**3) / 3 + neck * 2 * a**3 / 3)
    assert float(w @ px[:, 1] ** 2) == pytest.approx(2 / 12 + length * neck**3 / 12) and float((w @ px).abs().max()) < 1e-12
    for t in (x, y):
        ticks = torch.unique((t * 1e9).round()) / 1e9
        steps = ticks.diff()
        assert float(steps.max()) <= h * (1 + 1e-6) and float(torch.maximum(steps[1:] / steps[:-1], steps[:-1] / steps[1:]).max()) < 6
    fine = min(h, neck / 6)
    ticks = torch.unique((x * 1e9).round()) / 1e9
    assert 0.5 * fine < float(ticks.diff().min()) <= fine * (1 + 1e-6) and {round(v, 6) for v in (a, -a)} <= {round(v, 6) for v in ticks.tolist()}


def test_graded_steps_grow_by_the_ratio_up_to_the_coarse_one():
    t = poincare._graded(1.0, 0.1, 0.2)                        # 0.1, 0.125, 0.15625, 0.1953125, 0.2, 0.2, 0.2 sum to 1.176
    raw = torch.cat([numbers(0.1) * 1.25 ** torch.arange(4), numbers(0.2, 0.2, 0.2)])
    total = 0.1 * (1 + 1.25 + 1.25**2 + 1.25**3)
    count = 4 + math.ceil((1 - total) / 0.2)
    assert close(t[1:], raw[:count].cumsum(0) / raw[:count].sum()) and float(t[0]) == 0


# --------------------------------------------------------------------------------- natural gradients and baselines
def test_the_line_search_tries_halves_and_stops_at_the_first_minimum():
    tried = []
    loss = lambda t: tried.append(float(t)) or abs(float(t) - 0.9)
    value, eta, theta = natural_gradient.line_search(loss, torch.tensor(1.0), torch.tensor(0.8), 0.5)
    assert tried == pytest.approx([0.2, 0.6, 0.8, 0.9, 0.95]) and (eta, float(theta)) == (0.125, pytest.approx(0.9))
    tried.clear()
    assert natural_gradient.line_search(lambda t: tried.append(1) or 1.0, torch.tensor(1.0), torch.tensor(1.0), 1.0) is None and len(tried) == 14
    tried.clear()
    natural_gradient.line_search(lambda t: tried.append(1) or 1.0, torch.tensor(1.0), torch.tensor(1.0), 1.0, 5)
    assert len(tried) == 5
    quarter = lambda t: {0.0: 0.26, 0.5: 0.24, 0.75: 0.1}[float(t)]
    assert natural_gradient.line_search(quarter, torch.tensor(1.0), torch.tensor(1.0), 1.0, 3, 0.25)[1] == 0.5      # 0.24 < ¼ is enough


def test_descent_raises_the_cutoff_a_hundredfold_while_steps_are_short():
    """|θ − ηδ| from θ = 1 is least at η = 1/δ: η < 1/64, or no step at all, calls for another cutoff; the best loss wins; 1e-3 is the end."""
    for floor, steps, asked, loss in ((0.0, {}, [1e-8, 1e-6, 1e-4, 1e-2], None), (0.0, {1e-8: 1.0}, [1e-8], 0.0), (0.0, {1e-8: 64.0}, [1e-8], 0.0), (1e-5, {}, [1e-5, 1e-3], None),
                                      (0.0, {1e-8: 132.0, 1e-6: 1.0}, [1e-8, 1e-6], 0.0), (0.0, {1e-8: 128.0, 1e-6: 1.5}, [1e-8, 1e-6], 0.0)):
        seen = []

        class Inverse:
            def step(self, cutoff):
                seen.append(float(f"{cutoff:.1e}"))
                return steps.get(seen[-1], -1.0)
        inverse_ = Inverse()
        inverse_.floor = floor
        best = natural_gradient.descend(inverse_, abs, 1.0, 1.0, 1e-8)
        assert seen[:len(asked)] == asked and (best[0] == loss if best else loss is None)
        assert len(seen) == len(asked) or steps.get(1e-8) == 128.0


def test_pseudoinverses_drop_small_singular_values():
    U, V = torch.linalg.qr(randn(7, 3))[0], torch.linalg.qr(randn(3, 3, seed=1))[0]
    s, r = numbers(4.0, 1.0, 0.1), randn(7, seed=2)
    J = U * s @ V.T
    for cutoff, kept in ((1e-3, 3), (0.024, 3), (0.026, 2), (0.24, 2), (0.26, 1)):
        exact = V[:, :kept] @ ((U.T @ r)[:kept] / s[:kept])
        for found in (natural_gradient.Pseudoinverse.qr(J, r), natural_gradient.Pseudoinverse.gram(J.T @ J, J.T @ r), natural_gradient.Pseudoinverse.ritz(J, J.T @ r)):
            assert close(found.step(cutoff), exact, 1e-9)
    wide = natural_gradient.Pseudoinverse.qr(J.T, r[:3])
    assert close(wide.step(1e-9), torch.linalg.pinv(J.T) @ r[:3], 1e-10)
    assert natural_gradient.Pseudoinverse.gram(J.T @ J, J.T @ r).floor == pytest.approx(math.sqrt(3 * 2.0**-52))


def test_gauss_newton_walks_through_its_boundary_weights():
    """r = (θ², c): θ halves.  c = 0: the next weight below `switch` = 10⁻⁶ = ½·16⁻⁵·2.1; c = 1: once ten steps gain less than a factor 1.2."""
    for start, c, first in ((1.0, 0.0, 5), ((16 * 0.19) ** 0.25, 1.0, 11), ((16 * 0.21) ** 0.25, 1.0, 12)):
        seen = []
        r = lambda u: torch.cat([u.theta**2, numbers(c)])
        form = SimpleNamespace(residual=lambda u, beta: r(u), jacobian=lambda u, beta: torch.cat([2 * u.theta, numbers(0)])[:, None], loss=lambda u, beta: r(u).square().sum() / 2)
        run = natural_gradient.gauss_newton(Point(numbers(start)), form, (1.0, 50.0), iterations=first + 2, watch=lambda k, u: seen.append(k))
        assert run.beta == [1.0] * first + [50.0] * 2 and seen == list(range(first + 2)) and run.step == [1.0] * (first + 2)
        assert run.loss == pytest.approx([(start**4 / 16 ** (k + 1) + c) / 2 for k in range(first + 2)]) and close(run.u.theta, start / 2 ** (first + 2))
        again = natural_gradient.gauss_newton(Point(numbers(start)), form, (1.0,), iterations=50)
        assert c == 0 or len(again.loss) == first                              # the last weight: a stall is the end
    form = energies.StrongForm(lambda x: torch.sin(x[:, 0]), LINE.quadrature(12), lambda x: torch.sin(x[:, 0]), LINE.boundary(1))
    u = networks.Shallow.random(6, LINE, gen())
    for solve in ("qr", "gram"):
        one = natural_gradient.gauss_newton(u, form, (7.0,), 1e-3, 1, solve=solve)
        r, J = form.residual(u, 7.0), form.jacobian(u, 7.0)
        delta = torch.linalg.pinv(J, rtol=1e-3) @ r
        assert close(one.u.theta, u.theta - one.step[0] * delta, 1e-6) and one.loss == [pytest.approx(float(form.loss(one.u, 7.0)))]


def test_the_energy_descends_until_three_steps_gain_four_roundings():
    """Steps of 1 from θ = 16 on E = 1 + ε(θ + max(θ − 10, 0)) gain 2ε each down to 10, then ε: less than 4εE in three steps first at θ = 8."""
    form = SimpleNamespace(energy=lambda u: (1 + 2.0**-52 * (u.theta + (u.theta - 10).clamp(min=0))).sum(), tangent=lambda u: (numbers(1), numbers(1)[None]))
    seen = []
    run = natural_gradient.energy_natural_gradient(Point(numbers(16)), form, watch=lambda k, u: seen.append(float(u.theta)))
    assert seen == [15.0, 14.0, 13.0, 12.0, 11.0, 10.0, 9.0, 8.0] and run.loss[-1] == 1 + 8 * 2.0**-52 and close(run.u.theta, 8.0)


def test_the_energy_step_is_the_pseudoinverse_of_the_curvature():
    form = energies.RitzForm(lambda x: torch.cos(PI * (x[:, 0] - 1) / 2), LINE.quadrature(12))
    u = networks.Shallow.random(4, LINE, gen())
    g, B = form.tangent(u)
    for solve in ("qr", "gram"):
        run = natural_gradient.energy_natural_gradient(u, form, 1e-2, 1, solve)
        delta = torch.linalg.pinv(B.T @ B, rtol=1e-4) @ g
        assert close(run.u.theta, u.theta - run.step[0] * delta, 1e-7) and run.loss == [pytest.approx(float(form.energy(run.u)))] and run.beta == [0.0]


class Point:
    """A network without inputs: its parameters."""

    def __init__(self, theta):
        self.theta = theta

    def at(self, theta):
        return Point(theta)


def test_adam_with_a_cosine_schedule_written_out():
    """Steps η_j m̂/(√v̂ + 1e-8), η_j = ½η(1 + cos πj/N), β = (0.9, 0.999)."""
    A, theta, seen = numbers(3, 0.5), numbers(1, -2), []
    run = baselines.adam(Point(theta), lambda u: (A * u.theta**2).sum(), 7, 0.1, lambda k, u: seen.append((k, u.theta.clone())), 3)
    m = v = torch.zeros(2, dtype=F64)
    x, losses, after = theta.clone(), [], []
    for j in range(7):
        losses.append(float((A * x**2).sum()))
        g = 2 * A * x
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = x - 0.05 * (1 + math.cos(PI * j / 7)) * (m / (1 - 0.9 ** (j + 1))) / ((v / (1 - 0.999 ** (j + 1))).sqrt() + 1e-8)
        after.append(x)
    assert run.loss == pytest.approx(losses) and close(run.u.theta, x) and [k for k, _ in seen] == [2, 5] and close(seen[1][1], after[5])


@pytest.mark.parametrize("iterations, every, losses", [(1, 4, 1), (4, 4, 1), (5, 4, 2), (7, 3, 3), (3, 1, 3)])
def test_lbfgs_runs_in_chunks(iterations, every, losses):
    seen = []
    run = baselines.lbfgs(Point(numbers(1, -2)), lambda u: (u.theta**4).sum() + u.theta[0], iterations, watch=lambda k, u: seen.append(k), every=every)
    assert len(run.loss) == losses and run.loss[0] == 18.0 and seen == [min(iterations, (j + 1) * every) - 1 for j in range(losses)]
    assert all(b < a for a, b in zip(run.loss, run.loss[1:])) and float((run.u.theta**4).sum() + run.u.theta[0]) < run.loss[-1]


# ------------------------------------------------------------------------------------------------- networks
@pytest.mark.parametrize("activation, functions", [
    ("tanh", [torch.tanh, lambda z: 1 / torch.cosh(z) ** 2, lambda z: -2 * torch.tanh(z) / torch.cosh(z) ** 2, lambda z: (4 * torch.tanh(z) ** 2 - 2 / torch.cosh(z) ** 2) / torch.cosh(z) ** 2]),
    ("sin", [torch.sin, torch.cos, lambda z: -torch.sin(z), lambda z: -torch.cos(z)])])
@pytest.mark.parametrize("k", range(4))
def test_activations_come_with_their_derivatives(activation, functions, k):
    z = torch.linspace(-2, 2, 9, dtype=F64)
    found = networks.ACTIVATIONS[activation](z, k)
    assert len(found) == k + 1 and all(close(a, f(z)) for a, f in zip(found, functions))


def test_a_shallow_network_is_its_formula_and_theta_its_row():
    W, b, a, c, x = randn(3, 2), randn(3, seed=1), randn(3, seed=2), numbers(0.7), inside(PLATE, 4)
    u = networks.Shallow(W, b, a, c, "sin")
    assert close(u.value(x), 0.7 + sum(a[j] * torch.sin(x @ W[j] + b[j]) for j in range(3))) and torch.equal(u.theta, torch.cat([W.ravel(), b, a, c]))
    v = u.at(u.theta + torch.arange(13))
    assert torch.equal(v.W, W + torch.arange(6).reshape(3, 2)) and torch.equal(v.b, b + torch.arange(6, 9)) and torch.equal(v.a, a + torch.arange(9, 12))
    assert torch.equal(v.c, c + 12) and v.activation == "sin"


def test_bands_are_uniform_in_weight_and_phase():
    u = networks.Shallow.band(4000, PLATE, 3.0, gen())
    assert float(u.W.abs().max()) <= 3 and float(u.W.var()) == pytest.approx(3, rel=0.05) and float(u.W.mean()) == pytest.approx(0, abs=0.1)
    assert 0 <= float(u.b.min()) and float(u.b.max()) <= 2 * PI and float(u.b.mean()) == pytest.approx(PI, abs=0.1) and float(u.b.var()) == pytest.approx(PI**2 / 3, rel=0.05)
    assert not u.a.any() and not u.c.any() and u.activation == "sin"


def test_deep_networks_are_drawn_layer_by_layer():
    """Weights of variance s²/m with m the width below, biases uniform in (−s, s)."""
    u = networks.Deep.random([4, 50, 90, 1], gen(), 0.5)
    assert [tuple(W.shape) for W, _ in u.layers()] == [(50, 4), (90, 50), (1, 90)] and len(u.theta) == 5 * 50 + 51 * 90 + 91
    for (W, b), width in zip(u.layers()[:2], (4, 50)):
        assert float(W.std()) == pytest.approx(0.5 / width**0.5, rel=0.15) and float(b.abs().max()) <= 0.5
        assert float(b.var()) == pytest.approx(0.25 / 3, rel=0.35) and abs(float(b.mean())) < 0.1
    x = rand(3, 4)
    h = x
    for k, (W, b) in enumerate(u.layers()):
        h = h @ W.T + b
        h = torch.tanh(h) if k < 2 else h
    assert close(u.value(x), h[:, 0])


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("widths", [[], [4], [3, 5]])
def test_forward_laplacians_of_linear_shallow_and_deep_networks(d, widths):
    u = networks.Deep.random([d, *widths, 1], gen(), 1.5, "sin")
    x = inside(BOXES[d - 1], 4)
    value, gradient, laplacian = networks.forward_laplacian(u.layers(), x, "sin")
    assert close(value, u.value(x)) and close(gradient, forms.gradient(u.value, x)) and close(laplacian, forms.laplacian(u.value, x), 1e-10)


# ------------------------------------------------------------------------------------------------ operators
@pytest.mark.parametrize("basis", [spectral.Fourier(3), spectral.Cosine(2, 2)], ids=repr)
def test_parameters_of_a_neural_operator_are_counted_layer_by_layer(basis):
    """P: 2·5 + 5; each layer: a matrix 5×5 per frequency, complex on the circle, and 5·5 + 5; Q: 5·7 + 7 and 7 + 1."""
    net = operators.NeuralOperator(basis, width=5, depth=3, inputs=2, hidden=7, generator=gen())
    complex_ = 2 if isinstance(basis, spectral.Fourier) else 1
    assert sum(p.numel() for p in net.parameters()) == 15 + 3 * (basis.frequencies * 25 * complex_ + 30) + 42 + 8


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_branch_and_trunk_have_the_stated_hidden_layers(depth):
    net = operators.DeepONet(spectral.Fourier(3), 4, width=6, depth=depth, generator=gen())
    for part, last in ((net.branch, 4), (net.trunk, 5)):
        shapes = [tuple(p.weight.shape) for p in part if hasattr(p, "weight")]
        assert shapes == [(6, 8)] + [(6, 6)] * (depth - 1) + [(last, 6)] and len(part) == 2 * depth + 1
    assert sum(p.numel() for p in net.parameters()) == 2 * (9 * 6 + 42 * (depth - 1)) + 7 * 4 + 7 * 5


def test_a_deeponet_is_a_sum_of_products():
    """scale · (t₀ + Σ b_k t_k) with the branch read at gain · coefficients."""
    basis = spectral.Fourier(3)
    net, a = operators.DeepONet(basis, 4, width=6, depth=1, generator=gen()), randn(5, 9)
    net.normalize(a, 3 * a)
    c = spectral.coefficients(basis, a)
    assert float(net.gain) == pytest.approx(1 / float(c.square().mean().sqrt())) and float(net.scale) == pytest.approx(3 * float(a.square().mean().sqrt()))
    y = rand(6, 1)
    t, b = net.trunk(basis.evaluate(y)), net.branch(c * net.gain)
    assert close(net(a, y).detach(), (net.scale * (t[:, 0] + b @ t[:, 1:].T)).detach())


def test_a_spectral_layer_multiplies_coefficients_by_complex_numbers():
    """v̂_k ↦ v̂_kR_k for pairs (cosine, sine) as c₀ + ic₁, plus the local part."""
    basis = spectral.Fourier(2)
    layer, v = operators.SpectralLayer(basis, 3, gen()), randn(2, 9, 3)
    c = spectral.coefficients(basis, v.transpose(1, 2)).reshape(2, 3, 3, 2)
    out = torch.einsum("bwk,kwv->bvk", torch.complex(c[..., 0], c[..., 1]), torch.complex(layer.R[..., 0], layer.R[..., 1]).detach())
    values = spectral.values(basis, torch.stack([out.real, out.imag], 3).flatten(2), 9).transpose(1, 2)
    assert close(layer(v).detach(), values + (v @ layer.local.weight.T + layer.local.bias).detach())
    assert float(operators.SpectralLayer(basis, 40, gen()).R.detach().std()) == pytest.approx(1 / 40, rel=0.05)


def test_weights_of_linear_layers_are_uniform_up_to_one_over_the_root_of_the_inputs():
    layer = operators._linear(16, 4000, gen(), F64)
    for p in (layer.weight.detach(), layer.bias.detach()):
        assert 0.24 < float(p.abs().max()) <= 0.25 and float(p.var()) == pytest.approx(1 / 48, rel=0.05) and float(p.mean()) == pytest.approx(0, abs=0.02)


def test_the_neural_operator_is_the_composition_of_its_parts():
    net, a = operators.NeuralOperator(spectral.Cosine(2, 2), 3, 2, 2, 4, torch.sin, gen()), randn(2, 16, 2)
    net.normalize(a, 5 * a)
    v = a @ net.lift.weight.T + net.lift.bias
    for layer in net.layers:
        v = torch.sin(layer(v))
    exact = 5 * a.square().mean().sqrt() * net.project[1](torch.sin(net.project[0](v)))[..., 0]
    assert close(net(a).detach(), exact.detach())
    assert net.operations(4) == round(2 * (2 * min(2 * 9 * 16, 2.5 * 16 * 4) * 3 + 2 * 9 * 9 + 2 * 16 * 9 + 10 * 16 * 3) + 2 * 16 * (2 * 3 + 3 * 4 + 4) + 10 * 16 * 4)


def test_relative_errors_sample_by_sample():
    assert close(operators.relative_errors(numbers(4, 3, 0, 5).reshape(2, 2), numbers(1, 7, 3, 4).reshape(2, 2)), numbers(5 / 50**0.5, 10**0.5 / 5))


class Constant(torch.nn.Module):
    """A model with one weight, whose loss against u = 0⁺ has the gradient +1: Adam's step is the learning rate."""

    def __init__(self):
        super().__init__()
        self.p, self.seen = torch.nn.Parameter(numbers(100.0)), []

    def forward(self, a):
        self.seen.append(a[:, 0].tolist())
        return self.p * torch.ones_like(a)

    def normalize(self, a, u):
        self.normalized = (len(a), len(u))


@pytest.mark.parametrize("steps, batch", [(10, 4), (60, 5), (3, 12)])
def test_the_rate_rises_over_one_twentieth_and_falls_like_a_cosine(steps, batch):
    model, a = Constant(), torch.arange(12.0, dtype=F64)[:, None].expand(12, 2)
    seen = operators.fit(model, a, torch.ones(12, 2, dtype=F64), steps, batch, 0.5, gen(), lambda m: float(m.p.detach()), 1)
    rates = [0.5 * min(1, (j + 1) / max(1, steps // 20)) * (1 + math.cos(PI * j / steps)) / 2 for j in range(steps)]
    assert -np.diff(seen) == pytest.approx(rates, rel=1e-5) and model.normalized == (12, 12) and len(seen) == steps + 1
    per_epoch = 12 // batch
    for e in range(0, steps - per_epoch + 1, per_epoch):
        drawn = sum(model.seen[e:e + per_epoch], [])
        assert len(set(drawn)) == len(drawn) == per_epoch * batch
    assert len(operators.fit(Constant(), a, torch.ones(12, 2, dtype=F64), steps, batch, 0.5, gen(), lambda m: 0, 3)) == math.ceil(steps / 3) + 1


# ----------------------------------------------------------------------------------------------- regression
def test_principal_components_in_the_norm_of_the_mean():
    """Samples m ± σ_kφ_k with φ_k orthonormal in (1/N)Σ: variances 2σ_k²/count."""
    N = 4
    phi = torch.stack([numbers(1, 1, 1, 1), numbers(1, -1, 1, -1)], 1)
    m, sigma = numbers(3, 1, 4, 1), (2.0, 0.5)
    u = torch.stack([m + s * t * phi[:, k] for k, s in enumerate(sigma) for t in (1, -1)])
    pca = regression.PCA.fit(u)
    assert close(pca.mean, m) and close(pca.values[:2], numbers(2.0, 0.125)) and close(pca.modes[:, :2].abs(), 1.0)
    assert [pca.tail(r) for r in range(3)] == pytest.approx([2.125, 0.125, 0.0])
    c = pca.encode(u, 2)
    assert c.shape == (4, 2) and close(c.abs(), numbers(2, 0, 2, 0, 0, 0.5, 0, 0.5).reshape(4, 2)) and close(pca.decode(c), u) and close(pca.decode(c[:, :1])[2:], m.expand(2, N))


def test_linear_maps_against_the_normal_equations():
    x, y = randn(9, 3) + 2, randn(9, 2, seed=1) - 5
    fit = regression.LinearMap.fit(x, y)
    A = torch.cat([x, torch.ones(9, 1, dtype=F64)], 1)
    exact = torch.linalg.solve(A.T @ A, A.T @ y)
    assert close(fit.W, exact[:3], 1e-9) and close(fit.b, exact[3], 1e-9) and close(fit(x), A @ exact, 1e-9)


def test_kernels_by_hand():
    """k(r) = (1 + s + s²/3)e^{−s}, s = √5 r/ℓ; ℓ a multiple of the median distance; the best leave-one-out error wins."""
    x, y, k = randn(7, 2), randn(7, 2, seed=1), lambda r: (1 + 5**0.5 * r + 5 * r * r / 3) * np.exp(-(5**0.5) * r)
    assert close(regression.matern(numbers(0, 0.5, 2)), numbers(*(k(r) for r in (0, 0.5, 2))))
    D = np.linalg.norm(x.numpy()[:, None] - x.numpy(), axis=2)
    median = np.sort(D[np.triu_indices(7, 1)])[10]
    fits = {}
    for multiple in (0.5, 1.0, 3.0):
        K = k(D / (multiple * median)) + 0.01 * np.eye(7)
        alpha = np.linalg.solve(K, y.numpy())
        fits[multiple] = (alpha, np.sqrt(((alpha / np.diag(np.linalg.inv(K))[:, None]) ** 2).sum() / y.square().sum().item()))
        one = regression.Kernel.fit(x, y, (multiple,), 0.01)
        assert close(one.alpha, alpha, 1e-9) and one.leave_one_out == pytest.approx(fits[multiple][1]) and one.length == pytest.approx(multiple * median)
    best = min(fits, key=lambda m: fits[m][1])
    found, z = regression.Kernel.fit(x, y, tuple(fits), 0.01), randn(3, 2, seed=2)
    assert found.length == pytest.approx(best * median)
    assert close(found(z), k(np.linalg.norm(z.numpy()[:, None] - x.numpy(), axis=2) / found.length) @ fits[best][0], 1e-9)


# --------------------------------------------------------------------------------------------- sample space
@pytest.mark.parametrize("box", BOXES, ids=repr)
def test_the_tangent_kernel_off_the_origin(box):
    u = networks.Shallow.random(4, box, gen(), 0.6)
    form = energies.StrongForm(lambda x: x[:, 0], energies.interior_sample(box, 7, gen(1)), lambda x: x[:, -1], energies.boundary_sample(box, 5, gen(2)))
    J, T, y = form.jacobian(u, 3.0), sample_space.Tangent(u, form, 3.0), randn(12, seed=4)
    size = float(J.square().sum())
    assert close(T.kernel() / size, J @ J.T / size) and close(T.pull(y), J.T @ y, 1e-10)
    assert close(sample_space.outer_columns(u, form, 3.0), J[:, -5:], 1e-11)
    K = J @ J.T
    exact = J.T @ torch.linalg.solve(K + 0.1 * K.diagonal().mean() * torch.eye(12, dtype=F64), y)
    assert close(T.step(y, 0.1), exact, 1e-9)


@pytest.mark.parametrize("solve", ["qr", "gram"])
def test_damped_least_squares_against_the_normal_equations(solve):
    """λ = damping·‖M‖_F added to the singular values' squares as λ² (qr), or damping·mean diag MᵀM (gram)."""
    M, r, damping = randn(9, 3) * numbers(1, 2, 5), randn(9, seed=1), 0.2
    G = M.T @ M
    lam = (damping * float(M.norm())) ** 2 if solve == "qr" else damping * float(G.trace()) / 3
    assert close(sample_space._least_squares(M, r, damping, solve), torch.linalg.solve(G + lam * torch.eye(3, dtype=F64), M.T @ r), 1e-10)


def soft(n=6, seed=0):
    return energies.StrongForm(lambda x: x[:, 0], energies.interior_sample(PLATE, n, gen(seed)), lambda x: x[:, 1], energies.boundary_sample(PLATE, n, gen(seed + 1)))


def test_solve_outer_moves_the_outer_weights_only_and_to_the_minimum():
    u, form = networks.Shallow.random(3, PLATE, gen(), 0.6), soft(9)
    v = sample_space.solve_outer(u, form, 4.0)
    M = sample_space.outer_columns(u, form, 4.0)
    assert torch.equal(v.W, u.W) and torch.equal(v.b, u.b) and float((M.T @ form.residual(v, 4.0)).abs().max()) < 1e-9
    trial = sample_space._Refresh(u, form, 4.0, 1e-12)
    assert close(trial.residual(u)[1], form.residual(u, 4.0), 1e-10)
    value = trial.loss(u.theta)
    assert value == pytest.approx(float(form.loss(v, 4.0)), rel=1e-6) and close(trial.reached[value].a, v.a, 1e-5) and close(trial.reached[value].c, v.c, 1e-5)


def test_training_draws_geometric_numbers_of_points():
    """n_k = 10·4^{k/(N−1)} rounded, after max(10, 4m) for the first linear solve."""
    counts, u = [], networks.Shallow.random(3, PLATE, gen(), 0.6)
    draw = lambda n: counts.append(n) or soft(n, len(counts))
    seen = []
    run = sample_space.train(u, draw, 4.0, 5, (10, 40), watch=lambda k, v: seen.append(k))
    assert counts == [12, 10, 14, 20, 28, 40] and len(run.loss) == len(seen) and run.beta == [4.0] * len(seen)
    counts.clear()
    sample_space.train(u, draw, 4.0, 1, (20, 40))
    assert counts == [20, 20]


# --------------------------------------------------------------------------------------------------- sindy
def test_test_functions_and_their_derivatives():
    phi, dphi = sindy.bump(4, 3, 0.25)
    t = torch.arange(-4, 5, dtype=F64) * 0.25
    assert close(phi, (1 - t**2) ** 3) and close(dphi, -6 * t * (1 - t**2) ** 2)
    phi, dphi = sindy.bump(3, 2, 0.5)
    s = torch.arange(-3, 4, dtype=F64) / 3
    assert close(phi, (1 - s**2) ** 2) and close(dphi, -4 * s * (1 - s**2) / 1.5)


def test_libraries_and_systems_by_hand():
    E = sindy.monomials(2, 3)
    assert E.tolist() == [[0, 0], [1, 0], [0, 1], [2, 0], [1, 1], [0, 2], [3, 0], [2, 1], [1, 2], [0, 3]]
    x = numbers(2, 3, 5, 7, 1, -1, 4, 2).reshape(4, 2)
    assert sindy.library(x[:1], E).tolist() == [[1, 2, 3, 4, 6, 9, 8, 12, 18, 27]]
    assert sindy.library_gradient(x[:1], E)[0].T.tolist() == [[0, 1, 0, 4, 3, 0, 12, 12, 9, 0], [0, 0, 1, 0, 2, 6, 0, 4, 12, 27]]
    A, B = sindy.strong_system(x, 0.5, E)
    assert close(A, sindy.library(x[1:3], E)) and close(B, x[2:] - x[:2])
    x = randn(9, 2)
    A, B = sindy.weak_system(x, 0.1, E, 2, 3, 3)
    phi, dphi = sindy.bump(2, 3, 0.1)
    assert close(A, torch.stack([0.1 * phi @ sindy.library(x[k:k + 5], E) for k in (0, 3)])) and close(B, torch.stack([-0.1 * dphi @ x[k:k + 5] for k in (0, 3)]))


@pytest.mark.parametrize("r, p, h", [(1.0, 3, 1e-3), (0.4, 5, 1e-3)])
def test_noise_of_weak_and_strong_derivatives(r, p, h):
    phi, dphi = sindy.bump(round(r / h), p, h)
    assert sindy.weak_noise(0.7, h, r, p) == pytest.approx(0.7 * float(dphi.norm() / phi.sum()), rel=1e-4) and sindy.strong_noise(0.7, h) == pytest.approx(0.7 / math.sqrt(2) / h)


def test_thresholds_act_on_coefficients_in_their_own_units():
    """Columns of length 100 and 0.01: the coefficients are what is compared, and the rest is fitted anew."""
    A = randn(30, 4) * numbers(100, 0.01, 1, 3)
    Xi = torch.stack([numbers(0.2, 50, 0.05, 0), numbers(0, 0.3, 1, -2)], 1)
    found = sindy.threshold_least_squares(A, A @ Xi, 0.1)
    assert close(found[:, 1], Xi[:, 1], 1e-8) and float(found[2, 0]) == 0 == float(found[3, 0])
    assert close(found[:2, 0], torch.linalg.lstsq(A[:, :2], (A @ Xi)[:, :1]).solution[:, 0], 1e-8)


def test_flows_and_sensitivities_of_a_linear_system_in_closed_form():
    """ẋ = ax, ẏ = by + cx² from (x₀, y₀): by hand, with derivatives in a, c and the start."""
    a, b, c, x0, y0 = -0.5, 0.3, 2.0, 1.5, -1.0
    E, t = sindy.monomials(2, 2), numbers(0.0, 0.4, 1.0)
    Xi = torch.zeros(6, 2, dtype=F64)
    Xi[1, 0], Xi[2, 1], Xi[3, 1] = a, b, c

    def exact(a, c, x0, y0):
        forced = c * x0**2 * (torch.exp(2 * a * t) - torch.exp(b * t)) / (2 * a - b)
        return torch.stack([x0 * torch.exp(a * t), y0 * torch.exp(b * t) + forced], 1)
    p = tuple(torch.tensor(v, dtype=F64) for v in (a, c, x0, y0))
    x, S = sindy.flow(Xi, E, numbers(x0, y0), t, torch.tensor([[1, 0], [3, 1]]))
    assert close(x, exact(*p), 1e-9) and close(S, torch.stack(torch.func.jacfwd(exact, (0, 1, 2, 3))(*p), 2), 1e-8)
    assert close(sindy.flow(Xi, E, numbers(x0, y0), t), x, 1e-9)


def test_lorenz_at_a_point():
    E, Xi = sindy.lorenz()
    x, y, z = 1.3, -0.4, 2.2
    assert close(sindy.library(numbers(x, y, z)[None], E) @ Xi, [[10 * (y - x), x * (28 - z) - y, x * y - 8 * z / 3]])


@pytest.mark.parametrize("stride, rounds", [(1, 0), (2, 1), (3, 2), (9, 1)])
def test_reweighting_is_generalized_least_squares(stride, rounds):
    """The covariance of the noise in the equations, by automatic differentiation of the defect in the data, for tests that overlap and that do not."""
    h, E, sigma = 0.1, sindy.monomials(2, 2), numbers(0.2, 0.5)
    t = torch.arange(30, dtype=F64) * h
    x = torch.stack([torch.cos(t), torch.sin(1.3 * t)], 1)
    Xi = torch.zeros(6, 2, dtype=F64)
    Xi[2, 0], Xi[1, 1], Xi[4, 1] = -1.0, 1.2, 0.3
    support = torch.nonzero(Xi)
    A, B = sindy.weak_system(x, h, E, 4, 3, stride)
    K = len(A)
    system = torch.zeros(2 * K, 3, dtype=F64)
    for j, (term, k) in enumerate(support.tolist()):
        system[k * K:(k + 1) * K, j] = A[:, term]
    current = Xi.clone()
    for _ in range(rounds):
        def defect(y):
            P, Q = sindy.weak_system(y, h, E, 4, 3, stride)
            return (P @ current - Q).T.reshape(-1)
        rows = (torch.autograd.functional.jacobian(defect, x) * sigma).reshape(2 * K, -1)
        W = torch.linalg.inv(rows @ rows.T)
        current = torch.zeros(6, 2, dtype=F64)
        current[support[:, 0], support[:, 1]] = torch.linalg.solve(system.T @ W @ system, system.T @ W @ B.T.reshape(-1))
    assert close(sindy.reweight(x, h, E, Xi, sigma, 4, 3, stride, rounds), current, 1e-6)


# ------------------------------------------------------------------------------------------------- spectral
def test_fourier_functions_and_grids():
    basis, x = spectral.Fourier(3), rand(5, 1)
    columns = [f(2 * PI * k * x[:, 0]) * (2**0.5 if k else 1) for k in range(4) for f in (torch.cos, torch.sin)]
    assert close(basis.evaluate(x), torch.stack(columns, 1)) and basis.size == 8 and basis.frequencies == 4
    assert close(basis.eigenvalues(), [(2 * PI * k) ** 2 for k in (0, 0, 1, 1, 2, 2, 3, 3)]) and close(basis.points(5)[:, 0], [0, 0.2, 0.4, 0.6, 0.8])
    assert [basis.resolved(n).sum().item() for n in (1, 2, 3, 4, 5, 6, 7)] == [2, 2, 4, 4, 6, 6, 8]


@pytest.mark.parametrize("d", [1, 2, 3])
def test_cosines_on_the_cube_run_along_the_last_index_first(d):
    basis, x = spectral.Cosine(2, d), rand(4, d)
    ks = list(itertools.product(range(3), repeat=d))
    one = lambda k, t: torch.cos(k * PI * t) * (2**0.5 if k else 1)
    assert close(basis.evaluate(x), torch.stack([math.prod(one(k, x[:, i]) for i, k in enumerate(row)) for row in ks], 1)) and basis.size == 3**d
    assert close(basis.eigenvalues(), [PI**2 * sum(k * k for k in row) for row in ks]) and torch.equal(basis.points(3), discretize.centers(3, d))
    assert [basis.resolved(n).sum().item() for n in (1, 2, 3, 4)] == [1, 2**d, 3**d, 3**d]
    assert [spectral.side(basis, torch.zeros(2, n**d)) for n in (1, 2, 3, 5)] == [1, 2, 3, 5] and spectral.side(basis, torch.zeros(4**d, 2), 0) == 4


@pytest.mark.parametrize("basis, n", [(spectral.Fourier(3), 9), (spectral.Fourier(3), 6), (spectral.Cosine(2, 2), 4), (spectral.Cosine(2, 2), 2)], ids=repr)
def test_analysis_is_the_rectangle_rule_and_unresolved_functions_are_zero(basis, n):
    analysis, synthesis = spectral.tables(basis, n)
    values = basis.evaluate(basis.points(n)) * basis.resolved(n)
    assert close(synthesis, values) and close(analysis, values.T / n**basis.d)
    v, m = randn(2, n**basis.d), rand(basis.size)
    assert close(spectral.coefficients(basis, v), v @ values / n**basis.d) and close(spectral.multiply(basis, m, v), (v @ values / n**basis.d * m) @ values.T)
    c = randn(2, basis.size, seed=1)
    assert close(spectral.values(basis, c, n), c @ basis.evaluate(basis.points(n)).T)
