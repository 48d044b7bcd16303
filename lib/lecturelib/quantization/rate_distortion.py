r"""The rate-distortion plane: every scheme a curve of rates and errors, for one source.

`schemes` computes the curves of scalar quantization, `plane` draws them; a further scheme is one
more entry `name: (rates, errors)` of the dictionary.
"""
import numpy as np
from matplotlib.axes import Axes
from scipy.optimize import brentq
from scipy.stats import norm

from lecturelib import plots
from lecturelib.quantization import distortion, entropy, panter_dite
from lecturelib.quantization.density import cells, check, quantiles, support
from lecturelib.quantization.lloyd_max import lloyd_max

Curves = dict[str, tuple[np.ndarray, np.ndarray]]
SHANNON = "Shannon"


def entropy_power(density) -> float:
    r"""$\frac1{2\pi e}2^{2h(X)}$ of a source with a density: the variance, for a Gaussian.

    Shannon's lower bound is $D(R)\ge$ `entropy_power` $\cdot2^{-2R}$, an equality for a Gaussian.

    >>> abs(entropy_power(norm(1, 3)) - 9) < 1e-9
    True
    """
    a, b = support(density)
    t = np.unique(np.concatenate(([a], quantiles(density, np.linspace(0, 1, 34)[1:-1]), [b])))
    peak = 2 * float(np.max(density.pdf(t[np.isfinite(t)])))

    def term(sign):
        class Part:                                    # max(±p log2(peak / p), 0): `cells` wants p >= 0
            @staticmethod
            def pdf(x):
                p = np.asarray(density.pdf(x), dtype=float)
                safe = np.where(p > 0, p, 1.0)
                return np.maximum(sign * p * (np.log2(peak) - np.log2(safe)), 0.0)
        return float(cells(Part, t)[0].sum())
    h = term(1) - term(-1) - np.log2(peak)
    return float(2**(2 * h) / (2 * np.pi * np.e))


def schemes(density=None, bits=range(1, 9)) -> Curves:
    r"""Rates (bits per sample) and mean square errors of the classical schemes.

    Parameters
    ----------
    density : source of variance 1 and mean 0, symmetric, as in lecturelib.quantization.density;
        None is N(0,1).
    bits : increasing whole rates from 1; the entropy-coded curve fills the range between them.

    Returns a dictionary: "uniform" ($2^b$ levels, best range), "Lloyd–Max" (the best $2^b$ levels),
    "Panter–Dite" (the asymptote of the latter), "entropy-coded" (uniform thresholds, centroids,
    at entropy $R$), and "Shannon" ($2^{-2R}$ times the entropy power: the rate-distortion function
    of a Gaussian, a lower bound for others).  Raises ValueError unless the density is one, has
    variance 1, and `bits` are increasing integers of at least 1.

    >>> curves = schemes(bits=(1, 2))
    >>> rates, errors = curves["Lloyd–Max"]
    >>> errors.round(4).tolist()
    [0.3634, 0.1175]
    """
    bits = np.asarray(list(bits))
    if bits.ndim != 1 or not bits.size or bits.dtype.kind != "i" or bits[0] < 1 or np.any(np.diff(bits) < 1):
        raise ValueError(f"bits must be increasing integers of at least 1; got {bits.tolist()}")
    source = norm() if density is None else density
    check(source)
    _, mean, variance = cells(source, support(source))
    if not (abs(mean[0]) < 1e-6 and abs(variance[0] - 1) < 1e-6):
        raise ValueError(f"density must have mean 0 and variance 1; got {mean[0]:.4g} and {variance[0]:.4g}")
    fine = np.unique(np.concatenate((np.linspace(0.1, bits[-1], 8 * int(bits[-1])), bits)))
    uniform = [sum(distortion.clipped_distortion(source, distortion.optimal_range(source, 2**int(b)), 2**int(b)))
               for b in bits]
    return {
        "uniform": (bits.astype(float), np.array(uniform)),
        "Lloyd–Max": (bits.astype(float), np.array([lloyd_max(source, 2**int(b)).distortion for b in bits])),
        "Panter–Dite": (fine, panter_dite.constant(source) * 4.0**-fine),
        "entropy-coded": (fine, np.array([_entropy_coded(source, r) for r in fine])),
        SHANNON: (fine, entropy_power(source) * 4.0**-fine),
    }


def _entropy_coded(source, rate: float) -> float:
    """Error of uniform thresholds, one cell centered at 0, with centroids, at entropy `rate`."""
    reach = float(np.max(np.abs(quantiles(source, [1e-15, 1 - 1e-12]))))

    def parts(log_step):
        mass, _, spread = cells(source, entropy.uniform_thresholds(np.exp(log_step), reach=reach))
        return entropy.entropy(mass), float(spread.sum())
    guess = 0.5 * np.log(2 * np.pi * np.e * entropy_power(source)) - rate * np.log(2)
    return parts(brentq(lambda s: parts(s)[0] - rate, guess - 3, max(guess + 3, np.log(4 * reach)), rtol=1e-13))[1]


def plane(ax: Axes, curves: Curves, *, gap: bool = False) -> None:
    r"""Draw `curves` over the rate: the errors on a logarithmic axis or, with `gap`, the rate lost.

    The rate lost is $R-\frac12\log_2(S/D)$, bits above Shannon's curve $S\,2^{-2R}$, which is the
    dashed line and must be among the curves.  Up to eight rates are drawn as points, more as a line.
    Raises ValueError if a curve is not two arrays of one length, not empty, of finite rates and positive errors.
    """
    if SHANNON not in curves:
        raise ValueError(f"curves must contain {SHANNON!r}")
    power = None
    marks = iter("os^vDPX*" * 4)
    for name, (rates, errors) in sorted(curves.items(), key=lambda item: item[0] != SHANNON):
        rates, errors = np.asarray(rates, dtype=float), np.asarray(errors, dtype=float)
        if rates.ndim != 1 or not rates.size or rates.shape != errors.shape or not np.all(np.isfinite(rates)) or \
                not np.all((errors > 0) & (errors < np.inf)):
            raise ValueError(f"curves[{name!r}] must be two arrays of one length, finite rates and positive errors")
        if name == SHANNON:
            power = errors[0] * 4.0**rates[0]
        y = rates + 0.5 * np.log2(errors / power) if gap else errors
        if name == SHANNON:
            plots.limit(ax, rates, y, name)
        else:
            ax.plot(rates, y, next(marks) if len(rates) <= 8 else "-", label=name)
    ax.set(xlabel="rate $R$ (bit per sample)", ylabel="bits above Shannon" if gap else "mean square error $D$")
    if not gap:
        ax.set_yscale("log")
