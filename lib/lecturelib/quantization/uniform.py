"""The uniform quantizer: encode, decode, and both in one pass.

Rules, the same in every function: the quotient is a true division by the step (never a
multiplication by its inverse); ties go to the even integer (`torch.round`); a negative input
that rounds to level zero gives -0.0; saturation is to the nearest end of `bounds`; a result
that is too large for its type raises ValueError instead of becoming an infinity.
float16, bfloat16 and float32 are computed in float32, float64 in float64; no other types.
"""
import math
from collections.abc import Iterator

import torch

from lecturelib import native
from lecturelib.native import rounding

CHUNK = 1 << 17      # elements worked on at a time on a CPU: 512 KiB of float32 stay in the caches of two cores
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)


def grid(levels: int) -> tuple[float, tuple[int, int]]:
    """Offset and code bounds of the grid with `levels` levels that is symmetric about 0.

    An odd number of levels contains 0 (mid-tread, offset 0), an even number does not
    (mid-rise, offset 1/2).  Signed INT-b without its lowest code is `grid(2**b - 1)`.
    Raises ValueError unless `levels` is an integer of at least 2.

    >>> grid(15), grid(4)
    ((0.0, (-7, 7)), (0.5, (-2, 1)))
    """
    if not _whole(levels) or levels < 2:
        raise ValueError(f"levels must be an integer of at least 2; got {levels!r}")
    levels = int(levels)
    return (0.5, (-levels // 2, levels // 2 - 1)) if levels % 2 == 0 else \
           (0.0, (-(levels // 2), levels // 2))


def quantize(x: torch.Tensor, step: float, *, offset: float = 0.0,
             bounds: tuple[int, int] | None = None, out: torch.Tensor | None = None):
    r"""Reconstruction $q(x)=\varepsilon(m+o)$, $m=\mathrm{round}(x/\varepsilon-o)$ (eq-uq-map).

    Parameters
    ----------
    x : float16, bfloat16, float32 or float64 tensor of any shape, strides and device.
    step : positive number $\varepsilon$, in the units of `x`.
    offset : $o$; 0 is mid-tread (rounding to nearest), 1/2 is mid-rise.
    bounds : smallest and largest code $m$, integers; None for a grid without ends.
    out : contiguous tensor of the shape, dtype and device of `x` that needs no gradient; may be
        `x` itself, and must not overlap it otherwise.

    Returns a tensor like `x` (`out` if given), without gradient.  Half-precision inputs are
    computed in float32 and rounded once at the end.  Raises ValueError on a NaN or an infinity,
    on a result that would be one (what `out` then holds is unspecified), and on arguments
    outside the above.
    Source: eq-uq-map; notes, section 3.1.

    >>> quantize(torch.tensor([-0.9, 0.5, 1.5, 7.0]), 1.0, bounds=(-2, 2)).tolist()
    [-1.0, 0.0, 2.0, 2.0]
    >>> quantize(torch.tensor([-0.9, 0.5, 1.5, 7.0]), 1.0, offset=0.5).tolist()
    [-0.5, 0.5, 1.5, 6.5]
    """
    out = _output(x, out, x.dtype if isinstance(x, torch.Tensor) else None)
    if native.serves("rounding", x, out, least=native.LEAST, types=native.NARROW):
        eps = _checked(x, step, offset, bounds)
        rounding.elements(x, out, rounding.grid(float(eps), offset, bounds))
        return out
    for a, q, eps, ends in _chunks(x, out, step, offset, bounds):
        _room(ends, eps, offset, bounds, q.dtype)
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
    if dtype not in INTEGERS:
        raise ValueError(f"dtype must be a signed integer type; got {dtype}")
    room = torch.iinfo(dtype)
    if bounds is not None:
        _numbers(step, offset, bounds)
        if not room.min <= bounds[0] <= bounds[1] <= room.max:
            raise ValueError(f"bounds must be ordered and fit in {dtype}; got {bounds}")
    out = _output(x, out, dtype)
    for a, m, eps, ends in _chunks(x, out, step, offset, bounds):
        if bounds is None:
            low, high = _codes(torch.tensor(ends, dtype=eps.dtype), eps.cpu(), offset, None).tolist()
            if not (low >= room.min and high <= room.max):
                raise ValueError(f"x / step must fit in {dtype}; got codes up to {max(-low, high):.4g}")
        m.copy_(_codes(a, eps, offset, bounds))
    return out


def decode(codes: torch.Tensor, step: float, *, offset: float = 0.0,
           dtype: torch.dtype = torch.float32) -> torch.Tensor:
    r"""Reconstruction points $\varepsilon(m+o)$ of integer `codes`, in a floating `dtype` (eq-uq-map).

    Raises ValueError if `codes` are not integers, `step` is not a positive number, `dtype` is not
    one of float16, bfloat16, float32 and float64, or a point is too large for it.

    >>> decode(torch.tensor([-2, 1]), 0.25, offset=0.5).tolist()
    [-0.375, 0.375]
    """
    if not isinstance(codes, torch.Tensor) or codes.dtype not in (*INTEGERS, torch.uint8):
        raise ValueError("codes must be a tensor of integers")
    if dtype not in FLOATS:
        raise ValueError(f"dtype must be one of {FLOATS}; got {dtype}")
    _numbers(step, offset, None)
    eps = _tensor_step(step, dtype, codes.device)
    points = codes.to(eps.dtype).add_(offset).mul_(eps).to(dtype)
    if not _all_finite(points):
        raise ValueError(f"codes * step must be finite in {dtype}")
    return points


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
    """Flat pieces of `x` and `out` that fit in cache, the step, and the piece's extremes, finite."""
    eps = _checked(x, step, offset, bounds)
    x, out = x.detach().reshape(-1), out.view(-1)
    size = CHUNK if x.device.type == "cpu" else max(x.numel(), 1)
    for a, b in zip(x.split(size), out.split(size)):
        if a.numel():
            ends = torch.stack(torch.aminmax(a)).tolist()
            if not (math.isfinite(ends[0]) and math.isfinite(ends[1])):
                raise ValueError("x must be finite; it holds a NaN or an infinity")
            yield a, b, eps, ends


def _checked(x, step, offset, bounds) -> torch.Tensor:
    """The step as a tensor, once the arguments are found to be good."""
    _numbers(step, offset, bounds)
    eps = _tensor_step(step, x.dtype, x.device)
    for b in bounds or ():
        if abs(b) > 2**24 and int(torch.tensor(float(b), dtype=eps.dtype)) != b:
            raise ValueError(f"bounds must be exact in {eps.dtype}; got {bounds}")
    return eps


def _roomy(top, step, offset, dtype) -> bool:
    """Numbers up to `top` certainly stay in the range of `dtype`: the usual case, without a tensor."""
    return (top / step + abs(offset) + 1) * max(step, 1.0) < torch.finfo(dtype).max / 2


def _room(ends, eps, offset, bounds, dtype) -> None:
    """Refuse a piece whose extremes `ends` leave the range of `dtype` on the way to their levels."""
    top, step = max(abs(v) for v in ends), float(eps)
    if _roomy(top, step, offset, dtype):
        return
    m = _codes(torch.tensor(ends, dtype=eps.dtype), eps.cpu(), offset, bounds)
    if not torch.isfinite(m.add_(offset).mul_(eps.cpu()).to(dtype)).all():
        raise ValueError(f"x and step must keep q(x) finite in {dtype}; got |x| up to {top:.4g}, step {step:.4g}")


def _tensor_step(step, dtype, device) -> torch.Tensor:
    # a tensor: CUDA turns a division by a Python number into a product with the inverse
    eps = torch.tensor(float(step), device=device,
                       dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    if not 0 < float(eps) < math.inf:
        raise ValueError(f"step must be positive and finite in {eps.dtype}; got {step}")
    return eps


def _numbers(step, offset, bounds) -> None:
    _positive(step=step)
    if not abs(_number(offset)) < math.inf:
        raise ValueError(f"offset must be a finite number; got {offset!r}")
    if bounds is not None and not (isinstance(bounds, (tuple, list)) and len(bounds) == 2
                                   and all(map(_whole, bounds)) and bounds[0] <= bounds[1]):
        raise ValueError(f"bounds must be a pair of integers (smallest, largest code); got {bounds!r}")


def _number(value) -> float:
    """`value` as a float; NaN if it is not one number."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def _positive(**numbers) -> None:
    for name, value in numbers.items():
        if not 0 < _number(value) < math.inf:
            raise ValueError(f"{name} must be a positive finite number; got {value!r}")


def _all_finite(x) -> bool:
    """One pass without a tensor of its size."""
    return not x.numel() or all(map(math.isfinite, torch.stack(torch.aminmax(x.detach())).tolist()))


def _narrow(y, dtype, out=None) -> torch.Tensor:
    """A result in its type, in `out` if given; ValueError if it does not fit."""
    y = y.to(dtype) if out is None else y if y is out else out.copy_(y)
    if not _all_finite(y):
        raise ValueError(rounding.RESULT.format(dtype))
    return y


def _whole(value) -> bool:
    return not isinstance(value, (bool, str)) and math.isfinite(_number(value)) and value == int(value)


def _output(x, out, dtype) -> torch.Tensor:
    if not isinstance(x, torch.Tensor) or x.dtype not in FLOATS:
        raise ValueError(f"x must be a floating-point tensor, of {', '.join(map(str, FLOATS))}; got "
                         f"{x.dtype if isinstance(x, torch.Tensor) else type(x).__name__}")
    if out is None:
        return native.empty(x.shape, dtype, x.device)
    if not isinstance(out, torch.Tensor) or not out.is_contiguous() or out.requires_grad or \
            (out.shape, out.dtype, out.device) != (x.shape, dtype, x.device):
        raise ValueError(f"out must be contiguous with shape {tuple(x.shape)}, dtype {dtype} "
                         f"and device {x.device}, and need no gradient")
    return out
