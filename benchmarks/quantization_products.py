"""Rotations against other ways to apply them, TurboQuant's codec against faiss, and the best product at 2 bits against its limit."""
import math

import faiss
import numpy as np
import torch
from lecturelib.quantization import coder, entropy_trellis, matrix_products, packing, products, rotations, turboquant
from timing import eager, paired

GENERATORS = (0o3273, 0o1126)          # of 1024 states: the best of four random pairs at 2 bits


def measure() -> list[dict]:
    return [*transforms(), *codecs(), *matrix_product()]


def row(kernel, ours, name, peer, agreement, note):
    mine, theirs, ratio, spread = paired(ours, peer, rounds=5, warmup=1)
    return {"kernel": kernel, "ours": f"{1e3 * mine:.1f} ms", "peer": f"{name} {1e3 * theirs:.1f} ms",
            "ratio": ratio, "spread": spread, "agreement": agreement, "note": note}


def transforms() -> list[dict]:
    d = 4096
    x = torch.randn(4096, d, generator=torch.Generator().manual_seed(0))
    out, other, turn = torch.empty_like(x), torch.empty_like(x), rotations.RandomHadamard(d, 1, rounds=1)
    Q = rotations.hadamard(torch.eye(d))

    def butterflies():
        y, h = x, 1
        while h < d:
            y = y.view(-1, d // (2 * h), 2, h)
            y = torch.stack((y[:, :, 0] + y[:, :, 1], y[:, :, 0] - y[:, :, 1]), 2)
            h *= 2
        return y.view(-1, d) / d**0.5
    agreement = f"largest difference {float((rotations.hadamard(x) - butterflies()).abs().max()):.0e}"
    kernel, note = "Hadamard transform, 4096 x 4096 float32, out=", "in C, through the first cache; input checked"
    return [row(kernel, lambda: rotations.hadamard(x, out=out), "copy into a warm tensor", lambda: other.copy_(x), "the limit", note),
            row(kernel, lambda: rotations.hadamard(x, out=out), "torch, twelve rounds of sums and differences", butterflies, agreement, note),
            row(kernel, lambda: rotations.hadamard(x, out=out), "torch, one product with the full matrix", lambda: x @ Q, agreement, note),
            row(kernel, lambda: rotations.hadamard(x, out=out), "ours without a compiler", eager(lambda: rotations.hadamard(x, out=other)), agreement, "the peer as two products with 64 x 64 matrices, bound by their 4.3 GFLOP"),
            row("signs and Hadamard transform, 4096 x 4096, out=", lambda: turn.apply(x, out=out), "copy into a warm tensor", lambda: other.copy_(x), "the limit", note)]


def codecs() -> list[dict]:
    d, count = 1536, 4096
    x = torch.nn.functional.normalize(torch.randn(count, d, generator=torch.Generator().manual_seed(0)), dim=1)
    array, rows = np.ascontiguousarray(x.numpy()), []
    for bits in (1, 2, 4):
        code, turn = turboquant.design(rotations.RandomHadamard(d, 1), bits), faiss.RandomRotationMatrix(d, d)
        turn.init(5)
        index = faiss.IndexPreTransform(turn, faiss.IndexScalarQuantizer(d, getattr(faiss.ScalarQuantizer, f"QT_{bits}bit_tqmse")))
        index.train(array)

        def encode():
            codes, scale = turboquant.encode(x, code)
            return packing.pack(codes, bits), scale
        error = float((turboquant.quantize(x, code) - x).square().sum(1).mean())
        other = float(np.square(index.sa_decode(index.sa_encode(array)) - array).sum(1).mean())
        assert abs(error / code.distortion - 1) < 0.01 and error < 1.005 * other
        rows.append(row(f"TurboQuant, 4096 vectors of dimension 1536, {bits} bits, packed", encode, "faiss TurboQuant", lambda: index.sa_encode(array),
                        f"mean square error {error:.4f} and {other:.4f} (theory {code.distortion:.4f})",
                        "random unit vectors; ours turns by signs and Hadamard matrices and keeps the norm, faiss by a random matrix"))
    return rows


def matrix_product() -> list[dict]:
    """A product at 2 bits by 1024 states: error over the limit in place of a time."""
    g = torch.Generator().manual_seed(0)
    code = entropy_trellis.design(2.0, GENERATORS, torch.randn(128, 2048, generator=g), rounds=10)

    def quantize(x):
        data = coder.encode(entropy_trellis.encode(x.view(-1, 8 * x.shape[1]), code), code)
        return entropy_trellis.decode(coder.decode(data, code), code).view(x.shape), 8 * len(data) / x.numel()
    m = matrix_products.measure(quantize, g, n=1024, columns=384)
    limit = float(products.gaussian_limit(m.rate))
    assert 1 <= m.ratio < 1.06 and not math.isnan(m.spread)
    return [{"kernel": "product of Gaussian matrices, 1024 x 384 each, at 2 bits in bytes", "ours": f"error {m.error:.5f} at {m.rate:.4f} bits",
             "peer": f"limit {limit:.5f}", "ratio": limit / m.error, "spread": [limit / (m.error + 2 * m.spread), limit / (m.error - 2 * m.spread)],
             "agreement": f"mean square error {m.distortion:.5f}, Shannon {4.0**-m.rate:.5f}", "note": "entropy-coded trellis of 1024 states; variable rate"}]
