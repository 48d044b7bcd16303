r"""How well a linear layer can be quantized when the covariance of its input is known.

The distortion of $\hat W$ is $\frac1{mn}\mathrm{tr}\,(W-\hat W)\Sigma(W-\hat W)^\top$, rates are bits per weight.  For independent
$W_{ij}\sim N(0,\sigma_i^2)$ the limit is reverse water-filling over the products $\sigma_i^2\lambda_j$ with the eigenvalues of
$\Sigma$ (thm-layers-limit).  Everything is batched over leading axes and computed in float64.
"""
import math

import torch

from lecturelib.quantization.entropy import QUARTER_BIT
from lecturelib.quantization.gptq import covariance, factor

STEPS = 100       # halvings of the bracket of the logarithm of the water level


def spectrum(sigma: torch.Tensor) -> torch.Tensor:
    """Eigenvalues (..., n) of `sigma` (..., n, n) in ascending order, float64, rounding errors below 0 as 0.

    They are computed in the type of `sigma`.  Raises ValueError unless it is symmetric positive
    semidefinite, to 1e-4 of its largest entry.

    >>> spectrum(torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)).tolist()
    [1.0, 3.0]
    """
    lam = torch.linalg.eigvalsh(covariance(sigma)).double()
    if float(lam.min()) < -1e-4 * float(sigma.abs().max()):
        raise ValueError(f"sigma must be symmetric positive semidefinite; it has the eigenvalue {float(lam.min()):.3g}")
    return lam.clamp_(min=0)


def limit(sigma: torch.Tensor, rate, variance=1.0) -> torch.Tensor:
    r"""Least distortion $\frac1{mn}\sum_{ij}\min(\sigma_i^2\lambda_j,\tau)$ at `rate` bits per weight (thm-layers-limit).

    Parameters
    ----------
    sigma : (..., n, n).
    rate : $R\ge0$, a number or a tensor (...,).
    variance : $\sigma^2$, a number or a tensor (...,); or $\sigma_i^2$ of the rows, (..., m).

    Raises ValueError as `spectrum` does, and on rates or variances that are negative or not finite.

    >>> round(float(limit(torch.diag(torch.tensor([4.0, 1.0])), 1.0)), 6)       # |Sigma|^(1/2) / 4
    0.5
    """
    return limit_of_spectrum(spectrum(sigma), rate, variance)


def limit_of_spectrum(lam: torch.Tensor, rate, variance=1.0) -> torch.Tensor:
    """`limit` of a covariance with the eigenvalues `lam` (..., n), ascending."""
    lam, var = _operands(lam, variance)
    rate = _target("rate", rate, lam)
    return _mean(lam, var, _level(lam, var, lambda t: _rate(lam, var, t) > rate))


def needed(sigma: torch.Tensor, distortion, variance=1.0) -> torch.Tensor:
    r"""$R(D)$, the least rate with `distortion` $D>0$; 0 where $D$ is at least the loss of $\hat W=0$.

    >>> round(float(needed(torch.diag(torch.tensor([4.0, 1.0])), 0.5)), 6)
    1.0
    """
    return needed_of_spectrum(spectrum(sigma), distortion, variance)


def needed_of_spectrum(lam: torch.Tensor, distortion, variance=1.0) -> torch.Tensor:
    """`needed` of a covariance with the eigenvalues `lam` (..., n), ascending."""
    lam, var = _operands(lam, variance)
    D = _target("distortion", distortion, lam)
    if not bool((D > 0).all()):
        raise ValueError("distortion must be positive")
    return _rate(lam, var, _level(lam, var, lambda t: _mean(lam, var, t) < D))


def gap(sigma: torch.Tensor, bits, distortion, variance=1.0) -> torch.Tensor:
    r"""$R-R(D)$: bits per weight spent above the limit for the same distortion.

    >>> round(float(gap(torch.eye(3), 2.5, 0.25)), 6)
    1.5
    """
    bits = torch.as_tensor(bits, dtype=torch.float64, device=sigma.device)
    if not bool(bits.isfinite().all()):
        raise ValueError("bits must be finite")
    return bits - needed(sigma, distortion, variance)


def pivots(sigma: torch.Tensor, damping: float = 0.0) -> torch.Tensor:
    r"""$U_{jj}^2$ of $\Sigma=UU^\top$: the variance of input $j$ that those after it do not explain.

    >>> pivots(torch.tensor([[2.0, 1.0], [1.0, 1.0]])).tolist()
    [1.0, 1.0]
    """
    return factor(sigma.double(), damping)[1]


def sic_gap(sigma: torch.Tensor, step=1.0) -> torch.Tensor:
    r"""Gap at high rate of rounding with feedback, steps $\alpha_j$ and an entropy coder for each column (thm-layers-gaps).

    $\frac12\log_2\frac{2\pi e}{12}+\frac12\log_2\frac{\mathrm{AM}}{\mathrm{GM}}$ of $\alpha_j^2U_{jj}^2$.  GPTQ has `step` 1, WaterSIC
    $\alpha_j=1/U_{jj}$, which makes the last term vanish.

    >>> sigma = torch.diag(torch.tensor([4.0, 1.0]))
    >>> round(float(sic_gap(sigma) - QUARTER_BIT), 4), round(float(sic_gap(sigma, pivots(sigma)**-0.5) - QUARTER_BIT), 4)
    (0.161, 0.0)
    """
    return _means(pivots(sigma), step, pivots(sigma))


def rtn_gap(sigma: torch.Tensor, step=1.0) -> torch.Tensor:
    r"""The same without feedback: $\alpha_j^2\Sigma_{jj}$ in the arithmetic mean, $\alpha_j^2U_{jj}^2$ in the geometric one.

    >>> round(float(rtn_gap(torch.tensor([[1.0, 0.6], [0.6, 1.0]])) - QUARTER_BIT), 4)       # - log2(0.64) / 4
    0.161
    """
    return _means(sigma.double().diagonal(dim1=-2, dim2=-1), step, pivots(sigma))


def _means(errors, step, d):
    a = torch.as_tensor(step, dtype=torch.float64, device=d.device)
    if not bool(((a > 0) & a.isfinite()).all()):
        raise ValueError("step must be positive and finite")
    a = a.square()
    return QUARTER_BIT + 0.5 * torch.log2((a * errors).mean(-1)) - 0.5 * torch.log2(a * d).mean(-1)


def _operands(lam, variance):
    lam = lam.double()
    var = torch.as_tensor(variance, dtype=torch.float64, device=lam.device)
    var = _expanded("variance", var, lam).unsqueeze(-1) if var.ndim < lam.ndim else var
    if var.shape[:-1] != lam.shape[:-1] or not bool(((var >= 0) & var.isfinite()).all()) or not bool(((var > 0).any(-1) & (lam[..., -1] > 0)).all()):
        raise ValueError("variance must be finite, not negative and not all zero, of shape (...,) or (..., m), and sigma not zero")
    if not bool(((lam >= 0) & lam.isfinite()).all()) or bool((lam[..., 1:] < lam[..., :-1]).any()):
        raise ValueError("the eigenvalues must be finite, not negative and in ascending order")
    return lam, var.contiguous()


def _expanded(name, value, lam):
    try:
        return value.expand(lam.shape[:-1])
    except RuntimeError as error:
        raise ValueError(f"{name} must be a number or of shape {tuple(lam.shape[:-1])}; got {tuple(value.shape)}") from error


def _target(name, value, lam):
    value = _expanded(name, torch.as_tensor(value, dtype=torch.float64, device=lam.device), lam)
    if not bool(((value >= 0) & value.isfinite()).all()):
        raise ValueError(f"{name} must be finite and not negative")
    return value


def _level(lam, var, low):
    """Logarithm of the water level, by bisection: `low(t)` says where t is too low."""
    hi = torch.log(lam[..., -1]) + torch.log(var.amax(-1))
    lo = hi - 2.0**12
    for _ in range(STEPS):
        t = 0.5 * (lo + hi)
        up = low(t)
        lo, hi = torch.where(up, t, lo), torch.where(up, hi, t)
    return hi


def _counts(lam, var, t):
    """For each row, the number of eigenvalues below the level, whose components get no bits: ln lam <= t - ln var."""
    return torch.searchsorted(torch.log(lam), t.unsqueeze(-1) - torch.log(var), right=True)


def _rate(lam, var, t):
    idle, n = _counts(lam, var, t), lam.shape[-1]
    logs = torch.log(lam.clamp(min=torch.finfo(lam.dtype).tiny)).flip(-1).cumsum(-1).flip(-1)
    total = torch.nn.functional.pad(logs, (0, 1)).gather(-1, idle)
    k = n - idle
    nats = total + torch.where(k > 0, k * (torch.log(var) - t.unsqueeze(-1)), 0.0)
    return nats.mean(-1) / (2 * math.log(2) * n)


def _mean(lam, var, t):
    idle, n = _counts(lam, var, t), lam.shape[-1]
    below = torch.nn.functional.pad(lam.cumsum(-1), (1, 0)).gather(-1, idle) * var
    return (below + (n - idle) * t.exp().unsqueeze(-1)).mean(-1) / n
