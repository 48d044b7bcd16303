"""Operator learning over ten seeds against kernels on the same pairs, and the layer against the FFT."""
import statistics

import torch
from lecturelib.pde import discretize, evolution, operators, regression, spectral
from timing import paired

SEEDS = range(10)
EQUATIONS = {"0.1": (0.1, 1.0, 1200, 16), "0.02": (0.02, 0.5, 2000, 24)}   # viscosity, time, steps, channels
TRAIN, TEST = 1000, 200
FIELD, BAND = spectral.Fourier(128), spectral.Fourier(31)

STUDY = True


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def error(predict, a, u) -> float:
    return float(operators.relative_errors(predict(a).double(), u).mean())


def on(v, n: int):
    return v[:, ::v.shape[1] // n]


def features(a, s: float):
    frequency = torch.arange(32, dtype=a.dtype).clamp(min=1).repeat_interleave(2)
    return spectral.coefficients(BAND, a) * frequency**-s


def kernel_error(a, u, a_test, u_test) -> float:
    fits = {s: regression.Kernel.fit(features(a, s), spectral.coefficients(BAND, u)) for s in (0.0, 1.0)}
    s = min(fits, key=lambda s: fits[s].leave_one_out)
    return error(lambda v: spectral.values(BAND, fits[s](features(v, s)), v.shape[1]), a_test, u_test)


def symmetric_kernel_error(a, u, a_test, u_test, seed: int) -> float:
    """Interpolate a ↦ u(0) from two translates of every pair."""
    pair, j = torch.arange(len(a)).repeat(2), torch.randint(0, 64, (len(a),), generator=gen(seed + 2))
    j = torch.cat((j, (j + 32) % 64))
    moved = a[pair[:, None], (torch.arange(64) + j[:, None]) % 64]
    fit = regression.Kernel.fit(features(moved, 1.0), u[pair, j][:, None], lengths=(4.0,))
    return error(lambda v: torch.stack([fit(features(v.roll(-i, 1), 1.0))[:, 0] for i in range(64)], 1), a_test, u_test)


def burgers(name: str, seed: int) -> dict:
    nu, T, steps, width = EQUATIONS[name]
    coefficients = evolution.gaussian_field(FIELD, TRAIN + TEST, tau=5.0, power=2.0, generator=gen(seed))
    a = spectral.values(FIELD, coefficients, 512)
    u = evolution.burgers(a, nu, T)
    net = operators.NeuralOperator(spectral.Fourier(16), width=width, depth=4, generator=gen(seed), dtype=torch.float32)
    known, asked = slice(0, TRAIN), slice(TRAIN, None)
    pairs = on(a[known], 64), on(u[known], 64)
    operators.fit(net, *pairs, steps, generator=gen(seed + 1))
    by_grid = {n: error(lambda v: net(v.float()), on(a[asked], n), on(u[asked], n)) for n in (64, 128, 512)}
    test = on(a[asked], 64), on(u[asked], 64)
    linear = regression.LinearMap.fit(*pairs)
    row = {"network": by_grid[64], "128": by_grid[128] / by_grid[64], "512": by_grid[512] / by_grid[64],
           "kernel": kernel_error(*pairs, *test), "linear": error(linear, *test)}
    if name == "0.02":
        row["symmetric"] = symmetric_kernel_error(*pairs, *test, seed)
    return row


def darcy(seed: int) -> dict:
    square, pairs = spectral.Cosine(11, 2), 600
    c = torch.cos(torch.pi * discretize.centers(32)[:, 0])
    f = 2 * torch.pi**2 * c[:, None] * c
    log_a = evolution.gaussian_field(square, pairs + 100, tau=3.0, power=2.0, generator=gen(seed), deviation=0.5)
    fine = torch.exp(spectral.values(square, log_a, 32)).reshape(-1, 32, 32)
    solved = evolution.Darcy(fine).solve(f, tolerance=1e-6)

    def inputs(n):
        c = torch.cos(torch.pi * discretize.centers(n)[:, 0])
        g = spectral.values(square, log_a, n)
        return torch.stack((g, (c[:, None] * c).flatten().expand_as(g)), 2)

    u = {16: solved.reshape(-1, 16, 2, 16, 2).mean((2, 4)).flatten(1), 32: solved.flatten(1)}
    a = {n: inputs(n) for n in u}
    net = operators.NeuralOperator(spectral.Cosine(5, 2), width=16, depth=4, inputs=2, generator=gen(seed),
                                   dtype=torch.float32)
    operators.fit(net, a[16][:pairs], u[16][:pairs], 500, rate=6e-3, generator=gen(seed + 1))
    errors = {n: error(lambda v: net(v.float()), a[n][pairs:], u[n][pairs:]) for n in u}
    g = a[16][..., 0]
    return {"network": errors[16], "512": errors[32] / errors[16],
            "kernel": error(regression.Kernel.fit(g[:pairs], u[16][:pairs]), g[pairs:], u[16][pairs:]),
            "linear": error(regression.LinearMap.fit(g[:pairs], u[16][:pairs]), g[pairs:], u[16][pairs:])}


def row(what: str, runs: list[dict], peer: str, name: str, note: str) -> dict:
    mine, ratios = [r["network"] for r in runs], [r[peer] / r["network"] for r in runs]
    theirs = statistics.median(r[peer] for r in runs)
    grids = [r[k] for r in runs for k in ("128", "512") if k in r]
    return {"kernel": f"{what}, mean relative test error, {len(runs)} seeds",
            "ours": f"network {100 * statistics.median(mine):.2f} % ({100 * min(mine):.2f}–{100 * max(mine):.2f})",
            "peer": f"{name} {100 * theirs:.2f} %",
            "ratio": statistics.median(ratios), "spread": [min(ratios), max(ratios)],
            "agreement": f"on finer grids {min(grids):.2f}–{max(grids):.2f} times the error", "note": note}


class FourierLayer(torch.nn.Module):
    """The usual form of the layer: rfft, einsum over the kept frequencies, irfft."""

    def __init__(self, layer):
        super().__init__()
        self.R = torch.nn.Parameter(torch.view_as_complex(layer.R.detach().clone()).conj().resolve_conj())
        self.local = layer.local

    def forward(self, v):
        hat = torch.fft.rfft(v, dim=1, norm="forward")[:, :len(self.R)]
        hat = torch.einsum("bkw,kwv->bkv", hat, self.R)
        return torch.fft.irfft(hat, n=v.shape[1], dim=1, norm="forward") + self.local(v)


def layer_row(n: int) -> dict:
    layer = operators.SpectralLayer(spectral.Fourier(16), 24, gen(0), dtype=torch.float32)
    usual = FourierLayer(layer)
    v = torch.randn(20, n, 24, generator=gen(1), requires_grad=True)

    def steps(module):
        def run():
            for _ in range(20):
                module(v).sum().backward()
        return run

    with torch.no_grad():
        gap = float((layer(v) - usual(v)).abs().max() / usual(v).abs().max())
    assert gap < 1e-5
    mine, theirs, ratio, spread = paired(steps(layer), steps(usual), rounds=15)
    return {"kernel": f"spectral layer, forward and backward, 20 × {n} × 24 float32, 16 frequencies",
            "ours": f"{1e3 * mine / 20:.2f} ms", "peer": f"rfft, einsum, irfft {1e3 * theirs / 20:.2f} ms",
            "ratio": ratio, "spread": spread, "agreement": f"differ by {gap:.0e}", "note": "one thread"}


def measure() -> list[dict]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        easy, hard = ([burgers(name, seed) for seed in SEEDS] for name in EQUATIONS)
        flow = [darcy(seed) for seed in SEEDS]
        rows = [row("Burgers, ν = 0.1, 1200 steps", easy, "kernel", "kernel", "the kernel wins"),
                row("Burgers, ν = 0.02, 2000 steps", hard, "kernel", "kernel", "metric by leave-one-out"),
                row("Burgers, ν = 0.02, 2000 steps", hard, "symmetric", "kernel with symmetry",
                    "shares the translations with the network; 2000 translates"),
                row("Burgers, ν = 0.02, 2000 steps", hard, "linear", "linear map", ""),
                row("Darcy, 16 × 16 cells, 500 steps", flow, "kernel", "kernel", "the kernel is ahead"),
                layer_row(64), layer_row(512)]
    finally:
        torch.set_num_threads(threads)
    return rows
