"""The strong, variational and weak form of the Neumann problem −Δu = f, ∂ₙu = 0.

Functions are callables that map points `(m, d)` to values `(m,)`; integrals are quadrature sums
over points `x` of shape `(m, d)` with weights `w` of shape `(m,)`, as `domains.Box` makes them.
Results live where `x` lives and keep its dtype; they are differentiable in the parameters of `u`.
ValueError is raised unless `x`, `w` (and `normal`) are finite floating tensors of matching shapes
and one dtype, and where a function returns another shape than `(m,)`, say a column `(m, 1)`.
"""
import torch

from . import _check


def at(u, x: torch.Tensor) -> torch.Tensor:
    """u at the points `x`, shape `(m,)`; ValueError if u returns another shape.

    >>> at(lambda x: x[:, 0] * x[:, 1], torch.tensor([[2.0, 3.0]]))
    tensor([6.])
    """
    values = u(x)
    if values.shape != x.shape[:1]:
        raise ValueError(f"a function must map points {tuple(x.shape)} to values {tuple(x.shape[:1])}; "
                         f"got {tuple(values.shape)}")
    return values


def gradient(u, x: torch.Tensor) -> torch.Tensor:
    """$\\nabla u$ at the points `x`, shape `(m, d)`.

    >>> x = torch.tensor([[1.0, 2.0]])
    >>> gradient(lambda x: x[:, 0] * x[:, 1] ** 2, x)
    tensor([[4., 4.]])
    """
    _check.tensor("x", x, 2)
    return torch.func.grad(lambda z: at(u, z).sum())(x)


def laplacian(u, x: torch.Tensor) -> torch.Tensor:
    """$\\Delta u = \\sum_i \\partial_i^2 u$ at the points `x`, shape `(m,)`.

    >>> x = torch.tensor([[0.5, 3.0]])
    >>> laplacian(lambda x: x[:, 0] ** 2 + 2 * x[:, 1] ** 2, x)
    tensor([6.])
    """
    _check.tensor("x", x, 2)
    grad_u = torch.func.grad(lambda z: at(u, z).sum())

    def second_derivative(e):
        return torch.func.jvp(grad_u, (x,), (e.expand_as(x),))[1] @ e

    return torch.vmap(second_derivative)(torch.eye(x.shape[1], dtype=x.dtype, device=x.device)).sum(0)


def energy(u, f, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Variational form: $E(u) = \\int \\tfrac12|\\nabla u|^2 - fu$ (eq-variational, notes (1.4)).

    On the minimizer of the unit interval with f = 2x − 1 the value is −1/60:

    >>> from lecturelib.pde.domains import Box
    >>> x, w = Box.unit(1).quadrature(6)
    >>> u = lambda x: x[:, 0] ** 2 / 2 - x[:, 0] ** 3 / 3
    >>> round(60 * float(energy(u, lambda x: 2 * x[:, 0] - 1, x, w)), 12)
    -1.0
    """
    _weights(x, w)
    return w @ (gradient(u, x).square().sum(1) / 2 - at(f, x) * at(u, x))


def strong_loss(u, f, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Strong form, interior part: $\\int |\\Delta u + f|^2$ (eq-strong, notes (1.3)).

    >>> from lecturelib.pde.domains import Box
    >>> x, w = Box.unit(1).quadrature(6)
    >>> round(float(strong_loss(lambda x: x[:, 0] ** 2, lambda x: 0 * x[:, 0], x, w)), 12)
    4.0
    """
    _weights(x, w)
    return w @ (laplacian(u, x) + at(f, x)).square()


def boundary_loss(u, x: torch.Tensor, w: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
    """Strong form, boundary part: $\\int_{\\partial\\Omega} |\\partial_n u|^2$ (eq-strong).

    `x`, `w`, `normal` as `Box.boundary` makes them.

    >>> from lecturelib.pde.domains import Box
    >>> float(boundary_loss(lambda x: x[:, 0] ** 2, *Box.unit(1).boundary(1)))
    4.0
    """
    _weights(x, w)
    if _check.tensor("normal", normal, 2).shape != x.shape or normal.dtype != x.dtype:
        raise ValueError(f"normal must have the shape and dtype of x, {tuple(x.shape)} and {x.dtype}; "
                         f"got {tuple(normal.shape)} and {normal.dtype}")
    return w @ (gradient(u, x) * normal).sum(1).square()


def weak_residual(u, v, f, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Weak form: $a(u,v) - \\ell(v) = \\int \\nabla u\\cdot\\nabla v - fv$ (eq-weak, notes (1.5)).

    It vanishes for every v exactly when u solves the Neumann problem.

    >>> from lecturelib.pde.domains import Box
    >>> x, w = Box.unit(1).quadrature(6)
    >>> u = lambda x: x[:, 0] ** 2 / 2 - x[:, 0] ** 3 / 3
    >>> abs(float(weak_residual(u, lambda x: x[:, 0] ** 4, lambda x: 2 * x[:, 0] - 1, x, w))) < 1e-15
    True
    """
    _weights(x, w)
    return w @ ((gradient(u, x) * gradient(v, x)).sum(1) - at(f, x) * at(v, x))


def _weights(x, w) -> None:
    _check.tensor("x", x, 2)
    _check.tensor("w", w, 1)
    if len(w) != len(x) or w.dtype != x.dtype:
        raise ValueError(f"w must have one weight per point, of the dtype of x; got {len(w)} of {w.dtype} "
                         f"for {len(x)} points of {x.dtype}")
