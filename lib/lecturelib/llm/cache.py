r"""Keys and values of a model: seen as attention sees them, and replaced by a quantized cache.

Any causal model of `transformers` whose attention can be exchanged will do.  Queries, keys and values
are those after the rotary embedding, of shape (windows, heads, T, d); with grouped queries each head of
the keys serves several of the queries, `groups` of them in a row.

Which keys are exact: the newest tokens are, up to the beginning of their block of `block` tokens.  With
`block=1` that is the newest token alone; with more, a block enters the cache once it is full.
"""
import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lecturelib.quantization.uniform import _whole

NAME = "lecturelib"
FEW = 32                                               # blocks up to which each is worked on by itself


@torch.inference_mode()
def capture(model: nn.Module, x: torch.Tensor, layers=None) -> dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Queries (B, h, T, d), keys and values (B, h', T, d) of the layers numbered in `layers` (all if None) on
    token numbers `x` (B, T).  Raises ValueError if `x` is empty or a layer is not there."""
    _tokens(x)
    seen, count = {}, model.config.num_hidden_layers
    wanted = set(range(count) if layers is None else layers)
    if not wanted <= set(range(count)):
        raise ValueError(f"layers must be among 0, ..., {count - 1}; got {sorted(wanted)}")

    def see(layer, q, k, v, scaling):
        if layer in wanted:
            seen[layer] = (q.clone(), k.clone(), v.clone())
        return attend(q, k, v, scaling)
    with _attention(model, see):
        model.get_decoder()(x, use_cache=False)
    return seen


def scores(q: torch.Tensor, k: torch.Tensor, scaling: float) -> torch.Tensor:
    """Logits (B, h, T, S) of queries (B, h, T, d) against keys (B, h', S, d), no mask."""
    B, h, T, d = q.shape
    grouped = q.reshape(B, k.shape[1], -1, d)                        # (B, h', groups T, d): one product per key head
    return (grouped @ (scaling * k).transpose(-1, -2)).view(B, h, T, -1)


def mix(p: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Weights (B, h, T, S) times values (B, h', S, d): outputs (B, h, T, d)."""
    B, h, T, S = p.shape
    return (p.reshape(B, v.shape[1], -1, S) @ v).view(B, h, T, -1)


def attend(q, k, v, scaling: float, k_hat=None, v_hat=None, block: int = 1, tilt=None) -> torch.Tensor:
    r"""Causal attention in which a query at $t$ uses $\hat k_j,\hat v_j$ for $\lfloor j/B\rfloor<\lfloor t/B\rfloor$, and $k_j,v_j$ from there to $t$ (eq-kv-cache).

    Parameters
    ----------
    q : queries (B, h, T, d); k, v : exact keys and values (B, h', T, d), h a multiple of h'.
    k_hat, v_hat : the cached ones, like k and v; both None is no cache.
    block : tokens that enter the cache together, $B$.
    tilt : (B, h', T), variances of a cached logit for a unit query; half of $\|q\|^2$ times it is subtracted.

    Returns (B, h, T, d).  Raises ValueError if `block` is no positive integer, or only one of `k_hat` and `v_hat` is given.
    """
    _whole_block(block)
    if (k_hat is None) != (v_hat is None):
        raise ValueError("k_hat and v_hat must both be given, or neither")
    if k_hat is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
    d, T = v.shape[-1], q.shape[2]
    if tilt is not None:                                   # one more channel carries it: <(q, |q|^2), (k, -tilt scaling / 2)>
        q = torch.cat([q, q.square().sum(-1, keepdim=True)], -1)
        k_hat = torch.cat([k_hat, (-scaling / 2 * tilt).unsqueeze(-1)], -1)
        k, v, v_hat = (F.pad(z, (0, 1)) for z in (k, v, v_hat))
    if T <= FEW * block:
        parts = (_attend_block(q, k, v, scaling, k_hat, v_hat, slice(i, min(i + block, T))) for i in range(0, T, block))
        return torch.cat(list(parts), 2)[..., :d]
    t = torch.arange(T, device=q.device)
    old = t // block < (t // block)[:, None]
    s = scores(q, k, scaling).masked_fill_(t > t[:, None], -torch.inf)
    p = torch.where(old, scores(q, k_hat, scaling), s).softmax(-1)
    return (mix(p * old, v_hat) + mix(p.masked_fill_(old, 0.0), v))[..., :d]


def _attend_block(q, k, v, scaling, k_hat, v_hat, here):
    """The queries of one block: the cached past, then the block itself under its causal mask."""
    start, size = here.start, here.stop - here.start
    q = q[:, :, here].unflatten(1, (k.shape[1], -1))                 # (B, h', groups, size, d): one product per key head
    groups = q.shape[2]
    k, v = (torch.cat([past[:, :, :start], z[:, :, here]], 2) for past, z in ((k_hat, k), (v_hat, v)))
    seen = torch.ones(size, here.stop, dtype=torch.bool, device=q.device).tril_(start).repeat(groups, 1)
    return F.scaled_dot_product_attention(q.flatten(2, 3), k, v, seen, scale=scaling).unflatten(2, (groups, size)).flatten(1, 2)


@contextlib.contextmanager
def quantized(model: nn.Module, keys, values, block: int = 1, corrected: bool = False) -> Iterator[None]:
    """Inside, every layer of the model attends to a quantized past.

    `keys` and `values` are schemes of lecturelib.quantization.kv (None keeps them exact), or functions
    from a layer's number to one.  With `corrected`, the logits of the cache are lowered by half their
    variance (prop-kv-jensen), which `keys` must then know.
    """
    def cached(layer, q, k, v, scaling):
        of_keys, of_values = (f(layer) if callable(f) else f for f in (keys, values))
        k_hat, codes = _through(of_keys, k, block)
        tilt = torch.zeros_like(k[..., 0]) if corrected else None
        if corrected and codes is not None:
            tilt[:, :, :k.shape[2] // block * block] = of_keys.noise(codes)
        return attend(q, k, v, scaling, k_hat, _through(of_values, v, block)[0], block, tilt)
    with _attention(model, cached):
        yield


class Cache(DynamicCache):
    """A cache that holds codes: what `quantized` computes for all tokens at once, one token at a time.

    Give it to the model as `past_key_values` and feed single tokens.  `keys`, `values` and `block` as in
    `quantized`.  Raises ValueError if `block` is no positive integer, or more than one token comes at a time.
    """
    def __init__(self, keys, values, block: int = 1):
        _whole_block(block)
        super().__init__()
        self.schemes, self.block, self.stored, self.recent, self.seen = (keys, values), block, {}, {}, {}

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        if key_states.shape[2] != 1:
            raise ValueError(f"key_states must be of one token; got {key_states.shape[2]}")
        new, full = (key_states, value_states), []
        for part, scheme in enumerate(self.schemes):
            at = layer_idx, part
            scheme = scheme(layer_idx) if callable(scheme) else scheme
            if at in self.recent and self.recent[at].shape[2] == self.block:
                old = self.recent.pop(at)
                self.stored.setdefault(at, []).append(old if scheme is None else scheme.encode(old))
            self.recent[at] = torch.cat([self.recent[at], new[part]], 2) if at in self.recent else new[part]
            past = (c if scheme is None else scheme.decode(c).to(new[part].dtype) for c in self.stored.get(at, ()))
            full.append(torch.cat([*past, self.recent[at]], 2))
        self.seen[layer_idx] = full[0].shape[2]
        return tuple(full)

    def get_seq_length(self, layer_idx=0) -> int:
        return self.seen.get(layer_idx, 0)

    def get_mask_sizes(self, query_length, layer_idx=0) -> tuple[int, int]:
        return self.get_seq_length(layer_idx) + query_length, 0


@contextlib.contextmanager
def _attention(model, function):
    """Let `function(layer, q, k, v, scaling)` be the model's attention for a while; it masks by itself."""
    def call(module, query, key, value, attention_mask, scaling=None, **kwargs):
        scaling = query.shape[-1]**-0.5 if scaling is None else scaling
        return function(module.layer_idx, query, key, value, scaling).transpose(1, 2).contiguous(), None
    before = model.config._attn_implementation
    if before == NAME:
        raise ValueError("model must not be inside another capture or cache")
    ALL_ATTENTION_FUNCTIONS[NAME] = call
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before
        del ALL_ATTENTION_FUNCTIONS[NAME]


def _through(scheme, z, block):
    """What the cache gives back for the full blocks of z (B, h', T, d), the rest as it is; and their codes."""
    _whole_block(block)
    full = z.shape[2] // block * block
    if scheme is None or full == 0:
        return z, None
    codes = scheme.encode(z[:, :, :full])
    return torch.cat([scheme.decode(codes).to(z.dtype), z[:, :, full:]], 2), codes


def _whole_block(block):
    if not _whole(block) or block < 1:
        raise ValueError(f"block must be a positive integer; got {block!r}")


def _tokens(x):
    if not isinstance(x, torch.Tensor) or x.ndim != 2 or x.numel() == 0 or x.is_floating_point():
        raise ValueError(f"x must hold token numbers (windows, T); got {tuple(getattr(x, 'shape', ()))}")
