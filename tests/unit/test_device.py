"""The kernels run where their input lives and give the CPU's results: `pytest --device cuda`."""
import pytest
import torch
from lecturelib.pde import discretize, energies, evolution, natural_gradient, networks, operators
from lecturelib.pde import regression, sample_space, spectral
from lecturelib.pde.domains import Box
from lecturelib.quantization import codebooks, companding, dither, float_formats, kmeans, lattices, power, rotations
from lecturelib.quantization import trellis, trellis_codes, uniform

LEVELS = torch.tensor([-1.5, -0.4, 0.1, 0.5, 2.0], dtype=torch.float64)
BOOK = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
TRELLIS = trellis_codes.one_mad(8, 2)
QUANTIZERS = {
    "quantize": lambda x: uniform.quantize(x, 0.1, bounds=(-8, 7)),
    "quantize, mid-rise": lambda x: uniform.quantize(x, 0.1, offset=0.5),
    "encode": lambda x: uniform.encode(x, 0.1),
    "decode": lambda x: uniform.decode(uniform.encode(x, 0.1), 0.1, dtype=x.dtype),
    "subtractive dither": lambda x: dither.quantize(x, 0.1, 7),
    "stochastic rounding": lambda x: dither.stochastic_round(x, 0.1, 7),
    "codebook": lambda x: codebooks.encode(x, LEVELS.to(x)),
    "E2M1": lambda x: float_formats.encode(x, float_formats.FORMATS["e2m1"]),
    "E4M3": lambda x: float_formats.quantize(x, float_formats.FORMATS["e4m3fn"]),
    "hexagonal lattice": lambda x: lattices.hexagonal().nearest(x.double().view(-1, 2)),
    "E8": lambda x: lattices.e8().nearest(x.double().view(-1, 8)),
    "power grid": lambda x: power.encode(x, 0.75, 0.2, 15),
    "nearest codeword": lambda x: kmeans.nearest(x.float().view(-1, 4), BOOK.to(x.device)),
    "trellis": lambda x: trellis.viterbi(x.float().view(16, -1), TRELLIS, tail_biting=True),
    "mu law": lambda x: companding.encode(x, companding.mu_law(255.0, 4.0).compress, 16),
}


def network(x):
    u = networks.Shallow.random(5, Box.unit(x.shape[1]), torch.Generator().manual_seed(1))
    return networks.Shallow(*(p.to(x) for p in (u.W, u.b, u.a, u.c)))


def deep(x):
    u = networks.Deep.random([x.shape[1], 6, 6, 1], torch.Generator().manual_seed(1))
    return networks.Deep(u.theta.to(x), u.widths)


def zero(x):
    return torch.zeros_like(x[:, 0])


def form(x):
    ones = torch.ones_like(x[:, 0]) / len(x)
    edge = x.clone()
    edge[:, 0] = 0
    return energies.StrongForm(lambda x: x[:, 0], (x, ones), zero, (edge, ones))


def neural_operator(x):
    net = operators.NeuralOperator(spectral.Fourier(4), 3, 2, generator=torch.Generator().manual_seed(1))
    return net.to(x)(x.T.contiguous()).detach()


SOLVERS = {
    "laplacian of a shallow network": lambda x: network(x).laplacian(x),
    "laplacian of a deep network": lambda x: deep(x).laplacian(x),
    "tangent functions": lambda x: network(x).tangent_laplacian(x),
    "tangent functions of a deep network": lambda x: deep(x).tangent_gradient(x),
    "residual": lambda x: form(x).residual(network(x), 10.0),
    "tangent kernel": lambda x: sample_space.Tangent(network(x), form(x), 10.0).kernel(),
    "Gauss-Newton": lambda x: natural_gradient.gauss_newton(network(x), form(x), cutoff=1e-2, iterations=2).u.theta,
    "rotation": lambda x: rotations.hadamard(x.T),
    "finite differences": lambda x: discretize.neumann_laplacian(x.T.contiguous()),
    "spectral layer": neural_operator,
    "Burgers": lambda x: evolution.burgers(x.T - x.T.mean(1, keepdim=True), 0.1, 0.5),
    "Darcy": lambda x: evolution.Darcy(x[:, 0].exp().reshape(1, 8, 8)).apply(x[:, 1].reshape(1, 8, 8)),
    "principal components": lambda x: regression.PCA.fit(x).decode(regression.PCA.fit(x).encode(x, 2)),
    "kernel interpolation": lambda x: regression.Kernel.fit(x, x.sin())(x + 0.1),
}


@pytest.fixture
def device(request):
    return torch.device(request.config.option.device)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", QUANTIZERS)
def test_same_codes_where_the_input_lives(kernel, dtype, device):
    x = torch.randn(1 << 12, generator=torch.Generator().manual_seed(0)).to(dtype)
    there = QUANTIZERS[kernel](x.to(device))
    assert there.device.type == device.type
    assert torch.equal(there.cpu(), QUANTIZERS[kernel](x))


@pytest.mark.parametrize("kernel", SOLVERS)
def test_same_solution_where_the_points_live(kernel, device):
    x = torch.rand(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    there, here = SOLVERS[kernel](x.to(device)), SOLVERS[kernel](x)
    assert there.device.type == device.type and there.dtype == x.dtype
    torch.testing.assert_close(there.cpu(), here, rtol=1e-6, atol=1e-8)
