"""Boxes and their Gauss-Legendre quadrature, inside and on the boundary."""
import numpy as np
import torch

from . import _check


def gauss_legendre(order: int, lower: float = 0.0, upper: float = 1.0,
                   dtype=torch.float64, device=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Gauss-Legendre nodes and weights on an interval, exact for polynomials of degree 2·order−1.

    Returns nodes and weights, each of shape `(order,)`.
    Raises ValueError unless `order` ≥ 1 and `lower` < `upper`, both finite.

    >>> x, w = gauss_legendre(3)
    >>> round(float(w @ x**5), 12) == round(1 / 6, 12)
    True
    """
    _check.whole("order", order, 1)
    try:
        valid = np.isfinite(lower) and np.isfinite(upper) and lower < upper
    except TypeError:
        valid = False
    if not valid:
        raise ValueError(f"lower and upper must be finite with lower < upper; got {lower}, {upper}")
    t, w = np.polynomial.legendre.leggauss(order)
    half = (upper - lower) / 2
    return (torch.as_tensor(lower + half * (t + 1), dtype=dtype, device=device),
            torch.as_tensor(half * w, dtype=dtype, device=device))


class Box:
    """The box $\\Omega = \\prod_i (\\mathtt{lower}_i, \\mathtt{upper}_i)$ in $\\mathbb R^d$.

    Parameters
    ----------
    lower, upper : sequences of d finite numbers, `lower[i] < upper[i]`.

    Raises ValueError on anything else.

    >>> Box([0, 0], [1, 2])
    Box((0.0, 0.0), (1.0, 2.0))
    >>> x, w = Box([0, 0], [1, 2]).quadrature(4)
    >>> x.shape, round(float(w @ (x[:, 0] * x[:, 1])), 12)
    (torch.Size([16, 2]), 1.0)
    """

    def __init__(self, lower, upper):
        try:
            self.lower, self.upper = tuple(map(float, lower)), tuple(map(float, upper))
        except (TypeError, ValueError) as error:
            raise ValueError("lower and upper must be sequences of numbers; got "
                             f"{lower!r} and {upper!r}") from error
        if not self.lower or len(self.lower) != len(self.upper):
            raise ValueError("lower and upper must have the same positive length; got "
                             f"{len(self.lower)} and {len(self.upper)}")
        if not all(np.isfinite([a, b]).all() and a < b for a, b in zip(self.lower, self.upper)):
            raise ValueError("lower and upper must be finite with lower[i] < upper[i]; got "
                             f"{self.lower} and {self.upper}")

    def __repr__(self) -> str:
        return f"Box({self.lower}, {self.upper})"

    @classmethod
    def unit(cls, d: int) -> "Box":
        """The unit cube $(0,1)^d$.

        >>> Box.unit(3).poincare
        0.3183098861837907
        """
        _check.whole("d", d, 1)
        return cls([0.0] * d, [1.0] * d)

    @property
    def d(self) -> int:
        """The dimension."""
        return len(self.lower)

    @property
    def poincare(self) -> float:
        """The sharp constant $C_P$ of $\\|v\\| \\le C_P\\|\\nabla v\\|$, $\\int v = 0$: longest side / π."""
        return max(b - a for a, b in zip(self.lower, self.upper)) / np.pi

    def quadrature(self, order: int, dtype=torch.float64, device=None):
        """Tensor Gauss rule inside: points `(order**d, d)` and weights `(order**d,)`."""
        return _tensor_rule([gauss_legendre(order, a, b, dtype, device)
                             for a, b in zip(self.lower, self.upper)])

    def boundary(self, order: int, dtype=torch.float64, device=None):
        """Tensor Gauss rule on the 2d faces: points `(m, d)`, weights `(m,)`, normals `(m, d)`.

        In one dimension the boundary is two points of weight one.

        >>> x, w, normal = Box.unit(1).boundary(1)
        >>> x.ravel().tolist(), w.tolist(), normal.ravel().tolist()
        ([0.0, 1.0], [1.0, 1.0], [-1.0, 1.0])
        """
        rules = [gauss_legendre(order, a, b, dtype, device)
                 for a, b in zip(self.lower, self.upper)]
        points, weights, normals = [], [], []
        for i in range(self.d):
            for end, sign in ((self.lower[i], -1.0), (self.upper[i], 1.0)):
                face = (torch.tensor([end], dtype=dtype, device=device),
                        torch.ones(1, dtype=dtype, device=device))
                x, w = _tensor_rule(rules[:i] + [face] + rules[i + 1:])
                normal = torch.zeros_like(x)
                normal[:, i] = sign
                points.append(x), weights.append(w), normals.append(normal)
        return torch.cat(points), torch.cat(weights), torch.cat(normals)


def _tensor_rule(rules):
    """Points and weights of the product of one-dimensional rules."""
    x = torch.cartesian_prod(*[r[0] for r in rules]).reshape(-1, len(rules))
    w = torch.cartesian_prod(*[r[1] for r in rules]).reshape(-1, len(rules)).prod(dim=1)
    return x, w
