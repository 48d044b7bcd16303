r"""The product with low-bit weights by looking up sums, without multiplying by a weight.

Four weights of one bit have sixteen patterns, so four inputs have sixteen sums $\sum\pm x_j$, of which eight
suffice, since opposite patterns have opposite sums.  A weight of $b$ bits is $b$ such weights:
with $v=\sum_i2^ib_i$ and $\beta_i=2b_i-1$, $v=\frac12\big(\sum_i2^i\beta_i+2^b-1\big)$ (eq-fmt-lut).  So one small table for
each four inputs serves all rows of the matrix and all planes of bits.
"""
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from lecturelib.quantization import packing, uniform
from lecturelib.quantization.blocks import Blocks

GROUP = 4
SIGNS = torch.tensor([[2.0 * (j >> i & 1) - 1 for i in range(GROUP)] for j in range(2**GROUP)])     # (16, 4)


@dataclass(frozen=True)
class Planes:
    r"""$w=s(v\,\upsilon+\lambda)+z$ with integers $v$ of `planes` bits: `nibbles` (planes, m, n / 4) uint8, a bit of four
    neighboring weights each; `scales` $s\upsilon/2$ (m, blocks) and `shifts` (m, blocks), what is left for the sum of the inputs."""
    nibbles: torch.Tensor
    scales: torch.Tensor
    shifts: torch.Tensor


def prepare(weights: Blocks) -> Planes:
    """Bit planes of quantized weights (m, n) whose levels are multiples of a unit: integers, E2M1, but not NF4.

    Raises ValueError for other levels, another number of axes, or a block that is no multiple of 4.
    """
    if weights.codes.ndim != 2 or weights.block % GROUP:
        raise ValueError(f"weights must be a matrix with blocks of a multiple of {GROUP}; got {tuple(weights.codes.shape)}, block {weights.block}")
    levels = weights.levels.double()
    low, unit = levels.min(), torch.unique(levels).diff().min()
    v = (levels - low) / unit
    if not bool((v == v.round()).all()) or not v.max() < 256:
        raise ValueError("weights must have finite levels that are multiples of one unit")
    v = v.to(torch.uint8)[weights.codes.int()]
    count = int(v.max()).bit_length() or 1
    planes = [packing.pack(v >> i & 1, 1) for i in range(count)]
    nibbles = torch.stack([torch.stack((p & 15, p >> 4), -1).flatten(-2)[:, :v.shape[1] // GROUP] for p in planes])
    s = weights.scales.double() if weights.matrix is None else weights.scales.double() * weights.matrix.double()
    shifts = s * (low + unit * (2**count - 1) / 2)
    if weights.zeros is not None:
        shifts = shifts + weights.zeros.double()
    return Planes(nibbles, (s * unit / 2).float(), shifts.float())


def tables(x: torch.Tensor) -> torch.Tensor:
    r"""The eight sums $-x_3\pm x_2\pm x_1\pm x_0$ of each four inputs: (T, n) -> (T, n / 4, 8).

    >>> tables(torch.tensor([[1.0, 2.0, 4.0, 8.0]]))[0, 0].tolist()
    [-15.0, -13.0, -11.0, -9.0, -7.0, -5.0, -3.0, -1.0]
    """
    return x.unflatten(-1, (-1, GROUP)) @ SIGNS[:8].T.to(x)


def matmul(x: torch.Tensor, weights: Planes) -> torch.Tensor:
    r"""$xW^\top$, (T, n) and (m, n) -> (T, m), by sums looked up (eq-fmt-lut); exact where the sums are.

    >>> from lecturelib.quantization import blocks
    >>> w = blocks.encode(torch.tensor([[1.0, -2.0, 3.0, 7.0]]), blocks.integer(4, 4))
    >>> matmul(torch.tensor([[1.0, 1.0, 1.0, 2.0]]), prepare(w)).tolist()
    [[16.0]]
    """
    count, m, groups = weights.nibbles.shape
    if not isinstance(x, torch.Tensor) or x.ndim != 2 or x.shape[1] != GROUP * groups or not x.is_floating_point():
        raise ValueError(f"x must be a floating tensor (T, {GROUP * groups})")
    if not uniform._all_finite(x):
        raise ValueError("x must be finite; it holds a NaN or an infinity")
    blocks = weights.scales.shape[1]
    table = tables(x)
    table = torch.cat((table, -table.flip(-1)), -1).permute(1, 2, 0).reshape(16 * groups, -1).contiguous()     # symmetric: computed once, looked up in full
    first = 16 * torch.arange(groups, dtype=torch.int32, device=x.device)
    ends = torch.arange(0, m * groups, groups // blocks, dtype=torch.int32, device=x.device)
    total = None
    for i in range(count):
        sums = F.embedding_bag((weights.nibbles[i] + first).view(-1), table, ends, mode="sum")        # (m blocks, T)
        total = sums if total is None else total.add_(sums, alpha=2.0**i)
    total = total.view(m, blocks, -1)
    inputs = x.unflatten(1, (blocks, -1)).sum(2)                                                      # (T, blocks)
    return (torch.einsum("mbt,mb->tm", total, weights.scales.to(x)) + inputs @ weights.shifts.T.to(x))
