r"""Vector codebooks: nearest codeword, and their design by the algorithm of Linde, Buzo and Gray.

Vectors lie along the last axis.  float16, bfloat16 and float32 are computed in float32, float64 in
float64; distances are compared through $\frac12\|c\|^2-\langle x,c\rangle$ in that type, a matrix
product, so that codewords whose distances differ by less than its rounding may be exchanged.  Of
codewords with equal scores the one of the lowest index is taken.
"""
import math

import torch

from lecturelib import native
from lecturelib.quantization import uniform

SCORES = 1 << 18     # scores in one piece on a CPU: 1 MiB of float32 stays in cache
GROUPS = 64          # codebooks of more than twice as many words are searched in groups


def nearest(x: torch.Tensor, codebook: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    r"""Index of the codeword nearest to each vector, $\arg\min_j\|x-c_j\|^2$ (eq-vec-lloyd).

    Parameters
    ----------
    x : floating-point tensor of shape (..., d).
    codebook : tensor (K, d) on the device of `x`; converted to the type computed in.
    out : contiguous int64 tensor of shape (...,).

    Returns int64 codes of shape (...,).  The cost is $Kd$ multiplications for each vector, in pieces
    that fit in cache.  Raises ValueError on a NaN or an infinity, values whose squared distances
    overflow, and shapes or devices that do not fit.

    >>> c = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    >>> nearest(torch.tensor([[1.5, 0.1], [1.0, 1.0], [-3.0, 0.0]]), c).tolist()
    [1, 0, 0]
    """
    rows, book = _both(x, codebook)
    if out is None:
        out = torch.empty(x.shape[:-1], dtype=torch.int64, device=x.device)
    elif not out.is_contiguous() or (out.shape, out.dtype, out.device) != (x.shape[:-1], torch.int64, x.device):
        raise ValueError(f"out must be a contiguous int64 tensor of shape {tuple(x.shape[:-1])} on {x.device}")
    for piece, codes in _search(rows, book, out.view(-1)):
        pass
    return out


def quantize(x: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """The nearest codeword itself, a tensor like `x`: `decode(nearest(x, codebook), codebook)`.

    >>> quantize(torch.tensor([[1.5, 0.1]]), torch.tensor([[0.0, 0.0], [2.0, 0.0]])).tolist()
    [[2.0, 0.0]]
    """
    return decode(nearest(x, codebook), codebook, dtype=x.dtype)


def decode(codes: torch.Tensor, codebook: torch.Tensor, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Codewords of integer `codes`, shape (..., d), in `dtype` (default: that of the codebook).

    Raises ValueError if `codes` are not integers in 0, ..., K-1.

    >>> decode(torch.tensor([1]), torch.tensor([[0.0, 0.0], [2.0, 0.0]])).tolist()
    [[2.0, 0.0]]
    """
    if not isinstance(codes, torch.Tensor) or codes.dtype not in (torch.uint8, *uniform.INTEGERS):
        raise ValueError("codes must be a tensor of integers")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < len(codebook):
        raise ValueError(f"codes must lie in 0, ..., {len(codebook) - 1}")
    points = codebook.to(dtype or codebook.dtype).index_select(0, codes.reshape(-1).long())
    return points.view(*codes.shape, codebook.shape[-1])


def distortion(x: torch.Tensor, codebook: torch.Tensor) -> float:
    r"""Mean square error for each coordinate, $\frac1d\,\mathbb E\|X-q(X)\|^2$ over the vectors of `x`.

    Raises ValueError if there are none.

    >>> distortion(torch.tensor([[1.0, 0.0], [2.0, 1.0]]), torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
    0.5
    """
    rows, book = _some(x, codebook)
    codes = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    return sum(_error(piece, book, j).sum().item() for piece, j in _search(rows, book, codes)) / rows.numel()


def lloyd(x: torch.Tensor, codebook: torch.Tensor) -> tuple[torch.Tensor, float]:
    r"""One round: nearest codewords, then the centroid of each cell, $c_j=\mathbb E[X\mid X\in B_j]$.

    Returns the new codebook and the distortion of the old one, for `x` of shape (n, d); a codeword
    that is nearest to no vector moves to the vector with the largest error among those of this round.
    Raises ValueError if there is no vector.

    >>> x = torch.tensor([[0.0], [1.0], [5.0]])
    >>> book, error = lloyd(x, torch.tensor([[0.0], [4.0]]))
    >>> book.tolist(), round(error, 6)
    ([[0.5], [5.0]], 0.666667)
    """
    rows, book = _some(x, codebook)
    count, sums, errors = _cells(rows, book)
    new = (sums / count.clamp(min=1)[:, None]).to(book.dtype)
    empty = (count == 0).nonzero().view(-1)
    if len(empty):
        worst = errors.topk(min(len(empty), len(rows))).indices
        new[empty] = book[empty]
        new[empty[:len(worst)]] = rows[worst]
    return new.to(codebook.dtype), float(errors.sum(dtype=torch.float64)) / rows.numel()


def refine(draw, codebook: torch.Tensor, rounds: int, *, exponent: float = 0.6) -> torch.Tensor:
    r"""Lloyd's rounds on fresh vectors, with averaging: a codebook for the source, not for one sample.

    `draw()` returns new vectors (n, d) of the source each time.  The masses and first moments of the
    cells are averaged with the weight $\gamma_t=(t+1)^{-\rho}$ of round $t=0,1,\dots$, with $\rho$ the
    `exponent` in [1/2, 1], and each codeword is the quotient of the averages.  This is stochastic
    approximation: with $\gamma_t\to0$ the noise of the sample averages out, and what a codebook of one
    sample gains on that sample and loses on the next is not lost.  Raises ValueError unless `rounds` is
    an integer of at least 0 and every draw holds a vector.

    >>> g = torch.Generator().manual_seed(0)
    >>> book = refine(lambda: torch.randn(4096, 1, generator=g), torch.tensor([[-1.0], [1.0]]), 50)
    >>> [round(v, 2) for v in book.view(-1).tolist()]
    [-0.8, 0.8]
    """
    if not 0.5 <= exponent <= 1:
        raise ValueError(f"exponent must lie in [1/2, 1]; got {exponent}")
    if not uniform._whole(rounds) or rounds < 0:
        raise ValueError(f"rounds must be an integer of at least 0; got {rounds!r}")
    mass = first = 0.0
    for t in range(int(rounds)):
        rows, book = _some(draw(), codebook)
        count, sums, _ = _cells(rows, book)
        weight = (t + 1.0)**-exponent
        mass = (1 - weight) * mass + weight * count.double() / len(rows)
        first = (1 - weight) * first + weight * sums / len(rows)
        codebook = torch.where(mass[:, None] > 0, first / mass.clamp(min=1e-300)[:, None], book.double()).to(codebook.dtype)
    return codebook


def lbg(x: torch.Tensor, K: int, generator: torch.Generator, *, starts: int = 4, iterations: int = 100,
        tolerance: float = 1e-5, start: torch.Tensor | None = None) -> torch.Tensor:
    r"""A codebook of `K` words for the vectors `x` of shape (n, d), by Lloyd's rounds (eq-vec-lloyd).

    `starts` codebooks are drawn by the rule of k-means++ and improved on a part of the vectors; the
    best one is then improved on all of them, until a round lowers the error by less than the fraction
    `tolerance` or `iterations` rounds are done.  With `start`, a tensor (K, d), only the last stage runs.
    The error on the vectors of the design never grows from round to round.

    Returns the codebook (K, d) in the type of `x`.  Raises ValueError unless $1\le K\le n$.

    >>> x = torch.randn(4096, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> book = lbg(x, 2, torch.Generator().manual_seed(0))
    >>> [round(v, 1) for v in book.sort(0).values.view(-1).tolist()]
    [-0.8, 0.8]
    """
    if not isinstance(x, torch.Tensor) or x.dtype not in uniform.FLOATS or x.ndim != 2 or not x.shape[1]:
        raise ValueError("x must be a floating-point tensor of shape (n, d)")
    for name, value, low, high in (("K", K, 1, len(x)), ("starts", starts, 1, math.inf), ("iterations", iterations, 0, math.inf)):
        if not uniform._whole(value) or not low <= value <= high:
            raise ValueError(f"{name} must be an integer from {low} to {high}; got {value!r}")
    K, starts = int(K), int(starts)
    if start is not None:
        if start.shape != (K, x.shape[1]):
            raise ValueError(f"start must have shape {(K, x.shape[1])}; got {tuple(start.shape)}")
        return _rounds(x, start.to(x.dtype), iterations, tolerance)[0]
    order = torch.randperm(len(x), generator=generator, device=generator.device).to(x.device)
    part = x[order[:max(64 * K, 4096)]]
    candidates = [_rounds(part, plus_plus(part[:max(16 * K, 1024)], K, generator), min(iterations, 30), 1e-3)
                  for _ in range(starts)]
    book = min(candidates, key=lambda pair: pair[1])[0]
    return _rounds(x, book, iterations, tolerance)[0]


def plus_plus(x: torch.Tensor, K: int, generator: torch.Generator) -> torch.Tensor:
    """Start of Arthur and Vassilvitskii: each next codeword is a vector of `x`, drawn with a
    probability proportional to its squared distance from those already drawn.

    >>> x = torch.tensor([[0.0], [0.0], [7.0]])
    >>> sorted(plus_plus(x, 2, torch.Generator().manual_seed(0)).view(-1).tolist())
    [0.0, 7.0]
    """
    rows, _ = _both(x, x[:1])
    book = rows.new_empty(K, rows.shape[1])
    square = rows.new_full((len(rows),), 1.0)
    for j in range(K):
        level = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64).to(rows.device)
        total = square.double().cumsum(0)
        book[j] = rows[torch.searchsorted(total, level * total[-1], right=True).clamp_(max=len(rows) - 1)]
        distance = (rows - book[j]).square_().sum(1)
        square = distance if j == 0 else torch.minimum(square, distance)
    return book.to(x.dtype)


def _rounds(x, book, iterations, tolerance):
    """Lloyd's rounds; the codebook and the error before the last of them."""
    before = math.inf
    for _ in range(int(iterations)):
        new, error = lloyd(x, book)
        if not error < before * (1 - tolerance):
            break
        book, before = new, error
    return book, before


def _both(x, codebook):
    """Vectors as (n, d) and the codebook, both in the type computed in."""
    if not isinstance(x, torch.Tensor) or x.dtype not in uniform.FLOATS or x.ndim == 0:
        raise ValueError("x must be a floating-point tensor with the vectors along its last axis")
    if not isinstance(codebook, torch.Tensor) or codebook.ndim != 2 or not len(codebook) or \
            codebook.shape[1] != x.shape[-1] or not codebook.is_floating_point() or codebook.device != x.device:
        raise ValueError(f"codebook must be a floating-point tensor (K, {x.shape[-1]}) on {x.device}")
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    book = codebook.detach().to(wide)
    if not uniform._all_finite(book):
        raise ValueError("codebook must be finite; it holds a NaN or an infinity")
    rows = x.detach().reshape(-1, x.shape[-1]).to(wide).contiguous()
    peak = float(torch.stack(torch.aminmax(rows)).abs().max()) if rows.numel() else 0.0
    if not math.isfinite(peak):
        raise ValueError("x must be finite; it holds a NaN or an infinity")
    if book.numel() and not peak + float(book.abs().max()) < (torch.finfo(wide).max / book.shape[1])**0.5:
        raise ValueError(f"x and codebook must be so small that squared distances do not overflow {wide}")
    return rows, book


def _some(x, codebook):
    """The same, and at least one vector."""
    rows, book = _both(x, codebook)
    if not rows.numel():
        raise ValueError("x must hold at least one vector")
    return rows, book


def _cells(rows, book):
    """Vectors in each cell, their sums in float64, and the squared errors of all vectors."""
    codes, errors = torch.empty(len(rows), dtype=torch.int64, device=rows.device), rows.new_empty(len(rows))
    if native.serves("vectors", rows, book, least=native.LEAST):
        for _ in _search(rows, book, codes):
            pass
        count, sums = torch.empty(len(book), dtype=torch.int64), torch.empty(book.shape, dtype=torch.float64)
        native.call("vectors", "cells", rows, book.contiguous(), codes, count, sums, errors, len(rows), *book.shape)
        return count, sums, errors
    torch.cat([_error(piece, book, j) for piece, j in _search(rows, book, codes)], out=errors)
    count = torch.bincount(codes, minlength=len(book))
    sums = torch.stack([torch.bincount(codes, weights=column.double(), minlength=len(book)) for column in rows.unbind(1)], 1)
    return count, sums, errors


def _error(piece, book, codes):
    return (piece - book.index_select(0, codes)).square_().sum(1)


@torch.no_grad()
def _search(rows, book, out):
    """Fill `out` piece by piece; yields each piece of the vectors with its codes.

    A minimum is found several times faster than its place.  With many codewords the minimum of
    each group of consecutive ones comes first, and places are looked for among the groups and then
    within one group.
    """
    K, d = book.shape
    if d <= 16 and len(rows) * K >= native.LEAST and native.serves("vectors", rows, book):
        native.call("vectors", "nearest", rows, book.contiguous(), book.square().sum(1).div_(2), out, len(rows), K, d)
        yield from zip(rows.split(uniform.CHUNK), out.split(uniform.CHUNK))
        return
    groups = GROUPS if K > 2 * GROUPS else 1
    each = -(-K // groups)
    order = torch.arange(groups * each, device=book.device).view(groups, each).t().reshape(-1).clamp_(max=K - 1)
    half = book.square().sum(1).div_(2)[order]
    half[torch.arange(groups * each, device=book.device).view(groups, each).t().reshape(-1) >= K] = math.inf
    turned = book[order].neg_().t().contiguous()
    size = max(SCORES // len(order), 64) if rows.device.type == "cpu" else max((1 << 26) // len(order), 1)
    buffer = rows.new_empty(min(size, len(rows)), len(order))
    for piece, codes in zip(rows.split(size), out.split(size)):
        scores = torch.addmm(half, piece, turned, out=buffer[:len(piece)])
        if groups == 1:
            torch.argmin(scores, 1, out=codes)
        else:
            scores = scores.view(-1, each, groups)
            group = scores.amin(1).argmin(1)
            inside = scores.gather(2, group.view(-1, 1, 1).expand(-1, each, 1)).squeeze(2).argmin(1)
            torch.add(inside, group, alpha=each, out=codes)
        yield piece, codes
