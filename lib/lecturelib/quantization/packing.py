r"""Codes of 1 to 8 bits in a stream without gaps, and back.

Code $i$ of width $w$ lies in the bits $iw,\dots,iw+w-1$ of its row, bits counted from the low end of the
first byte (`numpy.unpackbits` calls it little): eight codes fill $w$ bytes.  A machine word holds
eight codes, one a byte; three folds, of neighboring bytes, pairs and fours, close the gaps in all
words at once, and three unfolds open them again.  The words are those of a little-endian machine.
"""
import sys

import torch

from lecturelib import native
from lecturelib.quantization import uniform

if sys.byteorder != "little":                              # every platform that torch has wheels for is
    raise ImportError("lecturelib.quantization.packing needs a little-endian machine")


def pack(codes: torch.Tensor, width: int) -> torch.Tensor:
    r"""The codes (..., n) uint8 as bits (..., $\lceil nw/8\rceil$) uint8; each row starts at a new byte.

    Raises ValueError unless `width` is an integer from 1 to 8 and the codes are uint8 below $2^w$.

    >>> pack(torch.tensor([1, 2, 3, 4], dtype=torch.uint8), 3).tolist()      # 100 011 010 001
    [209, 8]
    """
    _width(width)
    if not isinstance(codes, torch.Tensor) or codes.dtype != torch.uint8 or codes.ndim == 0:
        raise ValueError("codes must be a tensor of uint8 with at least one axis")
    n = codes.shape[-1]
    fast = width < 8 and n % 8 == 0 and _native(codes)
    out = native.empty((*codes.shape[:-1], -(-n * width // 8)), torch.uint8, codes.device)
    if fast and native.call("packing", "pack", codes.contiguous(), out, codes.numel() // 8, width) == native.OK:
        return out
    if codes.numel() and int(codes.max()) >= 1 << width:
        raise ValueError(f"codes must be below {1 << width} to fit in {width} bits; got {int(codes.max())}")
    if codes.numel() == 0:
        return out
    if width == 8:
        return out.copy_(codes)
    if n % 8:                                              # rows of whole words
        codes = torch.nn.functional.pad(codes, (0, -n % 8))
        whole = torch.empty(*codes.shape[:-1], codes.shape[-1] * width // 8, dtype=torch.uint8, device=codes.device)
    else:
        whole = out
    for words, target in _pieces(codes, whole, width):
        target.copy_(fold(words.view(torch.int64), width).view(torch.uint8).view(-1, 8)[:, :width])
    if whole is not out:
        out.copy_(whole[..., :out.shape[-1]])
    return out


def unpack(data: torch.Tensor, width: int, count: int) -> torch.Tensor:
    r"""The codes (..., count) uint8 in the bits (..., $\lceil nw/8\rceil$): the inverse of `pack`.

    Raises ValueError if `data` has another length than `count` codes of this width need.

    >>> unpack(torch.tensor([209, 8], dtype=torch.uint8), 3, 4).tolist()
    [1, 2, 3, 4]
    """
    _width(width)
    if not isinstance(data, torch.Tensor) or data.dtype != torch.uint8 or data.ndim == 0:
        raise ValueError("data must be a tensor of uint8 with at least one axis")
    if not uniform._whole(count) or count < 0 or data.shape[-1] != -(-count * width // 8):
        raise ValueError(f"data must have {-(-count * width // 8)} bytes a row for {count} codes of {width} bits; got {data.shape[-1]}")
    whole = -(-count // 8) * 8
    codes = native.empty((*data.shape[:-1], whole), torch.uint8, data.device)
    if codes.numel() == 0:
        return codes[..., :count]
    if width == 8:
        return data.clone()
    if whole == count and _native(data):
        native.call("packing", "unpack", data.contiguous(), codes, codes.numel() // 8, width)
        return codes
    if data.shape[-1] != whole * width // 8:
        data = torch.nn.functional.pad(data, (0, whole * width // 8 - data.shape[-1]))
    for target, source in _pieces(codes, data.contiguous(), width):
        words = torch.zeros(len(source), 8, dtype=torch.uint8, device=data.device)
        words[:, :width] = source
        target.view(torch.int64).copy_(unfold(words.view(torch.int64)[:, 0], width))
    return codes[..., :count].contiguous() if whole != count else codes


def fold(words: torch.Tensor, width: int) -> torch.Tensor:
    """Eight codes of `width` < 8 bits, a byte each, of int64 words: moved together at the low end.

    >>> hex(int(fold(torch.tensor([0x0102030405060708]), 4)))
    '0x12345678'
    """
    for half in (1, 2, 4):                                 # lanes of `half` bytes hold half * width bits
        low = _lanes(half)
        words = (words & low) | (words >> 8 * half & low) << half * width
    return words


def unfold(words: torch.Tensor, width: int) -> torch.Tensor:
    """The inverse of `fold`.

    >>> hex(int(unfold(torch.tensor([0x12345678]), 4)))
    '0x102030405060708'
    """
    for half in (4, 2, 1):
        lane = _repeat((1 << half * width) - 1, 2 * half)
        words = (words & lane) | (words >> half * width & lane) << 8 * half
    return words


def _native(x) -> bool:
    return x.device.type == "cpu" and x.numel() >= native.LEAST and native.library("packing") is not None


def _lanes(half):
    """The lower `half` bytes of every 2 * half."""
    return _repeat((1 << 8 * half) - 1, 2 * half)


def _repeat(mask, size):
    """`mask` in every lane of `size` bytes of a word."""
    return sum(mask << 8 * k for k in range(0, 8, size))


def _pieces(codes, data, width):
    """Eight codes and their `width` bytes a row, as many rows as stay in cache."""
    c, d = codes.reshape(-1), data.view(-1, width)
    if c.storage_offset() % 8:                             # a view that starts within a word
        c = c.clone()
    size = uniform.CHUNK // 2 if codes.device.type == "cpu" else max(len(d), 1)
    return ((c[8 * k:8 * (k + size)], d[k:k + size]) for k in range(0, len(d), size))


def _width(width):
    if not uniform._whole(width) or not 1 <= width <= 8:
        raise ValueError(f"width must be an integer from 1 to 8; got {width!r}")
