"""The inverse PINN: one network for u, one for a, and one residual for both (eq-id-pinn).

Data misfit, residual of −∇·(a∇u) = f at quadrature points and the Neumann condition are stacked into
one vector; Gauss-Newton acts on all of it.  The hidden layers are random.  With them fixed the
residual is bilinear in the outer weights and a dozen steps suffice; training them as well is
possible (`hidden_steps`) and needs the derivatives of `Shallow.jacobian`.
"""
from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import _check, domains


@dataclass
class Shallow:
    """$v(x)=\\sum_j c_j\\tanh(w_j\\cdot x+b_j)+c_0$ with its derivatives; an approximation.

    Fields: `W` `(m, d)`, `b` `(m,)`, `c` `(m+1,)` with the constant last.

    >>> v = Shallow(torch.ones(1, 1), torch.zeros(1), torch.tensor([1.0, 2.0]))
    >>> x = torch.zeros(1, 1)
    >>> v.value(x).item(), v.gradient(x).item(), v.laplacian(x).item()
    (2.0, 1.0, 0.0)
    """
    W: torch.Tensor
    b: torch.Tensor
    c: torch.Tensor

    @classmethod
    def random(cls, m: int, d: int, scale: float, generator: torch.Generator,
               dtype=torch.float64) -> "Shallow":
        """Normal weights of standard deviation `scale`, kinks through uniform points of the unit cube."""
        _check.whole("m", m, 1), _check.whole("d", d, 1), _check.positive("scale", scale)
        W = scale * torch.randn(m, d, generator=generator, dtype=dtype, device=generator.device)
        x = torch.rand(m, d, generator=generator, dtype=dtype, device=generator.device)
        return cls(W, -(W * x).sum(1), W.new_zeros(m + 1))

    def features(self, x: torch.Tensor):
        """Values `(n, m+1)`, gradients `(n, d, m+1)` and Laplacians `(n, m+1)` of the summands."""
        T = torch.tanh(torch.addmm(self.b, x, self.W.T))
        S = 1 - T * T
        pad = (0, 1)
        return (torch.nn.functional.pad(T, pad, value=1.0),
                torch.nn.functional.pad(S[:, None, :] * self.W.T, pad),
                torch.nn.functional.pad(-2 * T * S * self.W.square().sum(1), pad))

    def value(self, x):
        return self.features(x)[0] @ self.c

    def gradient(self, x):
        return self.features(x)[1] @ self.c

    def laplacian(self, x):
        return self.features(x)[2] @ self.c

    def jacobian(self, x: torch.Tensor):
        """Derivatives of value, gradient and Laplacian in all weights, (W, b, c) in a row."""
        T = torch.tanh(torch.addmm(self.b, x, self.W.T))
        S = 1 - T * T
        c, n2, (n, d) = self.c[:-1], self.W.square().sum(1), x.shape
        outer = self.features(x)
        first, second = c * S, -2 * c * T * S                     # c σ', c σ''
        third = -2 * c * S * (1 - 3 * T * T) * n2                 # c σ''' |w|²
        value = torch.cat([(first[:, :, None] * x[:, None]).reshape(n, -1), first, outer[0]], 1)
        gradient = []
        for k in range(d):
            inner = second * self.W[:, k]
            weight = inner[:, :, None] * x[:, None]
            weight[:, :, k] += first
            gradient.append(torch.cat([weight.reshape(n, -1), inner, outer[1][:, k]], 1))
        weight = third[:, :, None] * x[:, None] + 2 * second[:, :, None] * self.W
        laplacian = torch.cat([weight.reshape(n, -1), third, outer[2]], 1)
        return value, torch.stack(gradient, 1), laplacian

    def moved(self, step: torch.Tensor, hidden: bool) -> "Shallow":
        """The network after adding `step` to (W, b, c), or to c alone."""
        if not hidden:
            return Shallow(self.W, self.b, self.c + step)
        m, d = self.W.shape
        return Shallow(self.W + step[:m * d].view(m, d), self.b + step[m * d:m * d + m],
                       self.c + step[m * d + m:])


@dataclass(frozen=True)
class Result:
    """Networks for `u` and `a`, the mean squared data residual over σ², and the PDE residual/‖f‖."""
    u: Shallow
    a: Shallow
    misfit: float
    residual: float
    steps: int


class InversePinn:
    """Joint least squares for u and a (eq-id-pinn) on the unit cube, Neumann conditions.

    Parameters
    ----------
    f : callable `(N, d) -> (N,)`.
    points, data, sigma : where u was measured `(N, d)`, the values `(N,)`, the noise's deviation.
    order : points per axis of the Gauss rule for the residual of the equation.

    Raises ValueError on shapes that do not fit, on NaN, and if f vanishes.
    """

    def __init__(self, f: Callable, points: torch.Tensor, data: torch.Tensor, sigma: float,
                 order: int = 16):
        _check.tensor("points", points, 2), _check.tensor("data", data, 1)
        if len(points) != len(data):
            raise ValueError(f"data must have one value per point; got {len(data)} for {len(points)}")
        self.points, self.data, self.sigma = points, data, _check.positive("sigma", sigma)
        box = domains.Box.unit(points.shape[1])
        where = dict(dtype=points.dtype, device=points.device)
        self.x, w = box.quadrature(order, **where)
        self.edge, edge_w, self.normal = box.boundary(order, **where)
        self.f = _check.tensor("f", f(self.x))
        if self.f.shape != w.shape:
            raise ValueError(f"f must return shape {tuple(w.shape)}; got {tuple(self.f.shape)}")
        scale = len(data) ** 0.5 / _check.positive("the norm of f", (w @ self.f**2) ** 0.5)
        self.w, self.edge_w = scale * w.sqrt(), scale * edge_w.sqrt()

    def residual(self, u: Shallow, a: Shallow, weight: float, hidden: bool):
        """The stacked residual and its Jacobian in the weights of u and a.

        >>> gen = torch.Generator().manual_seed(0)
        >>> x = torch.rand(5, 2, generator=gen, dtype=torch.float64)
        >>> pinn = InversePinn(lambda x: torch.cos(torch.pi * x[:, 0]), x, x[:, 0], 0.1, order=3)
        >>> r, J = pinn.residual(Shallow.random(4, 2, 1.0, gen), Shallow.random(3, 2, 1.0, gen), 1.0, False)
        >>> r.shape, J.shape                              # 5 + 9 + 12 rows, 5 + 4 outer weights
        (torch.Size([26]), torch.Size([26, 9]))
        """
        (v, _, _), (V, _, _) = self._parts(u, self.points, hidden)
        (_, g, l), (_, G, L) = self._parts(u, self.x, hidden)
        (p, q, _), (P, Q, _) = self._parts(a, self.x, hidden)
        (_, e, _), (_, E, _) = self._parts(u, self.edge, hidden)
        r = torch.cat([(v - self.data) / self.sigma,
                       weight * self.w * (p * l + (q * g).sum(1) + self.f),
                       weight * self.edge_w * (e * self.normal).sum(1)])
        J = r.new_zeros(len(r), V.shape[1] + P.shape[1])
        n0, n1, k = len(self.data), len(self.data) + len(self.x), V.shape[1]
        w = weight * self.w[:, None]
        J[:n0, :k] = V / self.sigma
        J[n0:n1, :k] = w * (p[:, None] * L + (q[:, :, None] * G).sum(1))
        J[n0:n1, k:] = w * (l[:, None] * P + (g[:, :, None] * Q).sum(1))
        J[n1:, :k] = weight * self.edge_w[:, None] * (self.normal[:, :, None] * E).sum(1)
        return r, J

    @staticmethod
    def _parts(net: Shallow, x, hidden: bool):
        features = net.features(x)
        return [F @ net.c for F in features], net.jacobian(x) if hidden else features

    def train(self, u: Shallow, a: Shallow, weights=(1.0, 10.0, 100.0), steps: int = 8,
              hidden_steps: int = 0, ridge: tuple[float, float] = (1e-3, 1e-2)) -> Result:
        """Gauss-Newton on the outer weights for each weight of the equation in turn, then on all.

        `ridge` damps the outer weights of u and of a around their start (a starts at the
        constant 1).  A step is damped à la Levenberg-Marquardt only where it fails to descend.
        Raises ValueError if `weights` is empty or a weight is not positive.
        """
        if not weights or not all(w > 0 for w in weights):
            raise ValueError(f"weights must be positive numbers, at least one; got {weights}")
        a = Shallow(a.W, a.b, _one(a))
        V, N = u.features(self.points)[0], len(self.data)
        A = torch.cat([V, 1e-4 * N**0.5 * torch.eye(V.shape[1], dtype=V.dtype, device=V.device)])
        b = torch.nn.functional.pad(self.data, (0, V.shape[1]))
        u = Shallow(u.W, u.b, torch.linalg.lstsq(A, b[:, None]).solution[:, 0])
        taken = 0
        plan = [(w, steps, False) for w in weights] + [(weights[-1], hidden_steps, True)]
        for weight, count, hidden in plan:
            size = len(u.c) + hidden * (u.W.numel() + u.b.numel())
            damping, (r, J, loss) = 0.0, self._damped(u, a, weight, hidden, ridge)
            for _ in range(count):
                R = torch.linalg.qr(torch.cat([J, r[:, None]], 1), mode="r")[1]
                P, s, Q = torch.linalg.svd(R[:-1, :-1])
                rotated = P.T @ R[:-1, -1]
                for _ in range(12):
                    step = -(Q.T @ (rotated * s / (s**2 + damping)))
                    trial = u.moved(step[:size], hidden), a.moved(step[size:], hidden)
                    r_new, J_new, loss_new = self._damped(*trial, weight, hidden, ridge)
                    if loss_new < loss:
                        break
                    damping = max(10 * damping, 1e-12 * float(s[0] ** 2))
                else:
                    break
                (u, a), r, J, taken, damping = trial, r_new, J_new, taken + 1, damping / 10
                gain, loss = loss / loss_new, loss_new
                if gain < 1 + 1e-4:
                    break
        n1 = N + len(self.x)
        return Result(u, a, float(r[:N].square().mean()),
                      float(r[N:n1].norm()) / (weight * N**0.5), taken)

    def _damped(self, u, a, weight, hidden, ridge):
        """Residual and Jacobian with the rows of the ridge on the outer weights."""
        r, J = self.residual(u, a, weight, hidden)
        rows = J.new_zeros(len(u.c) + len(a.c), J.shape[1])
        end = J.shape[1] - len(a.c) - hidden * (a.W.numel() + a.b.numel())      # where a's columns start
        i, k = torch.arange(len(u.c), device=J.device), torch.arange(len(a.c), device=J.device)
        rows[i, end - len(u.c) + i] = ridge[0]
        rows[len(u.c) + k, J.shape[1] - len(a.c) + k] = ridge[1]
        r = torch.cat([r, ridge[0] * u.c, ridge[1] * (a.c - _one(a))])
        return r, torch.cat([J, rows]), float(r @ r)


def _one(net: Shallow) -> torch.Tensor:
    """Outer weights of the constant function 1."""
    return torch.nn.functional.pad(torch.zeros_like(net.b), (0, 1), value=1.0)
