"""The three forms of Ax = b, and a direct solver for each (thm-linear-forms, notes Problem 1)."""
import torch

from . import _check


def strong(A: torch.Tensor, b: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Residual form: $\\tfrac12\\|Ax-b\\|^2$, for any `A` `(m, n)`, `b` `(m,)`, `x` `(n,)`.

    All functions here raise ValueError unless their tensors are finite, of one floating dtype
    and of matching shapes.

    >>> float(strong(torch.eye(2), torch.ones(2), torch.zeros(2)))
    1.0
    """
    _system(A, b, x=x)
    return (A @ x - b).square().sum() / 2


def variational(A: torch.Tensor, b: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Energy form: $q(x) = \\tfrac12x^TAx-b^Tx$, for square `A`; solves Ax = b only for SPD `A`.

    >>> float(variational(torch.eye(2), torch.ones(2), torch.ones(2)))
    -1.0
    """
    _system(A, b, x=x, square=True)
    return x @ (A @ x) / 2 - b @ x


def weak(A: torch.Tensor, b: torch.Tensor, x: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
    """Weak form: $Y^T(Ax-b)$, one number per test vector (column of `Y`, shape `(m, p)`).

    >>> weak(torch.eye(2), torch.ones(2), torch.ones(2), torch.eye(2)).tolist()
    [0.0, 0.0]
    """
    _system(A, b, x=x, Y=Y)
    return Y.T @ (A @ x - b)


def solve_strong(A: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Minimize $\\|Ax-b\\|^2$ by orthogonal factorization; `A` `(m, n)` of full column rank.

    Raises ValueError if m < n or if R of A = QR has a diagonal entry below n·eps·|R|.

    >>> solve_strong(torch.tensor([[1.0], [1.0]]), torch.tensor([0.0, 2.0])).tolist()
    [1.0]
    """
    _system(A, b)
    if A.shape[0] < A.shape[1]:
        raise ValueError(f"A must have at least as many rows as columns; got {tuple(A.shape)}")
    Q, R = torch.linalg.qr(A)
    pivots = R.diagonal().abs()
    if pivots.min() <= A.shape[1] * torch.finfo(A.dtype).eps * pivots.max():
        raise ValueError("A must have full column rank; the residual does not determine x")
    return torch.linalg.solve_triangular(R, (Q.T @ b)[:, None], upper=True)[:, 0]


def solve_variational(A: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Minimize $q(x) = \\tfrac12x^TAx-b^Tx$ by Cholesky; `A` symmetric positive definite.

    Raises ValueError if `A` is not symmetric (the minimizer would solve another system) or not
    positive definite (q would have no unique minimum).

    >>> solve_variational(torch.tensor([[2.0]]), torch.tensor([1.0])).tolist()
    [0.5]
    """
    _system(A, b, square=True)
    if not torch.allclose(A, A.T):
        raise ValueError("A must be symmetric; q(x) only sees its symmetric part")
    L, info = torch.linalg.cholesky_ex(A)
    if info != 0:
        raise ValueError("A must be positive definite; q(x) has no unique minimum")
    return torch.cholesky_solve(b[:, None], L)[:, 0]


def solve_weak(A: torch.Tensor, b: torch.Tensor, W: torch.Tensor, V: torch.Tensor | None = None) -> torch.Tensor:
    """Solve $W^T(AVc-b)=0$ and return $x=Vc$: test vectors `W`, trial vectors `V` (default: all).

    `W = V` is Galerkin's method, `W = A @ V` least squares.
    Raises ValueError unless $W^TAV$ is square and invertible.

    >>> A = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> solve_weak(A, torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])).tolist()
    [2.0, 1.0]
    """
    _system(A, b, W=W, V=V)
    small = W.T @ (A if V is None else A @ V)
    if small.shape[0] != small.shape[1]:
        raise ValueError(f"W must have as many columns as there are unknowns; got {W.shape[1]} "
                         f"for {small.shape[1]}")
    c, info = torch.linalg.solve_ex(small, W.T @ b)
    if info != 0:
        raise ValueError("W must give an invertible W^T A V; the tests do not determine x")
    return c if V is None else V @ c


def condition(A: torch.Tensor) -> float:
    """$\\kappa(A)$: largest over smallest singular value, infinite where the smallest is 0.

    >>> condition(torch.diag(torch.tensor([4.0, 2.0])))
    2.0
    """
    if not _check.tensor("A", A, 2).numel():
        raise ValueError(f"A must not be empty; got {tuple(A.shape)}")
    s = torch.linalg.svdvals(A)
    return float(s.max() / s.min()) if s.min() > 0 else float("inf")


def _system(A, b, *, x=None, Y=None, W=None, V=None, square=False) -> None:
    """Refuse what does not fit: A (m, n), b (m,), x (n,), test vectors Y, W (m, p), trial V (n, q)."""
    m, n = _check.tensor("A", A, 2).shape
    if not A.numel() or (square and m != n):
        raise ValueError(f"A must be {'square' if square else 'a matrix'} and not empty; got {(m, n)}")
    for name, value, ndim, rows in (("b", b, 1, m), ("x", x, 1, n), ("Y", Y, 2, m), ("W", W, 2, m), ("V", V, 2, n)):
        if value is not None:
            if len(_check.tensor(name, value, ndim)) != rows:
                raise ValueError(f"{name} must have {rows} {'entries' if ndim == 1 else 'rows'} to fit A; "
                                 f"got {len(value)}")
            if value.dtype != A.dtype:
                raise ValueError(f"{name} must have the dtype of A, {A.dtype}; got {value.dtype}")
