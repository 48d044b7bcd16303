r"""Successive interference cancellation: the columns of a matrix quantized one after another, errors fed back.

For a layer $y=Wx$, $\Sigma=\mathbb E\,xx^\top=LL^\top$, an error $E=W-\hat W$ costs $\mathrm{tr}\,E\Sigma E^\top=\|EL\|^2$.  From the
last column to the first, column $i$ of $EL$ is $(t_i-\hat w_i)L_{ii}$ with the target
$t_i=w_i+\sum_{j>i}e_jL_{ji}/L_{ii}$, so the loss is the sum of the columns' own errors, $\sum_i\|t_i-\hat w_i\|^2L_{ii}^2$.
Rounding with steps $\alpha_i=c/L_{ii}$ makes all of them alike (WaterSIC).

An entropy coder charges $\hat w_{ji}^2/2\sigma_i^2$ nats for a Gaussian column.  With the slope $2\theta$ of Shannon's
curve at noise $\theta$ the sum of loss and charge is, up to a constant, $\|(\tilde W-\hat W)\tilde L\|^2$ with
$\tilde\Sigma=\Sigma+\theta\,\mathrm{diag}(\sigma_i^{-2})=\tilde L\tilde L^\top$ and $\tilde W=W\Sigma\tilde\Sigma^{-1}$: the same algorithm, on a covariance whose
pivots never fall below $\theta/\sigma_i^2$.  Columns below the water level then round to zero and cost nothing.
"""
import math
from collections.abc import Callable

import torch

from lecturelib.quantization import sic_coder, uniform
from lecturelib.quantization.sic_coder import Columns

BLOCK = 32                                                 # columns between two products of matrices


def cancel(target: torch.Tensor, L: torch.Tensor, column: Callable[[int, torch.Tensor], torch.Tensor],
           block: int = BLOCK) -> None:
    r"""Run `column(i, t_i)` from the last column to the first; it returns $\hat w_i$.

    target : (B, n, m) float32, the *columns* of the matrices in rows; overwritten by the errors
        $e_i=w_i-\hat w_i$.
    L : (B, n, n), lower triangular with positive diagonal.
    """
    B, n, m = target.shape
    R = (L / L.diagonal(dim1=1, dim2=2).unsqueeze(1)).transpose(1, 2).contiguous()       # R_ij = L_ji / L_ii^(column's own)
    for stop in range(n, 0, -block):
        start = max(stop - block, 0)
        feed = torch.bmm(R[:, start:stop, stop:], target[:, stop:]) if stop < n else target.new_zeros(B, stop - start, m)
        for i in range(stop - 1, start - 1, -1):
            t = feed[:, i - start].add_(target[:, i])
            if i + 1 < stop:
                t += torch.bmm(R[:, i:i + 1, i + 1:stop], target[:, i + 1:stop])[:, 0]
            target[:, i] -= column(i, t)


@torch.no_grad()
def watersic(W: torch.Tensor, sigma: torch.Tensor, rate: float | None = None, *, step: float | None = None,
             ridge: bool = True, codes: bool = False):
    r"""WaterSIC: integers with steps $\alpha_i=c/L_{ii}$, columns coded by `sic_coder`.

    W : (B, m, n) floating point; sigma : (B, n, n) symmetric positive definite.
    rate : bits per weight to aim at, all side information counted, the same for all B; or
    step : $c$, in units of $\sqrt{\text{loss}}$.
    ridge : charge the rate as above; without it this is the plain algorithm.

    Returns Ŵ and bits per weight (B,), and the list of B `Columns` if `codes`.  The bits are the ideal length of the
    adaptive model; `sic_coder.encode` turns them into as many bytes to a tenth of a percent.
    Raises ValueError on operands of other shapes, not finite, or if `sigma` is not symmetric and positive definite.
    """
    W, sigma = _operands(W, sigma)
    problem = _Problem(W, sigma, rate, step, ridge, scalar_loss)

    def run(work, c):
        steps = problem.steps(c)
        alpha = torch.exp2(steps.float() / 16).unsqueeze(2)
        integers = torch.empty(work.shape, dtype=torch.int16, device=work.device)

        def column(i, t):
            a = alpha[:, i]
            q = torch.round(t / a).clamp_(-32767, 32767)
            integers[:, i] = q.to(torch.int16)
            return q.mul_(a)
        cancel(work, problem.L, column)
        return integers, steps, alpha
    c = problem.search(run, sic_coder.length)
    integers, steps, alpha = run(problem.target(), c)
    bits = sic_coder.length(integers) / W[0].numel()
    W_hat = (integers * alpha).transpose(1, 2).to(W.dtype)
    if not codes:
        return W_hat, bits
    return W_hat, bits, [Columns(q.T, k) for q, k in zip(integers, steps)]


def scalar_loss(rate):
    """Bits above Shannon of a uniform quantizer with entropy coding, roughly, at any rate."""
    return 0.2546 * min(1.0, max(rate, 0.0) / 1.5)


class _Problem:
    r"""The regularized covariance, its Cholesky factor, the shrunk targets, and the search for $c$."""

    def __init__(self, W, sigma, rate, step, ridge, gap):
        if (rate is None) == (step is None):
            raise ValueError("one of rate and step must be given")
        uniform._positive(**({"rate": rate} if step is None else {"step": step}))
        self.W, self.rate, self.fixed = W, rate, step
        B, m, n = W.shape
        self.columns = W.square().mean(1).clamp_(min=1e-30)          # sigma_i^2, (B, n)
        factors, theta, shrunk = [], [], []
        for S, v in zip(sigma, self.columns):
            S, v = S.double(), v.double()
            if not ridge:
                L = _cholesky(S)
            t = step**2 / 12 if rate is None else float((S.diagonal() * v).mean()) * 4.0**-(rate - gap(rate))
            for _ in range(4 if ridge and rate is not None else 1):
                if ridge:
                    L = _cholesky(S + torch.diag(t / v))
                if rate is not None:                       # R(theta), solved for the theta in front
                    t = 2.0**float((2 * L.diagonal().log2() + v.log2()).mean() - 2 * (rate - gap(rate)))
            factors.append(L.float())
            theta.append(t)
            shrunk.append((t / v).float() if ridge else None)
        self.L, self.theta, self.ridge = torch.stack(factors), torch.tensor(theta, device=W.device), shrunk

    def target(self, rows=slice(None)):
        """The columns of $W\\Sigma\\tilde\\Sigma^{-1}=W-W\\,\\mathrm{diag}(\\rho)\\tilde\\Sigma^{-1}$, (B, n, m)."""
        T = self.W[:, rows].transpose(1, 2).float().contiguous()
        for w, L, rho in zip(T, self.L, self.ridge):
            if rho is not None:
                w -= torch.cholesky_solve(rho.unsqueeze(1) * w, L)
        return T

    def steps(self, c):
        """log2 alpha in sixteenths, int16 (B, n)."""
        k = torch.round(16 * (c.unsqueeze(1).log2() - self.L.diagonal(dim1=1, dim2=2).log2()))
        return torch.maximum(k, k.amax(1, keepdim=True) - 255).to(torch.int16)

    def search(self, run, length):
        """The c of each layer, (B,), by secants in log c on some of the rows."""
        c = torch.full_like(self.theta, self.fixed) if self.fixed is not None else (12 * self.theta).sqrt()
        if self.fixed is not None:
            return c
        B, m, n = self.W.shape
        some = slice(None, None, max(1, m // 160))
        rows = len(range(m)[some])
        for _ in range(3):
            spent = length(run(self.target(some), c)[0], m / rows) / (m * n)
            c = c * torch.exp2((spent - self.rate).clamp(-1, 1)).to(c)
        return c


def _cholesky(S):
    L, info = torch.linalg.cholesky_ex(S)
    if int(info) or not bool(torch.isfinite(L.diagonal()).all()):
        raise ValueError("sigma must be positive definite; damp it first")
    return L


def _operands(W, sigma):
    if not isinstance(W, torch.Tensor) or W.ndim != 3 or W.dtype not in uniform.FLOATS or not W.numel():
        raise ValueError("W must be a floating-point tensor (B, m, n)")
    B, m, n = W.shape
    if not isinstance(sigma, torch.Tensor) or sigma.shape != (B, n, n) or sigma.dtype not in uniform.FLOATS or sigma.device != W.device:
        raise ValueError(f"sigma must be a floating-point tensor of shape {(B, n, n)} on the device of W")
    for name, x in (("W", W), ("sigma", sigma)):
        if not all(map(math.isfinite, torch.stack(torch.aminmax(x)).tolist())):
            raise ValueError(f"{name} must be finite; it holds a NaN or an infinity")
    if any(float((S - S.T).abs().max()) > 1e-4 * float(S.diagonal().abs().max()) for S in sigma):
        raise ValueError("sigma must be symmetric")
    return W.detach(), sigma.detach()
