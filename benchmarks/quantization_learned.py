"""Learned quantizers against vector-quantize-pytorch: the same codes, then the time; and collapse over five seeds."""
import statistics

import torch
import vector_quantize_pytorch as reference
from lecturelib.quantization.learned import VectorQuantizer, rotate
from lecturelib.quantization.learned_grids import FSQ, LFQ
from timing import paired
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

N = 1 << 16


def row(kernel, ours, peer, name, agreement, note, rounds=5):
    mine, theirs, ratio, spread = paired(ours, peer, rounds=rounds)
    return {"kernel": kernel, "ours": f"{1e3 * mine:.1f} ms", "peer": f"{name} {1e3 * theirs:.1f} ms", "ratio": ratio,
            "spread": spread, "agreement": agreement, "note": note}


def measure() -> list[dict]:
    g = torch.Generator().manual_seed(0)
    rows, peer = [], "vector-quantize-pytorch"
    for d, K, n in ((8, 256, N), (8, 4096, N // 4)):
        z = torch.randn(1, n, d, generator=g)
        theirs = reference.VectorQuantize(dim=d, codebook_size=K, decay=0.99, threshold_ema_dead_code=0, rotation_trick=False)
        ours = VectorQuantizer(theirs.codebook.clone() * 3, decay=0.99)
        theirs._codebook.embed.data.copy_(ours.codebook)
        theirs._codebook.embed_avg.data.copy_(ours.codebook)
        theirs.eval(), ours.eval()
        with torch.no_grad():
            differ = float((theirs(z)[1] != ours.encode(z)).float().mean())
        assert differ < 1e-3
        theirs.train(), ours.train()
        rows.append(row(f"one training step of the codebook, {n} vectors, d = {d}, K = {K}", lambda: ours(z), lambda: theirs(z), peer,
                        f"codes differ at {differ:.0e} (near-ties)", "search, loss and moving averages; forward only", rounds=5))
    z = torch.randn(1, N, 4, generator=g)
    fsq, other = FSQ((8, 5, 5, 5)), reference.FSQ([8, 5, 5, 5])
    assert torch.equal(fsq.encode(z), other(z)[1].long())
    with torch.no_grad():
        rows.append(row(f"FSQ (8, 5, 5, 5), values and codes of {N} vectors", lambda: fsq(z), lambda: other(z), peer, "codes equal",
                        "the differentiable call"))
        out = torch.empty(1, N, dtype=torch.int64)
        rows.append(row(f"FSQ (8, 5, 5, 5), codes of {N} vectors, out=", lambda: fsq.encode(z, out=out), lambda: other(z), peer,
                        "codes equal", "ours computes codes only"))
    z = torch.randn(1, 4096, 10, generator=g)
    lfq, other_lfq = LFQ(10), reference.LFQ(codebook_size=1024, dim=10, commitment_loss_weight=0.0, entropy_loss_weight=1.0)
    mine = lfq.entropies(z, temperature=1.0)
    theirs = other_lfq(z, inv_temperature=1.0, return_loss_breakdown=True)[1]
    gap = abs(float(mine[0]) * 0.6931472 - float(theirs.per_sample_entropy))
    assert gap < 1e-2
    rows.append(row("LFQ entropies, 4096 vectors, 10 bits", lambda: (lfq(z), lfq.entropies(z)),
                    lambda: other_lfq(z, inv_temperature=1.0), peer, f"first entropy within {gap:.0e} (theirs clamps logarithms)",
                    "the entropy given z costs O(d) here and O(2^d) there"))
    z, q = torch.randn(N, 8, generator=g), torch.randn(N, 8, generator=g)
    close = float((rotate(z, q) - rotate_to(z, q)).abs().max())
    rows.append(row(f"rotation trick, {N} vectors, d = 8", lambda: rotate(z, q), lambda: rotate_to(z, q), peer,
                    f"values within {close:.0e}; ours equals q bit for bit", "forward"))
    rows.append(collapse())
    return rows


def collapse() -> dict:
    """Perplexity of 256 words on Gaussian vectors from a small start, with and without revival, five seeds."""
    def perplexity(revive, seed):
        g = torch.Generator().manual_seed(seed)
        vq = VectorQuantizer((torch.rand(256, 4, generator=g) * 2 - 1) / 256, decay=0.95, revive=revive, generator=g)
        for _ in range(400):
            vq(torch.randn(512, 4, generator=g))
        codes = vq.encode(torch.randn(N, 4, generator=g))
        p = torch.bincount(codes, minlength=256) / N
        return float(2**-(torch.special.xlogy(p, p).sum() / 0.6931472))
    pairs = [(perplexity(0.1, s), perplexity(0.0, s)) for s in range(5)]
    ratios = [a / b for a, b in pairs]
    return {"kernel": "perplexity of 256 words after 400 steps from a small start, N(0, I_4)",
            "ours": f"with revival {statistics.median(a for a, _ in pairs):.0f}",
            "peer": f"without {statistics.median(b for _, b in pairs):.0f}",
            "ratio": 1 / statistics.median(ratios), "spread": [1 / max(ratios), 1 / min(ratios)],
            "agreement": "five seeds", "note": "not a time; the ratio is without over with"}
