"""What networks are usually trained with, for comparison: Adam and L-BFGS of torch.optim.

Both see the loss through its gradient only, which automatic differentiation delivers.
"""
import torch

from . import _check
from .natural_gradient import Run


def adam(u, loss, iterations: int, rate: float = 1e-2, watch=None, every: int = 50) -> Run:
    """Adam with a cosine schedule of the learning rate from `rate` to 0.

    Parameters
    ----------
    u : network; loss : callable, network to scalar tensor.
    watch : called with (iteration, network) after every `every` iterations.

    Raises ValueError if the loss is not finite.

    >>> from lecturelib.pde.domains import Box
    >>> from lecturelib.pde.networks import Shallow
    >>> x, _ = Box.unit(1).quadrature(8)
    >>> u = Shallow.random(4, Box.unit(1), torch.Generator().manual_seed(0))
    >>> run = adam(u, lambda u: (u.value(x) - x[:, 0]).square().sum(), 100)
    >>> run.loss[-1] < run.loss[0]
    True
    """
    theta = u.theta.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=_check.positive("rate", rate))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    run = Run(u)
    for k in range(_check.whole("iterations", iterations, 1)):
        optimizer.zero_grad()
        value = loss(u.at(theta))
        value.backward()
        optimizer.step(), schedule.step()
        _record(run, k, value, u, theta, watch, every)
    run.u = u.at(theta.detach())
    return run


def lbfgs(u, loss, iterations: int, memory: int = 100, watch=None, every: int = 50) -> Run:
    """L-BFGS with `memory` pairs and a strong Wolfe line search; stops by itself when it stalls.

    Arguments as in `adam`; `run.loss` holds one loss per `every` iterations, before them.

    >>> from lecturelib.pde.domains import Box
    >>> from lecturelib.pde.networks import Shallow
    >>> x, _ = Box.unit(1).quadrature(8)
    >>> u = Shallow.random(4, Box.unit(1), torch.Generator().manual_seed(0))
    >>> lbfgs(u, lambda u: (u.value(x) - x[:, 0]).square().sum(), 100).loss[-1] < 1e-5
    True
    """
    theta = u.theta.detach().clone().requires_grad_()
    _check.whole("iterations", iterations, 1)
    run, chunk = Run(u), min(every, iterations)
    optimizer = torch.optim.LBFGS([theta], max_iter=chunk, max_eval=25 * chunk, history_size=memory,
                                  tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(u.at(theta))
        value.backward()
        return value

    for k in range(0, iterations, chunk):
        optimizer.param_groups[0]["max_iter"] = some = min(chunk, iterations - k)
        value = optimizer.step(closure)
        _record(run, k + some - 1, value, u, theta, watch, 1)
    run.u = u.at(theta.detach())
    return run


def _record(run, k, value, u, theta, watch, every):
    if not bool(torch.isfinite(value)):
        raise ValueError(f"the loss must stay finite; it became {float(value.detach())} at iteration {k}")
    run.loss.append(float(value.detach()))
    if watch is not None and (k + 1) % every == 0:
        with torch.no_grad():
            watch(k, u.at(theta.detach()))
