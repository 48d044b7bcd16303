"""One step of Gauss-Newton against the same step with a Jacobian by automatic differentiation."""
import math

import torch
from lecturelib.pde import energies, natural_gradient, networks
from lecturelib.pde.domains import Box
from timing import paired


def measure() -> list[dict]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return steps()
    finally:
        torch.set_num_threads(threads)


def steps() -> list[dict]:
    square = Box.unit(2)
    form = energies.StrongForm(lambda x: 2 * math.pi**2 * torch.sin(math.pi * x).prod(1), square.quadrature(30), lambda x: torch.zeros_like(x[:, 0]), square.boundary(30))
    v = networks.Shallow.random(64, square, torch.Generator().manual_seed(0))

    def residual(theta):
        return form.residual(v.at(theta), 1.0)

    def step(jacobian):
        with torch.no_grad():
            r = residual(v.theta)
        return natural_gradient.Pseudoinverse.qr(jacobian(), r).step(1e-8)

    def ours():
        with torch.no_grad():
            return form.jacobian(v, 1.0)

    def loop():
        theta = v.theta.detach().clone().requires_grad_()
        return torch.stack([torch.autograd.grad(entry, theta, retain_graph=True)[0] for entry in residual(theta)])

    def at_once():
        return torch.autograd.functional.jacobian(residual, v.theta.detach(), vectorize=True)
    rows, J = [], ours()
    for name, peer in (("a loop of torch.autograd.grad", loop), ("torch.autograd.functional.jacobian, vectorized", at_once)):
        difference = float((peer() - J).abs().max() / J.abs().max())
        assert difference < 1e-12
        mine, theirs, ratio, spread = paired(lambda: step(ours), lambda peer=peer: step(peer), rounds=5, warmup=1)
        rows.append({"kernel": f"a step of the natural gradient, {len(v.theta)} parameters, {len(J)} residuals", "ours": f"{1e3 * mine:.1f} ms",
                     "peer": f"{name} {1e3 * theirs:.0f} ms", "ratio": ratio, "spread": spread, "agreement": f"Jacobians differ by {difference:.0e}",
                     "note": "ours by the formulas of a network with one hidden layer; both with the same factorization"})
    return rows
