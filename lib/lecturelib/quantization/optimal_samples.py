"""Codebooks from samples on the line: the exact optimum, and a fast route to nearly the same error."""
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import LinAlgError, solve_banded

PIECE = 1 << 16     # samples worth a thread of their own
ENDS = 4096         # spacings at either end that are looked at one by one


@dataclass(frozen=True)
class SampleCodebook:
    """A codebook of samples: `points` (N,) increase, `thresholds` (N-1,) are their midpoints, and
    `distortion` is the mean square error of the samples."""
    points: np.ndarray
    thresholds: np.ndarray
    distortion: float


def optimal(x, levels: int, weights=None) -> SampleCodebook:
    r"""The codebook of `levels` points with the least mean square error of the samples `x`.

    Dynamic programming over the sorted samples (eq-cb-dynamic), $D_k(j)=\min_iD_{k-1}(i)+w(i,j)$ with
    $w$ from prefix sums; the minimizing $i$ increases with $j$, so every layer costs
    $O(n\log n)$ by divide and conquer, all intervals of a depth at once.  `x` is any array or
    tensor, taken in float64; `weights` are positive, one per sample.  Memory is 4 bytes for each
    pair of sample and level.  Raises ValueError unless the samples are finite and at least `levels`
    of them distinct.

    >>> book = optimal([0.0, 1.0, 10.0, 11.0, 30.0], 3)
    >>> book.points.tolist(), round(book.distortion, 12)
    ([0.5, 10.5, 30.0], 0.2)
    """
    x, w, shift = _samples(x, levels, weights)
    sums = _Sums(x, w)
    return _result(sums, _cuts(sums, int(levels)), shift)


def fast(x, levels: int, groups: int = 1024) -> SampleCodebook:
    r"""A locally optimal codebook of the samples `x`, from the exact optimum of `groups` group means.

    Groups are runs of sorted samples with about equal shares of $\int p^{1/3}$, the density of good
    points, which $\sum(x_{i+1}-x_i)^{2/3}$ estimates.
    After the sort everything is prefix sums: each round of Lloyd's iteration, or of Newton's with the
    density at the thresholds estimated by counting, costs $O(N\log n)$.  Rounds are kept only if they
    lower the error of the samples.  When Newton's have failed three times the rest are Lloyd's, until no
    sample changes its cell.  Raises ValueError as `optimal` does.

    >>> book = fast([0.0, 1.0, 10.0, 11.0, 30.0], 3)
    >>> book.points.tolist()
    [0.5, 10.5, 30.0]
    """
    if isinstance(groups, bool) or not levels <= groups < np.inf or groups != int(groups):
        raise ValueError(f"groups must be an integer of at least {levels}; got {groups!r}")
    x, w, shift = _samples(x, levels, None)
    sums, n = _Sums(x, w), len(x)
    if n <= groups:
        return _result(sums, _cuts(sums, int(levels)), shift)
    edges = _groups(x, int(groups))
    coarse = sums.between(edges[:-1], edges[1:])
    mean = coarse[1] / coarse[0]
    cuts = edges[_cuts(_Sums(mean, coarse[0]), int(levels))]
    error, tries = sums.error(cuts), 3
    while True:
        for newton in (True, False) if tries else (False,):
            trial = _round(sums, cuts, newton)
            if trial is not None and (lower := sums.error(trial)) < error:
                cuts, error = trial, lower
                break
            tries -= newton
        else:
            return _result(sums, cuts, shift)


def _groups(x, groups) -> np.ndarray:
    """Boundaries of at most `groups` runs; spacings are looked at one by one only near the ends."""
    n = len(x)
    i = np.arange(n)
    if n > 2 * ENDS:
        i = np.concatenate((i[:ENDS], np.linspace(ENDS, n - ENDS, 1 << 15, endpoint=False).astype(int), i[n - ENDS:]))
    share = np.append(0.0, np.cumsum(np.cbrt(np.diff(i) * np.diff(x[i])**2)))
    inner = i[np.searchsorted(share, share[-1] * np.arange(1, groups) / groups)]
    return np.unique(np.concatenate(([0], inner, [n])))


class _Sums:
    """Prefix sums of weights, weighted samples and squares; the samples are sorted and centered."""

    def __init__(self, x, w):
        self.x = x
        self.table = np.zeros((3, len(x) + 1))
        for row, values in zip(torch.from_numpy(self.table), (w, w * x, w * x * x)):
            torch.cumsum(torch.from_numpy(values), 0, out=row[1:])

    def between(self, i, j):
        return self.table[:, j] - self.table[:, i]

    def cost(self, i, j):
        r"""$w(i,j)$: the squared distances of the samples i, ..., j-1 to their mean, added up."""
        w, s, q = (row[j] - row[i] for row in self.table)
        return np.maximum(q - s * s / w, 0.0)

    def error(self, cuts):
        return float(self.cost(cuts[:-1], cuts[1:]).sum())


def _cuts(sums, levels) -> np.ndarray:
    """Cell boundaries 0 = j_0 < ... < j_N = n with the least total cost."""
    n = len(sums.x)
    if levels == 1:
        return np.array([0, n])
    every = np.arange(1, n + 1)
    best, came = np.append(0.0, sums.cost(0, every)), []
    for k in range(2, levels):
        best, origin = _layer(sums, best, k)
        came.append(origin)
    last = np.arange(levels - 1, n)
    cuts = [n, last[np.argmin(best[last] + sums.cost(last, n))]]
    for origin in reversed(came):
        cuts.append(origin[cuts[-1]])
    return np.array([0, *cuts[::-1]])


def _layer(sums, best, k):
    """Least cost of k cells for the first j samples, every j, and where the last cell begins.

    Strides 2^L, ..., 2, 1: the minimizer at j lies between those at j - stride and j + stride.
    """
    n = len(sums.x)
    value, origin = np.full(n + 1, np.inf), np.full(n + 2, k - 1, dtype=np.int32)
    origin[n + 1] = n
    stride = 1 << max(n - k, 1).bit_length()
    while stride:
        j = np.arange(k - 1 + stride, n + 1, 2 * stride)
        right = np.where(j + stride <= n, j + stride, n + 1)
        low, high = np.maximum(origin[j - stride], k - 1), np.minimum(origin[right], j - 1)
        count = high - low + 1
        first = np.cumsum(count) - count
        i = np.arange(count.sum()) + np.repeat(low - first, count)
        cost = best[i] + sums.cost(i, np.repeat(j, count))
        value[j] = np.minimum.reduceat(cost, first)
        hits = np.flatnonzero(cost == np.repeat(value[j], count))
        origin[j] = i[hits[np.searchsorted(hits, first)]]
        stride //= 2
    return value, origin[:-1]


def _round(sums, cuts, newton):
    """Cuts after one round of Lloyd's or Newton's iteration; None if a cell would be empty."""
    w, s, _ = sums.between(cuts[:-1], cuts[1:])
    c = s / w
    t = (c[1:] + c[:-1]) / 2
    if newton:
        # density at the old thresholds, from the samples within a tenth of the gap of the points
        at = (sums.x[cuts[1:-1] - 1] + sums.x[cuts[1:-1]]) / 2
        reach = np.diff(c) / 10
        near = [np.searchsorted(sums.x, at + sign * reach) for sign in (-1, 1)]
        p = sums.between(*near)[0] / (2 * reach)
        left, right = p * (at - c[:-1]) / w[:-1], p * (c[1:] - at) / w[1:]
        band = np.zeros((3, len(t)))
        band[0, 1:], band[1], band[2, :-1] = -left[1:] / 2, 1 - (left + right) / 2, -right[:-1] / 2
        try:
            t = at - solve_banded((1, 1), band, at - t)
        except LinAlgError:
            return None
    inner = np.searchsorted(sums.x, t, "right")
    cuts = np.concatenate(([0], inner, [len(sums.x)]))
    return cuts if np.all(cuts[1:] > cuts[:-1]) else None


def _samples(x, levels, weights):
    """Sorted distinct samples less their mean, the weight of each, and the mean."""
    if isinstance(levels, bool) or not 1 <= levels < np.inf or levels != int(levels):
        raise ValueError(f"levels must be an integer of at least 1; got {levels!r}")
    x = np.array(x.detach().cpu().double().numpy() if hasattr(x, "detach") else x, dtype=float).ravel()
    if not len(x) or not np.isfinite(x.sum()) or not np.all(np.isfinite(x)):
        raise ValueError("x must hold one or more finite samples")
    w = None
    if weights is not None:
        w = np.array(weights, dtype=float).ravel()
        if len(w) != len(x) or not np.all((w > 0) & (w < np.inf)):
            raise ValueError(f"weights must be {len(x)} positive finite numbers, one per sample")
        order = np.argsort(x)
        x, w = x[order], w[order]
    else:
        _sort(x)
    new = np.append(True, x[1:] > x[:-1])
    first = np.flatnonzero(new)
    if len(first) < levels:
        raise ValueError(f"x must hold at least {levels} distinct samples; it holds {len(first)}")
    shift = x.mean()
    if len(first) == len(x):
        return x - shift, np.ones(len(x)) if w is None else w, shift
    count = np.diff(np.append(first, len(x))).astype(float) if w is None else np.add.reduceat(w, first)
    return x[first] - shift, count, shift


def _sort(x):
    """Sort in place, with as many threads as PyTorch has: a partition, then the parts."""
    parts = min(torch.get_num_threads(), len(x) // PIECE)
    if parts < 2:
        return x.sort()
    cuts = np.linspace(0, len(x), parts + 1).astype(int)[1:-1]
    x.partition(cuts)
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(np.ndarray.sort, np.split(x, cuts)))


def _result(sums, cuts, shift) -> SampleCodebook:
    w, s, _ = sums.between(cuts[:-1], cuts[1:])
    c = s / w
    points = c + shift
    return SampleCodebook(points, (points[1:] + points[:-1]) / 2, sums.error(cuts) / float(sums.table[0, -1]))
