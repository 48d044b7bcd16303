"""Glue of `rounding.c`: numbers and blocks rounded to a grid, a float format or a codebook, float32 on a CPU."""
import ctypes
import math
from functools import lru_cache

import torch

from lecturelib import native

GRID, FLOATS, LEVELS = range(3)
ABSMAX, SIGNED, ENDS, POWER = range(4)                     # how a scale is found
TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e8m0fnu)


NOT_FINITE = "x must be finite (in float32); it holds a NaN or an infinity"
TOO_LARGE = "x must have blocks whose scale {} holds"
RESULT = "x must be so small that the result is finite in {}"
REFUSED = {torch.float32: 0x7f800000, torch.float16: 0x477ff000, torch.bfloat16: 0x7f7f8000}    # bits of the least float32 that becomes infinite


class Rule(ctypes.Structure):
    """What `rounding.c` calls Rule; `kept` holds the tensors that it points into."""
    _fields_ = [*((name, ctypes.c_int32) for name in ("kind", "count", "first", "last", "digits", "mantissa", "top_code", "sign", "one_zero")),
                *((name, ctypes.c_float) for name in ("step", "offset", "low", "high", "top", "cut", "start", "scale")),
                *((name, ctypes.c_void_p) for name in ("points", "thresholds", "inside", "below_points", "below")), ("bins", ctypes.c_int32)]
    kept: tuple = ()


def grid(step: float = 1.0, offset: float = 0.0, bounds=None) -> Rule:
    """Of `uniform`, and of integers in blocks."""
    low, high = bounds or (-math.inf, math.inf)
    return Rule(kind=GRID, step=step, offset=offset, low=low, high=high)


@lru_cache
def floats(fmt, cut: float = math.inf) -> Rule | None:
    """Of a `float_formats.Format`; None where it is computed in float64."""
    from lecturelib.quantization import float_formats
    wide, _, digits, _, first, last = float_formats._layout(fmt, torch.float32)
    if wide != torch.float32:
        return None
    return Rule(kind=FLOATS, digits=digits, mantissa=fmt.mantissa, first=first, last=last, top=fmt.maximum, top_code=fmt.top,
                sign=1 << fmt.exponent + fmt.mantissa, one_zero=fmt.special == "fnuz", cut=cut)


def levels(points: torch.Tensor) -> Rule | None:
    """Of increasing float32 points; None where codebooks have no table for them."""
    from lecturelib.quantization import codebooks
    tau = codebooks.thresholds(points)
    few = [torch.nn.functional.pad(v, (0, native.CHAIN - len(v)), value=torch.inf) for v in (points, tau)] if len(points) <= native.CHAIN else (points, tau)
    rule = Rule(kind=LEVELS, count=len(points), points=few[0].data_ptr(), thresholds=few[1].data_ptr())
    rule.kept = *few,
    if len(points) > native.CHAIN:
        table = codebooks._table(tau)
        if table is None:
            return None
        start, rule.scale, rule.bins, inside, below = table
        rule.start = float(start)
        both = points[torch.stack((below, below + 1), 1).clamp_(max=len(points) - 1).long()].contiguous()
        rule.inside, rule.below_points, rule.below = inside.data_ptr(), both.data_ptr(), below.data_ptr()
        rule.kept = *rule.kept, inside, both, below
    return rule


def elements(x: torch.Tensor, out: torch.Tensor, rule: Rule) -> None:
    """Nearest values of `x` in `out`, which is of its type, one of native.NARROW, or their codes, if that is uint8 or int32.

    Raises ValueError if `x` or a value is not finite.
    """
    size = {torch.uint8: 1, torch.int32: 4}.get(out.dtype, 0)
    for a, b, _ in native.pieces(x, out):
        code = native.call("rounding", "round_elements", a, b, ctypes.byref(rule), a.numel(), size, REFUSED.get(out.dtype, 0))
        if code == native.NOT_FINITE:
            raise ValueError("x must be finite; it holds a NaN or an infinity")
        if code == native.RESULT_NOT_FINITE:
            raise ValueError(f"x and step must keep q(x) finite in {out.dtype}; got step {rule.step:.4g}")


class Finder(ctypes.Structure):
    """What `rounding.c` calls Finder; `kept` holds the factors that it points to."""
    _fields_ = [*((name, ctypes.c_int32) for name in ("rule", "type", "emax", "up", "neighbors", "count")), ("top", ctypes.c_float), ("factors", ctypes.c_void_p)]
    kept: torch.Tensor


def finder(rule: int, dtype: torch.dtype, top: float, factors=(1.0,), *, emax: int = 0, up: int = 0, neighbors: bool = False) -> Finder:
    f = torch.tensor(factors, dtype=torch.float32)
    found = Finder(rule=rule, type=TYPES.index(dtype), emax=emax, up=up, neighbors=neighbors, count=len(f), top=top, factors=f.data_ptr())
    found.kept = f
    return found


def row_maxima(a: torch.Tensor) -> torch.Tensor:
    """The largest magnitude of every row of `a` (k, n), (k, 1).  Raises ValueError if `a` is not finite."""
    most = a.new_empty(len(a), 1)
    if native.call("rounding", "row_maxima", a, most, *a.shape) == native.NOT_FINITE:
        raise ValueError(NOT_FINITE)
    return most


def blocks(a: torch.Tensor, rule: Rule, find: Finder | None = None, *, s=None, z=None, t=None, values=None, codes=None, dtype=torch.float32) -> None:
    """Rows of `a` (k, block): the nearest values (k, block), or the uint8 codes, where asked for.

    Without `find`, s (k, 1) holds the scales; with it the scales and zeros are found and written to s and z, if given.  t: the scale of
    the matrix, one for each of equally many blocks.  Raises ValueError if `a` is not finite, if the type of the scales does not hold one, and if a value is not finite in `dtype`.
    """
    code = native.call("rounding", "round_blocks", a, t, s, z, values, codes, find and ctypes.byref(find), ctypes.byref(rule), *a.shape,
                       len(a) // (1 if t is None else t.numel()), REFUSED[dtype])
    if code == native.NOT_FINITE:
        raise ValueError(NOT_FINITE)
    if code == native.OUT_OF_RANGE:
        raise ValueError(TOO_LARGE.format(TYPES[find.type]))
    if code == native.RESULT_NOT_FINITE:
        raise ValueError(RESULT.format(dtype))


def decode(codes: torch.Tensor, s: torch.Tensor | None, z: torch.Tensor | None, points: torch.Tensor, out: torch.Tensor) -> None:
    """points[code], times s and plus z (k, 1) of its row, if given, for uint8 codes (k, block); into `out` float32 (k, block).

    Raises ValueError on codes without a point, and where the result is not finite.
    """
    s, z = (None if v is None else v.contiguous() for v in (s, z))
    code = native.call("rounding", "decode_blocks", codes.contiguous(), s, z, points.contiguous(), out, len(points), *codes.shape)
    if code == native.OUT_OF_RANGE:
        raise ValueError(f"codes must lie in 0, ..., {len(points) - 1}")
    if code == native.NOT_FINITE:
        raise ValueError("codes must stand for finite numbers")
