r"""Number formats with block scales: what hardware calls MXFP4 or NVFP4, integers in groups, NF4.

One formula decodes them all: a number with code $c$ in a block with scale $s$ and zero $z$ is
$\hat x=s\,\ell_c+z$ (eq-fmt-blocks); the formats differ in the levels $\ell$, in the type of $s$ and in
the rule that finds it.  Blocks lie along the last axis.  All is computed in float32; the scale
is rounded to its type first and the elements are rounded for the scale as it is stored; powers of two are
read from the bits of the maximum, never from a logarithm, and go down to 2^-127.  Rounding is
to nearest; ties go to the even code (integers, floats) or the lower level (other codebooks).
"""
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from lecturelib import native
from lecturelib.native import rounding
from lecturelib.quantization import block_scales, codebooks, float_formats, packing, uniform

POWERS = block_scales.POWERS
RULES = ("absmax", "range", "signed", "four over six", "search", *POWERS)
SCALES = (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e8m0fnu)


@dataclass(frozen=True)
class BlockFormat:
    r"""`block` numbers share a scale of type `scale`, found by `rule`; `levels` are what the codes stand for.

    The rules, with $a$ the largest magnitude of the block and $\ell_{\max}$ that of the levels (or `reach`, if given):
    `absmax` $s=a/\ell_{\max}$; `range` $z=\min x$, $s=(\max x-z)/\ell_{\max}$; `signed` $s=x_i/\ell_0$ with
    $|x_i|=a$; powers of two by `floor` $2^{\lfloor\log_2a\rfloor-e}$, $e=\lfloor\log_2\ell_{\max}\rfloor$, `ceil` the same
    with the ceiling, `even` the floor after $a$ was rounded to the mantissa of the element, `rceil`
    $2^{\lceil\log_2(a/\ell_{\max})\rceil}$; `four over six` the better of $a/6$ and $a/4$; `search` the best of
    several: 13 neighbors of $a/\ell_{\max}$ in E4M3, three powers of two, or 25 scales from $a/\ell_{\max}$ down to 0.4 of it.  With E4M3 scales a further float32 for each matrix (the last two axes)
    puts the largest scale at 448, and at 256 for the rules that look for larger ones.
    """
    name: str
    block: int
    levels: tuple[float, ...]
    scale: torch.dtype
    rule: str
    element: float_formats.Format | None = None
    reach: float | None = None

    def __post_init__(self):
        if not uniform._whole(self.block) or self.block < 1:
            raise ValueError(f"block must be a positive integer; got {self.block!r}")
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}; got {self.rule!r}")
        if self.scale not in SCALES:
            raise ValueError(f"scale must be one of {SCALES}; got {self.scale}")
        if (self.scale == torch.float8_e8m0fnu) != (self.rule in POWERS) and self.rule != "search":
            raise ValueError(f"rule must be one of {', '.join(POWERS)} or search for E8M0 scales, and for no others; got {self.rule!r}")
        if self.scale == torch.float8_e4m3fn and self.rule == "range":
            raise ValueError("rule must not be range with E4M3 scales, whose three bits are too few for a zero")
        if not 2 <= len(self.levels) <= 256:
            raise ValueError(f"levels must be 2 to 256 numbers; got {len(self.levels)}")
        if self.reach is not None:
            uniform._positive(reach=self.reach)

    @property
    def width(self) -> int:
        """Bits of a code."""
        return (len(self.levels) - 1).bit_length()

    @property
    def bits(self) -> float:
        """Bits per number with scale and zero counted, but for the one float of a whole matrix."""
        return self.width + 8 * self.scale.itemsize * (1 + (self.rule == "range")) / self.block

    @property
    def top(self) -> float:
        return self.reach or max(abs(v) for v in self.levels if math.isfinite(v))

    @property
    def integer(self) -> bool:
        return self.element is None and all(v == self.levels[0] + j for j, v in enumerate(self.levels))


@dataclass(frozen=True)
class Blocks:
    r"""Numbers as `codes` (..., n) uint8, `scales` (..., n / block) of the type that is stored, `zeros` alike or
    None, `levels` (at most 256) float32, and `matrix`, float32 (..., 1, 1) or None, which multiplies the scales."""
    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    levels: torch.Tensor
    matrix: torch.Tensor | None = None

    @property
    def block(self) -> int:
        return self.codes.shape[-1] // self.scales.shape[-1]

    @property
    def width(self) -> int:
        return (len(self.levels) - 1).bit_length()

    @property
    def bits(self) -> float:
        """Bits per number, all side information but the levels counted."""
        side = sum(8 * t.numel() * t.itemsize for t in (self.scales, self.zeros, self.matrix) if t is not None)
        return self.width + side / self.codes.numel()

    def decode(self) -> torch.Tensor:
        r"""$\hat x=s\,\ell_c+z$, float32 like `codes` (eq-fmt-blocks).

        Raises ValueError if a code stands for no finite number.
        """
        s = self.scales.float()
        if self.matrix is not None:
            s = s * self.matrix
        x = native.empty(self.codes.shape, device=self.codes.device)
        if self.codes.dtype == torch.uint8 and native.serves("rounding", x, self.levels, least=native.LEAST):
            zeros = None if self.zeros is None else self.zeros.float().reshape(-1, 1)
            rounding.decode(self.codes.reshape(-1, self.block), s.reshape(-1, 1), zeros, self.levels, x)
            return x
        if self.codes.numel() and int(self.codes.max()) >= len(self.levels):
            raise ValueError(f"codes must lie in 0, ..., {len(self.levels) - 1}")
        x = torch.index_select(self.levels, 0, self.codes.reshape(-1).int()).view(*s.shape, self.block)
        x.mul_(s[..., None])
        if self.zeros is not None:
            x.add_(self.zeros.float()[..., None])
        if not uniform._all_finite(x):
            raise ValueError("codes must stand for finite numbers")
        return x.view(self.codes.shape)

    def pack(self) -> torch.Tensor:
        """The codes as a stream of bits, uint8 (..., bytes)."""
        return packing.pack(self.codes, self.width)


# ----------------------------------------------------------------------------- the formats
def integer(bits: int, block: int, symmetric: bool = True, rule: str | None = None, scale: torch.dtype = torch.float16) -> BlockFormat:
    r"""INT-`bits` in groups: $\pm(2^{b-1}-1)$ with $s=a/(2^{b-1}-1)$, or $2^b$ levels from min to max.

    `rule="signed"` has all $2^b$ codes and maps the largest entry, with its sign, to the lowest one.

    >>> integer(4, 32).bits, integer(4, 32, symmetric=False).bits
    (4.5, 5.0)
    """
    if not uniform._whole(bits) or not 2 - (not symmetric) <= bits <= 8:
        raise ValueError(f"bits must be an integer from {2 - (not symmetric)} to 8; got {bits!r}")
    rule = rule or ("absmax" if symmetric else "range")
    half = 2**(bits - 1)
    low, high = (0, 2 * half - 1) if rule == "range" else (-half, half - 1) if rule == "signed" else (1 - half, half - 1)
    kind = {"range": "asymmetric ", "signed": "signed "}.get(rule, "searched " if rule == "search" else "")
    return BlockFormat(f"{kind}INT{bits}, groups of {block}", block, tuple(float(v) for v in range(low, high + 1)), scale, rule)


def mx(element: str = "e2m1", rule: str = "floor", block: int = 32) -> BlockFormat:
    """The OCP microscaling formats: `block` numbers of a small float format and a power of two.

    `element` is e2m1 (MXFP4), e2m3, e3m2 (MXFP6), e4m3fn or e5m2 (MXFP8).

    >>> mx().bits, mx("e3m2").bits, mx("e4m3fn").bits
    (4.25, 6.25, 8.25)
    """
    fmt = float_formats.FORMATS.get(element)
    if fmt is None or fmt.bits > 8:
        raise ValueError(f"element must be a format of up to 8 bits, of {', '.join(n for n, f in float_formats.FORMATS.items() if f.bits <= 8)}; got {element!r}")
    return BlockFormat(f"MXFP{fmt.bits} {element.upper().removesuffix('FN')}, {rule}", block, _float_levels(fmt), torch.float8_e8m0fnu, rule, fmt)


def nvfp4(rule: str = "absmax", block: int = 16) -> BlockFormat:
    """E2M1 in blocks of 16 with E4M3 scales and one float32 for the matrix.

    >>> nvfp4().bits, nvfp4("four over six").levels[:8]
    (4.5, (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0))
    """
    if rule not in ("absmax", "four over six", "search"):
        raise ValueError(f"rule must be absmax, four over six or search; got {rule!r}")
    fmt = float_formats.FORMATS["e2m1"]
    return BlockFormat(f"NVFP4, {rule}", block, _float_levels(fmt), torch.float8_e4m3fn, rule, fmt)


def codebook(levels, block: int = 64, name: str = "codebook", scale: torch.dtype = torch.float32) -> BlockFormat:
    """Any increasing levels, scaled by the largest magnitude of the block.

    >>> quantize(torch.tensor([0.1, -0.7, 1.9, 2.0]), codebook([-0.9, 0.0, 0.9], 4)).tolist()
    [0.0, 0.0, 1.7999999523162842, 1.7999999523162842]
    """
    points = codebooks._points(levels, torch.float32, "cpu").tolist()
    return BlockFormat(f"{name}, groups of {block}", block, tuple(points), scale, "absmax", reach=1.0)


def nf4(block: int = 64, scale: torch.dtype = torch.float32) -> BlockFormat:
    """NF4: Gaussian quantiles, see `normal_float`; block scale the largest magnitude.

    >>> nf4().bits, len(nf4().levels), nf4().levels[7]
    (4.5, 16, 0.0)
    """
    return codebook(normal_float(4), block, "NF4", scale)


def normal_float(bits: int) -> np.ndarray:
    r"""Levels on [-1, 1] at quantiles of the Gaussian: 0, $2^{b-1}$ above it and $2^{b-1}-1$ below.

    The probabilities run evenly from 1/2 to $1-\frac12(\frac1{2\cdot2^b}+\frac1{2(2^b-1)})$, .9677083 for 4 bits, as in QLoRA.

    >>> normal_float(4).round(4).tolist()[:4]
    [-1.0, -0.6962, -0.5251, -0.3949]
    """
    if not uniform._whole(bits) or not 2 <= bits <= 8:
        raise ValueError(f"bits must be an integer from 2 to 8; got {bits!r}")
    count = 2**bits
    last = 1 - 0.5 * (1 / (2 * count) + 1 / (2 * (count - 1)))
    low = stats.norm.ppf(np.linspace(last, 0.5, count // 2 + 1)[:-1])
    below = stats.norm.ppf(np.linspace(last, 0.5, count // 2)[:-1])
    return np.sort(np.concatenate((low, [0.0], -below))) / low[0]


def _float_levels(fmt) -> tuple[float, ...]:
    half = [math.nan] * 2**(fmt.bits - 1)
    half[:fmt.top + 1] = float_formats.magnitudes(fmt).tolist()
    return (*half, *(-v for v in half))


# ---------------------------------------------------------------------------- the kernels
@torch.no_grad()
def encode(x: torch.Tensor, fmt: BlockFormat) -> Blocks:
    """Codes, scales and zeros of `x` (..., n), a floating tensor whose last axis is a multiple of the block.

    Raises ValueError on a NaN or an infinity, on another width, and where a scale is too large for its type.

    >>> b = encode(torch.tensor([0.1, -0.7, 0.35, 0.0]), integer(4, 2, scale=torch.float32))
    >>> b.codes.tolist(), [round(v, 4) for v in b.decode().tolist()]
    ([8, 0, 14, 7], [0.1, -0.7, 0.35, 0.0])
    """
    _checked(x, fmt)
    codes = native.empty(x.shape, torch.uint8, x.device)
    scales = torch.empty(*x.shape[:-1], x.shape[-1] // fmt.block, device=x.device, dtype=torch.float32)
    zeros = torch.empty_like(scales) if fmt.rule == "range" else None
    matrix = _matrix_scale(x, fmt)
    for a, rows, t in _pieces(x, fmt, matrix):
        block_scales.encode(a, fmt, t, codes.view(-1, fmt.block)[rows], scales.view(-1, 1)[rows], None if zeros is None else zeros.view(-1, 1)[rows])
    return Blocks(codes, scales.to(fmt.scale), None if zeros is None else zeros.to(fmt.scale), torch.tensor(fmt.levels, dtype=torch.float32, device=x.device), matrix)


@torch.no_grad()
def quantize(x: torch.Tensor, fmt: BlockFormat, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """`decode` of `encode` in one pass, in the type of `x`; `out` may be `x` itself.

    Raises ValueError as `encode` does; what `out` then holds is unspecified.

    >>> quantize(torch.tensor([0.3, 1.0, 2.4, 5.0]), mx(block=4)).tolist()
    [0.5, 1.0, 2.0, 4.0]
    """
    _checked(x, fmt)
    out = uniform._output(x, out, x.dtype)
    for a, rows, t in _pieces(x, fmt, _matrix_scale(x, fmt)):
        block_scales.quantize(a, fmt, t, out.view(-1, fmt.block)[rows])
    return out


def scheme(fmt: BlockFormat):
    """The format as `llm.layers.quantize` takes it: (W, covariance) -> (quantized W, bits per weight)."""
    return lambda W, sigma=None: (quantize(W, fmt), fmt.bits)


def _checked(x, fmt) -> None:
    uniform._output(x, x if isinstance(x, torch.Tensor) and x.is_contiguous() and not x.requires_grad else None, getattr(x, "dtype", None))
    if not isinstance(fmt, BlockFormat):
        raise ValueError(f"fmt must be a BlockFormat; got {fmt!r}")
    if x.ndim == 0 or x.shape[-1] % fmt.block or x.numel() == 0:
        raise ValueError(f"x must have a last axis that is a multiple of {fmt.block}, the block of {fmt.name}; got shape {tuple(x.shape)}")


def _pieces(x, fmt, matrix) -> Iterator[tuple]:
    """Blocks (k, block) float32, where they are among all, and the scale of the matrix, (1, 1) or one for each of equally many, or None."""
    flat = x.detach().reshape(-1, fmt.block).contiguous()
    t = None if matrix is None else matrix.view(-1, 1)
    if x.device.type != "cpu" or block_scales.native_rule(flat, fmt):
        yield flat.float(), slice(None), t
        return
    size = max(1, uniform.CHUNK // fmt.block)
    for first in range(0, len(flat), size):
        a = flat[first:first + size].float()
        yield a, slice(first, first + len(a)), t if t is None or len(t) == 1 else t[torch.arange(first, first + len(a)) // (len(flat) // len(t))]


def _matrix_scale(x, fmt) -> torch.Tensor | None:
    if fmt.scale != torch.float8_e4m3fn:
        return None
    rows = x.detach().reshape(-1, x.shape[-1]).contiguous()
    most = rounding.row_maxima(rows) if block_scales.native_rule(rows, fmt) else torch.maximum(rows.amax(1), -rows.amin(1))
    most = most.view(*x.shape[:-1], 1).amax((-2, -1) if x.ndim > 1 else -1, keepdim=True).float() / fmt.top / (448.0 if fmt.rule == "absmax" else 256.0)
    return torch.where(most > 0, most, torch.ones_like(most))
