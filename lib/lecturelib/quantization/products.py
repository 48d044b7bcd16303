r"""Products of quantized Gaussian matrices: the error they make, and the error they must make.

$Y=A^\top B$ with $A$ of shape (n, a), $B$ of shape (n, b) and independent N(0, 1) entries; errors
are $\frac1{nab}\mathbb E\|\hat Y-Y\|_F^2$, so that $\hat Y=0$ has error 1.
"""
import numpy as np
import torch
from scipy.special import lambertw

from .density import cells

_X = float(-0.5 - lambertw(-0.5 * np.exp(-0.5), k=-1).real)       # the root x > 0 of e^x = 1 + 2x
CRITICAL_RATE = float(_X / (2 * np.log(2)))                       # below it, dropping rows is better


def gaussian_naive(rate):
    r"""$2\cdot2^{-2R}-2^{-4R}=1-\varphi^2$, $\varphi=1-2^{-2R}$: both factors coded at distortion $2^{-2R}$.

    `rate` in bits per entry, a number or an array, not negative; else ValueError.  Source:
    thm-motivation-sandwich.

    >>> float(gaussian_naive(1.0))
    0.4375
    """
    _phi(rate)
    u = 2.0**(-2 * np.asarray(rate, dtype=float))
    return (u * (2 - u))[()]             # 1 - (1 - u)^2 without cancellation


def gaussian_limit(rate):
    r"""$\Gamma(R)$, the least error of any scheme at `rate` bits per entry (eq-motivation-gamma).

    From $R^*=0.9063$ on it is `gaussian_naive`, below the straight line from (0, 1) that touches it.
    `rate` as there.  Source: Ordentlich and Polyanskiy, arXiv 2410.13780.

    >>> [round(float(gaussian_limit(r)), 5) for r in (0.0, 0.5, 1.0, 4.0)]
    [1.0, 0.71771, 0.4375, 0.0078]
    """
    naive = gaussian_naive(rate)
    line = 1 - np.asarray(rate) / CRITICAL_RATE * _phi(CRITICAL_RATE)**2
    return np.where(np.asarray(rate) < CRITICAL_RATE, line, naive)[()]


def correlation_power(density, t, c) -> tuple[float, float]:
    r"""$(\mathbb E[Xq],\mathbb E[q^2])$ of the quantizer with thresholds `t` (ends included) and levels `c`.

    `density` has a `pdf`.  Raises ValueError unless `t` increases and is longer than `c` by one.

    >>> from scipy.stats import norm                     # the sign of a Gaussian: E|X|, 1
    >>> c, s = correlation_power(norm(), [-np.inf, 0, np.inf], [-1, 1])
    >>> abs(c**2 - 2 / np.pi) < 1e-12, abs(s - 1) < 1e-12
    (True, True)
    """
    mass, centroid, _ = cells(density, t)
    c = np.asarray(c, dtype=float)
    if c.shape != mass.shape:
        raise ValueError(f"c must hold one level for each of the {len(mass)} cells; got shape {c.shape}")
    return float(c @ (mass * centroid)), float(c**2 @ mass)


def product_error(first, second, gain: float = 1.0) -> float:
    r"""Error $1-2g\,c_Ac_B+g^2s_As_B$ of $g\,\hat A^\top\hat B$ (eq-motivation-raw), entries of variance 1.

    `first`, `second` : the pairs (E[Xq], E[q^2]) of the two entrywise quantizers, whose outputs
    have mean 0.  Raises ValueError where no quantizer has such a pair: $c^2>s$.

    >>> product_error((0.75, 0.75), (0.75, 0.75))        # centroids, D = 1/4: 2 D - D^2
    0.4375
    """
    (ca, sa), (cb, sb) = _pair("first", first), _pair("second", second)
    return float(1 - 2 * gain * ca * cb + gain**2 * sa * sb)


def best_gain(first, second) -> float:
    """The gain g with the least `product_error`, $c_Ac_B/(s_As_B)$; 0 where the product vanishes.

    >>> round(best_gain((0.8, 1.0), (0.8, 1.0)), 2)
    0.64
    """
    (ca, sa), (cb, sb) = _pair("first", first), _pair("second", second)
    return ca * cb / (sa * sb) if sa * sb else 0.0


def measured_error(Y_hat: torch.Tensor, A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    r"""$\frac1{nab}\|\hat Y-A^\top B\|_F^2$ for each pair of a batch of matrices (..., n, a), (..., n, b).

    Where the tensors live, in their dtype; the shape is that of the batch.  Raises ValueError if
    shapes do not fit or the result is not finite.

    >>> A, B = torch.ones(4, 2), torch.ones(4, 3)        # Y = 4 everywhere
    >>> float(measured_error(torch.zeros(2, 3), A, B))
    4.0
    """
    if not all(isinstance(Z, torch.Tensor) and Z.is_floating_point() for Z in (Y_hat, A, B)):
        raise ValueError("Y_hat, A and B must be floating-point tensors")
    if A.ndim < 2 or B.ndim < 2 or A.shape[-2] != B.shape[-2]:
        raise ValueError(f"A and B must have the same number of rows; got {tuple(A.shape)} and {tuple(B.shape)}")
    Y = A.mT @ B
    if Y_hat.shape != Y.shape:
        raise ValueError(f"Y_hat must have the shape {tuple(Y.shape)} of the product; got {tuple(Y_hat.shape)}")
    error = (Y_hat - Y).square().mean((-2, -1)) / A.shape[-2]
    if not torch.isfinite(error).all():
        raise ValueError("Y_hat, A and B must be finite")
    return error


def _phi(rate):
    rate = np.asarray(rate, dtype=float)
    if not np.all((rate >= 0) & np.isfinite(rate)):
        raise ValueError(f"rate must be finite and not negative, in bits per entry; got {rate}")
    return (1 - 2.0**(-2 * rate))[()]


def _pair(name, value) -> tuple[float, float]:
    c, s = map(float, value)
    if not (np.isfinite(s) and c * c <= s * (1 + 1e-9) + 1e-15):
        raise ValueError(f"{name} must be (E[Xq], E[q^2]) with E[Xq]^2 <= E[q^2]; got {value}")
    return c, s
