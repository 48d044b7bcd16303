"""Neural operators: maps between function spaces, evaluated on whatever grid the input comes on.

A function is a row of samples on the grid of a `spectral` basis; weights act on frequencies, never on
grid points, so one set of weights defines one operator for all grids (thm-op-layer).
"""
import math

import torch
from torch import nn

from . import _check, spectral


class SpectralLayer(nn.Module):
    """$v\\mapsto Wv+b+\\sum_{k\\le K}R_k\\hat v_k\\,\\varphi_k$ on `width` channels (eq-op-fno).

    Parameters
    ----------
    basis : `spectral.Fourier` or `spectral.Cosine`; its `modes` is K.
    width : number of channels.
    generator : of the initial weights.

    Forward takes and returns `(batch, n**d, width)`, any n.  On the circle $R_k$ is a complex matrix,
    which makes the layer commute with translations; on the cube it is real.
    """

    def __init__(self, basis, width: int, generator: torch.Generator | None = None, dtype=torch.float64):
        super().__init__()
        self.basis = basis
        shape = (basis.frequencies, width, width, basis.parts)
        self.R = nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype) / width)
        self.local = _linear(width, width, generator, dtype)

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        n = spectral.side(self.basis, v, 1)
        analysis, synthesis = spectral.tables(self.basis, n, v.dtype, v.device)
        c = (analysis @ v).view(len(v), self.basis.frequencies, self.basis.parts, -1)
        c = self._multiply(c.permute(1, 0, 3, 2)).permute(1, 0, 3, 2)
        return synthesis @ c.reshape(len(v), self.basis.size, -1) + self.local(v)

    def _multiply(self, c: torch.Tensor) -> torch.Tensor:
        """$c_kR_k$ for c `(frequencies, batch, width, parts)`; two parts are one complex number."""
        if self.basis.parts == 1:
            return torch.bmm(c[..., 0], self.R[..., 0])[..., None]
        return torch.view_as_real(torch.bmm(torch.view_as_complex(c.contiguous()), torch.view_as_complex(self.R)))


class NeuralOperator(nn.Module):
    """Fourier neural operator $Q\\circ\\sigma\\circ L_D\\circ\\dots\\circ\\sigma\\circ L_1\\circ P$ (eq-op-fno).

    Parameters
    ----------
    basis : `spectral.Fourier(K)` on the circle, `spectral.Cosine(K, d)` on the cube.
    width, depth : channels, and number of spectral layers.
    inputs : number of input functions; hidden : width of the last pointwise layer.
    activation : σ, elementwise; default GELU, which is smooth (thm-op-discretization).

    Forward takes `(batch, n**d)` or `(batch, n**d, inputs)` and returns `(batch, n**d)`, any n.
    Raises ValueError on another shape.

    >>> net = NeuralOperator(spectral.Fourier(4), width=6, depth=2, generator=torch.Generator().manual_seed(0))
    >>> net(torch.zeros(3, 20, dtype=torch.float64)).shape
    torch.Size([3, 20])
    """

    def __init__(self, basis, width: int = 24, depth: int = 4, inputs: int = 1, hidden: int = 64,
                 activation=nn.functional.gelu, generator: torch.Generator | None = None,
                 dtype=torch.float64):
        super().__init__()
        for name, value in (("width", width), ("depth", depth), ("inputs", inputs), ("hidden", hidden)):
            _check.whole(name, value, 1)
        self.basis, self.inputs, self.activation = basis, inputs, activation
        self.lift = _linear(inputs, width, generator, dtype)
        self.layers = nn.ModuleList(SpectralLayer(basis, width, generator, dtype) for _ in range(depth))
        self.project = nn.ModuleList((_linear(width, hidden, generator, dtype),
                                      _linear(hidden, 1, generator, dtype)))
        self.register_buffer("scale", torch.ones((), dtype=dtype))

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        a = a if a.ndim == 3 else a[..., None]
        if a.ndim != 3 or a.shape[2] != self.inputs:
            raise ValueError(f"a must have shape (batch, n^{self.basis.d}, {self.inputs}); got {tuple(a.shape)}")
        v = self.lift(a)
        for layer in self.layers:
            v = self.activation(layer(v))
        return self.scale * self.project[1](self.activation(self.project[0](v)))[..., 0]

    def normalize(self, a: torch.Tensor, u: torch.Tensor) -> None:
        """Scale the output to a mean square of one on these samples; `fit` calls it."""
        self.scale.fill_(u.square().mean().sqrt())

    def operations(self, n: int) -> int:
        """Floating-point operations of one query on n points a side (10 for each activation).

        A transform counts as a product with a matrix or as a fast one, whichever takes fewer.
        """
        N, w, h = n**self.basis.d, self.lift.out_features, self.project[0].out_features
        transform = min(2 * self.basis.size * N, 2.5 * N * math.log2(N))
        layer = 2 * transform * w + 2 * self.basis.size * w * self.basis.parts * w + 2 * N * w * w
        ends = 2 * N * (self.inputs * w + w * h + h)
        return round(len(self.layers) * (layer + 10 * N * w) + ends + 10 * N * h)


class DeepONet(nn.Module):
    """$\\mathcal G_\\theta(a)(y)=t_0(y)+\\sum_{k\\le r}b_k(a)\\,t_k(y)$ (eq-op-deeponet).

    The branch b reads the coefficients of a in `basis`, computed by quadrature on the grid that a
    comes on; the trunk t reads the basis functions at y.  Both are networks of `depth` hidden layers.
    The output lies in an r-dimensional affine space whatever a is (thm-op-reconstruction).

    >>> net = DeepONet(spectral.Fourier(4), rank=3, generator=torch.Generator().manual_seed(0))
    >>> net(torch.zeros(5, 20, dtype=torch.float64)).shape
    torch.Size([5, 20])
    """

    def __init__(self, basis, rank: int, width: int = 128, depth: int = 3,
                 generator: torch.Generator | None = None, dtype=torch.float64):
        super().__init__()
        for name, value in (("rank", rank), ("width", width), ("depth", depth)):
            _check.whole(name, value, 1)
        self.basis = basis
        sizes = (basis.size, *[width] * depth)
        self.branch = _perceptron((*sizes, rank), generator, dtype)
        self.trunk = _perceptron((*sizes, rank + 1), generator, dtype)
        self.register_buffer("gain", torch.ones((), dtype=dtype))
        self.register_buffer("scale", torch.ones((), dtype=dtype))

    def forward(self, a: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """Values `(batch, m)` at points y `(m, d)`, by default the grid of a `(batch, n**d)`."""
        n = spectral.side(self.basis, a)
        analysis, synthesis = spectral.tables(self.basis, n, a.dtype, a.device)
        if y is None and not self.basis.resolved(n).all():      # the table of a coarse grid has gaps
            y = self.basis.points(n, a.dtype, a.device)
        t = self.trunk(synthesis if y is None else self.basis.evaluate(y))
        return self.scale * (self.branch(self.gain * (a @ analysis.T)) @ t[:, 1:].T + t[:, 0])

    def normalize(self, a: torch.Tensor, u: torch.Tensor) -> None:
        """Scale the branch's inputs and the output to a mean square of one on these samples."""
        self.gain.fill_(1 / spectral.coefficients(self.basis, a).square().mean().sqrt())
        self.scale.fill_(u.square().mean().sqrt())


def relative_errors(predicted: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """$\\|\\hat u-u\\|/\\|u\\|$ sample by sample, on `(batch, N)`; shape `(batch,)`.

    Raises ValueError on other shapes, values that are not finite, or a row u = 0.

    >>> relative_errors(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0]])).tolist()
    [1.0]
    """
    if predicted.shape != u.shape or u.ndim != 2:
        raise ValueError(f"predicted and u must have one shape (batch, N); got {tuple(predicted.shape)} "
                         f"and {tuple(u.shape)}")
    _check.tensor("predicted", predicted), _check.tensor("u", u)
    _nonzero(u)
    return _relative(predicted, u)


def _relative(predicted, u):
    return torch.linalg.vector_norm(predicted - u, dim=1) / torch.linalg.vector_norm(u, dim=1)


def _nonzero(u) -> None:
    if (u == 0).all(1).any():
        raise ValueError("u must not contain a zero solution: its relative error is not defined")


def fit(model: nn.Module, a: torch.Tensor, u: torch.Tensor, steps: int, batch: int = 20,
        rate: float = 3e-3, generator: torch.Generator | None = None, watch=None, every: int = 100) -> list:
    """Minimize the mean of `relative_errors` (eq-op-risk) by `steps` steps of Adam.

    Parameters
    ----------
    model : maps a `(batch, N[, inputs])` to `(batch, N)`; its `normalize(a, u)` is called first.
    a, u : training pairs, converted to the dtype and device of the model's weights.
    rate : largest step size; rises over the first 5 % of the steps, then falls like a half cosine.
    generator : draws the batches, no sample twice per epoch.
    watch : called as `watch(model)` every `every` steps and at the end; its results are returned.

    Raises ValueError on arguments of different length, a zero solution, or a loss that is not finite.
    """
    _check.tensor("a", a), _check.tensor("u", u, 2), _check.whole("steps", steps, 1)
    if len(a) != len(u) or not 1 <= _check.whole("batch", batch, 1) <= len(u):
        raise ValueError(f"a and u must hold the same number of samples, at least batch = {batch}; "
                         f"got {len(a)} and {len(u)}")
    _nonzero(u), _check.whole("every", every, 1)
    like = next(model.parameters())
    a, u = a.to(like), u.to(like)
    model.normalize(a, u)
    adam = torch.optim.Adam(model.parameters(), _check.positive("rate", rate), betas=(0.9, 0.98),
                            fused=True)
    rise = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda j: min(1, (j + 1) / rise) * (1 + math.cos(math.pi * j / steps)) / 2)
    order, seen = torch.empty(0, dtype=torch.long), []
    for j in range(steps):
        if watch is not None and j % every == 0:
            seen.append(watch(model))
        if len(order) < batch:
            order = torch.randperm(len(u), generator=generator)
        chosen, order = order[:batch], order[batch:]
        loss = _relative(model(a[chosen]), u[chosen]).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    if not torch.isfinite(loss):
        raise ValueError(f"training did not converge: the loss is {loss.item()} after {steps} steps "
                         f"with rate {rate}; take a smaller rate")
    if watch is not None:
        seen.append(watch(model))
    return seen


def _linear(inputs, outputs, generator, dtype) -> nn.Linear:
    """A linear layer with weights and biases uniform in ±1/√inputs from `generator`."""
    layer = nn.Linear(inputs, outputs, dtype=dtype)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_((2 * torch.rand(p.shape, generator=generator, dtype=dtype) - 1) / math.sqrt(inputs))
    return layer


def _perceptron(sizes, generator, dtype) -> nn.Sequential:
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:]):
        layers += [_linear(inputs, outputs, generator, dtype), nn.GELU()]
    return nn.Sequential(*layers[:-1])
