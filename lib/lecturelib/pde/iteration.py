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
    Arguments and return value as in `gradient_descent`.
    Raises ValueError if a search direction has $p^TAp<0$: then A is not positive semidefinite.

    >>> A = torch.diag(torch.tensor([1.0, 2.0]))
    >>> x, j = conjugate_gradients(lambda x: A @ x, torch.ones(2), torch.zeros(2), iterations=2)
    >>> x.round(decimals=5).tolist(), j
    ([1.0, 0.5], 2)
    """
    _start(b, x, iterations)
    x, r = x.clone(), b - apply(x)
    p, rr = r.clone(), r.square().sum()
    for j in range(iterations):
        if rr == 0 or (done is not None and done(x)):
            return x, j
        Ap = apply(p)
        curvature = (p * Ap).sum()
        if curvature < 0:
            raise ValueError(f"apply must be positive semidefinite; p^T A p = {float(curvature)}")
        alpha = rr / curvature
        x += alpha * p
        r -= alpha * Ap
        rr, old = r.square().sum(), rr
        p = p.mul_(rr / old).add_(r)
    return x, iterations


def optimal_step(eigenvalues: torch.Tensor) -> float:
    """$\\omega = 2/(\\lambda_{\\min}+\\lambda_{\\max})$, the step of the smallest worst-case factor.

    >>> optimal_step(torch.tensor([1.0, 3.0]))
    0.5
    """
    _check.tensor("eigenvalues", eigenvalues, 1)
    return 2 / _check.positive("eigenvalues.min() + eigenvalues.max()",
                               eigenvalues.min() + eigenvalues.max())


def gradient_descent_count(eigenvalues: torch.Tensor, error: torch.Tensor, tolerance: float,
                           step: float | None = None) -> int:
    """Exact number of iterations until $\\|e_j\\| \\le$ `tolerance`·$\\|e_0\\|$ (eq-mode-decay).

    No iteration is run: mode k has decayed to $(1-\\omega\\lambda_k)^j$, and the norm decreases in j.

    Parameters
    ----------
    eigenvalues : positive, shape `(m,)`; error : coefficients of $e_0$, in the norm that counts.
    step : ω with $|1-\\omega\\lambda_k|<1$ for all k; default the optimal one.

    Raises ValueError if an eigenvalue is not positive, a mode does not decay or `tolerance` ∉ (0, 1).

    >>> gradient_descent_count(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.0]), 0.1)
    4
    """
    lam = _check.tensor("eigenvalues", eigenvalues, 1).double()
    e = _check.tensor("error", error, 1).double()
    if lam.min() <= 0:
        raise ValueError(f"eigenvalues must be positive; the least is {float(lam.min())}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie between 0 and 1; got {tolerance}")
    step = optimal_step(lam) if step is None else _check.positive("step", step)
    t = step * lam                      # log|1 − t| without cancellation, also for tiny t
    log_factor = torch.where(t < 1, torch.log1p(-t.clamp(max=1)), torch.log((t - 1).abs()))
    if log_factor.max() >= 0:
        raise ValueError("step must be below 2 / (largest eigenvalue); some mode does not decay")
    share = e.square() / e.square().sum()

    def reached(j):
        return bool((share * torch.exp(2 * j * log_factor)).sum() <= tolerance**2)

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

    >>> round(gradient_descent_bound(3.0, 0.25), 12)
    2.0
    """
    return math.log(1 / tolerance) / _log_ratio(kappa)


def conjugate_gradients_bound(kappa: float, tolerance: float) -> float:
    """$\\ln(2/\\varepsilon)/\\ln\\frac{\\sqrt\\kappa+1}{\\sqrt\\kappa-1} \\le \\tfrac12\\sqrt\\kappa\\ln(2/\\varepsilon)$.

    >>> round(conjugate_gradients_bound(9.0, 0.5), 12)
    2.0
    """
    return math.log(2 / tolerance) / _log_ratio(math.sqrt(kappa))


def _log_ratio(kappa: float) -> float:
    if not 1 < kappa < math.inf:
        raise ValueError(f"kappa must be finite and above 1; got {kappa}")
    return math.log1p(1 / kappa) - math.log1p(-1 / kappa)


def _start(b, x, iterations) -> None:
    _check.tensor("b", b), _check.tensor("x", x)
    _check.whole("iterations", iterations, 0)
    if b.shape != x.shape:
        raise ValueError(f"x must have the shape of b, {tuple(b.shape)}; got {tuple(x.shape)}")
