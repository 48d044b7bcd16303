r"""Entropy-coded trellis quantization: a trellis on the integers, and an entropy coder behind it.

A sample is coded by an integer $i$ with reconstruction point $c_i$.  The trellis has $2^\nu$
states; in each of them only the even or only the odd integers are allowed, and the integer taken,
modulo 4, leads to one of two next states (eq-it-union).  The decoder knows the state, hence the
parity, and the entropy coder pays $\ell(i)=-\log_2P(i\mid i\bmod2)$ bits.  The encoder minimizes
$\sum_t(x_t-c_{i_t})^2+\lambda\,\ell(i_t)$ exactly over all paths from state 0, with the search of
`lecturelib.quantization.trellis`: $2^{\nu+1}$ additions and comparisons per sample, whatever the rate.
"""
import math
import zlib
from dataclasses import dataclass

import torch

from lecturelib.quantization import trellis, uniform

# parity-check polynomials (h0, h1) of Ungerboeck's one-dimensional codes, by number of states
UNGERBOECK = {4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o4), 32: (0o45, 0o10), 64: (0o103, 0o24),
              128: (0o235, 0o126), 256: (0o515, 0o362)}
# the masks that we use: larger ones by a random search for the least error on the plain integers
MASKS = {**UNGERBOECK, 256: (0o607, 0o276), 4096: (0o14735, 0o5462), 16384: (0o47375, 0o30222)}
TOTAL = 1 << 20          # frequencies of each parity add up to this
PIECE = 1 << 20          # numbers worked on at a time when samples meet points


@dataclass(frozen=True)
class Code:
    r"""An entropy-coded trellis: all that encoder and decoder share.

    memory : $\nu$; there are $2^\nu$ states.
    h0, h1 : polynomials over two elements, as integers; the register $w$ of $\nu+1$ bits has the
        label $2\langle h_0,w\rangle+\langle h_1,w\rangle$.  `h0` has its lowest and highest bit set,
        `h1` has neither, so that the state tells the parity before the integer is known.
    points : $c_{-I},\dots,c_I$, increasing float32 on the CPU, $2\le I<2^{15}$.
    frequencies : positive integers for $i=-I,\dots,I$ that add up to `TOTAL` for each parity.
    slope : $\lambda$ of the encoder, per bit.

    Raises ValueError where one of these fails.
    """
    memory: int
    h0: int
    h1: int
    points: torch.Tensor
    frequencies: torch.Tensor
    slope: float

    def __post_init__(self):
        ends = 1 | 1 << self.memory
        if not 1 < self.memory < 24 or self.h0 & ends != ends or self.h1 & ends or not 0 < self.h1 < self.h0 < 2 << self.memory:
            raise ValueError("h0 must have bits 0 and memory set and h1 neither, both within memory + 1 bits")
        c, f = self.points, self.frequencies
        if c.dtype != torch.float32 or c.ndim != 1 or len(c) % 2 == 0 or not 5 <= len(c) < 1 << 16 or c.device.type != "cpu" or \
                not (c[1:] > c[:-1]).all() or not torch.isfinite(c).all():
            raise ValueError("points must be an odd number, at least 5, of increasing finite float32 on the CPU")
        parity = self.indices() & 1
        if f.dtype != torch.int64 or f.shape != c.shape or f.device != c.device or not (f > 0).all() or \
                any(int(f[parity == p].sum()) != TOTAL for p in (0, 1)):
            raise ValueError(f"frequencies must be positive int64, one per point, that add up to {TOTAL} for each parity")
        if not 0 <= self.slope < math.inf:
            raise ValueError(f"slope must be a finite number, not negative; got {self.slope}")

    def indices(self) -> torch.Tensor:
        """-I, ..., I."""
        reach = len(self.points) // 2
        return torch.arange(-reach, reach + 1)

    def lengths(self) -> torch.Tensor:
        r"""Ideal code lengths $\ell(i)=-\log_2P(i\mid i\bmod2)$ in bits, float32."""
        return -torch.log2(self.frequencies.double() / TOTAL).float()

    def labels(self) -> torch.Tensor:
        """Label of each register 0, ..., 2^(memory+1) - 1; int64."""
        w = torch.arange(2 << self.memory)
        return 2 * parity(w & self.h0) + parity(w & self.h1)

    def fingerprint(self) -> int:
        """CRC-32 of everything that the decoder uses."""
        head = f"{self.memory} {self.h0} {self.h1}".encode()
        return zlib.crc32(self.frequencies.numpy().astype("<i8").tobytes(),
                          zlib.crc32(self.points.numpy().astype("<f4").tobytes(), zlib.crc32(head)))


def parity(w: torch.Tensor) -> torch.Tensor:
    """Number of ones modulo 2 of integers below 2^32.

    >>> parity(torch.tensor([0, 1, 3, 7])).tolist()
    [0, 1, 0, 1]
    """
    for shift in (16, 8, 4, 2, 1):
        w = w ^ w >> shift
    return w & 1


def quantize(x: torch.Tensor, code: Code, slope: float | None = None) -> tuple[torch.Tensor, torch.Tensor, float]:
    r"""Reconstruction, integers and ideal rate of the best path of each row (eq-it-cost).

    Parameters
    ----------
    x : float tensor (batch, T), finite; each row starts in state 0.  Computed in float32.
    slope : $\lambda$ in squared units of `x` per bit; None takes that of the code.

    Returns x_hat in the dtype of `x`, the integers $i$ as int16, and the mean of $\ell(i)$ in bits per sample;
    `lecturelib.quantization.coder` turns the integers into as many bytes.  Values beyond the last
    point saturate.  Raises ValueError on a NaN or an infinity.
    """
    indices = encode(x, code, slope)
    reach = len(code.points) // 2
    rate = float(code.lengths().to(x.device)[indices.long() + reach].double().mean())
    return decode(indices, code).to(x.dtype), indices, rate


def decode(indices: torch.Tensor, code: Code) -> torch.Tensor:
    """Points $c_i$ of integers -I, ..., I; ValueError beyond them."""
    reach = len(code.points) // 2
    if indices.numel() and not -reach <= int(indices.min()) <= int(indices.max()) <= reach:
        raise ValueError(f"indices must lie in {-reach}, ..., {reach}")
    return code.points.to(indices.device)[indices.long() + reach]


@torch.no_grad()
def encode(x: torch.Tensor, code: Code, slope: float | None = None) -> torch.Tensor:
    """The integers of `quantize`, int16 (batch, T)."""
    x = trellis._rows(x).float()
    slope = code.slope if slope is None else uniform._number(slope)
    if not 0 <= slope < math.inf:
        raise ValueError(f"slope must be a finite number, not negative; got {slope}")
    L, labels = code.memory + 1, code.labels().to(x.device)
    pick = torch.cat([trellis.butterfly((labels == j).float(), L, 1).view(1, -1) for j in range(4)])
    best = torch.empty(*x.shape, 4, dtype=torch.int16, device=x.device)
    for rows in trellis.groups(len(x), x.shape[1], L, 1):
        cost, part = _coset_costs(x[rows], code, slope, best[rows])
        bits = torch.empty(part.shape[:2], dtype=torch.uint8, device=x.device)
        start = torch.zeros(len(part), dtype=torch.int64, device=x.device)

        def branch(here, t, out):                           # a row of 4 costs times 0 and 1: exact
            torch.mm(cost[here, t], pick, out=out.view(len(out), -1))

        def near(here, t, s):
            return cost[here, t].gather(1, labels[s])
        local = slice(0, len(part))
        costs = trellis.forward(branch, local, x[rows], L, 1, start)
        trellis.backward(near, local, costs, L, 1, bits)
        del costs                                           # before the next ones are made
        register = trellis.states(torch.cat((bits.new_zeros(len(bits), code.memory), bits), 1), _shape(L))
        best[rows, :, 0] = part.gather(2, labels[register].unsqueeze(2)).squeeze(2)
    return best[..., 0].clone()


def _shape(L):
    return trellis.Trellis(L, 1, torch.zeros(1 << L))


def _coset_costs(x, code, slope, best):
    """For each sample and coset modulo 4 the least cost, and into `best` the integer that has it.

    For x beyond the last point y the square is (y - c)^2 + 2 (x - y) (y - c), less (x - y)^2, which all share:
    far out the difference of two large squares would be rounding.
    """
    i, price = code.indices().to(x.device), slope * code.lengths().to(x.device)
    points, cost = code.points.to(x.device), x.new_empty(*x.shape, 4)
    flat, values, chosen = x.reshape(-1, 1), cost.view(-1, 4), best.view(-1, 4)
    inner = flat.clamp(points[0], points[-1])
    excess = 2 * (flat - inner)
    outside = bool(excess.any())
    step = max(1, PIECE // len(i))
    for j in range(4):
        mine = i % 4 == j
        for a in range(0, len(flat), step):
            b = slice(a, a + step)
            gap = inner[b] - points[mine]
            found = (gap * (gap + excess[b]) if outside else gap.square_()).add_(price[mine]).min(1)
            values[b, j] = found.values
            chosen[b, j] = i[mine][found.indices].to(torch.int16)
    return cost, best


def design(rate: float, polynomials: tuple[int, int], x: torch.Tensor, rounds: int = 12) -> Code:
    r"""A code for the source that `x` (batch, T) samples, of unit variance and symmetric, at entropy `rate`.

    Alternates the search with $\lambda=2\ln2\cdot D$, the slope of Shannon's curve, and the updates of
    frequencies and centroids, and scales the points to meet the rate.  The last four rounds take a
    quarter of `x` each and keep what they count.  Raises ValueError unless the rate lies in [0.3, 6],
    there are at least five rounds and four samples a row, and if the code misses the rate by more than
    a tenth: below about 0.7 bit, earlier with few states, the search prefers to send nothing.
    """
    if not 0.3 <= rate <= 6 or not uniform._whole(rounds) or rounds < 5:
        raise ValueError(f"rate must lie in [0.3, 6] bits and rounds be an integer of at least 5; got {rate}, {rounds}")
    if trellis._rows(x).shape[1] < 4:
        raise ValueError(f"x must have at least four samples a row; got {x.shape[1]}")
    memory = polynomials[0].bit_length() - 1
    step, D = 1.95 * 2.0**-rate, 1.06 * 4.0**-rate
    reach = math.ceil(7.5 / step)
    i = torch.arange(-reach, reach + 1)
    points, counts = (i * step).float(), torch.zeros(len(i), dtype=torch.float64)
    sums = torch.zeros_like(counts)
    for number in range(rounds, 0, -1):
        code = Code(memory, *polynomials, points, _frequencies(counts, i, step), 2 * math.log(2) * D)
        part = x.tensor_split(4, 1)[number - 1] if number <= 4 else x[:, :256]
        x_hat, indices, spent = quantize(part, code)
        D = float((part - x_hat).double().square().mean())
        factor = min(max(2.0**(spent - rate), 0.8), 1.25)**(0.5 if number < 4 else 1.0)
        flat = (indices.long() + reach).view(-1).cpu()
        new = torch.bincount(flat, minlength=len(i)).double()
        moments = torch.bincount(flat, weights=part.reshape(-1).double().cpu(), minlength=len(i))
        counts = new + new.flip(0) + (counts if number < 4 else 0)       # a symmetric source
        sums = (moments - moments.flip(0) + (sums if number < 4 else 0)) * factor
        step *= factor
        centers = (sums + 8 * points * factor) / (counts + 8)            # rare points stay about where they are
        points = torch.cummax(centers.float(), 0).values + 1e-6 * i.float()
    if not abs(spent - rate) <= 0.1 * rate:
        raise ValueError(f"rate {rate:g} was not reached: the code spends {spent:.3g} bits; below about 0.7 bit it prefers to send nothing")
    return Code(memory, *polynomials, points, _frequencies(counts, i, step), 2 * math.log(2) * D)


def _frequencies(counts, i, step):
    """Positive integers that add up to TOTAL over the even and over the odd i, near the `counts` and a Gaussian."""
    prior = torch.exp(-0.5 * (i * step).double().square())
    weights = counts + 4 * prior / prior.sum()
    f = torch.empty(len(i), dtype=torch.int64)
    for p in (0, 1):
        mine = i & 1 == p
        w = weights[mine]
        whole = 1 + torch.floor(w / w.sum() * (TOTAL - len(w))).long()
        whole[w.argmax()] += TOTAL - whole.sum()
        f[mine] = whole
    return f
