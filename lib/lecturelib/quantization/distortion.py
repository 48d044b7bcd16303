"""Clipped uniform quantizers: granular error, overload error, and the range that balances them."""
import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import ndtr

ORDER = 24          # Gauss-Legendre nodes per cell


def gaussian_moments(t):
    r"""Moments $\int_{t_j}^{t_{j+1}}x^k\phi(x)\,dx$, $k=0,1,2$, of N(0,1) between thresholds.

    `t` is increasing and may begin with -inf and end with inf; returns three arrays of length
    `len(t) - 1`.  Masses are differences of tails on the nearer side, so far cells keep their
    relative accuracy.  Raises ValueError unless `t` increases.

    >>> [float(m[0]) for m in gaussian_moments([-np.inf, np.inf])]
    [1.0, 0.0, 1.0]
    """
    t = _increasing(t)
    a, b = t[:-1], t[1:]
    phi = np.exp(-t**2 / 2) / np.sqrt(2 * np.pi)
    mass = np.where(a > 0, ndtr(-a) - ndtr(-b), ndtr(b) - ndtr(a))
    with np.errstate(invalid="ignore"):
        edge = np.where(np.isfinite(t), t * phi, 0.0)
    return mass, phi[:-1] - phi[1:], mass + edge[:-1] - edge[1:]


def cell_moments(density, t, order: int = ORDER):
    r"""Moments $\int_{t_j}^{t_{j+1}}x^kp(x)\,dx$, $k=0,1,2$, for any `density` with a `pdf`.

    Gauss-Legendre in the finite cells (a kink of the density inside a cell costs accuracy, at
    a threshold it costs none), adaptive quadrature in the two tails.  N(0,1) from scipy.stats
    uses `gaussian_moments`.  Raises ValueError unless `t` increases.

    >>> from scipy.stats import uniform
    >>> [round(float(m[0]), 12) for m in cell_moments(uniform(), [0, 0.5, 1])]
    [0.5, 0.125, 0.041666666667]
    """
    t = _increasing(t)
    if getattr(getattr(density, "dist", None), "name", "") == "norm" and \
            (density.mean(), density.std()) == (0.0, 1.0):
        return gaussian_moments(t)
    moments = np.zeros((3, len(t) - 1))
    inner = np.isfinite(t[:-1]) & np.isfinite(t[1:])
    z, w = np.polynomial.legendre.leggauss(order)
    half, mid = np.diff(t)[inner, None] / 2, (t[:-1] + t[1:])[inner, None] / 2
    x = mid + half * z
    p = half * w * density.pdf(x)
    for k in range(3):
        moments[k, inner] = (x**k * p).sum(1)
        for j in np.flatnonzero(~inner):
            moments[k, j] = quad(lambda y: y**k * density.pdf(y), t[j], t[j + 1],
                                 epsabs=1e-15, epsrel=1e-12, limit=200)[0]
    return tuple(moments)


def clipped_grid(half_range: float, levels: int):
    r"""Thresholds (with $\pm\infty$) and levels of the `levels`-level grid on $[-A,A]$.

    Cells of width $\varepsilon=2A/N$, levels at their midpoints, outer cells without end.
    Raises ValueError unless $0<A<\infty$ and `levels` is an integer of at least 2.

    >>> [v.tolist() for v in clipped_grid(2.0, 4)]
    [[-inf, -1.0, 0.0, 1.0, inf], [-1.5, -0.5, 0.5, 1.5]]
    """
    if not 2 <= levels < np.inf or levels != int(levels):
        raise ValueError(f"levels must be an integer of at least 2; got {levels}")
    levels = int(levels)
    if not 0 < half_range < np.inf:
        raise ValueError(f"half_range must be a positive finite number; got {half_range}")
    edges = half_range * (2 * np.arange(levels + 1) / levels - 1)
    t = edges.copy()
    t[0], t[-1] = -np.inf, np.inf
    return t, (edges[:-1] + edges[1:]) / 2


def clipped_distortion(density, half_range: float, levels: int) -> tuple[float, float]:
    r"""Granular and overload part of $\mathbb E(X-q_A(X))^2$ (eq-uq-granular-overload).

    `density` has a `pdf`; the parts are $\int_{|x|\le A}$ and $\int_{|x|>A}$.
    Raises ValueError as `clipped_grid` does.

    >>> from scipy.stats import uniform
    >>> granular, overload = clipped_distortion(uniform(-0.5, 1), 0.5, 8)
    >>> abs(granular - 2**-6 / 12) < 1e-15, overload == 0
    (True, True)
    """
    t, c = clipped_grid(half_range, levels)
    t[0], t[-1] = -half_range, half_range
    inside = _squares(cell_moments(density, t), c)
    left = _squares(cell_moments(density, [-np.inf, -half_range]), c[:1])
    right = _squares(cell_moments(density, [half_range, np.inf]), c[-1:])
    return inside, left + right


def orthogonality(density, half_range: float, levels: int) -> float:
    r"""$\mathbb E[(X-q_A(X))\,q_A(X)]=-\frac A2D'(A)$, zero at the best range (prop-uq-range).

    >>> from scipy.stats import norm                # two levels: A = 2 E|X|, levels ±E|X|
    >>> abs(orthogonality(norm(), 2 * (2 / np.pi)**0.5, 2)) < 1e-12
    True
    """
    t, c = clipped_grid(half_range, levels)
    p, m, _ = cell_moments(density, t)
    return float(c @ m - c**2 @ p)


def optimal_range(density, levels: int, bracket: tuple[float, float] | None = None) -> float:
    r"""The half range $A$ with $\mathbb E[(X-q_A)q_A]=0$ for a source of finite variance.

    `bracket` holds the root sought; its default, a quarter to forty times $\sqrt{\mathbb EX^2}$
    (then `density` needs a `moment`), suits densities with one hump.  Raises ValueError if the
    second moment is not finite or the sign does not change in the bracket.

    >>> from scipy.stats import norm
    >>> abs(optimal_range(norm(), 2) - 2 * (2 / np.pi)**0.5) < 1e-12
    True
    """
    if bracket is None:
        s = np.sqrt(density.moment(2))
        if not 0 < s < np.inf:
            raise ValueError("density must have a positive finite second moment; give a bracket for others")
        bracket = (s / 4, 40 * s)
    low, high = (orthogonality(density, a, levels) for a in bracket)
    if not low * high < 0:
        raise ValueError(f"bracket must hold a sign change of E[(X-q)q]; got {bracket}")
    return brentq(lambda a: orthogonality(density, a, levels), *bracket, xtol=1e-13, rtol=1e-13)


def _squares(moments, c) -> float:
    """Sum over cells of the integral of (x - c)^2 p."""
    p, m, s = moments
    return float(np.sum(s - 2 * c * m + c**2 * p))


def _increasing(t) -> np.ndarray:
    t = np.asarray(t, dtype=float)
    if t.ndim != 1 or len(t) < 2 or not np.all(t[1:] > t[:-1]):
        raise ValueError("t must be a one-dimensional increasing sequence of at least 2 thresholds")
    return t
