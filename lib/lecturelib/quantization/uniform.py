"""The uniform quantizer: encode, decode, and both in one pass.

Rules, the same in every function: the quotient is a true division by the step (never a
multiplication by its inverse); ties go to the even integer (`torch.round`); a negative input
that rounds to level zero gives -0.0; saturation is to the nearest end of `bounds`.
"""
from collections.abc import Iterator

import torch

CHUNK = 1 << 16      # elements worked on at a time on a CPU: 256 KiB of float32 stays in cache


def grid(levels: int) -> tuple[float, tuple[int, int]]:
    """Offset and code bounds of the grid with `levels` levels that is symmetric about 0.

    An odd number of levels contains 0 (mid-tread, offset 0), an even number does not
    (mid-rise, offset 1/2).  Signed INT-b without its lowest code is `grid(2**b - 1)`.
    Raises ValueError unless `levels` is an integer of at least 2.

    >>> grid(15), grid(4)
    ((0.0, (-7, 7)), (0.5, (-2, 1)))
    """
    if levels != int(levels) or levels < 2:
        raise ValueError(f"levels must be an integer of at least 2; got {levels}")
    levels = int(levels)
    return (0.5, (-levels // 2, levels // 2 - 1)) if levels % 2 == 0 else \
           (0.0, (-(levels // 2), levels // 2))


def quantize(x: torch.Tensor, step: float, *, offset: float = 0.0,
             bounds: tuple[int, int] | None = None, out: torch.Tensor | None = None):
    r"""Reconstruction $q(x)=\varepsilon(m+o)$, $m=\mathrm{round}(x/\varepsilon-o)$ (eq-uq-map).

    Parameters
    ----------
    x : floating tensor of any shape and device.
    step : positive number $\varepsilon$, in the units of `x`.
    offset : $o$; 0 is mid-tread (rounding to nearest), 1/2 is mid-rise.
    bounds : smallest and largest code $m$; None for a grid without ends.
    out : contiguous tensor of the shape, dtype and device of `x`; may be `x` itself.

    Returns a tensor like `x` (`out` if given), without gradient.  Half-precision inputs are
    computed in float32 and rounded once at the end.  Raises ValueError on a NaN or an infinity
    (what `out` then holds is unspecified) and on arguments outside the above.
    Source: eq-uq-map; notes, section 3.1.

    >>> quantize(torch.tensor([-0.9, 0.5, 1.5, 7.0]), 1.0, bounds=(-2, 2)).tolist()
    [-1.0, 0.0, 2.0, 2.0]
    >>> quantize(torch.tensor([-0.9, 0.5, 1.5, 7.0]), 1.0, offset=0.5).tolist()
    [-0.5, 0.5, 1.5, 6.5]
    """
    out = _output(x, out, x.dtype if isinstance(x, torch.Tensor) else None)
    for a, q, eps in _chunks(x, out, step, offset, bounds):
        m = _codes(a, eps, offset, bounds, q)
        if offset:
            m.add_(offset)
        m.mul_(eps)
        if m is not q:
            q.copy_(m)
    return out


def encode(x: torch.Tensor, step: float, *, offset: float = 0.0,
           bounds: tuple[int, int] | None = None, dtype: torch.dtype = torch.int32,
           out: torch.Tensor | None = None):
    r"""Codes $m=\mathrm{round}(x/\varepsilon-o)$, saturated to `bounds` (eq-uq-map).

    Parameters as in `quantize`; `dtype` is the signed integer type of the codes.
    Raises ValueError as `quantize` does, and where a code or a bound does not fit in `dtype`.

    >>> encode(torch.tensor([-0.9, 0.5, 1.5, 7.0]), 1.0, bounds=(-2, 2)).tolist()
    [-1, 0, 2, 2]
    """
    if dtype not in (torch.int8, torch.int16, torch.int32, torch.int64):
        raise ValueError(f"dtype must be a signed integer type; got {dtype}")
    room = torch.iinfo(dtype)
    if bounds is not None and not room.min <= bounds[0] <= bounds[1] <= room.max:
        raise ValueError(f"bounds must be ordered and fit in {dtype}; got {bounds}")
    out = _output(x, out, dtype)
    for a, m, eps in _chunks(x, out, step, offset, bounds):
        f = _codes(a, eps, offset, bounds)
        if bounds is None:
            low, high = torch.aminmax(f)
            if not (low >= room.min and high < room.max):
                raise ValueError(f"x / step must fit in {dtype}; got codes up to "
                                 f"{max(-float(low), float(high)):.4g}")
        m.copy_(f)
    return out


def decode(codes: torch.Tensor, step: float, *, offset: float = 0.0,
           dtype: torch.dtype = torch.float32) -> torch.Tensor:
    r"""Reconstruction points $\varepsilon(m+o)$ of integer `codes`, in `dtype` (eq-uq-map).

    Raises ValueError if `codes` are not integers or `step` is not a positive number.

    >>> decode(torch.tensor([-2, 1]), 0.25, offset=0.5).tolist()
    [-0.375, 0.375]
    """
    if not isinstance(codes, torch.Tensor) or codes.is_floating_point() or codes.is_complex():
        raise ValueError("codes must be a tensor of integers")
    _numbers(step, offset, None)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return codes.to(wide).add_(offset).mul_(step).to(dtype)


def _codes(a, eps, offset, bounds, out=None):
    """Codes as floats, in `out` where its type is wide enough to compute in."""
    m = torch.div(a.to(eps.dtype), eps,
                  out=out if out is not None and out.dtype == eps.dtype else None)
    if offset:
        m.sub_(offset)
    m.round_()
    return m if bounds is None else m.clamp_(*bounds)


@torch.no_grad()
def _chunks(x, out, step, offset, bounds) -> Iterator[tuple[torch.Tensor, ...]]:
    """Flat pieces of `x` and `out` that fit in cache, and the step; each piece of `x` is finite."""
    _numbers(step, offset, bounds)
    # a tensor: CUDA turns a division by a Python number into a product with the inverse
    eps = torch.tensor(float(step), device=x.device,
                       dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    if not 0 < float(eps) < float("inf"):
        raise ValueError(f"step must be positive and finite in {eps.dtype}; got {step}")
    x, out = x.detach().reshape(-1), out.view(-1)
    size = CHUNK if x.device.type == "cpu" else max(x.numel(), 1)
    for a, b in zip(x.split(size), out.split(size)):
        if a.numel():
            low, high = torch.aminmax(a)
            if not bool(torch.isfinite(low) & torch.isfinite(high)):
                raise ValueError("x must be finite; it holds a NaN or an infinity")
            yield a, b, eps


def _numbers(step, offset, bounds) -> None:
    if not 0 < float(step) < float("inf"):
        raise ValueError(f"step must be a positive finite number; got {step}")
    if not abs(float(offset)) < float("inf"):
        raise ValueError(f"offset must be a finite number; got {offset}")
    if bounds is not None and not (len(bounds) == 2 and bounds[0] <= bounds[1]):
        raise ValueError(f"bounds must be a pair (smallest, largest code); got {bounds}")


def _output(x, out, dtype) -> torch.Tensor:
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        raise ValueError("x must be a floating-point tensor")
    if out is None:
        return torch.empty(x.shape, dtype=dtype, device=x.device)
    if (out.shape, out.dtype, out.device) != (x.shape, dtype, x.device) or not out.is_contiguous():
        raise ValueError(f"out must be contiguous with shape {tuple(x.shape)}, dtype {dtype} "
                         f"and device {x.device}")
    return out
