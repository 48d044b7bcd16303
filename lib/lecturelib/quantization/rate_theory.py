r"""Rate-distortion theory: Gaussian sources, the price of short blocks, water-filling, any finite source.

Rates are in bits per sample, distortions are mean square errors per sample unless a table of
distortions is given.
"""
import math
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from lecturelib.quantization.rate_distortion import entropy_power

LOG2E = 1 / math.log(2)
_Y, _W = (v / 2 for v in np.polynomial.legendre.leggauss(120))
_Y = _Y + 0.5


def gaussian_rate(distortion, variance=1.0):
    r"""$R(D)=\max(0,\tfrac12\log_2\frac{\sigma^2}D)$ (thm-it-gaussian); numbers or arrays.

    Raises ValueError unless both are positive and finite.

    >>> float(gaussian_rate(0.0625)), float(gaussian_rate(2.0))
    (2.0, 0.0)
    """
    D, v = _positive("distortion", distortion), _positive("variance", variance)
    return np.maximum(0.5 * np.log2(v / D), 0.0)


def shannon_lower_bound(density, distortion):
    r"""$h(X)-\tfrac12\log_2(2\pi eD)\le R(D)$ (prop-it-slb), for a source with a density.

    `density` as in lecturelib.quantization.density; negative values are returned as such.

    >>> from scipy.stats import norm
    >>> round(float(shannon_lower_bound(norm(0, 2), 0.25)), 9)
    2.0
    """
    return 0.5 * np.log2(entropy_power(density) / _positive("distortion", distortion))


def random_code(n: int, rate: float) -> float:
    r"""Mean square error of $2^{nR}$ random words on a sphere of best radius, source N(0, I_n) (eq-it-random-code).

    $D=1-\frac{(\mathbb E|X|)^2}n\kappa^2$, with $\kappa$ the mean of the largest of $2^{nR}$
    independent cosines; quadrature in logarithms, so that $n$ may be large.
    Raises ValueError unless n >= 2 and 0 < n rate.

    >>> round(random_code(2, 0.5), 4)                    # two words: 1 - (pi / 4) (4 / pi^2)^2
    0.871
    """
    if not (n == int(n) and n >= 2 and 0 < rate < math.inf):
        raise ValueError(f"n must be an integer of at least 2 and rate positive; got {n}, {rate}")
    t = np.unique(np.concatenate((np.linspace(0, 1, 2001), math.sqrt(1 - 4.0**-rate) + np.linspace(-4, 4, 4001) / math.sqrt(n))))
    t = t[(t >= 0) & (t < 1)]
    log_words = n * rate * math.log(2)
    with np.errstate(over="ignore", under="ignore"):
        cap = log_cap(n, t)
        small = np.where(cap > -700, np.log(-np.log1p(-np.exp(np.maximum(cap, -700)))), cap)
        below = np.exp(-np.exp(np.minimum(log_words + small, 700.0)))                      # (1 - cap)^M
        # the other half of the line: P(all cosines <= -t) = cap(t)^M
        kappa = 1 - np.trapezoid(below, t) - (1 - t[-1]) * below[-1] - np.trapezoid(np.exp(-np.exp(
            np.minimum(log_words + np.log(-cap), 700.0))), t)
    radius = math.exp(2 * (gammaln((n + 1) / 2) - gammaln(n / 2))) * 2 / n             # (E|X|)^2 / n
    return float(1 - radius * kappa**2)


def log_cap(n: int, t):
    r"""$\ln P(u_1>t)$ for $u$ uniform on the unit sphere of $\mathbb R^n$, $0\le t<1$.

    >>> [round(float(v), 6) for v in np.exp(log_cap(3, np.array([0.0, 0.5])))]
    [0.5, 0.25]
    """
    t = np.asarray(t, dtype=float)
    a, x = (n - 1) / 2, 1 - t**2
    # half of I_x(a, 1/2) = x^a F / (a B(a, 1/2)), F = the integral of (1 - x u^(1/a))^(-1/2) over (0, 1), u = 1 - y^2
    y, w = _Y[:, None], _W[:, None]
    F = (2 * y * w / np.sqrt(1 - x.reshape(1, -1) * (1 - y * y)**(1 / a))).sum(0).reshape(x.shape)
    return a * np.log(x) + np.log(F) - math.log(2 * a) - gammaln(a) - gammaln(0.5) + gammaln(a + 0.5)


@dataclass(frozen=True)
class Allocation:
    """Water level, rates and distortions of the components, and their means."""
    level: float
    rates: np.ndarray
    distortions: np.ndarray

    @property
    def rate(self) -> float:
        return float(self.rates.mean())

    @property
    def distortion(self) -> float:
        return float(self.distortions.mean())


def water_filling(variances, *, rate: float | None = None, distortion: float | None = None) -> Allocation:
    r"""Reverse water-filling (thm-it-water): $D_i=\min(\lambda_i,\tau)$, $R_i=\tfrac12\log_2^+\frac{\lambda_i}\tau$.

    Give the mean rate or the mean distortion per component, not both; the level is found exactly,
    from sums over the sorted variances.  Raises ValueError on variances that are not positive, a
    negative rate, or a distortion outside (0, mean variance].

    >>> a = water_filling([4.0, 1.0, 0.25], distortion=0.25)
    >>> a.level, a.rates.tolist(), a.rate
    (0.25, [2.0, 1.0, 0.0], 1.0)
    """
    v = _positive("variances", variances)
    if v.ndim != 1 or not len(v):
        raise ValueError("variances must be a nonempty sequence")
    if (rate is None) == (distortion is None):
        raise ValueError("rate or distortion must be given, not both")
    s = np.sort(v)[::-1]
    m = np.arange(1, len(s) + 1)                            # the m largest components get bits
    if rate is not None:
        if not 0 <= rate < math.inf:
            raise ValueError(f"rate must be finite and not negative; got {rate}")
        levels = np.exp((np.cumsum(np.log(s)) - 2 * math.log(2) * len(s) * rate) / m)
    else:
        if not 0 < distortion <= v.mean() * (1 + 1e-12):
            raise ValueError(f"distortion must lie in (0, {v.mean():.6g}]; got {distortion}")
        rest = np.append(np.cumsum(s[::-1])[::-1][1:], 0.0)
        levels = (len(s) * distortion - rest) / m
    fits = (levels <= s * (1 + 1e-12)) & (levels >= np.append(s[1:], 0.0) * (1 - 1e-12))
    level = float(min(levels[fits][0] if fits.any() else s[0], s[0]))
    return Allocation(level, np.maximum(0.5 * np.log2(v / level), 0.0), np.minimum(v, level))


@dataclass(frozen=True)
class Point:
    """A point of a rate-distortion function: `lower` <= R(distortion) <= `rate`, in bits."""
    rate: float
    distortion: float
    lower: float
    law: np.ndarray
    iterations: int


def blahut_arimoto(p, d, slope: float, tolerance: float = 1e-6, limit: int = 20_000) -> Point:
    r"""A point of R(D) for a finite source with the two bounds of prop-it-blahut.

    Parameters
    ----------
    p : probabilities of the source letters, (m,).
    d : distortions, (m, l), not negative.
    slope : $\beta>0$, nats per unit of distortion: $-R'(D)$ at the point.
    tolerance, limit : stop when the bounds are this close, in bits, or after so many rounds.

    Raises ValueError on arguments outside these.

    >>> fair = blahut_arimoto([0.5, 0.5], [[0, 1], [1, 0]], slope=math.log(9))
    >>> round(fair.distortion, 6), round(fair.rate, 6)   # 1 - h(0.1)
    (0.1, 0.531004)
    """
    p, d = np.asarray(p, dtype=float), np.asarray(d, dtype=float)
    if not (p.ndim == 1 and np.all(p >= 0) and abs(p.sum() - 1) < 1e-9):
        raise ValueError("p must hold probabilities that add up to 1")
    if d.ndim != 2 or d.shape[0] != len(p) or not (np.all(d >= 0) and np.all(np.isfinite(d))):
        raise ValueError(f"d must hold finite distortions, not negative, in {len(p)} rows")
    beta = float(_positive("slope", slope))
    floor = d.min(1, keepdims=True)                         # exp(-beta d) must not vanish in a whole row
    kernel = np.exp(-beta * (d - floor))
    q = np.full(d.shape[1], 1 / d.shape[1])
    for k in range(1, limit + 1):
        Z = kernel @ q
        c = (p / Z) @ kernel                                # c > 1: more of this letter
        lower = -float(p @ np.log(Z)) - math.log(c.max())   # plus beta * (floor - D), below
        gap = math.log(c.max()) - float(q * c @ np.log(np.where(c > 0, c, 1)))
        if gap * LOG2E < tolerance or k == limit:
            break
        q = q * c
    W = q * kernel / Z[:, None]                             # the test channel, and its output law q c
    D = float((p[:, None] * W * d).sum())
    rate = float(beta * (p @ floor[:, 0] - D) - p @ np.log(Z) - (q * c) @ np.log(np.where(c > 0, c, 1)))
    return Point(rate * LOG2E, D, (lower + beta * (float(p @ floor[:, 0]) - D)) * LOG2E, q * c, k)


def _positive(name, value):
    value = np.asarray(value, dtype=float)
    if not np.all((value > 0) & (value < np.inf)):
        raise ValueError(f"{name} must be positive and finite")
    return value
