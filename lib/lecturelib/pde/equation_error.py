"""The equation-error method: regression for a in −∇·(a∇u) = f, strong and weak (eq-id-weak-elliptic).

With a = Σ c_k ψ_k the equation is linear in c once u is given by data.  The strong form needs second
derivatives of the data.  The weak form, tested with functions φ whose normal derivative vanishes, needs
none: ∫a∇u·∇φ = −∫u ∇·(a∇φ).  Bases and tests are products of cosines on the unit cube.
"""
from collections.abc import Callable

import torch

from . import _check, domains


def modes(count: int, d: int = 2, device=None) -> torch.Tensor:
    """The `count**d` multi-indices below `count` per axis, the last running fastest: `(count**d, d)`."""
    _check.whole("count", count, 1), _check.whole("d", d, 1)
    return torch.cartesian_prod(*[torch.arange(count, device=device)] * d).reshape(-1, d)


def cosines(x: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """$\\prod_i\\cos(k_i\\pi x_i)$ at x `(n, d)` for k `(p, d)`: values `(n, p)`, gradients `(n, p, d)`.

    The Laplacian is $-\\pi^2|k|^2$ times the value.

    >>> v, g = cosines(torch.tensor([[0.5, 0.0]]), torch.tensor([[1, 0], [0, 2]]))
    >>> v.round(decimals=4).abs(), g[0, :, 0].abs()
    (tensor([[0., 1.]]), tensor([3.1416, 0.0000]))
    """
    _check.tensor("x", x, 2)
    if k.ndim != 2 or k.shape[1] != x.shape[1]:
        raise ValueError(f"k must have {x.shape[1]} columns; got shape {tuple(k.shape)}")
    frequency = torch.pi * k.to(x.dtype)
    angle = frequency * x[:, None, :]
    cos, sin = angle.cos(), -frequency * angle.sin()
    gradient = [torch.cat([cos[..., :i], sin[..., i:i + 1], cos[..., i + 1:]], 2).prod(2)
                for i in range(x.shape[1])]
    return cos.prod(2), torch.stack(gradient, 2)


def _divergence(x, psi, phi):
    """$\\nabla\\cdot(\\psi_k\\nabla\\varphi_j)$ at x: `(n, J, K)`."""
    (P, dP), (F, dF) = cosines(x, psi), cosines(x, phi)
    lap = -torch.pi**2 * (phi.to(x.dtype) ** 2).sum(1) * F
    return torch.einsum("njd,nkd->njk", dF, dP) + lap[:, :, None] * P[:, None, :]


def _load(f: Callable, phi: torch.Tensor, order: int, like: torch.Tensor) -> torch.Tensor:
    x, w = domains.Box.unit(phi.shape[1]).quadrature(order, dtype=like.dtype, device=like.device)
    return (w * _check.tensor("f", f(x), 1)) @ cosines(x, phi)[0]


def _grid(data: torch.Tensor, n: int, d: int) -> torch.Tensor:
    _check.tensor("data", data, 1), _check.whole("n", n, 4)
    if len(data) != (n + 1) ** d:
        raise ValueError(f"data must hold the {(n + 1)**d} nodal values of the grid; got {len(data)}")
    x = torch.arange(n + 1, dtype=data.dtype, device=data.device) / n
    return torch.cartesian_prod(*[x] * d).reshape(-1, d)


def weak(f: Callable, data: torch.Tensor, n: int, psi: torch.Tensor, phi: torch.Tensor,
         rounds: int = 3, order: int = 24) -> torch.Tensor:
    """Coefficients c of a in the cosines `psi` from the weak form, tested with the cosines `phi`.

    Solves $-\\sum_k c_k\\int u\\,\\nabla\\cdot(\\psi_k\\nabla\\varphi_j)=\\int f\\varphi_j$ for the data on the
    grid of n cells per side by least squares; the integral on the left is the trapezoidal rule.
    Each of `rounds` repeats it weighted by the inverse covariance that white noise in the data gives
    the equations at the last c.

    Raises ValueError if there are fewer tests than coefficients or the data do not fit the grid.

    >>> x = torch.arange(9, dtype=torch.float64) / 8
    >>> f = lambda x: torch.pi**2 * torch.cos(torch.pi * x[:, 0])      # a = 1, u = cos πx
    >>> weak(f, torch.cos(torch.pi * x), 8, modes(1, 1), modes(5, 1)[1:]).round(decimals=8)
    tensor([1.], dtype=torch.float64)
    """
    x = _grid(data, n, phi.shape[1])
    if len(phi) < len(psi):
        raise ValueError(f"phi must hold at least {len(psi)} tests; got {len(phi)}")
    weights = ((x > 0) & (x < 1)).to(x.dtype).add(1).div(2 * n).prod(1)
    D = -weights[:, None, None] * _divergence(x, psi, phi)                 # (n, J, K)
    G, F = torch.einsum("n,njk->jk", data, D), _load(f, phi, order, data)
    scale = 1 / (phi.to(x.dtype) ** 2).sum(1).clamp_min(1)                 # ∫u ∇·(a∇φ) grows like |k|²
    c = torch.linalg.lstsq(scale[:, None] * G, (scale * F)[:, None]).solution[:, 0]
    for _ in range(rounds):
        B = (D @ c).T                                                      # noise of the equations: Bε
        L = torch.linalg.qr(B.T, mode="r")[1].T
        whitened = torch.linalg.solve_triangular(L, torch.cat([G, F[:, None]], 1), upper=False)
        c = torch.linalg.lstsq(whitened[:, :-1], whitened[:, -1:]).solution[:, 0]
    return c


def strong(f: Callable, data: torch.Tensor, n: int, psi: torch.Tensor) -> torch.Tensor:
    """Coefficients c of a from $-\\sum_kc_k(\\psi_k\\Delta u+\\nabla\\psi_k\\cdot\\nabla u)=f$ at inner nodes.

    The derivatives of the data are central differences of second order, whose noise grows like
    $h^{-2}$.  Raises ValueError as `weak` does.

    >>> x = torch.arange(201, dtype=torch.float64) / 200
    >>> f = lambda x: torch.pi**2 * torch.cos(torch.pi * x[:, 0])
    >>> strong(f, torch.cos(torch.pi * x), 200, modes(1, 1)).round(decimals=3)
    tensor([1.], dtype=torch.float64)
    """
    d = psi.shape[1]
    x, u = _grid(data, n, d), data.reshape(*[n + 1] * d)
    inner = (slice(1, -1),) * d
    gradient, laplacian = [], 0.0
    for i in range(d):
        up, down = (u.roll(s, i)[inner].reshape(-1) for s in (-1, 1))
        gradient.append((up - down) * (n / 2))
        laplacian = laplacian + (up - 2 * u[inner].reshape(-1) + down) * n**2
    x = x.reshape(*[n + 1] * d, d)[inner].reshape(-1, d)
    P, dP = cosines(x, psi)
    A = -(laplacian[:, None] * P + torch.einsum("nkd,dn->nk", dP, torch.stack(gradient)))
    return torch.linalg.lstsq(A, _check.tensor("f", f(x), 1)[:, None]).solution[:, 0]
