"""The kernel: invariants of encode, decode and quantize on every type it accepts."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lecturelib.quantization import uniform

FINITE = st.floats(-1e4, 1e4, allow_nan=False, width=32)
STEPS = st.floats(2.0**-6, 8.0, allow_nan=False, width=32)


def normal(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@settings(max_examples=60, deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=40), STEPS, st.sampled_from([0.0, 0.25, 0.5]))
def test_error_is_at_most_half_a_step(values, step, offset):
    x = torch.tensor(values, dtype=torch.float64)
    assert float((x - uniform.quantize(x, step, offset=offset)).abs().max()) <= step / 2 * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=40), STEPS, st.integers(2, 300))
def test_quantize_is_decode_of_encode_idempotent_and_within_the_levels(values, step, levels):
    offset, bounds = uniform.grid(levels)
    x = torch.tensor(values, dtype=torch.float32)
    q = uniform.quantize(x, step, offset=offset, bounds=bounds)
    codes = uniform.encode(x, step, offset=offset, bounds=bounds)
    assert int(codes.min()) >= bounds[0] and int(codes.max()) <= bounds[1]
    assert torch.equal(uniform.decode(codes, step, offset=offset), q)
    assert torch.equal(uniform.quantize(q, step, offset=offset, bounds=bounds), q)


@settings(max_examples=40, deadline=None)
@given(st.lists(FINITE, min_size=2, max_size=40), STEPS)
def test_quantize_is_monotone_and_odd(values, step):
    x = torch.tensor(sorted(values), dtype=torch.float64)
    q = uniform.quantize(x, step)
    assert bool((q[1:] >= q[:-1]).all())
    assert torch.equal(uniform.quantize(-x, step), -q)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_type_agrees_with_double_precision(dtype):
    x = normal(3, 1000, dtype=dtype)
    exact = uniform.quantize(x.double(), 0.25, bounds=(-7, 7))
    assert torch.equal(uniform.quantize(x, 0.25, bounds=(-7, 7)).double(), exact)


def test_chunks_do_not_show(monkeypatch):
    x = normal(1001)
    whole = uniform.quantize(x, 0.1, offset=0.5)
    codes = uniform.encode(x, 0.1)
    monkeypatch.setattr(uniform, "CHUNK", 17)
    assert torch.equal(uniform.quantize(x, 0.1, offset=0.5), whole)
    assert torch.equal(uniform.encode(x, 0.1), codes)


def test_out_is_used_and_may_be_the_input():
    x = normal(64, 8)
    expected, out = uniform.quantize(x, 0.3), torch.empty_like(x)
    assert uniform.quantize(x, 0.3, out=out) is out and torch.equal(out, expected)
    assert uniform.quantize(x, 0.3, out=x) is x and torch.equal(x, expected)


def test_layout_gradient_and_empty_input():
    x = normal(8, 6)
    assert torch.equal(uniform.quantize(x.t(), 0.3), uniform.quantize(x, 0.3).t())
    leaf = x.clone().requires_grad_()
    assert not uniform.quantize(leaf, 0.3).requires_grad
    assert uniform.quantize(torch.empty(0, 3), 1.0).shape == (0, 3)
    assert uniform.quantize(torch.tensor(0.6), 1.0).shape == ()


def test_ties_go_to_even_codes_and_division_is_by_the_step():
    assert uniform.encode(torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5]), 1.0).tolist() == [-2, 0, 0, 2, 2]
    step = 0.1
    x = torch.arange(1, 20000, dtype=torch.float32) * 0.05
    assert torch.equal(uniform.encode(x, step), torch.round(x / step).int())


@pytest.mark.parametrize("step", [0.25, 0.1, 0.3, 0.7])
def test_torch_fake_quantize_differs_at_most_on_near_ties(step):
    """torch multiplies by the inverse; for a power of two that is a division as well."""
    x = torch.cat((normal(1 << 14), torch.arange(-400, 400) * (step / 2)))
    ours = uniform.quantize(x, step, bounds=(-8, 7))
    theirs = torch.fake_quantize_per_tensor_affine(x, step, 0, -8, 7)
    differ = ours != theirs
    if step == 0.25:
        assert not differ.any()
    fraction = (x[differ].double() / step) % 1
    assert bool(((fraction - 0.5).abs() < 1e-5).all())
    inside = x.abs() < 7 * step
    assert float((x - ours)[inside].abs().max()) <= step / 2 * (1 + 1e-6)


@pytest.mark.parametrize("dtype, code", [(torch.int8, 127), (torch.int8, -128), (torch.int16, -32768),
                                         (torch.int16, 32767), (torch.int32, -2**31)])
def test_the_outermost_codes_of_a_type_fit(dtype, code):
    assert uniform.encode(torch.tensor([float(code)]), 1.0, dtype=dtype).tolist() == [code]


def test_negative_zero():
    assert torch.signbit(uniform.quantize(torch.tensor([-0.2]), 1.0)).item()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("function", [uniform.quantize, uniform.encode])
def test_not_finite_raises(bad, function):
    x = torch.zeros(uniform.CHUNK + 5)
    x[-1] = bad
    with pytest.raises(ValueError, match="x must be finite"):
        function(x, 1.0, bounds=(-7, 7))


def test_extreme_finite_values_are_accepted():
    x = torch.tensor([-3e38, 3e38])
    assert uniform.encode(x, 1.0, bounds=(-7, 7)).tolist() == [-7, 7]


@pytest.mark.parametrize("call, name", [
    (lambda x: uniform.quantize(x, 0.0), "step"),
    (lambda x: uniform.quantize(x, float("nan")), "step"),
    (lambda x: uniform.quantize(x, 1e-60), "step"),
    (lambda x: uniform.quantize(x, 1.0, offset=float("inf")), "offset"),
    (lambda x: uniform.quantize(x, 1.0, bounds=(3, -3)), "bounds"),
    (lambda x: uniform.quantize(x.int(), 1.0), "x must"),
    (lambda x: uniform.quantize([0.5], 1.0), "x must"),
    (lambda x: uniform.quantize(x.to(torch.float8_e4m3fn), 1.0), "x must"),
    (lambda x: uniform.quantize(x, None), "step"),
    (lambda x: uniform.quantize(x, x), "step"),
    (lambda x: uniform.quantize(x, 1.0, bounds=7), "bounds"),
    (lambda x: uniform.quantize(x, 1.0, bounds=(-1.5, 1.5)), "bounds"),
    (lambda x: uniform.quantize(x, 1.0, bounds=(None, 3)), "bounds"),
    (lambda x: uniform.quantize(3e38 * x, 1e-3), "keep q"),
    (lambda x: uniform.quantize(3e38 * x, 2e38), "keep q"),
    (lambda x: uniform.quantize(6e4 * x.half(), 4e4), "keep q"),
    (lambda x: uniform.quantize(x, 1.0, out=torch.empty(4, 8, requires_grad=True)), "out"),
    (lambda x: uniform.encode(x, 1.0, bounds=(-2**31, 2**31 - 1)), "bounds"),
    (lambda x: uniform.encode(128 * x, 1.0, dtype=torch.int8), "fit in"),
    (lambda x: uniform.decode(x > 0, 1.0), "codes"),
    (lambda x: uniform.decode(x.int(), 1.0, dtype=torch.int32), "dtype"),
    (lambda x: uniform.decode(1000 * x.int(), 1e3, dtype=torch.float16), "finite in"),
    (lambda x: uniform.grid(float("nan")), "levels"),
    (lambda x: uniform.quantize(x, 1.0, out=torch.empty(3)), "out"),
    (lambda x: uniform.quantize(x, 1.0, out=torch.empty(8, 4).t()), "out"),
    (lambda x: uniform.encode(x, 1.0, dtype=torch.uint8), "dtype"),
    (lambda x: uniform.encode(x, 1.0, bounds=(-200, 200), dtype=torch.int8), "bounds"),
    (lambda x: uniform.encode(x + 1, 1e-3, dtype=torch.int8), "fit in"),
    (lambda x: uniform.decode(x, 1.0), "codes"),
    (lambda x: uniform.grid(1), "levels"),
    (lambda x: uniform.grid(2.5), "levels"),
])
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call(torch.ones(4, 8))
