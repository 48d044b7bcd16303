"""Nearest-neighbor quantization with any sorted codebook: encode, decode, and both in one pass.

Rules, the same in every function: the threshold between two points is their midpoint, and a value
exactly on it goes to the lower point (as with `argmin` and `bucketize`); the outermost cells have no
end.  float16, bfloat16 and float32 are decided in float32, float64 in float64, exactly: the codes are
those of rational arithmetic on the points as rounded to that type.
"""
import math
from collections.abc import Iterator
from functools import lru_cache

import torch

from lecturelib import native
from lecturelib.native import rounding
from lecturelib.quantization import uniform

CODES = (torch.uint8, *uniform.INTEGERS)
BINS = 1 << 16       # largest lookup table; codebooks that need a larger one are searched


def quantize(x: torch.Tensor, points, *, out: torch.Tensor | None = None) -> torch.Tensor:
    r"""Nearest point of the codebook, $q(x)=c_j$ for $x\in B_j$ (thm-cb-lloyd-max).

    Parameters
    ----------
    x : float16, bfloat16, float32 or float64 tensor of any shape, strides and device.
    points : increasing sequence or tensor of finite numbers, in the units of `x`.
    out : contiguous tensor of the shape, dtype and device of `x`; may be `x` itself.

    Returns a tensor like `x` (`out` if given), without gradient.  Raises ValueError on a NaN or an
    infinity, on points that do not increase in the type computed in or are too large for that of `x`.

    >>> quantize(torch.tensor([-9.0, 0.5, 0.6, 3.0]), [-1.0, 0.0, 1.0, 4.0]).tolist()
    [-1.0, 0.0, 1.0, 4.0]
    """
    out = uniform._output(x, out, x.dtype if isinstance(x, torch.Tensor) else None)
    points = _points(points, x.dtype, x.device)
    if not torch.isfinite(points.to(x.dtype)).all():
        raise ValueError(f"points must be finite in {x.dtype}")
    _look_up(x, points, points.to(x.dtype), out)
    return out


def encode(x: torch.Tensor, points, *, dtype: torch.dtype = torch.int32,
           out: torch.Tensor | None = None) -> torch.Tensor:
    r"""Code $j$ = 0, ..., N-1 of the nearest point, an integer tensor like `x`.

    `dtype` is uint8 or a signed integer type that holds N-1.  Other parameters and errors as in
    `quantize`.

    >>> encode(torch.tensor([-9.0, 0.5, 0.6, 3.0]), [-1.0, 0.0, 1.0, 4.0]).tolist()
    [0, 1, 2, 3]
    """
    if dtype not in CODES:
        raise ValueError(f"dtype must be one of {CODES}; got {dtype}")
    out = uniform._output(x, out, dtype)
    points = _points(points, x.dtype, x.device)
    if len(points) - 1 > torch.iinfo(dtype).max:
        raise ValueError(f"dtype must hold the codes 0, ..., {len(points) - 1}; got {dtype}")
    _look_up(x, points, torch.arange(len(points), dtype=dtype, device=x.device), out)
    return out


def decode(codes: torch.Tensor, points, *, dtype: torch.dtype = torch.float32,
           out: torch.Tensor | None = None) -> torch.Tensor:
    r"""Points $c_j$ of integer `codes`, in a floating `dtype`.

    Raises ValueError if `codes` are not integers in 0, ..., N-1, and on `points`, `dtype` and `out`
    as `quantize` does.

    >>> decode(torch.tensor([3, 0]), [-1.0, 0.0, 1.0, 4.0]).tolist()
    [4.0, -1.0]
    """
    if not isinstance(codes, torch.Tensor) or codes.dtype not in CODES:
        raise ValueError("codes must be a tensor of integers")
    if dtype not in uniform.FLOATS:
        raise ValueError(f"dtype must be one of {uniform.FLOATS}; got {dtype}")
    points = _points(points, dtype, codes.device).to(dtype)
    if not torch.isfinite(points).all():
        raise ValueError(f"points must be finite in {dtype}")
    out = _decoded(codes, dtype, out)
    if codes.dtype == torch.uint8 and len(points) <= 256 and native.serves("rounding", out, points, least=native.LEAST):
        rounding.decode(codes.reshape(-1, 256 if codes.numel() % 256 == 0 else 1), None, None, points, out)
        return out
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < len(points):
        raise ValueError(f"codes must lie in 0, ..., {len(points) - 1}")
    for j, q in _pieces(codes, out):
        torch.index_select(points, 0, j.int(), out=q)
    return out


def _decoded(codes, dtype, out):
    if out is None:
        return native.empty(codes.shape, dtype, codes.device)
    if not out.is_contiguous() or (out.shape, out.dtype, out.device) != (codes.shape, dtype, codes.device):
        raise ValueError(f"out must be contiguous with shape {tuple(codes.shape)} and dtype {dtype}")
    return out


def thresholds(points: torch.Tensor) -> torch.Tensor:
    r"""$\tau_i$ with $x>\tau_i\iff x-c_i>c_{i+1}-x$ for every number `x` of the type of `points`.

    The midpoint in exact arithmetic, rounded down.

    >>> thresholds(torch.tensor([0.0, 1.0, 4.0])).tolist()
    [0.5, 2.5]
    """
    low, high = points[:-1].double() / 2, points[1:].double() / 2
    middle = low + high
    lost = (low - (middle - (middle - low))) + (high - (middle - low))      # middle + lost is exact
    tau = middle.to(points.dtype)
    return torch.where(tau.double() - middle > lost, torch.nextafter(tau, torch.full_like(tau, -math.inf)), tau)


@torch.no_grad()
def _look_up(x, points, values, out) -> None:
    """`values[j]` into `out` where `points[j]` is nearest to `x`.

    The bin of a number, an increasing function of it, tells its code but for one comparison, since
    no bin holds two thresholds: two gathers, whatever the number of points.
    """
    if native.serves("rounding", x, least=native.LEAST, types=native.NARROW) and out.dtype in (x.dtype, torch.uint8, torch.int32):
        rule = rounding.levels(points)
        if rule is not None:
            rounding.elements(x, out, rule)
            return
    tables = _tables(points, values)
    for a, b in _finite_pieces(x, out):
        _find(a.to(points.dtype), *tables, b)


def _nearest(u: torch.Tensor, points: tuple, out: torch.Tensor) -> None:
    """`quantize`, or `encode` if `out` holds integers, for what is known to be finite, contiguous and float32; in PyTorch."""
    tables = _kept(points, out.dtype, u.device)
    for a, b in _pieces(u, out):
        _find(a, *tables, b)


@lru_cache(maxsize=32)
def _kept(points, dtype, device):
    c = _points(points, torch.float32, device)
    return _tables(c, c if dtype.is_floating_point else torch.arange(len(c), dtype=dtype, device=device))


def _tables(points, values):
    """Thresholds, the table of bins or None, and what the place found there stands for."""
    tau = thresholds(points)
    table = _table(tau)
    if table is not None:
        below = table[-1]
        values = values[torch.stack((below, below + 1), 1).clamp_(max=len(points) - 1).view(-1).long()]
    return tau, table, values


def _find(a, tau, table, values, out) -> None:
    if table is None:
        k = torch.bucketize(a, tau, out_int32=True)
    else:
        first, scale, bins, inside, _ = table
        k = _bin(a, first, scale, bins)
        up = torch.gt(a, inside.index_select(0, k), out=torch.empty_like(k))
        k = torch.add(up, k, alpha=2, out=up)
    torch.index_select(values, 0, k, out=out)


def _pieces(x, out) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Flat pieces of both that stay in cache; on a GPU, all at once."""
    size = uniform.CHUNK if x.device.type == "cpu" else max(x.numel(), 1)
    return ((a, b) for a, b in zip(x.reshape(-1).split(size), out.view(-1).split(size)) if a.numel())


def _finite_pieces(x, out) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for a, b in _pieces(x.detach(), out):
        ends = torch.stack(torch.aminmax(a)).tolist()
        if not (math.isfinite(ends[0]) and math.isfinite(ends[1])):
            raise ValueError("x must be finite; it holds a NaN or an infinity")
        yield a, b


def _bin(a, first, scale, bins):
    """The bin of each value: increasing in it, whatever the rounding."""
    return torch.sub(a, first).mul_(scale).clamp_(0, bins - 1).to(torch.int32)


def _table(tau):
    """Bins that hold one threshold at most: it (or inf) and the number of thresholds before the bin."""
    if len(tau) == 0:
        return None
    width = float(tau[-1]) / 2 - float(tau[0]) / 2
    bins = 4
    while bins <= BINS:
        scale = (bins - 2) / 2 / width if width > 0 else 1.0
        if not math.isfinite(scale) or 2 * width > torch.finfo(tau.dtype).max / 4:
            return None
        k = _bin(tau, tau[0], scale, bins)
        if len(torch.unique(k)) == len(tau):
            inside = torch.full((bins,), math.inf, dtype=tau.dtype, device=tau.device)
            inside[k.long()] = tau
            held = torch.zeros(bins, dtype=torch.int32, device=tau.device)
            held[k.long()] = 1
            below = (torch.cumsum(held, 0) - held).to(torch.int32)
            return tau[0], scale, bins, inside, below
        bins *= 2
    return None


def _points(points, dtype, device) -> torch.Tensor:
    """The codebook as a tensor of the type computed in."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    try:
        c = torch.as_tensor(points, dtype=torch.float64).detach().to(device=device, dtype=wide)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"points must be a sequence of numbers; got {points!r}") from error
    if c.ndim != 1 or len(c) < 1 or not torch.isfinite(c).all() or not (c[1:] > c[:-1]).all():
        raise ValueError(f"points must be one or more finite numbers that increase in {wide}")
    return c.contiguous()
