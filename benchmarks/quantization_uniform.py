"""Uniform quantize–dequantize of 2^24 float32 against torch's own and against a copy."""
import torch
from lecturelib.quantization.uniform import quantize
from timing import eager, paired

N, STEP = 1 << 24, 0.375


def measure() -> list[dict]:
    x = torch.randn(N, generator=torch.Generator().manual_seed(0))
    out, other = torch.empty_like(x), torch.empty_like(x)
    bounds = (-8, 7)

    def ours():
        return quantize(x, STEP, bounds=bounds, out=out)

    def fake():
        return torch.fake_quantize_per_tensor_affine(x, STEP, 0, *bounds)

    def chain():
        return torch.clamp(torch.round(x / STEP), *bounds) * STEP

    rows = []
    peers = {"copy into a warm tensor": (lambda: other.copy_(x), None), "clone": (x.clone, None),
             "torch.fake_quantize": (fake, fake()), "torch, one operator after another":
             (chain, chain()), "ours without a compiler": (eager(ours), eager(ours)())}
    for name, (peer, result) in peers.items():
        agreement = "the limit"
        if result is not None:
            differ = (ours() != result).float().mean().item()
            gap = (ours() - result).abs().max().item()
            agreement = f"differ at {differ:.1e} of the entries, by at most {gap:.2g} (ties)"
            assert differ < 1e-5
        mine, theirs, ratio, spread = paired(ours, peer)
        rows.append({"kernel": "uniform quantize, 2^24 float32, 16 levels, out=",
                     "ours": f"{1e3 * mine:.1f} ms", "peer": f"{name} {1e3 * theirs:.1f} ms",
                     "ratio": ratio, "spread": spread, "agreement": agreement,
                     "note": "input checked for NaN and infinity; in C"})
    mine, theirs, ratio, spread = paired(lambda: quantize(x, STEP, bounds=bounds), x.clone)
    rows.append({"kernel": "uniform quantize, 2^24 float32, 16 levels", "ours": f"{1e3 * mine:.1f} ms", "peer": f"clone {1e3 * theirs:.1f} ms",
                 "ratio": ratio, "spread": spread, "agreement": "the limit", "note": "into a new tensor: ours has large pages"})
    return rows
