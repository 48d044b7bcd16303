"""Kernels in C, in float32 on a CPU: each file is built on first use, under a second, once for a machine.

`library(name)` compiles `name.c` with the C compiler of the machine (`$CC`, or `cc`) into the user's cache
(`$XDG_CACHE_HOME/lecturelib`, or `~/.cache/lecturelib`), under a name made of the source, the compiler and the
processor.  Without a compiler, or with `LECTURELIB_NATIVE=0` in the environment, it is None, and the callers
take their eager paths, which are the reference that the tests compare with.  So they do for tensors of fewer
than `LEAST` numbers, where a kernel that works number by number would save nothing.
"""
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
MADV_HUGEPAGE = 14    # of Linux's madvise
LARGE = 1 << 21       # bytes of a large page of memory
MAPPED = 1 << 25      # bytes from which on memory usually goes back to the system when it is freed, so that nothing smaller lands on its large pages
LEAST = 1 << 16       # numbers from which on a kernel that works number by number is called
PIECE = 1 << 18       # numbers in half precision that are worked on together
NARROW = (torch.float32, torch.float16, torch.bfloat16)   # types that are computed in float32
OK, NO_MEMORY, NOT_FINITE, OUT_OF_RANGE, RESULT_NOT_FINITE = range(5)         # what the kernels return, as in team.h
GROUP = 64            # most rows of one call of `feedback`
RUN = 16              # values of rest that `shifts` works on together
CHAIN = 16            # levels up to which all thresholds are compared
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fPIC", "-shared", "-pthread", "-fno-math-errno", "-fno-trapping-math",
         f"-DGROUP={GROUP}", f"-DRUN={RUN}", f"-DCHAIN={CHAIN}")
FUSED = ("vectors",)   # files whose sums of products may be rounded once; the others round as the eager code does


@functools.cache
def library(name: str) -> ctypes.CDLL | None:
    """The compiled kernels of `name.c`, or None where there are none."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if os.environ.get("LECTURELIB_NATIVE") == "0" or shutil.which(compiler[0]) is None:
        return None
    try:
        target = _built(name, compiler)
        try:
            return ctypes.CDLL(str(target))
        except OSError:                                    # what is there is damaged, as after a loss of power
            target.unlink(missing_ok=True)
            return ctypes.CDLL(str(_built(name, compiler)))
    except (OSError, RuntimeError, subprocess.SubprocessError):        # RuntimeError: there is no home directory
        return None


def serves(name: str, *tensors: torch.Tensor, least: int = 0, types: tuple = (torch.float32,)) -> bool:
    """Whether the kernels of `name.c` can be run on these tensors: on a CPU, of one of the `types`, the last axis contiguous, the first of `least` numbers."""
    return all(x.device.type == "cpu" and x.dtype in types and (x.ndim == 0 or x.stride(-1) == 1) for x in tensors) and \
        tensors[0].numel() >= least and library(name) is not None


def pieces(x: torch.Tensor, out: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """Contiguous float32 input, output, and the place where they begin: all at once, or of half precision as much as stays in cache, there and back."""
    if x.dtype == torch.float32:
        yield x.detach().contiguous(), out, 0
        return
    buffer = torch.empty(min(PIECE, x.numel()), dtype=torch.float32)
    for k, (a, b) in enumerate(zip(x.detach().reshape(-1).split(PIECE), out.view(-1).split(PIECE))):
        wide = buffer[:len(a)].copy_(a)
        if b.is_floating_point():
            yield wide, wide, k * PIECE
            b.copy_(wide)
        else:
            yield wide, b, k * PIECE


def call(name: str, function: str, *arguments) -> int:
    """Run a kernel: tensors as addresses, integers as int64, and the number of PyTorch's threads at the end.

    Returns one of the codes above.  Raises MemoryError if it found no room to work in.
    """
    given = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, torch.Tensor) else ctypes.c_int64(a) if isinstance(a, int) else a for a in arguments]
    code = getattr(library(name), function)(*given, ctypes.c_int64(torch.get_num_threads()))
    if code == NO_MEMORY:
        raise MemoryError(f"{function} could not get its working memory")
    return code


def empty(shape, dtype: torch.dtype = torch.float32, device=None) -> torch.Tensor:
    """`torch.empty`, on large pages where Linux gives them for the asking: most of the time that a new tensor takes goes into its pages, 512 small ones for a large one."""
    x = torch.empty(shape, dtype=dtype, device=device)
    if x.device.type == "cpu" and x.nbytes >= MAPPED and (madvise := _madvise()):
        begin, end = -(-x.data_ptr() // LARGE) * LARGE, (x.data_ptr() + x.nbytes) // LARGE * LARGE
        madvise(begin, end - begin, MADV_HUGEPAGE)
    return x


@functools.cache
def _madvise():
    if sys.platform != "linux":
        return None
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return madvise


def strides(*numbers: int):
    """Numbers as a C array of int64."""
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _built(name, compiler):
    """Path of the shared library, compiled if it is not there; written under another name first, so that no process sees half of it."""
    source = FOLDER / f"{name}.c"
    flags = *FLAGS, f"-ffp-contract={'fast' if name in FUSED else 'off'}"
    text = source.read_bytes() + b"".join(header.read_bytes() for header in sorted(FOLDER.glob("*.h"))) + " ".join((*compiler, *flags, platform.machine(), _processor())).encode()
    text += subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lecturelib"
    target = folder / f"{name}-{hashlib.sha256(text).hexdigest()[:24]}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / target.name
            subprocess.run([*compiler, *flags, "-o", str(made), str(source), "-lm"], capture_output=True, check=True, timeout=120)
            with made.open("rb") as written:
                os.fsync(written.fileno())                 # else a loss of power can leave a file with holes, which ends the process that loads it
            os.replace(made, target)
    return target


def _processor():
    """What the processor can do: code for one must not run on another that shares the home directory."""
    try:
        return next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.processor()


def feedback(e: torch.Tensor, y: torch.Tensor, N: torch.Tensor, q: torch.Tensor | None, low, high, reverse: bool = False) -> None:
    r"""$q_j=\min(\max(\mathrm{round}(y_j+\sum_iN_{ji}(e_i-q_i)),\text{low}),\text{high})$ for the rows $j=0,1,\dots$ one after another, i before j.

    e, y, q : (B, g, m) with g at most GROUP; e becomes $e-q$, and q (if any) is written.  N : (B, g, g).
    low, high : both numbers, or both (B, 1, m).  With `reverse` the rows go from the last to the first, i after j.
    """
    (B, g, m), at, sign = e.shape, slice(-1, None) if reverse else slice(None), -1 if reverse else 1
    if any(x.dtype != torch.float32 or x.device.type != "cpu" for x in (e, y, N, *(() if q is None else (q,)))):
        raise ValueError("e, y, N and q must be float32 on a CPU")
    if g > GROUP or y.shape != e.shape or N.shape != (B, g, g) or q is not None and q.shape != e.shape:
        raise ValueError(f"e, y and q must have one shape (B, g, m) with g at most {GROUP}, and N (B, g, g)")
    low, high = (torch.as_tensor(v, dtype=torch.float32, device="cpu").expand(B, 1, m).contiguous() for v in (low, high))
    s = strides(e.stride(0), sign * e.stride(1), y.stride(0), sign * y.stride(1), *((q.stride(0), sign * q.stride(1)) if q is not None else (0, 0)),
                N.stride(0), m, 1, sign * N.stride(1), sign * N.stride(2))
    call("columns", "feedback", e[:, at], y[:, at], N[:, at, at], None if q is None else q[:, at], low, high, s, B, g, m)
