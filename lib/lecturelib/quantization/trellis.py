r"""Trellis-coded quantization at a fixed rate: the bitshift trellis and an exact, batched search.

A code is a table of $2^L$ numbers.  Each sample sends $k$ bits; the decoder shifts them into a
register of $L$ bits, its state $s$, and puts out $c_s$ (eq-it-bitshift).  Any stretch of the signal
is decoded from its own bits and the $L-k$ before it.  The encoder finds, among all bit strings from
a free or a given first register, the one with the least square error, by dynamic programming over
the $2^{L-k}$ registers:
$2^L$ additions and comparisons per sample, with whole tensors over sequences and states; the only
Python loop runs over time, and it runs where the samples live.  The search keeps
$2^{L-k}$ floats per sample (`MEMORY` bounds how many at a time, of one row at least) and no back-pointers: the way
back recomputes the few comparisons that it needs.
"""
from dataclasses import dataclass

import torch

from lecturelib import native
from lecturelib.quantization import uniform

MEMORY = 5 << 24         # floats kept at a time by the search: 320 MiB in float32
CACHE = 1 << 17          # states worked on at a time on a CPU
FAR = 1e15               # samples are cut off here, so that no square overflows


@dataclass(frozen=True)
class Trellis:
    r"""The bitshift trellis with register length `L`, `k` bits per sample and the table `codebook`.

    `codebook` is a finite float32 or float64 tensor of shape (2^L,); `L` at least 2k.  Raises
    ValueError otherwise.
    """
    L: int
    k: int
    codebook: torch.Tensor

    def __post_init__(self):
        if not (uniform._whole(self.k) and uniform._whole(self.L) and 1 <= self.k <= 8 and 2 * self.k <= self.L <= 30):
            raise ValueError(f"L and k must be integers with 1 <= k <= 8 and 2 k <= L <= 30; got L = {self.L}, k = {self.k}")
        c = self.codebook
        if not isinstance(c, torch.Tensor) or c.dtype not in (torch.float32, torch.float64) or c.shape != (1 << self.L,):
            raise ValueError(f"codebook must be a float32 or float64 tensor of shape ({1 << self.L},)")
        if not torch.isfinite(c).all():
            raise ValueError("codebook must be finite")

    @property
    def memory(self) -> int:
        """Earlier symbols that a sample depends on, $\\lceil L/k\\rceil-1$."""
        return -(-self.L // self.k) - 1


def viterbi(x: torch.Tensor, trellis: Trellis, tail_biting: bool = False) -> torch.Tensor:
    r"""Codes of the reconstruction nearest to each row of `x` (prop-it-viterbi).

    Parameters
    ----------
    x : float tensor (batch, T), finite; beyond `FAR` it counts as `FAR`.  Half precision is computed in
        float32.
    tail_biting : the register starts as it ends, so that a row costs $kT$ bits and no more.  The
        overlap is taken from a search across the seam, and the search given the overlap is exact.
        Without it the first `trellis.memory` symbols are the register at the start.

    Returns a uint8 tensor of symbols 0, ..., 2^k - 1, of shape (batch, T) if tail-biting, else
    (batch, memory + T).  Raises ValueError on a NaN or an infinity, and on rows too short to bite
    their tail, T k < L - k.

    >>> two = Trellis(2, 1, torch.tensor([-1.5, 0.5, -0.5, 1.5]))
    >>> codes = viterbi(torch.tensor([[0.6, 1.4, -0.4]]), two, tail_biting=True)
    >>> codes.tolist(), decode(codes, two, tail_biting=True).tolist()
    ([[1, 1, 0]], [[0.5, 1.5, -0.5]])
    """
    x = _rows(x)
    (batch, T), m = x.shape, trellis.memory
    if tail_biting and T < m:
        raise ValueError(f"x must have rows of at least {m} samples to bite their tail; got {T}")
    codes = torch.empty(batch, T if tail_biting else m + T, dtype=torch.uint8, device=x.device)
    if not tail_biting:
        _search(x, trellis, codes[:, m:], start=codes[:, :m])
        return codes
    half = min(6 * m, T // 2) if T > 2 * m else T       # forget the free ends of the seam search
    seam = torch.cat((x[:, T - half:], x[:, :half]), 1)
    path = torch.empty(batch, seam.shape[1], dtype=torch.uint8, device=x.device)
    _search(seam, trellis, path)
    overlap = _register(path[:, half - m:half], trellis)
    _search(x, trellis, codes, overlap=overlap)
    return codes


def search_given(x: torch.Tensor, trellis: Trellis, overlap: torch.Tensor) -> torch.Tensor:
    """Best codes (batch, T) among those whose register is `overlap` (batch,) at the start and at the end.

    With `overlap` running over all $2^{L-k}$ registers this is the exact tail-biting search.  Raises
    ValueError unless it holds integers 0, ..., 2^(L-k) - 1, one for each row or one for all, and on
    rows too short to bite their tail.
    """
    x = _rows(x)
    if x.shape[1] < trellis.memory:
        raise ValueError(f"x must have rows of at least {trellis.memory} samples to bite their tail; got {x.shape[1]}")
    if not isinstance(overlap, torch.Tensor) or overlap.is_floating_point() or overlap.shape not in ((1,), (len(x),)) or \
            not 0 <= int(overlap.min()) <= int(overlap.max()) < 1 << trellis.L - trellis.k:
        raise ValueError(f"overlap must hold {len(x)} integers in 0, ..., {(1 << trellis.L - trellis.k) - 1}, or one for all rows")
    codes = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    _search(x, trellis, codes, overlap=overlap.to(x.device, torch.int64).expand(len(x)))
    return codes


def states(codes: torch.Tensor, trellis: Trellis, tail_biting: bool = False) -> torch.Tensor:
    """States $s_t=\\sum_i2^{ki}b_{t-i}\\bmod2^L$ of symbols as `viterbi` returns them; int64 (batch, T)."""
    if not isinstance(codes, torch.Tensor) or codes.ndim != 2 or codes.dtype.is_floating_point:
        raise ValueError("codes must be an integer tensor (batch, symbols)")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < 1 << trellis.k:
        raise ValueError(f"codes must lie in 0, ..., {(1 << trellis.k) - 1}")
    m, wide = trellis.memory, codes.to(torch.int64)
    if tail_biting:
        wide = torch.cat((wide[:, wide.shape[1] - m:], wide), 1) if m else wide
    T = wide.shape[1] - m
    if T < 1 or tail_biting and T < m:
        raise ValueError(f"codes must hold {'at least' if tail_biting else 'more than'} {m} symbols a row")
    s = wide[:, m:].clone()
    for i in range(1, m + 1):
        s += wide[:, m - i:m - i + T] << trellis.k * i
    return s & (1 << trellis.L) - 1


def decode(codes: torch.Tensor, trellis: Trellis, tail_biting: bool = False) -> torch.Tensor:
    r"""Reconstruction $\hat x_t=c_{s_t}$ (eq-it-bitshift), (batch, T), in the type of the codebook.

    Raises ValueError on symbols out of range and on rows shorter than the register.
    """
    return trellis.codebook.to(codes.device)[states(codes, trellis, tail_biting)]


def quantize(x: torch.Tensor, trellis: Trellis, tail_biting: bool = True) -> torch.Tensor:
    """`decode` of `viterbi`, in the dtype of `x`."""
    return decode(viterbi(x, trellis, tail_biting), trellis, tail_biting).to(x.dtype)


def _rows(x):
    if not isinstance(x, torch.Tensor) or x.dtype not in uniform.FLOATS or x.ndim != 2 or not x.numel():
        raise ValueError("x must be a floating-point tensor (batch, T) with at least one sample")
    if not uniform._all_finite(x):
        raise ValueError("x must be finite; it holds a NaN or an infinity")
    return x.detach().to(torch.float64 if x.dtype == torch.float64 else torch.float32).clamp(-FAR, FAR).contiguous()


def _register(symbols, trellis):
    """The L - k bits that the next state takes over from `memory` symbols (batch, memory)."""
    m = symbols.shape[1]
    weights = torch.tensor([1 << trellis.k * (m - 1 - i) for i in range(m)], device=symbols.device)
    return (symbols.to(torch.int64) * weights).sum(1) & (1 << trellis.L - trellis.k) - 1


@torch.no_grad()
def _search(x, trellis, codes, start=None, overlap=None):
    """Write the best path of each row of `x` into `codes`, its first register into `start`."""
    c = trellis.codebook.to(x.device, x.dtype)
    table = butterfly(c, trellis.L, trellis.k)
    if native.serves("trellis", x, c) and codes.stride(-1) == 1:
        begin, q, rest = torch.empty(len(x), dtype=torch.int64), 1 << trellis.k, table.shape[3]
        tiles = table.view(q, q, -1, min(rest, native.RUN)).permute(2, 0, 1, 3).contiguous()
        first = None if overlap is None else overlap.contiguous()
        native.call("trellis", "shifts", x, tiles, first, codes, begin, trellis.k, rest, x.shape[1], len(x), x.stride(0), codes.stride(0))
        if start is not None:
            _symbols(begin, start, slice(None), trellis.k)
        return
    squares, twice = table.square(), -2 * x                # |x - c|^2 less |x|^2, which all paths share

    def branch(rows, t, out):
        torch.addcmul(squares, table, twice[rows, t].view(-1, 1, 1, 1), out=out)

    def near(rows, t, s):
        candidate = c[s]
        return torch.addcmul(candidate.square(), candidate, twice[rows, t].unsqueeze(-1))
    for rows in groups(len(x), x.shape[1], trellis.L, trellis.k):
        first = None if overlap is None else overlap[rows]
        costs = forward(branch, rows, x, trellis.L, trellis.k, first)
        begin = backward(near, rows, costs, trellis.L, trellis.k, codes, first)
        del costs                                          # before the next ones are made
        if start is not None:
            _symbols(begin, start, rows, trellis.k)


def _symbols(begin, start, rows, k):
    """The symbols that made up the registers at the start."""
    for i in range(start.shape[1]):
        start[rows, i] = (begin >> k * (start.shape[1] - 1 - i) & (1 << k) - 1).to(torch.uint8)


def butterfly(values, L, k):
    """A table over states $s=(h,\\cdot,b)$, oldest symbol h and newest b, as an array (1, h, b, rest)."""
    q = 1 << k
    return values.view(q, 1 << L - 2 * k, q).transpose(1, 2).contiguous().unsqueeze(0)


def groups(batch, T, L, k):
    """Slices of the batch for which the costs of all registers at all times fit into MEMORY floats."""
    size = max(1, MEMORY // (T + 1 << L - k))
    return (slice(i, min(i + size, batch)) for i in range(0, batch, size))


def forward(branch, rows, x, L, k, first=None):
    r"""Costs (T+1, batch, 2^(L-k)): the least over all paths that end in each register.

    $M_{t+1}(\text{rest},b)=\min_h\big[M_t(h,\text{rest})+\text{branch}_t(h,\text{rest},b)\big]$; one
    `branch(rows, t, out)` fills the (batch, h, b, rest) array of a time step.
    """
    n, T, q, rest = rows.stop - rows.start, x.shape[1], 1 << k, 1 << L - 2 * k
    costs = torch.empty(T + 1, n, q * rest, dtype=x.dtype, device=x.device)
    costs[0] = 0 if first is None else torch.inf
    if first is not None:
        costs[0].scatter_(1, first.unsqueeze(1), 0.0)
    size = max(1, CACHE >> L) if x.device.type == "cpu" else n
    for i in range(0, n, size):
        part = slice(i, min(i + size, n))
        M, here = costs[:, part], slice(rows.start + part.start, rows.start + part.stop)
        V = torch.empty(part.stop - i, q, q, rest, dtype=x.dtype, device=x.device)
        least = V.new_empty(part.stop - i, q, rest)
        for t in range(T):
            branch(here, t, V)
            V.add_(M[t].view(-1, q, 1, rest))
            torch.amin(V, 1, out=least)
            M[t + 1].view(-1, rest, q).copy_(least.transpose(1, 2))
            if t % 32 == 31:                               # costs are relative; keep them small
                M[t + 1].sub_(M[t + 1].amin(1, keepdim=True))
    return costs


def backward(near, rows, costs, L, k, codes, last=None):
    """The best path read backwards into `codes[rows]`; returns the registers at its start."""
    q, T = 1 << k, len(costs) - 1
    r = costs[T].argmin(1) if last is None else last
    high = torch.arange(q, device=costs.device) << L - k
    symbols = torch.empty(T, len(r), dtype=torch.int64, device=costs.device)
    for t in range(T - 1, -1, -1):
        s = r.unsqueeze(1) + high                          # the 2^k states that lead to register r
        cost = costs[t].gather(1, s >> k) + near(rows, t, s)
        symbols[t] = r
        r = s.gather(1, cost.argmin(1, keepdim=True)).squeeze(1) >> k
    codes[rows] = (symbols & q - 1).T.to(codes.dtype)
    return r
