"""Natural gradients of a network: one step = one Galerkin solve in its tangent space.

With the tangent functions ∂u/∂θ_p as a basis, Gauss-Newton solves a least-squares problem (PINN) and
the energy natural gradient a Ritz problem (Deep Ritz), thm-tangent-projection.  A step is solved by
an orthogonal factorization, which sees the condition number κ, or by the Gram matrix, which sees κ².
"""
import math
from dataclasses import dataclass, field

import torch

from . import _check


@dataclass
class Run:
    """The network reached, and per iteration the loss, the step length and the boundary weight."""
    u: object
    loss: list = field(default_factory=list)
    step: list = field(default_factory=list)
    beta: list = field(default_factory=list)


class Pseudoinverse:
    """$J^+$ at any relative cutoff, from one factorization.

    `Pseudoinverse.qr(J, r)` solves by QR and the SVD of R, singular values below cutoff·σ₁ dropped;
    `Pseudoinverse.gram(G, g)` with G = JᵀJ and g = Jᵀr, eigenvalues below cutoff²·λ₁ dropped, and
    always those below P·eps·λ₁, the rounding error of G.

    >>> J = torch.tensor([[2.0, 0.0], [0.0, 1e-9], [0.0, 0.0]], dtype=torch.float64)
    >>> r = torch.ones(3, dtype=torch.float64)
    >>> [round(float(Pseudoinverse.qr(J, r).step(cut)[1])) for cut in (1e-8, 1e-10)]
    [0, 1000000000]
    >>> round(float(Pseudoinverse.gram(J.T @ J, J.T @ r).step(1e-10)[1]))
    0
    """

    def __init__(self, V, s, c, floor=0.0):
        self.V, self.s, self.c, self.floor = V, s, c, floor

    @classmethod
    def qr(cls, J, r):
        p = J.shape[1]
        if J.shape[0] > p:                              # R and Qᵀr from one sweep; Q is never formed
            R = torch.linalg.qr(torch.cat([J, r[:, None]], 1), mode="r")[1]
            J, r = R[:p, :p], R[:p, p]
        U, s, Vh = torch.linalg.svd(J, full_matrices=False)
        return cls(Vh.T, s, (U.T @ r) / s)

    @classmethod
    def ritz(cls, B, g):
        """$G^+g$ for G = BᵀB from the singular values of B."""
        _, s, Vh = torch.linalg.svd(torch.linalg.qr(B, mode="r")[1], full_matrices=False)
        return cls(Vh.T, s, (Vh @ g) / s.square())

    @classmethod
    def gram(cls, G, g):
        lam, V = torch.linalg.eigh(G)
        floor = math.sqrt(len(g) * torch.finfo(G.dtype).eps)
        return cls(V, lam.clamp(min=0).sqrt(), (V.T @ g) / lam, floor)

    def step(self, cutoff: float) -> torch.Tensor:
        keep = self.s > max(cutoff, self.floor) * self.s.max()
        return self.V[:, keep] @ self.c[keep]


def descend(inverse, loss, theta, now: float, cutoff: float):
    """`line_search` along the step at `cutoff`; larger cutoffs are tried while η stays below 1/64."""
    cutoff = max(_check.positive("cutoff", cutoff), inverse.floor)
    best = line_search(loss, theta, inverse.step(cutoff), now)
    while (best is None or best[1] < 1 / 64) and cutoff < 1e-3:
        cutoff *= 100
        other = line_search(loss, theta, inverse.step(cutoff), now)
        if best is None or (other is not None and other[0] < best[0]):
            best = other
    return best


def line_search(loss, theta: torch.Tensor, delta: torch.Tensor, now: float, halvings: int = 14,
                enough: float = 0.0):
    """The first local minimum of η ↦ loss(θ − ηδ) over η = 1, ½, ¼, … below `now`, or None.

    The search ends early once the loss is below `enough`·`now`.

    Returns (loss, η, θ − ηδ).

    >>> line_search(lambda t: float(t**2), torch.tensor(1.0), torch.tensor(4.0), 1.0)
    (0.0, 0.25, tensor(0.))
    """
    best, eta = None, 1.0
    for _ in range(halvings):
        trial = theta - eta * delta
        value = float(loss(trial))
        if value < (now if best is None else best[0]):
            best = (value, eta, trial)
            if value < enough * now:
                break
        elif best is not None:
            break
        eta /= 2
    return best


def gauss_newton(u, form, betas=(1.0, 100.0, 1e4), cutoff: float = 1e-8, iterations: int = 120,
                 switch: float = 1e-6, solve: str = "qr", watch=None,
                 tolerance: float | None = None) -> Run:
    """Gauss-Newton with line search and continuation in the boundary weight (eq-gauss-newton).

    Parameters
    ----------
    u : network; form : `energies.StrongForm`.
    betas : boundary weights; the next one is taken when the loss is below `switch`, or stalls.
    cutoff : singular values of J below `cutoff`·σ₁ are dropped.
    solve : "qr", or "gram" for the same step from JᵀJ with eigenvalues above P·eps·λ₁.
    watch : called with (iteration, network) after every step.
    tolerance : if given, the loss that must be reached.

    Raises ValueError if `tolerance` is missed, saying by how much, if a loss is not finite, or if
    `betas` is empty or not positive.

    >>> from lecturelib.pde.domains import Box
    >>> from lecturelib.pde.energies import StrongForm
    >>> from lecturelib.pde.networks import Shallow
    >>> box = Box.unit(1)
    >>> form = StrongForm(lambda x: torch.sin(x[:, 0]), box.quadrature(20),
    ...                   lambda x: torch.sin(x[:, 0]), box.boundary(1))
    >>> run = gauss_newton(Shallow.random(8, box, torch.Generator().manual_seed(0)), form)
    >>> run.loss[-1] < 1e-10
    True
    """
    if solve not in ("qr", "gram"):
        raise ValueError(f"solve must be 'qr' or 'gram'; got {solve!r}")
    betas = [_check.positive("betas", beta) for beta in betas]
    if not betas:
        raise ValueError("betas must hold at least one boundary weight")
    run, stage, recent = Run(u), 0, []
    theta = u.theta.detach().clone()
    with torch.no_grad():
        for k in range(iterations):
            beta = betas[stage]
            here = u.at(theta)
            r, J = form.residual(here, beta), form.jacobian(here, beta)
            now = _finite(r.square().sum() / 2)
            inverse = (Pseudoinverse.qr(J, r) if solve == "qr"
                       else Pseudoinverse.gram(J.T @ J, J.T @ r))
            best = descend(inverse, lambda t: form.loss(u.at(t), beta), theta, now, cutoff)
            if best is not None:
                value, eta, theta = best
                recent.append(value)
                run.loss.append(value), run.step.append(eta), run.beta.append(beta)
                if watch is not None:
                    watch(k, u.at(theta))
            stalled = best is None or (len(recent) > 10 and recent[-11] < 1.2 * recent[-1])
            if stalled or (stage < len(betas) - 1 and value < switch):
                if stage == len(betas) - 1:
                    break
                stage, recent = stage + 1, []
    run.u = u.at(theta)
    return _converged(run, "gauss_newton", tolerance)


def energy_natural_gradient(u, form, cutoff: float = 1e-7, iterations: int = 60, solve: str = "qr",
                            watch=None) -> Run:
    """$\\theta \\leftarrow \\theta-\\eta\\,G^+\\nabla E$, $G_{pq}=D^2E(\\partial_pu,\\partial_qu)$, for a `RitzForm`.

    With B from `form.tangent`, G = BᵀB and $G^+=VS^{-2}V^T$ from the singular values S of B ("qr"),
    those below `cutoff`·σ₁ dropped, or from the eigenvalues of G itself ("gram").

    >>> from lecturelib.pde.domains import Box
    >>> from lecturelib.pde.energies import RitzForm
    >>> from lecturelib.pde.networks import Shallow
    >>> f = lambda x: math.pi**2 * torch.cos(math.pi * x[:, 0])
    >>> form = RitzForm(f, Box.unit(1).quadrature(24))
    >>> run = energy_natural_gradient(Shallow.random(8, Box.unit(1), torch.Generator().manual_seed(0)), form)
    >>> abs(run.loss[-1] + math.pi**2 / 4) < 1e-9                   # E(cos πx) = −π²/4
    True
    """
    if solve not in ("qr", "gram"):
        raise ValueError(f"solve must be 'qr' or 'gram'; got {solve!r}")
    run, theta = Run(u), u.theta.detach().clone()
    with torch.no_grad():
        for k in range(iterations):
            here = u.at(theta)
            g, B = form.tangent(here)
            now = _finite(form.energy(here))
            inverse = (Pseudoinverse.ritz(B, g) if solve == "qr" else Pseudoinverse.gram(B.T @ B, g))
            best = descend(inverse, lambda t: form.energy(u.at(t)), theta, now, cutoff)
            if best is None:
                break
            value, eta, theta = best
            run.loss.append(value), run.step.append(eta), run.beta.append(0.0)
            if watch is not None:
                watch(k, u.at(theta))
            if len(run.loss) > 3 and run.loss[-4] - value < 4 * torch.finfo(theta.dtype).eps * abs(value):
                break                           # three steps below the resolution of the energy
    run.u = u.at(theta)
    return run


def _finite(loss) -> float:
    value = float(loss)
    if not math.isfinite(value):
        raise ValueError(f"the loss must stay finite; it became {value}")
    return value


def _converged(run, name, tolerance):
    if tolerance is not None:
        _check.positive("tolerance", tolerance)
        reached = run.loss[-1] if run.loss else float("inf")
        if reached > tolerance:
            raise ValueError(f"{name} did not converge: loss {reached:.3g} after {len(run.loss)} "
                             f"steps, {reached / tolerance:.3g} times the tolerance {tolerance:g}")
    return run
