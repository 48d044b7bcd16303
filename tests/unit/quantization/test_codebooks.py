"""Nearest-neighbor kernels: the codes are those of rational arithmetic, on every type."""
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lecturelib.quantization import codebooks, uniform

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SPREAD = [-3.0, -1.0, -0.25, 0.0, 0.3, 2.0, 2.5]
CLUSTERED = [-1.0, 0.0, 1e-7, 2e-7, 1.0, 1e4]             # needs more bins than there are: the search


def nearest(x, points):
    """First minimum of |x - c|, in rational numbers."""
    c = [Fraction(v) for v in points]
    return [min(range(len(c)), key=lambda j: abs(Fraction(v) - c[j])) for v in x]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(-100, 100, width=16), min_size=1, max_size=12, unique=True),
       st.lists(st.floats(-120, 120, width=16), min_size=1, max_size=20), st.sampled_from(TYPES))
def test_codes_are_those_of_rational_arithmetic(points, values, dtype):
    c = torch.unique(torch.tensor(points, dtype=torch.float64).to(dtype)).double()
    tau = ((c[1:] + c[:-1]) / 2).to(dtype)
    x = torch.cat((torch.tensor(values, dtype=torch.float64).to(dtype), c.to(dtype), tau,
                   torch.nextafter(tau, tau + 100), torch.nextafter(tau, tau - 100)))
    codes = codebooks.encode(x, c)
    assert codes.tolist() == nearest(x.double().tolist(), c.tolist())
    assert torch.equal(codebooks.decode(codes, c, dtype=dtype), codebooks.quantize(x, c))


@pytest.mark.parametrize("points", [SPREAD, CLUSTERED, [0.7], [-1e-30, 1e-30], [-3e38, 0.0, 3e38]])
def test_lookup_and_search_agree(points):
    x = torch.randn(1 << 12, generator=torch.Generator().manual_seed(0)) * 3
    x = torch.cat((x, 1e-7 * x, 1e30 * x, torch.tensor(points)))
    c = torch.tensor(points)
    brute = torch.searchsorted(codebooks.thresholds(c), x)
    assert torch.equal(codebooks.encode(x, points).long(), brute)
    assert torch.equal(codebooks.quantize(x, points), c[brute])


def test_a_tie_goes_to_the_lower_point_and_quantize_is_idempotent_and_monotone():
    assert codebooks.encode(torch.tensor([-0.5, 0.5, 1.5]), [-1.0, 0.0, 1.0, 2.0]).tolist() == [0, 1, 2]
    x = torch.sort(torch.randn(2000, generator=torch.Generator().manual_seed(1))).values
    q = codebooks.quantize(x, SPREAD)
    assert torch.equal(codebooks.quantize(q, SPREAD), q) and bool((q[1:] >= q[:-1]).all())


def test_uniform_grid_is_the_uniform_quantizer_off_the_ties():
    x = torch.randn(1 << 14, generator=torch.Generator().manual_seed(2))
    assert torch.equal(codebooks.quantize(x, torch.arange(-7, 8) * 0.25), uniform.quantize(x, 0.25, bounds=(-7, 7)))


def test_chunks_layout_out_and_empty_input(monkeypatch):
    x = torch.randn(64, 33, generator=torch.Generator().manual_seed(3))
    whole, codes = codebooks.quantize(x, SPREAD), codebooks.encode(x, SPREAD, dtype=torch.uint8)
    assert codes.dtype == torch.uint8 and torch.equal(codebooks.quantize(x.t(), SPREAD), whole.t())
    monkeypatch.setattr(uniform, "CHUNK", 17)
    assert torch.equal(codebooks.quantize(x, SPREAD), whole)
    assert torch.equal(codebooks.decode(codes, SPREAD), whole)
    out = torch.empty_like(x)
    assert codebooks.quantize(x, SPREAD, out=out) is out and torch.equal(out, whole)
    assert codebooks.decode(codes, SPREAD, out=out) is out and torch.equal(out, whole)
    assert codebooks.quantize(x, SPREAD, out=x) is x and torch.equal(x, whole)
    assert codebooks.quantize(torch.empty(0, 3), SPREAD).shape == (0, 3)
    assert codebooks.decode(torch.empty(0, dtype=torch.int32), SPREAD).shape == (0,)
    assert not codebooks.quantize(whole.clone().requires_grad_(), SPREAD).requires_grad


@pytest.mark.parametrize("dtype", TYPES)
def test_points_are_rounded_to_the_type_of_the_values(dtype):
    x = torch.linspace(-1, 1, 41).to(dtype)
    q = codebooks.quantize(x, [-0.1, 0.3])
    assert q.dtype == dtype and set(q.tolist()) == set(torch.tensor([-0.1, 0.3], dtype=torch.float32 if
                                                       dtype != torch.float64 else dtype).to(dtype).tolist())


@pytest.mark.parametrize("call, name", [
    (lambda x: codebooks.quantize(x, []), "points"),
    (lambda x: codebooks.quantize(x, [1.0, 0.0]), "points"),
    (lambda x: codebooks.quantize(x, [0.0, 1e-60]), "points"),
    (lambda x: codebooks.quantize(x, [0.0, float("nan")]), "points"),
    (lambda x: codebooks.quantize(x, "abc"), "points"),
    (lambda x: codebooks.quantize(x.half(), [0.0, 1e5]), "points"),
    (lambda x: codebooks.quantize(x * float("nan"), SPREAD), "x must be finite"),
    (lambda x: codebooks.encode(x / 0, SPREAD), "x must be finite"),
    (lambda x: codebooks.quantize(x.int(), SPREAD), "x must"),
    (lambda x: codebooks.quantize([0.5], SPREAD), "x must"),
    (lambda x: codebooks.quantize(x, SPREAD, out=x.double()), "out"),
    (lambda x: codebooks.encode(x, range(300), dtype=torch.uint8), "dtype"),
    (lambda x: codebooks.encode(x, SPREAD, dtype=torch.float32), "dtype"),
    (lambda x: codebooks.decode(x, SPREAD), "codes"),
    (lambda x: codebooks.decode(7 * x.int(), SPREAD), "codes"),
    (lambda x: codebooks.decode(-x.int(), SPREAD), "codes"),
    (lambda x: codebooks.decode(x.int(), SPREAD, dtype=torch.int8), "dtype"),
    (lambda x: codebooks.decode(x.int(), SPREAD, out=x.double()), "out"),
])
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call(torch.ones(4, 8))
