r"""High-rate theory of scalar quantization: Bennett's integral, Panter and Dite's constant, bounds.

Densities are objects with `pdf`, `cdf` and `support()`, as in lecturelib.quantization.density.
"""
import math

import numpy as np
import torch

from lecturelib.quantization.density import cells, quantiles, support
from lecturelib.quantization.uniform import _whole

GAUSSIAN = math.sqrt(3) * math.pi / 2      # limit of N^2 D for the normal law of variance 1
LAPLACE = 4.5                              # and for the Laplace law of variance 1


class _Integrand:
    """Any nonnegative function in the role of a pdf, so that `cells` integrates it."""

    def __init__(self, pdf):
        self.pdf = pdf


def power_integral(density, exponent: float) -> float:
    r"""$\int p^\alpha dx$ over the support, for an exponent $0<\alpha\le1$.

    Raises ValueError if the integral diverges, or converges so slowly that it is still felt at
    $10^{90}$ times the interquartile range.

    >>> from scipy.stats import norm, laplace
    >>> round(power_integral(laplace(), 1 / 3), 9) == round(6 / 2**(1 / 3), 9)
    True
    """
    if not 0 < exponent <= 1:
        raise ValueError(f"exponent must lie in (0, 1]; got {exponent}")
    return _integral(density, lambda x: density.pdf(x)**exponent)


def constant(density) -> float:
    r"""Panter and Dite's $\frac1{12}\big(\int p^{1/3}\big)^3=\lim N^2D(N)$ (eq-panter-dite).

    >>> from scipy.stats import norm
    >>> abs(constant(norm(5, 2)) - 4 * GAUSSIAN) < 1e-9
    True
    """
    return power_integral(density, 1 / 3)**3 / 12


def bennett(density, slope) -> float:
    r"""Bennett's $\frac1{12}\int p/\lambda^2=\lim N^2D$ for levels of density $\lambda$ (eq-pd-bennett).

    `slope` is $\lambda=G'$, an elementwise map of float64 tensors, as in `companding.Compander`.
    Raises ValueError if it is not positive where `density` has mass, or the integral is infinite.

    >>> from scipy.stats import norm
    >>> from lecturelib.quantization import companding
    >>> abs(bennett(norm(), companding.gaussian().slope) - GAUSSIAN) < 1e-9
    True
    """
    def integrand(x):
        p = np.asarray(density.pdf(x), dtype=float)
        lam = np.asarray(slope(torch.from_numpy(x)))
        if not np.all(lam[p > 0] > 0):
            raise ValueError("slope must be positive where the density is")
        with np.errstate(divide="ignore", over="ignore"):
            ratio = np.divide(p, lam**2, out=np.zeros_like(p), where=p > 0)
        if not np.all(np.isfinite(ratio)):
            raise ValueError("the integral of density / slope^2 must converge; it does not")
        return ratio
    return _integral(density, integrand) / 12


def step_bound(heights, lengths, levels: int) -> float:
    r"""Lower bound $\big(\sum_is_i^{1/3}\ell_i\big)^3/12(N+m-1)^2$ on the error (lem-pd-cells).

    It holds for every quantizer with `levels` values and every law whose density is at least
    $s_i$ on the $i$-th of $m$ adjoining intervals of lengths $\ell_i$.  Raises ValueError unless
    heights are at least 0, lengths positive, and both one-dimensional of the same size.

    >>> step_bound([1.0], [1.0], 8) == 1 / (12 * 64)          # attained: the uniform law
    True
    """
    s, ell = np.asarray(heights, dtype=float), np.asarray(lengths, dtype=float)
    if s.ndim != 1 or s.shape != ell.shape or not s.size:
        raise ValueError("heights and lengths must be one-dimensional and of the same size")
    if not (np.all((s >= 0) & (s < np.inf)) and np.all((ell > 0) & (ell < np.inf))):
        raise ValueError("heights must be at least 0, lengths positive, both finite")
    _at_least_one(levels=levels)
    return float(np.sum(np.cbrt(s) * ell)**3 / (12 * (levels + len(s) - 1)**2))


def unimodal_bound(density, levels: int, pieces: int | None = None) -> float:
    r"""`step_bound` for a density that rises and then falls, with cuts equally spaced in $\int p^{1/3}$.

    On each piece the lower end value of the pdf is a lower bound; `pieces` defaults to
    $2\sqrt N$, about the best.  The support may be infinite.

    >>> from scipy.stats import norm
    >>> 0.7 < unimodal_bound(norm(), 1024) * 1024**2 / GAUSSIAN < 1
    True
    """
    _at_least_one(levels=levels)
    m = int(2 * math.sqrt(levels)) + 2 if pieces is None else pieces
    _at_least_one(pieces=m)
    grid = quantiles(density, np.append(np.geomspace(1e-14, 0.5, 2000), 1 - np.geomspace(0.5, 1e-14, 2000)[1:]))
    mass = np.append(0.0, np.cumsum(np.diff(grid) * np.cbrt(density.pdf((grid[1:] + grid[:-1]) / 2))))
    cuts = np.interp(np.arange(1, m + 2) / (m + 2) * mass[-1], mass, grid)
    p = density.pdf(cuts)
    return step_bound(np.minimum(p[1:], p[:-1]), np.diff(cuts), levels)


def exponential_points(levels: int) -> np.ndarray:
    r"""$\delta_1,\dots,\delta_N$ with $D(n)=\delta_n^2$ for the exponential law of mean 1 (prop-pd-exponential).

    $\delta_n$ is the lowest level of the best $n$-level quantizer; $\delta_1=1$ and
    $\delta_{n-1}=\frac t{1-e^{-t}}-1$, $\delta_n=t-\delta_{n-1}$ determine the rest.

    >>> exponential_points(2).round(6).tolist()
    [1.0, 0.593624]
    """
    _at_least_one(levels=levels)
    delta = np.ones(int(levels))
    for n in range(1, len(delta)):
        previous = delta[n - 1]
        t = 2 * previous / (1 + previous / 3)              # the first two terms of the series
        for _ in range(60):
            e = -math.expm1(-t)
            step = (t / e - 1 - previous) / (1 / e - t * math.exp(-t) / e**2)
            t -= step
            if abs(step) < 1e-15 * t:
                break
        delta[n] = t - previous
    return delta


def _integral(density, integrand) -> float:
    a, b = support(density)
    middle, low, high = quantiles(density, [0.5, 0.25, 0.75])
    scale = high - low
    far = np.append([1.0, 3, 8], 30 * 10.0**np.arange(90))
    inner = [v for v in middle + scale * np.concatenate((-far[::-1], [0.0], far)) if a < v < b]
    total = float(cells(_Integrand(integrand), np.concatenate(([a], inner, [b])))[0].sum())
    for end, x in ((a, inner[0]), (b, inner[-1])):
        if np.isinf(end) and not abs(x) * float(integrand(np.array([x]))[0]) < 1e-6 * total < np.inf:
            raise ValueError("the integral over the density must converge; it does not, or too slowly")
    return total


def _at_least_one(**numbers) -> None:
    for name, value in numbers.items():
        if not _whole(value) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1; got {value!r}")
