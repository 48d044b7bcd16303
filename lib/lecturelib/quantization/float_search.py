r"""Which small float format, and how much of the range: the searches behind 4-bit floating point.

A format of $b$ bits is a split into exponent and mantissa bits, $e+m=b-1$, and a scale $\alpha$, which is a
real exponent bias $-\log_2\alpha$; LLM-FP4 searches both for the least error.  Powers of two for each channel
of the input can be taken into the weights without any rounding.  And once the grid is fixed, rounding
up or down can be learned for the output of the layer rather than for the weights.
"""
import math
from dataclasses import dataclass

import numpy as np
import torch

from lecturelib.quantization import codebooks, float_formats, layer_theory, uniform


@dataclass(frozen=True)
class Fit:
    r"""The format, its scale $\alpha$, and the mean square error of $\alpha\,Q(x/\alpha)$ on the numbers it was fitted to."""
    format: float_formats.Format
    scale: float
    error: float


def quantize(x: torch.Tensor, fit: Fit, *, out: torch.Tensor | None = None) -> torch.Tensor:
    r"""$\alpha\,Q(x/\alpha)$, $Q$ rounding to the nearest number of the format, saturating (eq-fmt-search).

    >>> quantize(torch.tensor([0.3, -9.0]), Fit(float_formats.Format(2, 1), 0.5, 0.0)).tolist()
    [0.25, -3.0]
    """
    out = uniform._output(x, out, getattr(x, "dtype", None))
    torch.div(x, torch.tensor(fit.scale, dtype=x.dtype, device=x.device), out=out)
    return float_formats.quantize(out, fit.format, out=out).mul_(fit.scale)


def errors(x: torch.Tensor, fmt: float_formats.Format, scales) -> np.ndarray:
    """Mean square error of `x` for each of the `scales`.

    >>> errors(torch.tensor([0.25, 3.0]), float_formats.Format(2, 1), [0.5, 1.0]).tolist()
    [0.0, 0.03125]
    """
    x, work = _sample(x), torch.empty_like(_sample(x))
    return np.array([float(quantize(x, Fit(fmt, float(s), 0.0), out=work).sub_(x).square_().mean(dtype=torch.float64)) for s in scales])


def search(x: torch.Tensor, bits: int, exponents=None, grid: int = 48) -> list[Fit]:
    r"""The best scale for each split of `bits` into exponent and mantissa bits, the best split first.

    The largest number of the format runs from the largest magnitude of `x` down to 1/64 of it, on a
    geometric grid, and then twice more around the best.  At most $2^{20}$ entries of `x`, evenly spread, decide.
    E1M(b-2) is the grid of the symmetric integers.  Raises ValueError if `x` is zero or not finite.

    >>> [(f.format.exponent, f.format.mantissa) for f in search(torch.tensor([1.0, 2.0, 4.0, 0.5]), 3)]
    [(2, 0), (1, 1)]
    """
    if not uniform._whole(bits) or not 3 <= bits <= 8:
        raise ValueError(f"bits must be an integer from 3 to 8; got {bits!r}")
    exponents = range(1, min(bits - 1, 5) + 1) if exponents is None else exponents
    if not uniform._whole(grid) or grid < 4:
        raise ValueError(f"grid must be an integer of at least 4; got {grid!r}")
    most = float(uniform._output(x, None, torch.float32).numel() and x.detach().abs().max())
    if not 0 < most < math.inf:
        raise ValueError("x must be finite and not zero")
    fits = []
    for e in exponents:
        fmt = float_formats.Format(e, bits - 1 - e)
        scales = most / fmt.maximum * np.geomspace(1, 1 / 64, grid)
        for _ in range(2):
            found = errors(x, fmt, scales)
            k = int(found.argmin())
            low, high = scales[min(k + 1, len(scales) - 1)], scales[max(k - 1, 0)]
            best, scales = Fit(fmt, float(scales[k]), float(found[k])), np.geomspace(high, low, 12)
        k = int((found := errors(x, fmt, scales)).argmin())
        fits.append(min(best, Fit(fmt, float(scales[k]), float(found[k])), key=lambda f: f.error))
    return sorted(fits, key=lambda f: f.error)


def channel_shifts(most: torch.Tensor, limit: int = 15) -> torch.Tensor:
    r"""Integers $k_j\ge0$ that bring the largest magnitudes of the channels together: $2^{k_j}a_j$ within a factor $\sqrt2$ of the largest,
    as far as `limit`, the largest shift, allows.

    Multiplying column $j$ of the input by $2^{k_j}$ and column $j$ of the weights by $2^{-k_j}$ changes no product,
    in floating point either (prop-fmt-shift).

    >>> channel_shifts(torch.tensor([8.0, 4.0, 0.9, 0.0])).tolist()
    [0, 1, 3, 15]
    """
    if not isinstance(most, torch.Tensor) or most.ndim != 1 or not bool(torch.isfinite(most).all()) or bool((most < 0).any()) or not bool(most.any()):
        raise ValueError("most must be a vector of finite magnitudes, not all zero")
    ratio = most.max() / most.clamp(min=most.max() * 2.0**-(limit + 1))
    return ratio.log2().round().clamp_(0, limit).to(torch.int32)


def neighbors(w: torch.Tensor, points) -> tuple[torch.Tensor, torch.Tensor]:
    """The points of a grid below (or at) and above each number; beyond the ends, the outermost two.

    >>> [t.tolist() for t in neighbors(torch.tensor([0.2, 1.0, 7.0]), [0.0, 1.0, 4.0])]
    [[0.0, 1.0, 1.0], [1.0, 4.0, 4.0]]
    """
    points = codebooks._points(points, w.dtype, w.device)
    j = torch.bucketize(w, points, right=True).sub_(1).clamp_(0, len(points) - 2)
    return points[j], points[j + 1]


def learned_rounding(w: torch.Tensor, sigma: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor, steps: int = 400) -> torch.Tensor:
    r"""Rounding of `w` (m, n) to `lower` or `upper`, learned for $\mathrm{tr}\,(W-\hat W)\Sigma(W-\hat W)^\top$ (eq-fmt-learned).

    AdaRound: $\hat W=L+h(V)(U-L)$ with a stretched sigmoid $h$, a penalty $1-|2h-1|^\beta$ that drives $h$ to 0 or 1
    while $\beta$ falls from 20 to 2, and Adam.  Each row then starts from the better of this and rounding to
    nearest, and changes single roundings, the best first, until no change helps; so no row loses.
    `sigma` (n, n) is symmetric positive semidefinite.  Raises ValueError otherwise, and unless all is finite.

    >>> w, sigma = torch.tensor([[0.4, 0.3]]), torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    >>> learned_rounding(w, sigma, torch.zeros(1, 2), torch.ones(1, 2)).tolist()
    [[1.0, 0.0]]
    """
    if w.ndim != 2 or lower.shape != w.shape or upper.shape != w.shape or not bool((lower < upper).all()):
        raise ValueError("lower and upper must have the shape (m, n) of w, and lower must be below upper")
    if not all(bool(t.isfinite().all()) for t in (w, lower, upper)):
        raise ValueError("w, lower and upper must be finite")
    if sigma.shape != (w.shape[1], w.shape[1]) or sigma.dtype != w.dtype:
        raise ValueError(f"sigma must be a matrix of {w.shape[1]} rows of type {w.dtype}")
    layer_theory.spectrum(sigma)                       # refuses what is no covariance
    sigma = sigma / sigma.diagonal().mean()
    gap = upper - lower
    place = ((w - lower) / gap).clamp(0.02, 0.98)
    V = torch.logit((place + 0.1) / 1.2)
    first, second = torch.zeros_like(V), torch.zeros_like(V)
    unit = gap.square().mean() / 12                    # the size of the errors, so that the rates need no units
    for k in range(1, steps + 1):
        sigmoid = torch.sigmoid(V)
        h = (1.2 * sigmoid - 0.1)
        inside = (h > 0) & (h < 1)
        h = h.clamp(0, 1)
        gradient = 2 * ((lower + h * gap - w) @ sigma) * gap / unit
        if k > 0.2 * steps:
            beta = 2 + 18 * 0.5 * (1 + math.cos(math.pi * (k / steps - 0.2) / 0.8))
            d = 2 * h - 1
            gradient -= 0.3 * 2 * beta * d.abs().pow(beta - 1) * d.sign()
        gradient *= 1.2 * sigmoid * (1 - sigmoid) * inside
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.01)
        V -= 0.05 * (first / (1 - 0.9**k)) / ((second / (1 - 0.99**k)).sqrt() + 1e-8)
    learned = torch.where(torch.sigmoid(V) > 0.5, upper, lower)
    nearest = torch.where(w - lower > upper - w, upper, lower)
    better = (_row_loss(learned - w, sigma) < _row_loss(nearest - w, sigma))[:, None]
    return _descend(w, sigma, torch.where(better, learned, nearest), lower, upper)


def _descend(w, sigma, q, lower, upper):
    """The best single change in every row, until none lessens the loss."""
    slope, diagonal, other = (q - w) @ sigma, sigma.diagonal(), lower + upper
    for _ in range(q.numel()):
        d = other - 2 * q                                # what changing this rounding adds
        gain, j = (d * (2 * slope + d * diagonal)).min(1)
        d = torch.where(gain < -1e-6 * _row_loss(q - w, sigma) - 1e-12, d.gather(1, j[:, None])[:, 0], torch.zeros_like(gain))
        if not bool(d.any()):
            break
        q.scatter_add_(1, j[:, None], d[:, None])
        slope.addcmul_(d[:, None], sigma[j])
    return torch.where(q - lower < upper - q, lower, upper)


def _row_loss(e, sigma):
    return ((e @ sigma) * e).sum(1)


def _sample(x):
    flat = x.detach().reshape(-1).float()
    return flat[::max(1, flat.numel() >> 20)].contiguous()
