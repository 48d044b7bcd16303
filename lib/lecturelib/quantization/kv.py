r"""Quantizing the keys and values of attention: integer groups along tokens or channels, rotated codes, a fixed center.

A scheme maps vectors (..., T, d), T tokens of d channels, to codes and back: `encode(x)` gives a tuple of
tensors, `decode(codes)` a float32 tensor like x, `bits` the bits per number with all scales, and `noise(codes)`
the variance (..., T) of $\langle y,\hat x\rangle$ for a random unit vector $y$, where a theorem gives it.
"""
import math
from dataclasses import dataclass, field

import torch

from lecturelib.quantization import rotations, turboquant
from lecturelib.quantization.uniform import FLOATS, _all_finite, _whole

FLOAT_BITS = 16      # every scale, zero and norm is a float16
AXES = ("channel", "token")


class _Scheme:
    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """`decode` of `encode`, in the type of `x`."""
        return self.decode(self.encode(x)).to(x.dtype)

    def noise(self, codes) -> torch.Tensor:
        raise ValueError(f"keys must be a scheme whose variance is known; {type(self).__name__} is not")


@dataclass(frozen=True)
class Groups(_Scheme):
    r"""Integers between the ends of each group: $\hat x=z+sj$, $z=\min x$, $s=\frac{\max x-\min x}{2^b-1}$ (eq-kv-groups).

    Parameters
    ----------
    number_bits : b, from 1 to 8.
    group : numbers that share $s$ and $z$, two float16.
    axis : "channel", the numbers of one channel in `group` successive tokens, as KIVI does for keys; or "token",
        `group` successive channels of one token, as it does for values.

    Raises ValueError on other parameters, and in `encode` if `x` is not finite in float16 or the axis no
    multiple of `group`.

    >>> Groups(2, 4, "token").quantize(torch.tensor([[0.0, 1.2, 1.8, 3.0]])).tolist()
    [[0.0, 1.0, 2.0, 3.0]]
    """
    number_bits: int
    group: int
    axis: str

    def __post_init__(self):
        if not _whole(self.number_bits) or not 1 <= self.number_bits <= 8:
            raise ValueError(f"number_bits must be an integer from 1 to 8; got {self.number_bits!r}")
        if not _whole(self.group) or self.group < 2:
            raise ValueError(f"group must be an integer of at least 2; got {self.group!r}")
        if self.axis not in AXES:
            raise ValueError(f"axis must be one of {AXES}; got {self.axis!r}")

    @property
    def bits(self) -> float:
        return self.number_bits + 2 * FLOAT_BITS / self.group

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes uint8 (..., T, d), and steps and zeros in float16, one a group."""
        g = self._split(_floats(x))
        low, high = g.amin(-1, keepdim=True), g.amax(-1, keepdim=True)
        zero = low.half()
        step = ((high - zero) / (2**self.number_bits - 1)).half()
        if not (torch.isfinite(zero).all() and torch.isfinite(step).all()):
            raise ValueError("x must be finite in float16")
        codes = ((g - zero) / torch.where(step > 0, step, 1.0)).round_().clamp_(0, 2**self.number_bits - 1)
        return self._join(codes).to(torch.uint8), step, zero

    def decode(self, codes) -> torch.Tensor:
        j, step, zero = codes
        return self._join(torch.addcmul(zero.float(), step.float(), self._split(j).float()))

    def _split(self, x):                                               # groups last
        y = x if self.axis == "token" else x.transpose(-1, -2)
        if y.shape[-1] % self.group:
            raise ValueError(f"x must have a multiple of {self.group} numbers along a {self.axis}; got {y.shape[-1]}")
        return y.unflatten(-1, (-1, self.group))

    def _join(self, g):
        y = g.flatten(-2)
        return y if self.axis == "token" else y.transpose(-1, -2)


@dataclass(frozen=True)
class Turbo(_Scheme):
    """TurboQuant of each vector, `scale` as in `turboquant.encode`: "mse" is theirs, "mean" and "vector" are unbiased.

    >>> code = turboquant.design(rotations.RandomHadamard(64, seed=0), 3)
    >>> Turbo(code).bits
    3.25
    """
    code: turboquant.Code
    scale: str = "mse"

    def __post_init__(self):
        if self.scale not in turboquant.SCALES:
            raise ValueError(f"scale must be one of {turboquant.SCALES}; got {self.scale!r}")

    @property
    def bits(self) -> float:
        return self.code.bits + FLOAT_BITS / self.code.dimension

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes uint8 (..., T, d) and scales float16 (..., T)."""
        codes, scale = turboquant.encode(x, self.code, self.scale)
        return codes, _half(scale)

    def decode(self, codes) -> torch.Tensor:
        return turboquant.decode(codes[0], codes[1].float(), self.code)

    def noise(self, codes) -> torch.Tensor:
        r"""$\frac{\|x\|^2}d\frac D{1-D}$ if unbiased, and $\frac{\|x\|^2}dD(1-D)$ if not (thm-mp-unbiased)."""
        D, d, scale = self.code.distortion, self.code.dimension, codes[1].float()
        return scale.square() * (D * (1 - D) / d)                      # an unbiased scale is about |x| / (1 - D)


@dataclass(frozen=True)
class Product(_Scheme):
    """TurboQuant's unbiased variant: b - 1 bits by `code` (None if b = 1), one bit of QJL by the matrix `S`, two floats."""
    code: turboquant.Code | None
    S: torch.Tensor = field(repr=False)

    @property
    def bits(self) -> float:
        d = self.S.shape[1]
        return (self.code.bits if self.code else 0) + len(self.S) / d + (2 if self.code else 1) * FLOAT_BITS / d

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Codes and norms of the first stage, if there is one, then signs uint8 (..., T, m) and norms of the rest."""
        if self.code is None:
            first, rest = (), _floats(x)
        else:
            codes, norm = turboquant.encode(x, self.code)
            first = codes, _half(norm)
            rest = x.float() - turboquant.decode(codes, first[1].float(), self.code)
        signs, norm = turboquant.qjl_encode(rest, self.S)
        return *first, signs, _half(norm)

    def decode(self, codes) -> torch.Tensor:
        *first, signs, norm = codes
        rest = turboquant.qjl_decode(signs, norm.float(), self.S)
        return rest + turboquant.decode(first[0], first[1].float(), self.code) if first else rest

    def noise(self, codes) -> torch.Tensor:
        r"""$\frac\pi{2m}\|r\|^2$ with the rest $r$ of the first stage (prop-mp-qjl)."""
        return codes[-1].float().square() * (math.pi / (2 * len(self.S)))


@dataclass(frozen=True)
class Centered(_Scheme):
    r"""`scheme` of $x-ac$ with a fixed vector $c$, such as the mean key of a calibration text, and a bit $a$ for each vector:
    1 if that makes it shorter (eq-kv-centered).

    `center` (..., d) broadcasts against x with the token axis between (heads first, channels last); it is part
    of the model, and not counted.  `always` sets all bits to 1, and saves them.
    """
    scheme: _Scheme
    center: torch.Tensor = field(repr=False)
    always: bool = False

    def __post_init__(self):
        if not torch.isfinite(self.center).all():
            raise ValueError("center must be finite")

    @property
    def bits(self) -> float:
        return self.scheme.bits + (0 if self.always else 1 / self.center.shape[-1])

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The bits $a$ uint8 (..., T), unless they are always 1, then the codes of `scheme`."""
        x, c = _floats(x), self.center.unsqueeze(-2)
        if self.always:
            return self.scheme.encode(x - c)
        a = ((x - c).square().sum(-1) < x.square().sum(-1)).to(torch.uint8)
        return a, *self.scheme.encode(x - a.unsqueeze(-1) * c)

    def decode(self, codes) -> torch.Tensor:
        c = self.center.unsqueeze(-2)
        return self.scheme.decode(codes) + c if self.always else self.scheme.decode(codes[1:]) + codes[0].unsqueeze(-1) * c

    def noise(self, codes) -> torch.Tensor:
        return self.scheme.noise(codes if self.always else codes[1:])


@dataclass(frozen=True)
class Rotated(_Scheme):
    """`scheme` of rotated vectors."""
    scheme: _Scheme
    rotation: rotations.RandomHadamard

    @property
    def bits(self) -> float:
        return self.scheme.bits

    def encode(self, x: torch.Tensor):
        return self.scheme.encode(self.rotation.apply(x))

    def decode(self, codes) -> torch.Tensor:
        return self.rotation.undo(self.scheme.decode(codes))


def _floats(x):
    if not isinstance(x, torch.Tensor) or x.dtype not in FLOATS or x.ndim < 2 or not x.numel():
        raise ValueError("x must be a floating-point tensor (..., T, d), not empty")
    x = x.detach().float()
    if not _all_finite(x):
        raise ValueError("x must be finite in float32; it holds a NaN or an infinity")
    return x


def _half(scale):
    scale = scale.half()
    if not torch.isfinite(scale).all():
        raise ValueError("x must have norms that are finite in float16")
    return scale
