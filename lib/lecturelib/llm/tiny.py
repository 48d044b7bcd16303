r"""A small transformer language model that is trained in a page, several seeds at once.

Every parameter has a leading axis of seeds, and so has every batch of text, so that one product
of matrices serves all seeds.  Characters are the tokens: the 95 printable ones of ASCII, the end of
the line, and one sign for all others.  The linear layers take a `low_precision.Recipe`; embeddings,
attention and the output layer stay in float32.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from lecturelib.quantization import low_precision
from lecturelib.quantization.low_precision import FULL, Recipe

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
VOCABULARY = len(CHARACTERS) + 1


def encode(text: str) -> torch.Tensor:
    """Character numbers (T,) int64; all characters that are not in `CHARACTERS` get the last number.

    >>> encode("a\\n~é").tolist()
    [66, 0, 95, 96]
    """
    number = {c: k for k, c in enumerate(CHARACTERS)}
    return torch.tensor([number.get(c, VOCABULARY - 1) for c in text], dtype=torch.int64)


def decode(tokens) -> str:
    """The text of character numbers; the last number becomes a question mark."""
    return "".join((CHARACTERS + "?")[int(k)] for k in tokens)


@dataclass(frozen=True)
class Shape:
    """The linear layers have sides of 1 to 4 times `width`, a multiple of 32; `length` is the window.

    What enters at a place is a sum over the last `reach` characters, each place with its own table.
    """
    width: int = 64
    layers: int = 1
    heads: int = 2
    length: int = 32
    reach: int = 3


def initial(shape: Shape, seeds: list[int]) -> dict[str, torch.Tensor]:
    """Parameters with a leading axis of seeds; the same seed gives the same numbers in any company."""
    d, parameters = shape.width, []
    for seed in seeds:
        g = torch.Generator().manual_seed(seed)
        p = {"embed": torch.randn(shape.reach * VOCABULARY, d, generator=g), "place": 0.3 * torch.randn(shape.length, d, generator=g)}
        for k in range(shape.layers):
            for name, m, n in (("qkv", 3 * d, d), ("mix", d, d), ("up", 4 * d, d), ("down", d, 4 * d)):
                p[f"{name}{k}"] = torch.randn(m, n, generator=g) / n**0.5
        p["head"] = 0.1 * torch.randn(VOCABULARY, d, generator=g) / d**0.5
        parameters.append(p)
    return {name: torch.stack([p[name] for p in parameters]) for name in parameters[0]}


def linear_weights(parameters: dict) -> dict[str, torch.Tensor]:
    """Those parameters (seeds, m, n) that a recipe rounds."""
    return {name: w for name, w in parameters.items() if name not in ("embed", "place", "head")}


def logits(p: dict[str, torch.Tensor], x: torch.Tensor, shape: Shape, recipe: Recipe = FULL,
           generator: torch.Generator | None = None) -> torch.Tensor:
    """(seeds, B, T, vocabulary) for character numbers `x` (seeds, B, T): two norms, attention and a ReLU per layer."""
    S, B, T = x.shape
    d, h = shape.width, shape.heads
    seed = torch.arange(S, device=x.device)[:, None, None]
    recent = [F.pad(x[..., :T - k], (k, 0)) + k * VOCABULARY for k in range(shape.reach)]
    z = (sum(p["embed"][seed, r] for r in recent) + p["place"][:, None, :T]).view(S, B * T, d)

    def layer(y, name):
        return low_precision.linear(y, p[name], recipe, generator)

    for k in range(shape.layers):
        q, key, v = layer(F.rms_norm(z, (d,)), f"qkv{k}").view(S * B, T, 3, h, d // h).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, key, v, is_causal=True).transpose(1, 2).reshape(S, B * T, d)
        z = z + layer(mixed, f"mix{k}")
        z = z + layer(F.relu(layer(F.rms_norm(z, (d,)), f"up{k}")), f"down{k}")
    return (F.rms_norm(z, (d,)) @ p["head"].mT).view(S, B, T, VOCABULARY)


def losses(p, x, shape: Shape, recipe: Recipe = FULL, generator=None) -> torch.Tensor:
    """Mean of $-\\ln p(x_{t+1}\\mid x_1\\dots x_t)$ in nats for each seed (seeds,), `x` (seeds, B, T + 1)."""
    y = logits(p, x[..., :-1], shape, recipe, generator)
    return F.cross_entropy(y.flatten(0, 2), x[..., 1:].reshape(-1), reduction="none").view(len(x), -1).mean(1)


@dataclass(frozen=True)
class Run:
    """`loss` (seeds,): validation loss in nats; `history` (steps, seeds): training loss; `parameters`: what was learned."""
    loss: torch.Tensor
    history: torch.Tensor
    parameters: dict[str, torch.Tensor]


def train(text: torch.Tensor, validation: torch.Tensor, seeds: list[int], recipe: Recipe = FULL, *, steps: int = 300,
          batch: int = 8, rate: float = 0.005, shape: Shape = Shape(), report: Callable | None = None) -> Run:
    """Adam with a warm-up and a cosine to zero, all seeds at once; every recipe sees the same windows of text.

    `text` (T,) and `validation` (windows, length + 1) hold character numbers.  A seed fixes the
    initial parameters and the windows.  Raises ValueError if the text is shorter than a window, and
    FloatingPointError if a loss is not finite.
    """
    if text.ndim != 1 or len(text) <= shape.length or validation.ndim != 2 or not len(validation) or not 2 <= validation.shape[1] <= shape.length + 1:
        raise ValueError(f"text must be a vector longer than {shape.length} and validation a matrix with up to {shape.length + 1} columns; "
                         f"got shapes {tuple(text.shape)} and {tuple(validation.shape)}")
    p = {name: w.requires_grad_() for name, w in initial(shape, seeds).items()}
    optimizer = torch.optim.Adam(p.values(), lr=rate, betas=(0.9, 0.98), fused=True)
    draws = [torch.Generator().manual_seed(10_000 + seed) for seed in seeds]
    generator = torch.Generator().manual_seed(20_000 + seeds[0])
    window, history = torch.arange(shape.length + 1), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / (0.1 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
        starts = torch.stack([torch.randint(len(text) - shape.length, (batch,), generator=g) for g in draws])
        loss = losses(p, text[starts[..., None] + window], shape, recipe, generator)
        if not bool(loss.isfinite().all()):
            raise FloatingPointError(f"the loss is not finite at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        optimizer.step()
        history.append(loss.detach())
        if report is not None:
            report(step)
    return Run(evaluate(p, validation, shape, recipe), torch.stack(history), {n: w.detach() for n, w in p.items()})


@torch.no_grad()
def evaluate(p, validation: torch.Tensor, shape: Shape, recipe: Recipe = FULL) -> torch.Tensor:
    """`losses` (seeds,) on the windows `validation` (windows, length + 1), in pieces."""
    seeds = len(p["embed"])
    parts = [losses(p, part.expand(seeds, *part.shape), shape, recipe, torch.Generator().manual_seed(0)) * len(part)
             for part in validation.split(32)]
    return sum(parts) / len(validation)


def context_losses(text: torch.Tensor, validation: torch.Tensor, order: int) -> float:
    """Loss in nats on `validation` of counting in `text` what follows each `order` (0 or 1) characters, plus 0.1.

    >>> round(context_losses(torch.tensor([0, 1] * 500), torch.tensor([[0, 1, 0, 1]]), 1), 3)
    0.019
    """
    if order not in (0, 1):
        raise ValueError(f"order must be 0 or 1; got {order!r}")
    V = VOCABULARY
    before = text[:-1] if order else torch.zeros_like(text[:-1])
    counts = torch.bincount(before * V + text[1:], minlength=V * V).view(V, V).double() + 0.1
    table = -(counts / counts.sum(1, keepdim=True)).log()
    x, y = validation[:, :-1], validation[:, 1:]
    return float(table[x if order else torch.zeros_like(x), y].mean())
