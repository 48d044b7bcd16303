"""Glue of `rounding.c`: numbers and blocks rounded to a grid, a float format or a codebook, float32 on a CPU."""
import ctypes
import math
from functools import lru_cache

import torch

from lecturelib import native

GRID, FLOATS, LEVELS = range(3)
ENDS = ("magnitude", "signed", "range")


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
    rule = Rule(kind=LEVELS, count=len(points), points=points.data_ptr(), thresholds=tau.data_ptr())
    rule.kept = points, tau
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


def elements(x: torch.Tensor, out: torch.Tensor, rule: Rule) -> float:
    """Nearest values of `x` in `out`, float32, or their codes, if that is uint8 or int32; returns the largest magnitude of `x`.

    Raises ValueError if `x` is not finite.
    """
    most = torch.empty(1, dtype=torch.int32)
    size = {torch.float32: 0, torch.uint8: 1, torch.int32: 4}[out.dtype]
    if native.call("rounding", "round_elements", x.contiguous(), out, ctypes.byref(rule), most, x.numel(), size) == native.NOT_FINITE:
        raise ValueError("x must be finite; it holds a NaN or an infinity")
    return float(most.view(torch.float32))


def ends(a: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Of every row of `a` (k, block): the largest magnitude, or the entry that has it ("signed"), or least and largest entry ("range"); (k, 1).

    Raises ValueError if `a` is not finite.
    """
    first = a.new_empty(len(a), 1)
    second = torch.empty_like(first) if kind == "range" else None
    if native.call("rounding", "block_ends", a, first, second, *a.shape, ENDS.index(kind)) == native.NOT_FINITE:
        raise ValueError("x must be finite (in float32); it holds a NaN or an infinity")
    return first, second


def blocks(a: torch.Tensor, s: torch.Tensor, z: torch.Tensor | None, rule: Rule, *, values=None, errors=None, codes=None) -> None:
    """Rows of `a` (k, block) with scales and zeros (k, 1): the nearest values, or their square errors (k, 1), or uint8 codes, where asked for."""
    s, z = s.contiguous(), None if z is None else z.contiguous()
    native.call("rounding", "round_blocks", a, s, z, values, errors, codes, ctypes.byref(rule), *a.shape)


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
