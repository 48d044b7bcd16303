r"""Layers with outliers in 8 and 4 bits: absmax scales, mixed precision, smoothing scales, and what a rotation does.

A layer is $Y=XW^\top$ with activations $X$ (T, n), one token a row, and weights $W$ (m, n).  Codes are
integers from $-N$ to $N$, $N=2^{b-1}-1$, times a step that is a maximum over $N$: of a row (a token,
an output of the layer) or of the whole tensor.  The rules are those of `uniform`: a true division by
the step, ties to even.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lecturelib import native
from lecturelib.native import rounding
from lecturelib.quantization.uniform import FLOATS, _all_finite, _output, _positive, _whole

GRID = tuple(k / 10 for k in range(11))                # exponents that awq() tries


@dataclass(frozen=True, eq=False)
class Absmax:
    """`codes` int8 (..., n) and `step` (..., 1), or () for one step in all; `decode()` multiplies them."""
    codes: torch.Tensor
    step: torch.Tensor

    def decode(self) -> torch.Tensor:
        return self.codes.to(self.step.dtype) * self.step


def levels(bits: int) -> int:
    """$N=2^{b-1}-1$, the largest code of $b$ bits; ValueError unless $2\\le b\\le8$.

    >>> levels(8), levels(4)
    (127, 7)
    """
    if not _whole(bits) or not 2 <= bits <= 8:
        raise ValueError(f"bits must be an integer from 2 to 8; got {bits!r}")
    return 2**(int(bits) - 1) - 1


def encode(x: torch.Tensor, bits: int, per: str = "row", clip: float = 1.0) -> Absmax:
    r"""Codes of `x` (..., n) with step $c\max|x|/N$, the maximum over a row or the tensor (eq-out-absmax).

    Parameters
    ----------
    per : "row", the last axis, or "tensor".
    clip : $c$ in (0, 1]; below 1 the entries beyond $c\max|x|$ saturate.

    Half precision is computed in float32.  A row of zeros has step 1 and codes 0.  Raises ValueError on
    other types, empty tensors, a NaN or an infinity, and arguments outside the above.

    >>> q = encode(torch.tensor([[1.0, -7.0], [0.1, 0.7]]), 4)
    >>> q.codes.tolist(), q.step.flatten().tolist()
    ([[1, -7], [1, 7]], [1.0, 0.10000000149011612])
    """
    x, step, N = _steps(x, bits, per, clip)
    return Absmax((x / step).round_().clamp_(-N, N).to(torch.int8), step)


def quantize(x: torch.Tensor, bits: int, per: str = "row", clip: float = 1.0, *, out: torch.Tensor | None = None) -> torch.Tensor:
    r"""`encode(x, bits, per, clip).decode()` in one pass, in the type of `x`; `out` may be `x` itself (eq-out-absmax).

    >>> quantize(torch.tensor([[1.2, -7.0]]), 4).tolist()
    [[1.0, -7.0]]
    """
    out = _output(x, out, x.dtype if isinstance(x, torch.Tensor) else None)
    wide, step, N = _steps(x, bits, per, clip)
    if wide.ndim and native.serves("rounding", wide, out, least=native.LEAST):
        steps = step if step.ndim else step.expand(x.numel() // x.shape[-1], 1)
        rounding.blocks(_rows(wide), rounding.grid(bounds=(-N, N)), s=steps.reshape(-1, 1).contiguous(), values=out)
        return out
    y = torch.div(wide, step, out=out if out.dtype == step.dtype else None).round_()
    if clip < 1 or bool((step < torch.finfo(step.dtype).tiny).any()):      # else no code exceeds N
        y.clamp_(-N, N)
    y.mul_(step)
    return y if y is out else out.copy_(y)


def matmul(a: Absmax, b: Absmax) -> torch.Tensor:
    r"""$\hat A\hat B^\top$ from the codes: exact integer sums, then one product with the two steps per entry.

    `a` (T, n), `b` (m, n).  The sums are formed in float64, which holds them without rounding.

    >>> a, b = encode(torch.tensor([[1.0, 127.0]]), 8), encode(torch.tensor([[127.0, 2.0]]), 8)
    >>> matmul(a, b).tolist()
    [[381.0]]
    """
    sums = a.codes.double() @ b.codes.double().T
    return (sums * a.step.double().reshape(-1, 1) * b.step.double().reshape(1, -1)).to(a.step.dtype)


# ------------------------------------------------------------------------------ mixed precision
def outlier_channels(x: torch.Tensor, threshold: float = 6.0) -> torch.Tensor:
    """Mask (n,) of the channels in which some token of `x` (..., n) reaches `threshold` (def-out-mixed).

    >>> outlier_channels(torch.tensor([[0.0, 7.0], [1.0, 0.0]])).tolist()
    [False, True]
    """
    _positive(threshold=threshold)
    _finite(x=x)
    return x.abs().reshape(-1, x.shape[-1]).amax(0) >= threshold


def mixed_product(x: torch.Tensor, w: torch.Tensor, bits: int = 8, threshold: float = 6.0) -> torch.Tensor:
    r"""LLM.int8(): $\hat X_{\bar O}\hat W_{\bar O}^\top+X_OW_O^\top$, the channels $O$ with outliers as they are (def-out-mixed).

    `x` (..., n), `w` (m, n).  Steps are per row of the channels that are left.  Raises ValueError if one of
    them is not finite or `w` does not fit, and on a bad `bits` or `threshold`.

    >>> x, w = torch.tensor([[100.0, 0.3]]), torch.tensor([[1.0, 0.7]])
    >>> round(float(mixed_product(x, w, 4)), 4)
    100.21
    """
    levels(bits)
    _finite(x=x, w=w)
    if w.ndim != 2 or not x.ndim or x.shape[-1] != w.shape[1]:
        raise ValueError(f"w must be (m, n) for x (..., n); got {tuple(w.shape)} and {tuple(x.shape)}")
    o = outlier_channels(x, threshold)
    if not bool(o.any()):
        return quantize(x, bits) @ quantize(w, bits).T
    keep = (~o).to(x.dtype)                                # zeros in the channels of O leave the steps and the sum alone
    return (x[..., o] @ w[:, o].T).add_(quantize(x * keep, bits) @ quantize(w * keep, bits).T)


# ---------------------------------------------------------------------------------- smoothing
def smooth(x_max: torch.Tensor, w_max: torch.Tensor, alpha: float = 0.5) -> torch.Tensor:
    r"""SmoothQuant's scales $s_j=X_j^\alpha/W_j^{1-\alpha}$, with geometric mean 1 (eq-out-smooth).

    `x_max`, `w_max` (n,): largest entries of each channel, not negative; zeros are replaced by the
    smallest positive one.  $XW^\top=(X/s)(Ws)^\top$ for every $s$.

    >>> smooth(torch.tensor([16.0, 1.0]), torch.tensor([1.0, 1.0])).tolist()
    [2.0, 0.5]
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1; got {alpha!r}")
    logs = []
    for name, v in (("x_max", x_max), ("w_max", w_max)):
        _finite(**{name: v})
        if v.ndim != 1 or bool((v < 0).any()) or not bool((v > 0).any()):
            raise ValueError(f"{name} must be a vector of numbers that are not negative, and not all zero")
        logs.append(torch.where(v > 0, v, v[v > 0].min()).log())
    if len(logs[0]) != len(logs[1]):
        raise ValueError(f"w_max must have the length of x_max, {len(logs[0])}; got {len(logs[1])}")
    s = alpha * logs[0] - (1 - alpha) * logs[1]
    return (s - s.mean()).exp()


def smoothed_error(s: torch.Tensor, x_max: torch.Tensor, w_max: torch.Tensor, c_x: float = 1.0, c_w: float = 1.0) -> float:
    r"""$E(s)=c_X\max_j\frac{X_j^2}{s_j^2}\sum_js_j^2W_j^2+c_W\max_js_j^2W_j^2\sum_j\frac{X_j^2}{s_j^2}$ (eq-out-error).

    `s`, `x_max`, `w_max` (n,), `s` positive; float64 inside.  Raises ValueError unless they are finite and of one length.

    >>> smoothed_error(torch.ones(2), torch.tensor([3.0, 1.0]), torch.ones(2))
    28.0
    """
    _finite(s=s, x_max=x_max, w_max=w_max)
    if not (s.shape == x_max.shape == w_max.shape) or s.ndim != 1 or not bool((s > 0).all()):
        raise ValueError(f"s must be a vector of positive numbers, as long as x_max and w_max; got {tuple(s.shape)}")
    r, t = (x_max / s).double().square(), (w_max * s).double().square()
    return float(c_x * r.max() * t.sum() + c_w * t.max() * r.sum())


def awq(w: torch.Tensor, x: torch.Tensor, quantizer: Callable[[torch.Tensor], torch.Tensor],
        grid=GRID) -> tuple[torch.Tensor, float, list[float]]:
    r"""AWQ: the best $s=\bar x^\alpha$, $\bar x_j$ the mean of $|x_j|$, for weights that are rounded after the scaling (eq-out-awq).

    Parameters
    ----------
    w : (m, n) weights; x : (T, n) a sample of what enters the layer.
    quantizer : weights -> rounded weights of the same shape.
    grid : exponents to try.

    Returns $s$ (n,) with geometric mean 1, its exponent, and the errors $\frac1{Tm}\|X(W-\hat W)^\top\|^2$ of all exponents.
    """
    _finite(w=w, x=x)
    if w.ndim != 2 or x.ndim != 2 or x.shape[1] != w.shape[1]:
        raise ValueError(f"x must be (T, n) for weights (m, n); got {tuple(x.shape)} and {tuple(w.shape)}")
    mean, errors, best = x.abs().mean(0), [], None
    for alpha in grid:
        s = smooth(mean, torch.ones_like(mean), alpha) if alpha else torch.ones_like(mean)
        e = (quantizer(w * s) / s).sub_(w)
        errors.append(float((x @ e.T).square().mean()))
        if errors[-1] == min(errors):
            best = s, alpha
    return *best, errors


# ---------------------------------------------------------------------------------- rotations
def incoherence(x: torch.Tensor) -> torch.Tensor:
    r"""$\sqrt n\,\|x\|_\infty/\|x\|$ of vectors along the last axis: 1 if all entries have one size, $\sqrt n$ for a single one.

    Raises ValueError on a NaN, an infinity or a vector of zeros.

    >>> incoherence(torch.tensor([[2.0, 0, 0, 0], [1, -1, 1, 1]])).tolist()
    [2.0, 1.0]
    """
    _finite(x=x)
    _nonzero(x)
    return x.shape[-1]**0.5 * x.abs().amax(-1) / torch.linalg.vector_norm(x, dim=-1)


def incoherence_bound(n: int, delta: float) -> float:
    r"""$\mu\sqrt{2\ln(2n/\delta)}$: with probability $1-\delta$ a rotated vector has no more incoherence (prop-out-incoherence).

    $\mu=1$ if $n$ is a power of two, else the $\sqrt n\max|H_{ij}|\le\sqrt2$ of the Hartley factor.

    >>> round(incoherence_bound(1024, 0.01), 4)
    4.9457
    """
    if not _whole(n) or n < 1:
        raise ValueError(f"n must be an integer of at least 1; got {n!r}")
    if not 0 < delta < 1:
        raise ValueError(f"delta must be between 0 and 1; got {delta!r}")
    odd = n // (n & -n)
    mu = max(abs(math.cos(2 * math.pi * k / odd) + math.sin(2 * math.pi * k / odd)) for k in range(odd))
    return mu * math.sqrt(2 * math.log(2 * n / delta))


def kurtosis(x: torch.Tensor) -> torch.Tensor:
    r"""$n\sum_jx_j^4/(\sum_jx_j^2)^2$ of vectors along the last axis: 3 for many Gaussian entries, $n$ for a single one; float64.

    Raises ValueError on a NaN, an infinity or a vector of zeros.

    >>> kurtosis(torch.tensor([[0.0, 0, 0, 5], [1, -1, 1, 1]])).tolist()
    [4.0, 1.0]
    """
    _finite(x=x)
    _nonzero(x)
    square = x.double().square()
    return square.square().mean(-1) / square.mean(-1)**2


# ------------------------------------------------------------------------------------ checks
def _float(**tensors) -> None:
    for name, x in tensors.items():
        if not isinstance(x, torch.Tensor) or x.dtype not in FLOATS or not x.numel():
            raise ValueError(f"{name} must be a floating-point tensor with entries")


def _finite(**tensors) -> None:
    _float(**tensors)
    for name, x in tensors.items():
        if not _all_finite(x):
            raise ValueError(f"{name} must be finite; it holds a NaN or an infinity")


def _nonzero(x) -> None:
    if not bool((x != 0).any(-1).all()):
        raise ValueError("x must have no vector of zeros along the last axis")


def _rows(x):
    return x.reshape(-1, x.shape[-1]).contiguous()


def _steps(x, bits, per, clip):
    _float(x=x)
    N = levels(bits)
    if per not in ("row", "tensor"):
        raise ValueError(f"per must be 'row' or 'tensor'; got {per!r}")
    if not 0 < clip <= 1:
        raise ValueError(f"clip must be in (0, 1]; got {clip!r}")
    x = x.detach().to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    if x.ndim and native.serves("rounding", x, least=native.LEAST):
        most = rounding.row_maxima(_rows(x))
        most = most.view(*x.shape[:-1], 1) if per == "row" else most.amax()
    else:
        low, high = (x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)) if per == "row" and x.ndim else torch.aminmax(x)
        most = torch.maximum(-low, high)
    step = most * clip / N
    if not bool(step.isfinite().all()):
        raise ValueError("x must be finite; it holds a NaN or an infinity")
    return x, torch.where(step > 0, step, 1.0), N
