r"""A quantized model in one file: packed codes, scales, levels, and a header that says how to decode them.

The file is of the format safetensors.  Layer `name` is up to five tensors, `name.codes` (a stream of bits,
each row from a new byte), `name.scales`, `name.zeros`, `name.matrix` and `name.levels`; the header of the
file, which is text, holds for each layer the number of columns, the width of a code and a checksum, and the rule in
words.  Nothing of this library is needed to read it.
"""
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lecturelib.llm import layers as walk
from lecturelib.quantization import packing
from lecturelib.quantization.blocks import Blocks

FORMAT, VERSION = "lecturelib blocks", 2
RULE = ("weight = scale * level[code] + zero, float32, one scale and zero for each block of neighboring columns; "
        "scale = scales (* matrix, if there is one); zero = zeros or 0. Row r of .codes is a stream of bits: code i has the bits "
        "i*width ... (i+1)*width-1, bit k being bit k%8 (from the low end) of byte k//8. Columns and width: the entry 'layers'; sha256 there: of the JSON text "
        "[name, columns, width] and the bytes of .codes, .scales, .zeros, .matrix and .levels, those that there are.")
PARTS = ("scales", "zeros", "matrix", "levels")


def save(path, quantized: Mapping[str, Blocks], extra: Mapping[str, torch.Tensor] | None = None, notes: str = "") -> int:
    """Write the layers, and `extra` tensors as they are, to `path`; returns the size of the file in bytes.

    The file appears whole or not at all: it is written beside `path` and then put in its place.  Raises
    ValueError if `quantized` is empty or a name of `extra` is taken.
    """
    path, tensors, shapes = Path(path), {}, {}
    if not quantized:
        raise ValueError("quantized must hold at least one layer")
    for name, b in quantized.items():
        tensors[f"{name}.codes"] = b.pack().contiguous()
        tensors |= {f"{name}.{part}": getattr(b, part).contiguous() for part in PARTS if getattr(b, part) is not None}
        shapes[name] = {"columns": b.codes.shape[-1], "width": b.width}
        shapes[name]["sha256"] = _checksum(name, shapes[name], [tensors.get(f"{name}.{part}") for part in ("codes", *PARTS)])
    for name, t in (extra or {}).items():
        if name in tensors:
            raise ValueError(f"extra must not name {name!r}, a tensor of a layer")
        tensors[name] = t.contiguous()
    seen = set()                                           # the format knows no views, and no tensor twice
    for name, t in tensors.items():
        place = t.untyped_storage().data_ptr()
        if place in seen or t.untyped_storage().nbytes() != t.nbytes:
            tensors[name] = t.clone()
        seen.add(place)
    header = {"format": f"{FORMAT} {VERSION}", "decode": RULE, "layers": json.dumps(shapes), "notes": notes}
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        save_file(tensors, beside, metadata=header)
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path.stat().st_size


def layers(path, device="cpu") -> Iterator[tuple[str, Blocks]]:
    """The layers of a file, one at a time.

    Raises ValueError if there is no file, it is cut off or damaged, or it was not written by `save` in this version of the format.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"path must be a file; there is none at {path}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header, names = file.metadata() or {}, set(file.keys())
            _check_version(header.get("format", ""), path.name)
            for name, shape in json.loads(header["layers"]).items():
                stream, *parts = (file.get_tensor(f"{name}.{p}") if f"{name}.{p}" in names else None for p in ("codes", *PARTS))
                if stream is None or shape["sha256"] != _checksum(name, shape, [stream, *parts]):
                    raise ValueError(f"path must hold what was saved; the checksum of layer {name!r} of {path.name} is that of other numbers")
                yield name, Blocks(packing.unpack(stream, shape["width"], shape["columns"]), **dict(zip(PARTS, parts)))
    except (SafetensorError, LookupError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"path must be a whole safetensors file; {path.name} is not: {error!r}") from error


def _check_version(said, file) -> None:
    name, _, number = said.rpartition(" ")
    if name != FORMAT or not number.isdecimal():
        raise ValueError(f"path must hold a model saved by save; the header of {file} does not say {FORMAT!r}")
    if int(number) != VERSION:
        what = "newer: update lecturelib" if int(number) > VERSION else "older: save the model again"
        raise ValueError(f"path must hold version {VERSION} of the format; {file} has {number}, which is {what}")


def _checksum(name, shape, tensors) -> str:
    digest = hashlib.sha256(json.dumps([name, shape["columns"], shape["width"]]).encode())
    for t in tensors:
        if t is not None:
            digest.update(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def load(path, device="cpu") -> dict[str, Blocks]:
    """All layers of a file: the very codes and scales that were saved."""
    return dict(layers(path, device))


def assign(model: torch.nn.Module, path) -> None:
    """Decode the layers of a file into those of a model, one at a time, in place."""
    device = next(model.parameters()).device
    for name, b in layers(path, device):
        walk.assign(model, {name: b.decode()})
