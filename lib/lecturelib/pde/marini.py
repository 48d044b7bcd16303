"""A flux in equilibrium on a mesh of triangles, for polygons that are not boxes."""
import math

import torch

from . import _check, approximation, fem
from .mesh import Mesh
from .poincare import crouzeix_raviart, neumann_bracket


class MariniFlux:
    """The field $q = \\nabla u_{CR} - \\tfrac12\\bar f_T(x-x_T)$ on every triangle T (prop-marini), Neumann.

    $u_{CR}$ is the nonconforming linear solution for the means $\\bar f_T$ of f on the triangles.
    The object has what `certificates.certify` asks of a pair; hand it points and weights, such as
    `mesh.quadrature` makes.

    Parameters
    ----------
    f : callable, points `(n, 2)` to values `(n,)`, ∫f = 0; mesh : `Mesh` of triangles.
    constant : C_P of the domain, for bounds in L²; default: a computed upper bound.
    degree : of the rule for f and for the attributes.

    Attributes
    ----------
    oscillation : $(\\sum_T (h_T/\\pi)^2\\|f-\\bar f_T\\|_T^2)^{1/2}$; width : ‖∇w − q‖ for the Galerkin
    solution w with quadratic elements on the same mesh.

    Raises ValueError for ∫f ≠ 0 (says the value), wrong shapes, NaN, or a mesh that is not planar.

    >>> from lecturelib.pde.mesh import square
    >>> q = MariniFlux(lambda x: torch.cos(math.pi * x[:, 0]), square(4))
    >>> edge = torch.tensor([[0.0, 0.3], [1.0, 0.6]], dtype=torch.float64)
    >>> bool(q.flux(edge)[:, 0].abs().max() < 1e-12)             # no flux through the boundary
    True
    """
    bc = "neumann"

    def __init__(self, f, mesh: Mesh, constant: float | None = None, degree: int = 8):
        if mesh.d != 2:
            raise ValueError(f"mesh must consist of triangles; got dimension {mesh.d}")
        x, w = mesh.quadrature(degree)
        fx = approximation.sample(f, x)
        total, size = float(w @ fx), float(w @ fx.abs())
        if abs(total) > 1e-5 * size:
            raise ValueError(f"f must have ∫f = 0 for the Neumann problem; ∫f = {total:.6e}, ∫|f| = {size:.3e}")
        self.mesh, T, area = mesh, len(mesh.cells), float(mesh.volumes.sum())
        self.constant = (neumann_bracket(mesh)[0] ** -0.5 if constant is None
                         else _check.positive("constant", constant))
        self._mean = (w * fx).reshape(T, -1).sum(1) / mesh.volumes
        self._mean -= total / area                 # an error of the rule; it is added below
        K, _, edges = crouzeix_raviart(mesh)
        F = fx.new_zeros(K.shape[0]).index_add_(0, edges.ravel(),
                                                (self._mean * mesh.volumes / 3).repeat_interleave(3))
        free = torch.ones_like(F, dtype=torch.bool)
        free[0] = False
        c = fem.solve(K, F, free)
        self._slope = -2 * (c[edges][:, :, None] * mesh.gradients()).sum(1)
        corners = mesh.points[mesh.cells]
        self._center = corners.mean(1)
        h = torch.cdist(corners, corners).amax((1, 2))
        off = (w * (fx.reshape(T, -1) - self._mean[:, None]).square().ravel()).reshape(T, -1).sum(1)
        self.oscillation = (math.sqrt(float(((h / math.pi).square() * off).sum()))
                            + self.constant * abs(total) / math.sqrt(area))
        better = fem.poisson(fem.Space(mesh, 2), f, degree=degree)
        self.width = math.sqrt(float(w @ (better.gradient(x) - self.flux(x)).square().sum(1)))

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        """∇u_CR at the points x, shape `(n, 2)`: q without the term that balances f."""
        return self._slope[self.mesh.locate(x)[0]]

    def flux(self, x: torch.Tensor) -> torch.Tensor:
        """q at the points x, shape `(n, 2)`; on an edge, the value from one of its triangles."""
        cell, _ = self.mesh.locate(x)
        return self._slope[cell] - self._mean[cell, None] / 2 * (x - self._center[cell])
