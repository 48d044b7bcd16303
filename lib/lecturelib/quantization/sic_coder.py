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
