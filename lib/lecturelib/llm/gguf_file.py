r"""A Llama-type language model from a GGUF file: configuration, weights and tokenizer, checked and converted.

The file is read by the package `gguf`; the model is that of `transformers`, so that whatever runs on
a Hugging Face model runs on this one.  Two things are converted on the way: GGUF stores the rows of
the query and key matrices with the two halves of each rotary pair side by side, and the tokenizer as
bare lists of tokens and merges.
"""
import hashlib
import mmap
import warnings
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

with warnings.catch_warnings():                        # a dependency asks for widgets that nothing here shows
    warnings.filterwarnings("ignore", message="IProgress not found")
    from transformers import LlamaConfig, LlamaForCausalLM

NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
         "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj"}
TOP = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight", "output": "lm_head.weight"}
CONTROL = 3                                            # the token type of GGUF that is never made of text


class _Reader(gguf.GGUFReader):
    """The package's reader on a plain view of the file: it takes 150,000 slices, each several times as slow from a `memmap`."""
    @property
    def data(self):
        return self._view

    @data.setter
    def data(self, mapped):
        self.mapped, self._view = mapped, np.asarray(mapped)


def read(path, sha256: str | None = None, device="cpu") -> tuple[LlamaForCausalLM, Tokenizer, Callable[[], None]]:
    """Model (float32, in evaluation mode), tokenizer, and a function that gives the linear layers of the
    model the file's weights back, which need not be kept in memory for that.

    Raises ValueError if the file is missing, is cut off or damaged (its SHA-256 is not `sha256`,
    where that is given), is no GGUF file, or holds another architecture than Llama's.
    """
    file = _open(path, sha256)
    config = _config(file)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    weights = {name: w.to(device) for name, w in (_tensor(t, config) for t in file.tensors)}
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    tokenizer = _tokenizer(file)
    file.fields.clear()                                # half of the reader's memory: the words of the vocabulary

    def restore():
        for tensor in file.tensors:
            if len(tensor.shape) == 2 and tensor.name.startswith("blk."):
                name, w = _tensor(tensor, config)
                model.get_parameter(name).data.copy_(w)
        _forget(file)
    _forget(file)
    return model.eval().requires_grad_(False).to(device), tokenizer, restore


def _open(path, sha256) -> _Reader:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"path must be a GGUF file; there is none at {path}")
    if sha256 is not None:
        with open(path, "rb") as data:
            found = hashlib.file_digest(data, "sha256").hexdigest()
        if found != sha256:
            raise ValueError(f"path must hold the known file: the SHA-256 of {path.name} differs, "
                             "so it is cut off, damaged or another version")
    try:
        return _Reader(path)
    except (ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"path must be a whole GGUF file; {path.name} is not: {error}") from error


def _forget(file):
    """Drop the file's pages from this process's memory; they come back when they are read."""
    if hasattr(mmap, "MADV_DONTNEED"):
        file.mapped._mmap.madvise(mmap.MADV_DONTNEED)


def _field(file, name):
    field = file.get_field(name)
    if field is None:
        raise ValueError(f"path must hold a Llama model and its tokenizer: the file has no {name}")
    return field.contents()


def _config(file) -> LlamaConfig:
    if _field(file, "general.architecture") != "llama":
        raise ValueError(f"path must hold a Llama model; this is {_field(file, 'general.architecture')!r}")
    heads = _field(file, "llama.attention.head_count")
    return LlamaConfig(
        vocab_size=_field(file, "llama.vocab_size"), hidden_size=_field(file, "llama.embedding_length"),
        intermediate_size=_field(file, "llama.feed_forward_length"), num_attention_heads=heads,
        num_hidden_layers=_field(file, "llama.block_count"),
        num_key_value_heads=_field(file, "llama.attention.head_count_kv"),
        max_position_embeddings=_field(file, "llama.context_length"),
        rms_norm_eps=_field(file, "llama.attention.layer_norm_rms_epsilon"),
        rope_theta=_field(file, "llama.rope.freq_base"),
        bos_token_id=_field(file, "tokenizer.ggml.bos_token_id"), eos_token_id=_field(file, "tokenizer.ggml.eos_token_id"),
        tie_word_embeddings=all(t.name != "output.weight" for t in file.tensors), dtype="float32")


def _tensor(tensor, config) -> tuple[str, torch.Tensor]:
    w = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
    w = w.reshape([int(n) for n in reversed(tensor.shape)])
    parts = tensor.name.split(".")
    known = parts[2:3] if parts[0] == "blk" else parts[:1]
    if parts[-1] != "weight" or not set(known) & (NAMES if parts[0] == "blk" else TOP).keys():
        raise ValueError(f"path must hold a Llama model and nothing else; it holds the tensor {tensor.name!r}")
    if parts[0] != "blk":
        return TOP[parts[0]], w
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(parts[2])
    if heads:                                          # (head, pair, half) -> (head, half, pair)
        w = w.view(heads, -1, 2, w.shape[-1]).transpose(1, 2).reshape(w.shape)
    return f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight", w


def _tokenizer(file) -> Tokenizer:
    tokens, kinds = _field(file, "tokenizer.ggml.tokens"), _field(file, "tokenizer.ggml.token_type")
    if (_field(file, "tokenizer.ggml.model"), _field(file, "tokenizer.ggml.pre")) != ("gpt2", "smollm"):
        raise ValueError("path must hold a tokenizer of the kind gpt2 with the splitting rule smollm")
    merges = [tuple(pair.split(" ")) for pair in _field(file, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False)
                                  for t, kind in zip(tokens, kinds, strict=True) if kind == CONTROL])
    return tokenizer
