r"""Power companders $\mathrm{sign}(x)|x|^a$: the ones under which products of codes stay codes.

The grid is uniform and symmetric after compression: with $y=\mathrm{sign}(x)|x|^a$ the levels are
$\mathrm{sign}(m)\,(\varepsilon|m|)^{1/a}$, $m=-M,\dots,M$, $N=2M+1$.  Rounding is to the nearest
point *after* compression, ties to even codes.
"""
import numpy as np
import torch
from scipy.optimize import brentq, minimize_scalar
from scipy.special import digamma, gamma

from lecturelib.quantization import uniform
from lecturelib.quantization.density import cells, support


def compress(x: torch.Tensor, exponent: float) -> torch.Tensor:
    r"""$\mathrm{sign}(x)\,|x|^a$; the inverse is `compress(y, 1 / exponent)`.

    Raises ValueError unless `exponent` is positive and finite.

    >>> compress(torch.tensor([-4.0, 9.0]), 0.5).tolist()
    [-2.0, 3.0]
    """
    _exponent(exponent)
    return x.abs().pow(exponent).copysign(x)


def encode(x: torch.Tensor, exponent: float, step: float, levels: int, *,
           dtype: torch.dtype = torch.int32, out: torch.Tensor | None = None) -> torch.Tensor:
    r"""Codes $m=\mathrm{round}(\mathrm{sign}(x)|x|^a/\varepsilon)$, saturated to $\pm M$ (eq-pd-power).

    `levels` $N=2M+1$ is odd, so that 0 is a level; `step` $\varepsilon$ is in units of $|x|^a$;
    `x`, `dtype` and `out` are as in `uniform.encode`.
    Raises ValueError as `uniform.encode` does, on a `levels` that is even, and if $|x|^a$ overflows.

    >>> encode(torch.tensor([-0.3, 0.1, 0.26, 4.0]), 0.5, 0.25, 5).tolist()
    [-2, 1, 2, 2]
    """
    bounds = _bounds(levels)
    _exponent(exponent)
    uniform.encode(torch.empty(0), step, bounds=bounds, dtype=dtype)       # checks step and dtype
    out = uniform._output(x, out, dtype)
    for a, m, eps, _ in uniform._chunks(x, out, step, 0.0, bounds):
        uniform.encode(compress(a.to(eps.dtype), exponent), step, bounds=bounds, dtype=dtype, out=m)
    return out


def decode(codes: torch.Tensor, exponent: float, step: float, *,
           dtype: torch.dtype = torch.float32) -> torch.Tensor:
    r"""Levels $\mathrm{sign}(m)\,(\varepsilon|m|)^{1/a}$ of any integer codes (eq-pd-power).

    Codes beyond $\pm M$ are welcome: they are products.  For two tensors with the same exponent,
    decode(m n, a, ε ε') = decode(m, a, ε) decode(n, a, ε').

    >>> decode(torch.tensor([-3, 2, -6]), 0.5, 1.0).tolist()
    [-9.0, 4.0, -36.0]
    """
    _exponent(exponent)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    levels = compress(uniform.decode(codes, step, dtype=compute), 1 / exponent).to(dtype)
    if not torch.isfinite(levels).all():
        raise ValueError(f"codes, step and exponent must give finite levels in {dtype}")
    return levels


def quantize(x: torch.Tensor, exponent: float, step: float, levels: int, *,
             out: torch.Tensor | None = None) -> torch.Tensor:
    """Reconstruction, `decode` of `encode`, in the dtype of `x`; errors as there, `out` as in `uniform.quantize`.

    >>> quantize(torch.tensor([-0.3, 0.1, 4.0]), 0.5, 0.25, 5).tolist()
    [-0.25, 0.0625, 0.25]
    """
    out = uniform._output(x, out, x.dtype if isinstance(x, torch.Tensor) else None)
    for a, q, *_ in uniform._chunks(x, out, step, 0.0, _bounds(levels)):
        q.copy_(decode(encode(a, exponent, step, levels), exponent, step, dtype=x.dtype))
    return out


def grid(exponent: float, half_range: float, levels: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Thresholds (ends at $\pm\infty$) and levels with outermost threshold near $\pm A$.

    $\varepsilon=2A^a/N$, so that $N$ cells of equal length fill $[-A^a,A^a]$ after compression.

    >>> [v.round(3).tolist() for v in grid(0.5, 2.25, 3)]
    [[-inf, -0.25, 0.25, inf], [-1.0, 0.0, 1.0]]
    """
    low, high = _bounds(levels)
    _exponent(exponent)
    _half_range(half_range)
    step = 2 * half_range**exponent / levels

    def expand(y):
        return np.sign(y) * np.abs(y * step)**(1 / exponent)
    t = expand(np.arange(low, high) + 0.5)
    return np.concatenate(([-np.inf], t, [np.inf])), expand(np.arange(low, high + 1.0))


def distortion(density, exponent: float, half_range: float, levels: int) -> float:
    r"""$\mathbb E(X-q(X))^2$ of the power grid, granular and overload error together.

    >>> from scipy.stats import norm
    >>> round(distortion(norm(), 0.8, 2.79, 15), 5)
    0.01181
    """
    t, c = grid(exponent, half_range, levels)
    mass, centroid, spread = cells(density, t)
    return float(np.sum(spread + mass * (c - centroid)**2))


def best_range(density, exponent: float, levels: int) -> tuple[float, float]:
    """Half range with the least error, from 1 to 12 times the root mean square, and that error.

    The second moment has to be finite.

    >>> from scipy.stats import norm
    >>> [round(v, 4) for v in best_range(norm(0, 10), 1.0, 15)]
    [26.5058, 1.2889]
    """
    _, mean, variance = cells(density, support(density))
    low = 0.5 * np.log(variance[0] + mean[0]**2)
    found = minimize_scalar(lambda v: distortion(density, exponent, np.exp(v), levels),
                            bounds=(low, low + np.log(12.0)), method="bounded", options={"xatol": 1e-7})
    return float(np.exp(found.x)), float(found.fun)


def best(density, levels: int) -> tuple[float, float, float]:
    """Best exponent in [0.2, 1.2], its best half range and error.

    >>> from scipy.stats import norm
    >>> [round(v, 4) for v in best(norm(), 15)]
    [0.8086, 2.7845, 0.0118]
    """
    a = minimize_scalar(lambda a: best_range(density, a, levels)[1], bounds=(0.2, 1.2),
                        method="bounded", options={"xatol": 1e-5}).x
    return (float(a), *best_range(density, a, levels))


def gaussian_granular(exponent: float, half_range: float) -> float:
    r"""Bennett's $N^2D$ inside the range for N(0,1): $A^{2a}\,\mathbb E|X|^{2-2a}/(3a^2)$ (eq-pd-power-error).

    The moment is that of the whole line, which is right for a large range; it is finite for
    exponents below 3/2.  Raises ValueError on others and unless the half range is positive.

    >>> round(gaussian_granular(1.0, 3.0), 6)
    3.0
    """
    _half_range(half_range)
    if not 0 < uniform._number(exponent) < 1.5:
        raise ValueError(f"exponent must lie in (0, 3/2); got {exponent!r}")
    s = 2 - 2 * exponent
    return float(half_range**(2 * exponent) / (3 * exponent**2) * 2**(s / 2) * gamma((s + 1) / 2) / np.sqrt(np.pi))


def gaussian_exponent(half_range: float) -> float:
    r"""The exponent that minimizes `gaussian_granular`: $\frac1a=\ln A-\frac12[\ln2+\psi(\frac32-a)]$.

    Raises ValueError unless `half_range` lies in [1.5, 1e6].

    >>> a = gaussian_exponent(4.0)
    >>> all(gaussian_granular(a, 4.0) < gaussian_granular(a + d, 4.0) for d in (-1e-3, 1e-3))
    True
    """
    if not 1.5 <= half_range <= 1e6:
        raise ValueError(f"half_range must lie in [1.5, 1e6]; got {half_range}")

    def slope(a):
        return 1 / a - np.log(half_range) + (np.log(2) + digamma(1.5 - a)) / 2
    return float(brentq(slope, 0.02, 1.49))


def _bounds(levels) -> tuple[int, int]:
    offset, bounds = uniform.grid(levels)
    if offset:
        raise ValueError(f"levels must be odd, so that 0 is a level; got {levels}")
    return bounds


def _half_range(half_range) -> None:
    if not 0 < uniform._number(half_range) < np.inf:
        raise ValueError(f"half_range must be a positive finite number; got {half_range!r}")


def _exponent(exponent) -> None:
    if not 0 < uniform._number(exponent) < np.inf:
        raise ValueError(f"exponent must be a positive finite number; got {exponent!r}")
