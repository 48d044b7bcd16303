"""Companding kernels and power companders: round trips, invariants, limits, refusals."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lecturelib.quantization import companding, panter_dite, power, uniform

COMPANDERS = {"mu-law": companding.mu_law(255.0, 4.0), "gaussian": companding.gaussian(),
              "laplace": companding.laplace(), "mild mu-law": companding.mu_law(1e-3, 2.0)}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def normal(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", COMPANDERS)
def test_expand_inverts_compress_and_slope_is_the_derivative(name):
    G = COMPANDERS[name]
    x = torch.linspace(-1.9, 1.9, 381, dtype=torch.float64)
    torch.testing.assert_close(G.expand(G.compress(x)), x, rtol=0, atol=1e-9)
    assert bool((torch.diff(G.compress(x)) > 0).all()) and float(G.compress(torch.zeros(1))) == 0.5
    h = 1e-7
    torch.testing.assert_close((G.compress(x + h) - G.compress(x - h)) / (2 * h), G.slope(x), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(G.compress(-x), 1 - G.compress(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", COMPANDERS)
@pytest.mark.parametrize("levels", [1, 2, 15, 256])
def test_quantize_is_decode_of_encode(name, levels, dtype):
    G, x = COMPANDERS[name], normal(7, 300, dtype=dtype)
    codes = companding.encode(x, G.compress, levels, dtype=torch.int16)
    q = companding.quantize(x, G.compress, G.expand, levels)
    assert q.dtype == dtype and codes.dtype == torch.int16
    assert 0 <= int(codes.min()) and int(codes.max()) < levels
    assert torch.equal(companding.decode(codes, G.expand, levels, dtype=dtype), q)


@pytest.mark.parametrize("name", COMPANDERS)
def test_quantize_is_idempotent_monotone_and_odd_off_the_thresholds(name):
    G, x = COMPANDERS[name], normal(4096).sort().values
    q = companding.quantize(x, G.compress, G.expand, 64)
    assert bool((torch.diff(q) >= 0).all())
    assert torch.equal(companding.quantize(q, G.compress, G.expand, 64), q)
    torch.testing.assert_close(companding.quantize(-x, G.compress, G.expand, 64), -q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", COMPANDERS)
@pytest.mark.parametrize("levels", [5, 64])
def test_kernel_theory_and_partition_agree(name, levels):
    G, x = COMPANDERS[name], normal(1 << 17)
    t, c = companding.partition(G.expand, levels)
    q = companding.quantize(x, G.compress, G.expand, levels)
    at = np.searchsorted(t, x.numpy(), "right") - 1
    np.testing.assert_allclose(c[at], q.numpy(), atol=1e-12)
    square = (x - q)**2
    D = companding.distortion(stats.norm(), G.expand, levels)
    assert abs(float(square.mean()) - D) < 5 * float(square.std()) / len(x)**0.5


@settings(max_examples=40, deadline=None)
@given(st.floats(0.1, 10.0), st.integers(2, 200))
def test_scaling_source_and_compander_together(sigma, levels):
    D = companding.distortion(stats.norm(), companding.gaussian().expand, levels)
    scaled = companding.distortion(stats.norm(0, sigma), companding.gaussian(sigma).expand, levels)
    assert scaled == pytest.approx(sigma**2 * D, rel=1e-9)


def test_the_linear_compander_is_the_uniform_quantizer():
    x = normal(5000).clamp(-2.99, 2.99)
    q = companding.quantize(x, lambda x: x / 6 + 0.5, lambda u: 6 * u - 3, 16)
    torch.testing.assert_close(q, uniform.quantize(x, 6 / 16, offset=0.5, bounds=(-8, 7)), rtol=0, atol=1e-12)


def test_out_chunks_layout_gradient_and_empty_input(monkeypatch):
    G, x = companding.gaussian(), normal(40, 30, dtype=torch.float32)
    whole, codes = companding.quantize(x, *G[:2], 16), companding.encode(x, G.compress, 16)
    out = torch.empty_like(x)
    assert companding.quantize(x, *G[:2], 16, out=out) is out and torch.equal(out, whole)
    monkeypatch.setattr(uniform, "CHUNK", 17)
    assert torch.equal(companding.quantize(x, *G[:2], 16), whole)
    assert torch.equal(companding.encode(x, G.compress, 16), codes)
    assert torch.equal(companding.quantize(x.t(), *G[:2], 16), whole.t())
    assert not companding.quantize(x.clone().requires_grad_(), *G[:2], 16).requires_grad
    assert companding.quantize(torch.empty(0, 3), *G[:2], 16).shape == (0, 3)
    assert companding.quantize(x, *G[:2], 16, out=x) is x and torch.equal(x, whole)


def test_a_threshold_belongs_to_the_cell_above_and_the_end_to_the_last():
    x = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert companding.encode(x, lambda x: x, 4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("a", [0.3, 0.5, 0.8, 1.0, 1.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_power_codes_are_codes_of_products(a, dtype):
    x, y = normal(500, dtype=dtype), normal(500, dtype=dtype).flip(0)
    m, n = power.encode(x, a, 0.05, 255), power.encode(y, a, 0.07, 255)
    left = power.decode(m, a, 0.05, dtype=dtype) * power.decode(n, a, 0.07, dtype=dtype)
    right = power.decode(m * n, a, 0.05 * 0.07, dtype=dtype)
    torch.testing.assert_close(left, right, rtol=40 * torch.finfo(dtype).eps / min(a, 1), atol=0)


@pytest.mark.parametrize("a", [0.5, 0.8, 1.0])
def test_power_kernel_grid_and_theory_agree(a):
    x, A, N = normal(1 << 17), 3.0, 15
    step = 2 * A**a / N
    q = power.quantize(x, a, step, N)
    t, c = power.grid(a, A, N)
    np.testing.assert_allclose(c[np.searchsorted(t, x.numpy()) - 1], q.numpy(), atol=1e-12)
    square = (x - q)**2
    assert abs(float(square.mean()) - power.distortion(stats.norm(), a, A, N)) < 5 * float(square.std()) / len(x)**0.5
    assert torch.equal(power.quantize(-x, a, step, N), -q)
    assert power.encode(x, a, step, N).abs().max() == 7


def test_power_kernels_work_in_chunks_with_out_and_any_layout(monkeypatch):
    x = normal(40, 30, dtype=torch.float32)
    codes, whole = power.encode(x, 0.7, 0.2, 15, dtype=torch.int8), power.quantize(x, 0.7, 0.2, 15)
    monkeypatch.setattr(uniform, "CHUNK", 17)
    out, q = torch.empty(40, 30, dtype=torch.int8), x.clone()
    assert power.encode(x, 0.7, 0.2, 15, dtype=torch.int8, out=out) is out and torch.equal(out, codes)
    assert power.quantize(q, 0.7, 0.2, 15, out=q) is q
    torch.testing.assert_close(q, whole)                   # a power differs in its last bit with its place in a vector
    torch.testing.assert_close(power.quantize(x.t(), 0.7, 0.2, 15), whole.t())
    assert not power.quantize(x.clone().requires_grad_(), 0.7, 0.2, 15).requires_grad
    assert power.quantize(torch.empty(0, 3), 0.7, 0.2, 15).shape == (0, 3)
    for dtype in (torch.float16, torch.bfloat16):
        wide = power.quantize(x.to(dtype).float(), 0.7, 0.2, 15)
        torch.testing.assert_close(power.quantize(x.to(dtype), 0.7, 0.2, 15), wide.to(dtype))


@pytest.mark.parametrize("scale", [0.01, 50.0])
def test_best_range_scales_with_the_source(scale):
    A, D = power.best_range(stats.norm(), 0.8, 15)
    assert power.best_range(stats.norm(0, scale), 0.8, 15) == pytest.approx((scale * A, scale**2 * D), rel=1e-5)


def test_exponent_one_is_the_uniform_quantizer():
    x = normal(1000, dtype=torch.float32)
    assert torch.equal(power.quantize(x, 1.0, 0.4, 15), uniform.quantize(x, 0.4, bounds=(-7, 7)))


@pytest.mark.parametrize("levels, exponent, error", [(15, 0.8086, 0.0118111), (255, 0.6650, 6.50591e-5)])
def test_best_power_grid(levels, exponent, error):
    a, A, D = power.best(stats.norm(), levels)
    assert a == pytest.approx(exponent, abs=2e-4) and D == pytest.approx(error, rel=1e-5)
    assert all(power.best_range(stats.norm(), a + d, levels)[1] > D for d in (-0.01, 0.01))
    assert power.gaussian_exponent(A) == pytest.approx(a, abs=0.4 / levels**0.5)


@pytest.mark.parametrize("a", [0.5, 0.7, 1.0])
def test_granular_error_of_a_power_grid_is_bennetts_integral(a):
    """On [-A, A] with A large the overload does not count and the moment is that of the line."""
    A, N = 7.0, 2**14 + 1
    assert power.distortion(stats.norm(), a, A, N) * N**2 == pytest.approx(power.gaussian_granular(a, A), rel=2e-3)
    inside = panter_dite.bennett(stats.truncnorm(-A, A), lambda x: a * x.abs()**(a - 1) / (2 * A**a))
    assert inside == pytest.approx(power.gaussian_granular(a, A), rel=1e-6)


G = companding.gaussian()


@pytest.mark.parametrize("call, name", [
    (lambda x: companding.quantize(x * float("nan"), *G[:2], 4), "x must be finite"),
    (lambda x: companding.encode(x / 0, G.compress, 4), "x must be finite"),
    (lambda x: companding.quantize(x, *G[:2], 0), "levels"),
    (lambda x: companding.quantize(x, *G[:2], 2.5), "levels"),
    (lambda x: companding.quantize(x, *G[:2], companding.FINEST + 1), "levels"),
    (lambda x: companding.quantize(x.int(), *G[:2], 4), "x must"),
    (lambda x: companding.quantize(x, lambda x: x + 1, G.expand, 4), "compressor"),
    (lambda x: companding.quantize(x, lambda x: x * float("nan"), G.expand, 4), "compressor"),
    (lambda x: companding.quantize(x, lambda x: x.sum(), G.expand, 4), "compressor"),
    (lambda x: companding.quantize(x, G.compress, lambda u: u / 0, 4), "expander"),
    (lambda x: companding.quantize(x, *G[:2], 4, out=torch.empty(3)), "out"),
    (lambda x: companding.encode(x, G.compress, 300, dtype=torch.uint8), "dtype"),
    (lambda x: companding.encode(x, G.compress, 4, dtype=torch.float32), "dtype"),
    (lambda x: companding.decode(x, G.expand, 4), "codes"),
    (lambda x: companding.decode(x.int() + 4, G.expand, 4), "codes"),
    (lambda x: companding.decode(-x.int(), G.expand, 4), "codes"),
    (lambda x: companding.decode(x.int(), G.expand, 4, dtype=torch.int32), "dtype"),
    (lambda x: companding.mu_law(0.0), "mu"),
    (lambda x: companding.mu_law(None), "mu"),
    (lambda x: companding.mu_law(1.0, float("inf")), "half_range"),
    (lambda x: companding.gaussian(-1.0), "sigma"),
    (lambda x: companding.laplace(0.0), "scale"),
    (lambda x: power.encode(x, 0.5, 0.1, 16), "levels"),
    (lambda x: power.encode(x, 0.0, 0.1, 15), "exponent"),
    (lambda x: power.encode(x, 0.5, -0.1, 15), "step"),
    (lambda x: power.encode(x.int(), 0.5, 0.1, 15), "x must"),
    (lambda x: power.encode(x * float("nan"), 0.5, 0.1, 15), "x must"),
    (lambda x: power.decode(x, 0.5, 0.1), "codes"),
    (lambda x: power.decode(1000 * x.int(), 0.1, 1.0, dtype=torch.float16), "finite"),
    (lambda x: power.grid(0.5, 0.0, 15), "half_range"),
    (lambda x: power.encode(x[:0], 0.5, 0.1, 15, dtype=torch.float32), "dtype"),
    (lambda x: power.quantize(x, 0.5, 0.1, 15, out=torch.empty(3)), "out"),
    (lambda x: power.gaussian_granular(1.5, 3.0), "exponent"),
    (lambda x: power.gaussian_granular(1.0, -3.0), "half_range"),
    (lambda x: power.gaussian_exponent(1.0), "half_range"),
])
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call(torch.ones(4, 8))
