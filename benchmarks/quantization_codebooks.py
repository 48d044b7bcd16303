"""Codebooks: nearest value, float formats, Lloyd-Max tables, and codebooks from samples."""
import kmeans1d
import ml_dtypes
import numpy as np
import torch
from lecturelib.quantization import codebooks, distortion, float_formats, lloyd_max, optimal_samples
from scipy import stats
from timing import paired

N = 1 << 24


def row(kernel, ours, peer, name, agreement, note, **options):
    mine, theirs, ratio, spread = paired(ours, peer, **options)
    return {"kernel": kernel, "ours": f"{1e3 * mine:.1f} ms", "peer": f"{name} {1e3 * theirs:.1f} ms",
            "ratio": ratio, "spread": spread, "agreement": agreement, "note": note}


def kernels() -> list[dict]:
    x = torch.randn(N, generator=torch.Generator().manual_seed(0))
    out, other, rows = torch.empty_like(x), torch.empty_like(x), []
    copy = lambda: other.copy_(x)

    c = torch.tensor(lloyd_max.lloyd_max(stats.norm(), 16).points, dtype=torch.float32)
    tau = codebooks.thresholds(c)
    search = lambda: torch.index_select(c, 0, torch.bucketize(x, tau, out_int32=True), out=other)
    ours = lambda: codebooks.quantize(x, c, out=out)
    assert torch.equal(ours(), search())
    what = "nearest of 16 values, 2^24 float32, out="
    rows.append(row(what, ours, copy, "copy into a warm tensor", "the limit", "input checked for NaN and infinity", rounds=5))
    rows.append(row(what, ours, search, "torch.bucketize and index_select", "bit for bit", "", rounds=5))

    for name, there in (("e4m3fn", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
        fmt = float_formats.FORMATS[name]
        ours = lambda: float_formats.quantize(x, fmt, out=out)
        peer = lambda: other.copy_(x.to(there))
        assert torch.equal(ours(), peer())
        rows.append(row(f"float {name} there and back, 2^24 float32, out=", ours, peer, "torch float8", "bit for bit",
                        "torch does not refuse NaN and infinity", rounds=5))
    fmt = float_formats.FORMATS["e2m1"]
    ours = lambda: float_formats.quantize(x, fmt, out=out)
    rows.append(row("float e2m1 there and back, 2^24 float32, out=", ours, copy, "copy into a warm tensor", "the limit",
                    "input checked for NaN and infinity", rounds=5))
    few, few_out = x[:1 << 21], torch.empty(1 << 21)
    few = few[few.abs() <= 6]
    few_out = torch.empty_like(few)
    ours = lambda: float_formats.quantize(few, fmt, out=few_out)
    peer = lambda: few.numpy().astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert np.array_equal(ours().numpy(), peer())
    rows.append(row("float e2m1 there and back, 2^21 float32, out=", ours, peer, "ml_dtypes", "bit for bit", "", rounds=5))
    return rows


def lloyd(levels, tolerance):
    """Lloyd's iteration for N(0,1) with closed-form moments, until no value moves by more than `tolerance`."""
    c = lloyd_max.initial(stats.norm(), levels)
    while True:
        p, m, _ = distortion.gaussian_moments(np.concatenate(([-np.inf], (c[1:] + c[:-1]) / 2, [np.inf])))
        new = m / p
        if np.abs(new - c).max() < tolerance:
            return new
        c = new


def measure() -> list[dict]:
    rows = kernels()
    ours = lambda: lloyd_max.lloyd_max(stats.norm(), 32)
    gap = np.abs(lloyd(32, 1e-10) - ours().points).max()
    rows.append(row("Lloyd-Max, N(0,1), 5 bits", ours, lambda: lloyd(32, 1e-10), "Lloyd's iteration, same moments",
                    f"values differ by {gap:.0e}, the iteration's remaining error", "Newton, check of the density included", rounds=5, warmup=1))
    ours = lambda: [lloyd_max.lloyd_max(stats.norm(), 2**b) for b in range(1, 9)]
    rows.append(row("Lloyd-Max, N(0,1), table of 1 to 8 bits", ours, lambda: lloyd(64, 1e-9), "Lloyd's iteration, 6 bits alone", "", "", rounds=5, warmup=1))

    generator = np.random.default_rng(0)
    x = generator.standard_normal(100_000)
    theirs = kmeans1d.cluster(x, 16)
    best = float(np.mean((x - np.array(theirs.centroids)[theirs.clusters])**2))
    exact = optimal_samples.optimal(x, 16).distortion / best - 1
    rows.append(row("exact 16 values of 10^5 samples", lambda: optimal_samples.optimal(x, 16), lambda: kmeans1d.cluster(x, 16), "kmeans1d (C++)",
                    f"errors differ by {exact:.0e}", "array operations only", rounds=5, warmup=1))
    x = generator.standard_normal(1_000_000)
    quick = optimal_samples.fast(x, 16)
    found = []
    line = row("16 values of 10^6 samples", lambda: optimal_samples.fast(x, 16), lambda: found.append(kmeans1d.cluster(x, 16)), "kmeans1d (C++)",
               "", "ours locally, theirs globally optimal", rounds=5, warmup=1)
    best = float(np.mean((x - np.array(found[0].centroids)[found[0].clusters])**2))
    line["agreement"] = f"error {quick.distortion / best - 1:.1e} above the optimum"
    return rows + [line]
