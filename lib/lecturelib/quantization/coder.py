r"""Bytes: fixed-rate symbols packed, entropy-coded integers through an rANS coder.

Both formats begin with a magic word, a version and the shape, and carry checksums of shape and
payload and of the tables they were made with; a damaged or foreign string raises ValueError.
Entropy-coded integers go into two streams, one for each parity, since the parity is what the
probabilities depend on; the decoder learns from the trellis which stream a sample comes from.
The coder is that of the package `constriction`.
"""
import struct
import zlib

import constriction
import numpy as np
import torch

from lecturelib.quantization.entropy_trellis import TOTAL, Code, parity
from lecturelib.quantization.trellis import Trellis

VERSION = 1
FIXED, ENTROPY = b"LQTf", b"LQTe"
HEAD = struct.Struct("<4sBBHIIII")          # magic, version, k, reserved, batch, symbols, checksums: tables; all before, payload


def pack(codes: torch.Tensor, trellis: Trellis) -> bytes:
    """Symbols (batch, n) of `trellis.viterbi` as bytes: k bits each, and a header of 24 bytes.

    Raises ValueError unless they are integers in 0, ..., 2^k - 1.
    """
    symbols, k = _integers(codes), trellis.k
    if symbols.size and not 0 <= symbols.min() <= symbols.max() < 1 << k:
        raise ValueError(f"codes must lie in 0, ..., {(1 << k) - 1}")
    bits = (symbols.reshape(-1, 1) >> np.arange(k - 1, -1, -1)) & 1
    payload = np.packbits(bits.astype(np.uint8)).tobytes()
    return _seal(FIXED, k, symbols.shape, _table(trellis), payload)


def unpack(data: bytes, trellis: Trellis) -> torch.Tensor:
    """The symbols packed, uint8; ValueError on damage or another code."""
    batch, n, payload = _open(data, FIXED, trellis.k, _table(trellis))
    if len(payload) != -(-batch * n * trellis.k // 8):
        raise ValueError("data must hold as many bits as its header says")
    bits = np.unpackbits(np.frombuffer(payload, np.uint8), count=batch * n * trellis.k)
    weights = 1 << np.arange(trellis.k - 1, -1, -1)
    return torch.from_numpy((bits.reshape(-1, trellis.k) @ weights).astype(np.uint8).reshape(batch, n))


def encode(indices: torch.Tensor, code: Code) -> bytes:
    """Integers (batch, T) of `entropy_trellis.quantize` as bytes.

    Raises ValueError if they are no path of the trellis from state 0, or beyond the last point.
    """
    i, reach = _integers(indices), len(code.points) // 2
    if not np.array_equal(i & 1, _parities(i, code)):
        raise ValueError("indices must be a path of the trellis")
    if i.size and not -reach <= i.min() <= i.max() <= reach:
        raise ValueError(f"indices must lie in {-reach}, ..., {reach}")
    order, words = i.T.reshape(-1), []                     # time first: the decoder goes on in all rows at once
    for p, (model, values) in enumerate(_models(code)):
        symbols = np.searchsorted(values, order[order & 1 == p]).astype(np.int32)
        stream = constriction.stream.stack.AnsCoder()
        stream.encode_reverse(symbols, model)
        words.append(stream.get_compressed().astype("<u4").tobytes())
    payload = struct.pack("<I", len(words[0])) + b"".join(words)
    return _seal(ENTROPY, 1, i.shape, code.fingerprint(), payload)


def decode(data: bytes, code: Code) -> torch.Tensor:
    """The integers encoded, int16 (batch, T); ValueError on damage or another code."""
    batch, T, payload = _open(data, ENTROPY, 1, code.fingerprint())
    first = struct.unpack_from("<I", payload)[0]
    streams = [constriction.stream.stack.AnsCoder(np.frombuffer(part, "<u4").astype(np.uint32))
               for part in (payload[4:4 + first], payload[4 + first:])]
    models, indices, walk = _models(code), np.empty((batch, T), np.int16), _Walk(code, batch)
    for t in range(T):
        odd = walk.odd()
        for p, (model, values) in enumerate(models):
            mine = np.flatnonzero(odd == p)
            if len(mine):
                indices[mine, t] = values[streams[p].decode(model, len(mine))]
        walk.advance(indices[:, t])
    return torch.from_numpy(indices)


class _Walk:
    """The states of all rows, from 0 on."""

    def __init__(self, code, batch):
        state = torch.arange(1 << code.memory) << 1         # registers with the new bit still 0
        self.parity = parity(state & code.h1).numpy()
        self.high = parity(state & code.h0).numpy()
        self.mask, self.state = (1 << code.memory) - 1, np.zeros(batch, np.int64)

    def odd(self):
        return self.parity[self.state]

    def advance(self, i):
        bit = (i.astype(np.int64) >> 1 & 1) ^ self.high[self.state]
        self.state = (self.state << 1 | bit) & self.mask


def _parities(i, code):
    walk, result = _Walk(code, len(i)), np.empty_like(i)
    for t in range(i.shape[1]):
        result[:, t] = walk.odd()
        walk.advance(i[:, t])
    return result


def _models(code):
    """For each parity the coder's model and its integers in increasing order."""
    i, f = code.indices().numpy(), code.frequencies.numpy()
    return [(constriction.stream.model.Categorical((f[i & 1 == p] / TOTAL).astype(np.float32), perfect=False), i[i & 1 == p])
            for p in (0, 1)]


def _integers(values):
    if not isinstance(values, torch.Tensor) or values.ndim != 2 or values.dtype.is_floating_point:
        raise ValueError("codes must be an integer tensor (batch, symbols)")
    return values.cpu().numpy().astype(np.int64)


def _table(trellis):
    return zlib.crc32(trellis.codebook.cpu().numpy().tobytes())


def _seal(magic, k, shape, table, payload):
    head = HEAD.pack(magic, VERSION, k, 0, *shape, table, 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))) + payload


def _open(data, magic, k, table):
    if len(data) < HEAD.size:
        raise ValueError("data must hold a header; it is too short")
    found, version, bits, _, batch, n, made, check = HEAD.unpack_from(data)
    payload = data[HEAD.size:]
    if found != magic or version != VERSION:
        raise ValueError(f"data must begin with {magic!r} and version {VERSION}; got {found!r}, {version}")
    if bits != k or made != table:
        raise ValueError("data must come from the same code: the checksum of the tables differs")
    if zlib.crc32(payload, zlib.crc32(data[:HEAD.size - 4])) != check:
        raise ValueError("data must be undamaged: the checksum differs")
    return batch, n, payload
