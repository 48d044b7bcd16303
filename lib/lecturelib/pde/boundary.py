"""Boundary conditions of a network: exact by a factor, or penalized and then certified.

A penalized network is not in the space in which the energy identity holds.  What its boundary
misfit costs in L² is bounded by the constant of `trace_constant` (thm-soft-certificate), and the
same constant says how heavy the penalty should be.
"""
import math
from dataclasses import dataclass

import torch

from . import _check
from .approximation import Function, sample
from .equilibrium import friedrichs


class Constrained:
    """$u = g + \\varphi N$: a network N with boundary values g, exactly.

    Parameters
    ----------
    net : a network; factor : approximation φ that vanishes on the boundary, e.g. `bubble(box)`.
    lift : approximation g, or None for u = 0 on the boundary.

    >>> from lecturelib.pde.domains import Box
    >>> from lecturelib.pde.networks import Shallow
    >>> net = Shallow.random(5, Box.unit(2), torch.Generator().manual_seed(0))
    >>> u = Constrained(net, bubble(Box.unit(2)))
    >>> float(u.value(torch.tensor([[0.0, 0.3]], dtype=torch.float64)).abs())
    0.0
    """

    def __init__(self, net, factor, lift=None):
        self.net, self.factor, self.lift = net, factor, lift

    @property
    def theta(self):
        return self.net.theta

    def at(self, theta):
        return Constrained(self.net.at(theta), self.factor, self.lift)

    def _product(self, x, N, dN=None, lN=None):
        """φN, ∇(φN) or Δ(φN) for trailing axes of any kind in N `(n, …)`."""
        def fit(v, like):
            return v.reshape(v.shape + (1,) * (like.ndim - v.ndim))
        phi = self.factor.value(x)
        if dN is None:
            return fit(phi, N) * N
        dphi = self.factor.gradient(x)
        if lN is None:
            return fit(phi, dN) * dN + fit(dphi, dN) * N[:, None]
        return (fit(phi, N) * lN + 2 * (fit(dphi, dN) * dN).sum(1)
                + fit(self.factor.laplacian(x), N) * N)

    def value(self, x):
        out = self._product(x, self.net.value(x))
        return out if self.lift is None else out + self.lift.value(x)

    __call__ = value

    def gradient(self, x):
        out = self._product(x, self.net.value(x), self.net.gradient(x))
        return out if self.lift is None else out + self.lift.gradient(x)

    def laplacian(self, x):
        out = self._product(x, self.net.value(x), self.net.gradient(x), self.net.laplacian(x))
        return out if self.lift is None else out + self.lift.laplacian(x)

    def tangent_value(self, x):
        return self._product(x, self.net.tangent_value(x))

    def tangent_gradient(self, x):
        return self._product(x, self.net.tangent_value(x), self.net.tangent_gradient(x))

    def tangent_laplacian(self, x):
        return self._product(x, self.net.tangent_value(x), self.net.tangent_gradient(x),
                             self.net.tangent_laplacian(x))


def bubble(box):
    """$\\varphi(x) = \\prod_i 4(x_i-\\alpha_i)(\\beta_i-x_i)/(\\beta_i-\\alpha_i)^2$: zero on the boundary.

    >>> from lecturelib.pde.domains import Box
    >>> bubble(Box.unit(2)).value(torch.tensor([[0.5, 0.5], [0.0, 0.5]])).tolist()
    [1.0, 0.0]
    """
    def factors(x):
        low, high = (torch.tensor(v, dtype=x.dtype, device=x.device) for v in (box.lower, box.upper))
        s = 4 / (high - low) ** 2
        return s * (x - low) * (high - x), s * (low + high - 2 * x), -2 * s

    def others(p):
        """Product of all columns but one, `(n, d)`."""
        keep = 1 - torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
        return torch.where(keep.bool(), p[:, None, :], torch.ones_like(p)[:, None, :]).prod(2)

    def gradient(x):
        p, dp, _ = factors(x)
        return dp * others(p)

    def laplacian(x):
        p, _, ddp = factors(x)
        return (ddp * others(p)).sum(1)

    return Function(lambda x: factors(x)[0].prod(1), gradient, laplacian)


# ------------------------------------------------------------------------------ soft conditions
def trace_constant(box) -> float:
    """C of $\\|\\partial_n\\varphi\\|_{L^2(\\partial\\Omega)} \\le C\\,\\|\\Delta\\varphi\\|$, φ = 0 on the boundary of a box.

    With the shortest side l, $C^2 = \\frac4l\\big(\\tfrac12\\mathrm{diam}\\,C_F - (\\tfrac d2-1)C_F^2\\big)$
    (thm-soft-certificate), which increases in $C_F$ as far as it goes, $\\mathrm{diam}/\\pi d$; on the
    unit cube $C^2 = \\frac2\\pi-\\frac2{\\pi^2}(1-\\frac2d)$, below 0.64 in every dimension d ≥ 2.

    >>> from lecturelib.pde.domains import Box
    >>> round(trace_constant(Box.unit(2)) ** 2 * math.pi, 12)
    2.0
    """
    sides = [b - a for a, b in zip(box.lower, box.upper)]
    diam, C_F = math.hypot(*sides), friedrichs(box)
    return math.sqrt(4 / min(sides) * (diam * C_F / 2 - (box.d / 2 - 1) * C_F**2))


def balanced_weight(box) -> float:
    """β at which residual and boundary misfit weigh alike in the certificate: $(C_\\partial/C_F^2)^2$.

    >>> from lecturelib.pde.domains import Box
    >>> round(balanced_weight(Box.unit(2)))
    248
    """
    return (trace_constant(box) / friedrichs(box) ** 2) ** 2


@dataclass(frozen=True)
class SoftCertificate:
    """‖u_* − u‖ ≤ `bound` = `interior` + `boundary` in L², under what is `assumed`."""
    interior: float
    boundary: float
    assumed: str

    @property
    def bound(self) -> float:
        return self.interior + self.boundary

    def effectivity(self, error: float) -> float:
        """`bound` over the true error: never below 1.

        >>> SoftCertificate(1.0, 0.5, "").effectivity(1.0)
        1.5
        """
        return self.bound / _check.positive("error", error)


def soft_dirichlet_bound(u, f, g, box, interior, boundary, sigmas: float = 3.0) -> SoftCertificate:
    """$\\|u_*-u\\| \\le C_F^2\\|f+\\Delta u\\| + C_\\partial\\|g-u\\|_{L^2(\\partial\\Omega)}$ (thm-soft-certificate).

    Parameters
    ----------
    u : approximation with a Laplacian, here of −Δu_* = f in `box`, u_* = g on its boundary.
    f, g : callables, points to values.
    interior, boundary : (points, weights) of a rule, or points only: independent and uniform, and
        then `sigmas` standard errors are added to each mean square.

    Raises ValueError for values of the wrong shape or not finite, weights that do not match the
    points, and fewer than four points without weights.

    >>> from lecturelib.pde.domains import Box
    >>> box, u = Box.unit(2), Function(lambda x: x[:, 0])
    >>> c = soft_dirichlet_bound(u, lambda x: 0 * x[:, 0], lambda x: x[:, 0] + 1, box,
    ...                          box.quadrature(4), box.boundary(4)[:2])
    >>> c.interior, round(c.boundary ** 2 * math.pi, 12)          # ‖1‖ on the boundary is 2
    (0.0, 8.0)
    """
    _check.positive("sigmas", sigmas)
    sides = [b - a for a, b in zip(box.lower, box.upper)]
    volume = math.prod(sides)
    surface = 2 * sum(volume / s for s in sides)

    def norm(rule, misfit, measure):
        x, w = (rule, None) if isinstance(rule, torch.Tensor) else rule[:2]
        square = misfit(_check.tensor("points", x, 2)).square()
        if w is not None:
            if len(_check.tensor("weights", w, 1)) != len(x) or not bool((w > 0).all()):
                raise ValueError(f"weights must be positive, one per point; got {len(w)} for {len(x)} points")
            return math.sqrt(float(w @ square))
        _check.whole("len(points), without weights,", len(x), 4)
        return math.sqrt(measure * float(square.mean() + sigmas * square.std() / math.sqrt(len(x))))

    with torch.no_grad():
        inside = norm(interior, lambda x: sample(f, x) + sample(u.laplacian, x, "u.laplacian"), volume)
        outside = norm(boundary, lambda x: sample(g, x, "g") - sample(u.value, x, "u.value"), surface)
    drawn = isinstance(interior, torch.Tensor) or isinstance(boundary, torch.Tensor)
    return SoftCertificate(
        friedrichs(box) ** 2 * inside, trace_constant(box) * outside,
        f"means over independent points within {sigmas:g} standard errors" if drawn else
        "the rules integrate the squared misfits exactly enough")
