"""Block formats, bit packing and products by table, against gguf, torchao, bitsandbytes and a copy."""
import dataclasses

import gguf
import torch
from lecturelib.quantization import blocks, lut, packing
from timing import eager, paired

NUMBERS = 1 << 24


def measure() -> list[dict]:
    return [*formats(), *packed(), *products()]


def row(kernel, ours, name, peer, agreement, note=""):
    mine, theirs, ratio, spread = paired(ours, peer, rounds=5, warmup=1)
    return {"kernel": kernel, "ours": f"{1e3 * mine:.1f} ms", "peer": f"{name} {1e3 * theirs:.1f} ms",
            "ratio": ratio, "spread": spread, "agreement": agreement, "note": note}


def formats() -> list[dict]:
    x = torch.randn(NUMBERS // 2048, 2048, generator=torch.Generator().manual_seed(0))
    out, other, array = torch.empty_like(x), torch.empty_like(x), x.numpy()
    rows, kinds = [], gguf.GGMLQuantizationType
    for fmt, kind in ((blocks.mx(), kinds.MXFP4), (blocks.integer(4, 32, rule="signed"), kinds.Q4_0), (blocks.nvfp4(), None), (blocks.nvfp4("four over six"), None), (blocks.nf4(), None)):
        kernel = f"{fmt.name}: quantize 2^24 numbers, out="
        work = "; bound by arithmetic: every block is rounded and its error summed with two scales" if fmt.rule == "four over six" else ""
        rows.append(row(kernel, lambda: blocks.quantize(x, fmt, out=out), "copy into a warm tensor", lambda: other.copy_(x), "the limit", "in C; input checked" + work))
        rows.append(row(kernel, lambda: blocks.quantize(x, fmt, out=out), "clone", x.clone, "the limit of a new tensor", "in C; input checked" + work))
        rows.append(row(f"{fmt.name}: quantize 2^24 numbers", lambda: blocks.quantize(x, fmt), "clone", x.clone, "the limit", "in C; input checked" + work))
        rows.append(row(kernel, lambda: blocks.quantize(x, fmt, out=out), "ours without a compiler", eager(lambda: blocks.quantize(x, fmt, out=other)), "equal", "C against PyTorch"))
        rows.append(row(kernel, eager(lambda: blocks.quantize(x, fmt, out=out)), "clone", x.clone, "the limit of a new tensor", "without a compiler; input checked" + work))
        if kind is not None:
            differ = float((torch.from_numpy(gguf.dequantize(gguf.quantize(array[:2048], kind), kind)) != blocks.quantize(x[:2048], fmt)).float().mean())
            rows.append(row(f"{fmt.name}: quantize 2^22 numbers", lambda: blocks.quantize(x[:2048], fmt), "gguf", lambda: gguf.dequantize(gguf.quantize(array[:2048], kind), kind),
                            f"{100 * differ:.2g} % of the numbers differ", "gguf in numpy"))
    for fmt in (blocks.mx(), blocks.nf4()):
        code = blocks.encode(x, fmt)
        data = code.pack()

        def decode():
            return dataclasses.replace(code, codes=packing.unpack(data, fmt.width, x.shape[1])).decode()
        assert torch.equal(decode(), blocks.quantize(x, fmt))
        rows.append(row(f"{fmt.name}: codes and scales, packed", lambda: blocks.encode(x, fmt).pack(), "clone", x.clone, "half a byte for each number", "in C; input checked"))
        rows.append(row(f"{fmt.name}: numbers from packed codes", decode, "clone", x.clone, "the limit", "in C; codes checked"))
    from torchao.prototype.mx_formats.mx_tensor import ScaleCalculationMode, to_mx
    scale, data = to_mx(x, torch.float4_e2m1fn_x2, 32, ScaleCalculationMode.FLOOR)
    ours = blocks.encode(x, blocks.mx())
    assert torch.equal(data.view(torch.uint8).view(len(x), -1), packing.pack(ours.codes, 4))
    for how, note in ((lambda f: f, "in C"), (eager, "without a compiler")):
        rows.append(row("MXFP4: codes and scales, packed", how(lambda: blocks.encode(x, blocks.mx()).pack()), "torchao, eager",
                        lambda: to_mx(x, torch.float4_e2m1fn_x2, 32, ScaleCalculationMode.FLOOR), "equal bytes", note))
    from bitsandbytes.functional import quantize_4bit
    for how, note in ((lambda f: f, "in C"), (eager, "without a compiler")):
        rows.append(row("NF4 in blocks of 64: codes, packed", how(lambda: blocks.encode(x, blocks.nf4()).pack()), "bitsandbytes",
                        lambda: quantize_4bit(x, blocksize=64, quant_type="nf4"), "equal codes", note))
    return rows


def packed() -> list[dict]:
    rows = []
    for width in (3, 4, 5):
        codes = torch.randint(0, 2**width, (NUMBERS,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        data, other = packing.pack(codes, width), torch.empty_like(codes)
        shifts = torch.arange(width, dtype=torch.uint8)
        weights = 1 << torch.arange(8, dtype=torch.uint8)

        def plain():
            bits = (codes[:, None] >> shifts & 1).view(-1, 8)
            return (bits * weights).sum(1, dtype=torch.uint8)
        assert torch.equal(plain(), data) and torch.equal(packing.unpack(data, width, NUMBERS), codes)
        rows.append(row(f"pack 2^24 codes of {width} bits", lambda: packing.pack(codes, width), "torch, bit by bit", plain, "equal bytes", "input checked"))
        rows.append(row(f"unpack 2^24 codes of {width} bits", lambda: packing.unpack(data, width, NUMBERS), "copy of the codes", lambda: other.copy_(codes), "the limit", ""))
    return rows


def products() -> list[dict]:
    g, rows = torch.Generator().manual_seed(2), []
    for tokens in (1, 16):
        x = torch.randn(tokens, 1536, generator=g)
        for bits in (2, 4):
            w = blocks.encode(torch.randn(1536, 1536, generator=g), blocks.integer(bits, 32))
            planes = lut.prepare(w)
            off = float((lut.matmul(x, planes) - x @ w.decode().T).abs().max())
            rows.append(row(f"{tokens} x 1536 times 1536 x 1536 of {bits} bits, by table", lambda: lut.matmul(x, planes), "decode, then multiply",
                            lambda: x @ w.decode().T, f"largest difference {off:.0e}", "a demonstration: tables want registers, not torch"))
    return rows
