r"""The Leech lattice, with an exact nearest point by search over the words of the Golay code.

In coordinates multiplied by $\sqrt8$ the lattice is the union of the cosets $m\mathbf 1+2c+4z$ over
$m\in\{0,1\}$ and the 4096 words $c$ of the extended binary Golay code, $z$ integer with $\sum z_i\equiv m$
modulo 2.  Each coset is a translate of $4D_{24}$, or of its other half, and has the nearest point of a
checkerboard lattice; the errors of all 8192 come from tables over bytes of the words.  The cost is
about $10^5$ operations for each vector; faster decoders exist and are much longer.
"""
import numpy as np
import torch

from lecturelib.quantization.lattices import Lattice

MOMENT = 0.0657706       # Conway and Sloane, Sphere Packings, Lattices and Groups, table 2.3
PIECE = 128              # vectors worked on at a time on a CPU


def golay() -> np.ndarray:
    """The 4096 words of the extended binary Golay code, (4096, 24) zeros and ones.

    Number j has the binary digits of j in its first 12 places.

    >>> words = golay()
    >>> dict(zip(*(v.tolist() for v in np.unique(words.sum(1), return_counts=True))))
    {0: 1, 8: 759, 12: 2576, 16: 759, 24: 1}
    """
    digits = (np.arange(4096)[:, None] >> np.arange(12)) & 1
    squares = {j * j % 11 for j in range(11)}
    check = np.ones((12, 12), dtype=np.int64)              # a border of ones around the squares modulo 11
    check[:11, :11] = [[(j + k) % 11 in squares for k in range(11)] for j in range(11)]
    check[11, 11] = 0
    return np.concatenate((digits, digits @ check % 2), 1)


def leech() -> Lattice:
    r"""$\Lambda_{24}$ of volume 1, shortest vectors of length 2: $G=0.0657706$.

    >>> lattice = leech()
    >>> x = torch.randn(2, 24, generator=torch.Generator().manual_seed(0))
    >>> q = lattice.nearest(x)
    >>> lattice.dimension, lattice.volume, torch.allclose(lattice.nearest(q), q, atol=1e-6)
    (24, 1.0, True)
    """
    words = golay()
    basis = np.zeros((24, 24))
    basis[:12] = 2 * words[2**np.arange(12)]               # twice the words with one of the first 12 digits
    basis[11] = 1
    basis[11, 0] = -3                                      # its double contains the one replaced, once
    for i in range(12, 23):
        basis[i, i:i + 2] = 4, -4
    basis[23, 23] = 8
    return Lattice("Leech", basis / 8**0.5, MOMENT, _Search(words))


class _Search:
    """The nearest point, for vectors (..., 24) in float32 or float64."""

    def __init__(self, words):
        self.words = torch.from_numpy(words)
        self.check = (self.words[:, 12:] * 2**torch.arange(12)).sum(1)      # the last 12 places as a number

    def __call__(self, x):
        rows = x.reshape(-1, 24)
        size = PIECE if x.device.type == "cpu" else 1 << 12
        return torch.cat([self._piece(r) for r in rows.split(size)]).view(x.shape) if len(rows) else x.clone()

    def _piece(self, x):
        y = x.t() * 8**0.5                                 # (24, n)
        best = None
        for m in (0, 1):
            target = torch.stack((y - m, y - m - 2), 1).div_(4)             # (24, 2, n): digit 0, digit 1
            z = torch.round(target)
            gap = target - z
            error = self._every_word(gap.square(), torch.add)
            flip = self._every_word(z.remainder(2) > 0, torch.logical_xor)
            flip = ~flip if m else flip                    # the sum of z must have the parity of m
            price = self._every_word(1 - 2 * gap.abs(), torch.minimum)      # of the cheapest second choice
            least, word = error.add_(price.mul_(flip)).min(0)
            digit = self.words.to(x.device)[word].t()
            z, gap = (v.gather(1, digit.unsqueeze(1)).squeeze(1) for v in (z, gap))
            worst = gap.abs().argmax(0, keepdim=True)
            step = torch.where(gap.gather(0, worst) < 0, -1.0, 1.0).to(z) * flip.gather(0, word[None])
            point = z.scatter_add_(0, worst, step).mul_(4).add_(2 * digit + m)
            best = (point, least) if best is None else (torch.where(least < best[1], point, best[0]),)
        return best[0].t() / 8**0.5

    def _every_word(self, value, combine):
        """`combine` over the places of each word, (4096, n), of values (24, 2, n) by place and digit."""
        halves = []
        for half in (value[:12], value[12:]):
            table = half[0]
            for v in half[1:]:                             # the next place is the next higher binary digit
                table = combine(table.unsqueeze(0), v.unsqueeze(1)).flatten(0, 1)
            halves.append(table)
        return combine(halves[0], halves[1].index_select(0, self.check.to(value.device)))
