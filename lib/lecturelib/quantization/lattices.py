"""Lattices with fast nearest points: Z^n, A2, D_n, E8 (Conway and Sloane), and their Voronoi cells.

Vectors lie along the last axis; every function takes any device and shape, float32 and float64
(half precision is computed in float32).  Where several points are nearest, one of them is
returned, always the same.
"""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from lecturelib import native
from lecturelib.quantization.uniform import FLOATS, _all_finite, _whole


@dataclass(frozen=True, eq=False)
class Lattice:
    r"""A lattice $\Lambda\subset\mathbb R^n$ with its nearest-point map (def-lattice).

    `basis` holds generating vectors in its rows, `volume` is that of a fundamental cell, and
    `moment` the normalized second moment $G=\mathbb E\|U\|^2/(n\,\mathrm{vol}^{2/n})$ of the
    Voronoi cell, $U$ uniform on it.

    >>> lattice = e8()
    >>> lattice.dimension, lattice.volume, round(lattice.moment, 6)
    (8, 1.0, 0.071682)
    """
    name: str
    basis: np.ndarray
    moment: float
    find: Callable[[torch.Tensor], torch.Tensor]

    @property
    def dimension(self) -> int:
        return len(self.basis)

    @property
    def volume(self) -> float:
        return float(round(abs(np.linalg.det(self.basis)), 14))

    @property
    def variance(self) -> float:
        r"""Mean square of each coordinate of $U$ uniform on the Voronoi cell, $G\,\mathrm{vol}^{2/n}$."""
        return self.moment * self.volume**(2 / self.dimension)

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        r"""The lattice point $Q_\Lambda(x)$ nearest to each vector.  ValueError unless `x` is finite.

        >>> hexagonal().nearest(torch.tensor([[0.9, 0.1], [0.4, 0.8]])).tolist()[0]
        [1.0, 0.0]
        """
        if not isinstance(x, torch.Tensor) or x.dtype not in FLOATS or x.ndim == 0 \
                or x.shape[-1] != self.dimension:
            raise ValueError(f"x must be a floating-point tensor with last axis {self.dimension}")
        if not _all_finite(x):
            raise ValueError("x must be finite; it holds a NaN or an infinity")
        x = x.detach()
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        return self.find(wide).to(x.dtype)

    def modulo(self, x: torch.Tensor) -> torch.Tensor:
        r"""$x\bmod\Lambda=x-Q_\Lambda(x)$, a point of the Voronoi cell.

        >>> integers(2).modulo(torch.tensor([2.75, -0.5])).tolist()
        [-0.25, -0.5]
        """
        return x - self.nearest(x)

    def uniform(self, count: int, generator: torch.Generator,
                dtype: torch.dtype = torch.float64) -> torch.Tensor:
        r"""`count` samples of the uniform law on the Voronoi cell, on the generator's device.

        A uniform sample of the cell spanned by the basis, reduced modulo $\Lambda$: the crypto
        lemma (prop-crypto) says that the result is uniform.  Raises ValueError on a negative
        `count`, a `generator` that is none, and a `dtype` that is no floating-point type.

        >>> e8().uniform(5, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 8])
        """
        if not _whole(count) or count < 0:
            raise ValueError(f"count must be an integer of at least 0; got {count!r}")
        if not isinstance(generator, torch.Generator) or dtype not in FLOATS:
            raise ValueError(f"generator must be a torch.Generator and dtype one of {FLOATS}; got "
                             f"{type(generator).__name__}, {dtype}")
        v = torch.rand(int(count), self.dimension, generator=generator, device=generator.device,
                       dtype=torch.float64)
        return self.modulo(v @ torch.from_numpy(self.basis).to(v.device)).to(dtype)


def integers(n: int) -> Lattice:
    r"""$\mathbb Z^n$, the cubic lattice: $G=\frac1{12}$."""
    return Lattice(f"Z^{_dimension(n, 1)}", np.eye(n), 1 / 12, torch.round)


def hexagonal() -> Lattice:
    r"""$A_2$ with shortest vectors of length 1: $G=\frac5{36\sqrt3}$.

    The union of the rectangular lattice $\mathbb Z\times\sqrt3\,\mathbb Z$ and its translate by
    $(\frac12,\frac{\sqrt3}2)$.
    """
    sides = (1.0, 3**0.5)

    def find(x):
        side = x.new_tensor(sides)
        return _nearer(x, lambda y: torch.round(y / side).mul_(side), side / 2)

    return Lattice("A2", np.array([[1, 0], [0.5, 3**0.5 / 2]]), 5 / (36 * 3**0.5), find)


def checkerboard(n: int) -> Lattice:
    r"""$D_n$, $n\ge2$: integer vectors of even sum; $G=2^{-2/n}\big(\frac1{12}+\frac1{2n(n+1)}\big)$."""
    basis = np.eye(_dimension(n, 2)) - np.eye(n, k=1)
    basis[-1, -2:] = 1, 1
    return Lattice(f"D{n}", basis, 2**(-2 / n) * (1 / 12 + 1 / (2 * n * (n + 1))), _even)


def e8() -> Lattice:
    r"""$E_8=D_8\cup(D_8+\frac12)$: $G=\frac{929}{12960}$."""
    basis = checkerboard(8).basis.copy()
    basis[0] = 0.5
    return Lattice("E8", basis, 929 / 12960, _nearest_e8)


def _nearest_e8(x):
    if native.serves("lattices", x, least=native.LEAST):
        y = native.empty(x.shape)
        native.call("lattices", "e8", x.contiguous(), y, x.numel() // 8)
        return y
    return _nearer(x, _even, x.new_tensor(0.5))


def _even(x):
    """Nearest point of D_n: where the rounded coordinates have an odd sum, the one rounded
    farthest goes to its second choice."""
    point = torch.round(x)
    error = x - point
    odd = point.remainder(2).sum(-1, keepdim=True).remainder_(2)
    worst = error.abs().argmax(-1, keepdim=True)
    other = torch.where(error.gather(-1, worst) < 0, -odd, odd)
    return point.scatter_add_(-1, worst, other)


def _nearer(x, find, shift):
    """Nearest point of the union of a lattice and its translate by `shift`."""
    a, b = find(x), find(x - shift) + shift
    return torch.where(_norm(x - a) <= _norm(x - b), a, b)


def _norm(e):
    """Squares summed along the last axis, a power of two, by halves: rounded alike on every machine, so that ties are broken alike."""
    e = e.square_()
    while e.shape[-1] > 1:
        e = torch.add(*e.chunk(2, -1))
    return e


def _dimension(n, least) -> int:
    if not _whole(n) or n < least:
        raise ValueError(f"n must be an integer of at least {least}; got {n!r}")
    return int(n)
