"""Poincaré constants: $C_P^2 = 1/\\mu_1$ with $\\mu_1$ the first positive Neumann eigenvalue of −Δ.

On intervals and boxes by polynomials, on meshes of triangles from both sides: conforming linear
elements bound μ₁ from above, nonconforming ones from below (prop-cr).
"""
import itertools
import math

import torch

from . import _check
from .domains import gauss_legendre
from .equilibrium import derivative_svd, legendre
from .fem import Space, assemble, to_scipy
from .mesh import Mesh, square

KAPPA2 = 1 / math.pi**2 + 1 / 48  # ‖v − Iv‖² ≤ κ² h² ‖∇(v − Iv)‖² on a triangle of diameter h (prop-cr)


def payne_weinberger(diameter: float) -> float:
    """The bound $C_P \\le \\mathrm{diam}(\\Omega)/\\pi$ for convex Ω (thm-payne-weinberger).

    >>> round(payne_weinberger(math.pi), 12)
    1.0
    """
    return _check.positive("diameter", diameter) / math.pi


def box_eigenvalue(sides, degree: int) -> float:
    """μ₁ of a box by Rayleigh and Ritz over all polynomials of total `degree`: never below μ₁.

    No product structure is used: the trial space contains every polynomial, mixed or not.

    >>> round(box_eigenvalue([1.0, 1.0, 1.0], 7) / math.pi**2, 6)
    1.0
    """
    _check.whole("degree", degree, 3)
    sides = [_check.positive("sides", s) for s in sides]
    one = []
    for s in sides:
        U, sv, V = derivative_svd(degree, s, clamped=False)
        one.append(V[:, :degree] * sv.square() @ V[:, :degree].T)          # ∫ L_i' L_j'
    index = _multi_indices(len(sides), degree)
    K = torch.zeros(len(index), len(index), dtype=torch.float64)
    for i, K1 in enumerate(one):
        rest = torch.cat([index[:, :i], index[:, i + 1:]], 1)
        same = (rest[:, None] == rest).all(2)
        K += K1[index[:, i][:, None], index[:, i]] * same
    return float(torch.linalg.eigvalsh(K)[0])


def _multi_indices(d, degree):
    """All k in ℕ₀^d with 0 < |k|₁ ≤ degree, by stars and bars."""
    rows = [[b - a - 1 for a, b in zip((-1,) + bars, bars)]
            for bars in itertools.combinations(range(degree + d), d)]
    return torch.tensor([r for r in rows if sum(r)])


def weighted_eigenvalue(weight, length: float = 1.0, degree: int = 30) -> float:
    """First positive eigenvalue of $-(pv')' = \\mu p v$, $pv'=0$ at the ends (lem-needle), by polynomials.

    Parameters
    ----------
    weight : callable, positive on (0, length), points `(n,)` to values `(n,)`.

    Raises ValueError if the weight is not positive and finite at the quadrature points.

    >>> round(weighted_eigenvalue(lambda x: torch.ones_like(x)) / math.pi**2, 9)
    1.0
    """
    x, w = gauss_legendre(3 * degree, 0.0, _check.positive("length", length))
    p = _check.tensor("weight(x)", weight(x), 1)
    if not (p > 0).all():
        raise ValueError(f"weight must be positive; its least value is {float(p.min()):.3e}")
    L = legendre(x, degree, 0.0, length)
    U, s, V = derivative_svd(degree, length, clamped=False)
    dL = legendre(x, degree - 1, 0.0, length) @ (U * s) @ V[:, :degree].T
    M, K = (L.T * (w * p)) @ L, (dL.T * (w * p)) @ dL
    R, info = torch.linalg.cholesky_ex(M)
    if info != 0:
        raise ValueError(f"weight must vary less for polynomials of degree {degree}; its largest value "
                         f"is {float(p.max() / p.min()):.0e} times its least")
    A = torch.linalg.solve_triangular(R, torch.linalg.solve_triangular(R, K, upper=False).T, upper=False)
    return float(torch.linalg.eigvalsh((A + A.T) / 2)[1])


# ------------------------------------------------------------------------------------ triangles
def triangle(corners, n: int) -> Mesh:
    """The triangle with the given three `corners` in n² congruent triangles.

    >>> triangle([[0, 0], [1, 0], [0, 1]], 4).cells.shape
    torch.Size([16, 3])
    """
    corners = torch.as_tensor(corners, dtype=torch.float64)
    grid = square(n)
    center = grid.points[grid.cells].mean(1)
    cells = grid.cells[center[:, 1] < center[:, 0]]
    used, renumbered = torch.unique(cells, return_inverse=True)
    x, y = grid.points[used].unbind(1)
    bary = torch.stack([1 - x, x - y, y], 1)
    return Mesh(bary @ corners, renumbered)


def dumbbell(neck: float, length: float = 0.5, h: float = 0.08) -> Mesh:
    """Two unit squares joined by a channel of width `neck` and given `length`, center at 0.

    Cells of side at most h, graded down to neck/6 at the mouths of the channel.
    Raises ValueError unless 0 < neck ≤ 1.

    >>> round(float(dumbbell(0.25).volumes.sum()), 12)      # 2 + 0.25 · 0.5
    2.125
    """
    if not 0 < neck <= 1:
        raise ValueError(f"neck must lie in (0, 1]; got {neck}")
    _check.positive("length", length), _check.positive("h", h)
    fine = min(h, neck / 6)
    out = _graded(1.0, fine, h)                                      # from the mouth outwards
    inside = length / 2 - _graded(length / 2, fine, h).flip(0)
    x = torch.cat([inside, length / 2 + out[1:]])
    side = neck / 2 + _graded((1 - neck) / 2, fine, h) if neck < 1 else torch.tensor([0.5]).double()
    inner = torch.linspace(0, neck / 2, max(3, math.ceil(neck / 2 / h)) + 1, dtype=torch.float64)
    y = torch.cat([inner, side[1:]])
    x, y = (torch.cat([-t.flip(0), t[1:]]) for t in (x, y))
    i, j = len(x), len(y)
    number = torch.arange(i * j).reshape(i, j)
    a, b, c, e = (t.ravel() for t in (number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]))
    cells = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, e], 1)])
    points = torch.cartesian_prod(x, y)
    center = points[cells].mean(1).abs()
    keep = (center[:, 0] > length / 2) | (center[:, 1] < neck / 2)
    used, cells = torch.unique(cells[keep], return_inverse=True)
    return Mesh(points[used], cells)


def _graded(length, fine, coarse, ratio=1.25):
    """Numbers from 0 to `length` with steps that grow from `fine` to `coarse` by at most `ratio`."""
    steps, step = [], fine
    while sum(steps) < length:
        steps.append(min(step, coarse))
        step *= ratio
    t = torch.tensor([0.0] + steps, dtype=torch.float64).cumsum(0)
    return t * (length / t[-1])


def crouzeix_raviart(mesh: Mesh) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Stiffness and (diagonal) mass matrix of nonconforming linear elements, and edge numbers.

    The unknowns are the values at edge midpoints.  Returns K as sparse CSR `(E, E)`, the diagonal of
    M `(E,)`, and `(T, 3)` the edge opposite to each vertex.

    >>> K, M, edges = crouzeix_raviart(square(1))
    >>> K.shape, round(float(M.sum()), 12)
    (torch.Size([5, 5]), 1.0)
    """
    pairs = torch.stack([mesh.cells[:, [1, 2]], mesh.cells[:, [2, 0]], mesh.cells[:, [0, 1]]], 1)
    pairs = pairs.sort(2).values
    keys, edges = torch.unique(pairs[..., 0] * len(mesh.points) + pairs[..., 1], return_inverse=True)
    grad = mesh.gradients()                              # ψ_i = 1 − 2λ_i, ∇ψ_i = −2∇λ_i
    local = 4 * torch.bmm(grad, grad.mT) * mesh.volumes[:, None, None]
    M = grad.new_zeros(len(keys)).index_add_(0, edges.ravel(),
                                             (mesh.volumes / 3).repeat_interleave(3))
    return assemble(local, edges, len(keys)), M, edges


def neumann_bracket(mesh: Mesh, eigenfunction: bool = False):
    """Lower and upper bound of μ₁ on a polygon (prop-cr); exact up to the eigenvalue solver's rounding.

    Upper: conforming linear elements.  Lower: $1/\\mu_1 \\le 1/\\mu_{CR} + \\kappa^2h^2$ with
    nonconforming ones.  With `eigenfunction` also the conforming one `(len(points),)`.
    Runs on the CPU, wherever the mesh lives (scipy's sparse Lanczos method).
    Raises ValueError if the mesh is not connected: then μ₁ = 0.

    >>> low, high = neumann_bracket(square(24))
    >>> low < math.pi**2 < high < 1.01 * low
    True
    """
    from scipy.sparse import diags_array
    mesh = Mesh(mesh.points.cpu(), mesh.cells.cpu())
    K, M, _ = crouzeix_raviart(mesh)
    cr = _first(to_scipy(K), diags_array(M.numpy()).tocsc())[0]
    space = Space(mesh, 1)
    upper, vector = _first(to_scipy(space.stiffness()), to_scipy(space.mass()))
    lower = 1 / (1 / cr + KAPPA2 * mesh.h**2)
    return (lower, upper, torch.as_tensor(vector)) if eigenfunction else (lower, upper)


def _first(K, M):
    """Smallest positive generalized eigenvalue and its vector, K singular with the constants."""
    import numpy as np
    from scipy.sparse.linalg import eigsh
    value, vector = eigsh(K.tocsc(), k=2, M=M.tocsc(), sigma=-0.1, v0=np.linspace(1, 2, K.shape[0]))
    if value[1] <= 1e-12 * (K.diagonal() / M.diagonal()).max():
        raise ValueError(f"mesh must be connected; its second eigenvalue is {value[1]:.1e}")
    return float(value[1]), vector[:, 1]
