r"""Random rotations: Haar, and the fast one made of signs and Hadamard matrices.

Vectors lie along the last axis.  A rotation object has `dimension`, `apply` and `undo`; both are
orthogonal maps up to rounding.  Half precision is computed in float32, float64 in float64.
"""
import math
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from lecturelib import native
from lecturelib.native import rounding
from lecturelib.quantization import dither
from lecturelib.quantization.uniform import FLOATS, _all_finite, _narrow, _output, _whole

CHUNK = 1 << 18      # elements transformed at a time on a CPU
FACTOR = 64          # side of the largest Hadamard matrix that is multiplied as a matrix


def hadamard(x: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    r"""$Hx$ with the orthonormal Walsh-Hadamard matrix, $H_2=\frac1{\sqrt2}\begin{pmatrix}1&1\\1&-1\end{pmatrix}$, $H_{2d}=H_2\otimes H_d$.

    `x` is a floating-point tensor whose last axis $d$ is a power of two; the result is like it.
    $H$ is symmetric and its own inverse.  As $H_{64}\otimes H_{64}\otimes\cdots$ it takes at most $64\,d$
    multiplications per factor, as products of small matrices.  `out` is a contiguous tensor like `x`,
    and may be `x` itself.  Raises ValueError unless `x` is finite and $d$ a power of two.

    >>> hadamard(torch.tensor([1.0, 0, 0, 0])).tolist(), hadamard(torch.ones(4)).tolist()
    ([0.5, 0.5, 0.5, 0.5], [2.0, 0.0, 0.0, 0.0])
    """
    d = x.shape[-1] if isinstance(x, torch.Tensor) and x.ndim else 0
    if d < 1 or d & d - 1:
        raise ValueError(f"x must be a tensor whose last axis is a power of two; got {d}")
    return _rows(x, d, lambda y: _transform(y, _factors(d, y)), out, lambda: torch.full((1, d), d**-0.5))


@dataclass(frozen=True, eq=False)
class RandomHadamard:
    r"""$x\mapsto HS_m\cdots HS_1x$ in $\mathbb R^d$: random signs, a Hadamard matrix, `rounds` times (def-mp-rotation).

    The signs are those of the dither of `seed` and can be regenerated anywhere.  If $d$ is not a
    power of two, $d=2^jr$ with $r$ odd, $H=F_r\otimes H_{2^j}$ with the orthonormal Hartley matrix
    $F_r$, $F_{ij}=\frac1{\sqrt r}(\cos+\sin)\frac{2\pi ij}r$.  With one round the image of a unit
    vector of the basis has entries of one size; two rounds are nearer to a Haar rotation.
    Raises ValueError unless `dimension` and `rounds` are integers of at least 1, with $r\le4095$.

    >>> turn = RandomHadamard(12, seed=3)
    >>> x = torch.arange(12.0)
    >>> bool((turn.undo(turn.apply(x)) - x).abs().max() < 1e-5)
    True
    """
    dimension: int
    seed: int
    rounds: int = 2
    signs: torch.Tensor = field(init=False, repr=False)

    def __post_init__(self):
        for name in ("dimension", "rounds"):
            if not _whole(getattr(self, name)) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be an integer of at least 1; got {getattr(self, name)!r}")
        if self.dimension // (self.dimension & -self.dimension) > 4095:
            raise ValueError(f"dimension must have an odd factor of at most 4095; got {self.dimension}")
        u = dither.draw((self.rounds, self.dimension), self.seed)
        object.__setattr__(self, "signs", torch.where(u < 0, -1.0, 1.0))

    def apply(self, x: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """The rotated vectors, a tensor like `x`; ValueError unless the last axis is `dimension` and `x` finite."""
        def work(y):
            factors, signs = _factors(self.dimension, y), self.signs.to(y)
            for s in signs:
                y = _transform(y * s, factors)
            return y
        return _rows(x, self.dimension, work, out, lambda: self.signs * self._scale)

    def undo(self, x: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """The inverse of `apply`, which is its transpose."""
        def work(y):
            factors, signs = _factors(self.dimension, y), self.signs.to(y)
            for s in signs.flip(0):
                y = _transform(y, factors) * s
            return y

        def multipliers():
            before = torch.full((1, self.dimension), self._scale)
            return torch.cat((before, self.signs[1:].flip(0) * self._scale, self.signs[:1]))
        return _rows(x, self.dimension, work, out, multipliers, last=True)

    @property
    def _scale(self) -> float:
        return (self.dimension & -self.dimension)**-0.5


@dataclass(frozen=True, eq=False)
class Matrix:
    """The rotation by an orthogonal matrix `matrix` (d, d); ValueError if it is not orthogonal to 1e-4.

    >>> Matrix(torch.tensor([[0.0, 1.0], [1.0, 0.0]])).apply(torch.tensor([3.0, 4.0])).tolist()
    [4.0, 3.0]
    """
    matrix: torch.Tensor

    def __post_init__(self):
        Q = self.matrix
        if not isinstance(Q, torch.Tensor) or Q.dtype not in FLOATS or Q.ndim != 2 or Q.shape[0] != Q.shape[1] or not len(Q) or \
                not (Q @ Q.T - torch.eye(len(Q), dtype=Q.dtype, device=Q.device)).abs().max() < 1e-4:
            raise ValueError("matrix must be an orthogonal floating-point matrix")

    @property
    def dimension(self) -> int:
        return len(self.matrix)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """$Qx$ for vectors along the last axis."""
        return _rows(x, self.dimension, lambda y: y @ self.matrix.to(y).T)

    def undo(self, x: torch.Tensor) -> torch.Tensor:
        """$Q^\\top x$."""
        return _rows(x, self.dimension, lambda y: y @ self.matrix.to(y))


def haar(dimension: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Matrix:
    r"""A rotation with the uniform (Haar) law on the orthogonal group, on the generator's device.

    $Q$ of the factorization $G=QR$ of a Gaussian matrix, $R$ with positive diagonal.  Costs $d^2$ a
    vector.  Raises ValueError unless `dimension` is an integer of at least 1.

    >>> Q = haar(3, torch.Generator().manual_seed(0), torch.float64).matrix
    >>> bool((Q @ Q.T - torch.eye(3)).abs().max() < 1e-14)
    True
    """
    if not _whole(dimension) or dimension < 1:
        raise ValueError(f"dimension must be an integer of at least 1; got {dimension!r}")
    G = torch.randn(int(dimension), int(dimension), generator=generator, device=generator.device, dtype=torch.float64)
    Q, R = torch.linalg.qr(G)
    return Matrix((Q * torch.sign(R.diagonal())).to(dtype))


def _factors(d, like) -> list[torch.Tensor]:
    """Symmetric orthogonal matrices whose Kronecker product is the transform of dimension d."""
    power = d & -d
    factors, odd = [], d // power
    if odd > 1:
        factors.append(_hartley(odd, torch.float64))
    while power > 1:
        side = min(power, FACTOR)
        bits = torch.arange(side)
        both = bits[:, None] & bits
        parity = sum(both >> j & 1 for j in range(side.bit_length() - 1)) & 1
        factors.append((1 - 2 * parity).double() / side**0.5)
        power //= side
    return [f.to(like) for f in factors]


@lru_cache(maxsize=32)
def _hartley(r, dtype=torch.float32) -> torch.Tensor:
    r"""$F_{ij}=\frac1{\sqrt r}(\cos+\sin)\frac{2\pi ij}r$."""
    k = torch.arange(r, dtype=torch.float64)
    angle = torch.outer(k, k).remainder_(r) * (2 * math.pi / r)
    return ((angle.cos() + angle.sin()) / r**0.5).to(dtype)


def _transform(y, factors):
    """Multiply rows by the Kronecker product of `factors`, one axis at a time."""
    rows, d = y.shape
    left, right = 1, d
    for F in factors:
        f = len(F)
        right //= f
        y = (y.reshape(-1, f) @ F if right == 1 else torch.matmul(F, y.reshape(rows * left, f, right))).reshape(rows, d)
        left *= f
    return y


@torch.no_grad()
def _rows(x, d, work, out=None, multipliers=None, last=False) -> torch.Tensor:
    """`work` on pieces of rows; or in C, where the rows are multiplied by those of `multipliers()` and transformed in turns."""
    if not isinstance(x, torch.Tensor) or x.dtype not in FLOATS or x.ndim == 0 or x.shape[-1] != d:
        raise ValueError(f"x must be a floating-point tensor with last axis {d}")
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    out = _output(x, out, x.dtype)
    if multipliers is not None and native.serves("transforms", out, least=native.LEAST):
        m, odd = multipliers(), _hartley(d // (d & -d))
        code = native.call("transforms", "turn", x.detach().contiguous(), out, m, odd, x.numel() // d, d, len(odd), len(m) - last, int(last))
        if code != native.OK:
            raise ValueError("x must be finite; it holds a NaN or an infinity" if code == native.NOT_FINITE else rounding.RESULT.format(x.dtype))
        return out
    flat, results = x.detach().reshape(-1, d), out.view(-1, d)
    size = max(CHUNK // d, 1) if x.device.type == "cpu" else max(len(flat), 1)
    for piece, result in zip(flat.split(size), results.split(size)):
        if not _all_finite(piece):
            raise ValueError("x must be finite; it holds a NaN or an infinity")
        _narrow(work(piece.to(wide)), x.dtype, result)
    return out
