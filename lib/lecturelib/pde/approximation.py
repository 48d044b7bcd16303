"""One interface for a spectral sum, a finite-element function and a network, and their errors.

An *approximation* is any object `u` with

    u.value(x)      u at the points `x` of shape `(n, d)`, shape `(n,)`
    u.gradient(x)   ∇u, shape `(n, d)`
    u.laplacian(x)  Δu, shape `(n,)`; ValueError where it does not exist (linear finite elements)

Everything lives where `x` lives and keeps its dtype.
"""
import math
from dataclasses import dataclass

import torch

from . import _check, forms


def sample(f, x: torch.Tensor, name: str = "f") -> torch.Tensor:
    """Values of the callable `f` at the points `x` `(n, d)`: one finite number each, shape `(n,)`.

    Raises ValueError naming `name` if the values have another shape or are not finite.

    >>> sample(lambda x: x.sum(1), torch.ones(2, 3))
    tensor([3., 3.])
    >>> sample(lambda x: x, torch.ones(2, 3), "right-hand side f")
    Traceback (most recent call last):
    ...
    ValueError: right-hand side f must return one value per point, shape (2,); got shape (2, 3)
    """
    _check.tensor("x", x, 2)
    values = f(x)
    if not isinstance(values, torch.Tensor) or values.shape != x.shape[:1]:
        got = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
        raise ValueError(f"{name} must return one value per point, shape {tuple(x.shape[:1])}; "
                         f"got shape {got}")
    if bad := int((~torch.isfinite(values)).sum()):
        raise ValueError(f"{name} must be finite; {bad} of {len(x)} values are NaN or infinite")
    return values


class Function:
    """An approximation made of callables `(n, d) → (n,)`, `(n, d)` and `(n,)`.

    A missing `gradient` is computed by reverse mode, a missing `laplacian` by forward over reverse
    mode (d forward sweeps, not d backward ones) from `value`.

    >>> u = Function(lambda x: x[:, 0] ** 2 * x[:, 1])
    >>> x = torch.tensor([[1.0, 3.0]])
    >>> u.value(x), u.gradient(x), u.laplacian(x)
    (tensor([3.]), tensor([[6., 1.]]), tensor([6.]))
    """

    def __init__(self, value, gradient=None, laplacian=None):
        self._value, self._gradient, self._laplacian = value, gradient, laplacian

    def value(self, x: torch.Tensor) -> torch.Tensor:
        return self._value(x)

    __call__ = value

    def gradient(self, x: torch.Tensor) -> torch.Tensor:
        return forms.gradient(self._value, x) if self._gradient is None else self._gradient(x)

    def laplacian(self, x: torch.Tensor) -> torch.Tensor:
        return forms.laplacian(self._value, x) if self._laplacian is None else self._laplacian(x)


def _elementary(name):
    def function(a):
        return getattr(torch if isinstance(a, torch.Tensor) else math, name)(a)
    return function


_ELEMENTARY = {name: _elementary(name) for name in (
    "sin cos tan asin acos atan sinh cosh tanh exp log sqrt").split()} | {
    "pi": math.pi, "E": math.e, "Abs": abs, "sign": torch.sign, "atan2": torch.atan2}


def manufactured(expression, variables) -> tuple[Function, Function]:
    """The solution u given by a sympy expression, and f = −Δu, both differentiated by sympy.

    Parameters
    ----------
    expression : sympy expression in `variables`.
    variables : the d sympy symbols, in the order of the columns of `x`.

    Returns two `Function`s with exact gradient and Laplacian.

    >>> import sympy
    >>> X = sympy.symbols("x y")
    >>> u, f = manufactured(sympy.cos(sympy.pi * X[0]) * X[1], X)
    >>> float(f.value(torch.tensor([[0.0, 1.0]], dtype=torch.float64))) / torch.pi ** 2
    1.0
    """
    import sympy
    variables = tuple(variables)
    if extra := sympy.sympify(expression).free_symbols - set(variables):
        raise ValueError(f"expression must only contain {variables}; it also contains {extra}")

    def compiled(e):
        g = sympy.lambdify(variables, e, modules=[_ELEMENTARY], cse=True)
        return lambda x: torch.as_tensor(g(*x.unbind(1)), dtype=x.dtype,
                                         device=x.device).expand(len(x))

    def function(e):
        grad = [compiled(e.diff(v)) for v in variables]
        return Function(compiled(e), lambda x: torch.stack([g(x) for g in grad], 1),
                        compiled(sum(e.diff(v, 2) for v in variables)))

    u = sympy.sympify(expression)
    return function(u), function(-sum(u.diff(v, 2) for v in variables))


@dataclass(frozen=True)
class Errors:
    """Errors of an approximation, by quadrature: L² norm and H¹ seminorm, absolute and relative."""
    l2: float
    h1: float
    relative_l2: float
    relative_h1: float


def errors(u, exact, points: torch.Tensor, weights: torch.Tensor,
           modulo_constants: bool = False) -> Errors:
    """$\\|u-u_*\\|$ and $\\|\\nabla(u-u_*)\\|$ by the rule `points` `(n, d)`, `weights` `(n,)`.

    Parameters
    ----------
    u, exact : approximations.
    modulo_constants : subtract the mean of the difference and of `exact` first (Neumann problems
        fix u only up to a constant).

    Raises ValueError on values of the wrong shape or not finite, and if `exact` vanishes or is
    constant, so that a relative error has no meaning.

    >>> from lecturelib.pde.domains import Box
    >>> exact, u = Function(lambda x: x[:, 0]), Function(lambda x: 1.5 * x[:, 0])
    >>> e = errors(u, exact, *Box.unit(1).quadrature(2))
    >>> round(e.l2 ** 2 * 12, 12), e.h1, round(e.relative_l2, 12), e.relative_h1
    (1.0, 0.5, 0.5, 0.5)
    """
    _check.tensor("points", points, 2)
    _check.tensor("weights", weights, 1)
    if len(points) != len(weights):
        raise ValueError(f"weights must have one entry per point; got {len(weights)} for "
                         f"{len(points)} points")
    with torch.no_grad():
        target = sample(exact.value, points, "exact.value")
        gap = sample(u.value, points, "u.value") - target
        slope = _gradient(exact, points, "exact")
        tilt = _gradient(u, points, "u") - slope
        if modulo_constants:
            gap = gap - weights @ gap / weights.sum()
            target = target - weights @ target / weights.sum()
        l2, h1, size, rise = (float((weights @ v).clamp(min=0).sqrt()) for v in (
            gap**2, (tilt**2).sum(1), target**2, (slope**2).sum(1)))
    if size == 0 or rise == 0:
        raise ValueError(f"exact must not be constant; its norm is {size}, its gradient's {rise}")
    return Errors(l2, h1, l2 / size, h1 / rise)


def _gradient(u, x, name) -> torch.Tensor:
    g = u.gradient(x)
    if g.shape != x.shape:
        raise ValueError(f"{name}.gradient must return shape {tuple(x.shape)}; got {tuple(g.shape)}")
    return _check.tensor(f"{name}.gradient", g)
