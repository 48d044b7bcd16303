"""Saved models: the same bits back, readable without the library, written whole or not at all."""
import hashlib
import json
import struct

import numpy as np
import pytest
import torch
from torch import nn

from lecturelib.llm import store
from lecturelib.quantization import blocks

FORMATS = [blocks.mx(), blocks.nvfp4(), blocks.integer(3, 32, False), blocks.integer(5, 16), blocks.nf4(), blocks.mx("e5m2")]


@pytest.fixture
def quantized():
    g = torch.Generator().manual_seed(0)
    return {f"layer{k}": blocks.encode(torch.randn(6, 192, generator=g), f) for k, f in enumerate(FORMATS)}


def test_the_same_bits_come_back(tmp_path, quantized):
    path = tmp_path / "model.safetensors"
    size = store.save(path, quantized, {"norm": torch.arange(3.0)}, notes="a test")
    assert size == path.stat().st_size and [p.name for p in tmp_path.iterdir()] == [path.name]
    loaded = store.load(path)
    assert list(loaded) == list(quantized)
    for name, b in quantized.items():
        assert torch.equal(loaded[name].codes, b.codes) and torch.equal(loaded[name].decode(), b.decode())
        assert loaded[name].scales.dtype == b.scales.dtype and loaded[name].bits == b.bits


def test_the_header_is_enough_to_decode(tmp_path, quantized):
    """Standard library and numpy only, after the words in the header."""
    store.save(tmp_path / "m", quantized)
    data = (tmp_path / "m").read_bytes()
    length, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    shapes = json.loads(header["__metadata__"]["layers"])

    def tensor(name):
        first, last = header[name]["data_offsets"]
        raw, kind = np.frombuffer(data[8 + length:][first:last], np.uint8), header[name]["dtype"]
        if kind == "F8_E8M0":
            values = 2.0**(raw.astype(float) - 127)
        elif kind == "F8_E4M3":
            e, m = raw >> 3 & 15, (raw & 7).astype(float)
            values = np.where(e > 0, (8 + m) * 2.0**(e.astype(float) - 10), m * 2.0**-9)
        else:
            values = raw if kind == "U8" else raw.view({"F32": np.float32, "F16": np.float16}[kind])
        return values.reshape(header[name]["shape"])
    for name, b in quantized.items():
        width, n = shapes[name]["width"], shapes[name]["columns"]
        parts = [header.get(f"{name}.{part}", {"data_offsets": (0, 0)})["data_offsets"] for part in ("codes", "scales", "zeros", "matrix", "levels")]
        assert shapes[name]["sha256"] == hashlib.sha256(json.dumps([name, n, width]).encode() + b"".join(data[8 + length + i:8 + length + j] for i, j in parts)).hexdigest()
        bits = np.unpackbits(tensor(f"{name}.codes"), axis=1, bitorder="little")[:, :n * width].reshape(-1, n, width)
        level = tensor(f"{name}.levels")[bits @ (1 << np.arange(width))]
        scale, zero = tensor(f"{name}.scales").astype(np.float32), tensor(f"{name}.zeros").astype(np.float32) if f"{name}.zeros" in header else None
        if f"{name}.matrix" in header:
            scale = scale * tensor(f"{name}.matrix")
        each = n // scale.shape[1]
        w = np.repeat(scale, each, 1) * level + (0 if zero is None else np.repeat(zero, each, 1))
        assert np.array_equal(w.astype(np.float32), b.decode().numpy())


def test_layers_may_share_tensors(tmp_path, quantized):
    one = quantized["layer0"]
    store.save(tmp_path / "m", {"a": one, "b": one})
    assert all(torch.equal(b.decode(), one.decode()) for b in store.load(tmp_path / "m").values())


def test_a_model_gets_its_weights(tmp_path):
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 64))
    codes = {name: blocks.encode(model.get_parameter(f"{name}.weight").data, blocks.mx()) for name in ("0", "1")}
    store.save(tmp_path / "m", codes)
    store.assign(model, tmp_path / "m")
    assert all(torch.equal(model.get_parameter(f"{n}.weight").data, b.decode()) for n, b in codes.items())


def test_an_interrupted_write_leaves_the_old_file(tmp_path, quantized, monkeypatch):
    path = tmp_path / "m"
    store.save(path, quantized)
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")
    monkeypatch.setattr(store.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        store.save(path, {"other": quantized["layer0"]})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["m"]


def test_bad_files(tmp_path, quantized):
    path = tmp_path / "m"
    with pytest.raises(ValueError, match="there is none"):
        store.load(path)
    store.save(path, quantized)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="path must be a whole"):
        store.load(path)
    store.save(path, quantized)
    whole = path.read_bytes()
    for change in (lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b.replace(b"layer0", b"layerX").replace(b"layer3", b"layer0").replace(b"layerX", b"layer3"),
                   lambda b: b.replace(b'"columns\\": 192', b'"columns\\": 191')):
        path.write_bytes(change(whole))
        assert path.read_bytes() != whole
        with pytest.raises(ValueError, match="checksum"):
            store.load(path)
    for number, match in ((b"3", "newer: update"), (b"1", "older: save")):
        path.write_bytes(whole.replace(b"lecturelib blocks 2", b"lecturelib blocks " + number))
        with pytest.raises(ValueError, match=match):
            store.load(path)
    from safetensors.torch import save_file
    save_file({"w": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="does not say"):
        store.load(path)
    with pytest.raises(ValueError, match="at least one layer"):
        store.save(path, {})
    with pytest.raises(ValueError, match="extra must not name"):
        store.save(path, quantized, {"layer0.codes": torch.ones(1)})
