"""Entropy of a quantizer's output, and entropy-coded scalar quantization of N(0,1)."""
import numpy as np
from scipy.optimize import brentq, root
from scipy.stats import norm

from lecturelib.quantization.density import cells
from lecturelib.quantization.distortion import gaussian_moments

QUARTER_BIT = 0.5 * np.log2(2 * np.pi * np.e / 12)     # 0.2546 bit, 1.533 dB
GAUSSIAN_ENTROPY = 0.5 * np.log2(2 * np.pi * np.e)     # h of N(0,1), in bits
_NORMAL = norm()


def entropy(p) -> float:
    r"""$H=-\sum p_j\log_2p_j$ in bits; cells of mass 0 count 0.

    Raises ValueError unless `p` is a probability vector (sum 1 within 1e-9).

    >>> entropy([0.5, 0.25, 0.25, 0.0])
    1.5
    """
    p = np.asarray(p, dtype=float)
    if not (np.all(p >= 0) and abs(p.sum() - 1) < 1e-9):
        raise ValueError("p must hold probabilities that add up to 1")
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


def uniform_thresholds(step: float, offset: float = 0.0, reach: float = 12.0):
    r"""Thresholds $(m+o+\tfrac12)\varepsilon$ that cover $[-$`reach`$,$`reach`$]$, ends at $\pm\infty$.

    Raises ValueError unless `step` and `reach` are positive and finite and `offset` is finite.

    >>> uniform_thresholds(2.0, reach=2.0).tolist()
    [-inf, -3.0, -1.0, 1.0, 3.0, inf]
    """
    if not (0 < step < np.inf and 0 < reach < np.inf):
        raise ValueError(f"step and reach must be positive finite numbers; got {step}, {reach}")
    if not abs(offset) < np.inf:
        raise ValueError(f"offset must be a finite number; got {offset}")
    m = np.arange(np.floor(-reach / step - offset) - 1, np.ceil(reach / step - offset) + 1)
    t = (m + offset + 0.5) * step
    return np.concatenate(([-np.inf], t[(t >= -reach - step) & (t <= reach + step)], [np.inf]))


def rate_distortion(density, t, levels=None) -> tuple[float, float]:
    r"""$(H(q(X)),\,\mathbb E(X-q(X))^2)$ for thresholds `t` (with both infinite ends).

    `levels` are the reconstruction points, one per cell; None takes the centroids
    $c_j=\mathbb E[X\mid X\in B_j]$, which are best.
    Raises ValueError unless `t` increases, its cells hold all mass, and `levels` are finite.

    >>> from scipy.stats import norm
    >>> H, D = rate_distortion(norm(), [-np.inf, 0.0, np.inf])
    >>> abs(H - 1) < 1e-12 and abs(D - (1 - 2 / np.pi)) < 1e-12
    True
    """
    p, centroid, spread = cells(density, t)
    if levels is None:
        return entropy(p), float(spread.sum())
    c = np.asarray(levels, dtype=float)
    if c.shape != p.shape or not np.all(np.isfinite(c)):
        raise ValueError(f"levels must be {len(p)} finite numbers, one per cell; got shape {c.shape}")
    return entropy(p), float(np.sum(spread + p * (centroid - c)**2))


def excess(rate: float, distortion: float) -> float:
    r"""$R+\tfrac12\log_2D$: bits above the rate-distortion function of N(0,1), $D=2^{-2R}$.

    Raises ValueError unless `rate` is finite and `distortion` positive and finite.

    >>> excess(1.0, 0.25)
    0.0
    """
    if not (abs(rate) < np.inf and 0 < distortion < np.inf):
        raise ValueError(f"rate must be finite and distortion positive; got {rate}, {distortion}")
    return float(rate + 0.5 * np.log2(distortion))


def ecsq_uniform(density, rate: float, offset: float = 0.0,
                 steps: tuple[float, float] = (1e-2, 30.0)) -> tuple[float, float]:
    r"""Uniform thresholds with centroids at entropy `rate`: the step and the distortion.

    `steps` brackets the step for a source of unit variance.  With `offset` 1/2 no cell holds
    the mean, and for a symmetric source the rate never falls below 1 bit; rates out of reach
    raise ValueError.

    >>> from scipy.stats import norm
    >>> step, D = ecsq_uniform(norm(), 2.0)
    >>> round(step, 4), round(D, 5), round(excess(2.0, D), 4)
    (1.0824, 0.08894, 0.2545)
    """
    def miss(log_step):
        return rate_distortion(density, uniform_thresholds(np.exp(log_step), offset))[0] - rate

    if not 0 < steps[0] < steps[1] < np.inf:
        raise ValueError(f"steps must be an increasing pair of positive numbers; got {steps}")
    low, high = np.log(steps)
    if not miss(low) > 0 > miss(high):
        raise ValueError(f"rate must be within reach of the steps {steps}; got {rate}")
    step = float(np.exp(brentq(miss, low, high, xtol=1e-14)))
    return step, rate_distortion(density, uniform_thresholds(step, offset))[1]


def ecsq_gaussian(rate: float, midrise: bool = False):
    r"""The best thresholds for N(0,1) at entropy `rate`, symmetric about 0 (eq-uq-ecsq).

    Solves $(t_j-c_j)^2+\lambda\ell_j=(t_j-c_{j+1})^2+\lambda\ell_{j+1}$ at every threshold,
    $c_j$ centroids, $\ell_j=-\log_2P_j$, together with $H=R$, from three starts that differ in
    the number of cells; the solution with the least distortion is kept.

    Returns the thresholds (with both infinite ends), the distortion and $\lambda=-dD/dR$.
    Raises ValueError for rates outside [0.02, 5] (below 1.01 with `midrise`), or if no start
    solves the equations to 1e-9.

    >>> t, D, lam = ecsq_gaussian(2.0)
    >>> round(D, 5), round(excess(2.0, D), 4)
    (0.08892, 0.2544)
    """
    if not (1.01 if midrise else 0.02) <= rate <= 5:
        raise ValueError(f"rate must lie in [0.02, 5] (from 1.01 with midrise); got {rate}")
    step, D = ecsq_uniform(_NORMAL, rate, 0.5 if midrise else 0.0)

    def unfold(unknown):                       # log widths of the cells right of 0 -> thresholds
        half = np.cumsum(np.exp(unknown[:-1]))
        return np.concatenate(([-np.inf], -half[::-1], [0.0] * midrise, half, [np.inf]))

    def conditions(unknown):
        t, lam = unfold(unknown), np.exp(unknown[-1])
        p, m, _ = gaussian_moments(t)
        c, length = m / p, -np.log2(p)
        cost = (t[1:-1] - c[:-1])**2 - (t[1:-1] - c[1:])**2 + lam * (length[:-1] - length[1:])
        return np.append(cost[1 - len(unknown):], entropy(p) - rate)

    solved = []
    for reach in (4.0, 5.0, 6.0):
        half = np.arange(1.0 if midrise else 0.5, max(reach / step, 1.1)) * step
        start = np.log(np.append(np.diff(half, prepend=0.0), 2 * np.log(2) * D))
        with np.errstate(all="ignore"):        # a start that runs away is dropped below
            try:
                found = root(conditions, start, tol=1e-13).x
                if np.abs(conditions(found)).max() < 1e-9:
                    t = unfold(found)
                    solved.append((rate_distortion(_NORMAL, t)[1], t, float(np.exp(found[-1]))))
            except ValueError:
                continue
    if not solved:
        raise ValueError(f"rate {rate}: the conditions of the best quantizer were not solved")
    best, t, lam = min(solved, key=lambda s: s[0])
    return t, best, lam
