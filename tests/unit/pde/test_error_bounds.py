"""Best approximation, Poincaré constants and the chain, at their constants and rates."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lecturelib.pde import bases, bounds, fem, mesh, poincare
from lecturelib.pde.approximation import Function
from lecturelib.pde.domains import Box
from scipy.special import jn_zeros

F64, PI = torch.float64, math.pi


# ------------------------------------------------------------------------------------- Céa
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.booleans())
def test_cea_bounds_every_form(seed, columns, symmetric):
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(5, 5, dtype=F64, generator=g)
    A = A @ A.T + 0.05 * torch.eye(5, dtype=F64) + (0 if symmetric else 3) * (A - A.T)
    X = torch.randn(5, columns, dtype=F64, generator=g)
    alpha, M = bounds.coercivity(A)
    factor = bounds.galerkin_factor(A, X)
    assert 1 - 1e-9 <= factor <= M / alpha * (1 + 1e-9)
    if symmetric:
        assert factor <= bounds.symmetric_factor(M / alpha) * (1 + 1e-9)


@pytest.mark.parametrize("kappa", [1.0, 1.01, 3.0, 50.0, 1e4])
def test_cea_constants_are_attained(kappa):
    s = math.sqrt(kappa**2 - 1)
    turn, stretch = torch.tensor([[1, -s], [s, 1]], dtype=F64), torch.diag(torch.tensor([1, kappa], dtype=F64))
    axis = torch.tensor([[1.0], [0.0]], dtype=F64)
    diagonal = torch.tensor([[math.sqrt(kappa)], [1.0]], dtype=F64)
    assert abs(bounds.galerkin_factor(turn, axis) / kappa - 1) < 1e-7
    assert abs(bounds.galerkin_factor(stretch, diagonal) / bounds.symmetric_factor(kappa) - 1) < 1e-7
    assert bounds.symmetric_factor(kappa) <= math.sqrt(kappa)


# -------------------------------------------------------------------------------- Poincaré
@pytest.mark.parametrize("d", range(1, 7))
def test_unit_cube_from_above(d):
    value = poincare.box_eigenvalue([1.0] * d, 5)
    assert PI**2 * (1 - 1e-12) <= value <= PI**2 * (1 + 3e-7)
    assert 1 / math.sqrt(value) <= poincare.payne_weinberger(math.sqrt(d)) * (1 + 1e-12)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0.2, 3.0), min_size=1, max_size=3))
def test_boxes_are_ruled_by_their_longest_side(sides):
    value = poincare.box_eigenvalue(sides, 9)
    assert abs(value * max(sides) ** 2 / PI**2 - 1) < 1e-6
    assert abs(1 / math.sqrt(value) - Box([0.0] * len(sides), sides).poincare) < 1e-5 * max(sides)


@settings(max_examples=25, deadline=None)
@given(st.floats(-4, 4), st.floats(0, 6), st.floats(0, 1), st.floats(0.3, 1.5))
def test_log_concave_weights(slope, curvature, center, length):
    weight = lambda x: torch.exp(slope * x - curvature * (x - center) ** 2)
    assert poincare.weighted_eigenvalue(weight, length) >= (PI / length) ** 2 * (1 - 1e-9)


@pytest.mark.parametrize("angle", [4, 20, 60, 90, 130, 165])
def test_triangles_are_bracketed_above_payne_weinberger(angle):
    half = math.radians(angle) / 2
    corners = [[0, 0], [math.cos(half), math.sin(half)], [math.cos(half), -math.sin(half)]]
    diameter = max(1.0, 2 * math.sin(half))
    low, high = poincare.neumann_bracket(poincare.triangle(corners, 24))
    assert low < high < 1.06 * low and high * diameter**2 > jn_zeros(1, 1)[0] ** 2
    exact = {60: 16 * PI**2 / 9, 90: PI**2}.get(angle)
    if exact:
        assert low <= exact <= high


def test_bracket_converges_quadratically():
    gaps = [high - low for low, high in (poincare.neumann_bracket(mesh.square(n)) for n in (8, 16, 32))]
    assert all(3.3 < a / b < 4.7 for a, b in zip(gaps, gaps[1:]))


def test_bracket_of_an_l_shape_contains_a_finer_one():
    coarse, fine = (poincare.neumann_bracket(mesh.lshape(n)) for n in (6, 24))
    assert coarse[0] <= fine[0] <= fine[1] <= coarse[1]


@pytest.mark.parametrize("length", [0.25, 1.0])
def test_dumbbell_rate(length):
    values = []
    for k in (3, 5, 7):
        neck = 2.0**-k
        low, high = poincare.neumann_bracket(poincare.dumbbell(neck, length))
        assert 1 / high >= length / (2 * neck) + length**2 / 12
        values.append(1 / high - length / (2 * neck))
    growth = [(b - a) / math.log(4) for a, b in zip(values, values[1:])]
    assert all(abs(g - 1 / PI) < 0.04 for g in growth)


def test_dumbbell_geometry():
    for neck in (1.0, 0.3, 0.01):
        body = poincare.dumbbell(neck, 0.4)
        assert abs(float(body.volumes.sum()) - 2 - 0.4 * neck) < 1e-12
        edges = torch.sort(torch.cat([body.cells[:, [0, 1]], body.cells[:, [1, 2]], body.cells[:, [0, 2]]]), 1)
        assert torch.unique(edges.values, dim=0, return_counts=True)[1].max() == 2


def test_crouzeix_raviart_matches_scikit_fem():
    skfem = pytest.importorskip("skfem")
    from skfem.models.poisson import laplace, mass
    from lecturelib.pde.fem import to_scipy
    grid = skfem.MeshTri().refined(3)
    basis = skfem.Basis(grid, skfem.ElementTriCR())
    K, M, _ = poincare.crouzeix_raviart(mesh.from_skfem(grid))
    ours = to_scipy(K).toarray() / (M.sqrt() * M.sqrt()[:, None]).numpy()
    scale = basis_mass = mass.assemble(basis).diagonal()
    theirs = laplace.assemble(basis).toarray() / (scale**0.5 * basis_mass[:, None] ** 0.5)
    import numpy as np
    assert np.allclose(np.linalg.eigvalsh(ours)[:12], np.linalg.eigvalsh(theirs)[:12], atol=1e-8)


# ------------------------------------------------------------------------------------ chain
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.3, 5.0))
def test_single_modes(k, m, length):
    line = Box([0.0], [length])
    mode = Function(lambda x: torch.cos(k * PI * x[:, 0] / length))
    f = lambda x: (k * PI / length) ** 2 * mode.value(x)
    c = bounds.chain(mode, f, bases.Tensor("cosine", line, torch.tensor([[m]])), *line.quadrature(30),
                     line.poincare)
    gap = 0.0 if k == m else (k * PI) ** 2 / (4 * length)
    assert abs(c.gap - gap) < 1e-8 * (k * PI) ** 2 / length and abs(c.gradient - gap) < 1e-8 * (1 + gap)
    if k != m:
        assert c.l2 <= c.gap * (1 + 1e-9) <= c.best_h1 * (1 + 1e-8)
        assert abs(c.gap / c.l2 - k**2) < 1e-6 * k**2
        assert abs(c.gap / c.best_l2 - (k * PI / length) ** 2) < 1e-6 * (k * PI / length) ** 2


def test_chain_in_order_for_elements_and_features():
    square = Box.unit(2)
    u = Function(lambda x: torch.exp(torch.cos(PI * x[:, 0])) * torch.cos(PI * x[:, 1]))
    f = lambda x: -u.laplacian(x)
    g = torch.Generator().manual_seed(0)
    space = fem.Space(mesh.square(6))
    for basis, rule in ((space, space.mesh.quadrature(10)),
                        (bases.RandomFeatures.sample(square, 30, 3.0, g), square.quadrature(30))):
        c = bounds.chain(u, f, basis, *rule, square.poincare)
        assert abs(c.gap / c.gradient - 1) < 1e-6 and abs(c.gradient / c.best_gradient - 1) < 1e-8
        assert c.l2 <= c.gap <= c.best_h1 and c.best_l2 < c.gap


# --------------------------------------------------------------------------------- refusals
def test_refusals():
    A = torch.eye(3, dtype=F64)
    with pytest.raises(ValueError, match="between 1 and 2 columns"):
        bounds.galerkin_factor(A, A)
    with pytest.raises(ValueError, match="invertible"):
        bounds.galerkin_factor(torch.diag(torch.tensor([1.0, -1.0])), torch.ones(2, 1))
    with pytest.raises(ValueError, match="kappa"):
        bounds.symmetric_factor(0.5)
    with pytest.raises(ValueError, match="weight must be positive"):
        poincare.weighted_eigenvalue(lambda x: x - 0.5)
    with pytest.raises(ValueError, match="vary less"):
        poincare.weighted_eigenvalue(lambda x: torch.exp(-80 * x))
    with pytest.raises(ValueError, match="neck"):
        poincare.dumbbell(0.0)
    two = torch.tensor([[0.0, 0], [1, 0], [0, 1]], dtype=F64)
    with pytest.raises(ValueError, match="connected"):
        poincare.neumann_bracket(mesh.Mesh(torch.cat([two, two + 5]), torch.arange(6).reshape(2, 3)))
    with pytest.raises(ValueError, match="sides"):
        poincare.box_eigenvalue([1.0, -1.0], 4)
    with pytest.raises(ValueError, match="degenerate"):
        poincare.triangle([[0, 0], [1, 0], [2, 0]], 2)
