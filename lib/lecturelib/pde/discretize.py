"""Poisson's equation on the unit cube, discretized with n cells of width h = 1/n per side.

Neumann unknowns sit at the n cell centers, Dirichlet unknowns at the n−1 interior nodes.  With the
(n−1)×n difference matrix D = h⁻¹[−1 1] the one-dimensional matrices are DᵀD and DDᵀ, and in d
dimensions one such term acts along each axis (eq-neumann-matrix).
"""
import math

import torch

from . import _check

BOUNDARY = ("neumann", "dirichlet")


def centers(n: int, d: int = 1, dtype=torch.float64, device=None) -> torch.Tensor:
    """Cell centers ((i₁+½)h, …, (i_d+½)h), shape `(n**d, d)`, the last axis running fastest.

    >>> centers(4).ravel().tolist()
    [0.125, 0.375, 0.625, 0.875]
    """
    _check.whole("n", n, 1), _check.whole("d", d, 1)
    x = (torch.arange(n, dtype=dtype, device=device) + 0.5) / n
    return torch.cartesian_prod(*[x] * d).reshape(-1, d)


def neumann_laplacian(u: torch.Tensor, d: int = 1, out: torch.Tensor | None = None) -> torch.Tensor:
    """Apply $A_h = -\\Delta_h$ with $\\partial_n u = 0$ to the last `d` axes (eq-neumann-matrix).

    Parameters
    ----------
    u : floating tensor `(..., n, …, n)` of values at cell centers.
    out : tensor of the same shape, dtype and device for the result; must not share memory with `u`.

    Raises ValueError if the last `d` axes differ in length, are shorter than 2, or u is not finite.

    >>> neumann_laplacian(torch.tensor([0.0, 1.0, 0.0]))
    tensor([-9., 18., -9.])
    """
    n = _length(u, d, 2)
    out = torch.zeros_like(u) if out is None else _other(out, u).zero_()
    for axis in range(-d, 0):
        flux = torch.diff(u, dim=axis).mul_(n * n)
        out.narrow(axis, 0, n - 1).sub_(flux)
        out.narrow(axis, 1, n - 1).add_(flux)
    return out


def dirichlet_laplacian(u: torch.Tensor, d: int = 1) -> torch.Tensor:
    """Apply $-\\Delta_h$ with $u = 0$ on the boundary to the last `d` axes of n−1 nodes each.

    Raises ValueError if the last `d` axes differ in length or u is not finite.

    >>> dirichlet_laplacian(torch.tensor([0.0, 1.0, 0.0]))
    tensor([-16.,  32., -16.])
    """
    n = _length(u, d, 1) + 1
    out = u * (2 * d * n * n)
    for axis in range(-d, 0):
        inner = u.shape[axis] - 1
        out.narrow(axis, 0, inner).sub_(u.narrow(axis, 1, inner), alpha=n * n)
        out.narrow(axis, 1, inner).sub_(u.narrow(axis, 0, inner), alpha=n * n)
    return out


def matrix(n: int, d: int = 1, bc: str = "neumann", dtype=torch.float64, device=None) -> torch.Tensor:
    """The dense matrix of the discretized −Δ: `(n**d, n**d)` (Neumann) or `((n-1)**d, (n-1)**d)`.

    >>> matrix(2)
    tensor([[ 4., -4.],
            [-4.,  4.]], dtype=torch.float64)
    """
    side = _side(n, bc)
    _check.whole("d", d, 1)
    apply = neumann_laplacian if bc == "neumann" else dirichlet_laplacian
    identity = torch.eye(side**d, dtype=dtype, device=device)
    return apply(identity.reshape(-1, *[side] * d), d).reshape(side**d, side**d)


def eigenvalues(n: int, d: int = 1, bc: str = "neumann", dtype=torch.float64, device=None) -> torch.Tensor:
    """Eigenvalues $\\sum_i 4n^2\\sin^2(k_i\\pi/2n)$ in the order of `modes`, shape `(side**d,)`.

    k runs over 0…n−1 (Neumann) or 1…n−1 (Dirichlet): the non-zero ones agree in one dimension.

    >>> eigenvalues(2).round(decimals=12).tolist()
    [0.0, 8.0]
    """
    _check.whole("d", d, 1)
    k = torch.arange(n - _side(n, bc), n, dtype=dtype, device=device)
    one = 4 * n * n * torch.sin(k * (math.pi / (2 * n))) ** 2
    return torch.cartesian_prod(*[one] * d).reshape(-1, d).sum(1)


def modes(n: int, bc: str = "neumann", dtype=torch.float64, device=None) -> torch.Tensor:
    """Orthonormal eigenvectors of the one-dimensional matrix, one per column.

    Neumann: $\\cos(k\\pi x_i)$ at the centers; Dirichlet: $\\sin(k\\pi x_i)$ at the nodes.

    >>> Q = modes(5)
    >>> bool(torch.allclose(Q.T @ matrix(5) @ Q, torch.diag(eigenvalues(5))))
    True
    """
    side = _side(n, bc)
    k = torch.arange(n - side, n, dtype=dtype, device=device)
    i = torch.arange(side, dtype=dtype, device=device)
    if bc == "neumann":
        Q = torch.cos(math.pi / n * (i[:, None] + 0.5) * k)
    else:
        Q = torch.sin(math.pi / n * (i[:, None] + 1) * k)
    return Q / torch.linalg.vector_norm(Q, dim=0)


def difference_norm(u: torch.Tensor, d: int = 1) -> torch.Tensor:
    """Discrete $\\|\\nabla u\\|$: $\\sqrt{h^d\\,u^TA_hu}$ with the Neumann matrix, over the last d axes.

    >>> u = torch.tensor([0.0, 0.5, 0.5, 1.0], dtype=torch.float64)     # h = 1/4, slopes 2, 0, 2
    >>> round(float(difference_norm(u)) ** 2, 12)
    2.0
    """
    n = _length(u, d, 2)
    total = sum(torch.diff(u, dim=axis).square().sum(dim=tuple(range(-d, 0)))
                for axis in range(-d, 0))
    return (total * float(n) ** (2 - d)).sqrt()


def _other(out, u) -> torch.Tensor:
    if not isinstance(out, torch.Tensor) or (out.shape, out.dtype, out.device) != (u.shape, u.dtype, u.device):
        raise ValueError(f"out must have the shape, dtype and device of u: {tuple(u.shape)}, {u.dtype}, {u.device}")
    if u.numel() and out.untyped_storage().data_ptr() == u.untyped_storage().data_ptr():
        raise ValueError("out must not share memory with u")
    return out


def _side(n: int, bc: str) -> int:
    _check.whole("n", n, 2)
    if bc not in BOUNDARY:
        raise ValueError(f"bc must be one of {BOUNDARY}; got {bc!r}")
    return n if bc == "neumann" else n - 1


def _length(u, d: int, least: int) -> int:
    _check.whole("d", d, 1)
    _check.tensor("u", u)
    sides = set(u.shape[-d:])
    if u.ndim < d or len(sides) != 1 or min(sides) < least:
        raise ValueError(f"u must end in {d} axes of one length of at least {least}; "
                         f"got {tuple(u.shape)}")
    return u.shape[-1]
