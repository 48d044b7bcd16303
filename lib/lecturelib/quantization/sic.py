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
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch

from lecturelib import native
from lecturelib.quantization import entropy_trellis, lattices, nested, rotations, sic_coder, uniform
from lecturelib.quantization.gptq import LEAF
from lecturelib.quantization.nested import VoronoiCode
from lecturelib.quantization.sic_coder import Columns
from lecturelib.quantization.sic_trellis import Search, chunk_length

BLOCK = 64                                                 # columns between two products of matrices
LARGEST = 32760                                            # of the integers, which are int16
SEARCHES = 2                                               # trials on the way to a rate


def cancel(target: torch.Tensor, L: torch.Tensor, decide: Callable[[int, torch.Tensor], torch.Tensor] | None = None, width: int = 1,
           block: int = BLOCK) -> None:
    r"""Run `decide(i, t)` on columns $i,\dots,i+$`width`$-1$, from the last to the first; it returns their $\hat w$.

    Without `decide` they are rounded to integers of at most `LARGEST`, and `width` is 1.

    target : (B, n, m) float32, the *columns* of the matrices in rows; overwritten by the errors
        $e_i=w_i-\hat w_i$.  The targets t are (B, width, m).
    L : (B, n, n), lower triangular with positive diagonal.  `width` divides n and `block`.
        With K a set of columns, $t_K=w_K+\sum_{j>K}e_jL_{jK}L_{KK}^{-1}$, and the loss is $\sum_K\|(t_K-\hat w_K)L_{KK}\|^2$.
    """
    B, n, m = target.shape
    for stop in range(n, 0, -block):
        start = max(stop - block, 0)
        groups = L[:, start:, start:stop].unflatten(2, (-1, width)).transpose(1, 2)                   # (B, groups, n - start, width)
        own = torch.stack([groups[:, g, width * g:width * (g + 1)] for g in range(groups.shape[1])], 1)
        R = torch.linalg.solve_triangular(own, groups, upper=False, left=False).transpose(2, 3).flatten(1, 2)
        t = target[:, start:stop].clone()
        if stop < n:
            t.baddbmm_(R[:, :, stop - start:], target[:, stop:])
        _block(target[:, start:stop], t, R[:, :, :stop - start], decide, start, width)


def _block(e, t, R, decide, first, width):
    """Columns first, first + 1, ... from the last on; t holds their targets given all columns after them, e becomes the errors."""
    g, fast = e.shape[1], decide is None and native.serves("columns", e, t) and R.dtype == e.dtype and R.device == e.device
    if g > (native.GROUP if fast else max(LEAF, width)):
        mid = g // (2 * width) * width
        left, right = slice(0, mid), slice(mid, g)
        _block(e[:, right], t[:, right], R[:, right, right], decide, first + mid, width)
        t[:, left].baddbmm_(R[:, left, right], e[:, right])
        _block(e[:, left], t[:, left], R[:, left, left], decide, first, width)
    elif fast:
        native.feedback(e, t, R, None, -LARGEST, LARGEST, reverse=True)
    else:
        for i, e_i, t_i, R_i in reversed(list(zip(range(0, g, width), e.split(width, 1), t.split(width, 1), R.split(width, 2)))):
            e_i -= t_i.round_().clamp_(-LARGEST, LARGEST) if decide is None else decide(first + i, t_i)
            if i:
                before, R_i = t.narrow(1, 0, i), R_i.narrow(1, 0, i)
                before.addcmul_(R_i, e_i) if width == 1 else before.baddbmm_(R_i, e_i)


@torch.no_grad()
def watersic(W: torch.Tensor, sigma: torch.Tensor, rate: float | None = None, *, step: float | None = None,
             ridge: bool = True, codes: bool = False):
    r"""WaterSIC: integers with steps $\alpha_i=c/L_{ii}$, columns coded by `sic_coder`.

    W : (B, m, n) floating point; sigma : (B, n, n) symmetric positive definite.
    rate : bits per weight to aim at, all side information counted, the same for all B; or
    step : $c$, in units of $\sqrt{\text{loss}}$; ValueError if it is too small for integers of 16 bits.
    ridge : charge the rate as above; without it this is the plain algorithm.

    Returns Ŵ and bits per weight (B,), and the list of B `Columns` if `codes`.  The bits are the ideal length of the
    adaptive model (where a rate is asked for, integers saturate at 16 bits, and the loss shows it); `sic_coder.encode` turns them into as many bytes to a tenth of a percent.
    Raises ValueError on operands of other shapes, not finite, or if `sigma` is not symmetric and positive definite.
    """
    return _entropy_coded(W, sigma, rate, step, ridge, codes, 0, 0)


@torch.no_grad()
def trellis(W: torch.Tensor, sigma: torch.Tensor, rate: float | None = None, *, step: float | None = None, states: int = 8,
            chunk: int | None = None, ridge: bool = True, codes: bool = False):
    r"""The same columns with a trellis down the rows instead of rounding (`sic_trellis`).

    states : of the trellis, 4, 8, ..., 256: more come nearer to the limit and take longer.
    chunk : rows that a search runs down, a divisor of m; None takes the one nearest to 192.  Chunks run side by side;
        short ones cost a little: each starts in a given state.

    Other parameters, results and errors as `watersic`.
    """
    if not isinstance(W, torch.Tensor) or W.ndim != 3 or not W.numel():
        raise ValueError("W must be a floating-point tensor (B, m, n)")
    chunk = chunk_length(W.shape[1]) if chunk is None else chunk
    if not uniform._whole(chunk) or chunk < 1 or W.shape[1] % chunk:
        raise ValueError(f"chunk must divide the {W.shape[1]} rows of W; got {chunk!r}")
    if states not in entropy_trellis.MASKS:
        raise ValueError(f"states must be one of {tuple(entropy_trellis.MASKS)}; got {states!r}")
    return _entropy_coded(W, sigma, rate, step, ridge, codes, int(states), int(chunk))


@torch.no_grad()
def nested_e8(W: torch.Tensor, sigma: torch.Tensor, q: int, *, scales: int = 4, seed: int = 0,
              shrink: Sequence[float] = (1.0, 0.88, 0.7, 0.5)):
    r"""Voronoi codes of $E_8$ on blocks of 8 columns, block feedback, after a random rotation; a fixed rate.

    The columns are rotated by `rotations.RandomHadamard` of this seed, rows divided by their root mean square (a
    float16 each), and every 8 entries of a row coded by `nested` with `q` and the best of so many `scales`, fitted to N(0, I).
    W : (B, m, n), n a multiple of 8; sigma : (B, n, n) symmetric positive definite; `shrink` as in `nested.encode`.

    Returns Ŵ and the rate $\log_2q+\frac18\log_2k+\frac{16}n$ for k scales.  ValueErrors as `watersic`, and for n.
    """
    W, sigma = _operands(W, sigma)
    B, m, n = W.shape
    if n % 8:
        raise ValueError(f"W must have a multiple of 8 columns; got {n}")
    code, turn = VoronoiCode(lattices.e8(), q, fitted_scales(q, scales)), rotations.RandomHadamard(n, seed)
    S = turn.apply(turn.apply(sigma.float()).transpose(1, 2).contiguous())
    L = torch.stack([_cholesky(s.double()).float() for s in (S + S.transpose(1, 2)) / 2])
    T = turn.apply(W.float())
    size = T.square().mean(2, keepdim=True).sqrt_().clamp_(min=2.0**-14).half().float().transpose(1, 2)
    T = T.transpose(1, 2) / size
    W_hat = torch.empty_like(T)

    def decide(i, t):
        part = nested.quantize(t.transpose(1, 2).clamp(-100, 100), code, shrink=shrink).transpose(1, 2)
        W_hat[:, i:i + 8] = part
        return part
    cancel(T.contiguous(), L, decide, 8)
    return turn.undo((W_hat * size).transpose(1, 2).contiguous()).to(W.dtype), code.rate + 16 / n


@lru_cache
def fitted_scales(q: int, count: int) -> tuple[float, ...]:
    """The scales of an $E_8$ code for N(0, I), fitted on 1024 samples from a grid of 9 % steps."""
    x = torch.randn(1024, 8, generator=torch.Generator().manual_seed(0))
    return nested.fit_scales(x, lattices.e8(), q, count, [1.09**j * 3 / q for j in range(-7, 17)])


def _entropy_coded(W, sigma, rate, step, ridge, codes, states, chunk):
    W, sigma = _operands(W, sigma)
    problem = _Problem(W, sigma, rate, step, ridge, states)

    def run(target, c, chunk=chunk):
        steps = problem.steps(c)
        alpha = torch.exp2(steps.float() / 16).unsqueeze(2)
        target /= alpha
        errors = target.clone()
        B, _, m = target.shape
        search = Search(states, B * m // chunk, target.device) if states else None

        def column(i, t):
            return search(t.clamp_(-LARGEST, LARGEST).reshape(-1, chunk).T).T.reshape(B, 1, m)
        cancel(errors, problem.L * alpha, column if states else None)
        return (target - errors).round_().to(torch.int16), steps, alpha
    c = problem.search(run)
    integers, steps, alpha = run(problem.target(), c)
    if step is not None and int(integers.abs().max()) >= LARGEST:
        raise ValueError(f"step must be large enough for integers below {LARGEST}, which 16 bits hold; got {step!r}")
    bits = sic_coder.length(integers, parities=states > 0) / W[0].numel()
    W_hat = (integers * alpha).transpose(1, 2).to(W.dtype)
    if not codes:
        return W_hat, bits
    return W_hat, bits, [Columns(q.T, k, states, chunk) for q, k in zip(integers, steps)]


class _Problem:
    r"""The regularized covariance, its Cholesky factor, the shrunk targets, and the search for $c$."""

    def __init__(self, W, sigma, rate, step, ridge, states):
        if (rate is None) == (step is None):
            raise ValueError("one of rate and step must be given")
        uniform._positive(**({"rate": rate} if step is None else {"step": step}))
        self.W, self.rate, self.fixed, self.states = W, rate, step, states
        self.noise, gap = (1 / 12, 0.2546) if not states else (0.26, 0.07) if states < 64 else (0.245, 0.03)    # of steps 1; in bits
        self.columns = W.float().square().mean(1).clamp_(min=1e-30)                # sigma_i^2, (B, n)
        self.L, theta, charge = torch.empty_like(sigma, dtype=torch.float32), [], []
        for k, (S, v) in enumerate(zip(sigma, self.columns)):
            L, t = _factor(S.double(), v.double(), ridge, None if rate is None else rate - gap * min(1.0, rate / 1.5),
                           None if step is None else step**2 * self.noise)
            self.L[k] = L
            theta.append(t)
            charge.append(t / v if ridge else None)
        self.theta, self.charge = torch.tensor(theta, device=W.device), charge

    def target(self, rows=slice(None)):
        """The columns of $W\\Sigma\\tilde\\Sigma^{-1}=W-W\\,\\mathrm{diag}(\\rho)\\tilde\\Sigma^{-1}$, (B, n, m)."""
        T = self.W[:, rows].transpose(1, 2).to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        for w, L, rho in zip(T, self.L, self.charge):
            if rho is not None:
                x = torch.linalg.solve_triangular(L, rho.unsqueeze(1) * w, upper=False)
                w -= torch.linalg.solve_triangular(L.T, x, upper=True)
        return T

    def steps(self, c):
        """log2 alpha in sixteenths, int16 (B, n)."""
        k = torch.round(16 * (c.unsqueeze(1).log2() - self.L.diagonal(dim1=1, dim2=2).log2()))
        return torch.maximum(k, k.amax(1, keepdim=True) - 255).to(torch.int16)

    def search(self, run):
        """The c of each layer, (B,), by secants in log c on some of the rows, in short chunks."""
        if self.fixed is not None:
            return torch.full_like(self.theta, self.fixed)
        B, m, n = self.W.shape
        count = min(m // 48, 4) * 48 or m
        some, log_c = torch.linspace(0, m - 1, count).long(), 0.5 * (self.theta.double() / self.noise).log2()
        slope, before = torch.ones_like(log_c), None       # -d rate / d log c
        target = self.target(some)
        for _ in range(SEARCHES):
            integers, _, _ = run(target.clone(), log_c.exp2().float(), 48 if count % 48 == 0 else count)
            miss = sic_coder.length(integers, m / count, self.states > 0) / (m * n) - self.rate
            if before is not None:
                moved = log_c - before[0]
                slope = torch.where(moved.abs() > 1e-3, (before[1] - miss) / moved, slope).clamp(0.3, 1.2)
            before = log_c, miss
            log_c = log_c + (miss / slope).clamp(-1, 1)
        return log_c.exp2().float()


def _factor(S, v, ridge, rate, theta):
    r"""$\tilde L$ and the noise $\theta$ of a layer: given, or from $\frac1{2n}\log_2\frac{|\tilde\Sigma|\prod\sigma_i^2}{\theta^n}$ = `rate`."""
    def solve(L):
        return 2.0**float((2 * L.diagonal().log2() + v.log2()).mean() - 2 * rate)
    if not ridge:
        L = _cholesky(S)
        return L, solve(L) if theta is None else theta
    def charged(S, t):
        S = S.clone()
        S.diagonal().add_(t / v)
        return _cholesky(S)
    if theta is None:
        theta, coarse = float((S.diagonal() * v).mean()) * 4.0**-rate, S.float()
        for _ in range(3):
            theta = solve(charged(coarse, theta))
    return charged(S, theta), theta


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
        if not uniform._all_finite(x):
            raise ValueError(f"{name} must be finite; it holds a NaN or an infinity")
    if any(float((S - S.T).max()) > 1e-4 * float(S.diagonal().abs().max()) for S in sigma):
        raise ValueError("sigma must be symmetric")
    return W.detach(), sigma.detach()
