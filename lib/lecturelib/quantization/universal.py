r"""One codebook for all quadratic losses: its price in bits, and a trellis searched under any weights.

The loss of a word $w\in\mathbb R^n$ is $\frac1n\sum_i\lambda_i(w_i-\hat w_i)^2$; the encoder knows the weights
$\lambda$, the decoder does not.  Rates are in bits per number; the source is N(0, I).
"""
import numpy as np
import torch
from scipy.optimize import minimize_scalar

from lecturelib.quantization import trellis as trellises
from lecturelib.quantization.trellis import Trellis

LN2 = float(np.log(2))


def random_code(u, variance: float):
    r"""$f_v(u)=\frac12\ln(1+2uv)+\frac u{1+2uv}$ in nats (eq-open-random), for numbers or arrays $u\ge0$.

    Minus the logarithm of $\mathbb E\,e^{-u(w-\hat w)^2}$ over $\hat w\sim\mathcal N(0,v)$, averaged over $w\sim\mathcal N(0,1)$.
    """
    u = np.asarray(u, dtype=float)
    return 0.5 * np.log1p(2 * u * variance) + u / (1 + 2 * u * variance)


def adapted(u):
    r"""$g(u)=\min_{0<d\le1}\big[\frac12\ln\frac1d+ud\big]$ in nats: what water-filling pays; arrays $u\ge0$.

    >>> adapted([0.25, 0.5]).tolist()
    [0.25, 0.5]
    """
    u = np.asarray(u, dtype=float)
    return np.where(2 * u >= 1, 0.5 * np.log(np.maximum(2 * u, 1.0)) + 0.5, u)


def price(variance: float) -> float:
    r"""$\max_{u}[f_v(u)-g(u)]$ in bits, the most that random words of this variance lose (thm-open-price).

    As $u\to\infty$ the difference tends to $\frac12(\ln v+\frac1v-1)$.  Raises ValueError unless the
    variance is positive and finite.

    >>> round(price(1.0), 6)                              # words as long as the source
    0.176834
    """
    if not 0 < variance < np.inf:
        raise ValueError(f"variance must be positive and finite; got {variance}")
    inner = minimize_scalar(lambda u: adapted(u) - random_code(u, variance), bounds=(0, 0.5), method="bounded",
                            options={"xatol": 1e-12}).x
    far = 0.5 * (np.log(variance) + 1 / variance - 1)
    corner = random_code(0.5, variance) - adapted(0.5)
    return float(max(random_code(inner, variance) - adapted(inner), corner, far)) / LN2


def best_variance() -> tuple[float, float]:
    """The variance of the words with the least `price`, and that price in bits.

    >>> v, bits = best_variance()
    >>> round(v, 4), round(bits, 4)
    (0.6052, 0.1083)
    """
    found = minimize_scalar(price, bounds=(0.3, 1.0), method="bounded", options={"xatol": 1e-12})
    return float(found.x), float(found.fun)


def random_code_rate(weights, distortion: float, variance: float) -> float:
    r"""$R_v(D)=\sup_{s\ge0}\big[\frac1n\sum_if_v(s\lambda_i)-sD\big]$ in bits (eq-open-random).

    Raises ValueError unless the weights are finite, not negative and not all zero, and D and the variance are
    positive and finite.
    """
    lam = _weights(weights)
    if not 0 < variance < np.inf:
        raise ValueError(f"variance must be positive and finite; got {variance}")
    if not 0 < distortion < np.inf:
        raise ValueError(f"distortion must be positive and finite; got {distortion}")
    found = minimize_scalar(lambda log_s: np.exp(log_s) * distortion - random_code(np.exp(log_s) * lam, variance).mean(),
                            bounds=(-30 - np.log(lam.max()), 60 - np.log(lam.max())), method="bounded", options={"xatol": 1e-11})
    return max(0.0, float(-found.fun)) / LN2


@torch.no_grad()
def search(x: torch.Tensor, weights: torch.Tensor, code: Trellis) -> torch.Tensor:
    r"""The path of `code` with the least $\sum_t\lambda_t(x_t-\hat x_t)^2$, exactly, by dynamic programming.

    Parameters
    ----------
    x : float tensor (batch, T), finite.
    weights : float tensor (T,) or (batch, T), finite and not negative.

    Returns symbols (batch, `code.memory` + T), uint8, for `trellis.decode`: the decoder is the one that
    knows nothing of the weights.  Raises ValueError on other input.

    >>> two = Trellis(2, 1, torch.tensor([-1.5, 0.5, -0.5, 1.5]))
    >>> x = torch.tensor([[0.6, 9.0, -0.4]])
    >>> trellises.decode(search(x, torch.tensor([1.0, 0.0, 1.0]), two), two)[0, ::2].tolist()
    [0.5, -0.5]
    """
    x = trellises._rows(x)
    if not isinstance(weights, torch.Tensor) or weights.shape not in (x.shape, x.shape[1:]) or \
            not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ValueError(f"weights must be finite and not negative, of shape {tuple(x.shape[1:])} or {tuple(x.shape)}")
    w = weights.to(x.dtype).expand(x.shape)
    c = code.codebook.to(x.device, x.dtype)
    table, m = trellises.butterfly(c, code.L, code.k), code.memory
    codes = torch.empty(len(x), m + x.shape[1], dtype=torch.uint8, device=x.device)

    def branch(rows, t, out):
        torch.sub(table, x[rows, t].view(-1, 1, 1, 1), out=out)
        out.square_().mul_(w[rows, t].view(-1, 1, 1, 1))

    def near(rows, t, s):
        return (c[s] - x[rows, t].unsqueeze(-1)).square_().mul_(w[rows, t].unsqueeze(-1))
    for rows in trellises.groups(len(x), x.shape[1], code.L, code.k):
        costs = trellises.forward(branch, rows, x, code.L, code.k)
        begin = trellises.backward(near, rows, costs, code.L, code.k, codes[:, m:])
        for i in range(m):
            codes[rows, i] = (begin >> code.k * (m - 1 - i) & (1 << code.k) - 1).to(torch.uint8)
    return codes


def _weights(weights) -> np.ndarray:
    lam = np.asarray(weights, dtype=float)
    if lam.ndim != 1 or not lam.size or not np.all(np.isfinite(lam) & (lam >= 0)) or not lam.any():
        raise ValueError("weights must be a vector of finite numbers, none negative and not all zero")
    return lam
