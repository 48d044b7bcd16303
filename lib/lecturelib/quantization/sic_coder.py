r"""Entropy-coded columns: an adaptive model for the integers of a quantized matrix, its length and its bytes.

The integers of a column are coded with the counts of all earlier columns of the same class.  The class
of a column is its root mean square to a quarter of an octave, and is sent; a class starts
from the counts of a Gaussian of that size.  No tables are sent.  Integers of a trellis are coded given
their parity, which its decoder knows.
"""
import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import constriction
import numpy as np
import torch
from scipy.special import ndtr

from lecturelib.quantization.coder import _Walk
from lecturelib.quantization.entropy_trellis import MASKS

REACH = 127              # larger symbols are an escape and RAW more bits
RAW = 32
PER_OCTAVE = 4           # classes in an octave of the root mean square
LEAST, MOST, DEAD = -6 * PER_OCTAVE, 15 * PER_OCTAVE, 127
PRIOR, FLOOR = 2048.0, 0.02
SIDE = 16                # bits for each column: its step and its class, eight each
HEAD = struct.Struct("<4sBBIIIIh")
MAGIC, VERSION = b"LQSc", 1


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
    ends = 8 * (HEAD.size + 8) + 64 * counts.shape[1]      # header, checksum, lengths, the coder's last states
    bits = float((low.view(-1).cpu().numpy() * q.shape[1] * scale).sum()) + RAW * escapes + SIDE * len(k) + ends
    for c in np.unique(k[k != DEAD]):
        mine = counts[k == c][::-1]                        # from the last column to the first
        seen = prior(int(c), parities) + np.concatenate((np.zeros_like(mine[:1]), np.cumsum(mine, 0)[:-1]))
        bits -= float((mine * np.log2(seen / seen.sum(2, keepdims=True))).sum())
    return bits


def encode(columns: Columns) -> bytes:
    """One matrix as bytes, to be read by `decode` without anything else.

    Header, steps and classes, the low bits of wide columns, and one stream of the package `constriction`
    for each parity.
    Raises ValueError if the steps span more than 255, or the integers are no path of their trellis.
    """
    q, steps = columns.integers.T.contiguous().cpu().int(), columns.steps.cpu().numpy().astype(np.int64)
    (n, m), least = q.shape, int(steps.min())
    if steps.max() - least > 255:
        raise ValueError(f"steps must span at most 255; got {least} to {steps.max()}")
    k = classes(q).numpy()
    contexts, model, raw, walk = 2 if columns.states else 1, _Model(), [], _walk(columns.states, m, columns.chunk)
    streams = [[] for _ in range(contexts)]
    v, low = _symbols(q, k.tolist(), contexts == 2)
    counts = _counts(v, q, contexts == 2)
    for i in range(n - 1, -1, -1):
        column, symbols, odd = _down(q[i].numpy(), columns.chunk), _down(v[i].numpy(), columns.chunk), np.zeros(m, np.int64)
        for t in _pieces(m, columns.states, columns.chunk):
            if columns.states:
                odd[t] = walk.odd()
                walk.advance(column[t])
        if columns.states and not np.array_equal(odd, column & 1):
            raise ValueError("integers must be a path of the trellis")
        if k[i] == DEAD:
            continue
        u, s = column >> contexts - 1, int(low[i])
        raw += [_bits(u, s), _bits(u[np.abs(symbols) == REACH], RAW)]
        for c in range(contexts):
            streams[c].append(((symbols[odd == c] + REACH).astype(np.int32), model.law(k[i], contexts, c)))
        model.see(k[i], counts[i])
    payload = np.packbits(np.concatenate([*raw, np.empty(0, np.uint8)])).tobytes()
    parts = [struct.pack("<I", len(payload)), payload]
    for stream in streams:
        coder = constriction.stream.stack.AnsCoder()
        for symbols, law in reversed(stream):              # last in, first out
            coder.encode_reverse(symbols, law)
        words = coder.get_compressed().astype("<u4").tobytes()
        parts += [struct.pack("<I", len(words)), words]
    body = (steps - least).astype(np.uint8).tobytes() + k.astype(np.int8).tobytes() + b"".join(parts)
    head = HEAD.pack(MAGIC, VERSION, contexts, m, n, columns.states, columns.chunk, least)
    return head + body + struct.pack("<I", zlib.crc32(head + body))


def decode(data: bytes) -> Columns:
    """What was encoded; ValueError if the bytes are damaged, of another version, or something else."""
    if len(data) < HEAD.size + 4 or data[:4] != MAGIC or zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise ValueError("data must be the undamaged bytes of one matrix: the magic word or the checksum differs")
    _, version, contexts, m, n, states, chunk, least = HEAD.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"data must be of version {VERSION}; got {version}")
    place = HEAD.size + 2 * n
    steps = np.frombuffer(data, np.uint8, n, HEAD.size).astype(np.int16) + least
    k = np.frombuffer(data, np.int8, n, HEAD.size + n)
    parts = []
    for _ in range(1 + contexts):
        size = struct.unpack_from("<I", data, place)[0]
        parts.append(data[place + 4:place + 4 + size])
        place += 4 + size
    bits = np.unpackbits(np.frombuffer(parts[0], np.uint8))
    streams = [constriction.stream.stack.AnsCoder(np.frombuffer(p, "<u4").astype(np.uint32)) for p in parts[1:]]
    model, walk, q, place = _Model(), _walk(states, m, chunk), torch.zeros(n, m, dtype=torch.int32), 0
    for i in range(n - 1, -1, -1):
        s, odd, column, symbols = shift(int(k[i])) if k[i] != DEAD else 0, np.zeros(m, np.int64), np.zeros(m, np.int32), np.zeros(m, np.int32)
        laws = [model.law(k[i], contexts, c) for c in range(contexts)] if k[i] != DEAD else None
        if laws:
            low, place = _numbers(bits[place:place + m * s], s, m), place + m * s
        for t in _pieces(m, states, chunk):
            if states:
                odd[t] = walk.odd()
            if laws:
                for c in range(contexts):
                    mine = np.flatnonzero(odd[t] == c)
                    if len(mine):
                        symbols[t.start + mine] = streams[c].decode(laws[c], len(mine)) - REACH
                u = symbols[t] << s | low[t]
                wide = np.flatnonzero(np.abs(symbols[t]) == REACH)
                u[wide], place = _numbers(bits[place:place + RAW * len(wide)], RAW, len(wide)), place + RAW * len(wide)
                column[t] = u * contexts + odd[t]
            if states:
                walk.advance(column[t])
        q[i] = torch.from_numpy(_down(column, m // chunk) if states else column)
        if laws:
            model.see(k[i], _counts(torch.from_numpy(symbols[None]), torch.from_numpy(column[None]), contexts == 2)[0])
    return Columns(q.T, torch.from_numpy(steps), states, chunk)


class _Model:
    """Counts of every class so far."""

    def __init__(self):
        self.counts = {}

    def law(self, k, contexts, c):
        if k not in self.counts:
            self.counts[k] = prior(int(k), contexts == 2)
        f = self.counts[k][c]
        return constriction.stream.model.Categorical((f / f.sum()).astype(np.float32), perfect=False)

    def see(self, k, counts):
        self.counts[k] = self.counts[k] + counts


class _Polynomials(NamedTuple):
    memory: int
    h0: int
    h1: int


def _walk(states, m, chunk):
    """The states of the chunks of a trellis, from 0 on."""
    return _Walk(_Polynomials(states.bit_length() - 1, *MASKS[states]), m // chunk) if states else None


def _down(column, chunk):
    """Rows in the order of time: the first of every chunk, then the second; `_down(., m // chunk)` goes back."""
    return column.reshape(-1, chunk).T.reshape(-1) if chunk else column


def _pieces(m, states, chunk):
    """Slices that are coded at a time."""
    return [slice(t, t + m // chunk) for t in range(0, m, m // chunk)] if states else [slice(0, m)]


def _bits(values, width):
    """The lowest bits of integers, the highest of them first."""
    return (values.astype(np.int64).reshape(-1, 1) >> np.arange(width - 1, -1, -1) & 1).astype(np.uint8).reshape(-1)


def _numbers(bits, width, count):
    """Integers of `_bits`; those of RAW bits are signed."""
    values = bits.reshape(count, width).astype(np.int64) @ (1 << np.arange(width - 1, -1, -1))
    return (values - (values >> RAW - 1 << RAW)).astype(np.int32)
