"""What linear algebra makes of the same data: principal components, linear maps, kernels."""
import math
from dataclasses import dataclass

import torch

from . import _check


@dataclass(frozen=True)
class PCA:
    """Principal components of samples on a grid, with the $L^2$ inner product $\\frac1N\\sum_j$.

    mean `(N,)`, modes `(N, q)` orthonormal, values `(q,)` the variances $\\lambda_1\\ge\\lambda_2\\ge\\dots$
    """
    mean: torch.Tensor
    modes: torch.Tensor
    values: torch.Tensor

    @classmethod
    def fit(cls, u: torch.Tensor) -> "PCA":
        """From samples `(count, N)`; ValueError unless there are at least two.

        >>> p = PCA.fit(torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64))
        >>> p.mean.tolist(), p.values.round(decimals=12).tolist()
        ([1.0, 0.0], [0.5, 0.0])
        """
        _check.tensor("u", u, 2), _check.whole("number of samples", len(u), 2)
        mean = u.mean(0)
        _, s, V = torch.linalg.svd(u - mean, full_matrices=False)
        N = u.shape[1]
        return cls(mean, V.T * math.sqrt(N), s.square() / (len(u) * N))

    def encode(self, u: torch.Tensor, rank: int) -> torch.Tensor:
        """The first `rank` coefficients of u `(..., N)`, shape `(..., rank)`."""
        _check.tensor("u", u), _check.whole("rank", rank, 0)
        return (u - self.mean) @ self.modes[:, :rank] / len(self.mean)

    def decode(self, c: torch.Tensor) -> torch.Tensor:
        """$m+\\sum_kc_kt_k$, values `(..., N)` from coefficients `(..., r)`."""
        _check.tensor("c", c)
        return self.mean + c @ self.modes[:, :c.shape[-1]].T

    def tail(self, rank: int) -> float:
        """$\\sum_{k>r}\\lambda_k$: no r functions reconstruct better on average (thm-op-reconstruction)."""
        return float(self.values[_check.whole("rank", rank, 0):].sum())


@dataclass(frozen=True)
class LinearMap:
    """$y=xW+b$, the least-squares fit of least norm."""
    W: torch.Tensor
    b: torch.Tensor

    @classmethod
    def fit(cls, x: torch.Tensor, y: torch.Tensor) -> "LinearMap":
        """From samples x `(count, p)` and y `(count, q)`.

        >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
        >>> LinearMap.fit(x, 3 * x + 1)(torch.tensor([[5.0]], dtype=torch.float64)).round(decimals=9).item()
        16.0
        """
        _pairs(x, y)
        mx, my = x.mean(0), y.mean(0)
        driver = "gelsd" if x.device.type == "cpu" else None
        W = torch.linalg.lstsq(x - mx, y - my, driver=driver).solution
        return cls(W, my - mx @ W)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return _check.tensor("x", x) @ self.W + self.b


@dataclass(frozen=True)
class Kernel:
    """Kernel interpolation $y(x)=\\sum_ik(|x-x_i|/\\ell)\\,\\alpha_i$ with the Matérn-5/2 kernel.

    `fit` chooses the length ℓ (a multiple of the median distance) by the leave-one-out error,
    which one inverse gives for all samples: $y_i-y_{(i)}(x_i)=\\alpha_i/(K^{-1})_{ii}$.
    """
    x: torch.Tensor
    alpha: torch.Tensor
    length: float
    leave_one_out: float

    @classmethod
    def fit(cls, x: torch.Tensor, y: torch.Tensor, lengths=(1.0, 2.0, 4.0, 8.0, 16.0),
            nugget: float = 1e-10) -> "Kernel":
        """From samples x `(count, p)` and y `(count, q)`; `nugget` is added to the diagonal.

        Raises ValueError if two samples coincide, if y = 0, or if no length gives a positive definite
        matrix.

        >>> x = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
        >>> k = Kernel.fit(x, x**2)
        >>> bool((k(x) - x**2).abs().max() < 1e-4)
        True
        """
        _pairs(x, y)
        _check.positive("nugget", nugget)
        distance = _distances(x, x)
        upper = distance[tuple(torch.triu_indices(len(x), len(x), 1, device=x.device))]
        if not upper.min() > 0:
            raise ValueError("x must hold distinct samples; two of them coincide")
        if not y.any():
            raise ValueError("y must not vanish: its relative leave-one-out error is not defined")
        best = None
        for multiple in lengths:
            length = float(upper.median()) * _check.positive("lengths", multiple)
            K = matern(distance / length)
            K.diagonal().add_(nugget)
            factor, info = torch.linalg.cholesky_ex(K)
            if info:
                continue
            alpha = torch.cholesky_solve(y, factor)
            left_out = (alpha / torch.cholesky_inverse(factor).diagonal()[:, None]).square().sum()
            error = float((left_out / y.square().sum()).sqrt())
            if best is None or error < best.leave_one_out:
                best = cls(x, alpha, length, error)
        if best is None:
            raise ValueError(f"no length gives a positive definite kernel matrix with nugget {nugget}")
        return best

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if _check.tensor("x", x, 2).shape[1] != self.x.shape[1]:
            raise ValueError(f"x must have {self.x.shape[1]} columns; got {x.shape[1]}")
        return matern(_distances(x, self.x) / self.length) @ self.alpha


def matern(r: torch.Tensor) -> torch.Tensor:
    """The Matérn-5/2 kernel $(1+s+s^2/3)e^{-s}$, $s=\\sqrt5r$.

    >>> matern(torch.tensor([0.0]))
    tensor([1.])
    """
    s = math.sqrt(5) * r
    return (1 + s + s.square() / 3).mul_(torch.exp(-s))


def _distances(x, y):
    """Euclidean distances without the cancellation of |x|² − 2x·y + |y|²."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _pairs(x, y):
    _check.tensor("x", x, 2), _check.tensor("y", y, 2)
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"x and y must hold the same number of samples, at least 2; got {len(x)} and {len(y)}")
