r"""Matrix products for training in low precision: what is rounded, how, and which gradient goes back.

A linear layer $y=xW^\top$ has three products, one forward and two backward; a `Recipe` says which
operands are rounded and how.  Leading axes are a batch, of seeds for instance; blocks of 32 numbers
lie along the axis that is summed over, and share a scale.  The weights that learn stay in float32.
"""
import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lecturelib.quantization import float_formats, rotations
from lecturelib.quantization.float_formats import FORMATS, Format

BLOCK = 32
E2M1 = FORMATS["e2m1"]
# The largest unit s of E2M1 that pays for N(0,1): the error of s Q(x/s) is the same at s and at s/2.
LARGEST_UNIT = 0.7397027
SCALES = ("floor", "rms", "safe")


def stochastic(x: torch.Tensor, fmt: Format, generator: torch.Generator) -> torch.Tensor:
    r"""One of the two numbers of `fmt` around each entry, with expectation the entry (prop-training-sr).

    In a binade the numbers are multiples of a step $\Delta$, and with $u$ uniform on $[0,1)$ the
    result is $\Delta\lfloor x/\Delta+u\rfloor$.  `x` is float32 or float64.  Raises ValueError
    unless $|x|$ is finite and at most the largest number of the format: beyond it nothing is unbiased.

    >>> q = stochastic(torch.full((100_000,), 3.25), E2M1, torch.Generator().manual_seed(0))
    >>> sorted(set(q.tolist())), round(float(q.mean()), 2)
    ([3.0, 4.0], 3.25)
    """
    _float(x)
    y = x.abs()
    top = _maximum(fmt)
    if x.numel() and not bool(y.max() <= top):
        raise ValueError(f"x must be finite and at most {top} in magnitude for an unbiased rounding")
    step = _power(y, fmt.low_exponent).mul_(2.0**-fmt.mantissa)
    u = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return torch.div(x, step, out=y).add_(u).floor_().mul_(step)


def unit(x: torch.Tensor, rule: str) -> torch.Tensor:
    r"""The value $s$ of 1 in each block of 32 of MXFP4, (..., n / 32, 1): a power of two but for `safe`.

    `floor`: $2^{\lfloor\log_2\max|x|\rfloor-2}$, the rule of the standard.  `rms`: the largest power
    of two up to `LARGEST_UNIT` times the root mean square, for a Gaussian the best that follows from
    it alone (eq-training-unit).  `safe`: $\frac43$ of `floor`, with which no number exceeds $6s$.  Raises
    ValueError on a NaN or an infinity, and unless the last axis is a multiple of 32.
    """
    _float(x)
    if rule not in SCALES:
        raise ValueError(f"rule must be one of {SCALES}; got {rule!r}")
    b = _blocks(x)
    size = b.square().mean(-1, keepdim=True).sqrt_().mul_(LARGEST_UNIT) if rule == "rms" else \
        b.abs().amax(-1, keepdim=True)
    if not bool(torch.isfinite(size).all()):
        raise ValueError("x must be finite")
    s = _power(size, -126).clamp_(max=2.0**127)
    return s if rule == "rms" else s.mul_(1 / 3 if rule == "safe" else 1 / 4)


def mxfp4(x: torch.Tensor, rule: str = "floor", generator: torch.Generator | None = None):
    r"""$(\hat x,\text{inside})$: `x` in blocks of 32 E2M1 numbers with the unit of `rule`, and where $|x|\le6s$.

    With a generator the rounding is stochastic, and then the rule must be `safe` for $\mathbb E\hat x=x$;
    numbers outside go to $\pm6s$.  4.25 bits a number.  Raises ValueError as `unit` does.

    >>> x = torch.linspace(-1, 1, 32)
    >>> float(mxfp4(x)[0].max()), sorted(set((mxfp4(x)[0] * 4).abs().tolist()))
    (1.0, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0])
    """
    s = unit(x, rule)
    y = _blocks(x) / s
    inside = y.abs() <= 6 * (1 + 1e-6)
    return _rounded(y, s, generator).view(x.shape), inside.view(x.shape)


def _rounded(y, s, generator):
    """s times blocks y in units of s, rounded; y is used up."""
    return (float_formats.quantize(y, E2M1, out=y) if generator is None else stochastic(y.clamp_(-6, 6), E2M1, generator)).mul_(s)


def block_float(x: torch.Tensor, fmt: Format, block: int = BLOCK):
    r"""$(\hat x,\text{inside})$ with a float32 unit per block, its maximum over that of the format; all are inside.

    The setting of the scaling law (eq-training-law): `fmt.bits` + 32 / `block` bits a number.

    >>> (block_float(torch.arange(32.0), Format(1, 2))[0] * 7 / 31).round().unique().tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    """
    _float(x)
    b = _blocks(x, block)
    s = b.abs().amax(-1, keepdim=True).div_(fmt.maximum)
    s = torch.where(s > 0, s, torch.ones_like(s))
    q = float_formats.quantize(b / s, fmt).mul_(s).view(x.shape)
    return q, torch.ones_like(x, dtype=torch.bool)


def widely_linear(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Complex $(U,V)$, (..., m / 2, n / 2), with $Wx=Uz+V\bar z$ for the real matrix $W$ (..., m, n) (prop-training-phase).

    $z=x_1+ix_2$ of the halves of $x$, and likewise for the result.  Raises ValueError unless m and n are even.
    """
    _float(w)
    if w.ndim < 2 or w.shape[-1] % 2 or w.shape[-2] % 2:
        raise ValueError(f"w must be a matrix with even sides; got {tuple(w.shape)}")
    (a, b), (c, d) = (half.chunk(2, -1) for half in w.chunk(2, -2))
    return torch.complex(a + d, c - b).div_(2), torch.complex(a - d, b + c).div_(2)


def real_matrix(U: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """The real matrix $W$ (..., m, n) of $Uz+V\\bar z$; the inverse of `widely_linear`."""
    top = torch.cat((U.real + V.real, V.imag - U.imag), -1)
    return torch.cat((top, torch.cat((U.imag + V.imag, U.real - V.real), -1)), -2)


def fourth_roots(U: torch.Tensor) -> torch.Tensor:
    r"""$s\,i^k$ nearest to each entry, $i^k\in\{\pm1,\pm i\}$, with the best scale $s$ for each matrix (prop-training-phase).

    $s$ is the mean of $\max(|\mathrm{Re}|,|\mathrm{Im}|)$.  Raises ValueError on a NaN or an infinity.

    >>> fourth_roots(torch.tensor([[3 + 1j, -2j]])).tolist()
    [[(2.5+0j), -2.5j]]
    """
    re, im = U.real, U.imag
    along = re.abs() >= im.abs()
    s = torch.maximum(re.abs(), im.abs()).mean((-2, -1), keepdim=True)
    if not bool(torch.isfinite(s).all()):
        raise ValueError("U must be finite")
    one = torch.ones_like(re)
    return torch.complex(torch.where(along, torch.copysign(one, re), 0.0), torch.where(along, 0.0, torch.copysign(one, im))) * s


def phase(w: torch.Tensor, stages: int = 1):
    r"""$(\hat W,\text{inside})$ with entries $\{\pm1,\pm i\}$ in both parts of the widely linear form, `stages` bits a weight.

    Each stage codes what the ones before have left over.  The scales, two of 32 bits for a matrix
    and stage, come on top.  Raises ValueError unless `stages` is a positive integer.
    """
    if not isinstance(stages, int) or stages < 1:
        raise ValueError(f"stages must be a positive integer; got {stages!r}")
    U, V = widely_linear(w)
    q = 0
    for _ in range(stages):
        u, v = fourth_roots(U), fourth_roots(V)
        q, U, V = q + real_matrix(u, v), U - u, V - v
    return q, torch.ones_like(w, dtype=torch.bool)


def sign(w: torch.Tensor):
    r"""$(\hat W,\text{inside})$ with $\hat W=s\,\mathrm{sign}(W)$, $s$ the mean of $|W|$ of each matrix: the best such scale."""
    s = w.abs().mean((-2, -1), keepdim=True)
    if not bool(torch.isfinite(s).all()):
        raise ValueError("w must be finite")
    return torch.copysign(s, w), torch.ones_like(w, dtype=torch.bool)


@dataclass(frozen=True)
class Recipe:
    r"""Which operands of the three products are rounded; None for exactly.

    `weight` and `activation` map an operand of the forward product to (rounded, where the gradient
    passes), and the rounded operands are used backward as well; `memory` rounds the input once more
    for the gradient of the weights.  `gradient` maps each operand of the backward products and a
    generator to a rounded one.  With `rotate` the forward operands go through a Hadamard matrix with
    fixed signs in blocks of 32, and the backward ones with fresh random signs; the products do not change.
    """
    weight: Callable | None = None
    activation: Callable | None = None
    memory: Callable | None = None
    gradient: Callable | None = None
    rotate: bool = False


def _unbiased(a, generator):
    s = unit(a, "safe")
    return _rounded(_blocks(a) / s, s, generator).view(a.shape)


def _nearest(a, generator):
    s = unit(a, "floor")
    return _rounded(_blocks(a) / s, s, None).view(a.shape)


def _in_block_float(x, fmt, block):
    return block_float(x, fmt, block)[0]


# All of these can be sent to another process.
FULL = Recipe()
QUARTET = Recipe(functools.partial(mxfp4, rule="rms"), functools.partial(mxfp4, rule="rms"), gradient=_unbiased, rotate=True)
NEAREST = Recipe(mxfp4, mxfp4, gradient=_nearest)          # MXFP4 without any of it
SIGN, PHASE, PHASE2 = Recipe(sign), Recipe(phase), Recipe(functools.partial(phase, stages=2))


def float_recipe(fmt: Format, block: int = BLOCK) -> Recipe:
    """Weights, and the inputs in the weights' gradient, as `block_float`: the setting of the scaling law."""
    return Recipe(functools.partial(block_float, fmt=fmt, block=block), memory=functools.partial(_in_block_float, fmt=fmt, block=block))


def linear(x: torch.Tensor, w: torch.Tensor, recipe: Recipe = FULL, generator: torch.Generator | None = None) -> torch.Tensor:
    r"""$y=xW^\top$ for `x` (..., N, n) and `w` (..., m, n), the three products as `recipe` says (eq-training-forward).

    Straight through: the gradients are those of the product of the rounded operands, taken as
    gradients for the operands themselves where these were inside.  With a recipe that rounds
    gradients, N, m and n must be multiples of 32 and a generator is needed.
    """
    if x.shape[:-2] != w.shape[:-2] or x.shape[-1] != w.shape[-1]:
        raise ValueError(f"x (..., N, n) and w (..., m, n) must agree; got {tuple(x.shape)} and {tuple(w.shape)}")
    if recipe.gradient is not None and (generator is None or any(k % BLOCK for k in (*x.shape[-2:], *w.shape[-2:]))):
        raise ValueError("a recipe that rounds gradients needs a generator and N, m, n multiples of 32")
    return x @ w.mT if recipe == FULL else _Linear.apply(x, w, recipe, generator)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, recipe, generator):
        if recipe.rotate:
            signs = forward_signs(x.dtype, x.device)
            x, w = rotate(x, signs), rotate(w, signs)
        ctx.inside_x = ctx.inside_w = None
        if recipe.activation:
            x, ctx.inside_x = recipe.activation(x)
        if recipe.weight:
            w, ctx.inside_w = recipe.weight(w)
        ctx.recipe, ctx.generator = recipe, generator
        ctx.save_for_backward(recipe.memory(x) if recipe.memory else x, w)
        return x @ w.mT

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        recipe = ctx.recipe
        if recipe.gradient is None:
            dx, dw = g @ w, g.mT @ x
        else:
            signs = None
            if recipe.rotate:
                u = torch.rand(BLOCK, generator=ctx.generator, device=g.device)
                signs = torch.where(u < 0.5, -1.0, 1.0).to(g.dtype)
            dx = product(g, w.mT, recipe.gradient, ctx.generator, signs)
            dw = product(g.mT, x.mT, recipe.gradient, ctx.generator, signs)
        if ctx.inside_x is not None:
            dx = dx * ctx.inside_x
        if ctx.inside_w is not None:
            dw = dw * ctx.inside_w
        if recipe.rotate:
            dx, dw = (_blocks(rotate(d)).mul(forward_signs(d.dtype, d.device)).view(d.shape) for d in (dx, dw))
        return dx, dw, None, None


def product(a: torch.Tensor, b: torch.Tensor, rounding: Callable, generator: torch.Generator,
            signs: torch.Tensor | None = None) -> torch.Tensor:
    r"""$ab^\top$ for `a` (..., p, K) and `b` (..., q, K) with both operands rounded, independently (thm-training-unbiased).

    `signs`, 32 of them, turn the common axis by $H\,\mathrm{diag}(\text{signs})$ in blocks first.
    """
    a, b = a.contiguous(), b.contiguous()
    if signs is not None:
        a, b = rotate(a, signs), rotate(b, signs)
    return rounding(a, generator) @ rounding(b, generator).mT


def rotate(x: torch.Tensor, signs: torch.Tensor | None = None) -> torch.Tensor:
    """The orthonormal Hadamard matrix of order 32 applied to each block of the last axis, after `signs`."""
    H = _hadamard(x.dtype, x.device)
    return (_blocks(x) @ (H if signs is None else signs[:, None] * H)).view(x.shape)


@functools.cache
def forward_signs(dtype, device):
    """Signs before the forward Hadamard matrix: without them numbers of one sign would all fall on its first row."""
    return torch.where(torch.rand(BLOCK, generator=torch.Generator().manual_seed(0)) < 0.5, -1.0, 1.0).to(device, dtype)


@functools.cache
def _maximum(fmt):
    return fmt.maximum


@functools.cache
def _hadamard(dtype, device):
    return rotations.hadamard(torch.eye(BLOCK, dtype=dtype, device=device))


def _power(x, low) -> torch.Tensor:
    """The power of two below each positive entry, read from its exponent bits, and at least 2^low."""
    integer, mask = (torch.int64, 2047 << 52) if x.dtype == torch.float64 else (torch.int32, 255 << 23)
    return torch.bitwise_and(x.contiguous().view(integer), mask).view(x.dtype).clamp_(min=2.0**low)


def _blocks(x, block=BLOCK):
    if not x.ndim or x.shape[-1] % block or not x.numel():
        raise ValueError(f"x must have a last axis that is a multiple of {block}; got shape {tuple(x.shape)}")
    return x.contiguous().view(*x.shape[:-1], -1, block)


def _float(x):
    if not isinstance(x, torch.Tensor) or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x must be a float32 or float64 tensor; got {getattr(x, 'dtype', type(x).__name__)}")
