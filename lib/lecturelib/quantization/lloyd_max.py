"""Lloyd-Max codebooks of a density: stationary points of the error, by Newton's method."""
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, eigvalsh_tridiagonal, solve_banded

from lecturelib.quantization import density as densities
from lecturelib.quantization.entropy import entropy


@dataclass(frozen=True)
class Codebook:
    """A scalar quantizer that meets both Lloyd-Max conditions.

    `points` (N,) increase; `thresholds` (N-1,) are their midpoints; `distortion` is the mean
    square error, `entropy` that of the codes in bits, `steps` the number of Newton steps taken.
    """
    points: np.ndarray
    thresholds: np.ndarray
    distortion: float
    entropy: float
    steps: int


def lloyd_max(density, levels: int, start=None) -> Codebook:
    r"""The codebook with $t_i=\frac{c_i+c_{i+1}}2$ and $c_j=\mathbb E[X\mid B_j]$ (thm-cb-lloyd-max).

    Newton's method (eq-cb-step) in float64 from the increasing `start`, by default the points of
    density $\propto p^{1/3}$; steps that do not lower the error are damped towards Lloyd's, which
    always do.  For a log-concave density the result is the best codebook (thm-cb-unique); for
    others it is a stationary point near `start`.  Without a `start` a density symmetric about its
    median gets a symmetric codebook when `levels` is even.

    `density` has `pdf`, `cdf` and `support()` and a finite variance, as frozen distributions of
    scipy.stats do, and need not be symmetric.  Raises ValueError unless it is a density
    (`density.check`), `levels` is an integer of at least 1 and `start` increases within the
    support; and if the conditions are not met to 1e-10 of the codebook's width, saying by how much.

    >>> from scipy.stats import norm, uniform
    >>> book = lloyd_max(norm(), 2)
    >>> abs(book.distortion - (1 - 2 / np.pi)) < 1e-15, book.entropy
    (True, 1.0)
    >>> lloyd_max(uniform(), 4).points.round(12).tolist()
    [0.125, 0.375, 0.625, 0.875]
    """
    if isinstance(levels, bool) or not 1 <= levels < np.inf or levels != int(levels):
        raise ValueError(f"levels must be an integer of at least 1; got {levels!r}")
    densities.check(density)
    ends, half = densities.support(density), None
    if not densities.cells(density, ends)[2][0] < 1e30 * np.ptp(densities.quantiles(density, [0.25, 0.75]))**2:
        raise ValueError("density must have a finite variance")
    if start is not None:
        c = _points(start, int(levels))
    else:
        c = initial(density, int(levels))
        half = _center(density) if levels % 2 == 0 else None
    if half is not None:                       # half the line has the same conditions, and half the unknowns
        ends, c = (half, ends[1]), c[int(levels) // 2:]
    state, steps = _newton(density, ends, c)
    if not state.residual <= 1e-10 * state.width:
        raise ValueError(f"density: Newton's method did not converge with {levels} levels; thresholds "
                         f"and midpoints differ by up to {state.residual:.3g}")
    c, p, D = state.points, state.mass, state.distortion
    if half is not None:
        c, p, D = np.concatenate((2 * half - c[::-1], c)), np.concatenate((p[::-1], p)), 2 * D
    return Codebook(c, _middle(c), D, entropy(p / p.sum()), steps)


def lloyd_step(density, points) -> np.ndarray:
    r"""One round of Lloyd's iteration: the centroids of the nearest-neighbor cells of `points`.

    Raises ValueError unless `points` increase.

    >>> from scipy.stats import uniform
    >>> lloyd_step(uniform(), [0.1, 0.5]).round(12).tolist()
    [0.15, 0.65]
    """
    return _State(density, densities.support(density), _middle(_points(points))).points


def distortion(density, points) -> float:
    r"""$\mathbb E\min_j(X-c_j)^2$: the mean square error of any codebook with its nearest-neighbor cells.

    Raises ValueError unless `points` increase with midpoints within the support.

    >>> from scipy.stats import uniform
    >>> round(distortion(uniform(), [0.25, 0.75]), 12) == round(1 / 48, 12)
    True
    """
    c = _points(points)
    mass, centroid, spread = _cells(density, c)
    return float(np.sum(spread + mass * (centroid - c)**2))


def contraction(density, points) -> float:
    r"""Spectral radius $\varrho$ of Lloyd's iteration at a codebook: $\max$ eig of $P^{-1}A$ (eq-cb-hessian).

    Lloyd's error shrinks by this factor a round; the codebook is a strict local minimum if it is
    below 1 and a saddle if above.  Raises ValueError unless `points` increase.

    >>> from scipy.stats import norm
    >>> c = (2 / np.pi)**0.5                       # two levels: 4 a = 4 phi(0) c / 2
    >>> abs(contraction(norm(), [-c, c]) - 2 / np.pi) < 1e-14
    True
    """
    c = _points(points)
    mass = _cells(density, c)[0]
    a = np.diff(c) * density.pdf(_middle(c)) / 4
    return float(eigvalsh_tridiagonal((np.append(a, 0.0) + np.append(0.0, a)) / mass,
                                      a / np.sqrt(mass[:-1] * mass[1:])).max())


def initial(density, levels: int) -> np.ndarray:
    r"""Points that have the density $\propto p^{1/3}$ of Panter and Dite, approximately.

    >>> from scipy.stats import uniform
    >>> initial(uniform(), 4).round(3).tolist()
    [0.125, 0.375, 0.625, 0.875]
    """
    z = np.linspace(-28, 28, 4001)
    x = np.unique(densities.quantiles(density, 1 / (1 + np.exp(-z))))
    root = np.cbrt(density.pdf((x[1:] + x[:-1]) / 2)) * np.diff(x)
    share = np.append(0.0, np.cumsum(root)) / root.sum()
    return np.interp((np.arange(levels) + 0.5) / levels, share, x)


class _State:
    """Everything about thresholds with centroids: moments, error, the conditions and their derivatives."""

    def __init__(self, density, ends, t):
        self.t = np.concatenate((ends[:1], t, ends[1:]))
        if not np.all(self.t[1:] > self.t[:-1]):
            raise ValueError(f"points must have increasing midpoints within the support {ends}")
        self.mass, self.points, spread = densities.cells(density, self.t)
        if not np.all(self.mass > 0):
            raise ValueError("points must leave no cell without mass")
        self.distortion = float(spread.sum())
        c = self.points
        self.miss = t - (c[1:] + c[:-1]) / 2                       # zero at a codebook
        self.width = float(np.ptp(c)) or np.sqrt(self.distortion)
        self.residual = float(np.abs(self.miss).max(initial=0.0))
        p = density.pdf(t)
        self.left = p * (t - c[:-1]) / self.mass[:-1]              # of c_i by its right threshold
        self.right = p * (c[1:] - t) / self.mass[1:]               # of c_(i+1) by its left threshold

    def step(self, theta):
        r"""$-(I-\theta T')^{-1}(t-T(t))$: Newton's step for 1, Lloyd's for 0 (eq-cb-step)."""
        band = np.zeros((3, len(self.miss)))
        band[0, 1:] = -theta * self.left[1:] / 2
        band[1] = 1 - theta * (self.left + self.right) / 2
        band[2, :-1] = -theta * self.right[:-1] / 2
        return solve_banded((1, 1), band, -self.miss)


def _newton(density, ends, c):
    """From points `c` to a state that meets the conditions, or as far as it goes; and the steps."""
    state = _State(density, ends, _middle(c))
    for steps in range(1, 201 if len(c) > 1 else 1):
        trial, full = _descend(density, ends, state)
        if trial is None:
            return state, steps
        moved, state = np.abs(trial.t[1:-1] - state.t[1:-1]).max(), trial
        if full and moved <= 1e-9 * state.width:                   # the next error is its square
            return state, steps
    return state, 200 if len(c) > 1 else 0


def _descend(density, ends, state):
    """The next thresholds: Newton's if they lower the error, else damped towards Lloyd's."""
    for theta, length in ((1.0, 1.0), (1.0, 0.5), (1.0, 0.25), (0.9, 1.0), (0.5, 1.0), (0.0, 1.0)):
        try:
            trial = _State(density, ends, state.t[1:-1] + length * state.step(theta))
        except (LinAlgError, ValueError):                          # singular, or not increasing
            continue
        # near a codebook the error is flat to rounding, and the conditions decide
        flat = trial.residual <= max(state.residual / 2, 1e-14 * state.width) \
            and trial.distortion <= state.distortion * (1 + 1e-9)
        if flat or trial.distortion <= state.distortion:
            return trial, theta * length == 1
    return None, False


def _center(density):
    """The point about which `density` is symmetric, to 12 digits at its quantiles; None if there is none."""
    a, b = densities.support(density)
    x = densities.quantiles(density, np.array([0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1 - 1e-6]))
    right, left = density.pdf(x), density.pdf(2 * x[0] - x)
    ends = np.array([b - x[0], x[0] - a])
    same = np.allclose(left, right, rtol=1e-12, atol=0) and (np.all(np.isinf(ends)) or np.allclose(*ends, rtol=1e-12))
    return float(x[0]) if same else None


def _points(points, levels=None) -> np.ndarray:
    c = np.array(points, dtype=float)
    if c.ndim != 1 or len(c) < 1 or not np.all(np.isfinite(c)) or not np.all(c[1:] > c[:-1]) \
            or levels not in (None, len(c)):
        raise ValueError(f"points must be {levels or 'one or more'} finite increasing numbers")
    return c


def _cells(density, c):
    a, b = densities.support(density)
    t = np.concatenate(([a], _middle(c), [b]))
    if not np.all(t[1:] > t[:-1]):
        raise ValueError(f"points must have increasing midpoints within the support ({a}, {b})")
    return densities.cells(density, t)


def _middle(c) -> np.ndarray:
    return (c[1:] + c[:-1]) / 2
