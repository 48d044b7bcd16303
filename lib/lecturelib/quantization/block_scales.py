"""Scales of block formats, and the elements of a block once its scale is known.

All on blocks `a` (k, block) float32 with one scale `s` (k, 1) each, as it is stored; `t` (k, 1) or None is
the matrix's scale.  `fmt` is a `blocks.BlockFormat`, whose docstring states the rules.
"""
import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from lecturelib import native
from lecturelib.native import rounding
from lecturelib.quantization import codebooks, float_formats, uniform

POWERS = ("floor", "even", "ceil", "rceil")


def of_blocks(a, fmt, t):
    """The scale (k, 1) of every block as it is stored, float32, and the zero or None."""
    if fmt.rule == "range":
        low, high = ends(a, "range")
        return stored((high - low) / fmt.top, fmt), stored(low, fmt)
    if fmt.rule == "signed":
        return stored(ends(a, "signed")[0] / fmt.levels[0], fmt), None
    most, _ = ends(a, "magnitude")
    if fmt.rule in POWERS:
        return power_of_two(most, fmt, fmt.rule), None
    ideal = most / fmt.top if t is None else most / fmt.top / t
    if fmt.rule == "absmax":
        return stored(ideal, fmt), None
    return _best(a, _candidates(ideal, most, fmt), fmt, t), None


def ends(a, kind):
    """Of every block: the largest magnitude, the entry that has it ("signed"), or the least and the largest entry ("range"), (k, 1)."""
    if _rule(a, None):
        return rounding.ends(a, kind)
    if kind == "range":
        return a.amin(1, keepdim=True), a.amax(1, keepdim=True)
    size = a.abs()
    return (size.amax(1, keepdim=True) if kind == "magnitude" else a.gather(1, size.argmax(1, keepdim=True))), None


def _candidates(ideal, most, fmt) -> Iterator[torch.Tensor]:
    if fmt.rule == "four over six":
        yield stored(ideal, fmt)
        yield stored(ideal * 1.5, fmt)
    elif fmt.scale == torch.float8_e4m3fn:
        code = stored(ideal, fmt).to(fmt.scale).view(torch.uint8).int()
        for step in (0, *range(-4, 0), *range(1, 9)):
            yield (code + step).clamp_(0, 126).to(torch.uint8).view(fmt.scale).float()
    elif fmt.scale == torch.float8_e8m0fnu:
        floor = power_of_two(most, fmt, "floor")
        for factor in (1.0, 0.5, 2.0):
            yield (floor * factor).clamp_(2.0**-127, 2.0**127)
    else:
        for factor in np.linspace(1.0, 0.4, 25).tolist():
            yield stored(ideal * factor, fmt)


def _best(a, candidates, fmt, t):
    best, least, rule = None, None, _rule(a, fmt)
    for s in candidates:
        if rule:
            error = torch.empty_like(s)
            rounding.blocks(a, s if t is None else s * t, None, rule, errors=error)
        else:
            error = nearest(a, s, None, t, fmt).sub_(a).square_().sum(1, keepdim=True)
        if best is None:
            best, least = s, error
        else:
            better = error < least
            best, least = torch.where(better, s, best), torch.where(better, error, least)
    return best


def power_of_two(most, fmt, rule):
    r"""Powers of two from the bits of the maximum, never from a logarithm."""
    emax = math.frexp(fmt.top)[1] - 1
    mantissa, exponent = torch.frexp(most)               # most = mantissa 2^exponent, mantissa in [1/2, 1)
    floor = exponent - 1
    if rule == "ceil":
        floor = floor + (mantissa > 0.5).int()
    elif rule == "even":                                 # rounded up to the next binade
        floor = floor + (mantissa >= 1 - 2.0**-(fmt.element.mantissa + 2 if fmt.element else 1)).int()
    elif rule == "rceil":
        floor = floor + (mantissa > math.frexp(fmt.top)[0]).int()
    e = torch.where(most > 0, floor - emax, torch.full_like(floor, -127)).clamp_(-127, 127)
    return torch.ldexp(torch.ones_like(most), e)


def stored(s, fmt):
    """To the type of the scale, nearest; E4M3 saturates, the other types refuse what is too large."""
    if fmt.scale == torch.float8_e4m3fn:
        return s.clamp(max=448.0).to(fmt.scale).float()
    r = s.to(fmt.scale).float()
    if not uniform._all_finite(r):
        raise ValueError(f"x must have blocks whose scale {fmt.scale} holds")
    return r


def ratio(a, s, z, t):
    """x / s, and 0 where the scale is 0."""
    if t is not None:
        s = s * t
    u = (a if z is None else a - z) / s
    return u if bool((s != 0).all()) else torch.where(s != 0, u, torch.zeros_like(u))


def codes(a, s, z, t, fmt, out):
    """The codes of blocks `a`, in `out`, uint8 like `a`."""
    rule = _rule(a, fmt)
    if rule:
        rounding.blocks(a, s if t is None else s * t, z, rule, codes=out)
    else:
        out.copy_(_codes(ratio(a, s, z, t), fmt))


def _codes(u, fmt):
    if fmt.element is not None:
        return float_formats.encode(u.clamp_(-2 * fmt.top, 2 * fmt.top), fmt.element)
    if fmt.integer:
        return u.round_().clamp_(fmt.levels[0], fmt.levels[-1]).sub_(fmt.levels[0]).to(torch.uint8)
    return codebooks.encode(u, fmt.levels, dtype=torch.uint8)


def nearest(a, s, z, t, fmt, out=None):
    """The reconstruction of blocks `a`, in `out` if given: the same operations in the same order as `Blocks.decode`."""
    rule = _rule(a, fmt)
    if rule:
        y = out if out is not None and out.dtype == a.dtype else torch.empty_like(a)
        rounding.blocks(a, s if t is None else s * t, z, rule, values=y)
        return y if out is None or y is out else out.copy_(y)
    u = ratio(a, s, z, t)
    if fmt.element is not None:
        u = float_formats.quantize(u.clamp_(-2 * fmt.top, 2 * fmt.top), fmt.element, out=u)
    elif fmt.integer:
        u.round_().clamp_(fmt.levels[0], fmt.levels[-1])
    else:
        codebooks.quantize(u, fmt.levels, out=u)
    u.mul_(s if t is None else s * t)
    u = u if z is None else u.add_(z)
    return u if out is None else out.copy_(u)


def fits(x, fmt) -> bool:
    """Whether the kernels in C serve `x` in this format: then all blocks are one piece."""
    return x.is_contiguous() and bool(_rule(x, fmt))


def _rule(a, fmt):
    """What the kernels in C need to know of the format (of none, for the ends of blocks), or None where they do not serve."""
    if not (native.serves("rounding", a, least=native.LEAST) and a.is_contiguous()):
        return None
    return _rule_of(fmt) if fmt else True


@lru_cache
def _rule_of(fmt):
    if fmt.element is not None:
        return rounding.floats(fmt.element, 2 * fmt.top)
    if fmt.integer:
        return rounding.grid(bounds=(fmt.levels[0], fmt.levels[-1]))
    return rounding.levels(torch.tensor(fmt.levels, dtype=torch.float32))
