"""Eigenfunctions of −Δ on the circle and on the unit cube, sampled on uniform grids.

Both bases are orthonormal in L², both have a grid on which the rectangle rule is as good as Gauss's,
and a function known at n points of the grid is a vector of n (n^d) values.  `analysis` turns values
into coefficients by that rule, `synthesis` coefficients into values.
"""
import math
from dataclasses import dataclass
from functools import lru_cache

import torch

from . import _check


@dataclass(frozen=True)
class Fourier:
    """$1,\\ \\sqrt2\\cos2\\pi kx,\\ \\sqrt2\\sin2\\pi kx$, k ≤ `modes`, on the circle $\\mathbb R/\\mathbb Z$.

    Functions come in pairs (cosine, sine), one pair per frequency k = 0…modes; the sine of k = 0
    is the zero function, so `size` = 2·(modes + 1).

    >>> basis = Fourier(1)
    >>> [round(abs(v), 5) for v in basis.evaluate(torch.tensor([[0.25]]))[0].tolist()]
    [1.0, 0.0, 0.0, 1.41421]
    """
    modes: int
    d, parts = 1, 2

    def __post_init__(self):
        _check.whole("modes", self.modes, 0)

    @property
    def frequencies(self) -> int:
        """The number of frequencies, modes + 1."""
        return self.modes + 1

    @property
    def size(self) -> int:
        """The number of coefficients."""
        return 2 * self.frequencies

    def points(self, n: int, dtype=torch.float64, device=None) -> torch.Tensor:
        """The grid $x_j=j/n$, shape `(n, 1)`."""
        _check.whole("n", n, 1)
        return (torch.arange(n, dtype=dtype, device=device) / n)[:, None]

    def evaluate(self, x: torch.Tensor) -> torch.Tensor:
        """Values `(n, size)` of all functions at points `(n, 1)`."""
        _points("x", x, 1)
        k = torch.arange(self.frequencies, dtype=x.dtype, device=x.device)
        turn = 2 * math.pi * torch.remainder(x * k, 1.0)
        return _scaled(torch.stack((torch.cos(turn), torch.sin(turn)), 2), k).flatten(1)

    def eigenvalues(self, dtype=torch.float64, device=None) -> torch.Tensor:
        """$(2\\pi k)^2$, the eigenvalues of −Δ in the order of the functions, shape `(size,)`."""
        k = torch.arange(self.frequencies, dtype=dtype, device=device)
        return (2 * math.pi * k).square().repeat_interleave(2)

    def resolved(self, n: int) -> torch.Tensor:
        """Which functions a grid of n points can tell apart: those with 2k < n, shape `(size,)`."""
        return (2 * torch.arange(self.frequencies) < n).repeat_interleave(2)


@dataclass(frozen=True)
class Cosine:
    """$\\prod_i\\sqrt2\\cos k_i\\pi x_i$ (1 for $k_i=0$), $k_i$ ≤ `modes`, on the cube $(0,1)^d$.

    The functions satisfy $\\partial_n\\varphi=0$; the last index runs fastest, like the cell centers.

    >>> Cosine(3, 2).size, (Cosine(1).eigenvalues() / math.pi**2).tolist()
    (16, [0.0, 1.0])
    """
    modes: int
    d: int = 1
    parts = 1

    def __post_init__(self):
        _check.whole("modes", self.modes, 0), _check.whole("d", self.d, 1)

    @property
    def frequencies(self) -> int:
        """The number of frequencies, (modes + 1)^d."""
        return (self.modes + 1) ** self.d

    size = frequencies

    def points(self, n: int, dtype=torch.float64, device=None) -> torch.Tensor:
        """The cell centers $(j+\\frac12)/n$ in every direction, shape `(n**d, d)`."""
        _check.whole("n", n, 1)
        x = (torch.arange(n, dtype=dtype, device=device) + 0.5) / n
        return torch.cartesian_prod(*[x] * self.d).reshape(-1, self.d)

    def evaluate(self, x: torch.Tensor) -> torch.Tensor:
        """Values `(n, size)` of all functions at points `(n, d)`."""
        _points("x", x, self.d)
        k = torch.arange(self.modes + 1, dtype=x.dtype, device=x.device)
        tables = _scaled(torch.cos(math.pi * x[:, :, None] * k).transpose(1, 2), k)
        out = tables[:, :, 0]
        for i in range(1, self.d):
            out = (out[:, :, None] * tables[:, None, :, i]).flatten(1)
        return out

    def eigenvalues(self, dtype=torch.float64, device=None) -> torch.Tensor:
        """$\\pi^2|k|^2$, the eigenvalues of −Δ in the order of the functions, shape `(size,)`."""
        k = torch.arange(self.modes + 1, dtype=dtype, device=device)
        return (math.pi * torch.cartesian_prod(*[k] * self.d).reshape(-1, self.d)).square().sum(1)

    def resolved(self, n: int) -> torch.Tensor:
        """Which functions n cells per side can tell apart: all $k_i<n$, shape `(size,)`."""
        k = torch.arange(self.modes + 1)
        return (torch.cartesian_prod(*[k] * self.d).reshape(-1, self.d) < n).all(1)


@lru_cache(maxsize=64)
def tables(basis, n: int, dtype=torch.float64, device=None) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrices `analysis` (size, n^d) and `synthesis` (n^d, size) of the grid with n points a side.

    Coefficients of functions that the grid cannot resolve are zero, not aliases.

    >>> analysis, synthesis = tables(Cosine(3), 8)
    >>> bool(torch.allclose(analysis @ synthesis, torch.eye(4, dtype=torch.float64)))
    True
    """
    values = basis.evaluate(basis.points(n, torch.float64, device))
    values = values * basis.resolved(n).to(values)
    return (values.T / len(values)).contiguous().to(dtype), values.to(dtype)


def side(basis, v: torch.Tensor, axis: int = -1) -> int:
    """Points per side n of samples `v` whose axis `axis` has n^d entries; ValueError otherwise."""
    n = round(v.shape[axis] ** (1 / basis.d))
    if n**basis.d != v.shape[axis] or n < 1:
        raise ValueError(f"axis {axis} must hold n^{basis.d} samples on a uniform grid; "
                         f"got {v.shape[axis]}")
    return n


def coefficients(basis, v: torch.Tensor) -> torch.Tensor:
    """Coefficients `(..., size)` of functions sampled on a grid, `(..., n**d)`, by the rectangle rule.

    >>> v = 1 + torch.cos(2 * math.pi * torch.arange(8) / 8)
    >>> [round(abs(c), 5) for c in coefficients(Fourier(1), v).tolist()]   # sin 0 and sin 2πx: zero
    [1.0, 0.0, 0.70711, 0.0]
    """
    _check.tensor("v", v)
    return v @ tables(basis, side(basis, v), v.dtype, v.device)[0].T


def values(basis, c: torch.Tensor, n: int) -> torch.Tensor:
    """Samples `(..., n**d)` on the grid with n points a side of $\\sum_kc_k\\varphi_k$, c `(..., size)`."""
    if _check.tensor("c", c).shape[-1] != basis.size:
        raise ValueError(f"c must end in {basis.size} coefficients; got shape {tuple(c.shape)}")
    return c @ basis.evaluate(basis.points(n, c.dtype, c.device)).T


def multiply(basis, multiplier: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Apply $v\\mapsto\\sum_km_k(v,\\varphi_k)\\varphi_k$ to samples `(..., n**d)` (thm-op-green).

    With $m_k=1/\\mu_k$ and $m_0=0$ it is the solution operator of $-\\Delta u=f$.

    >>> f = torch.cos(math.pi * Cosine(4).points(16)[:, 0])
    >>> mu = Cosine(4).eigenvalues()
    >>> u = multiply(Cosine(4), torch.where(mu > 0, 1 / mu, 0.0), f)
    >>> bool(torch.allclose(u, f / math.pi**2))
    True
    """
    if _check.tensor("multiplier", multiplier).shape != (basis.size,):
        raise ValueError(f"multiplier must have shape ({basis.size},); got {tuple(multiplier.shape)}")
    analysis, synthesis = tables(basis, side(basis, v), v.dtype, v.device)
    return (v @ analysis.T * multiplier.to(v)) @ synthesis.T


def _scaled(table, k):
    """√2 for every frequency but the constant."""
    return table * (1 + (k > 0).to(table)).sqrt().reshape(1, -1, 1)


def _points(name, x, d):
    if _check.tensor(name, x, 2).shape[1] != d:
        raise ValueError(f"{name} must have shape (n, {d}); got {tuple(x.shape)}")
