"""TurboQuant, QJL and the unbiased estimators: laws over the rotation, identities, refusals."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lecturelib.quantization import rotations, turboquant
from lecturelib.quantization.lloyd_max import lloyd_max
from scipy.stats import norm

D, COUNT = 32, 4000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def over_rotations(x, bits, scale):
    """Reconstructions of one vector under COUNT Haar rotations: Haar rotations of d vectors at a time would do too."""
    g = generator(bits)
    code = turboquant.design(rotations.haar(len(x), g), bits)
    u = torch.nn.functional.normalize(torch.randn(COUNT, len(x), generator=g), dim=1)   # images of x
    flip = u - x / x.norm()                                     # the reflection that maps u to x / |x|
    y = turboquant.quantize(u * x.norm(), turboquant.Code(Identity(len(x)), bits, code.points, code.distortion), scale)
    # a Haar rotation given its image of x is that reflection times a Haar rotation that fixes x
    w = flip / flip.norm(dim=1, keepdim=True)
    return y - 2 * (y * w).sum(1, keepdim=True) * w, code


class Identity:
    def __init__(self, d):
        self.dimension = d

    def apply(self, x):
        return x

    undo = apply


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_distortion_and_bias_over_the_rotation(bits):
    x = torch.linspace(1, 3, D)
    y, code = over_rotations(x, bits, "mse")
    error = (y - x).square().sum(1) / x.square().sum()
    assert abs(float(error.mean()) - code.distortion) < 4 * float(error.std()) / COUNT**0.5
    along = (y @ x) / x.square().sum()
    assert abs(float(along.mean()) - (1 - code.distortion)) < 4 * float(along.std()) / COUNT**0.5


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("scale", ["mean", "vector"])
def test_unbiased_and_variance(bits, scale):
    x = torch.linspace(1, 3, D)
    y, code = over_rotations(x, bits, scale)
    along = y @ x / x.square().sum()
    assert abs(float(along.mean()) - 1) < (1e-5 if scale == "vector" else 4 * float(along.std()) / COUNT**0.5 + 1e-6)
    if scale == "mean":
        assert float((y - x).square().sum(1).mean() / x.square().sum()) == \
            pytest.approx(turboquant.variance(code.distortion), rel=0.02)


@pytest.mark.parametrize("bits, scale", [(1, "mse"), (2, "mean"), (2, "vector")])
def test_real_rotations_are_unbiased_in_every_coordinate(bits, scale):
    x, many = torch.linspace(-1, 2, 8), 1500
    g, points = generator(7), turboquant.design(rotations.haar(8, generator()), bits)
    y = torch.stack([turboquant.quantize(x, turboquant.Code(rotations.haar(8, g), bits, points.points, points.distortion), scale)
                     for _ in range(many)])
    expected = x * (1 - points.distortion) if scale == "mse" else x
    z = (y.mean(0) - expected) / (y.std(0) / many**0.5)
    assert float(z.abs().max()) < 4.5


def test_codebook_tends_to_the_gaussian_one():
    book = lloyd_max(norm(), 8)
    gap = [np.abs(lloyd_max(turboquant.coordinate(d), 8).points - book.points).max() for d in (16, 64, 256)]
    assert gap[0] > 3 * gap[1] > 9 * gap[2]


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 70), st.integers(1, 8), st.integers(0, 1000), st.sampled_from(turboquant.SCALES))
def test_decode_of_encode_is_quantize(d, bits, seed, scale):
    code = turboquant.design(rotations.RandomHadamard(d, seed), bits)
    x = torch.randn(2, 3, d, generator=generator(seed))
    x[0, 0] = 0
    codes, number = turboquant.encode(x, code, scale)
    assert codes.dtype == torch.uint8 and codes.shape == x.shape and number.shape == (2, 3)
    y = turboquant.decode(codes, number, code)
    assert torch.equal(y, turboquant.quantize(x, code, scale)) and not y[0, 0].any()
    assert torch.allclose(turboquant.quantize(3 * x, code, scale), 3 * y, rtol=1e-4, atol=1e-4)
    if scale == "vector":
        assert torch.allclose((x * y).sum(-1), x.square().sum(-1), rtol=1e-4)


@pytest.mark.parametrize("size", [1e-30, 1e-22, 1e19, 1e30])
def test_squares_neither_underflow_nor_overflow(size):
    code, S = turboquant.design(rotations.RandomHadamard(64, 0), 4), turboquant.sketch(64, generator(1))
    x = torch.randn(3, 64, generator=generator(2))
    for scale in turboquant.SCALES:
        assert torch.allclose(turboquant.quantize(x * size, code, scale) / size, turboquant.quantize(x, code, scale), atol=1e-4)
    assert torch.allclose(turboquant.quantize_product(x * size, code, S) / size, turboquant.quantize_product(x, code, S), atol=1e-3)


def test_qjl_is_unbiased_with_the_stated_variance():
    x, y, many, d, m = torch.tensor([1.0, 2, 2, 0]), torch.tensor([0.0, 1, -1, 1]), 40000, 4, 6
    S = torch.randn(many, m, d, generator=generator(3))
    signs = (torch.einsum("kmd,d->km", S, x) >= 0).float() * 2 - 1
    est = math.sqrt(math.pi / 2) / m * x.norm() * torch.einsum("km,kmd,d->k", signs, S, y)
    bits, length = turboquant.qjl_encode(x, S[0])
    assert float(turboquant.qjl_decode(bits, length, S[0]) @ y) == pytest.approx(float(est[0]), rel=1e-5)
    exact, var = float(x @ y), (math.pi / 2 * float(x @ x) * float(y @ y) - float(x @ y)**2) / m
    assert abs(float(est.mean()) - exact) < 4 * (var / many)**0.5
    assert float(est.var()) == pytest.approx(var, rel=0.03)


def test_product_variant_variance():
    d, g = 256, generator(4)
    x, y = (torch.nn.functional.normalize(torch.randn(600, d, generator=g), dim=1) for _ in range(2))
    for bits in (1, 3):
        code = turboquant.design(rotations.RandomHadamard(d, 1), bits - 1) if bits > 1 else None
        e = ((turboquant.quantize_product(x, code, turboquant.sketch(d, g)) - x) @ y.T) * d**0.5
        theory = turboquant.qjl_variance(code.distortion if code else 1.0)
        assert float(e.square().mean()) == pytest.approx(theory, rel=0.05)


def test_bounds():
    for b in range(1, 9):
        ours = turboquant.variance(lloyd_max(norm(), 2**b).distortion)
        assert 1.5 < ours / turboquant.least_variance(b) < 2.73
    assert turboquant.variance(0.25) == turboquant.least_variance(1.0)          # a code that attains 2^(-2R)


def test_bad_input():
    code = turboquant.design(rotations.RandomHadamard(8, 0), 2)
    with pytest.raises(ValueError, match="scale must be"):
        turboquant.encode(torch.ones(8), code, "max")
    with pytest.raises(ValueError, match="x must be finite"):
        turboquant.encode(torch.tensor([math.nan] * 8), code)
    with pytest.raises(ValueError, match="finite norms"):
        turboquant.encode(torch.full((8,), 3e38), code)
    with pytest.raises(ValueError, match="x must be finite"):
        turboquant.qjl_encode(torch.tensor([1e300, 1.0], dtype=torch.float64), torch.eye(2))
    for bad in (torch.ones(3), torch.empty(0, 3), torch.ones(2, 3, dtype=torch.int64), None):
        with pytest.raises(ValueError, match="S must be"):
            turboquant.quantize_product(torch.ones(3), None, bad)
    with pytest.raises(ValueError, match="bits must be 0 or 1"):
        turboquant.qjl_decode(torch.tensor([-1, 1]), torch.tensor(1.0), torch.eye(2))
    with pytest.raises(ValueError, match="last axis 8"):
        turboquant.encode(torch.ones(9), code)
    with pytest.raises(ValueError, match="codes must have last axis 8"):
        turboquant.decode(torch.zeros(4, 9, dtype=torch.uint8), torch.ones(4), code)
    with pytest.raises(ValueError, match="one number per vector"):
        turboquant.decode(torch.zeros(4, 8, dtype=torch.uint8), torch.ones(3), code)
    with pytest.raises(ValueError, match="codes must lie"):
        turboquant.decode(torch.full((1, 8), 4, dtype=torch.uint8), torch.ones(1), code)
    for bad in (0, 9, 1.5):
        with pytest.raises(ValueError, match="bits"):
            turboquant.design(rotations.RandomHadamard(8, 0), bad)
    with pytest.raises(ValueError, match="d must be"):
        turboquant.coordinate(2)
    with pytest.raises(ValueError, match="bits must have last axis"):
        turboquant.qjl_decode(torch.zeros(5), torch.tensor(1.0), torch.ones(4, 3))
    for function, value in ((turboquant.variance, 1.0), (turboquant.least_variance, 0.0), (turboquant.qjl_variance, -0.1)):
        with pytest.raises(ValueError, match="must"):
            function(value)
