"""Squared Wasserstein-2 distance on the line: from a density to finitely many atoms, and as a linear program."""
import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from lecturelib.quantization import density as densities


def squared(density, points, weights) -> float:
    r"""$W_2^2(P,\nu)$ for a `density` $P$ and the law $\nu$ with `weights` at the increasing `points`.

    The optimal coupling on the line is the increasing one: the mass between the quantiles
    $u_{j-1}$ and $u_j=w_1+\dots+w_j$ goes to $c_j$, so the squared distance is
    $\int_0^1(F^{-1}(u)-G^{-1}(u))^2du$ (thm-cb-wasserstein).  Raises ValueError unless the points
    increase and the weights are at least 0 and add up to 1 within 1e-9.

    >>> from scipy.stats import uniform
    >>> round(squared(uniform(), [0.25, 0.75], [0.5, 0.5]), 12) == round(1 / 48, 12)
    True
    """
    c, w = np.array(points, dtype=float), np.array(weights, dtype=float)
    if c.ndim != 1 or not np.all(np.isfinite(c)) or not np.all(c[1:] > c[:-1]):
        raise ValueError("points must be finite increasing numbers")
    if w.shape != c.shape or not np.all(w >= 0) or not abs(w.sum() - 1) < 1e-9:
        raise ValueError("weights must be at least 0, one per point, and add up to 1")
    c, w = c[w > 0], w[w > 0]
    a, b = densities.support(density)
    inner = densities.quantiles(density, np.cumsum(w[:-1])) if len(w) > 1 else np.zeros(0)
    mass, centroid, spread = densities.cells(density, np.concatenate(([a], inner, [b])))
    return float(np.sum(spread + mass * (centroid - c)**2))


def transport(cost, source=None, target=None) -> tuple[float, np.ndarray]:
    r"""Least $\sum_{ij}\pi_{ij}\,$`cost`$_{ij}$ over laws $\pi\ge0$, $\sum\pi=1$, and a minimizer.

    `source` and `target` prescribe the marginals $\sum_j\pi_{ij}$ and $\sum_i\pi_{ij}$; None leaves
    a marginal free.  Solved as a linear program by HiGHS.  Raises ValueError unless the marginals
    are probability vectors of the right length.

    >>> transport([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5], [0.25, 0.75])[0]
    0.25
    """
    cost = np.array(cost, dtype=float)
    if cost.ndim != 2 or not np.all(np.isfinite(cost)):
        raise ValueError("cost must be a matrix of finite numbers")
    n, m = cost.shape
    row, column = np.divmod(np.arange(n * m), m)
    rows, right, above = [np.zeros(n * m, dtype=int)], [np.ones(1)], 1
    for name, law, index, size in (("source", source, row, n), ("target", target, column, m)):
        if law is not None:
            law = np.array(law, dtype=float)
            if law.shape != (size,) or not np.all(law >= 0) or not abs(law.sum() - 1) < 1e-9:
                raise ValueError(f"{name} must be {size} probabilities that add up to 1")
            rows.append(above + index)
            right.append(law / law.sum())
            above += size
    k = np.tile(np.arange(n * m), len(rows))
    matrix = coo_array((np.ones(len(k)), (np.concatenate(rows), k)), shape=(above, n * m)).tocsr()
    solved = linprog(cost.ravel(), A_eq=matrix, b_eq=np.concatenate(right), method="highs")
    if not solved.success:
        raise ValueError(f"cost, source and target: the linear program was not solved ({solved.message})")
    return float(solved.fun), solved.x.reshape(n, m)
