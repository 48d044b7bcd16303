r"""Quantizing vectors for inner products: TurboQuant, QJL, and unbiased estimators with less variance.

A vector is rotated at random, divided by its norm, and its coordinates are quantized one by one
with the best codebook for a coordinate of a random direction.  One float per vector carries the
norm, and at no further cost a factor that makes all inner products unbiased (thm-mp-unbiased).
"""
import math
from dataclasses import dataclass

import torch
from scipy import stats

from lecturelib import native
from lecturelib.native import rounding
from lecturelib.quantization import codebooks, rotations
from lecturelib.quantization.lloyd_max import lloyd_max
from lecturelib.quantization.uniform import FLOATS, _all_finite, _narrow, _whole

SCALES = ("mse", "mean", "vector")
PIECE = 1 << 20       # numbers worked on at a time on a CPU
SAFE = 1e-15, 1e15    # norms whose squares float32 holds with all digits


@dataclass(frozen=True, eq=False)
class Code:
    r"""What encoder and decoder share: a rotation, and a codebook for $\sqrt d$ times a coordinate.

    `points` (2^bits,) is a sorted float32 tensor, `distortion` the mean square error $D$ of a unit vector.
    """
    rotation: object
    bits: int
    points: torch.Tensor
    distortion: float

    @property
    def dimension(self) -> int:
        return self.rotation.dimension


def coordinate(d: int):
    r"""Law of $\sqrt d\,u_1$, $u$ uniform on the unit sphere of $\mathbb R^d$, $d\ge3$: density $\propto(1-t^2/d)^{(d-3)/2}$.

    A frozen distribution of scipy.stats, of mean 0 and variance 1; close to N(0, 1) for large $d$.
    Raises ValueError unless `d` is an integer of at least 3.

    >>> round(float(coordinate(3).pdf(0.4)), 6) == round(1 / (2 * 3**0.5), 6)      # uniform
    True
    """
    if not _whole(d) or d < 3:
        raise ValueError(f"d must be an integer of at least 3; got {d!r}")
    return stats.beta((d - 1) / 2, (d - 1) / 2, loc=-d**0.5, scale=2 * d**0.5)


def design(rotation, bits: int) -> Code:
    r"""The code with `bits` bits per coordinate: the Lloyd-Max points of `coordinate(d)`.

    `rotation` as in lecturelib.quantization.rotations, of dimension at least 3.  Raises ValueError
    unless `bits` is an integer from 1 to 8.

    >>> from lecturelib.quantization.rotations import RandomHadamard
    >>> code = design(RandomHadamard(1024, seed=0), 1)
    >>> abs(code.distortion - (1 - 2 / math.pi)) < 1e-3
    True
    """
    if not _whole(bits) or not 1 <= bits <= 8:
        raise ValueError(f"bits must be an integer from 1 to 8; got {bits!r}")
    book = lloyd_max(coordinate(rotation.dimension), 2**int(bits))
    return Code(rotation, int(bits), torch.tensor(book.points, dtype=torch.float32), book.distortion)


def encode(x: torch.Tensor, code: Code, scale: str = "mse") -> tuple[torch.Tensor, torch.Tensor]:
    r"""Codes (..., d) in uint8 and one float32 per vector (eq-mp-turbo).

    Parameters
    ----------
    x : floating-point tensor (..., d), finite; computed in float32.
    scale : which number the float is.  With $u=x/\|x\|$ and its reconstruction $\hat u$,
        "mse" is $\|x\|$, TurboQuant's; "mean" is $\|x\|/(1-D)$, unbiased over the rotation;
        "vector" is $\|x\|/\langle\hat u,u\rangle$, unbiased as well, and exact along $x$.

    The vector 0 has scale 0.  Raises ValueError on a NaN or an infinity, a norm beyond float32, or
    another `scale`.
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {SCALES}; got {scale!r}")
    x = _floats(x, code.dimension, finite=False).contiguous()
    codes, s = native.empty(x.shape, torch.uint8, x.device), x.new_empty(x.shape[:-1])
    overlap = torch.empty_like(s) if scale == "vector" else None         # of unit vectors; positive
    if not _at_once(x, code, codes, s, overlap):
        for piece, c, t, w in _pieces(x, codes, s, s if overlap is None else overlap):
            y, norm = _turned(piece, code)
            codebooks.encode(y, code.points, dtype=torch.uint8, out=c)
            t.copy_(norm)
            if overlap is not None:
                w.copy_(torch.where(norm > 0, codebooks.decode(c, code.points).mul_(y).mean(-1), 1.0))
    if scale != "mse":
        s.div_(1 - code.distortion if overlap is None else overlap)
    return codes, s


def decode(codes: torch.Tensor, scale: torch.Tensor, code: Code) -> torch.Tensor:
    r"""$\hat x=s\,\Pi^\top c/\sqrt d$, float32 (..., d); ValueError if shapes or codes do not fit.

    >>> from lecturelib.quantization.rotations import RandomHadamard
    >>> code = design(RandomHadamard(64, seed=0), 8)
    >>> x = torch.arange(64.0)
    >>> bool((decode(*encode(x, code), code) - x).abs().max() < 1.5)
    True
    """
    if codes.shape[-1:] != (code.dimension,) or codes.shape[:-1] != scale.shape:
        raise ValueError(f"codes must have last axis {code.dimension} and scale one number per vector; "
                         f"got {tuple(codes.shape)} and {tuple(scale.shape)}")
    x = native.empty(codes.shape, device=codes.device)
    for y, c, s in _pieces(x, codes, scale):
        y.copy_(code.rotation.undo(codebooks.decode(c, code.points).mul_((s / code.dimension**0.5).unsqueeze(-1))))
    return x


def quantize(x: torch.Tensor, code: Code, scale: str = "mse") -> torch.Tensor:
    """`decode` of `encode`, in the type of `x`; ValueError if that does not hold it."""
    return _narrow(decode(*encode(x, code, scale), code), x.dtype)


# ----------------------------------------------------------------------------------- one bit
def sketch(d: int, generator: torch.Generator, rows: int | None = None) -> torch.Tensor:
    """The Gaussian matrix $S$ (rows, d) of QJL, on the generator's device; rows = d if not given."""
    if not _whole(d) or d < 1 or rows is not None and (not _whole(rows) or rows < 1):
        raise ValueError(f"d and rows must be integers of at least 1; got {d!r}, {rows!r}")
    return torch.randn(int(rows or d), int(d), generator=generator, device=generator.device)


def qjl_encode(x: torch.Tensor, S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Bits $[Sx\ge0]$ (..., m) in uint8, and $\|x\|$ in float32 (eq-mp-qjl).

    `x` (..., d) is floating-point and finite, `S` (m, d).  ValueError as in `encode`, and if `S` does not fit.
    """
    unit, norm = _split(x, _width(S))
    return (unit @ S.to(unit).T >= 0).to(torch.uint8), norm


def qjl_decode(bits: torch.Tensor, norm: torch.Tensor, S: torch.Tensor) -> torch.Tensor:
    r"""$\sqrt{\pi/2}\,\frac{\|x\|}m\,S^\top\mathrm{sign}(Sx)$: its mean over $S$ is $x$ (eq-mp-qjl).

    >>> S = torch.eye(2)
    >>> x = qjl_decode(*qjl_encode(torch.tensor([3.0, -4.0]), S), S)
    >>> (x / x[0]).tolist()
    [1.0, -1.0]
    """
    _width(S)
    if bits.shape[-1:] != (len(S),) or bits.shape[:-1] != norm.shape:
        raise ValueError(f"bits must have last axis {len(S)} and norm one number per vector; "
                         f"got {tuple(bits.shape)} and {tuple(norm.shape)}")
    if not ((bits == 0) | (bits == 1)).all():
        raise ValueError("bits must be 0 or 1")
    signs = bits.to(S) * 2 - 1
    return signs @ S * (math.sqrt(math.pi / 2) / len(S) * norm).unsqueeze(-1)


def quantize_product(x: torch.Tensor, code: Code | None, S: torch.Tensor) -> torch.Tensor:
    r"""TurboQuant's unbiased variant: `code` with $b-1$ bits, and QJL of what it leaves, the $b$-th.

    `code` is None for $b=1$.  Two floats per vector, $\|x\|$ and the norm of the rest.  The result
    is in float32.  ValueError as in `encode`, and if `S` (m, d) does not fit.
    """
    x = _floats(x, _width(S))
    first = torch.zeros_like(x) if code is None else quantize(x, code)
    return first + qjl_decode(*qjl_encode(x - first, S), S)


# ------------------------------------------------------------------------------------ theory
def variance(distortion: float) -> float:
    r"""$d\cdot$ variance of $\langle y,\hat x/(1-D)\rangle$ for unit $x$, mean over unit $y$: $\frac D{1-D}$ (thm-mp-unbiased).

    >>> variance(0.2)
    0.25
    """
    if not 0 <= distortion < 1:
        raise ValueError(f"distortion must lie in [0, 1); got {distortion}")
    return distortion / (1 - distortion)


def least_variance(rate: float) -> float:
    r"""$\frac1{4^R-1}$: no unbiased code of `rate` bits per entry has less (thm-mp-least).

    >>> least_variance(1.0) == 1 / 3
    True
    """
    if not 0 < rate < math.inf:
        raise ValueError(f"rate must be positive and finite; got {rate}")
    return 1 / (4.0**rate - 1)


def qjl_variance(distortion: float) -> float:
    r"""$\frac\pi2D$: $d\cdot$ variance of `quantize_product` with $m=d$, $D$ that of its first stage (prop-mp-qjl).

    >>> round(qjl_variance(1.0), 3)
    1.571
    """
    if not 0 <= distortion <= 1:
        raise ValueError(f"distortion must lie in [0, 1]; got {distortion}")
    return math.pi / 2 * distortion


def _at_once(x, code, codes, norm, overlap) -> bool:
    """`_turned`, the codes, and the mean of coordinate times point, row by row in C; False if that does not serve these vectors."""
    d, turn = code.dimension, code.rotation
    if not isinstance(turn, rotations.RandomHadamard) or len(code.points) > native.CHAIN or d % 16 or not native.serves("transforms", x, least=native.LEAST):
        return False
    points, thresholds = rounding.levels(codebooks._points(code.points, x.dtype, x.device)).kept
    odd = rotations._hartley(d // (d & -d))
    return native.call("transforms", "codes", x, turn.signs * turn._scale, odd, points, thresholds, codes, norm, overlap,
                       torch.tensor([d**0.5, *SAFE]), x.numel() // d, d, len(odd), turn.rounds) == native.OK


def _turned(x, code):
    """Coordinates $\\sqrt d\\,\\Pi u$ and the norms."""
    y, norm = _split(x, code.dimension, code.dimension**0.5)
    return code.rotation.apply(y), norm


def _split(x, d, length=1.0):
    """Vectors of that length in the directions of `x`, and the norms of `x`; where a square could over- or underflow, the largest entry is divided out first."""
    x = _floats(x, d, finite=False)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    if norm.numel() and SAFE[0] < norm.min() and norm.max() < SAFE[1]:     # then x is finite
        return x * (length / norm), norm.squeeze(-1)
    x = _floats(x, d)
    size = x.abs().amax(-1, keepdim=True)
    x = x / torch.where(size > 0, size, 1.0)
    share = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    norm = (size * share).squeeze(-1)
    if not torch.isfinite(norm).all():
        raise ValueError("x must have finite norms in float32")
    return x * (length / torch.where(size > 0, share, 1.0)), norm


def _pieces(x, *others):
    """Vectors (..., d), and others or numbers for them, as many at a time as stay in cache."""
    d, numbers = x.shape[-1], x.shape[:-1]
    size = max(PIECE // d, 1) if x.device.type == "cpu" else max(numbers.numel(), 1)
    return zip(x.reshape(-1, d).contiguous().split(size), *(v.reshape((-1,) if v.shape == numbers else (-1, d)).split(size) for v in others))


def _width(S) -> int:
    if not isinstance(S, torch.Tensor) or S.dtype not in FLOATS or S.ndim != 2 or not S.numel():
        raise ValueError("S must be a floating-point matrix (m, d), not empty")
    return S.shape[1]


def _floats(x, d, finite=True):
    if not isinstance(x, torch.Tensor) or x.dtype not in FLOATS or x.ndim == 0 or x.shape[-1] != d:
        raise ValueError(f"x must be a floating-point tensor with last axis {d}")
    x = x.detach().float()
    if finite and not _all_finite(x):
        raise ValueError("x must be finite in float32; it holds a NaN, an infinity or a number beyond")
    return x
