"""The curse of dimension, counted and solved: multilinear finite elements on tensor grids.

On a grid of n^d cubes the stiffness matrix is $\\sum_iM\\otimes\\dots\\otimes A\\otimes\\dots\\otimes M$ with the
one-dimensional stiffness and mass matrices A, M; their joint eigenvectors solve the system in
$O(n^{d+1})$ operations, so that the count of unknowns, not the solver, is the limit.
"""
import math

import torch

from . import _check, fem, mesh


def nodes(length: float, spacing: float, d: int) -> int:
    """Grid points of spacing ε in $[0,L]^d$: $(L/\\varepsilon+1)^d$ (eq-node-count).

    Raises ValueError unless L/ε is an integer.

    >>> nodes(1.0, 0.5, 3)
    27
    """
    n = _check.positive("length", length) / _check.positive("spacing", spacing)
    if abs(n - round(n)) > 1e-9 * n:
        raise ValueError(f"spacing must divide length; length / spacing = {n}")
    return (round(n) + 1) ** _check.whole("d", d, 1)


def q1_error(n: int, d: int) -> float:
    """Relative energy error of multilinear elements for $\\prod_i\\cos\\pi x_i$ on n^d cubes (prop-q1-curse).

    >>> round(q1_error(10, 6), 6)
    0.090919
    """
    _check.whole("n", n, 1), _check.whole("d", d, 1)
    t = math.pi / n
    c = math.cos(t)
    one = t * t * (2 + c) / (6 * (1 - c))
    each = 12 * (1 - c) ** 2 / (t**4 * (2 + c))
    return math.sqrt(1 - one * each**d)


def q1_cells(error: float, d: int) -> int:
    """The least n with `q1_error(n, d)` ≤ `error`.

    >>> q1_cells(0.1, 1), q1_cells(0.1, 6)
    (10, 10)
    """
    if not 0 < error < 1:
        raise ValueError(f"error must lie between 0 and 1; got {error}")
    n = max(1, math.floor(0.9 * math.pi / math.sqrt(12) / error))       # below the leading term
    while q1_error(n, d) > error:
        n += 1
    return n


def line_matrices(n: int, degree: int = 1, device=None):
    """Nodes `(N,)`, A and M `(N, N)` of finite elements of `degree` on n equal cells of (0, 1).

    >>> line_matrices(1)[1].tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    space = fem.Space(mesh.interval(torch.linspace(0, 1, n + 1, dtype=torch.float64), device=device),
                      degree)
    return space, space.stiffness().to_dense(), space.mass().to_dense()


def tensor_solve(A: torch.Tensor, M: torch.Tensor, F: torch.Tensor) -> torch.Tensor:
    """Solve $\\big(\\sum_iM\\otimes\\dots\\otimes A\\otimes\\dots\\otimes M\\big)C=F$ on the complement of constants.

    Parameters
    ----------
    A, M : symmetric `(N, N)`, A positive semidefinite, M positive definite.
    F : `(N, …, N)`, d axes, orthogonal to constants.

    Raises ValueError if A and M do not fit F, or are not finite.

    >>> A, M = line_matrices(1)[1:]
    >>> tensor_solve(A, M, torch.tensor([1.0, -1.0], dtype=torch.float64)).round(decimals=12).tolist()
    [0.5, -0.5]
    """
    _check.tensor("F", F), _check.tensor("A", A, 2), _check.tensor("M", M, 2)
    N, d = F.shape[0], F.ndim
    if A.shape != (N, N) or M.shape != (N, N) or F.shape != (N,) * d:
        raise ValueError(f"A and M must have shape ({N}, {N}) and F {(N,) * d}; got {tuple(A.shape)}, "
                         f"{tuple(M.shape)}, {tuple(F.shape)}")
    L = torch.linalg.cholesky(M)
    scaled = torch.linalg.solve_triangular(L, torch.linalg.solve_triangular(L, A, upper=False).T,
                                           upper=False)
    values, Q = torch.linalg.eigh((scaled + scaled.T) / 2)
    V = torch.linalg.solve_triangular(L.T, Q, upper=True)               # VᵀAV = diag, VᵀMV = 1
    C = F
    for _ in range(d):
        C = torch.tensordot(C, V, dims=([0], [0]))                      # the next axis moves up
    total = sum(values.reshape([-1 if j == i else 1 for j in range(d)]) for i in range(d))
    C = torch.where(total > 1e-9 * values[-1], C / total, 0.0)
    for _ in range(d):
        C = torch.tensordot(C, V, dims=([0], [1]))
    return C


def solved_error(n: int, d: int, degree: int = 1, device=None) -> tuple[float, int]:
    """Relative energy error for $\\prod_i\\cos\\pi x_i$, by solving the d-dimensional system, and its size.

    By Galerkin orthogonality the squared error is $\\|\\nabla u\\|^2-F\\cdot c$ (thm-ritz-galerkin).

    >>> abs(solved_error(8, 3)[0] / q1_error(8, 3) - 1) < 1e-9, solved_error(8, 3)[1]
    (True, 729)
    """
    space, A, M = line_matrices(n, degree, device)
    b = space.load(lambda x: torch.cos(math.pi * x[:, 0]), 14)
    F = torch.tensor(d * math.pi**2, dtype=b.dtype, device=b.device)
    for _ in range(d):
        F = F[..., None] * b
    captured = float((tensor_solve(A, M, F) * F).sum()) / (d * math.pi**2 / 2**d)
    return math.sqrt(max(0.0, 1 - captured)), F.numel()
