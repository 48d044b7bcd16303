"""A priori bounds: best approximation, Céa's constant, and the corrected chain (1.12)-(1.17)."""
import math
from dataclasses import dataclass

import torch

from . import _check, approximation


def coercivity(A: torch.Tensor) -> tuple[float, float]:
    """α and M of the form $a(u,v)=v^TAu$ in the Euclidean norm: $\\alpha\\|v\\|^2\\le a(v,v)$, $|a(u,v)|\\le M\\|u\\|\\|v\\|$.

    >>> coercivity(torch.diag(torch.tensor([2.0, 5.0])))
    (2.0, 5.0)
    """
    _check.tensor("A", A, 2)
    return float(torch.linalg.eigvalsh((A + A.T) / 2)[0]), float(torch.linalg.matrix_norm(A, 2))


def galerkin_factor(A: torch.Tensor, X: torch.Tensor) -> float:
    """Worst ratio of $\\|u-u_N\\|$ to $\\min_{v\\in\\mathrm{range}X}\\|u-v\\|$ over all u: the norm of $I-P$ (thm-cea).

    $P = X(X^TAX)^{-1}X^TA$ maps u to its Galerkin approximation.
    Raises ValueError if $X^TAX$ is singular or range X is everything (then both errors are zero).

    >>> round(galerkin_factor(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.eye(2)[:, :1]), 6)
    1.414214
    """
    _check.tensor("A", A, 2), _check.tensor("X", X, 2)
    if not 0 < X.shape[1] < A.shape[0]:
        raise ValueError(f"X must have between 1 and {A.shape[0] - 1} columns; got {X.shape[1]}")
    small, info = torch.linalg.solve_ex(X.T @ A @ X, X.T @ A)
    if info != 0:
        raise ValueError("X^T A X must be invertible; Galerkin's method has no unique solution")
    return float(torch.linalg.matrix_norm(torch.eye(len(A), dtype=A.dtype, device=A.device) - X @ small, 2))


def symmetric_factor(kappa: float) -> float:
    """$\\tfrac12(\\sqrt\\kappa+1/\\sqrt\\kappa)$, the best constant of Céa's lemma for symmetric forms, κ = M/α.

    >>> symmetric_factor(4.0)
    1.25
    """
    if not 1 <= kappa < math.inf:
        raise ValueError(f"kappa must be finite and at least 1; got {kappa}")
    return (math.sqrt(kappa) + 1 / math.sqrt(kappa)) / 2


@dataclass(frozen=True)
class Chain:
    """The members of eq-two-sided, in increasing order, and what the notes have in place of the last.

    l2 : ‖e‖²/(2C²); gap : E(u_N) − E(u_*), by energies; gradient : ½‖∇e‖²; best_gradient :
    ½ inf ‖∇(u_* − u)‖²; best_h1 : ½ inf ‖u_* − u‖²_{H¹}; best_l2 : ½ inf ‖u_* − u‖²_{L²}.
    """
    l2: float
    gap: float
    gradient: float
    best_gradient: float
    best_h1: float
    best_l2: float


def chain(exact, f, basis, points: torch.Tensor, weights: torch.Tensor, constant: float) -> Chain:
    """Evaluate the corrected chain for Ritz' approximation in the span of a basis.

    Parameters
    ----------
    exact : approximation object of the solution u_*; f : callable −Δu_*.
    basis : has `evaluate(x)` `(n, N)` and `gradient(x)` `(n, N, d)`; constants are taken out of it.
    points, weights : a rule that is exact enough for the basis; constant : C of ‖w‖ ≤ C‖∇w‖.

    The approximation is computed from f alone; the three infima are least-squares problems in u_*.
    Raises ValueError on wrong shapes or NaN.

    >>> from lecturelib.pde import bases
    >>> from lecturelib.pde.domains import Box
    >>> interval = Box.unit(1)
    >>> u = approximation.Function(lambda x: torch.cos(5 * math.pi * x[:, 0]))
    >>> c = chain(u, lambda x: 25 * math.pi**2 * u.value(x),
    ...           bases.Tensor("cosine", interval, torch.tensor([[1]])), *interval.quadrature(30), 1 / math.pi)
    >>> round(c.gap, 6), round(c.best_l2, 6)              # (1.16) as printed would be 61.7 ≤ 0.25
    (61.685028, 0.25)
    """
    C, root = _check.positive("constant", constant), weights.sqrt()
    fx, u = approximation.sample(f, points), approximation.sample(exact.value, points, "exact.value")
    phi, u = (v - weights @ v / weights.sum() for v in (basis.evaluate(points), u))
    slope = basis.gradient(points).transpose(1, 2) * root[:, None, None]          # (n, d, N)
    slope, du = slope.reshape(-1, basis.N), (exact.gradient(points) * root[:, None]).reshape(-1)
    phi, u = phi * root[:, None], u * root
    c = _fit(slope.T @ slope, phi.T @ (root * fx))                                # Kc = F, from f alone
    best = [_fit(A, b) for A, b in ((slope, du), (torch.cat([phi, slope]), torch.cat([u, du])), (phi, u))]

    def energy(du, u):
        return float(du.square().sum() / 2 - (root * fx) @ u)

    half = [float((du - slope @ k).square().sum()) / 2 for k in (c, best[0], best[1])]
    flat = [float((u - phi @ k).square().sum()) / 2 for k in (c, best[1], best[2])]
    return Chain(flat[0] / C**2, energy(slope @ c, phi @ c) - energy(du, u), half[0], half[1],
                 half[2] + flat[1], flat[2])


def _fit(A, b):
    """Least-squares solution of least norm, rounding-size singular values left out."""
    return torch.linalg.lstsq(A, b[:, None], rcond=1e-13, driver="gelsd").solution[:, 0]
