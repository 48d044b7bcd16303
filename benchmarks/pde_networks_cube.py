"""Networks in five and ten dimensions by the sample-space natural gradient, over ten seeds."""
import statistics
import time

import sympy as sp
import torch
from lecturelib.pde import approximation, boundary, energies, networks, sample_space
from lecturelib.pde.domains import Box

SEEDS = range(10)
SETTINGS = {5: dict(m=512, scale=1.0, iterations=13, points=(400, 900), damping=1e-8, beta=1000.0),
            10: dict(m=192, scale=0.7, iterations=25, points=(300, 900), damping=1e-6, beta=500.0)}
WANTED = {(5, "sum of cosines"): 1e-5, (5, "pairs of cosines"): 1e-4, (5, "Gaussian"): 3e-4,
          (10, "harmonic"): 1e-4, (10, "sum of cosines"): 1e-3, (10, "pairs of cosines"): 5e-3}

STUDY = True


def target(d, name):
    x = sp.symbols(f"x1:{d + 1}")
    return approximation.manufactured({
        "sum of cosines": sum(sp.cos(sp.pi * p) for p in x),
        "pairs of cosines": sum(sp.cos(sp.pi * p) * sp.cos(sp.pi * q) for p, q in zip(x, x[1:])),
        "Gaussian": sp.exp(-sum((p - sp.Rational(1, 2))**2 for p in x)),
        "harmonic": sum(p * q for p, q in zip(x[::2], x[1::2]))}[name], x)


def solve(d, u, f, seed, m, scale, iterations, points, damping, beta):
    """Relative error, effectivity of the certificate and seconds of one run."""
    box, gen = Box.unit(d), torch.Generator().manual_seed(seed)

    def draw(n):
        return energies.StrongForm(f.value, energies.interior_sample(box, n, gen), u.value,
                                   energies.boundary_sample(box, n, gen))

    start = time.perf_counter()
    net = networks.Shallow.random(m, box, gen, scale, subsets=True)
    v = sample_space.train(net, draw, beta, iterations, points, damping).u
    v = sample_space.solve_outer(v, draw(3000), beta, 1e-12, "gram")
    seconds = time.perf_counter() - start
    x = torch.quasirandom.SobolEngine(d, scramble=True, seed=1).draw(8192).to(torch.float64)
    error = float((v.value(x) - u.value(x)).square().mean().sqrt())
    bound = boundary.soft_dirichlet_bound(v, f.value, u.value, box, energies.interior_sample(box, 8192, gen)[0],
                                          energies.boundary_sample(box, 8192, gen)[0])
    return error / float(u.value(x).square().mean().sqrt()), bound.effectivity(error), seconds


def measure() -> list[dict]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    try:
        for (d, name), wanted in WANTED.items():
            u, f = target(d, name)
            errors, factors, seconds = zip(*(solve(d, u, f, s, **SETTINGS[d]) for s in SEEDS))
            rows.append({"kernel": f"−Δu = f, d = {d}, {name}", "ours": f"{statistics.median(errors):.1e} in {statistics.median(seconds):.1f} s",
                         "peer": f"wanted {wanted:.0e}", "ratio": wanted / max(errors),
                         "spread": [wanted / max(errors), wanted / min(errors)],
                         "agreement": f"errors {min(errors):.1e}…{max(errors):.1e} over {len(errors)} seeds; certificate {min(factors):.1f} to {max(factors):.1f} times the error, never below it: {min(factors) >= 1}",
                         "note": "one core, fresh random points every step; ratio = wanted / worst",
                         "band": [min(errors), max(errors)]})
    finally:
        torch.set_num_threads(threads)
    return rows
