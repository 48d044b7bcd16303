"""Finite elements of degree 1 and 2 on intervals and triangles, assembled without a loop over cells.

On a cell, $\\nabla\\varphi_a=\\sum_i\\partial_{\\lambda_i}\\varphi_a\\,\\nabla\\lambda_i$, so that every local
matrix is one linear map of the geometry: $K^T_{ab}=|T|\\sum_{ij}R_{ab,ij}\\nabla\\lambda_i\\cdot\\nabla\\lambda_j$
with numbers R of the reference cell, one matrix product for all cells (eq-local-stiffness).
"""
import warnings

import torch

from . import _check, iteration
from .approximation import sample
from .galerkin import compatible
from .mesh import EDGES, Mesh, simplex_rule


class Space:
    """Continuous piecewise polynomials of degree 1 or 2 on a mesh.

    Parameters
    ----------
    mesh : `Mesh`; degree : 1 or 2.

    Attributes: `N` unknowns, `nodes` `(N, d)`, `dofs` `(T, local)`: the vertices come first, for
    degree 2 the edge midpoints follow; `boundary`: the unknowns on the boundary.

    >>> from lecturelib.pde.mesh import square
    >>> Space(square(1), 1).N, Space(square(1), 2).N
    (4, 9)
    """
    natural = True      # no boundary condition is built in

    def __init__(self, mesh: Mesh, degree: int = 1):
        if degree not in (1, 2):
            raise ValueError(f"degree must be 1 or 2; got {degree!r}")
        self.mesh, self.degree, self.d = mesh, degree, mesh.d
        self.dofs, self.nodes = mesh.cells, mesh.points
        if degree == 2:
            vertices, (keys, number, _) = len(mesh.points), self._edges()
            ends = torch.stack([keys // vertices, keys % vertices], 1)
            self.dofs = torch.cat([mesh.cells, vertices + number], 1)
            self.nodes = torch.cat([mesh.points, mesh.points[ends].mean(1)])
        self.N = len(self.nodes)

    def _edges(self):
        """Every edge once as first·vertices + second, the cells' edge numbers, cells per edge."""
        pairs = torch.stack([self.mesh.cells[:, list(p)] for p in EDGES[self.d]], 1).sort(2).values
        return torch.unique(pairs[..., 0] * len(self.mesh.points) + pairs[..., 1],
                            return_inverse=True, return_counts=True)

    @property
    def boundary(self) -> torch.Tensor:
        """Numbers of the unknowns on the boundary, ascending."""
        vertices = len(self.mesh.points)
        if self.d == 1:
            return (torch.bincount(self.mesh.cells.ravel()) == 1).nonzero()[:, 0]
        keys, _, count = self._edges()
        edge = (count == 1).nonzero()[:, 0]
        ends = torch.unique(torch.cat([keys[edge] // vertices, keys[edge] % vertices]))
        return ends if self.degree == 1 else torch.cat([ends, vertices + edge])

    def stiffness(self) -> torch.Tensor:
        """$K_{ij}=\\int\\nabla\\varphi_i\\cdot\\nabla\\varphi_j$ as a sparse CSR tensor `(N, N)`."""
        return assemble(local_stiffness(self.mesh, self.degree), self.dofs, self.N)

    def mass(self) -> torch.Tensor:
        """$M_{ij}=\\int\\varphi_i\\varphi_j$ as a sparse CSR tensor `(N, N)`."""
        bary, w = simplex_rule(self.d, 2 * self.degree, self.nodes.dtype, self.nodes.device)
        phi, _ = shapes(self.degree, bary)
        reference = torch.einsum("q,qa,qb->ab", w, phi, phi)
        return assemble(self.mesh.volumes[:, None, None] * reference, self.dofs, self.N)

    def load(self, f, degree: int = 6) -> torch.Tensor:
        """$F_i=\\int f\\varphi_i$, shape `(N,)`, with a rule exact for polynomials of `degree`.

        Raises ValueError if `f` returns the wrong shape, NaN or infinity.
        """
        x, _ = self.mesh.quadrature(degree)
        bary, w = simplex_rule(self.d, degree, self.nodes.dtype, self.nodes.device)
        values = sample(f, x, "right-hand side f").reshape(len(self.dofs), len(w))
        local = (values * self.mesh.volumes[:, None]) @ (w[:, None] * shapes(self.degree, bary)[0])
        return x.new_zeros(self.N).index_add_(0, self.dofs.ravel(), local.ravel())

    def evaluate(self, x: torch.Tensor) -> torch.Tensor:
        """The values of all N basis functions, dense `(n, N)`; for few unknowns."""
        cell, bary = self.mesh.locate(x)
        return x.new_zeros(len(x), self.N).scatter_(1, self.dofs[cell], shapes(self.degree, bary)[0])

    def gradient(self, x: torch.Tensor) -> torch.Tensor:
        """The gradients of all N basis functions, dense `(n, N, d)`; for few unknowns."""
        cell, bary = self.mesh.locate(x)
        slope = shapes(self.degree, bary)[1] @ self.mesh.gradients()[cell]
        index = self.dofs[cell][:, :, None].expand_as(slope)
        return x.new_zeros(len(x), self.N, self.d).scatter_(1, index, slope)

    def laplacian(self, x):
        raise ValueError("a continuous piecewise polynomial has no Laplacian in L²: its gradient jumps")

    def interpolate(self, u) -> "FiniteElement":
        """The function that agrees with the callable `u` at the nodes."""
        return FiniteElement(self, sample(u, self.nodes, "u"))

    def function(self, c: torch.Tensor) -> "FiniteElement":
        """The approximation $\\sum_ic_i\\varphi_i$ (eq-basis-expansion)."""
        return FiniteElement(self, c)


class FiniteElement:
    """The approximation with coefficients `c` `(N,)` in a `Space`; it has no Laplacian.

    >>> from lecturelib.pde.mesh import interval
    >>> u = Space(interval([0, 0.5, 1]), 2).interpolate(lambda x: x[:, 0] ** 2)
    >>> x = torch.tensor([[0.3]], dtype=torch.float64)
    >>> round(float(u.value(x)), 12), round(float(u.gradient(x)), 12)
    (0.09, 0.6)
    """

    def __init__(self, space: Space, c: torch.Tensor):
        if _check.tensor("c", c, 1).shape != (space.N,):
            raise ValueError(f"c must have {space.N} entries; got {len(c)}")
        self.space, self.c = space, c

    def value(self, x: torch.Tensor) -> torch.Tensor:
        cell, bary = self.space.mesh.locate(x)
        return (shapes(self.space.degree, bary)[0] * self.c[self.space.dofs[cell]]).sum(1)

    __call__ = value

    def gradient(self, x: torch.Tensor) -> torch.Tensor:
        cell, bary = self.space.mesh.locate(x)
        slope = (shapes(self.space.degree, bary)[1] * self.c[self.space.dofs[cell]][:, :, None]).sum(1)
        return (slope[:, :, None] * self.space.mesh.gradients()[cell]).sum(1)

    def laplacian(self, x):
        return self.space.laplacian(x)


def shapes(degree: int, bary: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Shape functions `(q, local)` and their $\\partial/\\partial\\lambda_i$ `(q, local, d+1)`.

    Degree 1: $\\lambda_i$.  Degree 2: $\\lambda_i(2\\lambda_i-1)$ at vertices, $4\\lambda_i\\lambda_j$ on edges.

    >>> shapes(2, torch.tensor([[0.5, 0.5]]))[0].tolist()
    [[0.0, 0.0, 1.0]]
    """
    unit = torch.eye(bary.shape[1], dtype=bary.dtype, device=bary.device)
    if degree == 1:
        return bary, unit.expand(len(bary), -1, -1)
    edges = EDGES[bary.shape[1] - 1]
    i, j = [p[0] for p in edges], [p[1] for p in edges]
    phi = torch.cat([bary * (2 * bary - 1), 4 * bary[:, i] * bary[:, j]], 1)
    slope = torch.cat([(4 * bary - 1)[:, :, None] * unit,
                       4 * (bary[:, i, None] * unit[j] + bary[:, j, None] * unit[i])], 1)
    return phi, slope


def local_stiffness(mesh: Mesh, degree: int) -> torch.Tensor:
    """$|T|\\sum_{ij}R_{ab,ij}\\,\\nabla\\lambda_i\\cdot\\nabla\\lambda_j$ for all cells, `(T, local, local)`."""
    grad = mesh.gradients()
    metric = torch.bmm(grad * mesh.volumes[:, None, None], grad.mT)
    if degree == 1:
        return metric                       # R is the identity
    bary, w = simplex_rule(mesh.d, 2 * degree - 2, grad.dtype, grad.device)
    slope = shapes(degree, bary)[1]
    R = torch.einsum("q,qai,qbj->ijab", w, slope, slope)
    local = R.shape[-1]
    return (metric.reshape(len(grad), -1) @ R.reshape(-1, local**2)).reshape(-1, local, local)


def assemble(local: torch.Tensor, dofs: torch.Tensor, N: int) -> torch.Tensor:
    """Sum local matrices `(T, k, k)` into a sparse CSR tensor `(N, N)`, duplicates added.

    On the CPU the duplicates are summed by scipy's linear-time counting sort, elsewhere by torch.

    >>> assemble(torch.ones(2, 1, 1), torch.tensor([[0], [0]]), 1).to_dense()
    tensor([[2.]])
    """
    dofs = dofs if N >= 2**31 else dofs.int()
    rows = dofs[:, :, None].expand_as(local).reshape(-1)
    columns = dofs[:, None, :].expand_as(local).reshape(-1)
    if local.device.type != "cpu":
        pairs = torch.stack([rows, columns])
        return torch.sparse_coo_tensor(pairs, local.reshape(-1), (N, N),
                                       check_invariants=False).coalesce().to_sparse_csr()
    from scipy.sparse import coo_matrix
    A = coo_matrix((local.reshape(-1).numpy(), (rows.numpy(), columns.numpy())), (N, N)).tocsr()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(*map(torch.as_tensor, (A.indptr, A.indices, A.data)), (N, N),
                                       check_invariants=False)


def to_scipy(A: torch.Tensor):
    """A sparse CSR tensor on the CPU as a scipy matrix that shares its memory."""
    from scipy.sparse import csr_matrix
    return csr_matrix((A.values().numpy(), A.col_indices().numpy(), A.crow_indices().numpy()), A.shape)


def poisson(space: Space, f, g=None, degree: int = 6) -> FiniteElement:
    """Galerkin's solution of −Δu = f with u = g on the boundary, or with ∂ₙu = 0 if `g` is None.

    Parameters
    ----------
    f, g : callables `(n, d) → (n,)`; degree : of the rule for the load.

    The Neumann solution has mean zero.
    Raises ValueError if ∫f ≠ 0 without `g` (says ∫f), if `f` or `g` is not finite or of the wrong
    shape, or if the linear solver leaves a residual above 1e-8 (says by how much).

    >>> from lecturelib.pde.mesh import interval
    >>> u = poisson(Space(interval([0, 0.5, 1])), lambda x: 2 * x[:, 0] - 1)
    >>> [round(24 * v, 9) + 0.0 for v in u.c.tolist()]     # exact at the nodes: x²/2 − x³/3 − 1/12
    [-2.0, 0.0, 2.0]
    """
    K, F = space.stiffness(), space.load(f, degree)
    one = space.load(lambda x: torch.ones_like(x[:, 0]), space.degree)
    if g is None:
        compatible(f, *space.mesh.quadrature(degree + 8))
        F = F - F.sum() * one / one.sum()           # what is left is the error of the rule
        fixed, values = torch.zeros(1, dtype=torch.long, device=F.device), F.new_zeros(1)
    else:
        fixed = space.boundary
        values = sample(g, space.nodes[fixed], "boundary values g")
    c = F.new_zeros(space.N).index_copy_(0, fixed, values)
    free = torch.ones(space.N, dtype=torch.bool, device=F.device).index_fill_(0, fixed, False)
    c = c + solve(K, F - K @ c, free)
    if g is None:
        c = c - one @ c / one.sum()
    return FiniteElement(space, c)


def solve(K: torch.Tensor, F: torch.Tensor, free: torch.Tensor, tolerance: float = 1e-8) -> torch.Tensor:
    """Solve $K_{ij}c_j=F_i$ for the unknowns `free` (a mask), the others zero; K sparse CSR, SPD there.

    A sparse direct solver on the CPU; conjugate gradients with diagonal scaling elsewhere.
    Raises ValueError if the relative residual exceeds `tolerance`.
    """
    if K.device.type == "cpu":
        from scipy.sparse.linalg import splu
        index = free.nonzero()[:, 0].numpy()
        small = to_scipy(K)[index][:, index].tocsc()
        try:
            lu = splu(small, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0,
                      options={"SymmetricMode": True})
        except RuntimeError as error:
            raise ValueError(f"K must be regular on the free unknowns: {error}") from error
        c = torch.zeros_like(F)
        c[free] = torch.as_tensor(lu.solve(F[free].numpy()))
    else:
        row = torch.repeat_interleave(torch.arange(len(F), device=F.device), K.crow_indices().diff())
        on = row == K.col_indices()
        scale = torch.where(free, 1 / torch.empty_like(F).index_copy_(0, row[on], K.values()[on]).sqrt(), 0)
        b = scale * F
        y = torch.zeros_like(F)
        for _ in range(20):                 # restarts keep the recursive residual honest
            y, _ = iteration.conjugate_gradients(lambda y: scale * (K @ (scale * y)), b, y, 500)
            if torch.linalg.vector_norm(b - scale * (K @ (scale * y))) <= 1e-2 * tolerance * b.norm():
                break
        c = scale * y
    gap = torch.linalg.vector_norm((F - K @ c)[free]) / torch.linalg.vector_norm(F[free]).clamp(min=1e-300)
    if not gap <= tolerance:
        raise ValueError(f"the linear solver did not converge: relative residual {float(gap):.3g} > "
                         f"{tolerance:.3g}")
    return c
