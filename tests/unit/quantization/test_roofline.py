"""The cost of a matrix product, the roofline, and the error of a product of quantized matrices."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lecturelib.quantization import distortion, products, roofline, uniform
from scipy import optimize, stats

size = st.integers(1, 4000)
bits = st.floats(1, 64)


@given(size, size, size, bits, bits, bits)
def test_intensity_is_operations_over_bytes_and_below_both_ceilings(m, k, n, w, x, y):
    I = roofline.intensity(m, k, n, weight_bits=w, input_bits=x, output_bits=y)
    assert I == pytest.approx(2 * m * k * n * 8 / (k * n * w + m * k * x + m * n * y), rel=1e-12)
    assert I < 16 * min(m / w, n / x, k / y) * (1 + 1e-12)      # each operand alone


@given(size)
def test_square_product_in_float32(n):
    assert roofline.intensity(n, n, n) == pytest.approx(n / 6, rel=1e-12)


@given(size, size, size, bits)
def test_transposing_the_product_changes_no_cost(m, k, n, b):
    same = dict(weight_bits=b, input_bits=b, output_bits=b)
    assert roofline.intensity(m, k, n, **same) == pytest.approx(roofline.intensity(n, k, m, **same), rel=1e-12)


@given(st.floats(0.1, 1e3), size, size, bits)
def test_critical_batch_is_where_both_times_agree(ridge, k, n, w):
    m = roofline.critical_batch(ridge, k, n, weight_bits=w)
    compute = lambda m: 2 * m * k * n / ridge                  # in units of 1 / bandwidth
    move = lambda m: (k * n * w + 32 * m * (k + n)) / 8
    if math.isinf(m):
        assert all(compute(s) <= move(s) for s in (1, 1e3, 1e6))
    else:
        assert compute(m) == pytest.approx(move(m), rel=1e-6)


@given(st.floats(1e-6, 1e6))
def test_roofline_has_its_corner_at_the_ridge(intensity):
    machine = roofline.Machine("toy", peak=3e12, bandwidth=1e11)
    assert machine.attainable(intensity) == pytest.approx(1e11 * min(intensity, machine.ridge))


def test_least_time_is_operations_over_attainable_speed():
    machine = roofline.Machine("toy", peak=1e12, bandwidth=1e11)
    for m in (1, 8, 64, 512):
        I = roofline.intensity(m, 512, 256, weight_bits=4.25)
        expected = roofline.operations(m, 512, 256) / machine.attainable(I)
        assert machine.seconds(m, 512, 256, weight_bits=4.25) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name, expected", [("float32", 32), ("bfloat16", 16), ("FP8", 8), ("INT8", 8),
                                            ("MXFP4", 4.25), ("NVFP4", 4.5)])
def test_bits_of_the_formats(name, expected):
    form = roofline.STORAGE[name]
    assert form.bits == expected
    assert form.bytes(1 << 30) == pytest.approx(expected * (1 << 27), rel=1e-8)


@given(st.integers(1, 5000), st.integers(1, 16), st.integers(1, 64), st.integers(0, 32))
def test_bytes_count_a_short_block(entries, element, block, scale):
    form = roofline.Storage(element, block=block, scale_bits=scale)
    total = entries * element + math.ceil(entries / block) * scale
    assert form.bytes(entries) == math.ceil(total / 8)
    assert 8 * form.bytes(entries) >= form.bits * entries - 1e-6


def test_counts_of_a_small_network():
    x, W, V = torch.randn(3, 4), torch.randn(4, 5), torch.randn(2, 5, 6)
    with roofline.Count() as c:
        h = x @ W                                              # 2 * 3 * 4 * 5 = 120
        h = torch.nn.functional.silu(h)                        # 15 elements
        torch.bmm(h.expand(2, 3, 5), V)                        # 2 * 2 * 3 * 5 * 6 = 360
        x @ W[:, 0]                                            # 2 * 3 * 4 = 24
        x[0] @ W[:, 0]                                         # 8
    assert (c.products, c.others) == (512, 15)
    X, W = torch.empty(10**4, 10**5, device="meta"), torch.empty(10**5, 10, device="meta")
    with roofline.Count() as c:                                # nothing is computed or stored
        X @ W
    assert (c.products, c.others) == (2 * 10**10, 0)


def test_views_cost_nothing():
    x = torch.randn(6, 4)
    with roofline.Count() as c:
        x.T.reshape(2, 2, 6).transpose(0, 1)[..., :3].unsqueeze(0)
    assert (c.products, c.others) == (0, 0)


def test_measurement_is_a_machine():
    machine = roofline.measure(mebibytes=1, size=64)
    assert machine.peak > 0 and machine.bandwidth > 0 and "cpu" in machine.name
    assert roofline.product_seconds(2, torch.ones(8, 4), budget=1e-4) > 0


@pytest.mark.parametrize("wrong, name", [
    (lambda: roofline.operations(0, 1, 1), "m"), (lambda: roofline.operations(1, 1.5, 1), "k"),
    (lambda: roofline.traffic(1, 1, 1, weight_bits=0), "weight_bits"),
    (lambda: roofline.critical_batch(math.nan, 1, 1), "ridge"),
    (lambda: roofline.Machine("x", math.inf, 1.0), "peak"), (lambda: roofline.Machine("x", 1.0, -1.0), "bandwidth"),
    (lambda: roofline.Storage(4, block=0), "block"), (lambda: roofline.Storage(4, scale_bits=-1), "scale_bits"),
    (lambda: roofline.Storage(0), "element_bits"), (lambda: roofline.Storage(4).bytes(0), "entries"),
    (lambda: roofline.measure(mebibytes=0), "mebibytes"), (lambda: roofline.best_seconds(int, budget=0), "budget"),
    (lambda: roofline.product_seconds(1, torch.ones(3)), "W"), (lambda: roofline.product_seconds(0, torch.ones(3, 3)), "m"),
    (lambda: products.gaussian_limit(-1.0), "rate"), (lambda: products.gaussian_naive(math.nan), "rate"),
    (lambda: products.product_error((2, 1), (1, 1)), "first"), (lambda: products.best_gain((1, 1), (2, 1)), "second"),
    (lambda: products.correlation_power(stats.norm(), [-1, 0, 1], [0]), "c"),
    (lambda: products.measured_error(torch.zeros(2, 2), torch.ones(3, 2), torch.ones(4, 2)), "A and B"),
    (lambda: products.measured_error(torch.zeros(2, 3), torch.ones(4, 2), torch.ones(4, 2)), "Y_hat"),
    (lambda: products.measured_error(torch.full((2, 2), math.nan), torch.ones(4, 2), torch.ones(4, 2)), "finite"),
])
def test_refusals_name_the_argument(wrong, name):
    with pytest.raises(ValueError, match=name):
        wrong()


# ------------------------------------------------------------------------------------- products
def test_critical_rate_two_ways():
    x = optimize.brentq(lambda x: np.exp(x) - 1 - 2 * x, 0.5, 3, xtol=1e-14)
    assert products.CRITICAL_RATE == pytest.approx(x / (2 * np.log(2)), abs=1e-12)
    assert products.CRITICAL_RATE == pytest.approx(0.9063235, abs=5e-8)
    slope = lambda R: (1 - products.gaussian_naive(R)) / R      # of the chord from the origin
    found = optimize.minimize_scalar(lambda R: -slope(R), bounds=(0.3, 3), method="bounded", options=dict(xatol=1e-10)).x
    assert found == pytest.approx(products.CRITICAL_RATE, abs=1e-6)


def test_limit_is_the_convex_envelope_of_the_naive_curve():
    R = np.linspace(0, 5, 5001)
    gamma, naive = products.gaussian_limit(R), products.gaussian_naive(R)
    assert np.all(np.diff(gamma, 2) > -1e-12) and np.all(gamma <= naive + 1e-15)
    convex = [min(naive[i] + (naive[j] - naive[i]) * (k - i) / (j - i) for i in range(0, k, 50) for j in range(k, 5001, 50) if j > i)
              for k in (250, 700, 1500)]                       # chords through the curve, by brute force
    assert np.all(gamma[[250, 700, 1500]] <= np.array(convex) + 1e-12)
    assert convex[0] == pytest.approx(gamma[250], abs=1e-3)


@pytest.mark.parametrize("R, value", [(0.25, 0.85885), (0.5, 0.71771), (1, 0.4375), (2, 0.12109), (3, 0.0310059), (4, 0.0077972)])
def test_limit_values(R, value):
    assert products.gaussian_limit(R) == pytest.approx(value, rel=1e-4)


@given(st.floats(0, 20))
def test_limit_between_one_factor_and_two(R):
    assert 4.0**-R <= products.gaussian_limit(R) * (1 + 1e-12) <= (2 * 4.0**-R - 16.0**-R) * (1 + 1e-9) + 1e-12


@given(st.integers(1, 6), st.floats(0.3, 3.0), st.floats(0.3, 3.0))
def test_best_gain_is_best_and_never_below_the_centroids(b, s, r):
    t, c = distortion.clipped_grid(s, 2**b)
    u, d = distortion.clipped_grid(r, 2**b)
    first, second = (products.correlation_power(stats.norm(), *q) for q in ((t, c), (u, d)))
    g = products.best_gain(first, second)
    best = products.product_error(first, second, g)
    assert all(products.product_error(first, second, g + h) >= best - 1e-12 for h in (-0.1, 0.1))
    centroids = []
    for thresholds in (t, u):
        p, m, _ = distortion.gaussian_moments(thresholds)
        centroids.append((float(m @ (m / p)),) * 2)
    assert products.product_error(*centroids) <= best + 1e-12


@pytest.mark.parametrize("b, gain", [(1, 1.0), (2, 1.0), (3, 0.9)])
def test_formula_meets_the_simulation(b, gain):
    generator = torch.Generator().manual_seed(b)
    A, B = torch.randn(2, 200, 32, 32, generator=generator)
    offset, bounds = uniform.grid(2**b)
    q = lambda x: uniform.quantize(x, 3.0 / 2**b, offset=offset, bounds=bounds)
    pair = products.correlation_power(stats.norm(), *distortion.clipped_grid(1.5, 2**b))
    errors = products.measured_error(gain * q(A).mT @ q(B), A, B)
    assert errors.shape == (200,)
    z = (errors.mean() - products.product_error(pair, pair, gain)) / (errors.std() / 200**0.5)
    assert abs(float(z)) < 4
