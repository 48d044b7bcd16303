"""Finite elements against scikit-fem, random features against finite elements, the tensor solver.

book/pde/finite_basis.md runs one seed of `features` and checks it against the worst of these ten.
"""
import math
import statistics

import skfem
import sympy
import torch
from lecturelib.pde import bases, curse, fem, galerkin, mesh
from lecturelib.pde.approximation import errors, manufactured
from lecturelib.pde.domains import Box
from skfem.models.poisson import laplace, mass
from timing import paired, seconds

SEEDS = range(10)
SCALE = {"tanh": 2.0, "cos": 6.0}
X = sympy.symbols("x y")


def problem():
    """Poisson's equation on the square with u = sin πx sin πy on a 30-point Gauss rule per axis."""
    u, f = manufactured(sympy.sin(sympy.pi * X[0]) * sympy.sin(sympy.pi * X[1]), X)
    square = Box.unit(2)
    return u, f, square, square.quadrature(30), square.boundary(30)[:2]


def features(activation: str, N: int, seed: int):
    """Solve the problem with N random features; the relative L² error, and the solve as a closure."""
    u, f, square, inside, edge = problem()
    basis = bases.RandomFeatures.sample(square, N, SCALE[activation],
                                        torch.Generator().manual_seed(seed), activation)

    def solve():
        return galerkin.least_squares(basis, f.value, lambda x: 0 * x[:, 0], inside, edge).u
    return errors(solve(), u, *square.quadrature(25)).relative_l2, solve


def assembly(form: str, degree: int, n: int) -> dict:
    peer_mesh = skfem.MeshTri.init_tensor(*[torch.linspace(0, 1, n + 1, dtype=torch.float64).numpy()] * 2)
    element = (skfem.ElementTriP1, skfem.ElementTriP2)[degree - 1]
    bilinear = {"stiffness": laplace, "mass": mass}[form]

    def ours():
        return getattr(fem.Space(mesh.from_skfem(peer_mesh), degree), form)()

    def peer():                             # the rule scikit-fem needs to be exact, no more
        order = 2 * degree - 2 * (form == "stiffness")
        return bilinear.assemble(skfem.Basis(peer_mesh, element(), intorder=order))

    A, B = fem.to_scipy(ours()), peer()
    if degree == 1:
        gap = abs(A - B).max()
        agreement = f"equal to {gap:.1e} entry by entry"
        assert gap < 1e-12
    else:                                   # other numbering of the edges: compare what does not see it
        gap = abs(math.sqrt(A.multiply(A).sum()) / math.sqrt(B.multiply(B).sum()) - 1)
        agreement = f"Frobenius norms equal to {gap:.1e}"
        assert gap < 1e-12
    del A, B
    mine, theirs, ratio, spread = paired(ours, peer, rounds=7, warmup=1)
    return {"kernel": f"P{degree} {form} matrix, {2 * n * n:,} triangles, mesh arrays to CSR",
            "ours": f"{mine:.2f} s", "peer": f"scikit-fem {theirs:.2f} s", "ratio": ratio, "spread": spread,
            "agreement": agreement, "note": "one thread; checks of the mesh included in ours"}


def random_features(activation: str, N: int) -> dict:
    """Ten seeds; the peer is linear finite elements on the mesh that takes about as long."""
    u, f, square, *_ = problem()
    results = [features(activation, N, seed) for seed in SEEDS]
    error = [e for e, _ in results]
    times = [min(seconds(solve) for _ in range(5)) for _, solve in results]

    def elements(n=64):
        return fem.poisson(fem.Space(mesh.square(n), 2), f.value, lambda x: 0 * x[:, 0])

    u_h = elements()
    theirs = errors(u_h, u, *u_h.space.mesh.quadrature(8)).relative_l2
    clock = min(seconds(elements) for _ in range(5))
    ratios = [theirs / e for e in error]
    assert max(error) <= 1e-9
    return {"kernel": f"2-D Poisson (Dirichlet), {N} random {activation} features, QR; relative L2 error, 10 seeds",
            "ours": f"median {statistics.median(error):.1e}, worst {max(error):.1e}, in {statistics.median(times):.3f} s "
                    f"(worst {max(times):.3f} s)",
            "peer": f"P2 elements, {u_h.space.N:,} unknowns: {theirs:.1e} in {clock:.3f} s",
            "ratio": statistics.median(ratios), "spread": [min(ratios), max(ratios)],
            "agreement": "both against the manufactured solution",
            "note": "ratio of errors; one thread; target 1e-9 in 0.1 s"}


def grid(d: int = 6, n: int = 10) -> dict:
    """The solve behind the curse, against the same matrix applied by conjugate gradients."""
    _, A, M = curse.line_matrices(n)
    F = torch.randn((n + 1,) * d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    F -= F.mean()

    def apply(u):
        return sum(_kron([A if j == i else M for j in range(d)], u) for i in range(d))

    def ours():
        return curse.tensor_solve(A, M, F)

    gap = float((apply(ours()) - F).norm() / F.norm())
    assert gap < 1e-9
    mine, theirs, ratio, spread = paired(ours, lambda: apply(F), rounds=5, warmup=1)
    return {"kernel": f"Q1 Neumann problem in d = {d}, {F.numel():,} unknowns, direct tensor solve",
            "ours": f"{mine:.2f} s", "peer": f"one product with the matrix {theirs:.2f} s", "ratio": ratio,
            "spread": spread, "agreement": f"relative residual {gap:.1e}",
            "note": "one thread; the peer is a lower bound for any iteration: at least one product"}


def _kron(factors, u):
    for B in factors:
        u = torch.tensordot(u, B, dims=([0], [1]))
    return u


def measure() -> list[dict]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [assembly("stiffness", 1, 707), assembly("mass", 1, 707), assembly("stiffness", 2, 354),
                random_features("tanh", 300), random_features("cos", 200), grid()]
    finally:
        torch.set_num_threads(threads)
