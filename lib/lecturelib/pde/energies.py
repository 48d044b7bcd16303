"""The two losses of a network: the strong form (PINN) and the variational form (Deep Ritz).

Both are sums over points with weights, made by quadrature (`Box.quadrature`, `Box.boundary`) or by
chance (`interior_sample`, `boundary_sample`, Monte Carlo with the standard error $n^{-1/2}$).
For natural gradients each form also gives the linear algebra of its tangent space.
"""
import math

import torch

from . import _check
from .approximation import sample


class StrongForm:
    """PINN: $L(u)=\\tfrac12\\|{-\\Delta u}+c(u)-f\\|^2+\\tfrac\\beta2\\|u-g\\|^2_{\\partial\\Omega}$ (eq-pinn-loss).

    Parameters
    ----------
    f : callable; interior : points `(n, d)` and weights `(n,)`.
    g, boundary : callable and (points, weights[, normals]); leave both out where u satisfies the
        boundary condition exactly.
    reaction : pair of callables (c, c') of the values of u, for $-\\Delta u+c(u)=f$.

    Raises ValueError for values of the wrong shape or not finite.

    >>> from lecturelib.pde.approximation import Function
    >>> from lecturelib.pde.domains import Box
    >>> form = StrongForm(lambda x: 0 * x[:, 0], Box.unit(1).quadrature(4))
    >>> round(float(form.loss(Function(lambda x: x[:, 0] ** 2))), 12)
    2.0
    """

    def __init__(self, f, interior, g=None, boundary=None, reaction=None):
        self.x, self.w = _rule("interior", interior)
        self.f = sample(f, self.x, "right-hand side f")
        self.rows, self.reaction, self.xb = self.w.sqrt(), reaction, None
        if (g is None) != (boundary is None):
            raise ValueError("g and boundary must be given together, or neither")
        if boundary is not None:
            self.xb, wb = _rule("boundary", boundary)
            self.g, self.boundary_rows = sample(g, self.xb, "boundary values g"), wb.sqrt()

    def residual(self, u, beta: float = 1.0) -> torch.Tensor:
        """r with L = ½|r|²: interior rows √w(−Δu + c(u) − f), boundary rows √(βw)(u − g)."""
        r = -u.laplacian(self.x) - self.f
        if self.reaction is not None:
            r = r + self.reaction[0](u.value(self.x))
        r = self.rows * r
        if self.xb is None:
            return r
        return torch.cat([r, math.sqrt(beta) * self.boundary_rows * (u.value(self.xb) - self.g)])

    def jacobian(self, u, beta: float = 1.0) -> torch.Tensor:
        """J = ∂r/∂θ for a network u, shape `(rows, P)`."""
        J = u.tangent_laplacian(self.x).neg_()
        if self.reaction is not None:
            J += self.reaction[1](u.value(self.x))[:, None] * u.tangent_value(self.x)
        J *= self.rows[:, None]
        if self.xb is None:
            return J
        B = u.tangent_value(self.xb).mul_(math.sqrt(beta) * self.boundary_rows[:, None])
        return torch.cat([J, B])

    def loss(self, u, beta: float = 1.0) -> torch.Tensor:
        return self.residual(u, beta).square().sum() / 2


class RitzForm:
    """Deep Ritz: $E(u)=\\int\\tfrac12|\\nabla u|^2+\\Phi(u)-fu$ (eq-ritz-loss), natural boundary condition.

    Without Φ the energy is that of the notes' Neumann problem; $\\tfrac12(\\int u)^2$ is added, which
    picks the mean-zero minimizer and changes nothing else when ∫f = 0.

    Parameters
    ----------
    f : callable; interior : points `(n, d)`, weights `(n,)`.
    potential : triple of callables (Φ, Φ', Φ'') of the values of u, Φ'' ≥ 0.
    vanishing : True if every u passed in is zero on the boundary (Dirichlet): then nothing is added.

    Raises ValueError if ∫f ≠ 0 where that is needed, saying ∫f; `tangent` also where Φ'' < 0.

    >>> from lecturelib.pde.domains import Box
    >>> RitzForm(lambda x: x[:, 0], Box.unit(1).quadrature(4))
    Traceback (most recent call last):
    ...
    ValueError: f must have mean zero for the Neumann problem: ∫f = 0.5, ∫|f| = 0.5
    """

    def __init__(self, f, interior, potential=None, vanishing: bool = False):
        self.x, self.w = _rule("interior", interior)
        self.f = sample(f, self.x, "right-hand side f")
        self.potential, self.mean = potential, potential is None and not vanishing
        total, size = float(self.w @ self.f), float(self.w @ self.f.abs())
        if self.mean and abs(total) > 1e-6 * size:
            raise ValueError(f"f must have mean zero for the Neumann problem: ∫f = {total:.6g}, "
                             f"∫|f| = {size:.6g}")

    def energy(self, u) -> torch.Tensor:
        v = u.value(self.x)
        density = u.gradient(self.x).square().sum(1) / 2 - self.f * v
        if self.potential is not None:
            density = density + self.potential[0](v)
        total = self.w @ density
        return total + (self.w @ v).square() / 2 if self.mean else total

    loss = energy

    def tangent(self, u):
        """The gradient `(P,)` of E in θ, and B `(rows, P)` with $B^TB = D^2E(u)(\\partial_pu,\\partial_qu)$."""
        v, T, dT = u.value(self.x), u.tangent_value(self.x), u.tangent_gradient(self.x)
        w = self.w.sqrt()
        load = self.f if self.potential is None else self.f - self.potential[1](v)
        B = (w[:, None, None] * dT).flatten(0, 1)
        g = B.T @ (w[:, None] * u.gradient(self.x)).flatten() - T.T @ (self.w * load)
        rows = [B]
        if self.potential is not None:
            bend = self.potential[2](v)
            if not bool((bend >= 0).all()):
                raise ValueError(f"potential must be convex; its second derivative reaches {float(bend.min()):g}")
            rows.append((w * bend.sqrt())[:, None] * T)
        if self.mean:
            mean = self.w @ T
            rows.append(mean[None])
            g = g + (self.w @ v) * mean
        return g, torch.cat(rows)


def interior_sample(box, n: int, generator: torch.Generator, dtype=torch.float64):
    """n independent uniform points of a box, with weights |Ω|/n.

    >>> from lecturelib.pde.domains import Box
    >>> x, w = interior_sample(Box([0, 0], [1, 2]), 8, torch.Generator().manual_seed(0))
    >>> x.shape, float(w.sum())
    (torch.Size([8, 2]), 2.0)
    """
    _check.whole("n", n, 1)
    low, side = _corners(box, generator, dtype)
    x = low + side * torch.rand(n, box.d, generator=generator, dtype=dtype, device=generator.device)
    return x, (side.prod() / n).expand(n)


def boundary_sample(box, n: int, generator: torch.Generator, dtype=torch.float64):
    """n independent uniform points of the boundary of a box, with weights |∂Ω|/n.

    >>> from lecturelib.pde.domains import Box
    >>> x, w = boundary_sample(Box.unit(3), 9, torch.Generator().manual_seed(0))
    >>> bool((((x == 0) | (x == 1)).sum(1) >= 1).all()), round(float(w.sum()), 12)
    (True, 6.0)
    """
    x, _ = interior_sample(box, n, generator, dtype)
    low, side = _corners(box, generator, dtype)
    face = side.prod() / side                                       # areas, two faces each
    axis = torch.multinomial(face, n, replacement=True, generator=generator)
    end = torch.randint(2, (n,), generator=generator, device=x.device).to(dtype)
    x[torch.arange(n, device=x.device), axis] = low[axis] + end * side[axis]
    return x, (2 * face.sum() / n).expand(n)


def _corners(box, generator, dtype):
    low, high = (torch.tensor(v, dtype=dtype, device=generator.device) for v in (box.lower, box.upper))
    return low, high - low


def _rule(name, rule):
    x, w = _check.tensor(f"{name} points", rule[0], 2), _check.tensor(f"{name} weights", rule[1], 1)
    if len(w) != len(x) or not len(w) or float(w.min()) <= 0:
        raise ValueError(f"{name} must have one positive weight per point; got {len(w)} for "
                         f"{len(x)} points, the least {float(w.min()) if len(w) else float('nan'):g}")
    return x, w
