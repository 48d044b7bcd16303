"""Ritz, Galerkin and least squares in a finite basis: the systems, their rank and their condition."""
from dataclasses import dataclass

import torch

from . import _check
from .approximation import sample


def discrete_energy(K: torch.Tensor, F: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """$E(c)=\\tfrac12\\sum_{ij}c_ic_jK_{ij}-\\sum_ic_iF_i$ (eq-ritz-minimum, notes (1.7)).

    >>> float(discrete_energy(2 * torch.eye(1), torch.ones(1), torch.ones(1)))
    0.0
    """
    return c @ (K @ c) / 2 - F @ c


def spectrum(K: torch.Tensor) -> torch.Tensor:
    """Eigenvalues of $D^{-1/2}KD^{-1/2}$, D the diagonal, ascending: K without the functions' sizes.

    Raises ValueError if K is not square and symmetric or a diagonal entry is not positive (that
    basis function is constant).
    """
    size = _sizes(K)
    return torch.linalg.eigvalsh(K * torch.outer(size, size))


def _sizes(K) -> torch.Tensor:
    """The diagonal of $D^{-1/2}$, after the checks."""
    _check.tensor("K", K, 2)
    if K.shape[0] != K.shape[1] or not torch.allclose(K, K.T, rtol=1e-10, atol=1e-12 * float(K.abs().max())):
        raise ValueError(f"K must be square and symmetric; got shape {tuple(K.shape)}")
    size = K.diagonal()
    if size.min() <= 0:
        raise ValueError(f"basis must hold no constants: function {int(size.argmin())} has energy "
                         f"{float(size.min()):.3g}")
    return size.rsqrt()


def rank(K: torch.Tensor) -> int:
    """How many basis functions are independent modulo constants, at working precision.

    Counts the eigenvalues of the scaled matrix above N·eps times the largest.

    >>> rank(torch.ones(3, 3))
    1
    """
    values = spectrum(K)
    return int((values > len(K) * torch.finfo(K.dtype).eps * values[-1]).sum())


def condition(K: torch.Tensor) -> float:
    """$\\kappa(K)=\\lambda_{\\max}/\\lambda_{\\min}$, infinite if the least eigenvalue is not positive.

    >>> condition(torch.diag(torch.tensor([1.0, 4.0])))
    4.0
    """
    values = torch.linalg.eigvalsh(_check.tensor("K", K, 2))
    return float(values[-1] / values[0]) if values[0] > 0 else float("inf")


def solve(K: torch.Tensor, F: torch.Tensor, cutoff: float | None = None) -> torch.Tensor:
    """Solve $Kc=F$ by Cholesky factorization (eq-galerkin-system).

    With `cutoff`, solve in the eigenvectors of the scaled matrix whose eigenvalues exceed `cutoff`
    times the largest instead: for bases that are dependent at working precision.
    Raises ValueError if a function of the basis is constant and, without `cutoff`, if the basis is linearly dependent modulo constants; the
    message says the rank.

    >>> solve(torch.eye(2), torch.ones(2)).tolist()
    [1.0, 1.0]
    >>> solve(torch.ones(2, 2), torch.ones(2))
    Traceback (most recent call last):
    ...
    ValueError: basis must be linearly independent modulo constants; its stiffness matrix has rank 1 of 2
    """
    _check.tensor("F", F, 1)
    if _check.tensor("K", K, 2).shape != (len(F), len(F)):
        raise ValueError(f"K must have shape ({len(F)}, {len(F)}); got {tuple(K.shape)}")
    if cutoff is not None:
        size = _sizes(K)
        values, V = torch.linalg.eigh(K * torch.outer(size, size))
        keep = values > _check.positive("cutoff", cutoff) * values[-1]
        return size * (V[:, keep] @ (V[:, keep].T @ (size * F) / values[keep]))
    r = rank(K)
    if r < len(K):
        raise ValueError("basis must be linearly independent modulo constants; its stiffness matrix "
                         f"has rank {r} of {len(K)}")
    size = _sizes(K)
    L = torch.linalg.cholesky(K * torch.outer(size, size))
    return size * torch.cholesky_solve((size * F)[:, None], L)[:, 0]


def project(basis, u, x: torch.Tensor, w: torch.Tensor, cutoff: float | None = None):
    """The a-orthogonal projection of the approximation `u`: $Kc=F$ with $F_i=\\int\\nabla u\\cdot\\nabla\\varphi_i$.

    This is the Galerkin approximation of u (thm-ritz-galerkin) without its right-hand side, which need
    not be a function; `x`, `w` is the rule for F, `cutoff` as in `solve` (1e-12 removes the constants
    from a finite-element space).

    >>> from lecturelib.pde import bases
    >>> from lecturelib.pde.approximation import Function
    >>> from lecturelib.pde.domains import Box
    >>> line = bases.Tensor("legendre", Box.unit(1), torch.tensor([[1]]))
    >>> u = project(line, Function(lambda x: x[:, 0] ** 2), *Box.unit(1).quadrature(4))
    >>> round(float(u.gradient(torch.zeros(1, 1, dtype=torch.float64))), 12)
    1.0
    """
    K = basis.stiffness()
    slope = u.gradient(x)
    F = torch.einsum("nkd,nd->k", basis.gradient(x), slope * w[:, None])
    return basis.function(solve(K.to_dense() if K.layout != torch.strided else K, F, cutoff))


def compatible(f, x: torch.Tensor, w: torch.Tensor, tolerance: float = 1e-6) -> None:
    """Check ∫f = 0, without which the Neumann problem has no solution, by the rule `x`, `w`.

    Raises ValueError saying ∫f and ∫|f| if the first exceeds `tolerance` times the second.

    >>> from lecturelib.pde.domains import Box
    >>> compatible(lambda x: x[:, 0], *Box.unit(1).quadrature(2))
    Traceback (most recent call last):
    ...
    ValueError: f must have mean zero for ∂ₙu = 0: ∫f = 0.5, ∫|f| = 0.5
    """
    values = sample(f, x, "right-hand side f")
    total, size = float(w @ values), float(w @ values.abs())
    if abs(total) > tolerance * size:
        raise ValueError(f"f must have mean zero for ∂ₙu = 0: ∫f = {total:.6g}, ∫|f| = {size:.6g}")


def ritz(basis, f):
    """The Ritz-Galerkin approximation of −Δu = f: `basis.function(c)` with $Kc=F$.

    In a basis that vanishes on the boundary u = 0 there; otherwise ∂ₙu = 0, by itself.
    Raises ValueError if `f` is incompatible (says ∫f) or the basis is dependent (says the rank).

    >>> from lecturelib.pde import bases
    >>> from lecturelib.pde.domains import Box
    >>> u = ritz(bases.Tensor("sine", Box.unit(1), torch.tensor([[1]])),
    ...          lambda x: torch.pi ** 2 * torch.sin(torch.pi * x[:, 0]))
    >>> round(float(u.value(torch.full((1, 1), 0.5, dtype=torch.float64))), 12)
    1.0
    """
    K, F = basis.stiffness(), basis.load(f)
    if basis.natural:
        compatible(f, *basis.box.quadrature(basis.order, F.dtype, F.device))
    return basis.function(solve(K, F))


@dataclass(frozen=True)
class LeastSquares:
    """Result of `least_squares`: the approximation `u`, the relative residual, the rank used."""
    u: object
    residual: float
    rank: int


def least_squares(basis, f, g, interior, boundary, weight: float = 1e4,
                  cutoff: float = 1e-15) -> LeastSquares:
    """Minimize $\\|\\Delta u+f\\|_{L^2(\\Omega)}^2+\\beta\\|u-g\\|_{L^2(\\partial\\Omega)}^2$ over the span (eq-collocation).

    The square roots of the weights are folded into the rows; then a QR factorization, and a singular
    value decomposition of R without the values below `cutoff` times the largest: the condition number
    of the rows enters once, not squared as in $K$.

    Parameters
    ----------
    basis : with `evaluate` and `laplacian`; f, g : callables `(n, d) → (n,)`.
    interior, boundary : pairs of points `(n, d)` and weights `(n,)`.
    weight : β.

    Raises ValueError if there are fewer rows than basis functions, a weight is negative, or `f`, `g`
    are not as expected.

    >>> from lecturelib.pde import bases
    >>> from lecturelib.pde.domains import Box
    >>> box = Box.unit(1)
    >>> basis = bases.Tensor("legendre", box, torch.arange(3)[:, None])
    >>> fit = least_squares(basis, lambda x: torch.ones_like(x[:, 0]), lambda x: 0 * x[:, 0],
    ...                     box.quadrature(4), box.boundary(1)[:2])
    >>> round(float(fit.u.value(torch.full((1, 1), 0.5, dtype=torch.float64))), 12)
    0.125
    """
    (x, w), (s, v) = interior, boundary
    if len(x) + len(s) < basis.N:
        raise ValueError(f"interior and boundary must hold at least {basis.N} points; got "
                         f"{len(x)} + {len(s)}")
    for name, points, rule in (("interior", x, w), ("boundary", s, v)):
        if _check.tensor(name, rule, 1).shape != points.shape[:1] or bool((rule < 0).any()):
            raise ValueError(f"{name} must hold one weight ≥ 0 for each of its {len(points)} points")
    root, edge = w.sqrt(), (_check.positive("weight", weight) * v).sqrt()
    A = torch.cat([basis.laplacian(x).mul_(root[:, None]), basis.evaluate(s).mul_(edge[:, None])])
    b = torch.cat([-root * sample(f, x, "right-hand side f"), edge * sample(g, s, "boundary values g")])
    R = torch.linalg.qr(torch.cat([A, b[:, None]], 1), mode="r").R      # also rotates b
    U, S, Vh = torch.linalg.svd(R[:basis.N, :basis.N])
    keep = S > cutoff * S[0]
    c = Vh.T[:, keep] @ ((U.T @ R[:basis.N, -1])[keep] / S[keep])
    return LeastSquares(basis.function(c), float((A @ c - b).norm() / b.norm().clamp(min=1e-300)), int(keep.sum()))
