"""Float formats against torch's own types and ml_dtypes: every number, every midpoint, 10^6 random inputs."""
import functools
from fractions import Fraction
from unittest import mock

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lecturelib import native
from lecturelib.quantization import codebooks, float_formats, uniform
from lecturelib.quantization.float_formats import FORMATS, Format

PEERS = {"e2m1": ml_dtypes.float4_e2m1fn, "e2m3": ml_dtypes.float6_e2m3fn, "e3m2": ml_dtypes.float6_e3m2fn,
         "e4m3fn": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2, "e4m3": ml_dtypes.float8_e4m3,
         "e3m4": ml_dtypes.float8_e3m4, "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
         "e5m2fnuz": ml_dtypes.float8_e5m2fnuz, "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
         "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
TORCH = {"e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "e4m3fnuz": torch.float8_e4m3fnuz,
         "e5m2fnuz": torch.float8_e5m2fnuz, "float16": torch.float16, "bfloat16": torch.bfloat16}


@functools.cache
def noise():
    g = torch.Generator().manual_seed(0)
    return torch.randn(10**6, generator=g), torch.rand(10**6, generator=g)


def inputs(fmt):
    """Every number, every midpoint and its two neighbors in float32, and 10^6 numbers of all magnitudes."""
    m = float_formats.magnitudes(fmt)
    middle = ((m[1:] + m[:-1]) / 2).float()
    x = torch.cat((m.float(), middle, torch.nextafter(middle, middle + middle), torch.nextafter(middle, 0 * middle)))
    normal, u = noise()
    low, high = np.log2(fmt.smallest) - 3, np.log2(fmt.maximum) + 1
    x = torch.cat((x, -x, normal * torch.exp2(low + (high - low) * u)))
    return x[x.abs() <= fmt.maximum]


def same(a, b):
    return torch.equal(a, b) and torch.equal(torch.signbit(a), torch.signbit(b))


@pytest.mark.parametrize("name", PEERS)
def test_agreement_with_ml_dtypes(name):
    fmt = FORMATS[name]
    x = inputs(fmt)
    assert len(x) > 8e5
    theirs = x.numpy().astype(PEERS[name])
    codes = torch.from_numpy(theirs.view(np.uint8 if theirs.itemsize == 1 else np.uint16).astype(np.int32))
    assert same(float_formats.quantize(x, fmt), torch.from_numpy(theirs.astype(np.float32)))
    assert torch.equal(float_formats.encode(x, fmt).int(), codes)


@pytest.mark.parametrize("name", TORCH)
def test_agreement_with_torch(name):
    fmt = FORMATS[name]
    x = inputs(fmt)
    theirs = x.to(TORCH[name])
    assert same(float_formats.quantize(x, fmt), theirs.float())
    codes = theirs.view(torch.uint8 if theirs.itemsize == 1 else torch.int16).int() & (1 << fmt.bits) - 1
    assert torch.equal(float_formats.encode(x, fmt).int(), codes)


@pytest.mark.parametrize("name", FORMATS)
def test_codes_go_round(name):
    """Decode is the inverse of encode on every code of a finite number, and refuses all others."""
    fmt = FORMATS[name]
    codes = torch.arange(fmt.top + 1, dtype=torch.int32)
    negative = codes[1 if fmt.special == "fnuz" else 0:] + 2**(fmt.bits - 1)
    codes = torch.cat((codes, negative))
    numbers = float_formats.decode(codes, fmt, dtype=torch.float64)
    assert torch.equal(float_formats.encode(numbers, fmt).int(), codes)
    assert same(float_formats.quantize(numbers, fmt), numbers)
    assert torch.equal(torch.unique(numbers), float_formats.points(fmt))
    others = set(range(2**fmt.bits)) - set(codes.tolist())
    assert len(others) == {"none": 0, "nan": 2, "ieee": 2 * 2**fmt.mantissa, "fnuz": 1}[fmt.special]
    for code in sorted(others)[:3]:
        with pytest.raises(ValueError, match="codes"):
            float_formats.decode(torch.tensor([code]), fmt)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(0, 4), st.lists(st.floats(-300, 300), min_size=1, max_size=20))
def test_nearest_number_in_rational_arithmetic(e, m, values):
    """float64 is rounded once; beyond the largest number it saturates.  Ties go to the even mantissa, without one to the larger magnitude."""
    fmt = Format(e, m)
    grid = [Fraction(v) for v in float_formats.magnitudes(fmt).tolist()]
    codes = float_formats.encode(torch.tensor(values, dtype=torch.float64), fmt).int() & 2**(e + m) - 1
    for value, code in zip(values, codes.tolist()):
        assert code == min(range(len(grid)), key=lambda j: (abs(abs(Fraction(value)) - grid[j]), j % 2 if m else -j or -1.5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("special", float_formats.SPECIAL)
@pytest.mark.parametrize("e", range(2, 8))
def test_ties_without_mantissa_bits(e, special, dtype):
    """IEEE 754-2019, 4.3.1: where neither neighbour is even the one larger in magnitude; 0 is even."""
    fmt = Format(e, 0, special=special)
    g = float_formats.magnitudes(fmt)
    middle = (g[1:] + g[:-1]) / 2
    rounded, exact = g[1:].clone(), middle.to(dtype).double() == middle
    rounded[0] = 0
    for sign in (1, -1):
        for fast in (True, False):
            with mock.patch.object(native, "LEAST", 0), mock.patch.object(native, "library", native.library if fast else lambda name: None):
                assert torch.equal(float_formats.quantize((sign * middle).to(dtype), fmt).double()[exact], (sign * rounded)[exact])


@pytest.mark.parametrize("name", ["e2m1", "e4m3fn", "e5m2", "bfloat16"])
def test_double_precision_is_rounded_once(name):
    """Just above a midpoint that is a tie in float32: up.  (ml_dtypes 0.6.0 goes through float32 here.)"""
    fmt = FORMATS[name]
    m = float_formats.magnitudes(fmt)
    middle = (m[1:] + m[:-1]) / 2
    up, down = torch.nextafter(middle, 2 * middle), torch.nextafter(middle, 0 * middle)
    assert torch.equal(float_formats.quantize(up, fmt), m[1:])
    assert torch.equal(float_formats.quantize(down, fmt), m[:-1])


@pytest.mark.parametrize("name", FORMATS)
def test_saturation(name):
    """Finite numbers beyond the largest go there, also where the format has infinities."""
    fmt = FORMATS[name]
    x = torch.tensor([1.01, 1.5, 16.0, 1e30], dtype=torch.float64) * fmt.maximum
    assert torch.equal(float_formats.quantize(torch.cat((x, -x)), fmt).abs(), torch.full((8,), fmt.maximum).double())
    codes = float_formats.encode(torch.cat((x, -x)), fmt)
    assert torch.equal(float_formats.decode(codes, fmt, dtype=torch.float64).abs(), torch.full((8,), fmt.maximum).double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_type_agrees_with_double_precision(dtype):
    x = (torch.randn(1 << 12, generator=torch.Generator().manual_seed(0)) * 2).to(dtype)
    for name in ("e2m1", "e3m2", "e4m3fn"):
        fmt = FORMATS[name]
        assert torch.equal(float_formats.quantize(x, fmt).double(), float_formats.quantize(x.double(), fmt))
        assert torch.equal(float_formats.encode(x, fmt), float_formats.encode(x.double(), fmt))
        assert torch.equal(float_formats.decode(float_formats.encode(x, fmt), fmt, dtype=dtype),
                           float_formats.quantize(x, fmt))


def test_format_is_the_codebook_of_its_numbers_and_e1_is_a_uniform_grid():
    x = torch.randn(1 << 14, generator=torch.Generator().manual_seed(1)) * 2
    for fmt in (FORMATS["e2m1"], FORMATS["e3m2"], Format(3, 0), Format(4, 3)):
        assert torch.equal(codebooks.quantize(x, float_formats.points(fmt)), float_formats.quantize(x, fmt))
    assert torch.equal(uniform.quantize(x, 0.5, bounds=(-7, 7)), float_formats.quantize(x, Format(1, 2)))


def test_scaling_by_two_and_sign():
    x = torch.randn(1 << 12, generator=torch.Generator().manual_seed(2)).abs().clamp(1, 7)
    fmt, wide = Format(3, 2), Format(4, 2)
    assert torch.equal(float_formats.quantize(2 * x, wide), 2 * float_formats.quantize(x, wide))
    assert same(float_formats.quantize(-x, fmt), -float_formats.quantize(x, fmt))
    assert same(float_formats.quantize(torch.tensor([-0.0, -1e-3]), fmt), torch.tensor([-0.0, -0.0]))
    assert same(float_formats.quantize(torch.tensor([-0.0, -1e-6]), FORMATS["e4m3fnuz"]), torch.zeros(2))


def test_chunks_layout_out_and_empty_input(monkeypatch):
    x = torch.randn(64, 33, generator=torch.Generator().manual_seed(3))
    fmt = FORMATS["e2m1"]
    whole, codes = float_formats.quantize(x, fmt), float_formats.encode(x, fmt)
    assert torch.equal(float_formats.quantize(x.t(), fmt), whole.t())
    monkeypatch.setattr(uniform, "CHUNK", 17)
    out = torch.empty_like(x)
    assert float_formats.quantize(x, fmt, out=out) is out and torch.equal(out, whole)
    assert torch.equal(float_formats.encode(x, fmt), codes) and torch.equal(float_formats.decode(codes, fmt), whole)
    assert float_formats.quantize(x, fmt, out=x) is x and torch.equal(x, whole)
    assert float_formats.quantize(torch.empty(0, 3), fmt).shape == (0, 3)
    assert float_formats.encode(torch.empty(0), fmt).shape == (0,)
    assert not float_formats.quantize(whole.clone().requires_grad_(), fmt).requires_grad


def test_kept_constants_know_nothing_of_the_default_device():
    x = torch.randn(33, generator=torch.Generator().manual_seed(4))
    expected = float_formats.quantize(x, FORMATS["e2m1"])
    float_formats._constant.cache_clear()
    with torch.device("meta"):
        float_formats._round(x, FORMATS["e2m1"], x)
    assert torch.equal(x, expected) and torch.equal(float_formats.quantize(x, FORMATS["e2m1"]), expected)


@pytest.mark.parametrize("call, name", [
    (lambda x: Format(0, 3), "exponent"), (lambda x: Format(2, -1), "mantissa"), (lambda x: Format(2.0, 1), "exponent"),
    (lambda x: Format(8, 10), "16 bits"), (lambda x: Format(2, 1, bias=0.5), "bias"), (lambda x: Format(2, 1, bias=300), "float32"),
    (lambda x: Format(2, 1, special="inf"), "special"), (lambda x: Format(1, 0, special="nan"), "exponent"),
    (lambda x: float_formats.quantize(x, "e2m1"), "fmt"),
    (lambda x: float_formats.quantize(x.half(), FORMATS["bfloat16"]), "fmt"),
    (lambda x: float_formats.quantize(x.bfloat16(), FORMATS["float16"]), "fmt"),
    (lambda x: float_formats.quantize(x / 0, FORMATS["e5m2"]), "x must be finite"),
    (lambda x: float_formats.encode(x * float("nan"), FORMATS["e2m1"]), "x must be finite"),
    (lambda x: float_formats.quantize(x.int(), FORMATS["e2m1"]), "x must"),
    (lambda x: float_formats.quantize(x, FORMATS["e2m1"], out=x.double()), "out"),
    (lambda x: float_formats.decode(x, FORMATS["e2m1"]), "codes"),
    (lambda x: float_formats.decode(16 * x.int(), FORMATS["e2m1"]), "codes"),
    (lambda x: float_formats.decode(-x.int(), FORMATS["e2m1"]), "codes"),
    (lambda x: float_formats.decode(x.int(), FORMATS["e2m1"], dtype=torch.int8), "dtype"),
    (lambda x: float_formats.decode(x.int(), FORMATS["bfloat16"], dtype=torch.float16), "fmt"),
    (lambda x: float_formats.decode(x.int(), FORMATS["e2m1"], out=x.double()), "out"),
])
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call(torch.ones(4, 8))


@pytest.mark.parametrize("name", FORMATS)
def test_codes_are_bytes_where_they_fit(name):
    fmt = FORMATS[name]
    assert float_formats.encode(torch.ones(3), fmt).dtype == (torch.uint8 if name not in ("float16", "bfloat16") else torch.int32)
    assert float_formats.encode(torch.full((1,), -fmt.maximum), fmt).tolist() == [fmt.top + 2**(fmt.bits - 1)]
