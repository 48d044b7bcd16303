"""Shared argument checks: every refusal names the argument and what was expected."""
from numbers import Integral

import torch


def tensor(name: str, value, ndim: int | None = None) -> torch.Tensor:
    """Return `value` if it is a finite floating-point tensor (with `ndim` axes, if given)."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        raise ValueError(f"{name} must be a floating-point tensor; got {type(value).__name__}"
                         + (f" of {value.dtype}" if isinstance(value, torch.Tensor) else ""))
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes; got shape {tuple(value.shape)}")
    if not torch.isfinite(value).all():
        raise ValueError(f"{name} must be finite; it contains NaN or infinity")
    return value


def whole(name: str, value, least: int) -> int:
    """Return `value` if it is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}")
    return int(value)


def positive(name: str, value) -> float:
    """Return `value` as a float if it is finite and positive."""
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        number = float("nan")
    if not 0 < number < float("inf"):
        raise ValueError(f"{name} must be positive and finite; got {value!r}")
    return number
