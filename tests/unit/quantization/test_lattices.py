"""Lattices: the nearest point is in the lattice and nearest, and the cell has its known moments."""
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lecturelib.quantization import lattices

LATTICES = {lattice.name: lattice for lattice in (
    lattices.integers(1), lattices.integers(3), lattices.hexagonal(), lattices.checkerboard(2),
    lattices.checkerboard(3), lattices.checkerboard(4), lattices.checkerboard(7), lattices.e8())}
EVERY = pytest.mark.parametrize("name", LATTICES)


def roots(lattice):
    """The shortest vectors, which bound the Voronoi cell of all these lattices."""
    n = lattice.dimension
    if lattice.name.startswith("Z"):
        return np.concatenate((np.eye(n), -np.eye(n)))
    if lattice.name == "A2":
        angle = np.arange(6) * np.pi / 3
        return np.stack((np.cos(angle), np.sin(angle)), 1)
    pairs = [s * np.eye(n)[i] + t * np.eye(n)[j] for i, j in combinations(range(n), 2) for s, t in product((1, -1), repeat=2)]
    if lattice.name == "E8":
        pairs += [np.array(s) / 2 for s in product((1, -1), repeat=8) if np.prod(s) == 1]
    return np.array(pairs)


def near(lattice, center, reach=2):
    """Lattice points around `center`, by coefficients in the basis."""
    k = np.round(np.linalg.solve(lattice.basis.T, center))
    return (k + np.array(list(product(range(-reach, reach + 1), repeat=lattice.dimension)))) @ lattice.basis


def points(lattice):
    return st.lists(st.floats(-20, 20, allow_nan=False), min_size=lattice.dimension, max_size=lattice.dimension)


@EVERY
@settings(max_examples=50, deadline=None)
@given(st.data())
def test_the_point_is_in_the_lattice_and_no_neighbor_is_nearer(name, data):
    lattice = LATTICES[name]
    x = np.array(data.draw(points(lattice)))
    p = lattice.nearest(torch.from_numpy(x)).numpy()
    k = np.linalg.solve(lattice.basis.T, p)
    assert np.abs(k - np.round(k)).max() < 1e-9
    assert ((x - p)**2).sum() <= ((x - p - roots(lattice))**2).sum(1).min() + 1e-9


@pytest.mark.parametrize("name", ["Z^1", "Z^3", "A2", "D2", "D3", "D4"])
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_nearest_by_brute_force(name, data):
    """All points with coefficients within 3 of the rounded ones."""
    lattice = LATTICES[name]
    x = np.array(data.draw(points(lattice)))
    found = ((x - lattice.nearest(torch.from_numpy(x)).numpy())**2).sum()
    assert found == pytest.approx(((x - near(lattice, x, 3))**2).sum(1).min(), abs=1e-9)


@EVERY
def test_equivariance_and_layout(name):
    lattice = LATTICES[name]
    g = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(5, 200, lattice.dimension, generator=g, dtype=torch.float64)
    q = lattice.nearest(x)
    move = torch.randint(-4, 5, (5, 200, lattice.dimension), generator=g).double() @ torch.from_numpy(lattice.basis)
    assert torch.allclose(lattice.nearest(x + move), q + move, atol=1e-9)
    assert torch.allclose(lattice.nearest(-x), -q, atol=1e-9)
    assert torch.equal(lattice.nearest(x[2, 7]), q[2, 7])
    assert torch.allclose(lattice.nearest(q), q, atol=1e-12)
    assert torch.equal(lattice.modulo(x), x - q)
    single = lattice.nearest(x.float())
    assert single.dtype == torch.float32 and float((single != q.float()).double().mean()) < 0.2
    assert torch.allclose((x.float() - single).double().norm(dim=-1), (x - q).norm(dim=-1), atol=1e-5)


@EVERY
def test_moments_of_the_cell(name):
    lattice = LATTICES[name]
    u = lattice.uniform(1 << 16, torch.Generator().manual_seed(3))
    assert torch.allclose(lattice.modulo(u), u, atol=1e-12)
    per = u.square().mean(-1)
    assert abs(float(per.mean()) - lattice.variance) < 4.5 * float(per.std()) / 256
    covariance = (u.t() @ u / len(u)).numpy()
    assert np.abs(covariance - lattice.variance * np.eye(lattice.dimension)).max() < 5 * 2**0.5 * lattice.variance / 256
    assert float(u.mean(0).abs().max()) < 4.5 * lattice.variance**0.5 / 256


def test_constants():
    """Closed forms and the values printed in Conway and Sloane's table."""
    assert lattices.checkerboard(2).moment == pytest.approx(1 / 12)               # a rotated square
    assert lattices.checkerboard(4).moment == pytest.approx(0.0766032, abs=5e-8)
    assert lattices.hexagonal().moment == pytest.approx(0.0801875, abs=5e-8)
    assert lattices.e8().moment == pytest.approx(0.0716821, abs=5e-8)
    assert [LATTICES[k].volume for k in ("Z^3", "D4", "E8")] == [1, 2, 1]
    assert LATTICES["A2"].volume == pytest.approx(3**0.5 / 2)


def test_parity_of_far_points_in_float32():
    x = torch.tensor([[2.0**24, 1.0, 0.3, 0.2]])
    assert lattices.checkerboard(4).nearest(x).tolist() == [[2.0**24, 1.0, 1.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(lattices.e8().nearest(x), lattices.e8().nearest(x.float()).to(dtype))


@pytest.mark.parametrize("call, name", [
    (lambda: lattices.e8().nearest(torch.zeros(3, 7)), "x must"),
    (lambda: lattices.e8().nearest(torch.zeros(8, dtype=torch.int32)), "x must"),
    (lambda: lattices.e8().nearest([0.0] * 8), "x must"),
    (lambda: lattices.e8().nearest(torch.full((8,), float("nan"))), "x must be finite"),
    (lambda: lattices.integers(0), "n must"),
    (lambda: lattices.checkerboard(1), "n must"),
    (lambda: lattices.checkerboard(2.5), "n must"),
    (lambda: lattices.e8().uniform(-1, torch.Generator()), "count"),
    (lambda: lattices.e8().uniform(2, None), "generator"),
    (lambda: lattices.e8().uniform(2, torch.Generator(), torch.int32), "dtype"),
])
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()
