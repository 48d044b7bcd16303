r"""What a block format does to independent N(0,1) numbers, by quadrature instead of sampling.

The scale depends on the block through its largest magnitude $a$ alone.  Given $a$, one number is
$\pm a$ and the others are independent, Gaussian, and cut off at $a$: one integral over $a$ remains (thm-fmt-law).
"""
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.polynomial.legendre import leggauss
from scipy import special, stats

from lecturelib.quantization import block_scales, blocks, float_formats, uniform

PANELS, ORDER = 160, 6


def maximum(block: int, breaks=()) -> tuple[np.ndarray, np.ndarray]:
    r"""Nodes $a$ and weights of the law of $\max_{i\le B}|x_i|$: density $2B\varphi(a)(2\Phi(a)-1)^{B-1}$.

    `breaks` are places where the integrand jumps.

    >>> a, w = maximum(2)
    >>> round(float(w.sum()), 12), round(float(w @ a**2), 6) == round(1 + 2 / math.pi, 6)
    (1.0, True)
    """
    if not uniform._whole(block) or block < 1:
        raise ValueError(f"block must be a positive integer; got {block!r}")
    reach = float(-stats.norm.ppf(1e-17 / (2 * block)))
    ends = np.unique(np.concatenate((np.linspace(0, reach, PANELS + 1), [b for b in breaks if 0 < b < reach])))
    x, w = leggauss(ORDER)
    half = np.diff(ends)[:, None] / 2
    a = ((ends[:-1] + ends[1:])[:, None] / 2 + half * x).ravel()
    density = 2 * block * stats.norm.pdf(a) * (1 - 2 * stats.norm.sf(a))**(block - 1)
    return a, density * (half * w).ravel()


def distortion(levels, block: int, scale: Callable[[np.ndarray], np.ndarray] | None = None, breaks=()) -> float:
    r"""Mean square error of nearest `levels` times a `scale` $s(a)$ of the block's largest magnitude (thm-fmt-law).

    `scale=None` is $s=a/\max|\ell|$.  With one level, 0, the error is the variance:

    >>> round(distortion([0.0], 16, lambda a: a), 12)
    1.0
    >>> round(distortion([-1.0, 1.0], 1), 12)              # a block of one number, and its sign
    0.0
    """
    levels = _levels(levels)
    if scale is None and not levels.any():
        raise ValueError("levels must not be zero alone without a scale")
    a, w = maximum(block, breaks)
    s = a / np.abs(levels).max() if scale is None else np.asarray(scale(a), dtype=float)
    if s.shape != a.shape or not (np.isfinite(s) & (s >= 0)).all():
        raise ValueError("scale must map an array of magnitudes to as many finite numbers that are not negative")
    end, inner = _errors(levels, a, s)
    return float(w @ (end + (block - 1) * inner) / block)


def format_distortion(fmt: blocks.BlockFormat) -> float:
    """`distortion` of a format whose scale follows from the largest magnitude: `absmax`, and the powers of two.

    A scale of float16 or float32 is taken as exact.  Raises ValueError for other rules.

    >>> round(format_distortion(blocks.mx()), 4), round(format_distortion(blocks.integer(4, 32)), 4)
    (0.0132, 0.0094)
    """
    levels = sorted({v for v in fmt.levels if math.isfinite(v)})
    if fmt.rule in blocks.POWERS:
        def scale(a):
            return block_scales.power_of_two(torch.as_tensor(a), fmt, fmt.rule).numpy()
        jumps = {"floor": 1.0, "ceil": 1.0, "rceil": fmt.top}.get(fmt.rule)
        if jumps is None:
            jumps = 2 - 2.0**-(fmt.element.mantissa + 1)
        return distortion(levels, fmt.block, scale, [jumps * 2.0**k for k in range(-20, 8)])
    if fmt.rule != "absmax" or fmt.scale == torch.float8_e4m3fn:
        raise ValueError(f"fmt must have a scale that its block's largest magnitude decides; got {fmt.name}")
    return distortion(levels, fmt.block, lambda a: a / fmt.top)


def nvfp4_distortion(matrix_scale: float, block: int = 16) -> float:
    r"""NVFP4 with $s(a)=t\,\mathrm{E4M3}(a/6t)$, $t$ the matrix's scale."""
    uniform._positive(matrix_scale=matrix_scale)
    e4m3 = float_formats.magnitudes(float_formats.FORMATS["e4m3fn"]).numpy()
    middle = (e4m3[1:] + e4m3[:-1]) / 2

    def scale(a):
        return matrix_scale * e4m3[np.searchsorted(middle, a / 6 / matrix_scale)]
    levels = float_formats.points(float_formats.FORMATS["e2m1"]).numpy()
    return distortion(levels, block, scale, 6 * matrix_scale * middle)


def best_levels(count: int, block: int, rounds: int = 300) -> np.ndarray:
    r"""Levels with the least mean square error when the scale is the block's largest magnitude (prop-fmt-weighted).

    Lloyd's iteration for the law of $x/a$ weighted by $a^2$; starts from the Gaussian's quantiles.

    >>> levels = best_levels(2, 64)
    >>> bool(abs(levels[0] + levels[1]) < 1e-9), round(distortion(levels, 64, lambda a: a), 3)
    (True, 0.373)
    """
    if not uniform._whole(count) or count < 2:
        raise ValueError(f"count must be an integer of at least 2; got {count!r}")
    if not uniform._whole(block) or block < 2:
        raise ValueError(f"block must be an integer of at least 2; got {block!r}")
    a, w = maximum(block)
    c = stats.norm.ppf((np.arange(count) + 0.5) / count)
    c = c / np.abs(c).max()
    for _ in range(rounds):
        t = np.concatenate(([-1.0], (c[1:] + c[:-1]) / 2, [1.0]))
        m0, m1, _ = _moments(a[:, None] * np.clip(t, -1, 1), a)
        mass, first = (block - 1) * (w * a**2) @ m0, (block - 1) * (w * a) @ m1
        for sign, j in ((-1.0, 0), (1.0, count - 1)):
            mass[j] += 0.5 * w @ a**2
            first[j] += 0.5 * sign * w @ a**2
        c, old = first / mass, c
        if np.abs(c - old).max() < 1e-12:
            break
    return c


def _errors(levels, a, s):
    """Squared errors, mean over the sign, of the number +-a; and of the others, given a."""
    t = np.concatenate(([-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]))
    end = np.zeros_like(a)
    for sign in (-1.0, 1.0):
        j = np.searchsorted(t[1:-1], sign * a / np.where(s > 0, s, np.inf))
        end += 0.5 * (sign * a - s * levels[j])**2
    with np.errstate(invalid="ignore"):
        edges = np.where(s[:, None] > 0, s[:, None] * t, np.sign(t) * np.inf)
    m0, m1, m2 = _moments(np.clip(np.nan_to_num(edges, nan=0.0, posinf=np.inf, neginf=-np.inf), -a[:, None], a[:, None]), a)
    c = s[:, None] * levels
    return end, (m2 - 2 * c * m1 + c**2 * m0).sum(1)


def _moments(t, a):
    """Moments 0, 1, 2 of the Gaussian cut off at +-a between neighboring columns of t."""
    phi, Phi, total = np.exp(-t * t / 2) / math.sqrt(2 * math.pi), special.ndtr(t), (1 - 2 * special.ndtr(-a))[:, None]
    m0 = np.diff(Phi)
    return m0 / total, -np.diff(phi) / total, (m0 - np.diff(t * phi)) / total


def _levels(levels) -> np.ndarray:
    levels = np.asarray(levels, dtype=float)
    if levels.ndim != 1 or len(levels) < 1 or not np.isfinite(levels).all() or not (np.diff(levels) > 0).all():
        raise ValueError("levels must be one or more finite numbers that increase")
    return levels
