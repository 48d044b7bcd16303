"""Paired timing: both sides in turn, in one process, after a warm-up; ratios pair by pair."""
import statistics
import time
from collections.abc import Callable

import torch
from lecturelib import native

REST = 0.03           # seconds in which the threads of the last call, which wait for more, go to sleep


def seconds(f: Callable[[], object]) -> float:
    time.sleep(REST)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    f()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def paired(ours: Callable[[], object], peer: Callable[[], object], rounds: int = 9,
           warmup: int = 2) -> tuple[float, float, float, list[float]]:
    """Median seconds of `ours` and of `peer`, the median ratio peer/ours, and its range."""
    for _ in range(warmup):
        ours(), peer()
    pairs = [(seconds(ours), seconds(peer)) for _ in range(rounds)]
    ratios = [b / a for a, b in pairs]
    return (statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs),
            statistics.median(ratios), [min(ratios), max(ratios)])


def eager(f: Callable[[], object]) -> Callable[[], object]:
    """`f` without the kernels in C, as on a machine that has no compiler."""
    def run():
        kept, native.library = native.library, lambda name: None
        try:
            return f()
        finally:
            native.library = kept
    return run
