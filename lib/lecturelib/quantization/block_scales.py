"""Scales of block formats, and the elements of a block once its scale is known.

All on blocks `a` (k, block) float32 with one scale `s` (k, 1) each, as it is stored; `t` or None is
the matrix's scale, (1, 1) or one for each of equally many blocks.  `fmt` is a `blocks.BlockFormat`, whose docstring states the rules.
"""
import math
from functools import lru_cache

import numpy as np
import torch

from lecturelib import native
from lecturelib.native import rounding
from lecturelib.quantization import codebooks, float_formats, uniform

POWERS = ("floor", "even", "ceil", "rceil")


def quantize(a, fmt, t, out):
    """The reconstruction of blocks `a` in `out`, which may be `a` if that is float32.  ValueError if it is not finite."""
    if native_rule(a, fmt) and out.dtype in native.NARROW:
        y = out if out.dtype == a.dtype else torch.empty_like(a)
        rounding.blocks(a, *native_rule(a, fmt), t=t, values=y, dtype=out.dtype)
        if y is not out:
            out.copy_(y)
    else:
        t = _of_each(t, a)
        s, z = of_blocks(a, fmt, t)
        uniform._narrow(nearest(a, s, z, t, fmt, out if out.dtype == a.dtype else None), out.dtype, out)


def encode(a, fmt, t, codes, s, z):
    """The codes of blocks `a` in `codes`, uint8 like `a`, their scales in `s`, and their zeros, if there are any, in `z`."""
    if native_rule(a, fmt):
        rounding.blocks(a, *native_rule(a, fmt), t=t, codes=codes, s=s, z=z)
        return
    t = _of_each(t, a)
    scale, zero = of_blocks(a, fmt, t)
    _elements(ratio(a, scale, zero, t), fmt, codes)
    s.copy_(scale)
    if z is not None:
        z.copy_(zero)


def of_blocks(a, fmt, t):
    """The scale (k, 1) of every block as it is stored, float32, and the zero or None.  ValueError if `a` is not finite."""
    if fmt.rule == "range":
        low, high = _finite(a.amin(1, keepdim=True)), _finite(a.amax(1, keepdim=True))
        return stored((high - low) / fmt.top, fmt), stored(low, fmt)
    size = a.abs()
    most = _finite(size.view(torch.int32).amax(1, keepdim=True).view(torch.float32))     # magnitudes are ordered like their bits
    if fmt.rule == "signed":
        ideal = a.gather(1, size.argmax(1, keepdim=True)) / fmt.levels[0]
    elif fmt.scale == torch.float8_e8m0fnu:
        ideal = power_of_two(most, fmt, "floor" if fmt.rule == "search" else fmt.rule)
    else:
        ideal = most / fmt.top
    ideal = ideal if t is None else ideal / t
    neighbors, factors = _search(fmt)
    best = least = None
    for factor in factors:
        s = _neighbor(stored(ideal, fmt), factor) if neighbors else stored(ideal * factor, fmt)
        if len(factors) == 1:
            return s, None
        error = nearest(a, s, None, t, fmt).sub_(a).square_().sum(1, keepdim=True)
        if best is None:
            best, least = s, error
        else:
            better = error < least
            best, least = torch.where(better, s, best), torch.where(better, error, least)
    return best, None


def _finite(extreme):
    """The extreme number of each block, which is a NaN if one is in the block."""
    if not uniform._all_finite(extreme):
        raise ValueError(rounding.NOT_FINITE)
    return extreme


def _search(fmt) -> tuple[bool, tuple]:
    """Factors of the ideal scale that are tried; or (True, how many codes of E4M3 away)."""
    if fmt.rule == "four over six":
        return False, (1.0, 1.5)
    if fmt.rule != "search":
        return False, (1.0,)
    if fmt.scale == torch.float8_e4m3fn:
        return True, (0, *range(-4, 0), *range(1, 9))
    return False, (1.0, 0.5, 2.0) if fmt.scale == torch.float8_e8m0fnu else tuple(np.linspace(1.0, 0.4, 25).tolist())


def _neighbor(s, step):
    code = s.to(torch.float8_e4m3fn).view(torch.uint8).int() + step
    return code.clamp_(0, 126).to(torch.uint8).view(torch.float8_e4m3fn).float()


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
    """To the type of the scale, nearest; E4M3 and E8M0 saturate, the other types refuse what is too large."""
    if fmt.scale == torch.float8_e8m0fnu:
        return s.clamp(2.0**-127, 2.0**127)
    if fmt.scale == torch.float8_e4m3fn:
        return s.clamp(-448.0, 448.0).to(fmt.scale).float()
    r = s.to(fmt.scale).float()
    if not uniform._all_finite(r):
        raise ValueError(rounding.TOO_LARGE.format(fmt.scale))
    return r


def ratio(a, s, z, t):
    """x / s, and 0 where the scale is 0."""
    if t is not None:
        s = s * t
    u = (a if z is None else a - z) / s
    return u if bool((s != 0).all()) else torch.where(s != 0, u, torch.zeros_like(u))


def nearest(a, s, z, t, fmt, out=None):
    """The reconstruction of blocks `a`, in `out` if given: the same operations in the same order as `Blocks.decode`."""
    u = ratio(a, s, z, t)
    _elements(u, fmt, u)
    u = torch.mul(u, s if t is None else s * t, out=u if out is None else out)
    return u if z is None else u.add_(z)


def _elements(u, fmt, out):
    """The levels nearest to `u`, which is overwritten, if `out` is `u`; their codes if it holds integers."""
    if fmt.element is not None:
        float_formats._nearest(u.clamp_(-2 * fmt.top, 2 * fmt.top), fmt.element, out)
    elif not fmt.integer:
        codebooks._nearest(u, fmt.levels, out)
    else:
        u.round_().clamp_(fmt.levels[0], fmt.levels[-1])
        if out is not u:
            out.copy_(u.sub_(fmt.levels[0]))


def _of_each(t, a):
    """The matrix's scale of every block."""
    return t if t is None or len(t) in (1, len(a)) else t.repeat_interleave(len(a) // len(t), 0)


def native_rule(a, fmt):
    """What the kernels in C need to know of the format, or None where they do not serve."""
    return _native_rule(fmt) if native.serves("rounding", a, least=native.LEAST) and a.is_contiguous() else None


@lru_cache
def _native_rule(fmt):
    rule = rounding.floats(fmt.element, 2 * fmt.top) if fmt.element is not None else \
        rounding.grid(bounds=(fmt.levels[0], fmt.levels[-1])) if fmt.integer else rounding.levels(torch.tensor(fmt.levels, dtype=torch.float32))
    if rule is None:
        return None
    neighbors, factors = _search(fmt)
    if fmt.scale == torch.float8_e8m0fnu:
        mantissa, exponent = math.frexp(fmt.top)
        up = {"floor": 2**23, "search": 2**23, "ceil": 1, "rceil": int((2 * mantissa - 1) * 2**23) + 1,
              "even": int(2**23 * (1 - 2.0**-(fmt.element.mantissa + 1 if fmt.element else 0)))}[fmt.rule]
        return rule, rounding.finder(rounding.POWER, fmt.scale, fmt.top, factors, emax=exponent - 1, up=up)
    how, top = {"range": (rounding.ENDS, fmt.top), "signed": (rounding.SIGNED, fmt.levels[0])}.get(fmt.rule, (rounding.ABSMAX, fmt.top))
    return rule, rounding.finder(how, fmt.scale, top, factors, neighbors=neighbors)
