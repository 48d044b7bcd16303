r"""Limits of compressed matrix products at two rates, the steps of their proof, and measured products.

$A$ (n, a) and $B$ (n, b) have independent N(0, 1) entries, $\hat A,\hat B$ are reconstructions, and
the error is $\Delta=\frac1{nab}\mathbb E\|\hat A^\top\hat B-A^\top B\|_F^2$, as in
lecturelib.quantization.products, which has the case of equal rates.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq

from lecturelib.quantization import products

ALPHA = 2 * math.log(2)      # 2^(-2R) = exp(-ALPHA R)


def gain(rate):
    r"""$\varphi(R)=1-2^{-2R}$, the best squared correlation of a Gaussian with `rate` bits about it; increasing, concave.

    >>> float(gain(1.0))
    0.75
    """
    return products._phi(rate)


def fraction(rate_a: float, rate_b: float) -> float:
    r"""Fraction $\kappa\in(0,1]$ of the rows that the best scheme keeps (lem-mp-allocation).

    1 if $h(x)+h(y)\le1$ for $h(x)=\frac x{e^x-1}$, $x=2\ln2\,R_A$, $y=2\ln2\,R_B$; else it solves
    $h(x/\kappa)+h(y/\kappa)=1$.  Rates are positive, bits per entry; infinity is allowed.
    Raises ValueError otherwise.

    >>> fraction(2.0, 2.0), bool(abs(fraction(0.5, 0.5) / 0.5 * products.CRITICAL_RATE - 1) < 1e-12)
    (1.0, True)
    """
    x, y = (ALPHA * _rate(name, r) for name, r in (("rate_a", rate_a), ("rate_b", rate_b)))

    def excess(t):
        return _h(t * x) + _h(t * y) - 1
    if excess(1.0) <= 0:
        return 1.0
    top = 2.0
    while excess(top) > 0:
        top *= 2
    return 1 / brentq(excess, 1.0, top, xtol=1e-14, rtol=1e-14)


def limit(rate_a: float, rate_b: float) -> float:
    r"""$1-\max_{0<\kappa\le1}\kappa\,\varphi(R_A/\kappa)\varphi(R_B/\kappa)$: the least error at two rates (thm-mp-limit).

    >>> limit(1.0, 1.0), limit(1.0, math.inf), round(limit(0.5, 0.5), 5)
    (0.4375, 0.25, 0.71771)
    """
    k = fraction(rate_a, rate_b)
    if k == 1:
        u, v = math.exp(-ALPHA * rate_a), math.exp(-ALPHA * rate_b)
        return u + v - u * v                 # 1 - (1 - u)(1 - v) without cancellation
    return 1 - k * -math.expm1(-ALPHA * rate_a / k) * -math.expm1(-ALPHA * rate_b / k)


def rates(M: np.ndarray) -> np.ndarray:
    r"""$r_i=\frac12\log_2\frac1{1-\mu_i}$ for the eigenvalues of a matrix $0\preceq M\prec I$, increasing (eq-mp-logdet).

    Their sum is $\frac12\log_2\frac1{|I-M|}$, a lower bound for the bits of any code with this $M$.
    Raises ValueError unless `M` is symmetric with eigenvalues in [0, 1), to 1e-9.

    >>> rates(np.diag([0.0, 0.75])).tolist()
    [0.0, 1.0]
    """
    M = np.asarray(M, dtype=float)
    if M.ndim != 2 or M.shape[0] != M.shape[1] or not M.size or not np.allclose(M, M.T, atol=1e-9):
        raise ValueError("M must be a symmetric matrix")
    mu = np.linalg.eigvalsh(M)
    if not (mu[0] > -1e-9 and mu[-1] < 1):
        raise ValueError(f"M must have eigenvalues in [0, 1); got {mu[0]:.3g} to {mu[-1]:.3g}")
    return 0.0 - 0.5 * np.log2(1 - np.maximum(mu, 0.0))


def allocate(rate_a: float, rate_b: float, start_a, start_b, steps: int = 20000) -> tuple[np.ndarray, np.ndarray]:
    r"""Rates $r,s\ge0$ with means at most $R_A,R_B$ that make $\frac1n\sum\varphi(r_i)\varphi(s_i)$ large, by gradient ascent.

    From `start_a`, `start_b` (n,), which are projected to the constraints; a stationary point of a
    problem that is not concave, to test lem-mp-allocation with.  Raises ValueError on other shapes.
    """
    r, s = np.array(start_a, dtype=float), np.array(start_b, dtype=float)
    if r.ndim != 1 or not r.size or r.shape != s.shape or not (np.isfinite(r).all() and np.isfinite(s).all()):
        raise ValueError("start_a and start_b must be finite vectors of one length, not empty")
    n = len(r)
    r, s = _project(r, n * _rate("rate_a", rate_a)), _project(s, n * _rate("rate_b", rate_b))
    for _ in range(steps):
        u, v = np.exp(-ALPHA * r), np.exp(-ALPHA * s)
        new = (_project(r + 0.5 * ALPHA * u * (1 - v), n * rate_a), _project(s + 0.5 * ALPHA * v * (1 - u), n * rate_b))
        moved = max(np.abs(new[0] - r).max(), np.abs(new[1] - s).max())
        r, s = new
        if moved < 1e-12:
            break
    return r, s


@dataclass(frozen=True)
class Measured:
    """Error of products, its standard error, rate in bits per entry of a factor, and mean square error of the entries."""
    error: float
    spread: float
    rate: float
    distortion: float

    @property
    def ratio(self) -> float:
        r"""Error over $\Gamma$ at the rate spent."""
        return self.error / float(products.gaussian_limit(self.rate))


def measure(quantize: Callable[[torch.Tensor], tuple[torch.Tensor, float]], generator: torch.Generator, *,
            n: int = 512, columns: int = 128, pairs: int = 1, keep: float = 1.0) -> Measured:
    r"""Quantize the columns of Gaussian matrices, multiply, and compare with the exact products.

    Parameters
    ----------
    quantize : maps columns (count, m), laid out as rows, to reconstructions of that shape and the bits
        spent per entry of its input.  Factors A and B go through it alike, and nothing else is shared.
    n, columns, pairs : `pairs` products of two matrices (n, columns).
    keep : fraction $\kappa$ of the n rows that is quantized; the others are dropped, and the rate,
        counted per entry of the whole factor, is $\kappa$ times that of `quantize`.

    Error and D are relative to the mean squares of the entries drawn, which are 1 up to sampling, and
    so hardly depend on them.  The standard error is that of a table with row and column effects.
    Raises ValueError if `keep` leaves no row, if there are fewer than two columns, or if `quantize`
    returns another shape, a NaN or an infinity.
    """
    m = int(round(keep * n)) if 0 < keep <= 1 else 0
    if not (1 <= m and columns >= 2 and pairs >= 1):
        raise ValueError(f"keep must be a fraction of the n rows, columns at least 2, pairs at least 1; got {keep}, {columns}, {pairs}")
    X = torch.randn(2 * pairs * columns, n, generator=generator, device=generator.device)
    X_hat, bits = quantize(X[:, :m].contiguous())
    if X_hat.shape != (len(X), m):
        raise ValueError(f"quantize must return the shape {(len(X), m)}; got {tuple(X_hat.shape)}")
    if not (torch.isfinite(X_hat).all() and 0 < float(bits) < math.inf):
        raise ValueError(f"quantize must return finite numbers and a positive rate; got the rate {bits}")
    X, X_hat = (z.view(2, pairs, columns, z.shape[-1]).mT for z in (X, X_hat))
    power = X.square().mean((1, 2, 3))                      # 1 up to sampling, for both factors
    e = (X_hat[0].mT @ X_hat[1] - X[0].mT @ X[1]).double().square() / (n * power.prod())
    spread = math.sqrt(sum(float(z.var()) / z.numel() for z in (e.mean(1), e.mean(2))))
    D = 1 - m / n + float((X_hat - X[..., :m, :]).double().square().mean() / power.mean()) * m / n
    return Measured(float(e.mean()), spread, float(bits) * m / n, D)


def _h(x):
    """x / (e^x - 1), 1 at 0 and 0 at infinity."""
    return 1.0 if x < 1e-12 else x / math.expm1(x) if x < 700 else 0.0


def _rate(name, value) -> float:
    if not float(value) > 0:
        raise ValueError(f"{name} must be positive, in bits per entry; got {value}")
    return float(value)


def _project(r, total):
    """Nearest point of {r >= 0, sum r <= total}."""
    r = np.maximum(r, 0.0) if np.maximum(r, 0.0).sum() <= total else r
    if np.all(r >= 0) and r.sum() <= total:
        return r
    order = np.sort(r)[::-1]
    levels = (np.cumsum(order) - total) / np.arange(1, len(r) + 1)
    return np.maximum(r - levels[np.nonzero(order > levels)[0][-1]], 0.0)
