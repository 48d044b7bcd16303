"""Small tanh networks fitted by minimizing their own certificate.

With a flux q in equilibrium, $\\tfrac12\\|\\nabla v-q\\|^2 = E(v)+\\tfrac12\\|q\\|^2$: the Ritz energy is, up
to a constant, half the square of the error bound (eq-certified-loss).  Without a flux the residual
bound $\\frac1\\pi\\|\\Delta v+f\\|$ plays that part.  Both are linear least squares in the outer weights
and Gauss-Newton problems in all of them.
"""
import math

import torch

from . import _check, approximation


class RidgeSum:
    """$v(x) = \\sum_j a_j\\tanh(w_j\\cdot y+b_j)$ with y = x, or y = cos πx, then ∂ₙv = 0 on the cube.

    Parameters
    ----------
    W `(m, d)`, b `(m,)`, a `(m,)` : floating tensors; cosine : which y.

    >>> x = torch.rand(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> v = ridge_sum(4, 2, torch.Generator().manual_seed(1), cosine=True)
    >>> auto = approximation.Function(v.value)
    >>> bool(torch.allclose(v.laplacian(x), auto.laplacian(x)))
    True
    """

    def __init__(self, W: torch.Tensor, b: torch.Tensor, a: torch.Tensor, cosine: bool = False):
        _check.tensor("W", W, 2), _check.tensor("b", b, 1), _check.tensor("a", a, 1)
        if not len(W) == len(b) == len(a):
            raise ValueError(f"W, b and a must have one row per unit; got {len(W)}, {len(b)}, {len(a)}")
        self.W, self.b, self.a, self.cosine = W, b, a, cosine

    @property
    def parameters(self) -> int:
        """Number of parameters, m(d + 2)."""
        return self.W.numel() + self.b.numel() + self.a.numel()

    def moved(self, step: torch.Tensor) -> "RidgeSum":
        """The network at the parameters (a, b, W) + `step`, a flat vector."""
        m = len(self.a)
        return RidgeSum(self.W + step[2 * m:].reshape(self.W.shape), self.b + step[m:2 * m],
                        self.a + step[:m], self.cosine)

    def value(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self._inner(x)[0] @ self.W.T + self.b) @ self.a

    def gradient(self, x: torch.Tensor) -> torch.Tensor:
        y, dy, _ = self._inner(x)
        s = 1 - torch.tanh(y @ self.W.T + self.b).square()
        return dy * ((s * self.a) @ self.W)

    def laplacian(self, x: torch.Tensor) -> torch.Tensor:
        return self._laplacians(x)[0] @ self.a

    def gradient_features(self, x: torch.Tensor) -> torch.Tensor:
        """$\\partial_i\\tanh(w_j\\cdot y+b_j)$, shape `(n*d, m)`: the columns of a linear fit of ∇v."""
        y, dy, _ = self._inner(x)
        s = 1 - torch.tanh(y @ self.W.T + self.b).square()
        return (dy[:, :, None] * self.W.T * s[:, None]).reshape(-1, len(self.a))

    def gradient_jacobian(self, x: torch.Tensor) -> torch.Tensor:
        """Derivatives of ∇v(x) in (a, b, W), shape `(n*d, m(d+2))`."""
        y, dy, _ = self._inner(x)
        t = torch.tanh(y @ self.W.T + self.b)
        s, n, (m, d) = 1 - t.square(), len(x), self.W.shape
        bend = dy[:, :, None] * (-2 * t * s * self.a)[:, None] * self.W.T          # (n, d, m)
        by_w = bend[..., None] * y[:, None, None, :]
        k = torch.arange(d, device=x.device)
        by_w[:, k, :, k] += (dy[:, :, None] * (s * self.a)[:, None]).transpose(0, 1)
        return torch.cat([self.gradient_features(x).reshape(n, d, m), bend,
                          by_w.reshape(n, d, m * d)], 2).reshape(n * d, -1)

    def laplacian_features(self, x: torch.Tensor) -> torch.Tensor:
        """$\\Delta\\tanh(w_j\\cdot y+b_j)$, shape `(n, m)`."""
        return self._laplacians(x)[0]

    def laplacian_jacobian(self, x: torch.Tensor) -> torch.Tensor:
        """Derivatives of Δv(x) in (a, b, W), shape `(n, m(d+2))`."""
        by_a, by_b, by_w = self._laplacians(x, derivatives=True)
        return torch.cat([by_a, by_b * self.a, (by_w * self.a[:, None]).flatten(1)], 1)

    def _inner(self, x):
        """y and its first two derivatives in the same variable."""
        if not self.cosine:
            return x, torch.ones_like(x), torch.zeros_like(x)
        y = torch.cos(math.pi * x)
        return y, -math.pi * torch.sin(math.pi * x), -math.pi**2 * y

    def _laplacians(self, x, derivatives=False):
        """Δ of every unit, and if asked its derivatives in b and W."""
        y, dy, ddy = self._inner(x)
        t = torch.tanh(y @ self.W.T + self.b)
        s1 = 1 - t.square()
        s2, g2 = -2 * t * s1, dy.square()
        P, Q = g2 @ self.W.square().T, ddy @ self.W.T
        value = s2 * P + s1 * Q
        if not derivatives:
            return (value,)
        s3 = -2 * s1 * (s1 - 2 * t.square())
        by_b = s3 * P + s2 * Q
        by_w = (by_b[:, :, None] * y[:, None] + 2 * (s2[:, :, None] * g2[:, None]) * self.W
                + s1[:, :, None] * ddy[:, None])
        return value, by_b, by_w


def ridge_sum(m: int, d: int, generator: torch.Generator, scale: float = 2.0,
              cosine: bool = False, dtype=torch.float64) -> RidgeSum:
    """Random units whose ridges $w\\cdot y+b=0$ cross the domain, outer weights zero.

    W is Gaussian with standard deviation `scale`/√d; b = −w·y₀ with y₀ uniform on the domain of y.
    """
    _check.whole("m", m, 1), _check.whole("d", d, 1)
    on = {"generator": generator, "dtype": dtype, "device": generator.device}
    W = torch.randn(m, d, **on) * (scale / math.sqrt(d))
    y0 = torch.rand(m, d, **on)
    y0 = torch.cos(math.pi * y0) if cosine else y0
    return RidgeSum(W, -(W * y0).sum(1), W.new_zeros(m), cosine)


def spread_points(n: int, d: int, generator: torch.Generator, dtype=torch.float64) -> torch.Tensor:
    """Training points on the unit cube, `(n, d)`: half uniform, half pushed towards two corners.

    A uniform sample in high dimension has no points near the corners.  A network trained on it is
    wrong there, its squared error has a heavy tail, and no Monte Carlo mean of it can be trusted.
    """
    _check.whole("n", n, 2), _check.whole("d", d, 1)
    on = {"generator": generator, "dtype": dtype, "device": generator.device}
    x = torch.rand(n, d, **on)
    power = 1 + 2 * torch.rand(n // 2, 1, **on)
    pushed = x[:n // 2] ** power
    flip = torch.rand(n // 2, 1, **on) < 0.5
    return torch.cat([torch.where(flip, 1 - pushed, pushed), x[n // 2:]])


def fit_flux(v: RidgeSum, q: torch.Tensor, x: torch.Tensor, w: torch.Tensor,
             cutoff: float = 1e-13) -> RidgeSum:
    """Outer weights that minimize ‖∇v − q‖ by the rule (x, w): Ritz' method with random features."""
    root = w.sqrt().repeat_interleave(x.shape[1])
    a = _lstsq(v.gradient_features(x) * root[:, None], q.reshape(-1) * root, cutoff)
    return RidgeSum(v.W, v.b, a, v.cosine)


def fit_residual(v: RidgeSum, f, x: torch.Tensor, cutoff: float = 1e-13) -> RidgeSum:
    """Outer weights that minimize the mean of (Δv + f)² over the points x."""
    a = _lstsq(v.laplacian_features(x), -approximation.sample(f, x), cutoff)
    return RidgeSum(v.W, v.b, a, v.cosine)


def train_flux(v: RidgeSum, q: torch.Tensor, x: torch.Tensor, w: torch.Tensor, steps: int):
    """Damped Gauss-Newton on ‖∇v − q‖ by the rule (x, w); yields the network after every step.

    This is the energy natural gradient for the Ritz energy: its Gram matrix is JᵀJ, which is never
    formed, since its condition number would be that of J squared.
    """
    root = w.sqrt().repeat_interleave(x.shape[1])
    yield from _levenberg_marquardt(v, lambda v: (v.gradient(x) - q).reshape(-1) * root,
                                    lambda v: v.gradient_jacobian(x) * root[:, None], steps)


def train_residual(v: RidgeSum, f, x: torch.Tensor, steps: int):
    """Damped Gauss-Newton on the mean of (Δv + f)² over x; yields the network after every step."""
    fx, root = approximation.sample(f, x), 1 / math.sqrt(len(x))
    yield from _levenberg_marquardt(v, lambda v: (v.laplacian(x) + fx) * root,
                                    lambda v: v.laplacian_jacobian(x) * root, steps)


def _levenberg_marquardt(v, residual, jacobian, steps, damping=1e-2):
    r = residual(v)
    for _ in range(steps):
        U, s, Vt, b = _decompose(jacobian(v), -r)
        for _ in range(12):
            candidate = v.moved(Vt.T @ (s * b / (s.square() + (damping * s[0]) ** 2)))
            r_new = residual(candidate)
            if r_new.norm() < r.norm():
                v, r, damping = candidate, r_new, damping / 3
                break
            damping *= 2
        yield v


def _lstsq(A, b, cutoff):
    """Least squares with the singular values below `cutoff` · σ₁ left out."""
    U, s, Vt, b = _decompose(A, b)
    return Vt.T @ torch.where(s > cutoff * s[0], b / s, 0)


def _decompose(A, b):
    """A = QR, R = U diag(s) Vᵀ, and b in the left singular vectors."""
    Q, R = torch.linalg.qr(A)
    U, s, Vt = torch.linalg.svd(R)
    return U, s, Vt, U.T @ (Q.T @ b)
