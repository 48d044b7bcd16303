"""Gradient descent and conjugate gradients, with their exact counts and their bounds.

Both solve Ax = b for symmetric positive semidefinite A and b in its range; the residual form of the
same system is A² x = A b, hence `apply` = two applications of A (thm-condition-squared).
"""
import math

import torch

from . import _check


def gradient_descent(apply, b: torch.Tensor, x: torch.Tensor, step: float, iterations: int,
                     done=None) -> tuple[torch.Tensor, int]:
    """$x \\leftarrow x - \\omega(Ax-b)$, at most `iterations` times, until `done(x)`.

    Parameters
    ----------
    apply : callable, x ↦ Ax; b, x : tensors of one shape; step : ω > 0.
    done : callable returning a bool, asked before every iteration; default never.

    Returns the last iterate and the number of iterations made.
    Raises ValueError if the iteration was not stopped and its result is not finite.

    >>> gradient_descent(lambda x: 2 * x, torch.ones(1), torch.zeros(1), step=0.5, iterations=1)
    (tensor([0.5000]), 1)
    """
    _start(b, x, iterations)
    step, x = _check.positive("step", step), x.clone()
    for j in range(iterations):
        if done is not None and done(x):
            return x, j
        x -= step * (apply(x) - b)
    return _check.tensor("x (the iterate: the step is too long)", x), iterations


def conjugate_gradients(apply, b: torch.Tensor, x: torch.Tensor, iterations: int,
                        done=None) -> tuple[torch.Tensor, int]:
    """Conjugate gradients from `x`, at most `iterations` times, until `done(x)`.

    The j-th iterate minimizes $\\|x-x_*\\|_A$ over $x_0$ + the Krylov space of dimension j.
    Arguments and return value as in `gradient_descent`; it also ends once the residual is at the
    level of rounding, 16 machine epsilons of the larger of b and the first residual.
    Raises ValueError if before that a search direction has $p^TAp\\le0$ or NaN: then A is not
    positive semidefinite, or b is not in its range (which need not be noticed in this way).

    >>> A = torch.diag(torch.tensor([1.0, 2.0]))
    >>> x, j = conjugate_gradients(lambda x: A @ x, torch.ones(2), torch.zeros(2), iterations=2)
    >>> x.round(decimals=5).tolist(), j
    ([1.0, 0.5], 2)
    """
    _start(b, x, iterations)
    x, r = x.clone(), b - apply(x)
    p, rr = r.clone(), r.square().sum()
    rounding = (16 * torch.finfo(rr.dtype).eps) ** 2 * torch.maximum(rr, b.square().sum())
    for j in range(iterations):
        if rr <= rounding or (done is not None and done(x)):
            return x, j
        Ap = apply(p)
        curvature = (p * Ap).sum()
        if not curvature > 0:
            raise ValueError("apply must be positive semidefinite, with b in its range; "
                             f"p^T A p = {float(curvature)}")
        alpha = rr / curvature
        x += alpha * p
        r -= alpha * Ap
        rr, old = r.square().sum(), rr
        p = p.mul_(rr / old).add_(r)
    return x, iterations


def optimal_step(eigenvalues: torch.Tensor) -> float:
    """$\\omega = 2/(\\lambda_{\\min}+\\lambda_{\\max})$, the step of the smallest worst-case factor.

    Raises ValueError unless the eigenvalues are positive.

    >>> optimal_step(torch.tensor([1.0, 3.0]))
    0.5
    """
    lam = _positive(eigenvalues)
    return 2 / float(lam.min() + lam.max())


def gradient_descent_count(eigenvalues: torch.Tensor, error: torch.Tensor, tolerance: float,
                           step: float | None = None) -> int:
    """Exact number of iterations until $\\|e_j\\| \\le$ `tolerance`·$\\|e_0\\|$ (eq-mode-decay).

    No iteration is run: mode k has decayed to $(1-\\omega\\lambda_k)^j$, and the norm decreases in j.

    Parameters
    ----------
    eigenvalues : positive, shape `(m,)`.
    error : coefficients of $e_0$, shape `(m,)`, in the norm that counts; all zero gives 0.
    step : ω with $|1-\\omega\\lambda_k|<1$ for all k; default the optimal one.

    Raises ValueError if an eigenvalue is not positive, a mode does not decay or `tolerance` ∉ (0, 1).

    >>> gradient_descent_count(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.0]), 0.1)
    4
    """
    lam = _positive(eigenvalues).double()
    e = _check.tensor("error", error, 1).double()
    if e.shape != lam.shape:
        raise ValueError(f"error must have one coefficient per eigenvalue, {len(lam)}; got {len(e)}")
    _tolerance(tolerance)
    if not e.any():
        return 0
    step = optimal_step(lam) if step is None else _check.positive("step", step)
    t = step * lam                      # log|1 − t| without cancellation, also for tiny t
    log_factor = torch.where(t < 1, torch.log1p(-t.clamp(max=1)), torch.log((t - 1).abs()))
    if log_factor.max() >= 0:
        raise ValueError("step must be below 2 / (largest eigenvalue); some mode does not decay")
    share = (e / e.abs().max()).square()
    share /= share.sum()

    def reached(j):
        return bool((share * torch.exp(2.0 * j * log_factor)).sum() <= tolerance**2)

    high = 1
    while not reached(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def gradient_descent_bound(kappa: float, tolerance: float) -> float:
    """$\\ln(1/\\varepsilon)/\\ln\\frac{\\kappa+1}{\\kappa-1} \\le \\tfrac12\\kappa\\ln(1/\\varepsilon)$: enough for every start.

    Iterations of gradient descent that reduce the error by ε = `tolerance` (thm-condition-squared).
    Raises ValueError unless 1 < κ < ∞ and 0 < ε < 1.

    >>> round(gradient_descent_bound(3.0, 0.25), 12)
    2.0
    """
    return math.log(1 / _tolerance(tolerance)) / _log_ratio(kappa)


def conjugate_gradients_bound(kappa: float, tolerance: float) -> float:
    """$\\ln(2/\\varepsilon)/\\ln\\frac{\\sqrt\\kappa+1}{\\sqrt\\kappa-1} \\le \\tfrac12\\sqrt\\kappa\\ln(2/\\varepsilon)$.

    The same for conjugate gradients and the error in the norm of A (thm-condition-squared).

    >>> round(conjugate_gradients_bound(9.0, 0.5), 12)
    2.0
    """
    return math.log(2 / _tolerance(tolerance)) / _log_ratio(kappa, root=True)


def _log_ratio(kappa: float, root: bool = False) -> float:
    if not 1 < kappa < math.inf:
        raise ValueError(f"kappa must be finite and above 1; got {kappa}")
    s = math.sqrt(kappa) if root else kappa
    return math.log1p(1 / s) - math.log1p(-1 / s)


def _tolerance(tolerance: float) -> float:
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie between 0 and 1; got {tolerance}")
    return tolerance


def _positive(eigenvalues) -> torch.Tensor:
    if not len(_check.tensor("eigenvalues", eigenvalues, 1)) or eigenvalues.min() <= 0:
        raise ValueError("eigenvalues must be positive, at least one; got "
                         f"{float(eigenvalues.min()) if len(eigenvalues) else 'none'}")
    return eigenvalues


def _start(b, x, iterations) -> None:
    _check.tensor("b", b), _check.tensor("x", x)
    _check.whole("iterations", iterations, 0)
    if b.shape != x.shape:
        raise ValueError(f"x must have the shape of b, {tuple(b.shape)}; got {tuple(x.shape)}")
