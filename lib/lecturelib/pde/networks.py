"""Networks as approximations: values, first and second derivatives, and their tangent functions.

A *network* is an approximation (see `approximation`) with a flat parameter vector: `u.theta` `(P,)`,
`u.at(theta)` the same network elsewhere, and its tangent functions ∂u/∂θ_p with their derivatives,

    u.tangent_value(x)      (n, P)
    u.tangent_gradient(x)   (n, d, P)
    u.tangent_laplacian(x)  (n, P)

so that whatever solves a linear problem in a basis can be applied in the tangent space of a network.
"""
import math

import torch

from . import _check


def _tanh(z, k):
    """σ, …, σ^(k) of tanh at z."""
    t = torch.tanh(z)
    if k == 0:
        return [t]
    s = 1 - t * t
    return [t, s, -2 * t * s, s * (6 * t * t - 2)][:k + 1] if k > 1 else [t, s]


def _sin(z, k):
    s = torch.sin(z)
    if k == 0:
        return [s]
    c = torch.cos(z)
    return [s, c, -s, -c][:k + 1]


ACTIVATIONS = {"tanh": _tanh, "sin": _sin}


class Shallow:
    """$u(x) = c + \\sum_j a_j\\,\\sigma(w_j\\cdot x+b_j)$, all derivatives in closed form.

    Parameters
    ----------
    W : `(m, d)`; b, a : `(m,)`; c : `(1,)`.  theta = (W, b, a, c), P = m(d + 2) + 1.
    activation : "tanh" or "sin".

    >>> u = Shallow(torch.ones(1, 2), torch.zeros(1), torch.ones(1), torch.zeros(1), "sin")
    >>> x = torch.tensor([[0.5, 0.5]])
    >>> bool(torch.isclose(u.laplacian(x), -2 * torch.sin(torch.tensor(1.0))))     # Δ sin(x+y)
    True
    """

    def __init__(self, W, b, a, c, activation: str = "tanh"):
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {tuple(ACTIVATIONS)}; got {activation!r}")
        if W.ndim != 2 or b.shape != W.shape[:1] or a.shape != W.shape[:1] or c.shape != (1,):
            raise ValueError("W, b, a, c must have shapes (m, d), (m,), (m,), (1,); got "
                             f"{tuple(W.shape)}, {tuple(b.shape)}, {tuple(a.shape)}, {tuple(c.shape)}")
        self.W, self.b, self.a, self.c, self.activation = W, b, a, c, activation

    @classmethod
    def random(cls, m: int, box, generator: torch.Generator, scale: float = 1.0,
               activation: str = "tanh", subsets: bool = False, dtype=torch.float64) -> "Shallow":
        """Weights $w_j\\sim s\\,N(0,I)$, offsets such that every ridge passes through the box.

        Parameters
        ----------
        scale : s, per unit of length.
        subsets : let neuron j see a random set of coordinates only, its size uniform in 1…d.

        Raises ValueError unless m ≥ 1 and scale > 0.

        >>> from lecturelib.pde.domains import Box
        >>> Shallow.random(64, Box.unit(2), torch.Generator().manual_seed(0)).theta.shape
        torch.Size([257])
        """
        _check.whole("m", m, 1), _check.positive("scale", scale)
        on = {"generator": generator, "dtype": dtype, "device": generator.device}
        W = scale * torch.randn(m, box.d, **on)
        if subsets:
            size = torch.randint(1, box.d + 1, (m, 1), generator=generator, device=generator.device)
            W = W * (torch.rand(m, box.d, **on).argsort(1).argsort(1) < size)
        low, high = (torch.tensor(v, dtype=dtype, device=generator.device)
                     for v in (box.lower, box.upper))
        b = -(W * (low + (high - low) * torch.rand(m, box.d, **on))).sum(1)
        return cls(W, b, torch.randn(m, **on) / m, torch.zeros_like(b[:1]), activation)

    @classmethod
    def band(cls, m: int, box, bandwidth: float, generator: torch.Generator,
             dtype=torch.float64) -> "Shallow":
        """Sine neurons with $w_j$ uniform in $[-\\Lambda,\\Lambda]^d$ and a uniform phase."""
        _check.whole("m", m, 1), _check.positive("bandwidth", bandwidth)
        on = {"generator": generator, "dtype": dtype, "device": generator.device}
        W = bandwidth * (2 * torch.rand(m, box.d, **on) - 1)
        b = 2 * math.pi * torch.rand(m, **on)
        return cls(W, b, torch.zeros_like(b), torch.zeros_like(b[:1]), "sin")

    @property
    def theta(self) -> torch.Tensor:
        return torch.cat([self.W.ravel(), self.b, self.a, self.c])

    def at(self, theta: torch.Tensor) -> "Shallow":
        """The network with parameters `theta`; differentiable in them."""
        m, d = self.W.shape
        if theta.shape != (m * (d + 2) + 1,):
            raise ValueError(f"theta must have shape ({m * (d + 2) + 1},); got {tuple(theta.shape)}")
        W, b, a, c = theta.split([m * d, m, m, 1])
        return Shallow(W.view(m, d), b, a, c, self.activation)

    def sigma(self, x: torch.Tensor, k: int):
        """The list σ, σ', …, σ^(k) at $w_j\\cdot x+b_j$, each `(n, m)`, k ≤ 3."""
        return ACTIVATIONS[self.activation](torch.addmm(self.b, x, self.W.T), k)

    def value(self, x):
        return self.sigma(x, 0)[0] @ self.a + self.c

    __call__ = value

    def gradient(self, x):
        return (self.sigma(x, 1)[1] * self.a) @ self.W

    def laplacian(self, x):
        return self.sigma(x, 2)[2] @ (self.a * self.W.square().sum(1))

    def tangent_value(self, x):
        s, s1 = self.sigma(x, 1)
        g = s1 * self.a
        return torch.cat([(g[:, :, None] * x[:, None, :]).flatten(1), g, s, torch.ones_like(s[:, :1])], 1)

    def tangent_gradient(self, x):
        _, s1, s2 = self.sigma(x, 2)
        n, (m, d) = len(x), self.W.shape
        g = (s2 * self.a)[:, None, :] * self.W.T                          # (n, d, m)
        by_W = g[..., None] * x[:, None, None, :]
        k = torch.arange(d, device=x.device)
        by_W[:, k, :, k] += s1 * self.a
        return torch.cat([by_W.reshape(n, d, m * d), g, s1[:, None, :] * self.W.T,
                          g.new_zeros(n, d, 1)], 2)

    def tangent_laplacian(self, x):
        _, _, s2, s3 = self.sigma(x, 3)
        q = self.W.square().sum(1)
        g = s3 * (self.a * q)
        by_W = g[:, :, None] * x[:, None, :] + (2 * s2 * self.a)[:, :, None] * self.W
        return torch.cat([by_W.flatten(1), g, s2 * q, torch.zeros_like(g[:, :1])], 1)


def forward_laplacian(layers, x: torch.Tensor, activation: str = "tanh"):
    """u, ∇u and Δu of a deep network in one forward sweep (eq-forward-laplacian).

    Parameters
    ----------
    layers : list of (W, b), `(m', m)` and `(m',)`; the last has m' = 1 and no activation.
    x : points `(n, d)`.

    Returns `(n,)`, `(n, d)`, `(n,)`.  Every layer carries d + 2 columns per point: h, ∂₁h…∂_dh, Δh.

    >>> W = torch.tensor([[2.0, 1.0]])
    >>> u, g, l = forward_laplacian([(W, torch.zeros(1)), (torch.ones(1, 1), torch.zeros(1))],
    ...                             torch.zeros(1, 2), "sin")
    >>> u.tolist(), g.tolist(), abs(l.item())
    ([0.0], [[2.0, 1.0]], 0.0)
    """
    d = x.shape[-1]
    h = x
    dh = torch.eye(d, dtype=x.dtype, device=x.device).expand(*x.shape[:-1], d, d)
    lh = torch.zeros_like(x)
    for k, (W, b) in enumerate(layers):
        h, dh, lh = h @ W.T + b, dh @ W.T, lh @ W.T
        if k < len(layers) - 1:
            h, s1, s2 = ACTIVATIONS[activation](h, 2)
            lh = s1 * lh + s2 * dh.square().sum(-2)
            dh = s1[..., None, :] * dh
    return h[..., 0], dh[..., 0], lh[..., 0]


class Deep:
    """A network of any depth; tangents by one reverse sweep per output of `forward_laplacian`.

    Parameters
    ----------
    theta : `(P,)`, the (W, b) of every layer one after the other.
    widths : d, the widths of the hidden layers, 1.
    activation : "tanh" or "sin".

    Raises ValueError if they do not fit together.

    >>> u = Deep.random([2, 8, 8, 1], torch.Generator().manual_seed(0))
    >>> u.theta.shape, u.tangent_laplacian(torch.rand(3, 2, dtype=torch.float64)).shape
    (torch.Size([105]), torch.Size([3, 105]))
    """

    def __init__(self, theta: torch.Tensor, widths, activation: str = "tanh"):
        self.widths, self.theta, self.activation = list(widths), theta, activation
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {tuple(ACTIVATIONS)}; got {activation!r}")
        if len(self.widths) < 2 or self.widths[-1] != 1:
            raise ValueError(f"widths must be [d, …, 1], one output; got {self.widths}")
        size = sum((a + 1) * b for a, b in zip(self.widths, self.widths[1:]))
        if theta.shape != (size,):
            raise ValueError(f"theta must have shape ({size},) for widths {self.widths}; "
                             f"got {tuple(theta.shape)}")

    @classmethod
    def random(cls, widths, generator: torch.Generator, scale: float = 1.0, activation: str = "tanh",
               dtype=torch.float64) -> "Deep":
        """Weights $N(0,s^2/m)$ with m the width of the layer below, biases $s\\,U(-1,1)$."""
        on = {"generator": generator, "dtype": dtype, "device": generator.device}
        parts = []
        for a, b in zip(widths, widths[1:]):
            parts += [torch.randn(b * a, **on) * (scale / math.sqrt(a)),
                      scale * (2 * torch.rand(b, **on) - 1)]
        return cls(torch.cat(parts), widths, activation)

    def at(self, theta: torch.Tensor) -> "Deep":
        return Deep(theta, self.widths, self.activation)

    def layers(self, theta=None):
        """The list of (W, b)."""
        theta, start, out = self.theta if theta is None else theta, 0, []
        for a, b in zip(self.widths, self.widths[1:]):
            W, start = theta[start:start + a * b].view(b, a), start + a * b
            out, start = out + [(W, theta[start:start + b])], start + b
        return out

    def value(self, x):
        layers = self.layers()
        for k, (W, b) in enumerate(layers):
            x = x @ W.T + b
            if k < len(layers) - 1:
                x = ACTIVATIONS[self.activation](x, 0)[0]
        return x[:, 0]

    __call__ = value

    def gradient(self, x):
        return forward_laplacian(self.layers(), x, self.activation)[1]

    def laplacian(self, x):
        return forward_laplacian(self.layers(), x, self.activation)[2]

    def _tangent(self, x, which):
        def one(theta, x):
            return forward_laplacian(self.layers(theta), x, self.activation)[which]
        return torch.vmap(torch.func.jacrev(one), (None, 0))(self.theta, x)

    def tangent_value(self, x):
        return self._tangent(x, 0)

    def tangent_gradient(self, x):
        return self._tangent(x, 1)

    def tangent_laplacian(self, x):
        return self._tangent(x, 2)
