"""The implicit function theorem as a differentiable solver (thm-id-implicit).

If F(u, θ) = 0 and ∂F/∂u is invertible, then u'(θ) = −(∂F/∂u)⁻¹ ∂F/∂θ.  Forward, `solve` and `root`
factor a matrix once; backward, they solve with its transpose and never form u'(θ).  The backward
pass is made of the same operations, so derivatives of every order are available.
"""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch

from . import _check


@dataclass(frozen=True)
class Pattern:
    """Positions of the entries of an n×n matrix; entries given twice are added.

    >>> Pattern.tridiagonal(3).matrix(torch.tensor([-1.0, -1, 2, 2, 2, -1, -1]))
    tensor([[ 2., -1.,  0.],
            [-1.,  2., -1.],
            [ 0., -1.,  2.]])
    """
    n: int
    rows: torch.Tensor
    cols: torch.Tensor

    @classmethod
    def tridiagonal(cls, n: int, device=None) -> "Pattern":
        """Entries below (n−1), on (n) and above (n−1) the diagonal, in this order."""
        _check.whole("n", n, 2)
        i = torch.arange(n, device=device)
        return cls(n, torch.cat([i[1:], i, i[:-1]]), torch.cat([i[:-1], i, i[1:]]))

    @classmethod
    def dense(cls, n: int, device=None) -> "Pattern":
        """All entries, row by row."""
        _check.whole("n", n, 1)
        i = torch.arange(n, device=device)
        return cls(n, i.repeat_interleave(n), i.repeat(n))

    def matrix(self, values: torch.Tensor) -> torch.Tensor:
        """The matrix, dense, `(n, n)`."""
        A = values.new_zeros(self.n, self.n)
        return A.index_put_((self.rows, self.cols), values, accumulate=True)


class _Factor:
    """LU factors of a matrix: SuperLU on the CPU, dense LU elsewhere."""

    def __init__(self, values: torch.Tensor, pattern: Pattern):
        self.pattern = pattern
        if values.device.type == "cpu":
            data = (values.numpy(), (pattern.rows.numpy(), pattern.cols.numpy()))
            A = scipy.sparse.csc_array(scipy.sparse.coo_array(data, shape=(pattern.n,) * 2))
            try:
                self.sparse = scipy.sparse.linalg.splu(A)
            except RuntimeError as error:
                raise ValueError(f"the matrix must be invertible; SuperLU: {error}") from error
            pivots = np.abs(self.sparse.U.diagonal())
        else:
            self.sparse = None
            self.dense = torch.linalg.lu_factor_ex(pattern.matrix(values))[:2]
            pivots = self.dense[0].diagonal().abs().cpu().numpy()
        if pivots.min() <= np.finfo(pivots.dtype).eps * pivots.max():
            raise ValueError("the matrix must be invertible: its smallest pivot is "
                             f"{pivots.min():.1e}, its largest {pivots.max():.1e}")

    def solve(self, b: torch.Tensor, transposed: bool) -> torch.Tensor:
        if self.sparse is not None:
            x = self.sparse.solve(b.detach().contiguous().numpy(), trans="T" if transposed else "N")
            return torch.from_numpy(np.ascontiguousarray(x))
        x = torch.linalg.lu_solve(*self.dense, b.reshape(len(b), -1), adjoint=transposed)
        return x.reshape(b.shape)


class _Solve(torch.autograd.Function):
    """x with Ax = b (or Aᵀx = b); dx = A⁻¹(db − dA x), hence b̄ = A⁻ᵀx̄ and Ā = −b̄ xᵀ."""

    @staticmethod
    def forward(ctx, values, b, factor, transposed):
        x = factor.solve(b, transposed)
        ctx.factor, ctx.transposed = factor, transposed
        ctx.save_for_backward(values, x)
        return x

    @staticmethod
    def backward(ctx, grad):
        values, x = ctx.saved_tensors
        adjoint = _Solve.apply(values, grad, ctx.factor, not ctx.transposed)
        rows, cols = ctx.factor.pattern.rows, ctx.factor.pattern.cols
        if ctx.transposed:
            rows, cols = cols, rows
        product = adjoint[rows] * x[cols]
        return -(product if x.ndim == 1 else product.sum(1)), adjoint, None, None


def solve(values: torch.Tensor, pattern: Pattern, b: torch.Tensor,
          transposed: bool = False) -> torch.Tensor:
    """Solve $Ax=b$ (or $A^Tx=b$), differentiably in the entries of A and in b, to any order.

    Parameters
    ----------
    values : floating tensor `(nnz,)`, the entries of A at the positions of `pattern`.
    b : tensor `(n,)` or `(n, k)`.

    Raises ValueError if shapes do not fit, an entry is NaN or infinite, or A is singular to
    working precision (it then says how small the smallest pivot is).

    >>> A, b = torch.tensor([2.0, 4.0], requires_grad=True), torch.tensor([1.0, 1.0])
    >>> i = torch.arange(2)
    >>> x = solve(A, Pattern(2, i, i), b)
    >>> torch.autograd.grad(x.sum(), A)[0]                 # d(1/a)/da = -1/a²
    tensor([-0.2500, -0.0625])
    """
    _check.tensor("values", values, 1)
    _check.tensor("b", b)
    if len(values) != len(pattern.rows):
        raise ValueError(f"values must have {len(pattern.rows)} entries; got {len(values)}")
    if b.ndim not in (1, 2) or len(b) != pattern.n:
        raise ValueError(f"b must have {pattern.n} rows and at most two axes; got {tuple(b.shape)}")
    return _Solve.apply(values, b, _Factor(values.detach(), pattern), transposed)


@dataclass(frozen=True)
class Problem:
    """The equation F(u, θ) = 0 for `root`.

    residual : `(u, theta) -> (n,)`; jacobian : `(u, theta) -> (nnz,)`, the entries of ∂F/∂u at the
    positions of `pattern`; both differentiable.
    """
    residual: Callable
    jacobian: Callable
    pattern: Pattern


class _Root(torch.autograd.Function):
    """u(θ) with F(u, θ) = 0; θ̄ = −(∂F/∂θ)ᵀ(∂F/∂u)⁻ᵀ ū."""

    @staticmethod
    def forward(ctx, theta, u, problem):
        ctx.problem = problem
        u = u.clone()
        ctx.save_for_backward(theta, u)
        return u

    @staticmethod
    def backward(ctx, grad):
        theta, u = ctx.saved_tensors
        F = ctx.problem
        adjoint = solve(F.jacobian(u, theta), F.pattern, grad, transposed=True)
        pull = torch.func.vjp(lambda t: F.residual(u, t), theta)[1]
        return -pull(adjoint)[0], None, None


def root(problem: Problem, theta: torch.Tensor, u: torch.Tensor, tolerance: float = 1e-12,
         steps: int = 50) -> torch.Tensor:
    """Solve F(u, θ) = 0 by Newton's method from `u`, differentiably in θ (thm-id-implicit).

    The iterations are not recorded: the derivative comes from the theorem alone, at the cost of
    one solve with the transposed Jacobian.  Stops when the Newton step is below
    `tolerance · (1 + |u|)` in the largest entry; a step is halved until the residual decreases.

    Raises ValueError if it does not get there in `steps` steps (it says how far off it is) or if
    the Jacobian is singular.

    >>> i = torch.arange(1)
    >>> square = Problem(lambda u, t: u * u - t, lambda u, t: 2 * u, Pattern(1, i, i))
    >>> t = torch.tensor([9.0], dtype=torch.float64, requires_grad=True)
    >>> u = root(square, t, torch.ones(1, dtype=torch.float64))
    >>> u.item(), torch.autograd.grad(u, t)[0].item()      # √9 and 1/(2√9)
    (3.0, 0.16666666666666666)
    """
    _check.tensor("theta", theta)
    u = _check.tensor("u", u, 1).detach()
    _check.whole("steps", steps, 1)
    with torch.no_grad():
        r = problem.residual(u, theta)
        for _ in range(steps):
            step = solve(problem.jacobian(u, theta), problem.pattern, r)
            t, norm = 1.0, torch.linalg.vector_norm(r)
            trial = problem.residual(u - step, theta)
            while t > 1e-4 and not torch.linalg.vector_norm(trial) <= norm:
                t /= 2
                trial = problem.residual(u - t * step, theta)
            u, r = u - t * step, trial
            if step.abs().max() <= tolerance * (1 + u.abs().max()):
                break
        else:
            raise ValueError(f"Newton's method did not converge in {steps} steps: the residual is "
                             f"{float(r.abs().max()):.1e}, the last step "
                             f"{float(step.abs().max()):.1e}")
    return _Root.apply(theta, u, problem)


def central_difference(J: Callable, x: torch.Tensor, v: torch.Tensor, h: float) -> torch.Tensor:
    """$(J(x+hv)-J(x-hv))/2h$ (prop-id-step).

    >>> x = torch.tensor([2.0], dtype=torch.float64)
    >>> round(float(central_difference(lambda x: (x**3).sum(), x, torch.ones_like(x), 0.5)), 12)
    12.25
    """
    h = _check.positive("h", h)
    return (J(x + h * v) - J(x - h * v)) / (2 * h)


def difference_error(h, third: float, noise: float):
    """Error of a central difference: truncation $h^2|J'''|/6$ plus rounding `noise`$/h$ (prop-id-step).

    `noise` bounds the error of one evaluation of J.  Works on floats and arrays.
    """
    return h**2 * abs(third) / 6 + noise / h


def optimal_step(third: float, noise: float) -> float:
    """The minimizer $h_*=(3\\,\\mathtt{noise}/|J'''|)^{1/3}$ of `difference_error` (prop-id-step).

    >>> optimal_step(3.0, 8.0)
    2.0
    """
    return (3 * _check.positive("noise", noise) / _check.positive("third", abs(third))) ** (1 / 3)
