"""System identification: errors over seeds against peers and against the Cramér-Rao bound.

Everything runs on one thread in float64.  The problems are those of book/pde/identification.md, whose
bands are the ranges printed here.
"""
import math
import statistics
import time

import sympy as sp
import torch
from lecturelib.pde import approximation, equation_error, implicit, inverse, sindy
from lecturelib.pde.domains import Box
from lecturelib.pde.inverse_pinn import InversePinn, Shallow
from timing import paired

F64 = torch.float64
NOISE = 1e-2

STUDY = True


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def row(kernel, ours, peer, ratios, agreement, note):
    return {"kernel": kernel, "ours": ours, "peer": peer, "ratio": statistics.median(ratios),
            "spread": [min(ratios), max(ratios)], "agreement": agreement, "note": note}


def summary(errors):
    return f"{statistics.median(errors):.1e} [{min(errors):.1e}, {max(errors):.1e}]"


def rms(errors):
    return math.sqrt(statistics.fmean(e * e for e in errors))


class Problem:
    """The elliptic problem of the page: six cosines, a 32×32 grid."""

    def __init__(self, n=32):
        x, y = sp.symbols("x y", real=True)
        cos = lambda k, v: sp.cos(k * sp.pi * v)
        half, q = sp.Rational(1, 2), sp.Rational
        self.psi = torch.tensor([(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0, 2)])
        c = [1, q(3, 10), -q(1, 4), q(1, 5), q(1, 10), q(3, 20)]
        self.c = torch.tensor([float(v) for v in c], dtype=F64)
        u, minus = approximation.manufactured(cos(1, x) + q(3, 5) * cos(2, y) + half * cos(1, x) * cos(1, y), (x, y))
        a, _ = approximation.manufactured(
            sum(v * cos(k, x) * cos(m, y) for v, (k, m) in zip(c, self.psi.tolist())), (x, y))
        self.f = lambda p: a(p) * minus(p) - (a.gradient(p) * u.gradient(p)).sum(1)
        self.n, self.grid = n, inverse.Elliptic(n, self.f, 2)
        self.u = u(self.grid.nodes)
        self.scale = float(self.u.std())
        self.basis = equation_error.cosines(self.grid.centers, self.psi)[0]
        self.points, self.weights = Box.unit(2).quadrature(24)
        self.at_points, self.a = equation_error.cosines(self.points, self.psi)[0], a(self.points)

    def error(self, values):
        return float((self.weights @ (values - self.a) ** 2).sqrt() / (self.weights @ self.a**2).sqrt())

    def forward(self, c):
        a = self.basis @ c
        u = self.grid.solve(a)
        return u, self.grid.jacobian(a, u, self.basis)

    def bound(self, sensors):
        G = self.forward(self.c)[1][sensors] / (NOISE * self.scale)
        mass = (self.at_points.T * self.weights) @ self.at_points
        return float(((mass @ torch.linalg.inv(G.T @ G)).trace() / (self.weights @ self.a**2)).sqrt())

    def adjoint(self, d, sensors):
        forward = lambda c: tuple(v[sensors] for v in self.forward(c))
        fit = inverse.fit(forward, d, NOISE * self.scale, torch.eye(6, dtype=F64)[0], torch.zeros(0, 6, dtype=F64))
        return self.error(self.at_points @ fit.m)

    def weak(self, d):
        return self.error(self.at_points @ equation_error.weak(self.f, d, self.n, self.psi, equation_error.modes(6)[1:]))

    def strong(self, d):
        return self.error(self.at_points @ equation_error.strong(self.f, d, self.n, self.psi))

    def networks(self, seed):
        gen = torch.Generator().manual_seed(seed)
        return Shallow.random(150, 2, 2.0, gen), Shallow.random(30, 2, 1.0, gen)

    def pinn(self, d, sensors, seed, hidden_steps=0):
        trained = InversePinn(self.f, self.grid.nodes[sensors], d, NOISE * self.scale).train(
            *self.networks(seed), weights=(1.0, 10.0, 100.0, 1000.0), hidden_steps=hidden_steps)
        return self.error(trained.a.value(self.points))

    def adam(self, d, sensors, seed, seconds):
        """All weights of the same two networks, on the same residual at weight 10, for a given time."""
        pinn = InversePinn(self.f, self.grid.nodes[sensors], d, NOISE * self.scale)
        u, a = self.networks(seed)
        a.c[-1] = 1.0
        parameters = [p.requires_grad_() for net in (u, a) for p in (net.W, net.b, net.c)]
        optimizer = torch.optim.Adam(parameters, lr=3e-3)
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            (v, _, _), (_, g, l), (p, q, _) = ([F @ net.c for F in net.features(x)] for net, x in
                                               ((u, pinn.points), (u, pinn.x), (a, pinn.x)))
            e = u.gradient(pinn.edge)
            loss = ((v - d) / pinn.sigma).square().mean() + (10.0**2 / len(d)) * (
                (pinn.w * (p * l + (q * g).sum(1) + pinn.f)).square().sum()
                + (pinn.edge_w * (e * pinn.normal).sum(1)).square().sum())
            optimizer.zero_grad(), loss.backward(), optimizer.step()
            steps += 1
        with torch.no_grad():
            return self.error(a.value(self.points)), steps


def gradients(problem):
    """The implicit gradient against dense automatic differentiation and against finite differences."""
    model, d = problem.grid, problem.u
    inputs = torch.exp(0.3 * random(0, model.n**2))

    def ours():
        a = inputs.clone().requires_grad_()
        return torch.autograd.grad((model.weights * (model.solve(a) - d) ** 2).sum() / 2, a)[0]

    def dense():
        a = inputs.clone().requires_grad_()
        values = (a[:, None, None] * model.stiffness).reshape(-1)[model.kept]
        u = torch.linalg.solve(model.pattern.matrix(values), model.load[model.free])
        u = torch.zeros(len(d), dtype=F64).index_add(0, model.free, u)
        u = u - model.weights @ u
        return torch.autograd.grad((model.weights * (u - d) ** 2).sum() / 2, a)[0]

    gap = float((ours() - dense()).norm() / ours().norm())
    mine, theirs, ratio, spread = paired(ours, dense, rounds=7)
    yield {"kernel": "gradient of a misfit in 1024 conductivities, 1089 nodes", "ours": f"{1e3 * mine:.1f} ms",
           "peer": f"torch.linalg.solve with autograd {1e3 * theirs:.1f} ms", "ratio": ratio, "spread": spread,
           "agreement": f"relative difference {gap:.0e}", "note": "sparse LU once, transposed solve backward"}

    def J(a):
        return (model.weights * (model.solve(a) - d) ** 2).sum() / 2

    def eight():
        return [implicit.central_difference(J, inputs, v, 1e-5) for v in random(1, 8, model.n**2)]
    mine, theirs, ratio, spread = paired(ours, eight, rounds=7)
    scale, g = model.n**2 / 8, ours()
    gaps = []
    for seed in range(10):
        v = random(seed + 10, model.n**2)
        gaps.append(abs(float(implicit.central_difference(J, inputs, v, 1e-5) / (g @ v)) - 1))
    yield {"kernel": "the same gradient by central differences", "ours": f"{1e3 * mine:.1f} ms",
           "peer": f"2 × 1024 solves {scale * theirs:.1f} s (from 16)", "ratio": scale * ratio, "spread": [scale * s for s in spread],
           "agreement": f"relative difference in 10 directions {summary(gaps)}", "note": "≤ 1e-6 asked for"}


def shooting(E, support, sigma, data, times, C, x0):
    """Gauss-Newton through the solver, on growing horizons."""
    for end in (1000, 2000, 3000, 4000, 6000, 8000, 10_000):
        for _ in range(2):
            x, S = sindy.flow(C, E, x0, times[:end + 1], support, tolerance=1e-9)
            A = (S / sigma[:, None]).reshape(-1, S.shape[2])
            step = torch.linalg.lstsq(A, ((data[:end + 1] - x) / sigma).reshape(-1, 1)).solution[:, 0]
            C = C.clone()
            C[support[:, 0], support[:, 1]] += step[:len(support)]
            x0 = x0 + step[len(support):]
    return C


def lorenz(seeds=20, shots=10):
    E, Xi = sindy.lorenz()
    h, start = 1e-3, torch.tensor([-8.0, 7.0, 27.0], dtype=F64)
    times, support = torch.arange(10_001, dtype=F64) * h, torch.nonzero(Xi)
    orbit, S = sindy.flow(Xi, E, start, times, support)
    sigma = NOISE * orbit.std(0)
    G = (S / sigma[:, None]).reshape(-1, S.shape[2])
    bound = float(torch.linalg.inv(G.T @ G)[:7, :7].trace().sqrt() / Xi.norm())
    error = lambda C: float((C - Xi).norm() / Xi.norm())
    strong, weak, weighted, shot, exact = [], [], [], [], 0
    for seed in range(seeds):
        data = orbit + sigma * random(seed, *orbit.shape)
        strong.append(error(sindy.threshold_least_squares(*sindy.strong_system(data, h, E), 0.1)))
        C = sindy.threshold_least_squares(*sindy.weak_system(data, h, E, 200, 6, 20), 0.1)
        exact += bool(((C != 0) == (Xi != 0)).all())
        weak.append(error(C))
        C = sindy.reweight(data, h, E, C, sigma, 200, 6, 50)
        weighted.append(error(C))
        if seed < shots:
            shot.append(error(shooting(E, support, sigma, data, times, C, data[:20].mean(0))))
    name = "Lorenz, 10⁴ samples, 1 % noise: relative coefficient error"
    limit = f"Cramér–Rao bound {bound:.1e} (rms)"
    yield row(f"{name}, weak SINDy", summary(weak), f"strong SINDy {summary(strong)}",
              [s / w for s, w in zip(strong, weak)], f"support exact in {exact} of {seeds}", f"{seeds} seeds; ≤ 1e-3 asked for the median")
    for label, errors in (("weak SINDy", weak), ("weak SINDy, reweighted", weighted), ("Gauss–Newton through the solver", shot)):
        yield row(f"{name}, {label}", f"rms {rms(errors):.1e}, {summary(errors)}", limit, [bound / rms(errors)],
                  "the limit: 1 is the best an unbiased method can do", f"{len(errors)} seeds")


def elliptic(problem, seeds=10):
    everywhere = torch.arange(len(problem.u))
    few = torch.randperm(len(problem.u), generator=torch.Generator().manual_seed(0))[:40]
    results = {k: [] for k in ("weak", "adjoint", "PINN", "strong", "adjoint 40", "PINN 40")}
    clock = {k: [] for k in ("weak", "adjoint", "PINN")}
    for seed in range(seeds):
        d = problem.u + NOISE * problem.scale * random(seed, len(problem.u))
        for name, run in (("weak", lambda: problem.weak(d)), ("adjoint", lambda: problem.adjoint(d, everywhere)),
                          ("PINN", lambda: problem.pinn(d, everywhere, seed))):
            start = time.perf_counter()
            results[name].append(run())
            clock[name].append(time.perf_counter() - start)
        results["strong"].append(problem.strong(d))
        results["adjoint 40"].append(problem.adjoint(d[few], few))
        results["PINN 40"].append(problem.pinn(d[few], few, seed))
    for name, sensors in (("weak", everywhere), ("adjoint", everywhere), ("PINN", everywhere), ("strong", everywhere),
                          ("adjoint 40", few), ("PINN 40", few)):
        bound, errors = problem.bound(sensors), results[name]
        took = f", {1e3 * statistics.median(clock[name]):.0f} ms" if name in clock else ""
        yield row(f"elliptic coefficient, 1 % noise, {len(sensors)} values: relative L² error, {name.split()[0]}",
                  f"rms {rms(errors):.1e}, {summary(errors)}{took}", f"Cramér–Rao bound {bound:.1e} (rms)", [bound / rms(errors)],
                  "the limit, for six unknown cosines; the PINN is not told them", f"{seeds} seeds")
    trained, adam, ratios = [], [], []
    budget = 10 * statistics.median(clock["PINN"])
    for seed in range(3):
        d = problem.u + NOISE * problem.scale * random(seed, len(problem.u))
        trained.append(problem.pinn(d, everywhere, seed, hidden_steps=8))
        adam.append(problem.adam(d, everywhere, seed, budget))
        ratios.append(adam[-1][0] / results["PINN"][seed])
    yield row("inverse PINN, the same networks and residual", f"Gauss–Newton {summary(results['PINN'][:3])}",
              f"Adam for ten times as long {summary([e for e, _ in adam])}", ratios,
              f"{adam[0][1]} Adam steps in {budget:.0f} s", "3 seeds")
    yield row("inverse PINN, hidden layers random", summary(results["PINN"][:3]),
              f"hidden layers trained too {summary(trained)}", [t / p for t, p in zip(trained, results["PINN"])],
              "8 more steps on all weights", "3 seeds")


def coverage(truths=300):
    def f(x):
        x = x[:, 0]
        return torch.where((x < 1 / 3) | (x > 2 / 3), 6 * math.pi * torch.sin(6 * math.pi * x), 0 * x)
    rod, n = inverse.Elliptic(48, f, order=10), 48
    x = rod.centers[:, 0]
    root = torch.linalg.cholesky(0.25 * torch.exp(-(x[:, None] - x).abs() / 0.15))
    L = torch.linalg.inv(root)
    sigma = NOISE * float(rod.solve(torch.ones(n, dtype=F64)).std())

    def forward(m):
        a = torch.exp(m)
        u = rod.solve(a)
        return u, rod.jacobian(a, u, torch.diag(a))
    inside = []
    for k in range(truths):
        m = root @ random(2 * k, n)
        d = rod.solve(torch.exp(m)) + sigma * random(2 * k + 1, n + 1)
        fit = inverse.fit(forward, d, sigma, torch.zeros(n, dtype=F64), L, tolerance=1e-6)
        inside.append(float(((fit.m - m).abs() <= 2 * inverse.laplace(fit.J, L).diagonal().sqrt()).to(F64).mean()))
    mean, half = statistics.fmean(inside), 2.576 * statistics.stdev(inside) / truths**0.5
    nominal = math.erf(math.sqrt(2))
    assert abs(mean - nominal) < half
    yield row("Laplace posterior, 48 log-conductivities: truths within 2σ", f"{100 * mean:.2f} ± {100 * half:.2f} %",
              f"nominal {100 * nominal:.2f} %", [nominal / mean], "99 % interval over truths", f"{truths} truths from the prior")


def measure() -> list[dict]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        problem = Problem()
        return [*gradients(problem), *lorenz(), *elliptic(problem), *coverage()]
    finally:
        torch.set_num_threads(threads)
