r"""What vectors gain over scalars: Zador's formula, its three factors, and exact second moments.

Errors are mean squares per coordinate, rates bits per coordinate.  Zador's formula reads
$D_d(R)\simeq G_d\,\|p\|_{d/(d+2)}\,2^{-2R}$ with $\|p\|_\alpha=(\int p^\alpha)^{1/\alpha}$, and
$\|p\|_{d/(d+2)}=2^{2h_\alpha/d}$ with the Rényi entropy $h_\alpha$ of order $\alpha=\frac d{d+2}$.
"""
import math
from fractions import Fraction

from lecturelib.quantization.panter_dite import power_integral
from lecturelib.quantization.uniform import _whole

LIMIT = 1 / (2 * math.pi * math.e)     # of the normalized second moment, in high dimension


def ball_moment(d: int) -> float:
    r"""Normalized second moment of the ball, $\frac{\Gamma(d/2+1)^{2/d}}{(d+2)\pi}$ (prop-vec-ball).

    >>> abs(ball_moment(1) - 1 / 12) < 1e-15, ball_moment(1000) > LIMIT
    (True, True)
    """
    _dimension(d)
    return math.exp(2 / d * math.lgamma(d / 2 + 1)) / ((d + 2) * math.pi)


def norm_factor(density, d: int) -> float:
    r"""$\|p^{\otimes d}\|_{d/(d+2)}=\big(\int p^{d/(d+2)}\big)^{d+2}$ for d independent samples of `density`.

    >>> from scipy.stats import norm, uniform
    >>> abs(norm_factor(norm(), 3) - gaussian_factor(3)) < 1e-9, abs(norm_factor(uniform(), 5) - 1) < 1e-12
    (True, True)
    """
    _dimension(d)
    return power_integral(density, d / (d + 2))**(d + 2)


def gaussian_factor(d: float) -> float:
    r"""The same for N(0,1): $2\pi\big(\frac{d+2}d\big)^{(d+2)/2}$, and $2\pi e$ for `d` = math.inf.

    >>> abs(gaussian_factor(1) / 12 - math.sqrt(3) * math.pi / 2) < 1e-12       # Panter and Dite
    True
    """
    if d == math.inf:
        return 2 * math.pi * math.e
    _dimension(d)
    return 2 * math.pi * ((d + 2) / d)**((d + 2) / 2)


def decibel(ratio: float) -> float:
    """>>> round(decibel(4.0), 4)
    6.0206
    """
    return 10 * math.log10(ratio)


def cartan(name: str) -> list[list[int]]:
    """Inner products of simple roots of length sqrt 2: `A1`, `A2`, ..., `D4`, `D5`, ..., `E6`, `E7`, `E8`.

    >>> cartan("A2")
    [[2, -1], [-1, 2]]
    """
    kind, n = name[:1], int(name[1:]) if name[1:].isdigit() else 0
    if not (kind == "A" and n >= 1 or kind == "D" and n >= 4 or kind == "E" and 6 <= n <= 8):
        raise ValueError(f"name must be A1, A2, ..., D4, D5, ..., E6, E7 or E8; got {name!r}")
    edges = [(i, i + 1) for i in range(n - 1)]
    if kind == "D":
        edges[-1] = (n - 3, n - 1)
    if kind == "E":                                        # a chain of n-1 and a branch at its third from the end
        edges[-1] = (n - 4, n - 1)
    gram = [[2 * (i == j) for j in range(n)] for i in range(n)]
    for i, j in edges:
        gram[i][j] = gram[j][i] = -1
    return gram


def highest_root(gram: list[list[int]]) -> list[int]:
    """Coefficients of the highest root in the simple roots: add one while an inner product is negative.

    >>> highest_root(cartan("D4")), sorted(highest_root(cartan("E8")))
    ([1, 2, 1, 1], [2, 2, 3, 3, 4, 4, 5, 6])
    """
    n = len(gram)
    root = [int(i == 0) for i in range(n)]
    while True:
        products = [sum(root[i] * gram[i][j] for i in range(n)) for j in range(n)]
        low = [j for j in range(n) if products[j] < 0]
        if not low:
            return root
        root[low[0]] += 1


def root_moment(name: str) -> tuple[Fraction, int]:
    r"""$\frac1n\mathbb E\|U\|^2$ over the Voronoi cell of a root lattice, exact, and its Gram determinant.

    The cell is cut into congruent simplices with the vertices 0 and $\omega_i/m_i$, the fundamental
    weights over the coefficients of the highest root (thm-vec-root), and
    $\mathbb E\|U\|^2=\frac{\sum_i\|v_i\|^2+\|\sum_iv_i\|^2}{(n+1)(n+2)}$ over a simplex with a vertex at 0.
    The normalized moment is the first number over the determinant to the power 1/n.

    >>> root_moment("E8")
    (Fraction(929, 12960), 1)
    """
    gram = cartan(name)
    n, marks = len(gram), highest_root(gram)
    inverse, determinant = _inverse(gram)                  # inner products of the fundamental weights
    g = [[inverse[i][j] / (marks[i] * marks[j]) for j in range(n)] for i in range(n)]
    total = sum(g[i][i] for i in range(n)) + sum(map(sum, g))
    return total / (n * (n + 1) * (n + 2)), int(determinant)


def chambers(name: str) -> int:
    """Number of simplices in the cell, the order of the Weyl group: cell volume over simplex volume.

    >>> chambers("A2"), chambers("E8")
    (6, 696729600)
    """
    gram = cartan(name)
    n, (_, determinant) = len(gram), _inverse(gram)
    return int(determinant) * math.factorial(n) * math.prod(highest_root(gram))


def _inverse(matrix):
    """Inverse and determinant in rational arithmetic, for a positive definite matrix."""
    n = len(matrix)
    rows = [[Fraction(v) for v in row] + [Fraction(int(i == j)) for j in range(n)] for i, row in enumerate(matrix)]
    determinant = Fraction(1)
    for i in range(n):
        pivot = rows[i][i]
        determinant *= pivot
        rows[i] = [v / pivot for v in rows[i]]
        for j in range(n):
            if j != i and rows[j][i]:
                rows[j] = [a - rows[j][i] * b for a, b in zip(rows[j], rows[i])]
    return [row[n:] for row in rows], determinant


def _dimension(d) -> None:
    if not _whole(d) or d < 1:
        raise ValueError(f"d must be an integer of at least 1; got {d!r}")
