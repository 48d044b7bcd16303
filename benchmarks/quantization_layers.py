"""Layers with a known covariance: gaps to reverse water-filling against the theory, bytes, and the time of GPTQ and the trellis."""
import math
import time

import torch
from lecturelib.quantization import entropy_trellis, gptq, layer_theory, rotations, sic, sic_coder, sic_trellis
from timing import eager, paired

# bits above Shannon of each quantizer on a memoryless Gaussian source at high rate
THEORY = {0: layer_theory.QUARTER_BIT, 8: 0.0745, 256: 0.0325}
NAMES = {0: "WaterSIC", 8: "trellis, 8 states", 256: "trellis, 256 states"}


def covariances(n):
    """AR(0.9) seen through log-normal scales, the same rotated, and a power law in a random basis."""
    g, i = torch.Generator().manual_seed(0), torch.arange(n)
    d = torch.exp(torch.randn(n, generator=g, dtype=torch.float64))
    S = 0.9 ** (i[:, None] - i).abs().double() * d[:, None] * d
    Q = rotations.haar(n, g, torch.float64).matrix
    return {"AR(.9) x log-normal": S, "the same, rotated": Q @ S @ Q.T, "power law, rotated": Q @ torch.diag((i + 1.0).double() ** -1.5) @ Q.T}


def gaps(name, S, states, rate, B=6, m=4096):
    """One row: the mean gap of B layers, with its standard error over them."""
    n, g = len(S), torch.Generator().manual_seed(1)
    W, sigma = torch.randn(B, m, n, generator=g), S.float().expand(B, n, n)
    start = time.perf_counter()
    W_hat, bits = sic.trellis(W, sigma, rate, states=states, chunk=m) if states else sic.watersic(W, sigma, rate)
    seconds = time.perf_counter() - start
    E = (W - W_hat).double()
    D, power = ((E @ S) * E).mean((1, 2)), W.double().square().mean((1, 2))
    side = sic_coder.SIDE / m + 8 * (sic_coder.HEAD.size + 24) / (m * n)
    gap = layer_theory.gap(S.expand(B, n, n), bits - side, D, power)
    mean, error, theory = float(gap.mean()), float(gap.std()) / B**0.5, THEORY[states]
    return {"kernel": f"{NAMES[states]}, {rate:g} bits, {name}, n = {n}, m = {m}", "ours": f"gap {mean:.4f} +- {error:.4f} bit",
            "peer": f"high-rate theory {theory:.4f}", "ratio": theory / mean, "spread": [theory / (mean + 2 * error), theory / (mean - 2 * error)],
            "agreement": "bits are the adaptive coder's", "note": f"side information left out, {side:.4f} bit; {float(bits.mean()):.3f} bit spent; {seconds:.2g} s for {W.numel()} weights"}


def coded():
    """Bytes against the length that was counted."""
    g, n, m = torch.Generator().manual_seed(2), 576, 960
    i, W = torch.arange(n), torch.randn(1, m, n, generator=g)
    sigma, rows = (0.9 ** (i[:, None] - i).abs())[None], []
    for states in (0, 8):
        W_hat, bits, (code,) = sic.trellis(W, sigma, 2.0, states=states, codes=True) if states else sic.watersic(W, sigma, 2.0, codes=True)
        data = sic_coder.encode(code)
        assert torch.equal(sic_coder.decode(data).weights(), W_hat[0])
        spent = 8 * len(data) / W.numel()
        rows.append({"kernel": f"bytes, {NAMES[states]}, {m} x {n}", "ours": f"{spent:.5f} bit", "peer": f"counted {float(bits):.5f}",
                     "ratio": float(bits) / spent, "spread": [float(bits) / spent] * 2, "agreement": "decoded weights equal, bit for bit",
                     "note": "header, steps and classes included"})
    return rows


def plain(W, sigma, bits, group):
    """GPTQ of one layer as one would write it: a grid at the head of each group, then column by column."""
    W, n, top = W.clone(), W.shape[1], 2**bits - 1
    H = sigma + 0.01 * sigma.diagonal().mean() * torch.eye(n)
    U, W_hat = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True), torch.empty_like(W)
    for j in range(n):
        if j % group == 0:
            part = W[:, j:j + group]
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            s = ((high - low) / top).half().float()
            z = torch.round(-low / s).clamp(0, top)
        W_hat[:, j] = s * ((torch.round(W[:, j] / s) + z).clamp(0, top) - z)
        W[:, j + 1:] -= ((W[:, j] - W_hat[:, j]) / U[j, j])[:, None] * U[j, j + 1:]
    return W_hat


def in_c(kernel, f, loss, rounds, note):
    """A row: the loops in C against the same in PyTorch."""
    loops = [loss(g()) for g in (f, eager(f))]
    assert abs(loops[0] / loops[1] - 1) < 0.01
    a, b, ratio, spread = paired(f, eager(f), rounds=rounds, warmup=1)
    return {"kernel": kernel, "ours": f"loops in C {1e3 * a:.1f} ms", "peer": f"the same in PyTorch {1e3 * b:.1f} ms", "ratio": ratio, "spread": spread,
            "agreement": f"losses {loops[0]:.6g} and {loops[1]:.6g}", "note": note}


def loops():
    """What the loops in C bring: GPTQ, WaterSIC and the trellis."""
    g, i, rows = torch.Generator().manual_seed(5), torch.arange(576), []
    W, sigma = torch.randn(1, 960, 576, generator=g), (0.9 ** (i[:, None] - i).abs())[None]
    def loss(V): return float(((V - W) @ sigma * (V - W)).mean())
    for name, f in (("GPTQ, 3 bits, groups of 64", lambda: gptq.quantize(W, sigma, 3, 64)[0]), ("WaterSIC, 2.3 bits", lambda: sic.watersic(W, sigma, 2.3)[0]),
                    ("trellis of 8 states, 2.3 bits", lambda: sic.trellis(W, sigma, 2.3)[0]), ("trellis of 256 states, 2.3 bits", lambda: sic.trellis(W, sigma, 2.3, states=256)[0])):
        rows.append(in_c(f"{name}, 960 x 576", f, loss, 5 if "256" not in name else 1, "one thread"))
    return rows


def gptq_time(B, m, n, rounds):
    g, i = torch.Generator().manual_seed(3), torch.arange(n)
    W, sigma = torch.randn(B, m, n, generator=g), (0.9 ** (i[:, None] - i).abs()).expand(B, n, n)

    def peer():
        return torch.stack([plain(w, s, 3, 64) for w, s in zip(W, sigma)])

    def ours():
        return gptq.quantize(W, sigma, 3, 64)[0]
    loss = [float(((V - W) @ sigma * (V - W)).mean()) for V in (ours(), peer())]
    assert abs(loss[0] / loss[1] - 1) < 0.01
    a, b, ratio, spread = paired(ours, peer, rounds=rounds, warmup=0)
    return {"kernel": f"GPTQ, 3 bits, groups of 64, {B} layer{'s' * (B > 1)} of {m} x {n}", "ours": f"{a:.2f} s", "peer": f"column loop in plain torch {b:.2f} s",
            "ratio": ratio, "spread": spread, "agreement": f"losses {loss[0]:.5f} and {loss[1]:.5f}", "note": "one thread"}


def search_time(states, sequences, T=192):
    """The search down the rows against the general one, on the same chunks."""
    x = 4 * torch.randn(T, sequences, generator=torch.Generator().manual_seed(4))
    search, rows, code = sic_trellis.Search(states, sequences), x.T.contiguous(), _integers(states)

    def ours():
        search.state.zero_()
        return search(x)
    errors = [float((x - ours()).square().sum()), float((x.T - entropy_trellis.encode(rows, code)).square().sum())]
    assert abs(errors[0] / errors[1] - 1) < 1e-4
    a, b, ratio, spread = paired(ours, lambda: entropy_trellis.encode(rows, code), rounds=5, warmup=1)
    return {"kernel": f"search, {states} states, {sequences} chunks of {T}", "ours": f"{x.numel() / a / 1e6:.2f} million weights per second",
            "peer": f"entropy_trellis {x.numel() / b / 1e6:.2f}", "ratio": ratio, "spread": spread,
            "agreement": f"square errors {errors[0]:.2f} and {errors[1]:.2f}", "note": f"{1e6 * a / T:.2g} us per row; one thread"}


def _integers(states):
    """The plain integers as a code without charge."""
    i = torch.arange(-40, 41)
    f = torch.empty(81, dtype=torch.int64)
    for p in (0, 1):
        mine = torch.nonzero(i % 2 == p)[:, 0]
        f[mine] = entropy_trellis.TOTAL // len(mine)
        f[mine[0]] += entropy_trellis.TOTAL - int(f[mine].sum())
    return entropy_trellis.Code(int(math.log2(states)), *entropy_trellis.MASKS[states], i.float(), f, 0.0)


def measure() -> list[dict]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [gaps(name, S, states, 4.0) for name, S in covariances(32).items() for states in THEORY]
        name, S = next(iter(covariances(32).items()))
        rows += [gaps(name, S, states, rate) for rate in (2.0, 1.0) for states in THEORY]
        rows += coded()
        rows += [gptq_time(1, 576, 576, 3), gptq_time(8, 576, 576, 2), gptq_time(4, 3072, 576, 1)]
        return [*rows, *loops(), search_time(8, 150), search_time(8, 480), search_time(256, 150)]
    finally:
        torch.set_num_threads(threads)
