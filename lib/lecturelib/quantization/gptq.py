r"""Weights rounded column by column, each column making up for the errors of those before it (GPTQ).

The loss of a layer is $\mathrm{tr}\,(W-\hat W)\Sigma(W-\hat W)^\top$.  With $\Sigma=UU^\top$, $U$ upper triangular, and
$N=U\,\mathrm{diag}(U)^{-1}$ it is $\sum_jU_{jj}^2\|r_j\|^2$, $r_j=y_j-\hat w_j$, where $y_j=w_j+\sum_{i<j}N_{ij}(w_i-\hat w_i)$ is known as soon
as the columns before $j$ are rounded (lem-layers-sic): GPTQ rounds $y_j$ instead of $w_j$.
Layers of one shape are worked on as one batch, (B, m, n), as transposes, so that a column is
contiguous, and with the sums over $i$ as products of matrices, in blocks of halving size.
"""
import math

import torch

from lecturelib import native
from lecturelib.quantization import rotations
from lecturelib.quantization.uniform import _all_finite, _whole

LEAF = 8          # columns rounded between two products of matrices


def factor(sigma: torch.Tensor, damping: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    r"""$N$ and $d$ of $\Sigma+\delta\bar\Sigma I=N\,\mathrm{diag}(d)\,N^\top$, $N$ upper triangular with unit diagonal (eq-layers-factor).

    `sigma` is (..., n, n); $\bar\Sigma$ is the mean of its diagonal and `damping` is $\delta\ge0$.  Raises ValueError
    unless `sigma` is finite, symmetric to 1e-4 of its largest entry, and $\Sigma+\delta\bar\Sigma I$ positive definite
    to the precision of its type: without damping a singular `sigma` is refused.

    >>> N, d = factor(torch.tensor([[2.0, 1.0], [1.0, 1.0]]))
    >>> N.tolist(), d.tolist()
    ([[1.0, 1.0], [0.0, 1.0]], [1.0, 1.0])
    """
    return _factor(covariance(sigma), damping)


def _factor(sigma, damping):
    S = _damp(sigma.flip(-2, -1), damping)
    L, info = torch.linalg.cholesky_ex(S)
    del S
    if bool(info.any()) or not bool(L.diagonal(dim1=-2, dim2=-1).isfinite().all()):
        raise ValueError("sigma must be symmetric positive semidefinite; it has a negative eigenvalue"
                         + ("" if damping else ", or is singular and needs damping > 0"))
    root = L.diagonal(dim1=-2, dim2=-1).clone()
    return L.div_(root.unsqueeze(-2)).flip(-2, -1), root.square_().flip(-1)


def damped(sigma: torch.Tensor, damping: float) -> torch.Tensor:
    r"""$\Sigma+\delta\bar\Sigma I$, with $\bar\Sigma$ the mean of the diagonal of `sigma` (..., n, n) and $\delta\ge0$ the `damping`.

    >>> damped(torch.tensor([[3.0, 0.5], [0.5, 1.0]]), 0.5).tolist()
    [[4.0, 0.5], [0.5, 2.0]]
    """
    return _damp(covariance(sigma).clone(), damping)


def _damp(sigma, damping):
    if not 0 <= damping < math.inf:
        raise ValueError(f"damping must be a finite number, not negative; got {damping!r}")
    diagonal = sigma.diagonal(dim1=-2, dim2=-1)
    diagonal += damping * diagonal.mean(-1, keepdim=True)
    return sigma


@torch.no_grad()
def quantize(W: torch.Tensor, sigma: torch.Tensor, bits: int, group: int | None = None, *, damping: float = 0.01,
             shrink: tuple[float, ...] = (1.0,), order: bool = False) -> tuple[torch.Tensor, float]:
    r"""GPTQ with $2^b$ levels between the two ends of each group of columns (eq-layers-grid).

    Parameters
    ----------
    W : (m, n) or a batch (B, m, n), float32 or float64; `sigma` (n, n) or (B, n, n).
    bits : $b$, 1 to 8.
    group : columns that share a scale (float16) and a zero point ($b$ bits) in each row; None is all of
        them.  The ends are those of $y$, all columns before the group being done.
    damping : $\delta$ of `factor`.
    shrink : multiples of the range that are tried; the least square error on the group decides.
    order : visit the columns by decreasing $\Sigma_{jj}$ ("act-order"); the permutation costs $16/m$ bits.

    Returns $\hat W$ and the bits per weight, $b+(16+b)/g$.  Raises ValueError as `factor` does, if the width
    is no multiple of `group`, on a NaN or an infinity, and where a group is too wide for a scale in float16.

    >>> W = torch.tensor([[0.0, 0.4, 3.0], [0.0, 1.6, 3.0]])
    >>> quantize(W, torch.tensor([[4.0, 0, 0], [0, 1, 0.9], [0, 0.9, 1]]), 2, damping=0.0)
    (tensor([[0., 0., 3.],
            [0., 2., 3.]]), 8.0)
    """
    W, bits, group = _arguments(W, bits, group)
    sigma = _for(W, covariance(sigma))
    if order:
        p = sigma.diagonal(dim1=-2, dim2=-1).argsort(-1, descending=True)
        moved = torch.gather(sigma, -2, p.unsqueeze(-1).expand_as(sigma))
        moved = torch.gather(moved, -1, p.unsqueeze(-2).expand_as(sigma))
        columns = p.unsqueeze(-2).expand_as(W)
        W_hat, spent = quantize(torch.gather(W, -1, columns), moved, bits, group, damping=damping, shrink=shrink)
        return torch.empty_like(W).scatter_(-1, columns, W_hat), spent + 16 / W.shape[-2]
    N, _ = _factor(sigma, damping)
    return _sweep(W, N, lambda y: _grid(y, bits, shrink), group), _rate(bits, group)


@torch.no_grad()
def rtn(W: torch.Tensor, bits: int, group: int | None = None, *, shrink: tuple[float, ...] = (1.0,)) -> tuple[torch.Tensor, float]:
    r"""Round to nearest on the same grids, without feedback: each weight for itself.

    >>> rtn(torch.tensor([[0.0, 0.4, 3.0]]), 2)
    (tensor([[0., 0., 3.]]), 8.0)
    """
    W, bits, group = _arguments(W, bits, group)
    return _sweep(W, None, lambda y: _grid(y, bits, shrink), group), _rate(bits, group)


@torch.no_grad()
def integers(W: torch.Tensor, sigma: torch.Tensor | None, step, *, damping: float = 0.0) -> torch.Tensor:
    r"""GPTQ on the unbounded grid: integers $z$ (..., m, n), $\hat w_j=\alpha_jz_j$ (thm-layers-babai).

    `step` is $\alpha$, a positive number or (n,) or (B, n); `sigma=None` rounds to nearest.  Ties go to
    even.  The integers come in the type of `W`.

    >>> integers(torch.tensor([[0.4, 0.4]]), torch.tensor([[1.0, 0.9], [0.9, 1.0]]), 1.0).tolist()
    [[0.0, 1.0]]
    """
    W, _, _ = _arguments(W, 8, None)
    a = torch.as_tensor(step, dtype=W.dtype, device=W.device)
    if not bool(((a > 0) & a.isfinite()).all()):
        raise ValueError(f"step must be positive and finite; got {step!r}")
    if a.shape not in ((), W.shape[-1:], (*W.shape[:-2], W.shape[-1])):
        raise ValueError(f"step must be a number or have the shape (n,) or (B, n) with W; got {tuple(a.shape)}")
    a = a.expand(*W.shape[:-2], W.shape[-1])
    if sigma is None:
        return torch.round(W / a.unsqueeze(-2))
    N = _factor(_for(W, covariance(sigma)), damping)[0]
    N = N * a.unsqueeze(-1) / a.unsqueeze(-2)               # of errors in steps
    return _sweep(W / a.unsqueeze(-2), N, lambda y: (1.0, -math.inf, math.inf), None)


def _sweep(W, N, grid, group):
    """`sweep` of a matrix, or of a batch with any number of axes."""
    m, n = W.shape[-2:]
    return sweep(W.reshape(-1, m, n), None if N is None else N.reshape(-1, n, n), grid, group).view(W.shape)


@torch.no_grad()
def sweep(W: torch.Tensor, N: torch.Tensor | None, grid, group: int | None) -> torch.Tensor:
    r"""$\hat w_j=Q_j\big(w_j+\sum_{i<j}N_{ij}(w_i-\hat w_i)\big)$ for $j=1,\dots,n$ (eq-layers-gptq); $N=I$ if it is None.

    `W` is (B, m, n) and `N` (B, n, n).  `grid(y)` is called once for each group with $y$ of the whole group, (B, g, m), and
    returns the step $s$ and the ends of $Q(y)=s\min(\max(\mathrm{round}(y/s),\text{low}),\text{high})$, the two both numbers or both (B, 1, m).
    """
    w = W.mT.clone(memory_format=torch.contiguous_format)   # becomes the errors, column by column
    n, found = w.shape[-2], torch.empty_like(w)
    for lo in range(0, n, group or n):
        here = slice(lo, lo + (group or n))
        y, q = w[:, here].clone(), found[:, here]
        if lo and N is not None:
            y.baddbmm_(N[:, :lo, here].mT, w[:, :lo])
        s, low, high = grid(y)
        y /= s
        if N is None:
            torch.round(y, out=q).clamp_(low, high)
        else:
            w[:, here] /= s
            _block(w[:, here], y, N[:, here, here].mT.contiguous(), q, low, high)
            w[:, here] *= s
        q *= s
    return found.mT.contiguous()


def _block(e, y, N, q, low, high):
    """The columns of a group in steps: q is round(y) between its ends, y with the feedback of the columns before, e becomes e - q; N is transposed."""
    g, fast = e.shape[1], native.serves("columns", e, y, N, q)
    if g > (native.GROUP if fast else LEAF):
        left, right = slice(0, g // 2), slice(g // 2, g)
        _block(e[:, left], y[:, left], N[:, left, left], q[:, left], low, high)
        y[:, right].baddbmm_(N[:, right, left], e[:, left])
        _block(e[:, right], y[:, right], N[:, right, right], q[:, right], low, high)
    elif fast:
        native.feedback(e, y, N, q, low, high)
    else:
        for j, (e_j, y_j, N_j, q_j) in enumerate(zip(e.split(1, 1), y.split(1, 1), N.split(1, 2), q.split(1, 1)), 1):
            e_j -= torch.clamp(torch.round(y_j, out=q_j), low, high, out=q_j)
            if j < g:
                y.narrow(1, j, g - j).addcmul_(N_j.narrow(1, j, g - j), e_j)


def _grid(y, bits, shrink):
    r"""Step $s$ and ends $-z$, $2^b-1-z$ of the levels $s(k-z)$, $k=0,\dots,2^b-1$: of each row, for columns along the axis -2."""
    top = 2**bits - 1
    low, high = y.amin(-2, keepdim=True).clamp_(max=0), y.amax(-2, keepdim=True).clamp_(min=0)

    def ends(gamma):
        s = (gamma * (high - low) / top).to(torch.float16).to(y.dtype).clamp_(min=2.0**-24)
        if not math.isfinite(s.max()):
            raise ValueError("W must have groups whose range divided by 2^b - 1 is within float16, 65504; scale it first")
        return s, torch.round(-gamma * low / s).clamp_(0, top)
    best, least = None, None
    for gamma in shrink:
        s, z = ends(gamma)
        if len(shrink) > 1:
            cost = torch.clamp((y / s).round_(), -z, top - z).mul_(s).sub_(y).square_().sum(-2, keepdim=True)
            if best is not None:
                closer = cost < least
                s, z, cost = torch.where(closer, s, best[0]), torch.where(closer, z, best[1]), torch.minimum(cost, least)
            least = cost
        best = s, z
    s, z = best
    return s, -z, top - z


def rotated(W: torch.Tensor, sigma: torch.Tensor | None, scheme, seed: int = 0) -> tuple[torch.Tensor, float]:
    r"""`scheme` in rotated coordinates: $W\Pi^\top$ and $\Pi\Sigma\Pi^\top$ with the random Hadamard rotation $\Pi$ of `seed`.

    The loss is that of the scheme on the rotated pair.  The decoder needs the seed only.
    """
    turn = rotations.RandomHadamard(W.shape[-1], seed)
    moved = None if sigma is None else turn.apply(turn.apply(sigma).mT.contiguous())
    W_hat, spent = scheme(turn.apply(W), moved)
    return turn.undo(W_hat), spent


def textbook(W: torch.Tensor, sigma: torch.Tensor, step) -> torch.Tensor:
    r"""The same integers the way of the paper: round a column, move the others along a column of $H^{-1}$, downdate $H^{-1}$.

    `W` (m, n), `sigma` (n, n), float64 advised.  $w_F\leftarrow w_F-\frac{w_q-\hat w_q}{[H^{-1}]_{qq}}[H^{-1}]_{qF}$, a
    reference for tests: $O(n^3)$ for the inverse and again for its downdates.
    """
    W, H = W.clone(), torch.linalg.inv(covariance(sigma))
    a = torch.as_tensor(step, dtype=W.dtype).expand(W.shape[-1])
    z = torch.empty_like(W)
    for q in range(W.shape[1]):
        z[:, q] = torch.round(W[:, q] / a[q])
        move = (W[:, q] - a[q] * z[:, q]) / H[q, q]
        W[:, q:] -= torch.outer(move, H[q, q:])
        H = H - torch.outer(H[:, q], H[q]) / H[q, q]
    return z


def nearest_plane(basis: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    r"""Babai's nearest plane: integers $z$ (m, n) such that $zB$ is near to the rows of `t` (m, n).

    `basis` (n, n) holds the $b_i$ as rows; $b_n$ is served first.  From the orthogonalization $b_i^*$ (by QR),
    for $i=n,\dots,1$: $z_i=\mathrm{round}\frac{\langle t,b_i^*\rangle}{\|b_i^*\|^2}$ and $t\leftarrow t-z_ib_i$.

    >>> nearest_plane(torch.tensor([[1.0, 0.0], [0.4, 2.0]]), torch.tensor([[0.7, 1.2]])).tolist()
    [[0.0, 1.0]]
    """
    Q, R = torch.linalg.qr(basis.mT)                        # b_i = sum_j R_ji q_j, b*_i = R_ii q_i
    t, z = t.clone(), torch.empty_like(t)
    for i in reversed(range(len(basis))):
        z[:, i] = torch.round(t @ Q[:, i] / R[i, i])
        t -= torch.outer(z[:, i], basis[i])
    return z


def covariance(sigma: torch.Tensor) -> torch.Tensor:
    """`sigma` itself; ValueError unless it is finite, symmetric, (..., n, n), with a diagonal that is not negative."""
    if not isinstance(sigma, torch.Tensor) or sigma.dtype not in (torch.float32, torch.float64) or sigma.ndim < 2 or sigma.shape[-1] != sigma.shape[-2]:
        raise ValueError("sigma must be a float32 or float64 tensor (..., n, n)")
    low, high = map(float, torch.aminmax(sigma)) if sigma.numel() else (math.nan, math.nan)
    top = max(-low, high)
    if not math.isfinite(top):
        raise ValueError("sigma must be finite and not empty")
    if float((sigma - sigma.mT).max()) > 1e-4 * top:       # the difference is antisymmetric
        raise ValueError("sigma must be symmetric positive semidefinite; it is not symmetric")
    if float(sigma.diagonal(dim1=-2, dim2=-1).min()) < 0 or top == 0:
        raise ValueError("sigma must be symmetric positive semidefinite, and not zero; its diagonal is not")
    return sigma


def _arguments(W, bits, group):
    if not isinstance(W, torch.Tensor) or W.dtype not in (torch.float32, torch.float64) or W.ndim < 2 or not W.numel():
        raise ValueError("W must be a nonempty float32 or float64 tensor (..., m, n)")
    if not _all_finite(W):
        raise ValueError("W must be finite; it holds a NaN or an infinity")
    if not _whole(bits) or not 1 <= bits <= 8:
        raise ValueError(f"bits must be an integer from 1 to 8; got {bits!r}")
    n = W.shape[-1]
    if group is not None and (not _whole(group) or group < 1 or n % group):
        raise ValueError(f"group must divide the width {n} of W; got {group!r}")
    return W, int(bits), n if group is None else int(group)


def _for(W, sigma):
    """`sigma` in the type of W, after a check of its shape."""
    if sigma.shape != (*W.shape[:-2], W.shape[-1], W.shape[-1]):
        raise ValueError(f"sigma must have shape {(*W.shape[:-2], W.shape[-1], W.shape[-1])} for W of shape {tuple(W.shape)}; got {tuple(sigma.shape)}")
    return sigma.to(W)


def _rate(bits, group):
    return bits + (16 + bits) / group
