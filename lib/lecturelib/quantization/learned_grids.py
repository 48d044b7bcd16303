r"""Quantizers without a codebook to learn: finite scalar (FSQ) and lookup-free (LFQ) quantization.

The codewords are a fixed grid, and what is learned is the network that maps onto it.  Rules as in
`lecturelib.quantization.learned`; float16 and bfloat16 are computed in float32.
"""
import math
from dataclasses import dataclass

import torch
from torch import nn

from lecturelib.quantization import uniform
from lecturelib.quantization.companding import Compander
from lecturelib.quantization.learned import check_codes, straight_through

PIECE = 1 << 16      # entries in one piece on a CPU


def tanh_compander(scale: float = 1.0) -> Compander:
    r"""$G(x)=\frac12(1+\tanh\frac xs)$, the compander inside FSQ, with slope $\frac1{2s}\operatorname{sech}^2\frac xs$.

    Raises ValueError unless `scale` is positive and finite.

    >>> G = tanh_compander(2.0)
    >>> round(float(G.expand(G.compress(torch.tensor(1.5, dtype=torch.float64)))), 12)
    1.5
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive and finite; got {scale}")
    return Compander(lambda x: torch.sigmoid(2 * x / scale), lambda u: torch.atanh(2 * u - 1) * scale,
                     lambda x: 2 / scale * torch.sigmoid(2 * x / scale) * torch.sigmoid(-2 * x / scale))


def tanh_constant(scale: float) -> float:
    r"""$\lim N^2D$ of `tanh_compander` for $N(0,1)$: $\frac{s^2}{24}(3+4e^{2/s^2}+e^{8/s^2})$ (thm-learned-fsq).

    >>> round(tanh_constant(2.038), 4)                 # the least; the best of all companders has 2.7207
    2.8273
    """
    t = 1 / scale**2
    return (3 + 4 * math.exp(2 * t) + math.exp(8 * t)) / (24 * t)


@dataclass(frozen=True)
class FSQ:
    r"""Finite scalar quantization: round each bounded channel to one of $L_i$ integers (eq-learned-fsq).

    $b_i=h_i\tanh(z_i+s_i)-o_i$ with $h_i=\frac{(L_i-1)(1+\eta)}2$, $o_i=\frac12$ for even $L_i$ and 0 for odd
    ones, $s_i=\mathrm{artanh}(o_i/h_i)$, so that $z=0$ has $b=0$; the point is
    $\mathrm{round}(b_i)/\lfloor L_i/2\rfloor$.  `levels` are integers of at least 3, and `margin` is $\eta>0$ with
    $(L_i-1)\eta<1$, for otherwise $b_i$ would reach beyond the last level.

    >>> fsq = FSQ((8, 5, 5, 5))
    >>> fsq.size, fsq.encode(torch.zeros(1, 4)).tolist(), fsq.quantize(torch.full((1, 4), 9.0)).tolist()
    (1000, [500], [[0.75, 1.0, 1.0, 1.0]])
    """
    levels: tuple[int, ...]
    margin: float = 1e-3

    def __post_init__(self):
        if not self.levels or not all(uniform._whole(L) and L >= 3 for L in self.levels) or self.size >= 1 << 62:
            raise ValueError(f"levels must be integers of at least 3, their product below 2^62; got {self.levels}")
        object.__setattr__(self, "levels", tuple(int(L) for L in self.levels))
        if not 0 < self.margin < 1 / (max(self.levels) - 1):
            raise ValueError(f"margin must lie in (0, 1/{max(self.levels) - 1}), for {max(self.levels)} levels; got {self.margin}")

    @property
    def size(self) -> int:
        """Number of codewords."""
        return math.prod(self.levels)

    def bound(self, z: torch.Tensor) -> torch.Tensor:
        """$b(z)$, differentiable, of the shape of `z` (..., d)."""
        half, offset, shift = self._constants(z)
        return torch.addcmul(-offset, torch.tanh(z + shift), half)

    def thresholds(self, channel: int) -> torch.Tensor:
        r"""The $L-1$ values of $z$ where the code of a channel changes, float64, increasing."""
        L = self.levels[channel]
        half, offset = (L - 1) * (1 + self.margin) / 2, 0.5 * (L % 2 == 0)
        edges = torch.arange(1, L, dtype=torch.float64) - 0.5 - L // 2
        return torch.atanh((edges + offset) / half) - math.atanh(offset / half)

    def __call__(self, z: torch.Tensor):
        """Points with the straight-through gradient of the bounded channels, and codes."""
        _finite(z, len(self.levels))
        b = self.bound(_wide(z))
        m = b.detach().round()
        width = b.new_tensor([L // 2 for L in self.levels])
        return (straight_through(b, m) / width).to(z.dtype), self._index(m)

    @torch.no_grad()
    def encode(self, z: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        r"""Codes $\sum_i(\mathrm{round}(b_i)+\lfloor L_i/2\rfloor)\prod_{j<i}L_j$, int64 of shape (...,)."""
        return _by_pieces(z, len(self.levels), out, lambda x: self._index(self.bound(x).round_()))

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Points of $[-1,1]^d$, shape (..., d)."""
        check_codes(codes, self.size)
        L, base = self._radix(codes.device)
        return ((codes.long()[..., None] // base % L - L // 2).to(dtype)) / (L // 2).to(dtype)

    def quantize(self, z: torch.Tensor) -> torch.Tensor:
        """`decode(encode(z))`, in the type of `z`."""
        return self.decode(self.encode(z), dtype=z.dtype)

    def _constants(self, z):
        half = [(L - 1) * (1 + self.margin) / 2 for L in self.levels]
        offset = [0.5 * (L % 2 == 0) for L in self.levels]
        return z.new_tensor(half), z.new_tensor(offset), z.new_tensor([math.atanh(o / h) for o, h in zip(offset, half)])

    def _radix(self, device):
        base = [math.prod(self.levels[:i]) for i in range(len(self.levels))]
        return torch.tensor(self.levels, device=device), torch.tensor(base, device=device)

    def _index(self, m):
        L, base = self._radix(m.device)
        if self.size <= 1 << 24 and m.dtype in (torch.float32, torch.float64):       # then float32 holds every code
            return ((m + (L // 2).to(m.dtype)) * base.to(m.dtype)).sum(-1).long()
        return ((m.long() + L // 2) * base).sum(-1)


@dataclass(frozen=True)
class LFQ:
    r"""Lookup-free quantization: one sign for each of `bits` channels, codewords $\{\pm1\}^d$ (eq-learned-lfq).

    >>> lfq = LFQ(3)
    >>> lfq.encode(torch.tensor([[0.2, -1.0, 3.0]])).tolist(), lfq.decode(torch.tensor([5])).tolist()
    ([5], [[1.0, -1.0, 1.0]])
    """
    bits: int

    def __post_init__(self):
        if not uniform._whole(self.bits) or not 1 <= self.bits <= 62:
            raise ValueError(f"bits must be an integer from 1 to 62; got {self.bits!r}")
        object.__setattr__(self, "bits", int(self.bits))

    @property
    def size(self) -> int:
        """Number of codewords."""
        return 1 << self.bits

    def __call__(self, z: torch.Tensor):
        """Signs with the straight-through gradient, and codes; a zero counts as negative."""
        _finite(z, self.bits)
        up = z.detach() > 0
        return straight_through(z, up.to(z.dtype).mul_(2).sub_(1)), self._index(up)

    @torch.no_grad()
    def encode(self, z: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        r"""Codes $\sum_i2^i\,1\{z_i>0\}$, int64 of shape (...,)."""
        return _by_pieces(z, self.bits, out, lambda x: self._index(x > 0))

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Signs of shape (..., d)."""
        check_codes(codes, self.size)
        return (codes.long()[..., None] >> torch.arange(self.bits, device=codes.device) & 1).to(dtype).mul_(2).sub_(1)

    def quantize(self, z: torch.Tensor) -> torch.Tensor:
        """`decode(encode(z))`, in the type of `z`."""
        return self.decode(self.encode(z), dtype=z.dtype)

    def entropies(self, z: torch.Tensor, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        r"""$\mathbb E\,H(C\mid z)$ and $H(C)$ in bits, for $P(C=c\mid z)\propto e^{-\|z-c\|^2/\tau}$ (thm-learned-lfq).

        The mean is over the vectors of `z`; differentiable.  The first costs $O(d)$ a vector, for the
        bits are independent given $z$, the second $O(2^d)$; `bits` may be at most 16.
        """
        _finite(z, self.bits)
        if self.bits > 16 or not 0 < temperature < math.inf or not z.numel():
            raise ValueError("entropies needs at most 16 bits, a positive temperature and a vector")
        logits = _wide(z).reshape(-1, self.bits) * (4 / temperature)
        p = torch.sigmoid(logits)
        given = -(p * nn.functional.logsigmoid(logits) + (1 - p) * nn.functional.logsigmoid(-logits)).sum(1).mean()
        words = self.decode(torch.arange(self.size, device=z.device), dtype=logits.dtype)
        total = torch.softmax(logits / 2 @ words.T, 1).mean(0)
        joint = -(total * total.clamp(min=torch.finfo(total.dtype).tiny).log()).sum()      # 0 log 0 = 0, with a finite gradient
        return given / math.log(2), joint / math.log(2)

    def _index(self, up):
        return (up.long() << torch.arange(self.bits, device=up.device)).sum(-1)


def _by_pieces(z, d, out, encode):
    """Codes of `z`, in pieces that fit in cache; half precision is computed in float32."""
    _finite(z, d)
    if out is None:
        out = torch.empty(z.shape[:-1], dtype=torch.int64, device=z.device)
    elif not out.is_contiguous() or (out.shape, out.dtype, out.device) != (z.shape[:-1], torch.int64, z.device):
        raise ValueError(f"out must be a contiguous int64 tensor of shape {tuple(z.shape[:-1])} on {z.device}")
    rows, size = z.reshape(-1, d), max(PIECE // d, 1) if z.device.type == "cpu" else max(len(out.view(-1)), 1)
    for a, m in zip(rows.split(size), out.view(-1).split(size)):
        m.copy_(encode(_wide(a)))
    return out


def _wide(z):
    return z if z.dtype == torch.float64 else z.float()


def _finite(z, d):
    if not isinstance(z, torch.Tensor) or z.dtype not in uniform.FLOATS or z.ndim == 0 or z.shape[-1] != d:
        raise ValueError(f"z must be a floating-point tensor with last axis {d}")
    if z.numel() and not all(math.isfinite(v) for v in torch.stack(torch.aminmax(z.detach())).tolist()):
        raise ValueError("z must be finite; it holds a NaN or an infinity")
