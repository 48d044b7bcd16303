"""Freed memory goes back to the system, so that a language model fits where its tensors fit."""
import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def tidy() -> None:
    """Hand freed memory back to the system where the C library, glibc, would keep it."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def frugal(body: nn.Module) -> Iterator[None]:
    """Inside, `tidy` runs after every fifth block of a model's body: what the blocks free does not add up."""
    hooks = [block.register_forward_hook(lambda *_: tidy()) for block in list(getattr(body, "layers", ()))[::5]]
    tidy()
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
