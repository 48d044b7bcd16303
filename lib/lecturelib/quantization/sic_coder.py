r"""Entropy-coded columns: an adaptive model for the integers of a quantized matrix, its length and its bytes.

The integers of a column are coded with the counts of all earlier columns of the same class.  The class
of a column is its root mean square to a quarter of an octave, and is sent; a class starts
from the counts of a Gaussian of that size.  No tables are sent.  Integers of a trellis are coded given
their parity, which its decoder knows.
"""
import struct
import zlib
from dataclasses import dataclass

import constriction
import numpy as np
import torch
from scipy.special import ndtr

REACH = 127              # larger symbols are an escape and RAW more bits
RAW = 32
PER_OCTAVE = 4           # classes in an octave of the root mean square
LEAST, MOST, DEAD = -24, 80, 127
PRIOR, FLOOR = 128.0, 0.02
SIDE = 16                # bits for each column: its step and its class, eight each
HEAD = struct.Struct("<4sBBHIIIh")
MAGIC = b"LQSc"


@dataclass(frozen=True, eq=False)
class Columns:
    r"""One matrix in code: $\hat w_{ji}=\alpha_i\,q_{ji}$.

    integers : $q$, int32 (m, n).
    steps : int16 (n,), $\alpha_i=2^{\text{steps}_i/16}$; they span at most 255.
    states, chunk : the trellis that tells the parities (a `lecturelib.quantization.sic_trellis` number of
        states; 0 for none) and the rows that it runs down.
    """
    integers: torch.Tensor
    steps: torch.Tensor
    states: int = 0
    chunk: int = 0

    def weights(self) -> torch.Tensor:
        """The matrix, float32 (m, n)."""
        return self.integers * torch.exp2(self.steps.float() / 16)


def classes(integers: torch.Tensor) -> torch.Tensor:
    """The class of each column of integers (n, m): a quarter-octave of its root mean square; DEAD if it is zero."""
    power = integers.double().square().mean(1)
    k = torch.round(PER_OCTAVE * 0.5 * torch.log2(power.clamp(min=1e-30))).clamp_(LEAST, MOST)
    return torch.where(power > 0, k, torch.full_like(k, DEAD)).to(torch.int8)


def shift(k: int) -> int:
    """Low bits of an integer of class k that are sent as they are."""
    return max(0, -(-k // PER_OCTAVE) - 3)


def prior(k: int, parities: bool) -> np.ndarray:
    """Counts (1 or 2, 2 REACH + 1) that class k starts with, for each parity if there are any."""
    s, r = shift(k), 2.0**(k / PER_OCTAVE)
    contexts, v = (2 if parities else 1), np.arange(-REACH, REACH + 1)
    p = np.empty((contexts, len(v)))
    for c in range(contexts):
        low, high = (v << s) * contexts + c, (((v + 1) << s) - 1) * contexts + c          # integers of the symbol
        if r < 0.5:
            p[c] = np.where((low <= 0) & (high >= 0), 1 - r * r, 0) + np.where((low <= 1) & (high >= 1), r * r / 2, 0) + \
                np.where((low <= -1) & (high >= -1), r * r / 2, 0)
        else:
            spread = (r * r - (1 / 12 if contexts == 1 else 0))**0.5
            p[c] = ndtr((high + contexts / 2) / spread) - ndtr((low - contexts / 2) / spread)
        p[c] /= p[c].sum()
    return PRIOR * p + FLOOR


def _symbols(q, k, parities):
    """Symbols of columns (n, m) of classes k, their contexts, and the number of raw bits."""
    low = torch.tensor([shift(int(c)) if c != DEAD else 0 for c in k], device=q.device, dtype=torch.int32).unsqueeze(1)
    q = q.int()
    v = (q >> 1 if parities else q) >> low
    return v.clamp(-REACH, REACH), low


def _counts(v, q, parities):
    """Histogram (n, contexts, 2 REACH + 1) of each column."""
    n, m = v.shape
    size = 2 * REACH + 1
    cell = v.long() + REACH + size * (2 if parities else 1) * torch.arange(n, device=v.device).unsqueeze(1)
    if parities:
        cell += size * (q.long() & 1)
    return torch.bincount(cell.view(-1), minlength=n * (2 if parities else 1) * size).view(n, -1, size).cpu().numpy()


def length(integers: torch.Tensor, scale: float = 1.0, parities: bool = False) -> torch.Tensor:
    """Bits of each matrix of integers (B, n, m), columns in rows, with side information; float64 (B,).

    With `scale` the columns stand for ones that are as many times longer: what adaptation costs is then
    estimated as for those.
    """
    return torch.tensor([_length(q, scale, parities) for q in integers], dtype=torch.float64, device=integers.device)


def _length(q, scale, parities):
    k = classes(q)
    v, low = _symbols(q, k.tolist(), parities)
    counts, k = _counts(v, q, parities) * scale, k.cpu().numpy()
    escapes = counts[:, :, [0, -1]].sum()
    bits = float((low.view(-1).cpu().numpy() * q.shape[1] * scale).sum()) + RAW * escapes + SIDE * len(k)
    for c in np.unique(k[k != DEAD]):
        mine = counts[k == c][::-1]                        # from the last column to the first
        seen = prior(int(c), parities) + np.concatenate((np.zeros_like(mine[:1]), np.cumsum(mine, 0)[:-1]))
        bits -= float((mine * np.log2(seen / seen.sum(2, keepdims=True))).sum())
    return bits
