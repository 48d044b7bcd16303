"""Sparse identification of ẋ = Ξᵀθ(x) from noisy samples: strong form and weak form (eq-id-weak-ode).

θ holds monomials of the state, Ξ their coefficients.  The strong form differentiates the data; the
weak form moves the derivative to test functions (1 − s²)^p, translated along the time axis.
"""
import itertools
import math

import numpy as np
import scipy.integrate
import torch

from . import _check


def monomials(d: int, degree: int, device=None) -> torch.Tensor:
    """Exponents `(p, d)` of all monomials in d variables of total degree at most `degree`.

    >>> monomials(2, 2).tolist()                       # 1, x, y, x², xy, y²
    [[0, 0], [1, 0], [0, 1], [2, 0], [1, 1], [0, 2]]
    """
    _check.whole("d", d, 1), _check.whole("degree", degree, 0)
    rows = [[term.count(i) for i in range(d)] for k in range(degree + 1)
            for term in itertools.combinations_with_replacement(range(d), k)]
    return torch.tensor(rows, device=device)


def library(x: torch.Tensor, E: torch.Tensor) -> torch.Tensor:
    """θ(x): the monomials with exponents `E` `(p, d)` at the states x `(N, d)`, shape `(N, p)`.

    >>> library(torch.tensor([[2.0, 3.0]]), monomials(2, 2))
    tensor([[1., 2., 3., 4., 6., 9.]])
    """
    _check.tensor("x", x, 2)
    if E.ndim != 2 or E.shape[1] != x.shape[1]:
        raise ValueError(f"E must have {x.shape[1]} columns; got shape {tuple(E.shape)}")
    theta = x.new_ones(len(x), len(E))
    for i in range(x.shape[1]):
        powers = x[:, i, None] ** torch.arange(int(E.max()) + 1, device=x.device)
        theta = theta * powers[:, E[:, i]]
    return theta


def strong_system(x: torch.Tensor, h: float, E: torch.Tensor):
    """Rows of $\\dot x=\\theta(x)\\Xi$ with central differences: `(N-2, p)` and `(N-2, d)`.

    The noise of a row is that of the derivative, σ/(√2 h) per component (prop-id-noise).
    """
    h = _check.positive("h", h)
    if len(x) < 3:
        raise ValueError(f"x must hold at least 3 samples; got {len(x)}")
    return library(x[1:-1], E), (x[2:] - x[:-2]) / (2 * h)


def bump(radius: int, p: int, h: float, dtype=torch.float64, device=None):
    """Samples of $\\varphi(t)=(1-s^2)^p$, s = t/(radius·h), and of $\\dot\\varphi$: `(2·radius+1,)` each.

    >>> phi, dphi = bump(2, 2, 0.5)
    >>> phi.tolist(), dphi.tolist()
    ([0.0, 0.5625, 1.0, 0.5625, 0.0], [0.0, 1.5, 0.0, -1.5, 0.0])
    """
    _check.whole("radius", radius, 2), _check.whole("p", p, 2)
    s = torch.arange(-radius, radius + 1, dtype=dtype, device=device) / radius
    q = 1 - s * s
    return q**p, -2 * p * s * q ** (p - 1) / (radius * _check.positive("h", h)) + 0.0


def weak_system(x: torch.Tensor, h: float, E: torch.Tensor, radius: int, p: int, stride: int):
    """Rows of $-\\int\\dot\\varphi_kx=\\int\\varphi_k\\theta(x)\\,\\Xi$: `(K, p)` and `(K, d)` (eq-id-weak-ode).

    Parameters
    ----------
    x : samples `(N, d)` at spacing `h`.
    radius, p : the test function of `bump`; stride : samples between neighboring centers.

    The integrals are trapezoidal sums; since φ vanishes at its ends to order p, they are far more
    accurate than the rule's second order.  Raises ValueError if a window is longer than the data.
    """
    _check.tensor("x", x, 2), _check.whole("stride", stride, 1)
    phi, dphi = bump(radius, p, h, x.dtype, x.device)
    if len(x) < len(phi):
        raise ValueError(f"x must hold at least {len(phi)} samples for this radius; got {len(x)}")
    A = library(x, E).unfold(0, len(phi), stride) @ (h * phi)
    return A, x.unfold(0, len(phi), stride) @ (-h * dphi)


def threshold_least_squares(A: torch.Tensor, B: torch.Tensor, threshold: float) -> torch.Tensor:
    """Sequentially thresholded least squares: Ξ `(p, d)` for A `(K, p)`, B `(K, d)`.

    Repeats least squares on the active columns, dropping those with $|\\Xi|<$ `threshold`; the
    support only shrinks, so at most p rounds per component are needed.
    Columns are scaled to unit length before solving.  Raises ValueError if the columns of A are
    linearly dependent (it says the rank) or nothing is left.

    >>> A = torch.eye(3)
    >>> threshold_least_squares(A, torch.tensor([[2.0], [0.01], [1.0]]), 0.1).ravel().tolist()
    [2.0, 0.0, 1.0]
    """
    _check.tensor("A", A, 2), _check.tensor("B", B, 2), _check.positive("threshold", threshold)
    if len(A) != len(B):
        raise ValueError(f"B must have {len(A)} rows; got {len(B)}")
    scale = torch.linalg.vector_norm(A, dim=0)
    R = torch.linalg.qr(torch.cat([A / scale.clamp_min(1e-300), B], 1), mode="r")[1]
    left, right = R[:, :A.shape[1]], R[:, A.shape[1]:]
    s = torch.linalg.svdvals(left)
    rank = int((s > len(A) * torch.finfo(A.dtype).eps * s.max()).sum())
    if rank < A.shape[1]:
        raise ValueError(f"the columns of A must be independent; rank {rank} of {A.shape[1]}")
    Xi = A.new_zeros(A.shape[1], B.shape[1])
    for k in range(B.shape[1]):
        active = torch.arange(A.shape[1], device=A.device)
        while True:
            if len(active) == 0:
                raise ValueError(f"threshold {threshold:g} removes every term of component {k}")
            c = torch.linalg.lstsq(left[:, active], right[:, k:k + 1]).solution[:, 0] / scale[active]
            keep = c.abs() >= threshold
            if keep.all():
                break
            active = active[keep]
        Xi[active, k] = c
    return Xi


def library_gradient(x: torch.Tensor, E: torch.Tensor) -> torch.Tensor:
    """∂θ/∂x: `(N, p, d)`.

    >>> library_gradient(torch.tensor([[2.0, 3.0]]), monomials(2, 2))[0].T
    tensor([[0., 1., 0., 4., 3., 0.],
            [0., 0., 1., 0., 2., 6.]])
    """
    columns = []
    for i in range(x.shape[1]):
        lowered = E.clone()
        lowered[:, i] = (lowered[:, i] - 1).clamp_min(0)
        columns.append(library(x, lowered) * E[:, i])
    return torch.stack(columns, 2)


def reweight(x: torch.Tensor, h: float, E: torch.Tensor, Xi: torch.Tensor, sigma: torch.Tensor,
             radius: int, p: int, stride: int, rounds: int = 2) -> torch.Tensor:
    """Generalized least squares on the support of `Xi` for all components at once (eq-id-weight).

    White noise ε of standard deviations `sigma` `(d,)` in the samples puts
    $\\int\\dot\\varphi_k\\varepsilon+\\int\\varphi_k(\\Xi^T\\theta)'\\varepsilon$ into the equations of
    `weak_system`, to first order.  Each of `rounds` weights them by the inverse of its covariance.

    Raises ValueError if tests are so close together that the covariance is singular, or if `Xi` or
    `sigma` does not fit.
    """
    A, B = weak_system(x, h, E, radius, p, stride)
    if _check.tensor("sigma", sigma, 1).shape != x.shape[1:] or bool((sigma < 0).any()):
        raise ValueError(f"sigma must hold {x.shape[1]} standard deviations; got {sigma.tolist()}")
    if _check.tensor("Xi", Xi, 2).shape != (len(E), x.shape[1]):
        raise ValueError(f"Xi must have shape ({len(E)}, {x.shape[1]}); got {tuple(Xi.shape)}")
    phi, dphi = bump(radius, p, h, x.dtype, x.device)
    (K, d), width, support = B.shape, len(phi), torch.nonzero(Xi)
    gradient = library_gradient(x, E)
    system = x.new_zeros(d, K, len(support))
    for j, (term, component) in enumerate(support.tolist()):
        system[component, :, j] = A[:, term]
    for _ in range(rounds):
        slope = torch.einsum("npj,pk->nkj", gradient, Xi)                     # ∂ẋ_k/∂x_j
        rows = slope.unfold(0, width, stride) * (h * phi)                     # (K, d, d, width)
        rows.diagonal(dim1=1, dim2=2).add_((h * dphi)[:, None])
        rows *= sigma[:, None]
        covariance = x.new_zeros(d, K, d, K)
        for lag in range(min(K, -(-width // stride))):                        # windows that overlap
            shift = lag * stride
            product = torch.einsum("kajt,kbjt->abk", rows[:K - lag, ..., shift:],
                                   rows[lag:, ..., :width - shift])
            covariance.diagonal(lag, 1, 3).copy_(product)
            covariance.diagonal(-lag, 1, 3).copy_(product.transpose(0, 1))
        covariance = covariance.reshape(d * K, d * K)
        L, info = torch.linalg.cholesky_ex(covariance)
        if info != 0:
            raise ValueError("stride must leave the tests independent; the covariance of the "
                             f"equations is singular at row {int(info)} of {d * K}")
        white = torch.linalg.solve_triangular(
            L, torch.cat([system.reshape(d * K, -1), B.T.reshape(-1, 1)], 1), upper=False)
        Xi = torch.zeros_like(Xi)
        Xi[support[:, 0], support[:, 1]] = torch.linalg.lstsq(white[:, :-1], white[:, -1:]).solution[:, 0]
    return Xi


def strong_noise(sigma: float, h):
    """Standard deviation σ/(√2 h) of a central difference of white noise (prop-id-noise)."""
    return sigma / (math.sqrt(2) * h)


def weak_noise(sigma: float, h, r: float, p: int):
    """Standard deviation of the weak derivative $-\\int\\dot\\varphi\\,\\varepsilon\\,/\\int\\varphi$ of white noise.

    Equals $\\sigma\\sqrt h\\,\\|\\dot\\varphi\\|/\\int\\varphi$ for test functions of half-width r much longer
    than h, with $\\|\\dot\\varphi\\|^2=\\frac{4p^2}rB(\\frac32,2p-1)$, $\\int\\varphi=rB(\\frac12,p+1)$ (prop-id-noise).

    >>> phi, dphi = bump(1000, 4, 0.001)
    >>> direct = 0.5 * 0.001 * dphi.norm() / (0.001 * phi.sum())
    >>> round(float(direct) / weak_noise(0.5, 0.001, 1.0, 4), 6)
    1.0
    """
    beta = (lambda a, b: math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)))
    norm = math.sqrt(4 * p * p / r * beta(1.5, 2 * p - 1))
    return sigma * h**0.5 * norm / (r * beta(0.5, p + 1))


def flow(Xi: torch.Tensor, E: torch.Tensor, x0: torch.Tensor, t: torch.Tensor,
         support: torch.Tensor | None = None, tolerance: float = 1e-11):
    """Solve ẋ = Ξᵀθ(x); with `support` `(q, 2)` also the sensitivities to those entries of Ξ and to x0.

    Returns x `(N, d)`, or x and S `(N, d, q+d)`; Dormand-Prince of order 8 on the CPU in float64.
    Raises ValueError if the trajectory leaves every bound.

    >>> E, t = monomials(1, 1), torch.tensor([0.0, 1.0], dtype=torch.float64)
    >>> x, S = flow(torch.tensor([[0.0], [-1.0]]), E, torch.tensor([2.0]), t, torch.tensor([[1, 0]]))
    >>> round(x[1, 0].item() * math.e, 8), round(S[1, 0, 0].item() * math.e, 8)   # 2/e, t·2/e
    (2.0, 2.0)
    """
    C, E = Xi.double().cpu().numpy(), E.cpu().numpy()
    d, where = C.shape[1], dict(dtype=torch.float64, device=t.device)
    unit = np.eye(d, dtype=int)
    lowered = np.maximum(E[None] - unit[:, None], 0)                         # (d, p, d)
    q = 0 if support is None else len(support)
    rows, cols = (None, None) if support is None else support.cpu().numpy().T
    width = 0 if support is None else q + d

    def rhs(_, y):
        x, S = y[:d], y[d:].reshape(d, width)
        theta = np.prod(x**E, axis=1)
        slope = C.T @ theta
        if width == 0:
            return slope
        dS = C.T @ (E.T * np.prod(x**lowered, axis=2)).T @ S
        dS[cols, np.arange(q)] += theta[rows]
        return np.concatenate([slope, dS.ravel()])

    start = np.concatenate([x0.double().cpu().numpy(),
                            np.eye(d, width, q).ravel() if width else np.zeros(0)])
    times = t.double().cpu().numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        run = scipy.integrate.solve_ivp(rhs, (times[0], times[-1]), start, method="DOP853",
                                        t_eval=times, rtol=tolerance, atol=tolerance)
    if not run.success or not np.isfinite(run.y).all():
        raise ValueError(f"the trajectory could not be continued beyond t = {run.t[-1]:.3g}: {run.message}")
    y = torch.as_tensor(run.y.T.copy(), **where)
    return y[:, :d] if width == 0 else (y[:, :d], y[:, d:].reshape(len(y), d, width))


def lorenz(dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Exponents `(10, 3)` of degree at most 2 and the coefficients Ξ `(10, 3)` of Lorenz's system.

    ẋ = 10(y − x), ẏ = x(28 − z) − y, ż = xy − 8z/3.

    >>> E, Xi = lorenz()
    >>> (library(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64), E) @ Xi).tolist()
    [[10.0, 23.0, -6.0]]
    """
    Xi = torch.zeros(10, 3, dtype=dtype)
    Xi[1, 0], Xi[2, 0] = -10, 10
    Xi[1, 1], Xi[2, 1], Xi[6, 1] = 28, -1, -1
    Xi[3, 2], Xi[5, 2] = -8 / 3, 1
    return monomials(3, 2), Xi
