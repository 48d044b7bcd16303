r"""Tables for the bitshift trellis: random, computed from the state, and trained.

All are for a source of variance 1.  `sum_code` is computed by adding one weight for each bit of
the state that is set, on a circle, and a Gaussian quantile (eq-it-sum-code); its weights below
were found by a random search on a few thousand samples.
"""
import numpy as np
import torch
from scipy.special import ndtri

from lecturelib.quantization import uniform
from lecturelib.quantization.trellis import Trellis, states, viterbi

# weights in units of 2^-L, lowest (newest) bit first, by (L, k)
WEIGHTS = {
    (8, 2): (128, 182, 96, 76, 199, 40, 192, 112),
    (10, 2): (528, 800, 825, 898, 34, 392, 512, 310, 256, 434),
    (12, 1): (1432, 2899, 744, 1374, 3072, 3398, 2886, 3648, 3120, 768, 3168, 2050),
    (12, 2): (660, 2048, 3234, 821, 2086, 1152, 2244, 1303, 2568, 1024, 1280, 2196),
    (12, 3): (260, 2089, 928, 519, 1152, 728, 3823, 1929, 2055, 1539, 1989, 3072),
    (12, 4): (967, 2432, 3554, 3834, 1285, 737, 512, 3072, 2054, 1058, 2496, 2896),
    (14, 2): (2643, 8194, 13003, 7680, 8347, 4099, 8978, 5214, 10274, 4610, 14317, 8785, 12459, 7656),
    (16, 2): (10574, 32777, 52140, 30720, 33388, 16399, 35912, 20856, 41096, 18442, 57269, 35141, 17079, 30626, 58832, 39741),
}


def random_code(L: int, k: int, generator: torch.Generator) -> Trellis:
    """The 2^L midpoint quantiles of N(0,1) in random order, as Mao, Gray and Linder have them."""
    order = torch.randperm(1 << L, generator=generator, device=generator.device)
    return Trellis(L, k, _quantiles(L)[order.cpu()])


def sum_code(L: int, k: int, weights=None) -> Trellis:
    r"""$c_s=\Phi^{-1}\big(\big\{\sum_bs_bw_b\big\}+2^{-L-1}\big)$ (eq-it-sum-code).

    `weights` are L integers $2^Lw_b$, lowest bit first; None takes those of `WEIGHTS`.  Raises
    ValueError if there are none for (L, k), or not L of them.

    >>> [round(c, 3) for c in sum_code(2, 1, [2, 1]).codebook.tolist()]
    [-1.15, 0.319, -0.319, 1.15]
    """
    if weights is None and (L, k) not in WEIGHTS:
        raise ValueError(f"weights must be given for (L, k) = {(L, k)}; there are some for {sorted(WEIGHTS)}")
    w = torch.as_tensor(WEIGHTS[L, k] if weights is None else weights)
    if w.shape != (L,) or w.is_floating_point() or w.dtype == torch.bool:
        raise ValueError(f"weights must be {L} integers; got shape {tuple(w.shape)} of {w.dtype}")
    w = w.long()
    s = torch.arange(1 << L)
    place = sum((s >> b & 1) * w[b] for b in range(L)) & (1 << L) - 1
    return Trellis(L, k, _quantiles(L)[place])


def one_mad(L: int, k: int) -> Trellis:
    """QTIP's 1MAD: the sum of the four bytes of a s + b modulo 2^32, centered and scaled."""
    x = _congruential(L, 34038481, 76625530)
    total = sum((x >> 8 * j) & 255 for j in range(4))
    return Trellis(L, k, torch.from_numpy((total - 510) / 147.8).float())


def three_inst(L: int, k: int) -> Trellis:
    """QTIP's 3INST: two half-precision numbers cut from a s + b modulo 2^32, added; here with mean square 1."""
    x = _congruential(L, 89226354, 64248484)
    m = np.float16(0.922).view(np.uint16)
    halves = [((x >> shift & 0x8FFF).astype(np.uint16) ^ m).view(np.float16).astype(np.float64) for shift in (0, 16)]
    c = halves[0] + halves[1]
    return Trellis(L, k, torch.from_numpy(c / np.sqrt(np.mean(c**2))).float())


def train(trellis: Trellis, x: torch.Tensor, rounds: int = 10) -> Trellis:
    r"""Lloyd's iteration: search, then move each $c_s$ to the mean of the samples it was used for.

    `x` (batch, T) are samples of the source; states that were not used stay, others are pulled to
    their old value by one sample.  The error on `x` never increases but for rounding: the pulled mean
    has the least error among all points that are no farther from the old one.  Raises ValueError if
    `rounds` is negative or no integer.
    """
    if not uniform._whole(rounds) or rounds < 0:
        raise ValueError(f"rounds must be a nonnegative integer; got {rounds!r}")
    for _ in range(rounds):
        s = states(viterbi(x, trellis), trellis).reshape(-1)
        count = torch.bincount(s, minlength=1 << trellis.L) + 1.0
        total = torch.bincount(s, weights=x.reshape(-1).double(), minlength=1 << trellis.L) + trellis.codebook.to(x.device)
        trellis = Trellis(trellis.L, trellis.k, (total / count).to(trellis.codebook.dtype))
    return trellis


def _quantiles(L):
    return torch.from_numpy(ndtri((np.arange(1 << L) + 0.5) / (1 << L))).float()


def _congruential(L, a, b):
    return (np.arange(1 << L, dtype=np.int64) * a + b) & 0xFFFFFFFF
