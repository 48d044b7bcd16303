"""Companding: compress with a map onto [0, 1], quantize uniformly there, expand.

A compander is an increasing `compress` $G$ from the line onto (part of) $[0,1]$, its inverse
`expand`, and the `slope` $\\lambda=G'$, the density of the levels.  Rules: cell $m$ of $N$ is
$[m/N,(m+1)/N)$ after compression, so a value at a threshold goes up; $G(x)=1$ has code $N-1$;
the level of code $m$ is $G^{-1}((m+\\tfrac12)/N)$.  float16, bfloat16 and float32 are computed
in float32, float64 in float64.
"""
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from lecturelib.quantization.density import cells
from lecturelib.quantization.uniform import FLOATS, INTEGERS, _chunks, _output, _positive, _whole

FINEST = 1 << 20      # levels: a cell is then 16 spacings of float32 numbers just below 1
TABLE = 1 << 12       # up to so many levels are expanded once and looked up
Map = Callable[[torch.Tensor], torch.Tensor]


class Compander(NamedTuple):
    """`compress` $G$, `expand` $G^{-1}$ and `slope` $G'$, elementwise maps of float tensors."""
    compress: Map
    expand: Map
    slope: Map


def quantize(x: torch.Tensor, compressor: Map, expander: Map, levels: int, *,
             out: torch.Tensor | None = None) -> torch.Tensor:
    r"""Reconstruction $G^{-1}\big((m+\tfrac12)/N\big)$, $m=\lfloor N\,G(x)\rfloor$ (eq-pd-compander).

    Parameters
    ----------
    x : float16, bfloat16, float32 or float64 tensor of any shape, strides and device.
    compressor : $G$, an elementwise increasing map of tensors into $[0,1]$.
    expander : its inverse on $(0,1)$.
    levels : $N$, an integer from 1 to `FINEST`.
    out : contiguous tensor of the shape, dtype and device of `x` that needs no gradient; may be
        `x` itself, and must not overlap it otherwise.

    Returns a tensor like `x` (`out` if given), without gradient.  Raises ValueError on a NaN or
    an infinity in `x`, on a compressor that leaves $[0,1]$ and on levels that are not finite.

    >>> x = torch.tensor([-0.9, 0.1, 0.3, 0.9])
    >>> quantize(x, lambda x: (x + 1) / 2, lambda u: 2 * u - 1, 4).tolist()
    [-0.75, 0.25, 0.25, 0.75]
    """
    out = _output(x, out, x.dtype if isinstance(x, torch.Tensor) else None)
    _level_count(levels)
    values = _decoder(expander, levels, x.dtype, x.device)
    for a, q, compute in _pieces(x, out):
        q.copy_(values(_codes(a.to(compute), compressor, levels)))
    return out


def encode(x: torch.Tensor, compressor: Map, levels: int, *, dtype: torch.dtype = torch.int32,
           out: torch.Tensor | None = None) -> torch.Tensor:
    r"""Codes $m=\lfloor N\,G(x)\rfloor$ in $0,\dots,N-1$ (eq-pd-compander).

    Parameters as in `quantize`; `dtype` is an integer type that holds $N-1$, else ValueError.

    >>> encode(torch.tensor([-0.9, 0.1, 0.3, 0.9]), lambda x: (x + 1) / 2, 4).tolist()
    [0, 2, 2, 3]
    """
    _level_count(levels)
    if dtype not in (*INTEGERS, torch.uint8) or levels - 1 > torch.iinfo(dtype).max:
        raise ValueError(f"dtype must be an integer type that holds {levels - 1}; got {dtype}")
    out = _output(x, out, dtype)
    for a, m, compute in _pieces(x, out):
        m.copy_(_codes(a.to(compute), compressor, levels))
    return out


@torch.no_grad()
def decode(codes: torch.Tensor, expander: Map, levels: int, *,
           dtype: torch.dtype = torch.float32) -> torch.Tensor:
    r"""Levels $G^{-1}\big((m+\tfrac12)/N\big)$ of integer `codes`, in a floating `dtype`.

    Raises ValueError if `codes` are not integers in $0,\dots,N-1$, `dtype` is not one of
    float16, bfloat16, float32 and float64, or a level is not finite in it.

    >>> decode(torch.tensor([0, 3]), lambda u: 2 * u - 1, 4).tolist()
    [-0.75, 0.75]
    """
    _level_count(levels)
    if not isinstance(codes, torch.Tensor) or codes.dtype not in (*INTEGERS, torch.uint8):
        raise ValueError("codes must be a tensor of integers")
    if dtype not in FLOATS:
        raise ValueError(f"dtype must be one of {FLOATS}; got {dtype}")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < levels:
        raise ValueError(f"codes must lie in 0, ..., {levels - 1}")
    return _decoder(expander, levels, dtype, codes.device)(codes)


def mu_law(mu: float = 255.0, half_range: float = 1.0) -> Compander:
    r"""$G(x)=\frac12+\frac{\mathrm{sign}x}2\frac{\ln(1+\mu|x|/A)}{\ln(1+\mu)}$ on $[-A,A]$, saturating.

    The compander of telephony ($\mu=255$): an error nearly proportional to $|x|$.
    Raises ValueError unless $\mu$ and the half range $A$ are positive and finite.

    >>> G = mu_law(255.0, 2.0)
    >>> x = torch.tensor([-2.0, 0.0, 0.5], dtype=torch.float64)
    >>> bool((G.expand(G.compress(x)) - x).abs().max() < 1e-14)
    True
    """
    _positive(mu=mu, half_range=half_range)
    c = math.log1p(mu)

    def compress(x):
        return torch.clamp(x.abs() / half_range, max=1.0).mul(mu).log1p().mul(0.5 / c) \
            .copysign(x).add(0.5)

    def expand(u):
        v = 2 * u - 1
        return torch.expm1(v.abs() * c).mul(half_range / mu).copysign(v)

    def slope(x):
        return 0.5 * mu / (c * (half_range + mu * x.abs())) * (x.abs() <= half_range)
    return Compander(compress, expand, slope)


def gaussian(sigma: float = 1.0) -> Compander:
    r"""The best compander of $N(0,\sigma^2)$: $\lambda^*=N(0,3\sigma^2)$, $G=\Phi(x/\sqrt3\sigma)$.

    Raises ValueError unless `sigma` is positive and finite.  Source: thm-panter-dite.

    >>> G = gaussian()
    >>> round(float(G.expand(torch.tensor(0.75))), 4)          # sqrt(3) times the upper quartile
    1.1683
    """
    _positive(sigma=sigma)
    s = math.sqrt(3) * sigma
    return Compander(lambda x: torch.special.ndtr(x / s), lambda u: s * torch.special.ndtri(u),
                     lambda x: torch.exp(-(x / s)**2 / 2) / (s * math.sqrt(2 * math.pi)))


def laplace(scale: float = math.sqrt(0.5)) -> Compander:
    r"""The best compander of $\frac1{2s}e^{-|x|/s}$: $\lambda^*$ is Laplace of scale $3s$.

    `scale` is $s$; the default has unit variance.  Raises ValueError unless it is positive.

    >>> G = laplace(1.0)
    >>> round(float(G.expand(torch.tensor(0.75))), 4)          # 3 ln 2
    2.0794
    """
    _positive(scale=scale)
    s = 3 * scale
    return Compander(lambda x: 0.5 - (0.5 * torch.expm1(-x.abs() / s)).copysign(-x),
                     lambda u: torch.log1p(-(2 * u - 1).abs()).mul(s).copysign(2 * u - 1),
                     lambda x: torch.exp(-x.abs() / s) / (2 * s))


def partition(expander: Map, levels: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Thresholds $G^{-1}(m/N)$, ends at $\pm\infty$, and levels $G^{-1}((m+\frac12)/N)$, float64.

    Raises ValueError if `levels` is no integer from 1 to `FINEST` or a level is not finite.

    >>> [v.tolist() for v in partition(lambda u: 2 * u - 1, 2)]
    [[-inf, 0.0, inf], [-0.5, 0.5]]
    """
    _level_count(levels)
    m = torch.arange(levels, dtype=torch.float64)
    inner = expander(m[1:] / levels)
    points = _levels(m, expander, levels, torch.float64)
    return np.concatenate(([-np.inf], inner.numpy(), [np.inf])), points.numpy()


def distortion(density, expander: Map, levels: int) -> float:
    r"""$\mathbb E(X-q(X))^2$ of the companded quantizer, cell by cell (eq-panter-dite-sum).

    `density` has a `pdf`; what lies beyond the outermost thresholds counts in the outer cells.

    >>> from scipy.stats import uniform
    >>> round(distortion(uniform(-1, 2), lambda u: 2 * u - 1, 8) * 64, 9)          # 4/12
    0.333333333
    """
    t, c = partition(expander, levels)
    mass, centroid, spread = cells(density, t)
    return float(np.sum(spread + mass * (c - centroid)**2))


def _pieces(x, out):
    for a, b, eps, _ in _chunks(x, out, 1.0, 0.0, None):
        yield a, b, eps.dtype


def _codes(a, compressor, levels):
    """Codes as floats, one new tensor."""
    u = compressor(a)
    if not isinstance(u, torch.Tensor) or (u.shape, u.dtype) != (a.shape, a.dtype):
        raise ValueError("compressor must map a tensor to one of its shape and dtype")
    low, high = torch.stack(torch.aminmax(u)).tolist()
    slack = 4 * torch.finfo(u.dtype).eps               # rounding of the compressor at its ends
    if not -slack <= low <= high <= 1 + slack:
        raise ValueError(f"compressor must map x into [0, 1]; got values from {low:.4g} to {high:.4g}")
    return torch.mul(u, levels).floor_().clamp_(0, levels - 1)


def _levels(m, expander, levels, dtype):
    y = expander(m.add(0.5).div_(levels)).to(dtype)
    if y.shape != m.shape or not bool(torch.isfinite(y).all()):
        raise ValueError(f"expander must return finite levels in {dtype} on (0, 1), one for each argument")
    return y


def _decoder(expander, levels, dtype, device) -> Map:
    """Codes to levels: a table where there are few levels, the expander itself where there are many."""
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    if levels > TABLE:
        return lambda m: _levels(m.to(compute), expander, levels, dtype)
    table = _levels(torch.arange(levels, dtype=compute, device=device), expander, levels, dtype)
    return lambda m: table.index_select(0, m.reshape(-1).to(torch.int32)).view(m.shape)


def _level_count(levels) -> None:
    if not _whole(levels) or not 1 <= levels <= FINEST:
        raise ValueError(f"levels must be an integer from 1 to {FINEST}; got {levels!r}")
