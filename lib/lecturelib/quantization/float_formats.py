"""Small float formats EeMm with subnormals: encode to bit patterns, decode, and both in one pass.

Rules, the same in every function: rounding is to the nearest representable number, ties to the even
mantissa, or, without mantissa bits, where both neighbours other than 0 are odd, to the larger
magnitude (IEEE 754-2019, 4.3.1); finite numbers beyond the largest one *saturate* to it, with their
sign, also where the format has an infinity; the sign of zero is kept where the format has two zeros;
NaN and infinities raise ValueError, in numbers and in codes.  float16, bfloat16 and float32 are computed in float32
(in float64 for formats as wide as bfloat16), float64 in float64, so nothing is rounded twice.
"""
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from lecturelib import native
from lecturelib.native import rounding
from lecturelib.quantization import uniform
from lecturelib.quantization.codebooks import CODES, _decoded, _finite_pieces, _pieces

SPECIAL = ("none", "nan", "ieee", "fnuz")


@dataclass(frozen=True)
class Format:
    r"""Sign, `exponent` bits and `mantissa` bits (eq-cb-float).

    `bias` is $2^{e-1}-1$ unless given.  `special` says which codes are no finite numbers: `none`;
    `nan` for all ones (as e4m3fn); `ieee` for the whole top exponent; `fnuz` for the code of -0, which
    then is a NaN (its usual bias is one larger).  Raises ValueError unless 1 to 8 exponent bits, 0 to
    10 mantissa bits and at most 16 bits in all give numbers that float32 holds.

    >>> Format(2, 1).maximum, Format(2, 1).smallest, Format(2, 1).bits
    (6.0, 0.5, 4)
    """
    exponent: int
    mantissa: int
    bias: int | None = None
    special: str = "none"

    def __post_init__(self):
        for name, low, high in (("exponent", 1, 8), ("mantissa", 0, 10)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} must be an integer from {low} to {high}; got {value!r}")
        if self.special not in SPECIAL:
            raise ValueError(f"special must be one of {SPECIAL}; got {self.special!r}")
        if self.bias is None:
            object.__setattr__(self, "bias", 2**(self.exponent - 1) - (self.special != "fnuz"))
        if isinstance(self.bias, bool) or not isinstance(self.bias, int):
            raise ValueError(f"bias must be an integer; got {self.bias!r}")
        if self.bits > 16 or self.top < 1 or self.high_exponent > 127 or self.low_exponent < -126:
            raise ValueError(f"exponent, mantissa and bias must give at most 16 bits and numbers that float32 holds; got {self}")

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def top(self) -> int:
        """Largest code of a finite number, without the sign bit."""
        last = 2**(self.exponent + self.mantissa) - 1
        return {"none": last, "nan": last - 1, "ieee": last - 2**self.mantissa, "fnuz": last}[self.special]

    @property
    def low_exponent(self) -> int:
        """Exponent of the smallest normal number, and of all subnormal ones."""
        return 1 - self.bias

    @property
    def high_exponent(self) -> int:
        return max(self.top >> self.mantissa, 1) - self.bias

    @cached_property
    def maximum(self) -> float:
        return float(magnitudes(self)[-1])

    @property
    def smallest(self) -> float:
        """Smallest positive number."""
        return 2.0**(self.low_exponent - self.mantissa)


FORMATS = {"e2m1": Format(2, 1), "e2m3": Format(2, 3), "e3m2": Format(3, 2),             # OCP FP4 and FP6
           "e4m3fn": Format(4, 3, special="nan"), "e5m2": Format(5, 2, special="ieee"),  # OCP FP8
           "e4m3": Format(4, 3, special="ieee"), "e3m4": Format(3, 4, special="ieee"),
           "e4m3fnuz": Format(4, 3, special="fnuz"), "e5m2fnuz": Format(5, 2, special="fnuz"),
           "e4m3b11fnuz": Format(4, 3, 11, "fnuz"),
           "float16": Format(5, 10, special="ieee"), "bfloat16": Format(8, 7, special="ieee")}


def magnitudes(fmt: Format) -> torch.Tensor:
    r"""The numbers at least 0 of the format, in the order of their codes 0, ..., `fmt.top`; float64.

    Code $2^mf+\mu$ stands for $2^{1-\beta-m}\mu$ if the field $f$ is 0, and for
    $2^{f-\beta-m}(2^m+\mu)$ otherwise, $\beta$ the bias (eq-cb-float).

    >>> magnitudes(FORMATS["e2m1"]).tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    """
    code = torch.arange(fmt.top + 1)
    f, mu = code >> fmt.mantissa, code & (2**fmt.mantissa - 1)
    mu = torch.where(f > 0, mu + 2**fmt.mantissa, mu).double()
    return torch.ldexp(mu, f.clamp(min=1) - fmt.bias - fmt.mantissa)


def points(fmt: Format) -> torch.Tensor:
    """All numbers of the format once, increasing: a codebook; float64.

    >>> points(Format(2, 0)).tolist()
    [-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0]
    """
    positive = magnitudes(fmt)[1:]
    return torch.cat((-positive.flip(0), positive.new_zeros(1), positive))


@torch.no_grad()
def quantize(x: torch.Tensor, fmt: Format, *, out: torch.Tensor | None = None) -> torch.Tensor:
    r"""The number of the format nearest to each entry (eq-cb-float): `decode` of `encode`, in one pass.

    With $s=\frac32 2^{23}\cdot2^{E-m}$, $E$ the exponent of the entry limited to those of the format,
    the float32 sum $x+s$ has the unit $2^{E-m}$ in its last place, so that $(x+s)-s$ is $x$ rounded to
    it, ties to even.  The exponent is read from the bits.

    `x` and `out` as in `uniform.quantize`.  Raises ValueError on a NaN or an infinity, and if the
    type of `x` does not hold the numbers of the format.

    >>> quantize(torch.tensor([-0.2, 0.25, 0.3, 2.5, 3.5, 100.0]), FORMATS["e2m1"]).tolist()
    [-0.0, 0.0, 0.5, 2.0, 4.0, 6.0]
    """
    out = uniform._output(x, out, x.dtype if isinstance(x, torch.Tensor) else None)
    _holds(_format(fmt), x.dtype)
    if native.serves("rounding", x, out, least=native.LEAST, types=native.NARROW) and rounding.floats(fmt) is not None:
        rounding.elements(x, out, rounding.floats(fmt))
        return out
    for a, b in _finite_pieces(x, out):
        _round(a, fmt, b)
    return out


def _round(a, fmt, out) -> None:
    wide, integer, digits, mask, first, last = _layout(fmt, a.dtype)
    offset = (digits - fmt.mantissa << digits) + (1 << digits - 1)          # 3/2 2^(digits - m)
    a = a.to(wide)
    bits = a.view(integer)
    s = torch.bitwise_and(bits, _mask(a, integer, mask)).clamp_(first, last).add_(offset).view(wide)
    q = torch.add(a, s).sub_(s).clamp_(-fmt.maximum, fmt.maximum)
    if fmt.special == "fnuz":
        out.copy_(q)
        return
    sign = torch.bitwise_and(bits, _mask(a, integer, torch.iinfo(integer).min), out=s.view(integer))
    if out.dtype == wide:
        torch.bitwise_or(q.view(integer), sign, out=out.view(integer))      # a zero takes the sign of x
    else:
        out.copy_(q.view(integer).bitwise_or_(sign).view(wide))


@torch.no_grad()
def encode(x: torch.Tensor, fmt: Format, *, out: torch.Tensor | None = None) -> torch.Tensor:
    r"""Bit pattern of the nearest number: sign, exponent field, mantissa from the high bit down.

    A uint8 tensor like `x` for formats of up to 8 bits (in the low bits), int32 for larger ones.
    The sum $|x|+2^{23}2^{E-m}$ holds the rounded mantissa in its low bits, and a carry moves on to the
    next exponent as it should.  Raises ValueError on a NaN or an infinity.

    >>> [f"{code:04b}" for code in encode(torch.tensor([0.5, 3.0, -6.0]), FORMATS["e2m1"]).tolist()]
    ['0001', '0101', '1111']
    """
    dtype = torch.uint8 if _format(fmt).bits <= 8 else torch.int32
    out = uniform._output(x, out, dtype)
    if native.serves("rounding", x, least=native.LEAST, types=native.NARROW) and rounding.floats(fmt) is not None:
        rounding.elements(x, out, rounding.floats(fmt))
        return out
    for a, b in _finite_pieces(x, out):
        _encode(a, fmt, b)
    return out


def _nearest(u: torch.Tensor, fmt: Format, out: torch.Tensor) -> None:
    """`quantize`, or `encode` if `out` holds integers, for what is known to be finite, contiguous and float32; in PyTorch."""
    rule = _round if out.dtype.is_floating_point else _encode
    for a, b in _pieces(u, out):
        rule(a, fmt, b)


def _encode(a, fmt, out) -> None:
    wide, integer, digits, mask, first, last = _layout(fmt, a.dtype)
    a = a.to(wide)
    bits = a.view(integer)
    e = torch.bitwise_and(bits, _mask(a, integer, mask)).clamp_(first, last)
    s = e + (digits - fmt.mantissa << digits)
    code = torch.abs(a).add_(s.view(wide)).view(integer).sub_(s)
    code.add_(e.sub_(first).bitwise_right_shift_(digits - fmt.mantissa)).clamp_(max=fmt.top)
    negative = torch.bitwise_right_shift(bits, 8 * bits.itemsize - 1, out=e)
    negative.bitwise_and_(_mask(a, integer, 1 << fmt.exponent + fmt.mantissa))
    if fmt.special == "fnuz":                                               # one zero only
        negative.mul_(code > 0)
    out.copy_(code.bitwise_or_(negative))


def decode(codes: torch.Tensor, fmt: Format, *, dtype: torch.dtype = torch.float32,
           out: torch.Tensor | None = None) -> torch.Tensor:
    r"""Numbers with the bit patterns `codes`, integers, in a floating `dtype` (eq-cb-float).

    Raises ValueError where a code is too large, or stands for a NaN or an infinity, and if `dtype`
    does not hold the numbers of the format.

    >>> decode(torch.tensor([1, 5, 15, 8]), FORMATS["e2m1"]).tolist()
    [0.5, 3.0, -6.0, -0.0]
    """
    if not isinstance(codes, torch.Tensor) or codes.dtype not in CODES:
        raise ValueError("codes must be a tensor of integers")
    if dtype not in uniform.FLOATS:
        raise ValueError(f"dtype must be one of {uniform.FLOATS}; got {dtype}")
    _holds(_format(fmt), dtype)
    out = _decoded(codes, dtype, out)
    half = torch.full((2**(fmt.bits - 1),), torch.nan, dtype=torch.float64)
    half[:fmt.top + 1] = magnitudes(fmt)
    table = torch.cat((half, -half))
    if fmt.special == "fnuz":
        table[len(half)] = torch.nan
    finite, table = torch.isfinite(table), table.to(codes.device, dtype)
    for a, b in _pieces(codes, out):
        low, high = torch.aminmax(a)
        if not 0 <= int(low) <= int(high) < len(table):
            raise ValueError(f"codes must lie in 0, ..., {len(table) - 1}")
        torch.index_select(table, 0, a.int(), out=b)
        if not finite.all() and torch.isnan(b).any():
            raise ValueError("codes must stand for finite numbers; one is a NaN or an infinity")
    return out


def _format(fmt) -> Format:
    if not isinstance(fmt, Format):
        raise ValueError(f"fmt must be a Format; got {fmt!r}")
    return fmt


def _holds(fmt, dtype) -> None:
    """Refuse types that cannot hold the largest and the smallest number of the format exactly."""
    ends = (fmt.maximum, fmt.smallest)
    if torch.tensor(ends, dtype=torch.float64).to(dtype).tolist() != list(ends):
        raise ValueError(f"fmt must have numbers that {dtype} holds; it goes from {ends[1]:.3g} to {ends[0]:.6g}")


@lru_cache
def _layout(fmt, dtype):
    """The type computed in, integers of its size, its mantissa digits and exponent mask; and the
    exponent bits of the smallest and of the largest normal number of the format."""
    wide = dtype == torch.float64 or fmt.high_exponent - fmt.mantissa + 23 > 126    # where 2^23 2^(E-m) overflows
    float_type, integer, digits, bias = (torch.float64, torch.int64, 52, 1023) if wide else \
        (torch.float32, torch.int32, 23, 127)
    return float_type, integer, digits, 2 * bias + 1 << digits, fmt.low_exponent + bias << digits, \
        fmt.high_exponent + bias << digits


def _mask(a, integer, value):
    """`value`, on a CPU as often as the piece is long: there bitwise operations with a number are slower than with a tensor."""
    return _constant(integer, value, uniform.CHUNK)[:len(a)] if a.device.type == "cpu" else value


@lru_cache(maxsize=32)
def _constant(integer, value, size) -> torch.Tensor:
    return torch.full((size,), value, dtype=integer, device="cpu")
