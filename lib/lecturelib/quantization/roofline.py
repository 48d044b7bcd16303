"""What a matrix product costs: operations, bytes, and the time a machine needs at least.

A product is $Y=XW$ with $X$ of shape (m, k), the inputs, and $W$ of shape (k, n), the weights.
"""
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .uniform import _positive, _whole


@dataclass(frozen=True)
class Storage:
    r"""A number format: $b$ bits per element, and a scale of $s$ bits for each block of $g$ elements.

    `block` None means one scale for a whole tensor; `tensor_bits` is what a tensor needs besides.
    Raises ValueError on bits that are not integers, none of an element, or an empty block.

    >>> Storage(4, block=32, scale_bits=8).bits
    4.25
    """
    element_bits: int
    block: int | None = None
    scale_bits: int = 0
    tensor_bits: int = 0

    def __post_init__(self):
        _sizes(element_bits=self.element_bits, block=1 if self.block is None else self.block)
        for name in ("scale_bits", "tensor_bits"):
            if not _whole(getattr(self, name)) or getattr(self, name) < 0:
                raise ValueError(f"{name} must be an integer of at least 0; got {getattr(self, name)!r}")

    @property
    def bits(self) -> float:
        r"""Bits per entry of a large tensor, $b+s/g$ (eq-motivation-bits)."""
        return self.element_bits + (self.scale_bits / self.block if self.block else 0)

    def bytes(self, entries: int) -> int:
        """Bytes that a tensor of `entries` numbers takes, its scales and a last short block included.

        >>> Storage(4, block=16, scale_bits=8, tensor_bits=32).bytes(1600)
        904
        """
        _sizes(entries=entries)
        scales = -(-entries // self.block) if self.block else 1
        return -(-(entries * self.element_bits + scales * self.scale_bits + self.tensor_bits) // 8)


def operations(m: int, k: int, n: int) -> int:
    """Additions and multiplications of (m, k) times (k, n): one of each for every triple, $2mkn$.

    Raises ValueError unless the sizes are positive integers.

    >>> operations(1, 4096, 4096) == 2 * 4096**2
    True
    """
    _sizes(m=m, k=k, n=n)
    return 2 * m * k * n


def traffic(m: int, k: int, n: int, weight_bits: float = 32, input_bits: float = 32,
            output_bits: float = 32) -> float:
    r"""Bytes $\frac18(knw+mkx+mny)$ when all numbers cross once (thm-motivation-traffic).

    The bits are per entry, scales included.  Raises ValueError unless sizes and bits are positive.

    >>> traffic(1, 2, 3, weight_bits=8, input_bits=16, output_bits=32)
    22.0
    """
    _sizes(m=m, k=k, n=n)
    _positive(weight_bits=weight_bits, input_bits=input_bits, output_bits=output_bits)
    return (k * n * weight_bits + m * k * input_bits + m * n * output_bits) / 8


def intensity(m: int, k: int, n: int, **bits) -> float:
    r"""Operations per byte of traffic (eq-motivation-intensity); `bits` as in `traffic`.

    >>> intensity(600, 600, 600)                        # a square product in float32: n / 6
    100.0
    """
    return operations(m, k, n) / traffic(m, k, n, **bits)


def critical_batch(ridge: float, k: int, n: int, weight_bits: float = 32, input_bits: float = 32,
                   output_bits: float = 32) -> float:
    r"""Rows $m$ at which the intensity reaches `ridge`, in operations per byte (thm-motivation-traffic).

    $m^*=\frac{\rho w}{16}\big/\big(1-\frac\rho{16}(\frac xn+\frac yk)\big)$, infinite where the
    denominator is not positive.  Raises ValueError unless all arguments are positive.

    >>> round(critical_batch(20.0, 512, 256, weight_bits=4.25), 4)
    6.9388
    >>> intensity(6, 512, 256, weight_bits=4.25) < 20 < intensity(7, 512, 256, weight_bits=4.25)
    True
    """
    _sizes(k=k, n=n)
    _positive(ridge=ridge, weight_bits=weight_bits, input_bits=input_bits, output_bits=output_bits)
    room = 1 - ridge / 16 * (input_bits / n + output_bits / k)
    return ridge * weight_bits / 16 / room if room > 0 else math.inf


@dataclass(frozen=True)
class Machine:
    """A processor: operations per second at most, and bytes per second to and from its memory.

    >>> toy = Machine("toy", peak=1e11, bandwidth=1e10)
    >>> toy.ridge, toy.attainable(0.5), toy.attainable(100.0)
    (10.0, 5000000000.0, 100000000000.0)
    """
    name: str
    peak: float
    bandwidth: float

    def __post_init__(self):
        _positive(peak=self.peak, bandwidth=self.bandwidth)

    @property
    def ridge(self) -> float:
        """Operations per byte at which both limits meet."""
        return self.peak / self.bandwidth

    def attainable(self, intensity: float) -> float:
        r"""The roofline $\min(P,\beta I)$, operations per second (eq-motivation-roofline)."""
        return min(self.peak, self.bandwidth * intensity)

    def seconds(self, m: int, k: int, n: int, **bits) -> float:
        """Least time of a product: the longer of computing and moving; `bits` as in `traffic`."""
        return max(operations(m, k, n) / self.peak, traffic(m, k, n, **bits) / self.bandwidth)


def best_seconds(f: Callable[[], object], device="cpu", budget: float = 0.15) -> float:
    """Shortest of the runs of `f`, at least five, that fit in `budget` seconds; one more warms up.

    On a shared machine the shortest run is the one least disturbed.  Waits for a GPU.
    Raises ValueError unless `budget` is positive.
    """
    _positive(budget=budget)
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else (lambda: None)
    f()
    wait()
    runs, end = [], time.perf_counter() + budget
    while len(runs) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        f()
        wait()
        runs.append(time.perf_counter() - start)
    return min(runs)


def product_seconds(m: int, W: torch.Tensor, budget: float = 0.15) -> float:
    """Measured seconds of (m, k) times the weights `W` of shape (k, n), on their device.

    Raises ValueError unless `m` is a positive integer and `W` a floating-point matrix.
    """
    _sizes(m=m)
    if not isinstance(W, torch.Tensor) or W.ndim != 2 or not W.is_floating_point():
        raise ValueError("W must be a floating-point matrix")
    X, Y = W.new_ones(m, W.shape[0]), W.new_empty(m, W.shape[1])
    return best_seconds(lambda: torch.mm(X, W, out=Y), W.device, budget)


def measure(device="cpu", dtype: torch.dtype = torch.float32, mebibytes: int = 64, size: int = 1024) -> Machine:
    """This machine as `torch` sees it: what it reached in moving numbers and in multiplying matrices.

    The bandwidth is the larger of a copy's, which moves `mebibytes` twice, and a sum's, which only
    reads them; the peak is that of a `size` by `size` product in `dtype`.  About a second on a CPU
    with the defaults; a GPU wants 1024 MiB and size 8192.  Both are lower bounds for the
    hardware.  Raises ValueError unless `mebibytes` and `size` are positive integers.
    """
    _sizes(mebibytes=mebibytes, size=size)
    device = torch.device(device)
    source = torch.ones(mebibytes << 18, device=device)
    target = torch.empty_like(source)
    copied = (mebibytes << 21) / best_seconds(lambda: target.copy_(source), device)
    summed = (mebibytes << 20) / best_seconds(lambda: source.sum(), device)
    del target, source
    square = product_seconds(size, torch.ones(size, size, device=device, dtype=dtype))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else \
        f"{device.type}, {torch.get_num_threads()} threads"
    return Machine(name, operations(size, size, size) / square, max(copied, summed))


class Count(TorchDispatchMode):
    """Counts what runs inside `with Count() as c`: operations in matrix products, and all others.

    A product of (m, k) and (k, n) counts 2mkn in `c.products`; any other operation that computes
    counts one for each element of its largest operand in `c.others`, a lower bound (a softmax
    needs several); convolutions and fused attention are not taken apart and count there too.  Works
    on the `meta` device, where shapes exist and nothing is computed.

    >>> with Count() as c:
    ...     y = (torch.ones(2, 3) @ torch.ones(3, 5)).relu()
    >>> c.products, c.others                            # ones: 6 + 15 elements; relu: 10
    (60, 31)
    """
    MATRIX = ("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot")

    def __init__(self):
        super().__init__()
        self.products = self.others = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        if op.overloadpacket.__name__ in self.MATRIX:
            left = [a for a in args if isinstance(a, torch.Tensor)][-2]
            self.products += 2 * out.numel() * left.shape[-1]
        elif not op.is_view and op.overloadpacket.__name__ != "_unsafe_view":
            tensors = [t for t in (*args, out) if isinstance(t, torch.Tensor)]
            self.others += max((t.numel() for t in tensors), default=0)
        return out


def _sizes(**named) -> None:
    for name, value in named.items():
        if not _whole(value) or value < 1:
            raise ValueError(f"{name} must be a positive integer; got {value!r}")


STORAGE = {
    "float32": Storage(32), "bfloat16": Storage(16),
    "FP8": Storage(8, scale_bits=32), "INT8": Storage(8, scale_bits=32),
    "NVFP4": Storage(4, block=16, scale_bits=8, tensor_bits=32), "MXFP4": Storage(4, block=32, scale_bits=8),
}
