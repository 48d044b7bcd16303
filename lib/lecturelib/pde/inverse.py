"""The inverse coefficient problem: find a in −∇·(a∇u) = f from noisy values of u (eq-id-forward).

Bilinear elements on a uniform grid of the unit interval or square carry u, one number per cell
carries a.  `Elliptic` is the map a ↦ u; `fit` inverts it (eq-id-tikhonov); `laplace` says how far
the answer is to be trusted (eq-id-laplace).
"""
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import _check, domains, implicit, linear

BOUNDARY = ("neumann", "dirichlet")


class Elliptic:
    """The coefficient-to-solution map of $-\\nabla\\cdot(a\\nabla u)=f$ on the unit cube, d = 1 or 2.

    Parameters
    ----------
    n : cells per side; a has `n**d` entries, u has `(n+1)**d`, the last axis running fastest.
    f : callable `(N, d) -> (N,)`, integrated against the hat functions by a Gauss rule of `order`.
    boundary : `"neumann"` ($a\\,\\partial_nu=0$, $\\int u=0$; needs $\\int f=0$) or `"dirichlet"` (u = 0).

    Attributes: `nodes` `((n+1)**d, d)`, `centers` `(n**d, d)`, `weights` (the integral of each hat
    function), `load` ($\\int f\\varphi_i$).

    Raises ValueError if f returns the wrong shape or NaN, or if $\\int f\\ne0$ under Neumann
    conditions (it says by how much).

    >>> model = Elliptic(2, lambda x: torch.ones(len(x), dtype=x.dtype), boundary="dirichlet")
    >>> model.solve(torch.ones(2, dtype=torch.float64))           # x(1 − x)/2 at the nodes
    tensor([0.0000, 0.1250, 0.0000], dtype=torch.float64)
    """

    def __init__(self, n: int, f: Callable, d: int = 1, boundary: str = "neumann", order: int = 5,
                 dtype=torch.float64, device=None):
        self.n, self.d, self.boundary = _check.whole("n", n, 2), _check.whole("d", d, 1), boundary
        if d > 2:
            raise ValueError(f"d must be 1 or 2; got {d}")
        if boundary not in BOUNDARY:
            raise ValueError(f"boundary must be one of {BOUNDARY}; got {boundary!r}")
        grid = dict(dtype=dtype, device=device)
        h, side = 1 / n, n + 1
        x = torch.arange(side, **grid) / n
        self.nodes = torch.cartesian_prod(*[x] * d).reshape(-1, d)
        self.centers = torch.cartesian_prod(*[x[:-1] + h / 2] * d).reshape(-1, d)
        corner = torch.cartesian_prod(*[torch.arange(2, device=device)] * d).reshape(-1, d)
        strides = torch.tensor([side ** (d - 1 - k) for k in range(d)], device=device)
        cell = torch.cartesian_prod(*[torch.arange(n, device=device)] * d).reshape(-1, d)
        self.cells = ((cell[:, None] + corner) * strides).sum(2)            # (n^d, 2^d)
        t, w = domains.Box.unit(d).quadrature(order, **grid)
        hat, slope = _hats(t, corner)
        self.stiffness = h ** (d - 2) * torch.einsum("q,qid,qjd->ij", w, slope, slope)
        points = h * (cell[:, None].to(dtype) + t)                          # (n^d, q, d)
        value = f(points.reshape(-1, d))
        if value.shape != (points.shape[0] * points.shape[1],):
            raise ValueError(f"f must return {points.shape[0] * points.shape[1]} values for as many "
                             f"points; got shape {tuple(value.shape)}")
        value = _check.tensor("f", value).reshape(points.shape[:2])
        self.load = self._assemble(h**d * value @ (w[:, None] * hat))
        self.weights = self._assemble((h**d * (w @ hat)).expand(n**d, -1))
        on_edge = ((self.nodes == 0) | (self.nodes == 1)).any(1)
        if boundary == "neumann":
            total, size = float(self.load.sum()), float(self.load.abs().sum())
            if abs(total) > 1e-6 * size:
                raise ValueError("f must integrate to zero under Neumann conditions; its integral "
                                 f"is {total:.3g}, that of |f| about {size:.3g}")
            self.load = self.load - self.weights * total
            on_edge = torch.arange(len(self.nodes), device=device) == 0     # any one node
        self.free = torch.nonzero(~on_edge)[:, 0]
        number = torch.full((len(self.nodes),), -1, device=device)
        number[self.free] = torch.arange(len(self.free), device=device)
        i = number[self.cells][:, :, None].expand(-1, -1, 2**d).reshape(-1)
        j = number[self.cells][:, None, :].expand(-1, 2**d, -1).reshape(-1)
        self.kept = torch.nonzero((i >= 0) & (j >= 0))[:, 0]
        self.pattern = implicit.Pattern(len(self.free), i[self.kept], j[self.kept])

    def _assemble(self, local: torch.Tensor) -> torch.Tensor:
        """Sum the cells' contributions `(n^d, 2^d, ...)` into the nodes."""
        out = local.new_zeros(len(self.nodes), *local.shape[2:])
        return out.index_add(0, self.cells.reshape(-1), local.reshape(-1, *local.shape[2:]))

    def _invert(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Solve with the stiffness matrix of a for the right-hand sides b, `(nodes,)` or `(nodes, k)`."""
        values = (a[:, None, None] * self.stiffness).reshape(-1)[self.kept]
        x = implicit.solve(values, self.pattern, b[self.free])
        u = b.new_zeros(b.shape).index_add(0, self.free, x)
        return u - self.weights @ u if self.boundary == "neumann" else u

    def solve(self, a: torch.Tensor, load: torch.Tensor | None = None) -> torch.Tensor:
        """u at the nodes for the coefficient a `(n**d,)`; differentiable in a to any order.

        `load` `(nodes,)` replaces $\\int f\\varphi_i$; under Neumann conditions its total is taken out
        in proportion to `weights`, since it acts on functions of mean zero.
        Raises ValueError unless a is positive and finite and the load fits the nodes.
        """
        _check.tensor("a", a, 1)
        if len(a) != self.n**self.d or not a.detach().min() > 0:
            raise ValueError(f"a must hold {self.n**self.d} positive values; got {len(a)}, the "
                             f"smallest {float(a.detach().min()):.3g}")
        if load is None:
            load = self.load
        else:
            if _check.tensor("load", load, 1).shape != self.load.shape:
                raise ValueError(f"load must have {len(self.nodes)} entries; got {len(load)}")
            if self.boundary == "neumann":
                load = load - self.weights * load.sum()
        return self._invert(a, load)

    def jacobian(self, a: torch.Tensor, u: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        """$u'(a)$ applied to the columns of `directions` `(n**d, k)`: `(nodes, k)`, by k solves.

        `u` is `solve(a)`.  Costs one factorization; use gradients of `solve` for a scalar function.
        """
        force = u[self.cells] @ self.stiffness                              # (n^d, 2^d)
        return -self._invert(a, self._assemble(force[:, :, None] * directions[:, None, :]))


def _hats(t: torch.Tensor, corner: torch.Tensor):
    """The 2^d multilinear hats of the unit cell and their gradients at t: `(q, 2^d)`, `(q, 2^d, d)`."""
    one = torch.where(corner == 1, t[:, None], 1 - t[:, None])              # (q, 2^d, d)
    sign = 2.0 * corner - 1
    slope = torch.stack([sign[:, k] * one[:, :, [m for m in range(t.shape[1]) if m != k]].prod(2)
                         for k in range(t.shape[1])], 2)
    return one.prod(2), slope


@dataclass(frozen=True)
class Fit:
    """A minimizer of eq-id-tikhonov: `m`, the scaled Jacobian `J`/σ there, `misfit` = ‖u(m)−d‖/σ."""
    m: torch.Tensor
    J: torch.Tensor
    misfit: float
    penalty: float
    steps: int


def fit(forward: Callable, data: torch.Tensor, sigma: float, start: torch.Tensor,
        root: torch.Tensor, tolerance: float = 1e-9, steps: int = 60) -> Fit:
    """Minimize $\\frac1{2\\sigma^2}\\|u(m)-d\\|^2+\\frac12\\|L(m-m_0)\\|^2$ by Gauss-Newton (eq-id-tikhonov).

    Parameters
    ----------
    forward : `m -> (u, J)` with u `(N,)` and its Jacobian J `(N, k)`.
    data, sigma : the data d `(N,)` and the standard deviation of its noise.
    start : $m_0$ `(k,)`, also the first iterate.
    root : L `(r, k)`, with $L^TL$ the precision of the prior; `torch.zeros(0, k)` for none.

    The least-squares problem of each step is solved by QR, never by its normal equations; a step
    is halved until `forward` accepts the point and the objective decreases.
    Raises ValueError if it does not converge (it says how long the last step was), if `forward`
    returns the wrong shape or, where it cannot be avoided by shorter steps, NaN, or if data and
    prior together leave a direction free.

    >>> A = torch.tensor([[1.0], [1.0]])
    >>> result = fit(lambda m: (A @ m, A), torch.tensor([1.0, 3.0]), 1.0, torch.zeros(1), torch.zeros(0, 1))
    >>> round(result.m.item(), 6)
    2.0
    """
    _check.tensor("data", data, 1), _check.tensor("start", start, 1), _check.tensor("root", root, 2)
    sigma = _check.positive("sigma", sigma)
    if root.shape[1] != len(start):
        raise ValueError(f"root must have {len(start)} columns; got {root.shape[1]}")

    def evaluate(m):
        u, J = forward(m)
        if u.shape != data.shape or J.shape != (len(data), len(m)):
            raise ValueError(f"forward must return shapes {(len(data),)} and {(len(data), len(m))}; "
                             f"got {tuple(u.shape)} and {tuple(J.shape)}")
        _check.tensor("forward(m)", u), _check.tensor("the Jacobian of forward", J)
        return torch.cat([(u - data) / sigma, root @ (m - start)]), J / sigma

    m, (r, J) = start.clone(), evaluate(start)
    tolerance = max(tolerance, 8 * torch.finfo(m.dtype).eps)
    for k in range(steps):
        step = linear.solve_strong(torch.cat([J, root]), -r)
        t = 1.0
        while True:
            done = t * step.norm() <= tolerance * (1 + m.norm())
            try:
                trial = evaluate(m + t * step)
            except ValueError:              # outside the domain of the forward map
                if done:
                    raise
            else:
                if trial[0].norm() <= r.norm() or done:
                    break
            t /= 2
        m, (r, J) = m + t * step, trial
        if done:
            N = len(data)
            return Fit(m, J, float(r[:N].norm()), float(r[N:].norm()), k + 1)
    raise ValueError(f"Gauss-Newton did not converge in {steps} steps; the last step was "
                     f"{float(t * step.norm()):.1e} long")


def laplace(J: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    """Covariance $(J^TJ+L^TL)^{-1}$ of the Laplace approximation, `J` scaled by 1/σ (eq-id-laplace).

    Raises ValueError if data and prior together leave a direction free.

    >>> laplace(torch.tensor([[1.0, 0.0]]), torch.eye(2))
    tensor([[0.5000, 0.0000],
            [0.0000, 1.0000]])
    """
    if _check.tensor("J", J, 2).shape[1] != _check.tensor("root", root, 2).shape[1]:
        raise ValueError(f"root must have {J.shape[1]} columns; got {root.shape[1]}")
    s, V = torch.linalg.svd(torch.cat([J, root]), full_matrices=False)[1:]
    rank = int((s > J.shape[1] * torch.finfo(s.dtype).eps * s.max()).sum())
    if rank < J.shape[1]:
        raise ValueError("J and root must determine every parameter; together they have rank "
                         f"{rank} of {J.shape[1]}")
    return V.T @ (V / s[:, None] ** 2)


def filtered(A: torch.Tensor, data: torch.Tensor, gamma: torch.Tensor):
    """Tikhonov solutions $(A^TA+\\gamma I)^{-1}A^Td$ for many γ at once, by one SVD (prop-id-discrepancy).

    Returns the solutions `(len(gamma), k)` and the residual norms `(len(gamma),)`.
    Raises ValueError on wrong shapes, NaN or a negative γ.

    >>> x, r = filtered(torch.eye(2), torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0]))
    >>> x[1].tolist(), r.tolist()
    ([1.5, 2.0], [0.0, 2.5])
    """
    _linear(A, gamma, "data", data, 0)
    U, s, Vh = torch.linalg.svd(A, full_matrices=False)
    b = U.T @ data
    outside = (data @ data - b @ b).clamp_min(0)
    shrink = s / (s**2 + gamma[:, None])
    residual = ((gamma[:, None] / (s**2 + gamma[:, None]) * b) ** 2).sum(1) + outside
    return (shrink * b) @ Vh, residual.sqrt()


def risk(A: torch.Tensor, x: torch.Tensor, sigma: float, gamma: torch.Tensor):
    """Squared bias and variance of the Tikhonov solution at each γ, exactly (eq-id-risk)."""
    _linear(A, gamma, "x", x, 1), _check.positive("sigma", sigma)
    _, s, Vh = torch.linalg.svd(A, full_matrices=False)
    g = gamma[:, None]
    bias = ((g / (s**2 + g) * (Vh @ x)) ** 2).sum(1) + (x @ x - (Vh @ x) @ (Vh @ x)).clamp_min(0)
    return bias, sigma**2 * ((s / (s**2 + g)) ** 2).sum(1)


def _linear(A, gamma, name, vector, axis) -> None:
    _check.tensor("A", A, 2), _check.tensor("gamma", gamma, 1), _check.tensor(name, vector, 1)
    if len(vector) != A.shape[axis]:
        raise ValueError(f"{name} must have {A.shape[axis]} entries; got {len(vector)}")
    if bool((gamma < 0).any()):
        raise ValueError(f"gamma must not be negative; its least value is {float(gamma.min()):.3g}")


def discrepancy(residual: Callable, target: float, low: float = 1e-12, high: float = 1e12,
                tolerance: float = 1e-3) -> float:
    """The γ at which the increasing function `residual(γ)` equals `target`, by bisection in log γ.

    Raises ValueError if the residuals at `low` and `high` do not enclose the target: the noise
    level is then below what the model can reach, or above the data (prop-id-discrepancy).

    >>> round(discrepancy(lambda g: g, 2.0), 2)
    2.0
    """
    ends = residual(low), residual(high)
    if not ends[0] < target < ends[1]:
        raise ValueError(f"target must lie between the residuals {ends[0]:.3g} at γ = {low:g} and "
                         f"{ends[1]:.3g} at γ = {high:g}; got {target:.3g}")
    a, b = math.log(low), math.log(high)
    tolerance = max(_check.positive("tolerance", tolerance), 1e-13)      # bisection cannot do better
    while b - a > tolerance:
        middle = (a + b) / 2
        a, b = (middle, b) if residual(math.exp(middle)) < target else (a, middle)
    return math.exp((a + b) / 2)
