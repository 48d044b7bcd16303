"""Meshes of intervals and triangles: geometry, quadrature and point location, cells in batches.

With barycentric coordinates $\\lambda_0,\\dots,\\lambda_d$ on a cell T, everything a finite-element
matrix needs is the volume |T| and the gradients $\\nabla\\lambda_i$, constant on T.
"""
import torch

from . import _check
from .domains import gauss_legendre

EDGES = {1: ((0, 1),), 2: ((0, 1), (1, 2), (0, 2))}     # local vertex pairs of a cell


class Mesh:
    """A conforming mesh of intervals (d = 1) or triangles (d = 2).

    Parameters
    ----------
    points : floating tensor `(n, d)`; cells : integer tensor `(T, d+1)` of vertex numbers.

    Attributes: `volumes` `(T,)`, `d`, `h` (longest edge).
    Raises ValueError if a cell is degenerate (says which, and its volume), if vertex numbers are no
    integers or out of range, or if a point belongs to no cell.

    >>> Mesh(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0, 1, 2]])).volumes
    tensor([0.5000])
    >>> Mesh(torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), torch.tensor([[0, 1, 2]]))
    Traceback (most recent call last):
    ...
    ValueError: mesh has 1 degenerate cell of 1; the first is cell 0, volume 0 at longest edge 2
    """

    def __init__(self, points: torch.Tensor, cells: torch.Tensor):
        self.points, self.cells = _check.tensor("points", points, 2), cells
        self.d = points.shape[1]
        if self.d not in EDGES:
            raise ValueError(f"points must have 1 or 2 columns; got {self.d}")
        if cells.ndim != 2 or cells.shape[1] != self.d + 1 or not len(cells):
            raise ValueError(f"cells must have shape (T, {self.d + 1}); got {tuple(cells.shape)}")
        if cells.is_floating_point() or cells.min() < 0 or cells.max() >= len(points):
            raise ValueError(f"cells must hold vertex numbers from 0 to {len(points) - 1}")
        if unused := int((torch.bincount(cells.ravel(), minlength=len(points)) == 0).sum()):
            raise ValueError(f"every point must belong to a cell; {unused} of {len(points)} do not")
        corner = points[cells]
        edges = [corner[:, j] - corner[:, i] for i, j in EDGES[self.d]]
        self._signed = edges[0][:, 0] if self.d == 1 else cross(edges[0], edges[1]) / 2
        self.volumes = self._signed.abs()
        longest = torch.stack([torch.linalg.vector_norm(e, dim=1) for e in edges]).amax(0)
        self.h = float(longest.max())
        flat = self.volumes <= 8 * torch.finfo(points.dtype).eps * longest**self.d
        if bad := int(flat.sum()):
            first = int(flat.nonzero()[0])
            raise ValueError(f"mesh has {bad} degenerate cell{'s' * (bad > 1)} of {len(cells)}; the "
                             f"first is cell {first}, volume {self.volumes[first]:.3g} at longest "
                             f"edge {longest[first]:.3g}")
        self._gradients, self._located, self._bins = None, None, None

    def gradients(self) -> torch.Tensor:
        """$\\nabla\\lambda_i$ on each cell, shape `(T, d+1, d)`.

        In the plane $\\nabla\\lambda_i$ is the opposite edge turned by 90° over twice the signed area.
        """
        if self._gradients is not None:
            return self._gradients
        corner, size = self.points[self.cells], self._signed
        grad = self._gradients = torch.empty_like(corner)
        if self.d == 1:
            grad[:, 0, 0], grad[:, 1, 0] = -1 / size, 1 / size
            return grad
        for i, (j, k) in enumerate(((1, 2), (2, 0), (0, 1))):
            torch.sub(corner[:, j, 1], corner[:, k, 1], out=grad[:, i, 0])
            torch.sub(corner[:, k, 0], corner[:, j, 0], out=grad[:, i, 1])
        return grad.div_(2 * size[:, None, None])

    def quadrature(self, degree: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Points `(T*q, d)` and weights `(T*q,)`, exact on each cell for polynomials of `degree`."""
        bary, w = simplex_rule(self.d, degree, self.points.dtype, self.points.device)
        x = (bary @ self.points[self.cells]).reshape(-1, self.d)
        cell = torch.arange(len(self.cells), device=x.device).repeat_interleave(len(w))
        self._located = (x, x._version, cell, bary.repeat(len(self.cells), 1))
        return x, (self.volumes[:, None] * w).ravel()

    def locate(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The cell of each point `x` `(n, d)` and its barycentric coordinates `(n, d+1)`.

        The cells are sorted once into a background grid; a point tries the cells of its box only.
        The points that `quadrature` returned last are known already.
        Raises ValueError if a point lies outside the mesh.
        """
        if self._located is not None and self._located[0] is x and self._located[1] == x._version:
            return self._located[2:]
        if _check.tensor("x", x, 2).shape[1] != self.d:
            raise ValueError(f"x must have {self.d} columns; got {x.shape[1]}")
        bin_of, first, count, sorted_cells = self._grid()
        b = bin_of(x)
        point, offset = ragged(count[b])
        cell = sorted_cells[first[b][point] + offset]
        corner = self.points[self.cells[cell, 0]]
        bary = ((x[point] - corner)[:, None] * self.gradients()[cell]).sum(2)
        bary[:, 0] += 1
        depth = bary.amin(1)
        best = depth.new_full((len(x),), -torch.inf).scatter_reduce_(0, point, depth, "amax")
        if outside := int((best < -1e-8).sum()):
            raise ValueError(f"x must lie in the mesh; {outside} of {len(x)} points do not")
        hit = depth == best[point]
        pair = torch.empty(len(x), dtype=torch.long, device=x.device)
        pair[point[hit]] = hit.nonzero()[:, 0]
        self._located = (x, x._version, cell[pair], bary[pair])
        return self._located[2:]

    def _grid(self):
        if self._bins is None:
            side = max(1, int(len(self.cells) ** (1 / self.d)))
            low = self.points.amin(0)
            scale = side / (self.points.amax(0) - low)

            def box(y):
                return ((y - low) * scale).long().clamp(0, side - 1)

            corners = self.points[self.cells]
            slack = 1e-8 / scale
            a, b = box(corners.amin(1) - slack), box(corners.amax(1) + slack)
            owner, offset = ragged((b - a + 1).prod(1))
            number = torch.zeros_like(offset)
            for i in range(self.d):
                rest = (b - a + 1)[owner, i + 1:].prod(1)
                number = number * side + a[owner, i] + offset // rest
                offset = offset % rest
            order = torch.argsort(number, stable=True)
            count = torch.bincount(number, minlength=side**self.d)
            powers = torch.tensor([side ** (self.d - 1 - i) for i in range(self.d)],
                                  device=low.device)
            self._bins = (lambda x: (box(x) * powers).sum(1), count.cumsum(0) - count, count,
                          owner[order])
        return self._bins


def from_skfem(mesh, dtype=torch.float64, device=None) -> Mesh:
    """A scikit-fem `MeshLine` or `MeshTri` as a `Mesh`; vertex numbers are kept."""
    return Mesh(torch.as_tensor(mesh.p.T.copy(), dtype=dtype, device=device),
                torch.as_tensor(mesh.t.T.copy(), dtype=torch.long, device=device))


def interval(points, dtype=torch.float64, device=None) -> Mesh:
    """The mesh of the sorted numbers `points`, at least two; ValueError if they are not ascending.

    >>> interval([0, 0.25, 1]).volumes.tolist()
    [0.25, 0.75]
    """
    x = torch.as_tensor(points, dtype=dtype, device=device).reshape(-1, 1)
    if bool((x.diff(dim=0) < 0).any()):
        raise ValueError("points must be sorted; some are less than the one before them")
    number = torch.arange(len(x), device=x.device)
    return Mesh(x, torch.stack([number[:-1], number[1:]], 1))


def square(n: int, dtype=torch.float64, device=None) -> Mesh:
    """The unit square in n×n squares of two triangles each, (n+1)² vertices.

    >>> square(2).cells.shape, round(float(square(2).volumes.sum()), 12)
    (torch.Size([8, 3]), 1.0)
    """
    _check.whole("n", n, 1)
    x = torch.linspace(0, 1, n + 1, dtype=dtype, device=device)
    corner = (torch.arange(n, device=device)[:, None] * (n + 1) + torch.arange(n, device=device)).ravel()
    a, b, c, e = corner, corner + n + 1, corner + 1, corner + n + 2
    return Mesh(torch.cartesian_prod(x, x),
                torch.cat([torch.stack([a, b, e], 1), torch.stack([a, e, c], 1)]))


def lshape(n: int, dtype=torch.float64, device=None) -> Mesh:
    """$(-1,1)^2$ without $[0,1)\\times(-1,0]$, squares of side 1/n cut in two; corner at 0.

    >>> round(float(lshape(2).volumes.sum()), 12)
    3.0
    """
    whole = square(2 * n, dtype, device)
    x = 2 * whole.points - 1
    center = x[whole.cells].mean(1)
    cells = whole.cells[~((center[:, 0] > 0) & (center[:, 1] < 0))]
    used, renumbered = torch.unique(cells, return_inverse=True)
    return Mesh(x[used], renumbered)


def simplex_rule(d: int, degree: int, dtype=torch.float64, device=None):
    """Barycentric points `(q, d+1)` and weights `(q,)` of sum 1, exact for polynomials of `degree`.

    Gauss-Legendre on the interval; on the triangle its product in collapsed coordinates.

    >>> bary, w = simplex_rule(2, 2)
    >>> round(float(w @ (bary[:, 0] * bary[:, 1])) * 12, 12)
    1.0
    """
    _check.whole("degree", degree, 0)
    t, w = gauss_legendre(degree // 2 + (1 if d == 1 else 2), dtype=dtype, device=device)
    if d == 1:
        return torch.stack([1 - t, t], 1), w
    s, r = t[:, None], t[None, :] * (1 - t[:, None])
    bary = torch.stack([(1 - s - r), s.expand_as(r), r], 2)
    return bary.reshape(-1, 3), (2 * w[:, None] * (1 - s) * w).ravel()


def ragged(count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and position within the row of every entry of a table with `count[i]` entries in row i.

    >>> ragged(torch.tensor([2, 0, 1]))
    (tensor([0, 0, 2]), tensor([0, 1, 0]))
    """
    row = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    return row, torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]


def cross(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """$a_1b_2-a_2b_1$ along the last axis."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
