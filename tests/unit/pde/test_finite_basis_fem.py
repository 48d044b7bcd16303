"""Meshes and finite elements: agreement with scikit-fem, rates, location, refusals."""
import math

import pytest
import skfem
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lecturelib.pde import approximation, fem, galerkin, mesh
from skfem.models.poisson import laplace, mass

F64 = torch.float64
X = sympy.symbols("x y")
SMOOTH = sympy.cos(sympy.pi * X[0]) * sympy.cos(2 * sympy.pi * X[1])
PEERS = {("line", 1): (skfem.MeshLine, skfem.ElementLineP1), ("line", 2): (skfem.MeshLine, skfem.ElementLineP2),
         ("triangle", 1): (skfem.MeshTri, skfem.ElementTriP1), ("triangle", 2): (skfem.MeshTri, skfem.ElementTriP2)}


def crooked(kind, seed=0):
    """A scikit-fem mesh, refined and with its inner points moved."""
    m = (skfem.MeshLine if kind == "line" else skfem.MeshTri)().refined(3)
    g = torch.Generator().manual_seed(seed)
    p = torch.as_tensor(m.p.copy())
    inner = ((p > 0) & (p < 1)).all(0)
    p[:, inner] += 0.03 * (2 * torch.rand(p[:, inner].shape, generator=g, dtype=F64) - 1)
    return type(m)(p.numpy(), m.t)


@pytest.mark.parametrize("kind, degree", PEERS)
def test_matrices_and_load_agree_with_scikit_fem(kind, degree):
    m = crooked(kind)
    basis = skfem.Basis(m, PEERS[kind, degree][1](), intorder=8)
    space = fem.Space(mesh.from_skfem(m), degree)
    where = torch.as_tensor(basis.doflocs.T.copy())
    order = torch.cdist(space.nodes, where).argmin(1)
    assert float((where[order] - space.nodes).abs().max()) < 1e-14

    @skfem.LinearForm
    def load(v, w):
        return w.x[0] ** 3 * v

    for ours, theirs in ((space.stiffness(), laplace), (space.mass(), mass)):
        peer = torch.as_tensor(theirs.assemble(basis).toarray())[order][:, order]
        assert torch.allclose(ours.to_dense(), peer, atol=1e-12)
        assert torch.equal(ours.to_dense(), ours.to_dense().T) or torch.allclose(
            ours.to_dense(), ours.to_dense().T, atol=1e-14)
    peer = torch.as_tensor(load.assemble(basis))[order]
    assert torch.allclose(space.load(lambda x: x[:, 0] ** 3, 6), peer, atol=1e-14)
    boundary = torch.as_tensor(basis.get_dofs().all())
    assert torch.equal(order[space.boundary].sort().values, boundary.sort().values)


@pytest.mark.parametrize("degree", [1, 2])
def test_solution_agrees_with_scikit_fem(degree):
    m = crooked("triangle")
    basis = skfem.Basis(m, PEERS["triangle", degree][1](), intorder=8)

    @skfem.LinearForm
    def load(v, w):
        return w.x[0] * v

    theirs = skfem.solve(*skfem.condense(laplace.assemble(basis), load.assemble(basis), D=basis.get_dofs()))
    space = fem.Space(mesh.from_skfem(m), degree)
    ours = fem.poisson(space, lambda x: x[:, 0], lambda x: 0 * x[:, 0])
    order = torch.cdist(space.nodes, torch.as_tensor(basis.doflocs.T.copy())).argmin(1)
    assert torch.allclose(ours.c, torch.as_tensor(theirs)[order], atol=1e-13)


@pytest.mark.parametrize("condition", ["neumann", "dirichlet"])
@pytest.mark.parametrize("degree", [1, 2])
def test_rates(degree, condition):
    u, f = approximation.manufactured(SMOOTH, X)
    errors = []
    for n in (16, 32):
        space = fem.Space(mesh.square(n), degree)
        u_h = fem.poisson(space, f.value, u.value if condition == "dirichlet" else None)
        errors.append(approximation.errors(u_h, u, *space.mesh.quadrature(6)))
    assert math.log2(errors[0].h1 / errors[1].h1) == pytest.approx(degree, abs=0.1)
    assert math.log2(errors[0].l2 / errors[1].l2) == pytest.approx(degree + 1, abs=0.1)


@pytest.mark.parametrize("degree", [1, 2])
def test_a_corner_limits_the_rate(degree):
    corner = approximation.Function(lambda x: x.square().sum(1) ** (1 / 3) * torch.sin(
        2 / 3 * torch.remainder(torch.atan2(x[:, 1], x[:, 0]), 2 * math.pi)))
    errors = []
    for n in (8, 16):
        space = fem.Space(mesh.lshape(n), degree)
        u_h = fem.poisson(space, lambda x: 0 * x[:, 0], corner.value)
        errors.append(approximation.errors(u_h, corner, *space.mesh.quadrature(6)).h1)
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2 / 3, abs=0.03)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=12), st.integers(1, 12))
def test_p1_in_one_dimension_is_the_interpolant_within_h_over_pi(widths, k):
    points = torch.tensor([0.0, *widths], dtype=F64).cumsum(0)
    points = points / points[-1]
    u = approximation.Function(lambda x: torch.sin(k * x[:, 0]))
    space = fem.Space(mesh.interval(points))
    x, w = space.mesh.quadrature(40)
    u_h, interpolant = galerkin.project(pinned(space), u, x, w), space.interpolate(u.value)
    assert torch.allclose(u_h.gradient(x), interpolant.gradient(x), atol=1e-9)
    curvature = float((w @ (k**4 * torch.sin(k * x[:, 0]) ** 2)).sqrt())
    error = approximation.errors(interpolant, u, x, w)
    assert error.h1 <= space.mesh.h / math.pi * curvature * (1 + 1e-9)
    assert error.l2 <= (space.mesh.h / math.pi) ** 2 * curvature * (1 + 1e-9)


class pinned:
    """A space without its first function, so that constants are not in the span."""

    def __init__(self, space):
        self.space, self.N, self.d = space, space.N - 1, space.d

    def stiffness(self):
        return self.space.stiffness().to_dense()[1:, 1:]

    def gradient(self, x):
        return self.space.gradient(x)[:, 1:]

    def function(self, c):
        return self.space.function(torch.cat([c.new_zeros(1), c]))


@pytest.mark.parametrize("make", [lambda: mesh.from_skfem(crooked("triangle")), lambda: mesh.lshape(5),
                                  lambda: mesh.interval([0, 0.1, 0.15, 0.7, 1])])
@pytest.mark.parametrize("degree", [1, 2])
def test_location_and_evaluation(make, degree):
    m = make()
    space = fem.Space(m, degree)
    g = torch.Generator().manual_seed(1)
    cell = torch.randint(len(m.cells), (500,), generator=g)
    bary = torch.distributions.Dirichlet(torch.ones(m.d + 1, dtype=F64)).sample((500,))
    x = (bary[:, :, None] * m.points[m.cells[cell]]).sum(1)
    found, inside = m.locate(x)
    assert float(inside.min()) > -1e-12
    assert torch.allclose((inside[:, :, None] * m.points[m.cells[found]]).sum(1), x, atol=1e-13)

    def polynomial(x):
        return x.sum(1) ** degree + 1

    u = space.interpolate(polynomial)
    assert torch.allclose(u.value(x), polynomial(x), atol=1e-13)
    assert torch.allclose(space.evaluate(x) @ u.c, u.value(x), atol=1e-13)
    assert torch.allclose(torch.einsum("nkd,k->nd", space.gradient(x), u.c), u.gradient(x), atol=1e-11)
    assert torch.allclose(u.value(space.nodes), u.c, atol=1e-13)


@pytest.mark.parametrize("degree", range(7))
def test_triangle_rule_is_exact(degree):
    bary, w = mesh.simplex_rule(2, degree)
    for i in range(degree + 1):
        exact = 2 * math.factorial(i) * math.factorial(degree - i) / math.factorial(degree + 2)
        assert float(w @ (bary[:, 1] ** i * bary[:, 2] ** (degree - i))) == pytest.approx(exact)


def nan_rhs(x):
    return x[:, 0] / 0 * 0


@pytest.mark.parametrize("call, message", [
    (lambda: mesh.interval([0.0, 0.0, 1.0]), "1 degenerate cell of 2; the first is cell 0"),
    (lambda: mesh.interval([0.0, 1.0, 0.5]), "sorted"),
    (lambda: mesh.square(2).locate(torch.full((2, 1), 0.5, dtype=F64)), "2 columns; got 1"),
    (lambda: mesh.Mesh(torch.rand(3, 2), torch.tensor([[0.0, 1.0, 2.0]])), "vertex numbers"),
    (lambda: mesh.Mesh(torch.zeros(3, 2), torch.tensor([[0, 1, 3]])), "vertex numbers"),
    (lambda: mesh.Mesh(torch.rand(4, 2), torch.tensor([[0, 1, 2]])), "1 of 4"),
    (lambda: mesh.Mesh(torch.rand(4, 3), torch.tensor([[0, 1, 2, 3]])), "1 or 2 columns"),
    (lambda: mesh.square(2).locate(torch.full((2, 2), 1.5, dtype=F64)), "2 of 2 points do not"),
    (lambda: fem.Space(mesh.square(2), 3), "degree"),
    (lambda: fem.poisson(fem.Space(mesh.square(2)), lambda x: 1 + 0 * x[:, 0]), "∫f = 1"),
    (lambda: fem.poisson(fem.Space(mesh.square(2)), lambda x: x), "one value per point"),
    (lambda: fem.poisson(fem.Space(mesh.square(2)), nan_rhs), "NaN or infinite"),
    (lambda: fem.poisson(fem.Space(mesh.square(2)), lambda x: x[:, 0], nan_rhs), "boundary values g"),
    (lambda: fem.Space(mesh.square(1)).function(torch.zeros(4)).laplacian(torch.zeros(1, 2)), "Laplacian"),
    (lambda: fem.Space(mesh.square(1)).function(torch.zeros(5)), "4 entries"),
    (lambda: fem.solve(fem.Space(mesh.square(3)).stiffness(), torch.ones(16, dtype=F64),
                       torch.ones(16, dtype=torch.bool)), "converge|regular"),
])
def test_bad_input_is_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_points_of_the_quadrature_that_were_moved_are_located_anew():
    m = mesh.square(3)
    x, _ = m.quadrature(2)
    known = [v.clone() for v in m.locate(x)]
    assert all(torch.allclose(a.double(), b.double()) for a, b in zip(known, m.locate(x.clone())))
    x.copy_(x.flip(0))
    cell, bary = m.locate(x)
    assert torch.equal(cell, known[0].flip(0)) and torch.allclose((bary[:, :, None] * m.points[m.cells[cell]]).sum(1), x)
