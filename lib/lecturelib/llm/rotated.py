r"""A language model with other products in its layers, and the same model in rotated coordinates.

`replaced` lets a function $(x,W)\mapsto y$ take the place of $xW^\top$ in every linear layer, so that a
scheme for weights and activations is written once, for one layer.  `merge` turns the coordinates
of a Llama-type model by random rotations that disappear in its weights (thm-out-invariance).
"""
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lecturelib.llm import layers
from lecturelib.quantization.rotations import RandomHadamard


@contextmanager
def replaced(model: nn.Module, product: Callable[[torch.Tensor, torch.Tensor, str], torch.Tensor]) -> Iterator[None]:
    """Inside, each linear layer but the head returns `product(x, weight, name)`, with its bias added if it has one.

    Of nested ones the innermost counts, and leaving it brings the outer one back.
    `x` is (..., n) and `weight` (m, n), the model's own: `product` must not write into either.
    """
    found = layers.linear_layers(model)
    before = {layer: vars(layer).get("forward") for layer in found.values()}

    def forward(name, layer):
        def call(x):
            y = product(x, layer.weight, name)
            return y if layer.bias is None else y + layer.bias
        return call
    for name, layer in found.items():
        layer.forward = forward(name, layer)
    try:
        yield
    finally:
        for layer, own in before.items():
            del layer.forward
            if own is not None:
                layer.forward = own


@torch.no_grad()
def fold(model: nn.Module) -> None:
    r"""Move the gains of the norms into the layers that read them, $W\leftarrow W\,\mathrm{diag}\,g$, $g\leftarrow1$; the head gets weights of its own.

    Raises ValueError unless the model is of Llama's type, with RMSNorm, gains that multiply (Gemma's are
    $1+g$), and without biases.
    """
    body, head = _parts(model)
    if head.weight is model.get_input_embeddings().weight:
        head.weight = nn.Parameter(head.weight.clone(), requires_grad=False)
        model.config.tie_word_embeddings = False
    for norm, readers in [*((b.input_layernorm, (b.self_attn.q_proj, b.self_attn.k_proj, b.self_attn.v_proj)) for b in body.layers),
                          *((b.post_attention_layernorm, (b.mlp.gate_proj, b.mlp.up_proj)) for b in body.layers),
                          (body.norm, (head,))]:
        for layer in readers:
            layer.weight.mul_(norm.weight)
        norm.weight.fill_(1)


@torch.no_grad()
def merge(model: nn.Module, seed: int, online: bool = True) -> None:
    r"""Rotate a model in place without changing its function (thm-out-invariance).

    The residual stream is rotated by one `RandomHadamard`, the values of each head by another, both
    merged into the weights; with `online` a third one turns what enters the down projections, where
    the product of two vectors is in the way of merging: it is applied as the model runs.
    Folds the norms first.  Raises ValueError as `fold` does.
    """
    fold(model)
    body, head = _parts(model)
    stream = RandomHadamard(head.weight.shape[1], seed)
    value = RandomHadamard(body.layers[0].self_attn.head_dim, seed + 1)
    inner = RandomHadamard(body.layers[0].mlp.down_proj.weight.shape[1], seed + 2) if online else None
    for w in (head.weight, model.get_input_embeddings().weight):
        _rows(w, stream)
    for block in body.layers:
        a, f = block.self_attn, block.mlp
        for layer in (a.q_proj, a.k_proj, a.v_proj, f.gate_proj, f.up_proj):
            _rows(layer.weight, stream)
        for layer in (a.o_proj, f.down_proj):
            _columns(layer.weight, stream)
        _columns(a.v_proj.weight.view(-1, value.dimension, stream.dimension), value)
        _rows(a.o_proj.weight.view(stream.dimension, -1, value.dimension), value)
        if online:
            _rows(f.down_proj.weight, inner)
            f.down_proj.register_forward_pre_hook(lambda _, args: (inner.apply(args[0]),))


def _rows(w, turn):                                    # rows are vectors that meet a rotated input
    for part in w.data.split(4096):                    # the embeddings at once would take as much again
        turn.apply(part, out=part)


def _columns(w, turn):                                 # columns are vectors that the layer writes
    w.data.copy_(turn.apply(w.data.mT).mT)


def _parts(model):
    body, head = getattr(model, "model", None), getattr(model, "lm_head", None)
    blocks = getattr(body, "layers", None)
    if head is None or not blocks or "RMSNorm" not in type(getattr(body, "norm", None)).__name__ or \
            not all(hasattr(b, "mlp") and hasattr(b.mlp, "up_proj") and hasattr(b, "self_attn") for b in blocks):
        raise ValueError("model must be a causal model of Llama's type, with RMSNorm and gated blocks")
    gain = body.norm.weight
    signs = torch.ones_like(gain)
    signs[1::2] = -1
    if not torch.allclose(body.norm(signs), gain * signs, rtol=0.02, atol=1e-3):
        raise ValueError("model must have norms whose weights are their gains")
    if any(layer.bias is not None for layer in (*layers.linear_layers(model).values(), head)):
        raise ValueError("model must have no biases in its linear layers")
    return body, head
