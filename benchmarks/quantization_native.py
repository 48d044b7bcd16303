"""What the kernels in C cost and bring, against torch.compile: the first call, and the calls after it."""
import os
import tempfile
import time
from unittest import mock

import torch
from lecturelib import native
from lecturelib.quantization import float_formats, uniform
from timing import paired

N, STEP, BOUNDS = 1 << 24, 0.25, (-8, 7)
FMT = float_formats.FORMATS["e4m3fn"]
FIRST, LAST, OFFSET, TOP = (FMT.low_exponent + 127) << 23, (FMT.high_exponent + 127) << 23, (23 - FMT.mantissa << 23) + (1 << 22), FMT.maximum


def clamped(x, out):
    return out.copy_(torch.clamp(torch.round(x / STEP), *BOUNDS) * STEP)


def small_float(x, out):
    """The sum with 3/2 2^(23 + E - m) and back, for E4M3."""
    s = (torch.bitwise_and(x.view(torch.int32), 0x7F800000).clamp(FIRST, LAST) + OFFSET).view(torch.float32)
    return out.copy_(((x + s) - s).clamp(-TOP, TOP))


def first(f) -> float:
    begin = time.perf_counter()
    f()
    return time.perf_counter() - begin


def measure() -> list[dict]:
    x = torch.randn(N, generator=torch.Generator().manual_seed(0))
    out, names = torch.empty_like(x), sorted(p.stem for p in native.FOLDER.glob("*.c"))
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, XDG_CACHE_HOME=folder, TORCHINDUCTOR_CACHE_DIR=folder):       # nothing built before
        return against(x, out, {name: first(lambda: native._built(name, ["cc"])) for name in names})


def against(x, out, built) -> list[dict]:
    rows, other = [], torch.empty_like(x)
    for title, ours, plain in (("uniform quantize, 16 levels", lambda: uniform.quantize(x, STEP, bounds=BOUNDS, out=out), clamped),
                               ("float e4m3fn there and back", lambda: float_formats.quantize(x, FMT, out=out), small_float)):
        compiled = torch.compile(plain, dynamic=False)
        spent = first(lambda: compiled(x, other))
        assert torch.equal(compiled(x, other), ours())
        mine, theirs, ratio, spread = paired(ours, lambda: compiled(x, other))
        rows.append({"kernel": f"{title}, 2^24 float32, out=", "ours": f"{1e3 * mine:.1f} ms", "peer": f"torch.compile {1e3 * theirs:.1f} ms", "ratio": ratio,
                     "spread": spread, "agreement": "equal", "note": "ours checks its input for NaN and infinity"})
        if len(rows) == 1:
            total = sum(built.values())
            rows.append({"kernel": "first call: all files of C, against one compiled kernel", "ours": f"{total:.1f} s", "peer": f"torch.compile {spent:.1f} s", "ratio": spent / total,
                         "spread": [spent / total] * 2, "agreement": ", ".join(f"{n} {t:.1f} s" for n, t in built.items()), "note": "once for a machine, a file when it is first needed"})
    return rows
