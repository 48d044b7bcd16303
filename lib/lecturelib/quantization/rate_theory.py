r"""Rate-distortion theory: Gaussian sources, the price of short blocks, water-filling, any finite source.

Rates are in bits per sample, distortions are mean square errors per sample unless a table of
distortions is given.
"""
import math
from dataclasses import dataclass

import numpy as np
from scipy.special import poch

from lecturelib.quantization.rate_distortion import entropy_power

LOG2E = 1 / math.log(2)
_Y, _W = (v / 2 for v in np.polynomial.legendre.leggauss(120))
_Y = _Y + 0.5
_U, _V = (v / 2 for v in np.polynomial.legendre.leggauss(16))
_U = _U + 0.5


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
    independent cosines: panels of Gauss points in the angle, as wide as the law of the best angle,
    and probabilities in logarithms, so that $n$ may be large.  Raises ValueError unless n is an
    integer of at least 2 and the rate positive and finite.

    >>> round(random_code(2, 0.5), 4)                    # two words: 1 - (pi / 4) (4 / pi^2)^2
    0.871
    """
    if not (n < math.inf and n == int(n) and n >= 2 and 0 < rate < math.inf):
        raise ValueError(f"n must be an integer of at least 2 and rate positive; got {n}, {rate}")
    log_words = n * rate * math.log(2)
    middle = math.asin(2.0**-rate)                          # near the best angle; its law is about `width` wide
    for _ in range(50):                                     # Newton for M A_n(cos a) = 1
        width = math.tan(middle) / (n - 1)
        step = -width * (log_words + float(_log_cap(n, math.sin(middle)**2)))
        middle = min(max(middle + step, middle / 2), 0.5 * (middle + math.pi / 2))
        if abs(step) < 1e-9 * width:
            break
    edges = np.append(np.linspace(0, math.pi / 2, 33), middle + width * np.arange(-40, 8))
    edges = np.unique(edges[(edges >= 0) & (edges <= math.pi / 2)])
    angle = (edges[:-1, None] + np.diff(edges)[:, None] * _U).ravel()
    weight = (np.diff(edges)[:, None] * _V).ravel() * np.sin(angle)                         # dt, t the cosine
    with np.errstate(over="ignore", under="ignore"):
        cap = _log_cap(n, np.sin(angle)**2)
        small = np.where(cap > -700, np.log(-np.log1p(-np.exp(np.maximum(cap, -700)))), cap)
        below = np.exp(-np.exp(np.minimum(log_words + small, 700.0)))                      # (1 - cap)^M
        # the other half of the line: P(all cosines <= -t) = cap(t)^M
        beyond = np.exp(-np.exp(np.minimum(log_words + np.log(-cap), 700.0)))
    lost = float(weight @ (below + beyond))                                             # 1 - kappa
    radius = 2 * poch(n / 2, 0.5)**2 / n                                                # (E|X|)^2 / n
    return float(1 - radius + radius * lost * (2 - lost))


def log_cap(n: int, t):
    r"""$\ln P(u_1>t)$ for $u$ uniform on the unit sphere of $\mathbb R^n$, $0\le t<1$; a number or an array.

    Raises ValueError unless n >= 2 and all t lie in [0, 1).

    >>> [round(float(v), 6) for v in np.exp(log_cap(3, np.array([0.0, 0.5])))]
    [0.5, 0.25]
    """
    t = np.asarray(t, dtype=float)
    if not (2 <= n < math.inf and np.all((t >= 0) & (t < 1))):
        raise ValueError(f"n must be at least 2 and t lie in [0, 1); got n = {n}")
    return _log_cap(n, (1 - t) * (1 + t))


def _log_cap(n, x):
    """The same for 1 - t^2 = x: half of I_x(a, 1/2) = x^a F / (a B(a, 1/2)), a = (n - 1) / 2."""
    x, a = np.asarray(x), (n - 1) / 2
    # F = the integral of (1 - x u^(1/a))^(-1/2) over (0, 1), u = 1 - y^2
    y, w = _Y[:, None], _W[:, None]
    F = (2 * y * w / np.sqrt(1 - x.reshape(1, -1) * (1 - y * y)**(1 / a))).sum(0).reshape(x.shape)
    return a * np.log(x) + np.log(F) + math.log(poch(a, 0.5) / (2 * a * math.sqrt(math.pi)))


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
    if not (tolerance > 0 and limit >= 1):
        raise ValueError(f"tolerance must be positive and limit at least 1; got {tolerance}, {limit}")
    if d.ndim != 2 or d.shape[0] != len(p) or not d.size or not (np.all(d >= 0) and np.all(np.isfinite(d))):
        raise ValueError(f"d must hold finite distortions, not negative, in {len(p)} rows")
    beta = float(_positive("slope", slope))
    p, d = p[p > 0], d[p > 0]                               # letters that never come have no say
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
