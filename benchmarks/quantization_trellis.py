"""Trellis codes for N(0,1): errors at 2 bits against Shannon's limit and published ones, and the search against a plain one.

With `QTIP` in the environment, a checkout of https://github.com/Cornell-RelaxML/qtip, the search also runs against theirs.
"""
import importlib.util
import math
import os
import sys
import time
import types
from pathlib import Path

import torch
from lecturelib.quantization import coder, entropy_trellis, trellis, trellis_codes
from timing import eager, paired

SHANNON, PUBLISHED = 0.0625, 0.068      # the latter: QTIP, table 1, L = 16, random table


def controlled(values, x):
    """Mean with the power of the source taken out by regression, and its standard error."""
    values, power = values.double(), x.double().square().mean(1)
    slope = ((values - values.mean()) * (power - power.mean())).sum() / (power - power.mean()).square().sum()
    rest = values - slope * (power - 1)
    return float(rest.mean()), float(rest.std() / len(rest)**0.5)


def plain(x, code):
    """The search as one would write it: natural order of the states, an argmin and back-pointers for all."""
    q, r = 1 << code.k, 1 << code.L - code.k
    cost, back = torch.zeros(len(x), 1 << code.L), []
    for t in range(x.shape[1]):
        least = cost.view(len(x), q, r).min(1)
        back.append(least.indices.to(torch.uint8))
        cost = least.values.repeat_interleave(q, 1) + (x[:, t:t + 1] - code.codebook).square()
    s, states = cost.argmin(1), []
    for t in range(x.shape[1] - 1, -1, -1):
        states.append(s)
        s = (s >> code.k) + back[t].gather(1, (s >> code.k).unsqueeze(1)).squeeze(1).long() * r
    return torch.stack(states[::-1], 1)


def row(kernel, D, error, peer, value, agreement, note):
    return {"kernel": kernel, "ours": f"D = {D:.5f} +- {error:.5f}", "peer": f"{peer} {value}", "ratio": value / D,
            "spread": [value / (D + 2 * error), value / (D - 2 * error)], "agreement": agreement, "note": note}


def fixed(code, rows, T, name):
    x = torch.randn(rows, T, generator=torch.Generator().manual_seed(1))
    start = time.perf_counter()
    data = coder.pack(trellis.viterbi(x, code, tail_biting=True), code)
    micro = 1e6 * (time.perf_counter() - start) / x.numel()
    x_hat = trellis.decode(coder.unpack(data, code), code, tail_biting=True)
    D, error = controlled((x - x_hat).square().mean(1), x)
    bits = 8 * (len(data) - coder.HEAD.size) / x.numel()
    kernel = f"fixed rate, {bits:.3f} bit, random access, L = {code.L}, {name}, tiles of {T}"
    note = f"{micro:.2g} us per sample, one pass over the seam included; source power as control variate; {x.numel()} samples"
    return [row(kernel, D, error, peer, value, "decoded from packed bytes", note)
            for peer, value in (("Shannon", SHANNON), ("QTIP, published", PUBLISHED))]


def entropy_coded(masks, rows, T):
    rate = 1.998
    code = entropy_trellis.design(rate, masks, torch.randn(64, 2048, generator=torch.Generator().manual_seed(2)))
    x = torch.randn(rows, T, generator=torch.Generator().manual_seed(3))
    start = time.perf_counter()
    x_hat, indices, ideal = entropy_trellis.quantize(x, code)
    micro = 1e6 * (time.perf_counter() - start) / x.numel()
    data = coder.encode(indices, code)
    assert torch.equal(entropy_trellis.decode(coder.decode(data, code), code), x_hat)
    D, error = controlled((x - x_hat).square().mean(1), x)
    lengths = code.lengths()[indices.long() + len(code.points) // 2].mean(1)
    spent = controlled(lengths, x)[0] + 8 * len(data) / x.numel() - ideal
    at_two = D * 4.0**(spent - 2)
    return row(f"entropy-coded, {1 << code.memory} states, rows of {T}", at_two, error, "Shannon", SHANNON,
               f"{len(data)} bytes decode to the same reconstruction, bit for bit",
               f"rate {8 * len(data) / x.numel():.4f} bit counted in bytes, {spent:.4f} with the source power taken out; moved along Shannon's slope "
               f"to 2 bits; {spent + 0.5 * math.log2(D):.4f} bit above Shannon; {micro:.2g} us per sample; {x.numel()} samples")


def measure() -> list[dict]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [*errors(), *searches("one thread")]
    finally:
        torch.set_num_threads(threads)
    return rows + (searches(f"{threads} threads") if threads > 1 else [])


def errors() -> list[dict]:
    rows = fixed(trellis_codes.sum_code(16, 2), 96, 1024, "sum on a circle")
    rows += fixed(trellis_codes.sum_code(16, 2), 96, 256, "sum on a circle")
    rows += fixed(trellis_codes.sum_code(12, 2), 128, 1024, "sum on a circle")
    rows += fixed(trellis_codes.random_code(16, 2, torch.Generator().manual_seed(0)), 48, 256, "random")
    for states, count, T in ((256, 32, 8000), (4096, 32, 8000), (16384, 24, 16_000)):
        rows.append(entropy_coded(entropy_trellis.MASKS[states], count, T))
    return rows


def qtip(checkout: str):
    """The search of QTIP, from a checkout of its repository, without the imports of its CUDA kernels."""
    for name in ("lib", "lib.codebook", "lib.utils", "lib.utils.kernel_check", "lib.utils.kernel_decompress", "lib.utils.matmul_had"):
        sys.modules[name] = types.ModuleType(name)
    for name in ("kdict", "has_kernel", "decode_compressed", "matmul_hadU_cuda", "matmul_hadUt_cuda"):
        for module in ("codebook", "utils.kernel_check", "utils.kernel_decompress", "utils.matmul_had"):
            setattr(sys.modules[f"lib.{module}"], name, None)
    spec = importlib.util.spec_from_file_location("bitshift", Path(checkout) / "lib/codebook/bitshift.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda code: module.bitshift_codebook(L=code.L, K=code.k, V=1, tlut_bits=code.L, decode_mode="lut", tlut=code.codebook.unsqueeze(1))


def searches(threads) -> list[dict]:
    rows = []
    for L, batch in ((8, 512), (12, 64), (16, 16)):
        code, x = trellis_codes.random_code(L, 2, torch.Generator().manual_seed(4)), torch.randn(batch, 256, generator=torch.Generator().manual_seed(5))
        peers = {"plain torch": lambda: plain(x, code)}
        if "QTIP" in os.environ:
            theirs, turned = qtip(os.environ["QTIP"])(code), x.T.contiguous()
            peers["QTIP, compiled by torch.compile,"] = lambda: theirs.quantize_seq(turned).T.long()
        search = lambda: trellis.states(trellis.viterbi(x, code), code)
        sides = [("in C", lambda: trellis.viterbi(x, code), name, peer) for name, peer in ({"ours without a compiler": eager(search)} | peers).items()]
        sides += [("without a compiler: a product, a sum and a minimum for each branch, each a pass over memory", eager(lambda: trellis.viterbi(x, code)), name, peer) for name, peer in peers.items() if name != "plain torch"]
        for note, ours, name, peer in sides:
            mine, cost = (float((code.codebook[s] - x).square().sum()) for s in (search() if note == "in C" else eager(search)(), peer()))
            assert abs(mine / cost - 1) < 1e-5
            a, b, ratio, spread = paired(ours, peer, rounds=5, warmup=1)
            rows.append({"kernel": f"search, L = {L}, {batch} sequences of 256, {threads}", "ours": f"{1e6 * a / x.numel():.3f} us per sample",
                         "peer": f"{name} {1e6 * b / x.numel():.2f} us per sample", "ratio": ratio, "spread": spread,
                         "agreement": f"square errors {mine:.3f} and {cost:.3f}", "note": note})
    return rows
