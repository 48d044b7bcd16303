"""The natural gradient of a wide network, in the space of the samples (prop-woodbury).

With more parameters than points, $(J^TJ+\\lambda)^{-1}J^T = J^T(JJ^T+\\lambda)^{-1}$ replaces a P×P system by
an n×n one; for a shallow network $K=JJ^T$ has a closed form in 4n²m multiplications, so that J with
its nP entries is never formed.  Fresh points are drawn for every step.
"""
import math

import torch

from . import _check
from .natural_gradient import Run, line_search


class Tangent:
    """The Jacobian J of a `StrongForm` without reaction at a `Shallow` network, never formed.

    Interior row i is $-\\sqrt{w_i}\\,\\partial_\\theta\\Delta u(x_i)$: by b it is A, by a it is C, and by
    $w_j$ it is $A_{ij}x_i+2B_{ij}w_j$.  Boundary rows are $\\sqrt{\\beta w_i}\\,\\partial_\\theta u(x_i)$.

    >>> from lecturelib.pde.domains import Box
    >>> from lecturelib.pde.energies import StrongForm
    >>> from lecturelib.pde.networks import Shallow
    >>> box, zero = Box.unit(2), lambda x: 0 * x[:, 0]
    >>> u = Shallow.random(5, box, torch.Generator().manual_seed(0))
    >>> form = StrongForm(zero, box.quadrature(3), zero, box.boundary(2))
    >>> J, T = form.jacobian(u, 4.0), Tangent(u, form, 4.0)
    >>> bool(torch.allclose(T.kernel(), J @ J.T)), bool(torch.allclose(T.pull(J[:, 0]), J.T @ J[:, 0]))
    (True, True)
    """

    def __init__(self, u, form, beta: float):
        if form.xb is None or form.reaction is not None:
            raise ValueError("form must have a boundary part and no reaction")
        _check.positive("beta", beta)
        self.u, self.x, self.xb = u, form.x, form.xb
        rows, edge = form.rows[:, None], math.sqrt(beta) * form.boundary_rows[:, None]
        _, _, s2, s3 = u.sigma(form.x, 3)
        s, s1 = u.sigma(form.xb, 1)
        self.q = u.W.square().sum(1)
        self.A, self.B, self.C = -rows * s3 * (u.a * self.q), -rows * s2 * u.a, -rows * s2 * self.q
        self.Ab, self.Cb, self.edge = edge * s1 * u.a, edge * s, edge[:, 0]

    def kernel(self) -> torch.Tensor:
        """$K = JJ^T$, shape `(n, n)`, interior points first."""
        n = len(self.x)
        X, A = torch.cat([self.x, self.xb]), torch.cat([self.A, self.Ab])
        C = torch.cat([self.C, self.Cb])
        K = X @ X.T
        K.add_(1).mul_(A @ A.T).addmm_(C, C.T)
        cross = (A * (X @ self.u.W.T)) @ (2 * self.B).T                   # A x · 2 B w
        K[:, :n] += cross
        K[:n] += cross.T
        K[:n, :n].addmm_(4 * self.q * self.B, self.B.T)
        K[n:, n:].addr_(self.edge, self.edge)
        return K

    def pull(self, y: torch.Tensor) -> torch.Tensor:
        """$J^Ty$, shape `(P,)`."""
        n = len(self.x)
        yi, yb = y[:n, None], y[n:, None]
        A, Ab = self.A * yi, self.Ab * yb
        by_W = A.T @ self.x + Ab.T @ self.xb + 2 * (self.B * yi).sum(0)[:, None] * self.u.W
        return torch.cat([by_W.ravel(), A.sum(0) + Ab.sum(0), (self.C * yi).sum(0)
                          + (self.Cb * yb).sum(0), (self.edge @ y[n:])[None]])

    def step(self, r: torch.Tensor, damping: float) -> torch.Tensor:
        """$J^T(K+\\lambda)^{-1}r$ with λ = `damping` times the mean of the diagonal of K."""
        K = self.kernel()
        K.diagonal().add_(damping * K.diagonal().mean())
        L, info = torch.linalg.cholesky_ex(K)
        if int(info):
            raise ValueError(f"damping must be larger; K + {damping:g}·mean is not positive definite")
        return self.pull(torch.cholesky_solve(r[:, None], L)[:, 0])


def outer_columns(u, form, beta: float) -> torch.Tensor:
    """The columns of J that belong to the outer weights a and c, shape `(n, m + 1)`."""
    M = -form.rows[:, None] * u.sigma(form.x, 2)[2] * u.W.square().sum(1)
    if form.reaction is not None:
        M = M + form.rows[:, None] * form.reaction[1](u.value(form.x))[:, None] * u.sigma(form.x, 0)[0]
    constant = M.new_zeros(len(M), 1) if form.reaction is None else (
        form.rows * form.reaction[1](u.value(form.x)))[:, None]
    M = torch.cat([M, constant], 1)
    if form.xb is None:
        return M
    edge = math.sqrt(beta) * form.boundary_rows[:, None]
    return torch.cat([M, torch.cat([edge * u.sigma(form.xb, 0)[0], edge], 1)])


def solve_outer(u, form, beta: float, damping: float = 1e-14, solve: str = "qr"):
    """The network with outer weights a, c by linear least squares, hidden weights kept.

    Minimizes $|r|^2+\\lambda^2|\\delta|^2$ over their change δ, λ = `damping`·‖M‖ ("qr"), or with λ² =
    `damping` times the mean diagonal of MᵀM from the normal equations ("gram", coarser and cheaper).

    >>> from lecturelib.pde.domains import Box
    >>> from lecturelib.pde.energies import StrongForm
    >>> from lecturelib.pde.networks import Shallow
    >>> box = Box([0.0], [6.0])
    >>> form = StrongForm(lambda x: torch.sin(x[:, 0]), box.quadrature(40),
    ...                   lambda x: torch.sin(x[:, 0]), box.boundary(1))
    >>> u = solve_outer(Shallow.band(30, box, 3.0, torch.Generator().manual_seed(0)), form, 100.0)
    >>> float(form.loss(u, 100.0)) < 1e-16
    True
    """
    M = outer_columns(u, form, _check.positive("beta", beta))
    step = _least_squares(M, form.residual(u, beta), damping, solve)
    return type(u)(u.W, u.b, u.a - step[:-1], u.c - step[-1:], u.activation)


def _least_squares(M, r, damping, solve):
    if solve == "qr":
        n, p = M.shape                                  # R and Qᵀr from one sweep; Q is never formed
        A = M.new_zeros(n + p, p + 1)
        A[:n, :p], A[:n, p] = M, r
        A[n:, :p].diagonal().fill_(damping * torch.linalg.matrix_norm(M))
        R = torch.linalg.qr(A, mode="r")[1]
        return torch.linalg.solve_triangular(R[:p, :p], R[:p, p:], upper=True)[:, 0]
    if solve == "gram":
        G = M.T @ M
        G.diagonal().add_(damping * G.diagonal().mean())
        return torch.cholesky_solve((M.T @ r)[:, None], torch.linalg.cholesky(G))[:, 0]
    raise ValueError(f"solve must be 'qr' or 'gram'; got {solve!r}")


class _Refresh:
    """Trial points of `train`: hidden weights from theta, outer weights re-solved; remembers the network."""

    def __init__(self, u, form, beta, damping):
        self.u, self.form, self.beta, self.damping = u, form, beta, damping
        self.data = torch.cat([form.rows * form.f, math.sqrt(beta) * form.boundary_rows * form.g])
        self.reached = {}

    def residual(self, u):
        """M and r; without a reaction r = M (a, c) − data."""
        M = outer_columns(u, self.form, self.beta)
        return M, M @ torch.cat([u.a, u.c]) - self.data

    def loss(self, theta):
        u = self.u.at(theta)
        M, r = self.residual(u)
        step = _least_squares(M, r, self.damping, "gram")
        value = float((r - M @ step).square().sum() / 2)
        self.reached[value] = type(u)(u.W, u.b, u.a - step[:-1], u.c - step[-1:], u.activation)
        return value


def train(u, draw, beta: float, iterations: int, points=(400, 1000), damping: float = 1e-6,
          refresh: float = 1e-7, enough: float = 0.25, watch=None) -> Run:
    """Natural gradient on fresh samples, the outer weights re-solved after every trial step.

    Parameters
    ----------
    u : `Shallow` network.
    draw : callable n ↦ `StrongForm` with n fresh interior points.
    points : n at the first and at the last iteration, geometric in between.
    damping : first λ; divided by 4 after a full step, times 4 after one below ¼.
    refresh : damping of the linear solve for the outer weights, which makes the step a step of
        variable projection.
    enough : a trial step that leaves less than this fraction of the loss is taken at once.
    watch : called with (iteration, network) after every step.

    Raises ValueError unless points are positive.

    >>> from lecturelib.pde.domains import Box
    >>> from lecturelib.pde.energies import StrongForm, boundary_sample, interior_sample
    >>> from lecturelib.pde.networks import Shallow
    >>> gen, box = torch.Generator().manual_seed(0), Box.unit(3)
    >>> g = lambda x: x[:, 0] * x[:, 1]
    >>> draw = lambda n: StrongForm(lambda x: 0 * x[:, 0], interior_sample(box, n, gen),
    ...                             g, boundary_sample(box, n, gen))
    >>> u = train(Shallow.random(16, box, gen, 0.5), draw, 100.0, 12, (50, 100)).u
    >>> x, _ = box.quadrature(3)
    >>> float((u.value(x) - g(x)).norm() / g(x).norm()) < 1e-2
    True
    """
    first, last = (_check.whole("points", n, 1) for n in points)
    _check.positive("damping", damping)
    with torch.no_grad():
        u = solve_outer(u, draw(max(first, 4 * len(u.a))), beta, refresh, "gram")
        run = Run(u)
        for k in range(iterations):
            form = draw(round(first * (last / first) ** (k / max(iterations - 1, 1))))
            trial = _Refresh(u, form, beta, refresh)
            r = trial.residual(u)[1]
            delta = Tangent(u, form, beta).step(r, damping)
            best = line_search(trial.loss, u.theta, delta, float(r.square().sum() / 2), 10, enough)
            if best is None:
                damping *= 4
                continue
            value, eta, _ = best
            u = trial.reached[value]
            damping = max(damping / 4, 1e-13) if eta == 1 else damping * 4 if eta < 0.25 else damping
            run.loss.append(value), run.step.append(eta), run.beta.append(beta)
            if watch is not None:
                watch(k, u)
    run.u = u
    return run
