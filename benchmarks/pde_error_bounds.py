"""How much the error bounds exceed the error: effectivities over ten seeds, against the limit 1.

Peers on the same approximations: the bound with the constant √d/π of a general convex domain of the
cube's diameter, and the usual estimator of finite elements, recovery by averaging, which is not a
bound.  Ratio = error / bound for a limit, 1 is the best possible and more would be a failure.
"""
import math
import statistics
import time

import torch
from lecturelib.pde import bases, certificates, certified, fem, galerkin, mesh
from lecturelib.pde.approximation import Function, errors
from lecturelib.pde.domains import Box
from lecturelib.pde.equilibrium import Equilibrium

SEEDS = range(10)
π = math.pi

STUDY = True


def solution(seed):
    """A random smooth Neumann solution on the square, exp of a small random cosine sum, and −Δu."""
    c = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    k = torch.arange(3, dtype=torch.float64) * π
    c = c / (1 + (k[:, None] + k) / π) ** 2

    def value(x):
        return torch.exp((torch.cos(x[:, :1] * k) @ c * torch.cos(x[:, 1:] * k)).sum(1))

    u = Function(value)
    return u, lambda x: -u.laplacian(x)


def network(seed, pair, m=32, steps=30):
    g = torch.Generator().manual_seed(seed)
    v = certified.ridge_sum(m, 2, g, scale=3.0)
    v.a = torch.randn(m, dtype=torch.float64, generator=g) / m
    x, w = Box.unit(2).quadrature(24)
    for v in certified.train_flux(v, pair.flux(x), x, w, steps):
        pass
    return v


def plane():
    """Prager and Synge on the square: {kind: [(error, bound, lower, seconds of the bound)]}."""
    square, rows = Box.unit(2), {}
    x, w = square.quadrature(60)
    for seed in SEEDS:
        u, f = solution(seed)
        pair = Equilibrium(f, square, 40)
        g = torch.Generator().manual_seed(seed)
        space = fem.Space(mesh.square(24))
        rule = space.mesh.quadrature(8)
        random = certified.fit_flux(certified.ridge_sum(200, 2, g, scale=4.0),
                                    pair.flux(x), x, w)
        kinds = {"cosine Galerkin": (galerkin.ritz(bases.Tensor("cosine", square, bases.full(6, 2)), f), x, w),
                 "linear elements": (fem.poisson(space, f, degree=10), *rule),
                 "random features": (random, x, w), "tanh network": (network(seed, pair), x, w)}
        for kind, (v, p, q) in kinds.items():
            start = time.perf_counter()
            c = certificates.certify(v, pair, p, q)
            seconds = time.perf_counter() - start
            rows.setdefault(kind, []).append((errors(v, u, p, q).h1, c.bound, c.lower, seconds))
            if kind == "linear elements":
                rows.setdefault("recovery", []).append((errors(v, u, p, q).h1, recovery(v, *rule), 0.0, 0.0))
    return rows


def recovery(v, x, w):
    """‖∇v − averaged ∇v‖ for linear elements: the gradient averaged at vertices, then interpolated."""
    space = v.space
    cells, points = space.mesh.cells, space.mesh.points
    slope = (space.mesh.gradients() * v.c[cells][:, :, None]).sum(1)
    weight = space.mesh.volumes.repeat_interleave(3)
    total = torch.zeros(len(points), dtype=x.dtype).index_add_(0, cells.ravel(), weight)
    average = torch.zeros_like(points).index_add_(0, cells.ravel(), (slope * space.mesh.volumes[:, None])
                                                  .repeat_interleave(3, 0)) / total[:, None]
    smooth = torch.stack([fem.FiniteElement(space, average[:, i].contiguous()).value(x) for i in (0, 1)], 1)
    return math.sqrt(float(w @ (v.gradient(x) - smooth).square().sum(1)))


def sine(d):
    """u = sin(k Σ cos πx_i), k = 3/(2√d), its gradient and −Δu."""
    k = 1.5 / math.sqrt(d)

    def gradient(x):
        return -k * π * torch.sin(π * x) * torch.cos(k * torch.cos(π * x).sum(1))[:, None]

    def source(x):
        z, s = torch.cos(π * x).sum(1), torch.sin(π * x).square().sum(1)
        return π**2 * (k * z * torch.cos(k * z) + k**2 * s * torch.sin(k * z))

    return gradient, source


def cube(d, n=20000):
    """Residual certificates in d dimensions: [(error, its standard error, bounds for m = 1, 2, 3, lower)]."""
    gradient, f = sine(d)
    rows = []
    for seed in SEEDS:
        g = torch.Generator().manual_seed(seed)
        points = certified.spread_points(3000, d, g)
        v = certified.ridge_sum(8, d, g, scale=1.0, cosine=True)
        v.a = torch.randn(8, dtype=torch.float64, generator=g) / 8
        for v in certified.train_residual(v, f, points, 25):
            pass
        g = torch.Generator().manual_seed(1000 + seed)
        check, fresh = (torch.rand(n, d, dtype=torch.float64, generator=g) for _ in range(2))
        squares = (v.gradient(check) - gradient(check)).square().sum(1)
        error = float(squares.mean().sqrt())
        noise = float(squares.std() / squares.mean()) / math.sqrt(n) / 2
        size = float(gradient(check).square().sum(1).mean().sqrt())
        cs = [certificates.deflated_residual_bound(v, f, fresh, cutoff=m) for m in (1, 2, 3)]
        rows.append((error, noise, [c.bound for c in cs], cs[2].lower, error / size))
    return rows


def row(kernel, ratios, ours, peer, agreement, note):
    return {"kernel": kernel, "ours": ours, "peer": peer, "ratio": statistics.median(ratios),
            "spread": [min(ratios), max(ratios)], "agreement": agreement, "note": note}


def measure() -> list[dict]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        flat, high = plane(), {d: cube(d) for d in (5, 10, 20)}
    finally:
        torch.set_num_threads(threads)
    out = []
    for kind, runs in flat.items():
        ratios = [e / b for e, b, _, _ in runs]
        bracketed = sum(low <= e * (1 + 1e-7) and e <= b * (1 + 1e-7) for e, b, low, _ in runs)
        rel = statistics.median(e for e, _, _, _ in runs)
        if kind == "recovery":
            out.append(row("recovery by averaging, linear elements, d=2", ratios,
                           f"median error {rel:.1e}", "limit 1",
                           f"error ≤ estimate in {sum(e <= b for e, b, _, _ in runs)} of {len(runs)}",
                           "the peer: an estimate, not a bound"))
            continue
        out.append(row(f"Prager-Synge, {kind}, d=2", ratios,
                       f"effectivity ≤ {1 / min(ratios):.7f}, median error {rel:.1e}", "limit 1",
                       f"lower ≤ error ≤ bound in {bracketed} of {len(runs)}",
                       f"bound in {1e3 * statistics.median(s for *_, s in runs):.0f} ms once q is known"))
    for d, runs in high.items():
        for i, m in enumerate((1, 2, 3)):
            ratios = [e / b[i] for e, _, b, _, _ in runs]
            safe = sum(e * (1 + 3 * s) <= b[i] for e, s, b, _, _ in runs)
            out.append(row(f"residual bound, tanh network, d={d}, m={m}", ratios,
                           f"effectivity {1 / max(ratios):.2f}–{1 / min(ratios):.2f}",
                           f"limit 1; with the constant √d/π {math.sqrt(d) / statistics.median(ratios):.1f}",
                           f"error + 3σ ≤ bound in {safe} of {len(runs)}",
                           f"relative errors {min(r for *_, r in runs):.0e}–{max(r for *_, r in runs):.0e}"))
    return out
