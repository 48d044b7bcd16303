"""The law of the error $X-q(X)$ of a uniform quantizer without ends: exact, for every source."""
import numpy as np

from lecturelib.quantization.uniform import _positive


def wrapped_density(pdf, e, step: float, offset: float = 0.0, reach: float = 40.0):
    r"""Density of the error at `e`: $\sum_m p(e+(m+o)\varepsilon)$ for $|e|\le\varepsilon/2$.

    `pdf` is a vectorized density; cells farther than `reach` from 0 are left out.
    Returns an array like `e`; zero outside the cell.  Source: thm-uq-fourier.
    Raises ValueError if `e` or a parameter is not finite, or `step` or `reach` not positive.

    >>> from scipy.stats import uniform
    >>> float(wrapped_density(uniform(-0.5, 1).pdf, 0.05, 0.25, 0.5))
    4.0
    """
    _positive(step=step, reach=reach)
    _finite(offset=offset, e=e)
    e = np.asarray(e, dtype=float)
    m = np.arange(np.floor(-reach / step - offset) - 1, np.ceil(reach / step - offset) + 2)
    density = pdf(e[..., None] + (m + offset) * step).sum(-1)
    return np.where(np.abs(e) <= step / 2, density, 0.0)


def mean_square(cf, step: float, offset: float = 0.0, terms: int = 4096) -> float:
    r"""$\mathbb E(X-q(X))^2$ from the characteristic function of $X$ (eq-uq-fourier).

    $$\frac{\varepsilon^2}{12}+\frac{\varepsilon^2}{\pi^2}\sum_{k\ge1}\frac{(-1)^k}{k^2}
      \mathrm{Re}\,\big[e^{-2\pi iko}\,\varphi_X(2\pi k/\varepsilon)\big]$$

    `cf` maps an array of frequencies to $\mathbb E e^{itX}$; the sum is cut after `terms`, which
    leaves out at most $\varepsilon^2/(\pi^2\cdot$ `terms`$)$.  Raises ValueError unless `step` > 0,
    `terms` ≥ 1, `offset` and the values of `cf` are finite.

    >>> import math
    >>> laplace = mean_square(lambda t: 1 / (1 + t * t), 1.0)
    >>> abs(laplace - (2 - 1 / math.sinh(0.5))) < 1e-11
    True
    """
    _positive(step=step)
    _finite(offset=offset)
    if not 1 <= terms < np.inf or terms != int(terms):
        raise ValueError(f"terms must be an integer of at least 1; got {terms}")
    k = np.arange(1, int(terms) + 1)
    phi = np.exp(-2j * np.pi * k * offset) * cf(2 * np.pi * k / step)
    _finite(cf=phi)
    return step**2 / 12 + step**2 / np.pi**2 * float(np.sum((-1.0)**k / k**2 * phi.real))


def variation_bound(variation: float, step: float) -> float:
    r"""Bound $V\varepsilon^3/(36\sqrt3)$ on $|\mathbb E(X-q(X))^2-\varepsilon^2/12|$.

    `variation` is the total variation $V$ of the density on the whole line, jumps included.
    Raises ValueError if it is negative or NaN, or `step` not positive.  Source: prop-uq-variation.

    >>> round(variation_bound(2.0, 1.0), 6)
    0.032075
    """
    _positive(step=step)
    if not variation >= 0:
        raise ValueError(f"variation must be at least 0; got {variation}")
    return float(variation * step**3 / (36 * np.sqrt(3)))


def _finite(**values) -> None:
    for name, value in values.items():
        if not np.all(np.isfinite(value)):
            raise ValueError(f"{name} must be finite; got a NaN or an infinity")
