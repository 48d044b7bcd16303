"""Voronoi codes, the Leech lattice, and the theory of vectors: round trips, counts, exact moments."""
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lecturelib.quantization import kmeans, lattices, nested, vector_theory
from lecturelib.quantization.leech import golay, leech
from scipy import stats

SMALL = [(lattices.integers(2), 5), (lattices.hexagonal(), 6), (lattices.checkerboard(3), 4), (lattices.checkerboard(4), 3)]


def gauss(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def all_codes(code):
    digits = torch.tensor(list(product(range(code.q), repeat=code.lattice.dimension)))
    return torch.cat([torch.cat((digits, torch.full((len(digits), 1), j)), 1) for j in range(len(code.scales))])


@pytest.mark.parametrize("lattice, q", SMALL, ids=lambda v: str(getattr(v, "name", v)))
def test_as_many_codewords_as_classes_all_in_the_cell(lattice, q):
    code = nested.VoronoiCode(lattice, q, (1.0,))
    points = nested.decode(all_codes(code), code, dtype=torch.float64)
    assert len(points.mul(1e6).round().unique(dim=0)) == q**lattice.dimension
    assert float(lattice.nearest(points / q).abs().max()) == 0
    shifted = points + points.new_tensor(code.shift)
    assert torch.allclose(lattice.nearest(shifted), shifted, atol=1e-9)
    assert torch.equal(nested.encode(points, code), all_codes(code).to(torch.uint8))


@pytest.mark.parametrize("lattice, q", SMALL, ids=lambda v: str(getattr(v, "name", v)))
def test_inside_the_cell_the_code_is_the_nearest_codeword(lattice, q):
    code = nested.VoronoiCode(lattice, q, (0.7,))
    points = nested.decode(all_codes(code), code, dtype=torch.float64)
    x = 0.5 * gauss(2000, lattice.dimension, dtype=torch.float64)
    best = (points[kmeans.nearest(x, points)] - x).square().sum(1)
    found = (nested.quantize(x, code) - x).square().sum(1)
    assert bool((found >= best - 1e-9).all())
    shift = x.new_tensor(code.shift)
    no_overload = lattice.nearest((lattice.nearest(x / 0.7 + shift) - shift) / q).abs().amax(1) == 0
    assert bool((found - best)[no_overload].abs().max() < 1e-9) and 0.3 < float(no_overload.double().mean())


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([2, 3, 14, 255, 256]), st.integers(1, 4), st.integers(0, 10**6), st.sampled_from(
    [torch.float16, torch.bfloat16, torch.float32, torch.float64]))
def test_round_trip(q, k, seed, dtype):
    code = nested.VoronoiCode(lattices.e8(), q, tuple(np.geomspace(3, 8, k) / q))
    x = gauss(3, 50, 8, seed=seed).to(dtype)
    codes = nested.encode(x, code)
    assert codes.shape == (3, 50, 9) and codes.dtype == torch.uint8 and int(codes[..., :8].max()) < q
    assert torch.equal(nested.decode(codes, code, dtype=dtype), nested.quantize(x, code))


def test_more_scales_never_hurt_and_far_points_stay_finite():
    x = gauss(2000, 8)
    few, many = (nested.VoronoiCode(lattices.e8(), 8, s) for s in ((0.5, 0.8), (0.4, 0.5, 0.6, 0.8)))
    a, b = ((nested.quantize(x, c) - x).square().sum(1) for c in (few, many))
    assert bool((b <= a).all())
    assert bool(torch.isfinite(nested.quantize(1e4 * x, many)).all())


def test_closed_cell_counts_classes_more_than_once():
    """E8 in the closed cell of 2 E8: 1 + 240 + 2160 points for 1 + 120 + 135 classes."""
    code = nested.VoronoiCode(lattices.e8(), 2, (1.0,))
    assert len(nested.decode(all_codes(code), code).mul(1e3).round().unique(dim=0)) == 256
    whole = torch.cartesian_prod(*[torch.arange(-2.0, 3)] * 8)
    half = torch.cartesian_prod(*[torch.tensor([-1.5, -0.5, 0.5, 1.5])] * 8)
    points = torch.cat([p[(p.square().sum(1) <= 4) & (p.sum(1) % 2 == 0)] for p in (whole, half)]).double()
    ties = (points / 2 - lattices.e8().nearest(points / 2)).square().sum(1) - points.square().sum(1) / 4
    assert len(points) == 1 + 240 + 2160 and float(ties.abs().max()) == 0           # 0 is a nearest point of 2 E8
    digits = (points @ torch.from_numpy(lattices.e8().basis).inverse()).round() % 2
    sizes = digits.unique(dim=0, return_counts=True)[1]
    assert [int((sizes == m).sum()) for m in (1, 2, 16)] == [1, 120, 135]


def test_error_at_four_bits():
    x = gauss(1 << 14, 8, seed=1)
    scales = tuple(np.array([3.1, 3.8, 4.7, 6.8]) / 14)
    D = float((nested.quantize(x, nested.VoronoiCode(lattices.e8(), 14, scales)) - x).square().mean())
    assert 0.0049 < D < 0.0058


def test_golay_code_and_leech_lattice():
    words = golay()
    assert len(np.unique(words, axis=0)) == 4096
    assert set(((words[2**np.arange(12)] @ words.T) % 2).ravel().tolist()) == {0}
    lattice = leech()
    gram = lattice.basis @ lattice.basis.T
    assert np.abs(gram - np.round(gram)).max() < 1e-9 and set(np.round(np.diag(gram)) % 2) == {0}
    assert lattice.volume == pytest.approx(1)


def test_leech_nearest_point():
    """Every point stays; no vector of shape (4, 4, 0...), (2^8, 0...) or (-3, 1...) leads to a nearer one; shifts pass."""
    lattice, rng = leech(), np.random.default_rng(0)
    basis = torch.from_numpy(lattice.basis)
    x = 2 * gauss(200, 24, dtype=torch.float64)
    k = torch.from_numpy(rng.integers(-3, 4, (200, 24))).double()
    q = lattice.nearest(x)
    coefficients = q @ basis.inverse()
    assert float((coefficients - coefficients.round()).abs().max()) < 1e-9
    assert torch.allclose(lattice.nearest(x + k @ basis), q + k @ basis, atol=1e-9)
    assert torch.allclose(lattice.nearest(k @ basis), k @ basis, atol=1e-9)
    words = golay()
    short = np.concatenate([2 * words[words.sum(1) == 8], 1 - 2 * words - 4 * np.eye(24, dtype=int)[np.arange(4096) % 24] *
                            (1 - 2 * words[np.arange(4096), np.arange(4096) % 24])[:, None],
                            [4 * np.eye(24, dtype=int)[i] + 4 * s * np.eye(24, dtype=int)[j]
                             for i in range(24) for j in range(i) for s in (1, -1)]]) / 8**0.5
    assert np.allclose((short**2).sum(1), 4)
    short = torch.from_numpy(np.concatenate((short, -short)))
    member = short @ basis.inverse()
    assert float((member - member.round()).abs().max()) < 1e-9
    r = x - q
    assert float((r @ short.T).max()) <= 2 + 1e-9          # |r - v|^2 >= |r|^2 for |v|^2 = 4
    assert float(r.square().sum(1).max()) <= 2 + 1e-9      # the covering radius is sqrt 2


@pytest.mark.parametrize("name, moment", [
    ("A1", Fraction(1, 6)), ("A2", Fraction(5, 36)), ("A3", Fraction(1, 8)), ("D4", Fraction(13, 120)),
    ("E6", Fraction(5, 56)), ("E7", Fraction(163, 2016)), ("E8", Fraction(929, 12960))])
def test_exact_moments_of_root_lattices(name, moment):
    found, determinant = vector_theory.root_moment(name)
    assert found == moment
    table = {"A1": lattices.integers(1), "A2": lattices.hexagonal(), "D4": lattices.checkerboard(4), "E8": lattices.e8()}
    if name in table:
        assert float(found) / determinant**(1 / table[name].dimension) == pytest.approx(table[name].moment, rel=1e-13)


@pytest.mark.parametrize("n", range(4, 12))
def test_checkerboard_closed_form(n):
    found, determinant = vector_theory.root_moment(f"D{n}")
    assert determinant == 4
    assert float(found) / 4**(1 / n) == pytest.approx(lattices.checkerboard(n).moment, rel=1e-13)


def test_orders_of_the_weyl_groups():
    orders = {"A4": 120, "D4": 192, "D5": 1920, "E6": 51840, "E7": 2903040, "E8": 696729600}
    assert {name: vector_theory.chambers(name) for name in orders} == orders


def test_zador_factors():
    values = [vector_theory.gaussian_factor(d) for d in range(1, 60)]
    assert all(b < a for a, b in zip(values, values[1:])) and values[-1] > vector_theory.gaussian_factor(np.inf)
    for source in (stats.norm(), stats.laplace(scale=0.5**0.5)):
        shape = [vector_theory.norm_factor(source, d) for d in (1, 2, 4, 8)]
        assert all(b < a for a, b in zip(shape, shape[1:]))
    assert vector_theory.norm_factor(stats.norm(0, 3), 4) == pytest.approx(9 * values[3], rel=1e-9)
    balls = [vector_theory.ball_moment(d) for d in (1, 2, 8, 24, 200)]
    assert all(b < a for a, b in zip(balls, balls[1:])) and balls[-1] > vector_theory.LIMIT
    assert all(vector_theory.ball_moment(x.dimension) <= x.moment + 1e-15 for x in
               (lattices.integers(1), lattices.hexagonal(), lattices.checkerboard(4), lattices.e8(), leech()))


@pytest.mark.parametrize("call, name", [
    (lambda: nested.VoronoiCode(lattices.e8(), 1, (1.0,)), "q must"),
    (lambda: nested.VoronoiCode(lattices.e8(), 257, (1.0,)), "q must"),
    (lambda: nested.VoronoiCode(lattices.e8(), 3, ()), "scales"),
    (lambda: nested.VoronoiCode(lattices.e8(), 3, (1.0, -1.0)), "scales"),
    (lambda: nested.VoronoiCode(lattices.e8(), 3, (1.0,), (0.1,)), "shift"),
    (lambda: nested.encode(torch.full((1, 8), float("nan")), nested.VoronoiCode(lattices.e8(), 3, (1.0,))), "x must be finite"),
    (lambda: nested.encode(torch.zeros(7), nested.VoronoiCode(lattices.e8(), 3, (1.0,))), "x must"),
    (lambda: nested.encode(torch.full((8,), 1e30), nested.VoronoiCode(lattices.e8(), 3, (1.0,))), "x must be finite"),
    (lambda: nested.decode(torch.zeros(8, dtype=torch.uint8), nested.VoronoiCode(lattices.e8(), 3, (1.0,))), "codes"),
    (lambda: nested.decode(torch.full((9,), 3), nested.VoronoiCode(lattices.e8(), 3, (1.0,))), "digits"),
    (lambda: nested.decode(torch.zeros(9, dtype=torch.int64), nested.VoronoiCode(lattices.e8(), 3, (1.0,)), dtype=torch.int8), "dtype"),
    (lambda: nested.decode(torch.tensor([0] * 8 + [1]), nested.VoronoiCode(lattices.e8(), 3, (1.0,))), "scales of codes"),
    (lambda: nested.encode(torch.zeros(8), nested.VoronoiCode(lattices.e8(), 3, (1.0,)), shrink=()), "shrink"),
    (lambda: nested.quantize(torch.zeros(8), nested.VoronoiCode(lattices.e8(), 3, (1.0,)), shrink=(1.0, float("nan"))), "shrink"),
    (lambda: nested.fit_scales(torch.zeros(2, 8), lattices.e8(), 3, 3, (1.0, 2.0)), "count"),
    (lambda: vector_theory.ball_moment(0), "d must"),
    (lambda: vector_theory.cartan("F4"), "name"),
])
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()
