"""A flux in equilibrium with f and a Galerkin solution, on a box in any dimension.

Both live in tensor products of polynomials.  In the singular functions of d/dx on one interval the
d-dimensional problems are diagonal, so that neither needs more than one division per coefficient
(prop-flux).
"""
import math

import torch

from . import _check, approximation
from .domains import Box, gauss_legendre

BOUNDARY = ("neumann", "dirichlet")
CHUNK = 8192  # points at a time when a tensor of coefficients is evaluated


def friedrichs(domain: Box) -> float:
    """The sharp constant of ‖v‖ ≤ C‖∇v‖, v = 0 on the boundary: $1/(\\pi\\sqrt{\\sum_i \\ell_i^{-2}})$.

    >>> round(math.pi * friedrichs(Box.unit(4)), 12)
    0.5
    """
    sides = (b - a for a, b in zip(domain.lower, domain.upper))
    return 1 / (math.pi * math.sqrt(sum(s**-2 for s in sides)))


def legendre(x: torch.Tensor, degree: int, a: float, b: float) -> torch.Tensor:
    """Orthonormal Legendre polynomials of degree 0…`degree` on (a, b) at `x`: `(n, degree + 1)`.

    >>> legendre(torch.tensor([1.0]), 1, 0.0, 1.0)
    tensor([[1.0000, 1.7321]])
    """
    t = (2 * x - (a + b)) / (b - a)
    P = [torch.ones_like(t), t]
    for k in range(1, degree):
        P.append(((2 * k + 1) * t * P[k] - k * P[k - 1]) / (k + 1))
    norms = (2 * torch.arange(degree + 1, dtype=x.dtype, device=x.device) + 1).div(b - a).sqrt()
    return torch.stack(P[:degree + 1], 1) * norms


def derivative_svd(degree: int, length: float, clamped: bool, dtype=torch.float64, device=None):
    """Singular values and functions of d/dx on polynomials of at most `degree` (eq-ladder).

    In orthonormal Legendre coordinates $D = U\\,\\mathrm{diag}(s)\\,V^T$: column k of V has the
    derivative $s_k$ times column k of U.  `clamped` keeps only polynomials that vanish at both
    ends.  On all functions the pairs would be $\\sin k\\pi x$ and $\\cos k\\pi x$, $s_k = k\\pi$.

    Returns U `(degree, degree)`, s in decreasing order, V `(degree + 1, degree ± 1)`.

    >>> round(float(derivative_svd(20, 1.0, True)[1][-1] / math.pi), 12)
    1.0
    """
    _check.whole("degree", degree, 3)
    k = torch.arange(degree + 1, dtype=dtype, device=device)
    scale = (2 * k + 1).sqrt()
    odd = (k[None, :] > k[:, None]) & ((k[None, :] - k[:, None]) % 2 == 1)
    D = (2 / length * scale[:, None] * scale * odd)[:degree]
    Z = torch.eye(degree + 1, dtype=dtype, device=device)
    if clamped:
        ends = torch.stack([scale, scale * (-1.0) ** k], 1)
        Z = torch.linalg.qr(ends, mode="complete")[0][:, 2:]
    U, s, Vt = torch.linalg.svd(D @ Z)
    return U, s, Z @ Vt.T


class Equilibrium:
    """The flux q of least norm with −div q = f_N, and the Galerkin solution w: one pair per f.

    With $\\lambda_k = \\sum_i s_{k_i}^2$, in the singular functions of d/dx (prop-flux):
    $q_{i,k} = -s_{k_i} f_k/\\lambda_k$ and $w_k = f_k/\\lambda_k$.
    The object is itself an approximation, w: it has `value` and `gradient`.

    Parameters
    ----------
    f : callable, points `(n, d)` to values `(n,)`; Neumann: with ∫f = 0.
    domain : `Box`; degree : polynomial degree per variable, `(degree + 1)**d` numbers are stored.
    bc : "neumann" (q·n = 0 is built in) or "dirichlet" (w = 0 is built in).

    Attributes
    ----------
    constant : the sharp C of ‖v‖ ≤ C‖∇v‖; oscillation : C‖f + div q‖; width : ‖∇w − q‖, which
    bounds ‖∇u_* − q‖ and ‖∇u_* − ∇w‖ up to the oscillation.  All at twice the order of quadrature.

    Raises ValueError for ∫f ≠ 0 (Neumann; says the value), wrong shapes, NaN.

    >>> f = lambda x: torch.cos(math.pi * x[:, 0]) * torch.cos(math.pi * x[:, 1])
    >>> Equilibrium(f, Box.unit(2), degree=16).width < 1e-12
    True
    """

    def __init__(self, f, domain: Box, degree: int, bc: str = "neumann", dtype=torch.float64,
                 device=None):
        if bc not in BOUNDARY:
            raise ValueError(f"bc must be one of {BOUNDARY}; got {bc!r}")
        _check.whole("degree", degree, 3)
        self.domain, self.degree, self.bc, self.dtype, self.device = domain, degree, bc, dtype, device
        neumann = bc == "neumann"
        self.constant = domain.poincare if neumann else friedrichs(domain)
        self.order = degree + 8
        x, w = domain.quadrature(2 * self.order, dtype, device)
        fx = approximation.sample(f, x)
        total, size = float(w @ fx), math.sqrt(float(w.sum() * (w @ fx.square())))
        if neumann and abs(total) > max(1e-9, 100 * torch.finfo(dtype).eps) * size:
            raise ValueError(f"f must have ∫f = 0 for the Neumann problem; ∫f = {total:.6e}")
        self._dual, self._primal = [], []
        for a, b in zip(domain.lower, domain.upper):
            U, s, V = derivative_svd(degree + 1, b - a, neumann, dtype, device)
            self._dual.append((U, _fit(s, len(U)), _fit(V, len(U))))
            U, s, V = derivative_svd(degree, b - a, not neumann, dtype, device)
            self._primal.append((_fit(U, V.shape[1]), _fit(s, V.shape[1]), V))
        self._q = self._solve(self._dual, 0, fx * w)
        self._w = self._solve(self._primal, 2, fx * w)
        q = self.flux(x)
        self.oscillation = self.constant * math.sqrt(float(w @ (fx + self.divergence(x)).square()))
        self.width = math.sqrt(float(w @ (self.gradient(x) - q).square().sum(1)))

    def flux(self, x: torch.Tensor) -> torch.Tensor:
        """q at the points x, shape `(n, d)`."""
        return self._field(self._dual, -self._q, 2, 0, x)

    def gradient(self, x: torch.Tensor) -> torch.Tensor:
        """∇w at the points x, shape `(n, d)`."""
        return self._field(self._primal, self._w, 0, 2, x)

    def value(self, x: torch.Tensor) -> torch.Tensor:
        """The Galerkin solution w at the points x, shape `(n,)`."""
        return self._evaluate(self._primal, self._w, [2] * self.domain.d, x)

    def divergence(self, x: torch.Tensor) -> torch.Tensor:
        """div q at the points x, shape `(n,)`: minus the polynomial part f_N of f."""
        return self._evaluate(self._dual, -self._q * _lambda(self._dual), [0] * self.domain.d, x)

    def _solve(self, ladder, part, fw):
        """f_k/λ_k, one axis per variable; coefficients with λ_k = 0 are set to zero."""
        n, d = 2 * self.order, self.domain.d
        t = fw.reshape([n] * d)
        for i, (a, b) in enumerate(zip(self.domain.lower, self.domain.upper)):
            x = gauss_legendre(n, a, b, fw.dtype, fw.device)[0]
            t = torch.tensordot(t, self._basis(ladder, part, i, x), dims=([0], [0]))
        total = _lambda(ladder)
        zero = total <= 1e-12 * total.max()
        return torch.where(zero, 0, t / torch.where(zero, 1, total))

    def _basis(self, ladder, part, i, x):
        """Singular functions in variable i (part 0: U, part 2: V) at the numbers x."""
        C = ladder[i][part]
        return legendre(x, len(C) - 1, self.domain.lower[i], self.domain.upper[i]) @ C

    def _field(self, ladder, coefficients, special, other, x):
        """The vector field whose i-th component is s_i · coefficients, with `special` in x_i."""
        d = self.domain.d
        return torch.stack([
            self._evaluate(ladder, coefficients * _axis(ladder[i][1], i, d),
                           [special if j == i else other for j in range(d)], x)
            for i in range(d)], 1)

    def _evaluate(self, ladder, coefficients, parts, x):
        _check.tensor("x", x, 2)
        if x.shape[1] != self.domain.d:
            raise ValueError(f"x must have {self.domain.d} columns; got {x.shape[1]}")
        return torch.cat([
            _contract(coefficients, [self._basis(ladder, p, i, y[:, i]) for i, p in enumerate(parts)])
            for y in x.split(CHUNK)])


def _lambda(ladder):
    """λ_k, the sum over the variables of s², as a tensor with one axis per variable."""
    return sum(_axis(s.square(), i, len(ladder)) for i, (_, s, _) in enumerate(ladder))


def _axis(s, i, d):
    return s.reshape([-1 if j == i else 1 for j in range(d)])


def _fit(A, columns):
    """A cut or filled with zeros along the last axis to `columns`."""
    A = A[..., :columns]
    return torch.cat([A, A.new_zeros(*A.shape[:-1], columns - A.shape[-1])], -1)


def _contract(C, factors):
    """$\\sum_k C_{k_1…k_d} \\prod_i F_i[n, k_i]$ for every row n."""
    t = factors[0] @ C.reshape(len(C), -1)
    for F in factors[1:]:
        t = (F[:, None, :] @ t.reshape(len(F), F.shape[1], -1))[:, 0]
    return t[:, 0]
