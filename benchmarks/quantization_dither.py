"""Dither and stochastic rounding of 2^24 float32, and the E8 nearest point, against a copy and against plain ways."""
import numpy as np
import torch
from lecturelib.quantization import dither, lattices
from timing import eager, paired

N, STEP = 1 << 24, 0.375


def measure() -> list[dict]:
    x = torch.randn(N, generator=torch.Generator().manual_seed(0))
    out, other = torch.empty_like(x), torch.empty_like(x)
    fast = np.random.Generator(np.random.SFC64(0))
    array, noise = x.numpy(), np.empty(N, np.float32)

    def with_torch():
        u = torch.rand_like(x).sub_(0.5).mul_(STEP)
        return torch.round((x + u) / STEP) * STEP - u

    def with_numpy():
        fast.random(out=noise, dtype=np.float32)
        np.subtract(noise, np.float32(0.5), out=noise)
        result = array / np.float32(STEP)
        result += noise
        np.rint(result, out=result)
        result -= noise
        result *= np.float32(STEP)
        return result

    def copy():
        return other.copy_(x)

    def floor_of_sum():
        return torch.floor(x / STEP + torch.rand_like(x)) * STEP

    def power(result) -> float:
        return float((torch.as_tensor(result) - x).double().square().mean())

    def row(kernel, ours, name, peer, agreement, note):
        mine, theirs, ratio, spread = paired(ours, peer, rounds=5, warmup=1)
        return {"kernel": kernel, "ours": f"{1e3 * mine:.1f} ms", "peer": f"{name} {1e3 * theirs:.1f} ms",
                "ratio": ratio, "spread": spread, "agreement": agreement, "note": note}

    def ours():
        return dither.quantize(x, STEP, seed=1, out=out)

    note = "dither regenerable from (seed, position); input checked; in C"
    rows = []
    for name, peer in (("copy into a warm tensor", copy), ("torch, dither from torch.rand", with_torch),
                       ("numpy in place, dither from SFC64", with_numpy), ("ours without a compiler", eager(ours))):
        agreement = "the limit"
        if peer is not copy:
            a, b = power(ours()) * 12 / STEP**2, power(peer()) * 12 / STEP**2
            assert abs(a - 1) < 2e-3 and abs(b - 1) < 2e-3
            agreement = f"12 E error^2 / step^2: {a:.4f} and {b:.4f}"
        rows.append(row("subtractive dither, 2^24 float32, out=", ours, name, peer, agreement, note))

    def rounding():
        return dither.stochastic_round(x, STEP, seed=1, out=out)

    a, b = power(rounding()) * 6 / STEP**2, power(floor_of_sum()) * 6 / STEP**2
    assert abs(a - 1) < 2e-3 and abs(b - 1) < 2e-3
    kernel, note = "stochastic rounding, 2^24 float32, out=", "exactly unbiased; the peer to 24 bits; input checked; in C"
    rows.append(row(kernel, rounding, "copy into a warm tensor", copy, "the limit", note))
    rows.append(row(kernel, rounding, "torch, floor(x / step + torch.rand)", floor_of_sum,
                    f"6 E error^2 / step^2: {a:.4f} and {b:.4f}", note))

    e8, vectors = lattices.e8(), x[:1 << 20].view(-1, 8)
    target = torch.empty_like(vectors)
    G = float((vectors - e8.nearest(vectors)).double().square().mean())
    rows.append(row("nearest point of E8, 2^17 vectors, float32", lambda: e8.nearest(vectors), "copy into a warm tensor",
                    lambda: target.copy_(vectors), f"mean square error of N(0, I): {G:.5f}",
                    "vectors along the last axis; in C"))
    return rows
