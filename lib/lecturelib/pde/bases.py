"""Spectral and random bases on a box, in the same interface as `fem.Space`.

Every basis has `N` functions of `d` variables and offers

    evaluate(x) (n, N)    gradient(x) (n, N, d)    laplacian(x) (n, N)
    stiffness() (N, N)    load(f) (N,)             function(c): the approximation Σ cᵢφᵢ

Tensor bases take products $\\varphi_k(x)=\\prod_i\\varphi_{k_i}(x_i)$ over a table of multi-indices.
"""
import math

import torch

from . import _check
from .approximation import sample
from .domains import Box, gauss_legendre


class Sum:
    """The approximation $u=\\sum_ic_i\\varphi_i$ (eq-basis-expansion, notes (1.6))."""

    def __init__(self, basis, c: torch.Tensor):
        if _check.tensor("c", c, 1).shape != (basis.N,):
            raise ValueError(f"c must have {basis.N} entries; got {len(c)}")
        self.basis, self.c = basis, c

    def value(self, x: torch.Tensor) -> torch.Tensor:
        return self.basis.evaluate(x) @ self.c

    __call__ = value

    def gradient(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nkd,k->nd", self.basis.gradient(x), self.c)

    def laplacian(self, x: torch.Tensor) -> torch.Tensor:
        return self.basis.laplacian(x) @ self.c


# -------------------------------------------------------------- families of one variable on (0, L)
def _trigonometric(phase: int):
    """Orthonormal $\\cos k\\pi x/L$ (phase 0) or $\\sin k\\pi x/L$ (phase 1), k = 0…K."""
    def table(x, L, K, order):
        k = torch.arange(K + 1, dtype=x.dtype, device=x.device)
        size = torch.full_like(k, math.sqrt(2 / L)).masked_fill_(k == 0, 1 / math.sqrt(L))
        turn = (order - phase) * math.pi / 2
        return size * (k * math.pi / L) ** order * torch.cos(x[:, None] * (k * math.pi / L) + turn)
    return table


def _legendre(x, L, K, order):
    """Orthonormal Legendre polynomials, k = 0…K, by the three-term recurrence."""
    t = 2 * x / L - 1
    rows = [[torch.ones_like(t), t]] + [[torch.zeros_like(t), torch.full_like(t, m == 1)]
                                        for m in range(1, order + 1)]
    for k in range(1, K):
        rows[0].append(((2 * k + 1) * t * rows[0][k] - k * rows[0][k - 1]) / (k + 1))
        for m in range(1, order + 1):       # P'_{k+1} = P'_{k-1} + (2k+1) P_k, and once more
            rows[m].append(rows[m][k - 1] + (2 * k + 1) * rows[m - 1][k])
    k = torch.arange(K + 1, dtype=x.dtype, device=x.device)
    return torch.stack(rows[order][:K + 1], 1) * ((2 * k + 1) / L).sqrt() * (2 / L) ** order


def _bubble(x, L, K, order):
    """$\\int_0^xp_k$ of the orthonormal Legendre polynomials $p_k$, k ≥ 1; zero at both ends."""
    if order:
        return _legendre(x, L, K, order - 1)
    k = torch.arange(1, K + 1, dtype=x.dtype, device=x.device)
    p = _legendre(x, L, K + 1, 0) / ((2 * torch.arange(K + 2, dtype=x.dtype, device=x.device) + 1) / L).sqrt()
    inner = (p[:, 2:] - p[:, :-2]) / (2 * k + 1) * (L / 2) * ((2 * k + 1) / L).sqrt()
    return torch.cat([torch.zeros_like(p[:, :1]), inner], 1)


FAMILIES = {"cosine": _trigonometric(0), "sine": _trigonometric(1),
            "legendre": _legendre, "bubble": _bubble}


class Tensor:
    """Products of one family on a box: `Tensor(family, box, index)`.

    Parameters
    ----------
    family : "cosine" (satisfies ∂ₙφ = 0), "sine" and "bubble" (vanish on the boundary), "legendre".
    box : `domains.Box`; index : integer tensor `(N, d)` of distinct multi-indices, k ≥ 0, for
        families that vanish on the boundary k ≥ 1.
    order : Gauss nodes per axis for `load`; default 2·(largest index) + 16.

    Cosines, sines and Legendre polynomials are orthonormal in L², bubbles in $H^1_0(0,L)$.
    Raises ValueError on other families, on indices of the wrong shape, repeated or too small.

    >>> from lecturelib.pde.domains import Box
    >>> basis = Tensor("cosine", Box.unit(1), torch.tensor([[1], [2]]))
    >>> (basis.stiffness() / torch.pi ** 2).round(decimals=12).tolist()
    [[1.0, 0.0], [0.0, 4.0]]
    """

    def __init__(self, family: str, box: Box, index: torch.Tensor, order: int | None = None,
                 dtype=torch.float64):
        if family not in FAMILIES:
            raise ValueError(f"family must be one of {tuple(FAMILIES)}; got {family!r}")
        if index.ndim != 2 or index.shape[1] != box.d or index.is_floating_point():
            raise ValueError(f"index must be an integer tensor (N, {box.d}); got {tuple(index.shape)}")
        least = int(family in ("sine", "bubble"))
        if not len(index) or index.min() < least:
            raise ValueError(f"index must hold multi-indices of at least {least} for {family!r}")
        if repeated := len(index) - len(torch.unique(index, dim=0)):
            raise ValueError(f"index must hold distinct rows; {repeated} of {len(index)} repeat others")
        self.family, self.box, self.index, self.dtype = family, box, index, dtype
        self.N, self.d = index.shape
        self.natural = not least
        self.K = index.amax(0).tolist()
        self.order = 2 * max(self.K) + 16 if order is None else _check.whole("order", order, 1)

    def _tables(self, x, orders):
        """One table (n, N) per axis, of the derivative of the given order."""
        _columns(x, self.d)
        return [FAMILIES[self.family](x[:, i] - a, b - a, K, m)[:, self.index[:, i]] for i, (a, b, K, m)
                in enumerate(zip(self.box.lower, self.box.upper, self.K, orders))]

    def _derivative(self, x, orders):
        return math.prod(self._tables(x, orders))

    def evaluate(self, x: torch.Tensor) -> torch.Tensor:
        return self._derivative(x, [0] * self.d)

    def gradient(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self._derivative(x, _unit(self.d, i)) for i in range(self.d)], 2)

    def laplacian(self, x: torch.Tensor) -> torch.Tensor:
        return sum(self._derivative(x, _unit(self.d, i, 2)) for i in range(self.d))

    def _pair(self, i, order) -> torch.Tensor:
        """$\\int\\varphi_k^{(m)}\\varphi_l^{(m)}$ of one variable for all pairs in the index, exactly."""
        a, b = self.box.lower[i], self.box.upper[i]
        k = self.index[:, i]
        if self.family in ("cosine", "sine"):
            return (k[:, None] == k) * (k.to(self.dtype) * math.pi / (b - a)) ** (2 * order)
        x, w = gauss_legendre(self.K[i] + 2, 0, b - a, self.dtype, k.device)
        table = FAMILIES[self.family](x, b - a, self.K[i], order)
        return (table.T @ (w[:, None] * table))[k][:, k]

    def stiffness(self) -> torch.Tensor:
        """$K_{kl}=\\sum_i\\int\\varphi_{k_i}'\\varphi_{l_i}'\\prod_{j\\ne i}\\int\\varphi_{k_j}\\varphi_{l_j}$, exactly."""
        pairs = [[self._pair(i, m).to(self.dtype) for m in (0, 1)] for i in range(self.d)]
        return sum(math.prod(pairs[j][int(i == j)] for j in range(self.d)) for i in range(self.d))

    def load(self, f) -> torch.Tensor:
        """$F_k=\\int f\\varphi_k$ by a tensor Gauss rule, contracted axis by axis.

        Raises ValueError if `f` returns the wrong shape, NaN or infinity.
        """
        device = self.index.device
        x, _ = self.box.quadrature(self.order, self.dtype, device)
        values = sample(f, x, "right-hand side f").reshape([self.order] * self.d)
        for a, b, K in zip(self.box.lower, self.box.upper, self.K):
            t, w = gauss_legendre(self.order, 0, b - a, self.dtype, device)
            table = w[:, None] * FAMILIES[self.family](t, b - a, K, 0)
            values = torch.tensordot(values, table, dims=([0], [0]))     # the next axis moves up
        return values[tuple(self.index.T)]

    def function(self, c: torch.Tensor) -> Sum:
        """The approximation $\\sum_kc_k\\varphi_k$."""
        return Sum(self, c)


def full(n: int, d: int, first: int = 0) -> torch.Tensor:
    """All multi-indices in {first, …, first+n−1}^d; without the constant if first = 0.

    >>> full(2, 2).tolist()
    [[0, 1], [1, 0], [1, 1]]
    """
    _check.whole("n", n, 1), _check.whole("d", d, 1)
    k = torch.cartesian_prod(*[torch.arange(first, first + n)] * d).reshape(-1, d)
    return k[k.sum(1) > 0]


class RandomFeatures:
    """$\\varphi_j(x)=\\sigma(w_j\\cdot x+b_j)$ with fixed weights: a network whose inner layer is not trained.

    Parameters
    ----------
    weight : `(N, d)`; bias : `(N,)`; box : the domain.
    activation : "tanh" or "cos".
    order : Gauss nodes per axis for `stiffness` and `load`.

    >>> basis = RandomFeatures(torch.ones(1, 1), torch.zeros(1), Box.unit(1), "cos")
    >>> x = torch.zeros(1, 1)
    >>> basis.evaluate(x).item(), basis.laplacian(x).item()
    (1.0, -1.0)
    """
    natural = True

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, box: Box, activation: str = "tanh",
                 order: int = 30):
        _check.tensor("weight", weight, 2), _check.tensor("bias", bias, 1)
        if weight.shape != (len(bias), box.d):
            raise ValueError(f"weight must have shape ({len(bias)}, {box.d}); got {tuple(weight.shape)}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {tuple(ACTIVATIONS)}; got {activation!r}")
        self.weight, self.bias, self.box, self.activation = weight, bias, box, activation
        self.N, self.d = weight.shape
        self.order = _check.whole("order", order, 1)

    @classmethod
    def sample(cls, box: Box, N: int, scale: float, generator: torch.Generator,
               activation: str = "tanh", order: int = 30, dtype=torch.float64) -> "RandomFeatures":
        """Weights uniform in $[-s,s]^d$; every ridge $w\\cdot x+b=0$ passes through the box.

        Raises ValueError unless N ≥ 1 and scale > 0.
        """
        _check.whole("N", N, 1), _check.positive("scale", scale)
        device = generator.device
        weight = scale * (2 * torch.rand(N, box.d, generator=generator, dtype=dtype, device=device) - 1)
        low, high = (torch.tensor(v, dtype=dtype, device=device) for v in (box.lower, box.upper))
        through = low + (high - low) * torch.rand(N, box.d, generator=generator, dtype=dtype, device=device)
        return cls(weight, -(weight * through).sum(1), box, activation, order)

    def _sigma(self, x, m):
        _columns(x, self.d)
        return ACTIVATIONS[self.activation](torch.addmm(self.bias, x, self.weight.T), m)

    def evaluate(self, x: torch.Tensor) -> torch.Tensor:
        return self._sigma(x, 0)

    def gradient(self, x: torch.Tensor) -> torch.Tensor:
        return self._sigma(x, 1)[:, :, None] * self.weight

    def laplacian(self, x: torch.Tensor) -> torch.Tensor:
        return self._sigma(x, 2) * self.weight.square().sum(1)

    def stiffness(self) -> torch.Tensor:
        """$\\sum_qw_q\\,\\sigma'\\sigma'\\,(w_i\\cdot w_j)$ by a tensor Gauss rule."""
        x, w = self.box.quadrature(self.order, self.weight.dtype, self.weight.device)
        slope = self._sigma(x, 1)
        return (slope.T @ (w[:, None] * slope)) * (self.weight @ self.weight.T)

    def load(self, f) -> torch.Tensor:
        x, w = self.box.quadrature(self.order, self.weight.dtype, self.weight.device)
        return self.evaluate(x).T @ (w * sample(f, x, "right-hand side f"))

    def function(self, c: torch.Tensor) -> Sum:
        return Sum(self, c)


def _tanh(z, m):
    t = torch.tanh(z)
    return t if m == 0 else 1 - t * t if m == 1 else 2 * t * (t * t - 1)


ACTIVATIONS = {"tanh": _tanh, "cos": lambda z, m: torch.cos(z + m * (math.pi / 2))}


def _columns(x, d):
    if x.ndim != 2 or x.shape[1] != d:
        raise ValueError(f"x must have shape (n, {d}); got {tuple(x.shape)}")


def _unit(d, i, m=1):
    return [m * int(j == i) for j in range(d)]
