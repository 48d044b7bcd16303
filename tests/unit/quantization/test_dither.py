"""Dither: the random numbers, the codec, and the error law that it is there for."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lecturelib.quantization import dither, uniform

FINITE = st.floats(-1e4, 1e4, allow_nan=False, width=32)
STEPS = st.floats(2.0**-6, 8.0, allow_nan=False, width=32)
SEEDS = st.integers(0, 2**64 - 1)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def triple32(x):
    """The published hash, on Python integers."""
    for shift, factor in ((17, 0xED5AD4BB), (11, 0xAC4C1B51), (15, 0x31848BAB), (14, 1)):
        x = (x ^ x >> shift) * factor % 2**32
    return x


def test_the_hash_is_the_published_one_when_the_keys_are_zero():
    index = [0, 1, 2, 17, 2**16, 2**31 - 1]
    h = torch.tensor(index, dtype=torch.int32)
    words = dither._mix(h, h, torch.empty_like(h), (0, 0)).tolist()
    assert [w % 2**32 for w in words] == [triple32(i) for i in index]


def test_splitmix_keys():
    """The first output of splitmix64 from state 0, from its reference code, is 0xe220a8397b1dcdaf."""
    assert [k % 2**32 for k in dither._keys(0)] == [0x7B1DCDAF, 0xE220A839]


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(0, 2**31 - 300), st.integers(0, 200))
def test_any_part_of_the_dither_is_reproduced_from_its_position(seed, start, cut):
    whole = dither.draw((300,), seed, start=start)
    assert torch.equal(dither.draw((300 - cut,), seed, start=start + cut), whole[cut:])
    assert torch.equal(dither.draw((300,), seed, start=start, dtype=torch.float64), whole.double())
    assert torch.equal(dither.draw((3, 100), seed, start=start).view(-1), whole)


def test_chunks_do_not_show(monkeypatch):
    x = torch.randn(1001, generator=torch.Generator().manual_seed(0))
    functions = (lambda: dither.draw(1001, 3), lambda: dither.quantize(x, 0.3, 3), lambda: dither.encode(x, 0.3, 3),
                 lambda: dither.stochastic_round(x, 0.3, 3), lambda: dither.decode(dither.encode(x, 0.3, 3), 0.3, 3))
    whole = [f() for f in functions]
    monkeypatch.setattr(uniform, "CHUNK", 17)
    for f, expected in zip(functions, whole):
        assert torch.equal(f(), expected)


def z_scores(u):
    """Mean, power and lagged products of samples of U[-1/2, 1/2], in standard errors."""
    n = len(u)
    lags = [float((u[k:] * u[:-k]).mean()) * 12 for k in (1, 2, 3, 4, 8, 64, 1024)]
    return np.sqrt(n) * np.array([float(u.mean()) * 12**0.5, (float(u.square().mean()) * 12 - 1) / 0.8**0.5, *lags])


def test_dither_is_white_and_uniform_and_seeds_are_unrelated():
    """20 seeds, 9 statistics each, and their means: a hash with one round less fails."""
    u = [dither.draw(1 << 19, seed, dtype=torch.float64) for seed in range(20)]
    z = np.array([z_scores(v) for v in u])
    assert np.abs(z).max() < 4.5 and np.abs(z.mean(0)).max() * 20**0.5 < 4.5
    cross = [float((a * b).mean()) * 12 * len(a)**0.5 for a, b in zip(u, u[1:])]
    assert max(map(abs, cross)) < 4.5
    assert stats.kstest(torch.cat(u[:2]).numpy() + 0.5, "uniform").pvalue > 1e-4
    cells = ((u[0] + 0.5) * 64).long()
    pairs = torch.bincount(cells[:-1] * 64 + cells[1:], minlength=64**2).numpy()
    assert stats.chisquare(pairs).pvalue > 1e-4


@pytest.mark.parametrize("bit", [0, 1, 31, 32, 63])
def test_every_bit_of_the_seed_counts(bit):
    a, b = (dither.draw(1 << 16, seed, dtype=torch.float64) for seed in (12345, 12345 ^ 1 << bit))
    assert abs(float((a * b).mean()) * 12 * 256) < 4.5 and not torch.equal(a[:8].sort()[0], b[:8].sort()[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=40), STEPS, SEEDS, st.sampled_from([torch.float32, torch.float64]))
def test_codec_round_trip_error_bound_and_shift(values, step, seed, dtype):
    x = torch.tensor(values, dtype=dtype)
    q, codes = dither.quantize(x, step, seed), dither.encode(x, step, seed)
    assert torch.equal(dither.decode(codes, step, seed, dtype=dtype), q)
    slack = 4 * torch.finfo(dtype).eps * (float(x.abs().max()) + step)
    assert float((q - x).abs().max()) <= step / 2 + slack
    assert torch.equal(codes, torch.round(x / step + dither.draw(len(x), seed, dtype=dtype)).int())
    if dtype == torch.float64 and step > 0.1:                     # a shift by steps shifts the codes
        shifted = dither.encode(x.round() * step + 3 * step, step, seed)
        assert torch.equal(shifted, dither.encode(x.round() * step, step, seed) + 3)


def test_part_of_a_tensor_is_decoded_by_itself():
    x = torch.randn(8, 100, generator=torch.Generator().manual_seed(0))
    codes = dither.encode(x, 0.2, 11)
    assert torch.equal(dither.decode(codes[3], 0.2, 11, start=300), dither.quantize(x, 0.2, 11)[3])


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_is_computed_in_float32(dtype):
    x = torch.randn(3, 500, generator=torch.Generator().manual_seed(0)).to(dtype)
    for kernel in (dither.quantize, dither.stochastic_round):
        wide = kernel(x.double() if dtype == torch.float64 else x.float(), 0.3, 4)
        assert torch.equal(kernel(x, 0.3, 4), wide.to(dtype))
    codes = dither.encode(x, 0.3, 4)
    assert torch.equal(dither.decode(codes, 0.3, 4, dtype=dtype), dither.quantize(x, 0.3, 4))


def test_out_layout_and_gradient():
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    for kernel in (dither.quantize, dither.stochastic_round):
        expected, out = kernel(x, 0.3, 1), torch.empty_like(x)
        assert kernel(x, 0.3, 1, out=out) is out and torch.equal(out, expected)
        assert torch.equal(kernel(x.t().contiguous().t(), 0.3, 1), expected)
        assert not kernel(x.clone().requires_grad_(), 0.3, 1).requires_grad
        clone = x.clone()
        assert kernel(clone, 0.3, 1, out=clone) is clone and torch.equal(clone, expected)
    codes = torch.empty(64, 8, dtype=torch.int8)
    assert dither.encode(x, 0.3, 1, dtype=torch.int8, out=codes) is codes
    assert dither.quantize(torch.empty(0, 3), 1.0, 1).shape == (0, 3)
    assert dither.quantize(torch.tensor(0.6), 1.0, 1).shape == ()


def test_codes_of_any_layout_are_decoded_in_their_logical_order():
    codes = dither.encode(torch.randn(8, 100, generator=torch.Generator().manual_seed(0)), 0.2, 11).t()
    assert torch.equal(dither.decode(codes, 0.2, 11), dither.decode(codes.contiguous(), 0.2, 11))


def test_bounds_cut_the_codes():
    x = torch.linspace(-5, 5, 101)
    codes = dither.encode(x, 1.0, 1, bounds=(-2, 3), dtype=torch.int8)
    assert (int(codes.min()), int(codes.max())) == (-2, 3)
    assert torch.equal(dither.decode(codes, 1.0, 1), dither.quantize(x, 1.0, 1, bounds=(-2, 3)))


@pytest.mark.parametrize("x", [0.0, 0.1, 0.25, 0.5, -7.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_error_is_uniform_at_every_fixed_input(x, dtype):
    step = 0.5
    error = (dither.quantize(torch.full((40_000,), x, dtype=dtype), step, 17) - x).double().numpy()
    assert stats.kstest(error, stats.uniform(-step / 2, step).cdf).pvalue > 1e-4


@pytest.mark.parametrize("x", [0.0, 0.01, 0.3, 0.5, 0.99, -0.3, 5.75, -2.5])
def test_stochastic_rounding_has_the_law_of_two_neighbors(x):
    n, low = 40_000, np.floor(x)
    q = dither.stochastic_round(torch.full((n,), x, dtype=torch.float64), 1.0, 23)
    assert set(q.tolist()) <= {low, low + 1}
    up, f = int((q > low).sum()), x - low
    assert stats.binomtest(up, n, f).pvalue > 1e-4 if 0 < f < 1 else up == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=40), STEPS, SEEDS)
def test_stochastic_rounding_takes_a_neighbor_and_keeps_grid_points(values, step, seed):
    x = torch.tensor(values, dtype=torch.float64)
    q = dither.stochastic_round(x, step, seed)
    y, m = x / step, torch.round(q / step)
    assert bool(((m == y.floor()) | (m == y.ceil())).all())
    grid = torch.round(y) * step
    assert torch.equal(dither.stochastic_round(grid, step, seed), grid)
    assert torch.equal(uniform.decode(uniform.encode(q, step), step, dtype=torch.float64), q)
    assert torch.equal(dither.stochastic_round(-x, step, seed), -q)


class Scripted:
    """A stream whose 24-bit words are given."""
    def __init__(self, *levels):
        self.levels = [torch.tensor(v, dtype=torch.float64) for v in levels]

    def integers(self, piece):
        return self.levels[0]

    def again(self, where, level):
        return self.levels[level][where].long()


def test_undecided_bits_are_drawn_again():
    """chance / 2^24 = 0.k1 k2 in base 2^24 against 0.u1 u2: less, equal so far, greater."""
    unit = 2.0**-24
    chance = torch.tensor([5.0, 5.0, 5 + 7 * unit, 5 + 7 * unit, 5 + 7 * unit, 0.0, 3 * unit], dtype=torch.float64)
    stream = Scripted([4, 5, 5, 5, 6, 0, 0], [0, 0, 6, 8, 0, 0, 2])
    assert dither._less(stream, chance).tolist() == [True, False, True, False, False, False, True]
    third = Scripted([5], [7], [0])
    assert dither._less(third, torch.tensor([5 + 7.5 * unit], dtype=torch.float64)).tolist() == [True]


def test_generator_gives_the_seed_and_moves_on():
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(1)
    first, second = dither.stochastic_round(x, 1.0, g), dither.stochastic_round(x, 1.0, g)
    assert not torch.equal(first, second)
    assert torch.equal(dither.stochastic_round(x, 1.0, torch.Generator().manual_seed(1)), first)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("function", [dither.quantize, dither.encode, dither.stochastic_round])
def test_not_finite_raises(bad, function):
    x = torch.zeros(uniform.CHUNK + 5)
    x[-1] = bad
    with pytest.raises(ValueError, match="x must be finite"):
        function(x, 1.0, 0)


@pytest.mark.parametrize("call, name", [
    (lambda x: dither.quantize(x, 0.0, 0), "step"),
    (lambda x: dither.quantize(x, 1.0, -1), "seed"),
    (lambda x: dither.quantize(x, 1.0, 2**64), "seed"),
    (lambda x: dither.quantize(x, 1.0, 0.5), "seed"),
    (lambda x: dither.quantize(x, 1.0, None), "seed"),
    (lambda x: dither.quantize(x, 1.0, torch.Generator()), "seed"),
    (lambda x: dither.quantize(x, 1.0, 0, start=2**31 - 31), "start"),
    (lambda x: dither.quantize(x, 1.0, 0, start=-1), "start"),
    (lambda x: dither.quantize(x.int(), 1.0, 0), "x must"),
    (lambda x: dither.quantize([0.5], 1.0, 0), "x must"),
    (lambda x: dither.quantize(x, 1.0, 0, bounds=7), "bounds"),
    (lambda x: dither.quantize(x, 1.0, 0, out=torch.empty(3)), "out"),
    (lambda x: dither.quantize(6e4 * x.half(), 4e4, 0), "finite in"),
    (lambda x: dither.stochastic_round(6e4 * x.half(), 5e4, 0), "finite in"),
    (lambda x: dither.quantize(3e38 * x, 1e-3, 0), "finite in"),
    (lambda x: dither.stochastic_round(x, -1.0, 0), "step"),
    (lambda x: dither.stochastic_round(x, 1.0, "0"), "seed"),
    (lambda x: dither.encode(128 * x, 1.0, 0, dtype=torch.int8), "fit in"),
    (lambda x: dither.encode(x, 1.0, 0, dtype=torch.uint8), "dtype"),
    (lambda x: dither.encode(x, 1.0, 0, bounds=(-200, 200), dtype=torch.int8), "bounds"),
    (lambda x: dither.decode(x, 1.0, 0), "codes"),
    (lambda x: dither.decode(x.int(), 1.0, -1), "seed"),
    (lambda x: dither.decode(x.int(), 0.0, 0), "step"),
    (lambda x: dither.draw((2,), 0, dtype=torch.float16), "dtype"),
    (lambda x: dither.draw((-2,), 0), "shape"),
    (lambda x: dither.draw((2,), 0, device="nowhere"), "device"),
])
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call(torch.ones(4, 8))


def test_the_outermost_codes_of_a_type_fit():
    x = torch.full((2000,), 126.9)
    assert int(dither.encode(x, 1.0, 0, dtype=torch.int8).max()) == 127
    assert int(dither.encode(-x - 0.5, 1.0, 0, dtype=torch.int8).min()) == -128
