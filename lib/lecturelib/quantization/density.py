"""Densities as sources: objects with `pdf`, `cdf` and `support()`, checked and integrated.

Frozen distributions of scipy.stats are such objects; `from_pdf` makes one from a bare formula.
"""
from collections.abc import Callable

import numpy as np

from lecturelib.quantization.distortion import gaussian_moments

_Z, _W = np.polynomial.legendre.leggauss(16)
_ENDS = np.array([-1 + 1e-9, 1 - 1e-9])                # where a panel's polynomial is put to the test
_EXTRAPOLATE = np.stack([np.prod([(_ENDS - z) / (y - z) for z in _Z if z != y], axis=0) for y in _Z])
_LEVELS = np.array([1e-6, 1e-4, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1 - 1e-4, 1 - 1e-6])
_GRADED = np.append(0.0, 4.0**np.arange(-20, 101))     # distances from a point, for every scale
DEPTH = 60          # bisections of a panel at most: enough for a jump in double precision


def check(density, tolerance: float = 1e-7) -> None:
    r"""Raise ValueError unless `density` is one: $p\ge0$, $\int p=1$ and $F'=p$ on its support.

    `density` has vectorized `pdf` and `cdf` and a method `support()` that returns both ends.  The
    integral of the pdf between quantiles of the cdf is compared with the cdf; the message says
    by how much they differ.

    >>> from scipy.stats import norm
    >>> check(norm(1, 2))
    >>> class Wrong:
    ...     support, cdf = norm().support, norm().cdf
    ...     pdf = staticmethod(lambda x: 1.1 * norm().pdf(x))
    >>> check(Wrong())
    Traceback (most recent call last):
    ...
    ValueError: density must integrate to 1 over its support; its integral is 1 + 0.1
    """
    for name in ("pdf", "cdf", "support"):
        if not callable(getattr(density, name, None)):
            raise ValueError(f"density must have a method {name}; {type(density).__name__} has none")
    a, b = support(density)
    t = np.unique(np.concatenate(([a], _graded(quantiles(density, _LEVELS), a, b), [b])))
    mass = _moments(density, t, _origin(t))[0]
    if not abs(mass.sum() - 1) <= tolerance:
        raise ValueError("density must integrate to 1 over its support; its integral is "
                         f"1 + {mass.sum() - 1:.3g}")
    with np.errstate(all="ignore"):
        gap = np.append(0.0, np.cumsum(mass)) - density.cdf(t)
    worst = np.abs(gap).argmax()
    if not abs(gap[worst]) <= tolerance:
        raise ValueError("density must have a cdf that is the integral of its pdf; at "
                         f"{t[worst]:.6g} they differ by {gap[worst]:.3g}")


def support(density) -> tuple[float, float]:
    """Both ends of the support, as floats; ValueError unless the first is the smaller one.

    >>> from scipy.stats import expon
    >>> support(expon())
    (0.0, inf)
    """
    a, b = map(float, density.support())
    if not a < b:
        raise ValueError(f"density must have a support of positive length; got ({a}, {b})")
    return a, b


def quantiles(density, u) -> np.ndarray:
    r"""$F^{-1}(u)$ for an array `u` in (0, 1), by the object's `ppf` or by bisection of its `cdf`.

    >>> class Bare:
    ...     cdf = staticmethod(lambda x: np.clip(x, 0, 1)**2)
    ...     support = staticmethod(lambda: (0.0, 1.0))
    >>> bool(np.allclose(quantiles(Bare, [0.25, 0.81]), [0.5, 0.9], atol=1e-14))
    True
    """
    u = np.asarray(u, dtype=float)
    if not np.all((u > 0) & (u < 1)):
        raise ValueError("u must lie strictly between 0 and 1")
    if callable(getattr(density, "ppf", None)):
        return np.asarray(density.ppf(u), dtype=float)
    a, b = support(density)
    reach = 1.0
    while reach < 1e300 and not np.all((density.cdf(max(a, -reach)) <= u) & (u <= density.cdf(min(b, reach)))):
        reach *= 2
    return _bisect(density.cdf, u, np.full(u.shape, max(a, -reach)), np.full(u.shape, min(b, reach)))


def cells(density, t) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Mass $P_j$, centroid $\mathbb E[X\mid B_j]$ and spread $\int_{B_j}(x-\text{centroid})^2p$ of each cell.

    `t` increases and may begin and end with infinities; cell $j$ is $(t_j,t_{j+1})$.  N($\mu,\sigma^2$)
    of scipy.stats uses closed forms where a cell is wider than $\sigma/4$ (they lose digits in narrow
    ones), and 16 Gauss-Legendre nodes in the others.  Any other density is integrated by Gauss-Legendre panels of
    16 nodes that are bisected until whole and halves agree, so that a kink or a jump may lie
    anywhere; an attribute `panels` of the density adds edges of first panels.  Only `pdf` is
    used, and it must vanish outside the support.  A cell without mass has
    its finite end nearest to 0, or its midpoint, as centroid.  Raises ValueError unless `t`
    increases and the pdf is finite and at least 0.

    >>> from scipy.stats import expon
    >>> [round(float(v[0]), 12) for v in cells(expon(), [0.0, np.inf])]     # mass, mean, variance
    [1.0, 1.0, 1.0]
    """
    t = np.asarray(t, dtype=float)
    if t.ndim != 1 or len(t) < 2 or not np.all(t[1:] > t[:-1]):
        raise ValueError("t must be a one-dimensional increasing sequence of at least 2 thresholds")
    mean, sd = 0.0, 1.0
    if getattr(getattr(density, "dist", None), "name", "") == "norm":
        mean, sd = float(density.mean()), float(density.std())
        t = (t - mean) / sd
        origin = _origin(t)
        p, m, s = gaussian_moments(t)
        m, s = m - origin * p, s - 2 * origin * m + origin**2 * p
        half = np.diff(t)[narrow := np.diff(t) < 0.25, None] / 2
        w = half * _W * np.exp(-(origin[narrow, None] + half * _Z)**2 / 2) / np.sqrt(2 * np.pi)
        p[narrow], m[narrow], s[narrow] = w.sum(1), (w * half * _Z).sum(1), (w * (half * _Z)**2).sum(1)
    else:
        origin = _origin(t)
        p, m, s = _moments(density, t, origin)
    shift = np.divide(m, p, out=np.zeros_like(m), where=p > 0)
    return p, mean + sd * (origin + shift), sd**2 * np.maximum(s - m * shift, 0.0)


class Density:
    """What `from_pdf` returns; its distribution function is a table of Gauss-Legendre `panels`."""

    def __init__(self, pdf: Callable, ends: tuple[float, float], points=()):
        self._pdf, self._ends = pdf, tuple(map(float, ends))
        a, b = support(self)
        # a point of the support, where the pdf is asked for a value that is then dropped
        self._some = (a + b) / 2 if np.isfinite(a + b) else a + 1 if np.isfinite(a) else min(b - 1, 0.0)
        points = np.asarray(points, dtype=float).ravel()
        if not np.all((points >= a) & (points <= b) & np.isfinite(points)):
            raise ValueError(f"points must lie in the support ({a}, {b}); got {points.tolist()}")
        near = [p for p in (a, b, 0.0, *points) if a <= p <= b and np.isfinite(p)]
        edges = np.unique(_graded(near or [self._some], a, b))
        low, high, _, values = _panels(self.pdf, edges[:-1], edges[1:],
                                       np.arange(len(edges) - 1), (edges[:-1] + edges[1:]) / 2)
        order = np.argsort(low)
        self.panels = np.append(low[order], high[order[-1]])
        self._below = np.append(0.0, np.cumsum(values[0, order]))
        if not abs(self._below[-1] - 1) <= 1e-8:
            raise ValueError("density must integrate to 1 over its support; its integral is "
                             f"1 + {self._below[-1] - 1:.3g}")
        self._below /= self._below[-1]

    def support(self) -> tuple[float, float]:
        return self._ends

    def pdf(self, x):
        x = np.asarray(x, dtype=float)
        inside = (x >= self._ends[0]) & (x <= self._ends[1])
        with np.errstate(all="ignore"):
            return np.where(inside, self._pdf(np.where(inside, x, self._some)), 0.0)

    def cdf(self, x):
        x = np.asarray(x, dtype=float)
        return np.clip(self._upto(self._panel(self.panels, x), x), 0.0, 1.0)

    def ppf(self, u):
        u = np.asarray(u, dtype=float)
        if not np.all((u >= 0) & (u <= 1)):
            raise ValueError("u must lie in [0, 1]")
        k = self._panel(self._below, u)
        x = _bisect(lambda x: self._upto(k, x), u, self.panels[k], self.panels[k + 1])
        return np.where(u == 0, self._ends[0], np.where(u == 1, self._ends[1], x))

    def moment(self, order: int) -> float:
        r"""$\mathbb EX^k$ for $k$ = 1 or 2."""
        if order not in (1, 2):
            raise ValueError(f"order must be 1 or 2; got {order}")
        _, mean, variance = cells(self, self._ends)
        return float(mean[0]) if order == 1 else float(variance[0] + mean[0]**2)

    def mean(self) -> float:
        return self.moment(1)

    def std(self) -> float:
        return float(cells(self, self._ends)[2][0])**0.5

    @staticmethod
    def _panel(table, value):
        return np.clip(np.searchsorted(table, value, "right") - 1, 0, len(table) - 2)

    def _upto(self, k, x):
        """Mass up to `x` in panel `k`."""
        a, b = self.panels[k], np.clip(x, self.panels[k], self.panels[k + 1])
        half = np.asarray(b - a)[..., None] / 2
        nodes = np.asarray(a)[..., None] + half * (1 + _Z)
        return self._below[k] + (half * _W * self.pdf(nodes)).sum(-1)


def from_pdf(pdf: Callable, support: tuple[float, float], points: tuple = ()) -> Density:
    r"""A reader's `pdf` on `support` as a density with `pdf`, `cdf`, `ppf`, `moment` and `support`.

    `pdf` takes and returns arrays; outside the support it is taken as 0.  It is looked at closely
    near 0, near the finite ends of the support, and near `points`: give places far from these where
    it peaks on a much smaller scale.  Raises ValueError if the pdf is negative, not finite, or does
    not integrate to 1 within 1e-8.

    >>> triangle = from_pdf(lambda x: 1 - abs(x), (-1, 1))
    >>> round(float(triangle.cdf(0.5)), 14), round(float(triangle.ppf(0.875)), 14)
    (0.875, 0.5)
    >>> from_pdf(lambda x: np.exp(-x * x), (-np.inf, np.inf))
    Traceback (most recent call last):
    ...
    ValueError: density must integrate to 1 over its support; its integral is 1 + 0.772
    """
    if not callable(pdf):
        raise ValueError("pdf must be a function of an array")
    return Density(pdf, support, points)


def _origin(t) -> np.ndarray:
    """A finite point of each cell, about which its moments are taken without cancellation."""
    a, b = t[:-1], t[1:]
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(a) & np.isfinite(b), (a + b) / 2,
                        np.where(np.isfinite(a), a, np.where(np.isfinite(b), b, 0.0)))


def _graded(points, a, b) -> np.ndarray:
    """Edges in [a, b] at distances from `points` that grow by the factor 4, for every scale."""
    points = np.asarray(points, dtype=float)[:, None]
    edges = np.concatenate((points + _GRADED, points - _GRADED), axis=None)
    return edges[(edges >= a) & (edges <= b)]


def _start(t, near, panels):
    """First panels: the cells, cut at `panels` and, where infinite, at distances from `near`."""
    outer = _graded(near[[0, -1]], t[0], t[-1])
    outer = outer[(outer <= near[0]) | (outer >= near[-1])]
    edges = np.unique(np.concatenate((near, outer, panels)))
    edges = edges[(edges >= t[0]) & (edges <= t[-1])]
    return edges[:-1], edges[1:], np.searchsorted(t, edges[:-1], "right") - 1


def _moments(density, t, origin) -> np.ndarray:
    """Moments 0, 1, 2 of the cells about their origins, by panels."""
    moments = np.zeros((3, len(t) - 1))
    near = t[np.isfinite(t)] if np.isfinite(t).any() else quantiles(density, [0.5])
    start = _start(t, near, getattr(density, "panels", ()))
    _, _, cell, values = _panels(density.pdf, *start, origin)
    np.add.at(moments.T, cell, values.T)
    return moments


def _panels(pdf, low, high, cell, origin):
    """Bisect panels until each agrees with its halves: ends, cell and moments about the cell's origin."""
    done = []
    whole, _ = _gauss(pdf, low, high, origin[cell])
    for depth in range(DEPTH + 1):
        mid = (low + high) / 2
        (left, rough), (right, rough_too) = (_gauss(pdf, low, mid, origin[cell]),
                                             _gauss(pdf, mid, high, origin[cell]))
        reach = np.maximum(abs(low - origin[cell]), abs(high - origin[cell]))**np.arange(3)[:, None]
        gap = abs(left + right - whole)
        noise = 1e-13 + 1e-15 * np.maximum(abs(low), abs(high)) / (high - low)    # x is rounded, too
        good = np.all(gap <= (1e-17 + noise * (left[0] + right[0])) * reach, axis=0)
        good &= np.maximum(rough, rough_too) <= 1e-16 + (1e-8 + noise) * (left[0] + right[0])
        good |= (noise > 1e-3) | (depth == DEPTH)
        done.append((low[good], high[good], cell[good], (left + right)[:, good]))
        if good.all():
            break
        bad = ~good
        low, high = np.concatenate((low[bad], mid[bad])), np.concatenate((mid[bad], high[bad]))
        cell, whole = np.tile(cell[bad], 2), np.concatenate((left[:, bad], right[:, bad]), axis=1)
    return tuple(np.concatenate(part, axis=-1) for part in zip(*done))


def _gauss(pdf, low, high, origin):
    """Moments 0, 1, 2 about `origin` of each panel by Gauss-Legendre, and by how much the polynomial
    through the nodes misses the pdf at the ends, times the length: a kink close to an end shows there
    first, and costs the square of this."""
    half = (high - low)[:, None] / 2
    x = low[:, None] + half * (1 + _Z)
    with np.errstate(all="ignore"):                                # panels reach far out
        p = np.asarray(pdf(x), dtype=float)
        at_ends = pdf(low[:, None] + half * (1 + _ENDS))
        rough = abs(at_ends - p @ _EXTRAPOLATE).max(1) * (high - low)
    if not np.all((p >= 0) & (p < np.inf)):
        raise ValueError("density must have a pdf that is finite and at least 0 inside its support")
    p, y = half * _W * p, x - origin[:, None]
    return np.stack([p.sum(1), (p * y).sum(1), (p * y * y).sum(1)]), rough


def _bisect(f, u, low, high):
    """Solve f(x) = u for increasing f, elementwise."""
    for _ in range(100):
        mid = (low + high) / 2
        if not np.any((low < mid) & (mid < high)):
            break
        below = f(mid) < u
        low, high = np.where(below, mid, low), np.where(below, high, mid)
    return (low + high) / 2
