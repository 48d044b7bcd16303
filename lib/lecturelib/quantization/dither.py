"""Dithered quantizers: subtractive dither, which the decoder repeats, and stochastic rounding.

The dither is a function of a seed and of the position of the sample alone, so that nothing is
sent for it and any part of a tensor can be decoded by itself, on any device.  It takes the 2^24
values (k + 1/2) 2^-24 - 1/2, which are exact in float32 and in float64: every statement about a
uniform dither holds up to 2^-24 of a step.  In float32 x / step + U is rounded as well, which
costs log2 |x / step| of these 24 bits; float64 input keeps them all.
Rules for steps, types and bad input are those of `lecturelib.quantization.uniform`.
"""
import math

import torch

from lecturelib import native
from lecturelib.quantization import uniform

BITS = 24                                       # of a dither sample
KINDS = ("draw", "subtract", "stochastic")      # as in dither.c
LIMIT = 1 << 31                                 # samples that one seed serves
# C. Wellons' triple32: a shift, then a multiplier as a signed 32-bit integer, three times over
ROUNDS = ((17, 0xED5AD4BB - (1 << 32)), (11, 0xAC4C1B51 - (1 << 32)), (15, 0x31848BAB))


def draw(shape, seed: int, *, start: int = 0, dtype: torch.dtype = torch.float32,
         device="cpu") -> torch.Tensor:
    r"""Dither in units of the step: samples of $U/\varepsilon\sim U[-\tfrac12,\tfrac12]$ (eq-dither).

    The sample at flat position $i$ depends on `seed` and `start + i` only; `seed` is an integer in
    [0, 2^64), `dtype` is float32 or float64.  Raises ValueError on other arguments, and beyond
    2^31 samples for one seed.

    >>> u = draw((4,), seed=1)
    >>> torch.equal(draw((2,), seed=1, start=2), u[2:]), bool((u.abs() < 0.5).all())
    (True, True)
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be float32 or float64; got {dtype}")
    try:
        out = native.empty(shape, dtype, device)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"shape must hold integers of at least 0, and device exist; got {shape!r}, {device!r}") from error
    stream = _Stream(seed, start, out)
    if native.serves("dither", out, least=native.LEAST):
        _in_c(out, out, 1.0, stream, None, "draw")
        return out
    for piece in out.view(-1).split(stream.size):
        piece.copy_(stream.uniform(piece))
    return out


def quantize(x: torch.Tensor, step: float, seed: int, *, start: int = 0,
             bounds: tuple[int, int] | None = None, out: torch.Tensor | None = None):
    r"""Reconstruction $\hat x=q_\varepsilon(x+U)-U$, $U\sim U[-\frac\varepsilon2,\frac\varepsilon2]$ (eq-dither).

    `x`, `step`, `bounds` and `out` are as in `uniform.quantize`; `seed` and `start` as in `draw`.
    With `bounds` the error is uniform only where no code is cut off.  Returns a tensor like `x`;
    half-precision results are rounded once more, at the end.  Raises ValueError as
    `uniform.quantize` and `draw` do.  Source: eq-dither, notes (3.3); prop-crypto.

    >>> x = torch.full((100_000,), 0.3)
    >>> error = quantize(x, 0.5, seed=7) - x
    >>> bool(error.abs().max() <= 0.25), round(float(error.square().mean()) * 12 / 0.5**2, 2)
    (True, 1.0)
    """
    out = uniform._output(x, out, x.dtype if isinstance(x, torch.Tensor) else None)
    stream = _Stream(seed, start, out)
    if native.serves("dither", x, out, least=native.LEAST, types=native.NARROW):
        eps = uniform._checked(x, step, 0.0, bounds)
        most = _in_c(x, out, float(eps), stream, bounds, "subtract")
        _room((most,), eps, 0.5, bounds, out.dtype)
        return out
    for a, q, eps, ends in uniform._chunks(x, out, step, 0.0, bounds):
        _room(ends, eps, 0.5, bounds, q.dtype)
        u = stream.uniform(a)
        m = _codes(a, eps, u, bounds, q).sub_(u).mul_(eps)
        if m is not q:
            q.copy_(m)
    return out


def encode(x: torch.Tensor, step: float, seed: int, *, start: int = 0,
           bounds: tuple[int, int] | None = None, dtype: torch.dtype = torch.int32,
           out: torch.Tensor | None = None):
    r"""Codes $m=\mathrm{round}((x+U)/\varepsilon)$, saturated to `bounds` (eq-dither).

    Parameters as in `quantize`; `dtype` is the signed integer type of the codes.  Raises
    ValueError as `quantize` does, and where a code or a bound does not fit in `dtype`.

    >>> x = torch.linspace(-1, 1, 5)
    >>> codes = encode(x, 0.5, seed=7)
    >>> torch.equal(decode(codes, 0.5, seed=7), quantize(x, 0.5, seed=7))
    True
    """
    if dtype not in uniform.INTEGERS:
        raise ValueError(f"dtype must be a signed integer type; got {dtype}")
    room = torch.iinfo(dtype)
    if bounds is not None:
        uniform._numbers(step, 0.0, bounds)
        if not room.min <= bounds[0] <= bounds[1] <= room.max:
            raise ValueError(f"bounds must be ordered and fit in {dtype}; got {bounds}")
    out = uniform._output(x, out, dtype)
    stream = _Stream(seed, start, x)
    for a, codes, eps, ends in uniform._chunks(x, out, step, 0.0, bounds):
        m = _codes(a, eps, stream.uniform(a), bounds)
        low, high = (v / float(eps) for v in ends)
        if bounds is None and not (low - 1 >= room.min and high + 1 <= room.max):
            low, high = m.min().item(), m.max().item()
            if not (low >= room.min and high <= room.max):
                raise ValueError(f"x / step must fit in {dtype}; got codes up to {max(-low, high):.4g}")
        codes.copy_(m)
    return out


def decode(codes: torch.Tensor, step: float, seed: int, *, start: int = 0,
           dtype: torch.dtype = torch.float32) -> torch.Tensor:
    r"""Reconstruction $\varepsilon m-U$ from integer `codes` and the encoder's `seed` (eq-dither).

    `dtype` is that of the result; with the dtype of the encoder's input the round trip is
    `quantize`, bit for bit.  Without the seed, `uniform.decode` gives $\varepsilon m$, the
    non-subtractive variant.  Raises ValueError as `uniform.decode` and `draw` do.

    >>> torch.equal(decode(torch.tensor([3, 0]), 1.0, seed=5), torch.tensor([3, 0]) - draw(2, seed=5))
    True
    """
    points = uniform.decode(codes, step, dtype=dtype).contiguous()         # checks the arguments
    eps = uniform._tensor_step(step, dtype, codes.device)
    stream = _Stream(seed, start, points)
    m, points = codes.reshape(-1), points.view(-1)
    for a, x in zip(m.split(stream.size), points.split(stream.size)):
        x.copy_(a.to(eps.dtype).sub_(stream.uniform(a)).mul_(eps))
    if not uniform._all_finite(points):
        raise ValueError(f"codes * step must be finite in {dtype}")
    return points.view(codes.shape)


def stochastic_round(x: torch.Tensor, step: float, seed: int | torch.Generator, *, start: int = 0,
                     out: torch.Tensor | None = None):
    r"""One of the two multiples of the step around `x`, with expectation $x$ (prop-dither-stochastic).

    With $y=x/\varepsilon$ the neighbor of $y$ farther from 0 is taken with probability
    $|y|-\lfloor|y|\rfloor$ exactly: where 24 random bits do not decide, further ones are drawn.
    (The quotient $y$ itself is rounded unless the step is a power of two.)

    Parameters as in `quantize`; a `torch.Generator` may take the place of the seed, and then
    supplies one.  `uniform.encode` of the result gives the codes.  Raises ValueError likewise.

    >>> x = torch.full((100_000,), 1.25)
    >>> q = stochastic_round(x, 1.0, torch.Generator().manual_seed(0))
    >>> sorted(set(q.tolist())), round(float(q.mean()), 2)
    ([1.0, 2.0], 1.25)
    """
    out = uniform._output(x, out, x.dtype if isinstance(x, torch.Tensor) else None)
    if isinstance(seed, torch.Generator):
        seed = int(torch.randint(1 << 62, (), generator=seed, device=seed.device))
    stream = _Stream(seed, start, out)
    if native.serves("dither", x, out, least=native.LEAST, types=native.NARROW):
        eps = uniform._checked(x, step, 0.0, None)
        _room((_in_c(x, out, float(eps), stream, None, "stochastic"),), eps, 1.0, None, out.dtype)
        return out
    for a, q, eps, ends in uniform._chunks(x, out, step, 0.0, None):
        _room(ends, eps, 1.0, None, q.dtype)
        y = torch.div(a.to(eps.dtype), eps)
        m = y.trunc()
        chance = (y - m).abs_().mul_(1 << BITS)            # exact
        away = _less(stream, chance)
        q.copy_(m.add_(torch.sign(y).mul_(away)).mul_(eps))
    return out


def _in_c(x, out, step, stream, bounds, kind) -> float:
    """The kernel of dither.c for the whole tensor; returns the largest magnitude of `x`."""
    most, largest, seed = torch.empty(1, dtype=torch.int32), 0.0, torch.tensor(stream.seed, dtype=torch.uint64)
    numbers = torch.tensor([step, *(bounds or (-math.inf, math.inf))], dtype=torch.float32)
    for a, b, at in native.pieces(x, out):
        if native.call("dither", "dither", a, b, numbers, most, seed, a.numel(), stream.at + at, KINDS.index(kind)) == native.NOT_FINITE:
            raise ValueError("x must be finite; it holds a NaN or an infinity")
        largest = max(largest, float(most.view(torch.float32)))
    return largest


def _room(ends, eps, reach, bounds, dtype) -> None:
    """Refuse a piece with extremes `ends` unless all within `reach` steps of it is finite in `dtype`."""
    step = float(eps)
    top = max(abs(v) for v in ends) / step
    if bounds is not None:
        top = min(top, max(abs(b) for b in bounds))
    if not (top < torch.finfo(eps.dtype).max and (top + reach) * step <= torch.finfo(dtype).max):
        raise ValueError(f"x and step must keep the result finite in {dtype}; got |x| up to {top * step:.4g}, "
                         f"step {step:.4g}")


def _codes(a, eps, u, bounds, out=None) -> torch.Tensor:
    """Codes as floats, in `out` where its type is wide enough to compute in."""
    m = torch.div(a.to(eps.dtype), eps,
                  out=out if out is not None and out.dtype == eps.dtype else None)
    m.add_(u).round_()
    return m if bounds is None else m.clamp_(*bounds)


def _less(stream, chance) -> torch.Tensor:
    """For each `chance` in [0, 2^24): True with probability chance / 2^24, exactly."""
    k, whole = stream.integers(chance), chance.floor()
    result, undecided = k < whole, k == whole
    level, where = 0, None
    while undecided.any():                                 # once in 2^24 samples
        level += 1
        where = undecided.nonzero().view(-1) if where is None else where[undecided]
        chance = (chance - whole)[undecided].mul_(1 << BITS)
        k, whole = stream.again(where, level).to(chance.dtype), chance.floor()
        result[where] = k < whole
        undecided = (k == whole) & (chance > whole)
    return result


class _Stream:
    """Counter-based random numbers for consecutive pieces of a tensor, in buffers used again."""

    def __init__(self, seed, start, like):
        if not uniform._whole(seed) or not 0 <= seed < 1 << 64:
            raise ValueError(f"seed must be an integer in [0, 2^64); got {seed!r}")
        if not uniform._whole(start) or not 0 <= start <= LIMIT - like.numel():
            raise ValueError(f"start must be an integer from 0, and start + samples at most 2^31; got {start!r}")
        n = like.numel()
        self.size = max(min(n, uniform.CHUNK) if like.device.type == "cpu" else n, 1)
        self.seed, self.at = int(seed), int(start)
        self.ramp = torch.arange(self.size, dtype=torch.int32, device=like.device)
        self.index, self.h, self.t = (torch.empty_like(self.ramp) for _ in range(3))
        self.u = torch.empty(self.size, device=like.device, dtype=torch.float64 if
                             like.dtype == torch.float64 else torch.float32)

    def uniform(self, piece) -> torch.Tensor:
        """(k + 1/2) 2^-24, k in -2^23 .. 2^23 - 1, one for each entry of `piece`."""
        n = piece.numel()
        h = self._words(n)
        return self.u[:n].copy_(torch.bitwise_right_shift(h, 32 - BITS, out=h)).add_(0.5).mul_(2.0**-BITS)

    def integers(self, piece) -> torch.Tensor:
        """k in 0 .. 2^24 - 1, as floats."""
        n = piece.numel()
        return self.u[:n].copy_(self._words(n).bitwise_and_((1 << BITS) - 1))

    def again(self, where, level) -> torch.Tensor:
        """Further integers for some entries of the present piece."""
        index = self.index[where]
        h = _mix(index, index, torch.empty_like(index), _keys(self.seed, level))
        return h.bitwise_and_((1 << BITS) - 1)

    def _words(self, n) -> torch.Tensor:
        index = torch.add(self.ramp[:n], self.at, out=self.index[:n])
        self.at += n
        return _mix(index, self.h[:n], self.t[:n], _keys(self.seed))


def _mix(index, h, t, keys) -> torch.Tensor:
    """32 random bits for each index, in `h`; `t` is scratch.  int32 products wrap, in eager mode."""
    torch.bitwise_xor(index, keys[0], out=h)
    for number, (shift, factor) in enumerate(ROUNDS):
        _xor_shift(h, t, shift).mul_(factor)
        if number == 0:
            h.add_(keys[1])
    return _xor_shift(h, t, 14)


def _xor_shift(h, t, shift) -> torch.Tensor:
    torch.bitwise_right_shift(h, shift, out=t)             # keeps the sign: clear what it copied
    return h.bitwise_xor_(t.bitwise_and_((1 << 32 - shift) - 1))


def _keys(seed: int, level: int = 0) -> tuple[int, int]:
    """Two signed 32-bit keys: the splitmix64 hash of the seed."""
    z = (seed + (level + 1) * 0x9E3779B97F4A7C15) % (1 << 64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ z >> shift) * factor % (1 << 64)
    z ^= z >> 31
    return tuple((v & 0xFFFFFFFF) - ((v & 0x80000000) << 1) for v in (z, z >> 32))
