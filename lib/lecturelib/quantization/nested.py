r"""Voronoi codes: the points of a lattice in the Voronoi cell of its q-fold, at a union of scales.

Conway and Sloane's code $\Lambda/q\Lambda$ has $q^n$ codewords, numbered by $n$ digits base $q$ without
any table.  The lattice is shifted, so that no point lies on the boundary of the cell, where two points
of one class would be equally near to the origin.  A point outside the cell is decoded to another point
of its class, far away, so the encoder tries several scales, and points on the way to the origin, and
keeps the best; the rate is $\log_2q+\frac1n\log_2k$ bits per entry.
Vectors lie along the last axis; float16, bfloat16 and float32 are computed in float32, float64 in
float64.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lecturelib.quantization.lattices import Lattice
from lecturelib.quantization.uniform import CHUNK, FLOATS, INTEGERS, _whole


SHRINK = (1.0, 0.97, 0.94, 0.9, 0.85, 0.7)         # multiples of its input that the encoder tries


@dataclass(frozen=True, eq=False)
class VoronoiCode:
    r"""The codewords $\beta\,(y-q\,Q_\Lambda(y/q))$, $y\in\Lambda-a$, for the scales $\beta$ (eq-vec-nested).

    `lattice` is $\Lambda$, `q` an integer from 2 to 256, `scales` positive numbers, `shift` the vector
    $a$; None takes one in general position.

    >>> from lecturelib.quantization import lattices
    >>> VoronoiCode(lattices.e8(), 14, (0.2, 0.25, 0.3, 0.4)).rate.__round__(4)
    4.0574
    """
    lattice: Lattice
    q: int
    scales: tuple[float, ...]
    shift: tuple[float, ...] | None = None

    def __post_init__(self):
        if not _whole(self.q) or not 2 <= self.q <= 256:
            raise ValueError(f"q must be an integer from 2 to 256; got {self.q!r}")
        if not 1 <= len(self.scales) <= 256 or not all(0 < s < math.inf for s in self.scales):
            raise ValueError(f"scales must be 1 to 256 positive numbers; got {self.scales}")
        n = self.lattice.dimension
        if self.shift is None:                             # fractional parts of an irrational rotation
            object.__setattr__(self, "shift", tuple(((i + 1) * 0.7548776662466927) % 1 - 0.5 for i in range(n)))
        if len(self.shift) != n or not all(abs(a) < 1e3 for a in self.shift):
            raise ValueError(f"shift must hold {n} numbers, one for each coordinate; got {self.shift}")

    @property
    def rate(self) -> float:
        r"""$\log_2q+\frac1n\log_2k$ bits per entry, a fixed rate."""
        return math.log2(self.q) + math.log2(len(self.scales)) / self.lattice.dimension


def encode(x: torch.Tensor, code: VoronoiCode, *, shrink: Sequence[float] = SHRINK) -> torch.Tensor:
    r"""Codes of shape (..., n+1) in uint8: n digits base q, and the number of the scale.

    For each scale $\beta$ and each $\gamma$ of `shrink` a candidate has as digits the coordinates of
    $Q_\Lambda(\gamma x/\beta+a)$ in the basis, modulo $q$; the code is the candidate that decodes nearest to
    `x`, the first of them at a tie.
    `x` is a floating-point tensor (..., n).  Raises ValueError unless it is finite and $|x|/\beta$ is
    below 2^20 (2^40 for float64), and `shrink` holds at least one number, all of them in (0, 1].

    >>> from lecturelib.quantization import lattices
    >>> code = VoronoiCode(lattices.integers(1), 4, (1.0, 4.0), (0.1,))
    >>> encode(torch.tensor([[-1.2], [6.5]]), code).tolist()
    [[3, 0], [2, 1]]
    """
    shrink = _factors(shrink)
    return _pieces(x, code, lambda piece, wide: _best(piece, code, wide, shrink)[0], torch.uint8, 1)


def decode(codes: torch.Tensor, code: VoronoiCode, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    r"""The codewords (..., n), in a floating `dtype` (eq-vec-nested).

    Raises ValueError if `codes` are not integers (..., n+1), the digits in 0, ..., q-1.

    >>> from lecturelib.quantization import lattices
    >>> code = VoronoiCode(lattices.integers(1), 4, (1.0, 4.0), (0.1,))
    >>> decode(torch.tensor([[3, 0], [2, 1]]), code).view(-1).mul(10).round().tolist()
    [-11.0, 76.0]
    """
    n = code.lattice.dimension
    if not isinstance(codes, torch.Tensor) or codes.dtype not in (torch.uint8, *INTEGERS) \
            or codes.ndim == 0 or codes.shape[-1] != n + 1:
        raise ValueError(f"codes must be a tensor of integers with last axis {n + 1}")
    if dtype not in FLOATS:
        raise ValueError(f"dtype must be one of {FLOATS}; got {dtype}")
    digits, which = codes[..., :n].long(), codes[..., n].long()
    for name, value, end in (("digits of codes", digits, code.q), ("scales of codes", which, len(code.scales))):
        if value.numel() and not 0 <= int(value.min()) <= int(value.max()) < end:
            raise ValueError(f"{name} must lie in 0, ..., {end - 1}")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    scales = torch.tensor(code.scales, dtype=wide, device=codes.device)
    return (_point(digits.to(wide), code) * scales[which].unsqueeze(-1)).to(dtype)


def quantize(x: torch.Tensor, code: VoronoiCode, *, shrink: Sequence[float] = SHRINK) -> torch.Tensor:
    """`decode(encode(x))` in the type of `x`, bit for bit, in one pass.

    >>> from lecturelib.quantization import lattices
    >>> quantize(torch.tensor([[-1.2], [6.5]]), VoronoiCode(lattices.integers(1), 4, (1.0, 4.0), (0.1,))).view(-1).mul(10).round().tolist()
    [-11.0, 76.0]
    """
    shrink = _factors(shrink)
    return _pieces(x, code, lambda piece, wide: _best(piece, code, wide, shrink)[1], getattr(x, "dtype", None), 0)


def errors(x: torch.Tensor, lattice: Lattice, q: int, scales: Sequence[float]) -> torch.Tensor:
    """Mean square error per entry of each vector of `x` (m, n) with each single scale, (m, len(scales))."""
    one = [VoronoiCode(lattice, q, (float(s),)) for s in scales]
    return torch.stack([(quantize(x, code) - x).square().mean(-1) for code in one], -1)


def fit_scales(x: torch.Tensor, lattice: Lattice, q: int, count: int, grid: Sequence[float]) -> tuple[float, ...]:
    """The `count` numbers of `grid` whose union has the least error on the vectors `x` (m, n).

    One exchange after another while the error falls, from evenly spaced numbers of the grid: a local
    optimum.  Raises ValueError unless 1 <= count <= len(grid).

    >>> from lecturelib.quantization import lattices
    >>> x = torch.tensor([[0.9], [-2.1], [9.0], [20.0]])
    >>> fit_scales(x, lattices.integers(1), 8, 2, (1.0, 2.0, 3.0, 5.0))
    (1.0, 5.0)
    """
    grid = tuple(sorted(float(s) for s in grid))
    if not _whole(count) or not 1 <= count <= len(grid):
        raise ValueError(f"count must be an integer from 1 to {len(grid)}, the size of the grid; got {count!r}")
    count = int(count)
    table = errors(x, lattice, q, grid)
    chosen = [round((j + 0.5) * len(grid) / count - 0.5) for j in range(count)]
    value = float(table[:, chosen].amin(1).mean())
    while True:
        trials = []
        for j in range(count):
            rest = table[:, [c for i, c in enumerate(chosen) if i != j]]
            others = torch.minimum(table, rest.amin(1, keepdim=True)) if count > 1 else table
            means = others.mean(0)
            best = int(means.argmin())
            trials.append((float(means[best]), j, best))
        least, j, best = min(trials)
        if not least < value * (1 - 1e-9):
            return tuple(sorted(grid[c] for c in chosen))
        value, chosen[j] = least, best


def _factors(shrink) -> tuple[float, ...]:
    shrink = tuple(shrink)
    if not shrink or not all(0 < gamma <= 1 for gamma in shrink):
        raise ValueError(f"shrink must hold at least one number, all of them in (0, 1]; got {shrink}")
    return shrink


def _point(digits, code) -> torch.Tensor:
    """The codeword of the class with these digits, at scale 1."""
    y = digits @ torch.as_tensor(code.lattice.basis, dtype=digits.dtype, device=digits.device)
    y = y.sub_(digits.new_tensor(code.shift))
    return y.sub_(code.lattice.find(y / code.q), alpha=code.q)


def _best(piece, code, wide, shrink):
    """Codes and codewords of the best candidate for each vector of the piece."""
    x, best = piece.to(wide), None
    shift = x.new_tensor(code.shift)
    inverse = torch.as_tensor(np.linalg.inv(code.lattice.basis), dtype=wide, device=x.device)
    for j, scale in enumerate(torch.tensor(code.scales, dtype=wide, device=x.device)):
        scaled = x / scale
        for gamma in shrink:
            digits = torch.round(code.lattice.find(torch.add(shift, scaled, alpha=float(gamma))) @ inverse).remainder_(code.q)
            point = _point(digits, code) * scale
            error = (point - x).square_().sum(-1, keepdim=True)
            new = (digits, point, error, torch.full_like(error, j))
            if best is None:
                best = new
            else:
                closer = error < best[2]
                best = [torch.where(closer, a, b) for a, b in zip(new, best)]
    return torch.cat((best[0], best[3]), -1), best[1]


@torch.no_grad()
def _pieces(x, code, work, dtype, extra) -> torch.Tensor:
    n = code.lattice.dimension
    if not isinstance(x, torch.Tensor) or x.dtype not in FLOATS or x.ndim == 0 or x.shape[-1] != n:
        raise ValueError(f"x must be a floating-point tensor with last axis {n}")
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    room = 2.0**40 if wide == torch.float64 else 2.0**20
    rows = x.detach().reshape(-1, n)
    if rows.numel() and not float(rows.abs().max()) / min(code.scales) < room:
        raise ValueError(f"x must be finite, and x / scale below {room:.3g} in {wide}")
    out = torch.empty(len(rows), n + extra, dtype=dtype, device=x.device)
    size = max(CHUNK // n, 1) if x.device.type == "cpu" else max(len(rows), 1)
    for piece, result in zip(rows.split(size), out.split(size)):
        result.copy_(work(piece, wide))
    return out.view(*x.shape[:-1], n + extra)
