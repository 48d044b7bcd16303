"""Companded quantize of 2^22 float32 against a search in the same codebook and against a copy."""
import torch
from lecturelib.quantization import companding, power
from timing import paired

N, LEVELS = 1 << 22, 16


def measure() -> list[dict]:
    x = torch.randn(N, generator=torch.Generator().manual_seed(0))
    out, other = torch.empty_like(x), torch.empty_like(x)
    rows = []
    for name, G in {"Gaussian": companding.gaussian(), "mu-law": companding.mu_law(255.0, 6.0)}.items():
        t, c = (torch.from_numpy(v).float() for v in companding.partition(G.expand, LEVELS))

        def ours():
            return companding.quantize(x, G.compress, G.expand, LEVELS, out=out)

        def search():
            return c[torch.bucketize(x, t[1:-1], right=True)]

        def eager():
            return G.expand(((G.compress(x) * LEVELS).floor().clamp(0, LEVELS - 1) + 0.5) / LEVELS)

        for peer, f in {"copy into a warm tensor": lambda: other.copy_(x), "torch.bucketize and index": search,
                        "torch, one operator after another": eager}.items():
            agreement = "the limit"
            if f in (search, eager):
                differ = ((ours() - f()).abs() > 1e-5 * c.abs().max()).float().mean().item()
                agreement = f"differ at {differ:.1e} of the entries (thresholds)"
                assert differ < 1e-4
            mine, theirs, ratio, spread = paired(ours, f, rounds=7)
            rows.append({"kernel": f"companded quantize, {name}, 2^22 float32, {LEVELS} levels, out=",
                         "ours": f"{1e3 * mine:.1f} ms", "peer": f"{peer} {1e3 * theirs:.1f} ms", "ratio": ratio,
                         "spread": spread, "agreement": agreement,
                         "note": "input and compressor checked for range; eager, no compilation"})

    def encode():
        return power.encode(x, 0.8, 0.3, 15, dtype=torch.int8)
    mine, theirs, ratio, spread = paired(encode, lambda: other.copy_(x), rounds=5)
    rows.append({"kernel": "power codes, exponent 0.8, 2^22 float32, 15 levels", "ours": f"{1e3 * mine:.1f} ms",
                 "peer": f"copy into a warm tensor {1e3 * theirs:.1f} ms", "ratio": ratio, "spread": spread,
                 "agreement": "the limit", "note": "one power per entry"})
    return rows
