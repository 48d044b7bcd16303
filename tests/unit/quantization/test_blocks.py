"""Block formats: decode of encode, the scale rules against rational arithmetic, theory against samples, the oracle gguf."""
import math
from fractions import Fraction

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lecturelib.quantization import block_theory, blocks, float_formats, float_search

FORMATS = [*(blocks.mx(e, r) for e in ("e2m1", "e2m3", "e3m2", "e4m3fn", "e5m2") for r in blocks.POWERS), blocks.mx(rule="search"),
           *map(blocks.nvfp4, ("absmax", "four over six", "search")), *(blocks.integer(b, 32) for b in (2, 3, 4, 8)),
           *(blocks.integer(b, 16, False) for b in (1, 2, 3, 4)), blocks.integer(4, 32, rule="signed"), blocks.integer(3, 32, rule="search"),
           blocks.nf4(), blocks.nf4(32, torch.float16), blocks.codebook([-0.8, 0.0, 0.9], 8)]


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_decode_of_encode_is_quantize_and_scaling_by_powers_of_two_commutes(fmt):
    x = gaussian(3, 5, 192, seed=1)
    x[0, 0] = 0
    code, y = blocks.encode(x, fmt), blocks.quantize(x, fmt)
    assert code.codes.dtype == torch.uint8 and int(code.codes.max()) < 2**fmt.width and torch.equal(code.decode(), y)
    assert code.bits == pytest.approx(fmt.bits + (32 / (5 * 192) if code.matrix is not None else 0))
    assert not y[0, 0].any()
    assert torch.equal(blocks.quantize(8 * x, fmt), 8 * y)
    assert torch.equal(blocks.quantize(x.double(), fmt), y.double()) and blocks.quantize(x.half(), fmt).dtype == torch.float16
    same = x.clone()
    assert blocks.quantize(same, fmt, out=same) is same and torch.equal(same, y)
    assert torch.equal(blocks.quantize(x.transpose(0, 1), fmt), y.transpose(0, 1)) or code.matrix is not None


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.rule in ("absmax", "range", "signed", "floor", "even", "search") and f.scale != torch.float8_e4m3fn
                                 and f.reach in (None, max(f.levels))], ids=lambda f: f.name)
def test_every_level_survives(fmt):
    """Points of the format itself are reproduced: the largest level in each block, and any others."""
    levels = torch.tensor(sorted({v for v in fmt.levels if math.isfinite(v)}))
    j = torch.randint(0, len(levels), (64, fmt.block), generator=torch.Generator().manual_seed(2))
    if fmt.rule == "signed":
        j[:, 0] = 0
    else:
        j[:, 0], j[:, 1] = len(levels) - 1, 0
    x = levels[j] * (0.5 if fmt.rule != "search" else 1.0)
    assert torch.allclose(blocks.quantize(x, fmt), x, rtol=1e-3 if fmt.scale == torch.float16 else 1e-6, atol=1e-7)


def exact_power(a, rule, fmt):
    """Exponent of the scale in rational arithmetic."""
    def log(v):
        k = v.numerator.bit_length() - v.denominator.bit_length()
        return k if Fraction(2)**k <= v else k - 1
    top = Fraction(fmt.top)
    if rule == "rceil":
        k = log(a / top)
        return k if Fraction(2)**k == a / top else k + 1
    k = log(a)
    if rule == "even":
        unit = Fraction(2)**(k - fmt.element.mantissa)
        k = log(math.floor(a / unit + Fraction(1, 2)) * unit)
    if rule == "ceil" and Fraction(2)**k != a:
        k += 1
    return k - log(top)


@settings(max_examples=200, deadline=None)
@given(st.floats(2.0**-60, 2.0**60, width=32), st.integers(-1, 1), st.sampled_from(blocks.POWERS), st.sampled_from(["e2m1", "e3m2", "e4m3fn"]))
def test_scale_rules_are_exact(value, ulp, rule, element):
    fmt = blocks.mx(element, rule)
    for a in (value, 2.0**math.frexp(value)[1], fmt.top * 2.0**math.frexp(value)[1], 1.75 * 2.0**math.frexp(value)[1]):
        a = np.nextafter(np.float32(a), np.float32(a * (1 + ulp)), dtype=np.float32)
        x = torch.zeros(32)
        x[3] = float(a)
        found = float(blocks.encode(x, fmt).scales.float())
        assert found == 2.0**exact_power(Fraction(float(a)), rule, fmt)


def test_one_ulp_below_a_power_of_two():
    """The case that a float32 logarithm gets wrong by a factor of two."""
    x = torch.zeros(32)
    x[0] = 7.9999995
    assert float(blocks.encode(x, blocks.mx()).scales.float()) == 1.0


def test_subnormal_and_large_blocks():
    for size in (2.0**-149, 2.0**-130, 2.0**126):
        x = torch.full((32,), size)
        y = blocks.quantize(x, blocks.mx())
        assert torch.isfinite(y).all() and float(y[0]) in (0.0, size) and (float(y[0]) == size or size < 2.0**-128)
    with pytest.raises(ValueError, match="scale"):
        blocks.quantize(torch.full((32,), 1e6), blocks.integer(4, 32))
    assert float(blocks.quantize(torch.full((32,), 3.0), blocks.integer(4, 32, False))[0]) == 3.0      # a constant block


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.rule in ("absmax", *blocks.POWERS) and f.scale != torch.float8_e4m3fn] +
                         [blocks.integer(4, b) for b in (16, 64, 128)], ids=lambda f: f.name)
def test_theory_matches_samples(fmt):
    x = gaussian(2048, 384, seed=3)
    e = (blocks.quantize(x, fmt) - x).square().view(-1, fmt.block).mean(1)
    assert abs(float(e.mean()) - block_theory.format_distortion(fmt)) < 5 * float(e.std() / len(e)**0.5) + 2e-5 * float(e.mean())


def test_nvfp4_theory_and_order_of_its_rules():
    x = gaussian(2048, 512, seed=4)
    d = {r: float((blocks.quantize(x, blocks.nvfp4(r)) - x).square().mean()) for r in ("absmax", "four over six", "search")}
    assert d["absmax"] == pytest.approx(block_theory.nvfp4_distortion(float(x.abs().max()) / 6 / 448), rel=0.01)
    assert d["search"] < 0.9 * d["four over six"] < 0.8 * d["absmax"]
    assert d == pytest.approx({"absmax": 0.00904, "four over six": 0.00756, "search": 0.00660}, rel=0.01)


@pytest.mark.parametrize("n", [64, 1 << 17])
@pytest.mark.parametrize("rule", ["absmax", "four over six", "search"])
def test_a_vector_is_a_matrix_of_one_row(rule, n):
    x, fmt = 3 * torch.randn(n, generator=torch.Generator().manual_seed(5)), blocks.nvfp4(rule)
    assert torch.equal(blocks.quantize(x, fmt), blocks.quantize(x[None], fmt)[0])
    assert torch.equal(blocks.encode(x, fmt).decode(), blocks.quantize(x, fmt))


def test_nf4_is_that_of_qlora():
    """The values of the paper's appendix E, and of bitsandbytes."""
    published = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
                 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
    np.testing.assert_allclose(blocks.nf4().levels, published, rtol=0, atol=2e-7)


@pytest.mark.parametrize("bits", range(2, 9))
def test_normal_float_has_even_probabilities_on_either_side(bits):
    levels, half = blocks.normal_float(bits), 2**(bits - 1)
    assert len(levels) == 2**bits and levels[0] == -1 and levels[-1] == pytest.approx(1) and levels[half - 1] == 0
    p = stats.norm.cdf(levels * stats.norm.ppf(1 - (1 / 2**(bits + 1) + 1 / (2**(bits + 1) - 2)) / 2))
    for side, count in ((p[:half], half - 1), (p[half - 1:], half)):
        np.testing.assert_allclose(np.diff(side), (0.5 - p[0]) / count, rtol=1e-9)


def test_best_levels_are_a_fixed_point_and_beat_nf4():
    for block in (32, 64):
        levels = block_theory.best_levels(16, block)
        least = block_theory.distortion(levels, block, lambda a: a)
        assert least < 0.92 * block_theory.format_distortion(blocks.nf4(block))
        rng = np.random.default_rng(0)
        for _ in range(5):
            moved = np.sort(levels + 0.01 * rng.standard_normal(16))
            assert block_theory.distortion(moved, block, lambda a: a) > least


def test_large_block_limits():
    a, w = block_theory.maximum(1)
    assert w @ a**2 == pytest.approx(1.0, abs=1e-12)
    x = gaussian(200000, 8, seed=5).abs().amax(1)
    a, w = block_theory.maximum(8)
    assert w @ a == pytest.approx(float(x.mean()), rel=0.005)


def test_oracle_gguf_bytes():
    """Bytes of gguf decode to the same numbers, and ours agree with its encoders but at ties."""
    x = gaussian(256, 256, seed=6)
    array = x.numpy()
    data = gguf.quantize(array, gguf.GGMLQuantizationType.MXFP4).reshape(-1, 17)
    ours = blocks.encode(x, blocks.mx())
    assert np.array_equal(ours.scales.view(torch.uint8).numpy().ravel(), data[:, 0])
    nibbles = np.concatenate((data[:, 1:] & 15, data[:, 1:] >> 4), 1)
    mine = ours.codes.view(-1, 32).numpy()
    assert (nibbles != np.where(mine == 8, 0, mine)).mean() < 1e-5
    assert np.array_equal(gguf.dequantize(data.reshape(256, -1), gguf.GGMLQuantizationType.MXFP4), ours.decode().numpy() + 0.0)

    data = gguf.quantize(array, gguf.GGMLQuantizationType.Q4_0).reshape(-1, 18)
    ours = blocks.encode(x, blocks.integer(4, 32, rule="signed"))
    scale = data[:, :2].copy().view(np.float16).ravel()
    assert np.array_equal(ours.scales.numpy().ravel(), scale)
    codes = torch.from_numpy(np.concatenate((data[:, 2:] & 15, data[:, 2:] >> 4), 1)).view(256, 256)
    theirs = blocks.Blocks(codes, ours.scales, None, ours.levels)
    assert np.array_equal(theirs.decode().numpy(), gguf.dequantize(data.reshape(256, -1), gguf.GGMLQuantizationType.Q4_0))
    assert float((codes != ours.codes).float().mean()) < 0.003            # ours rounds for the scale as stored

    data = gguf.quantize(array, gguf.GGMLQuantizationType.Q4_1)
    ours, theirs = blocks.encode(x, blocks.integer(4, 32, False)), torch.from_numpy(gguf.dequantize(data, gguf.GGMLQuantizationType.Q4_1))
    again = blocks.quantize(theirs, blocks.integer(4, 32, False))
    assert float((ours.decode() - x).square().mean()) <= 1.0001 * float((theirs - x).square().mean())
    assert float((again - theirs).abs().max()) < 2e-3 and float((again == theirs).float().mean()) > 0.9


def test_oracle_gguf_nvfp4_decodes_our_bytes():
    x = gaussian(4, 64, seed=7)
    code = blocks.encode(x, blocks.nvfp4())
    halves = code.codes.view(4, 4, 2, 8)
    data = torch.cat((code.scales.view(torch.uint8), (halves[:, :, 0] | halves[:, :, 1] << 4).view(4, 32)), 1).numpy()
    theirs = torch.from_numpy(gguf.dequantize(data, gguf.GGMLQuantizationType.NVFP4))
    assert torch.equal(theirs, blocks.Blocks(code.codes, code.scales, None, code.levels).decode())


def test_search_of_formats():
    x = gaussian(1 << 16, seed=8)
    best = float_search.search(x, 4)
    assert [(f.format.exponent, f.format.mantissa) for f in best] == [(2, 1), (1, 2), (3, 0)]
    assert best[0].error == pytest.approx(float((float_search.quantize(x, best[0]) - x).square().mean()), rel=1e-5)
    assert best[0].error == pytest.approx(0.01268, rel=0.02) and best[1].error == pytest.approx(0.01302, rel=0.02)
    grid = float_formats.points(float_formats.Format(1, 2))
    assert torch.equal(grid.diff(), torch.full((14,), float(grid[8])).double())                 # E1M2 is INT4
    heavy = gaussian(1 << 15, seed=9) / gaussian(1 << 15, 3, seed=10).square().mean(1).sqrt()           # Student's t, 3 degrees
    assert float_search.search(heavy, 4)[0].format.exponent == 3


def test_shifts_change_no_product():
    g = torch.Generator().manual_seed(11)
    x, w = torch.randn(8, 32, generator=g) * 2.0**torch.randint(-6, 7, (32,), generator=g), torch.randn(16, 32, generator=g)
    k = float_search.channel_shifts(x.abs().amax(0))
    for dtype in (torch.float32, torch.bfloat16):
        a, b = x.to(dtype) * 2.0**k, w.to(dtype) * 2.0**-k
        assert torch.equal(a[:, None].to(dtype) * b[None].to(dtype), x.to(dtype)[:, None] * w.to(dtype)[None])
    m = (x * 2.0**k).abs().amax(0)
    assert float(m.max() / m.min()) < 2.0


def test_learned_rounding_against_all_roundings():
    n, m, g = 8, 40, torch.Generator().manual_seed(12)
    sigma = 0.9**(torch.arange(n)[:, None] - torch.arange(n)).abs().float()
    w = torch.randn(m, n, generator=g)
    lower, upper = float_search.neighbors(w, [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0])
    assert bool(((lower <= w) & (w <= upper) | (w.abs() > 3)).all())
    q = float_search.learned_rounding(w, sigma, lower, upper)
    assert bool(((q == lower) | (q == upper)).all())

    def loss(v):
        return (((v - w) @ sigma) * (v - w)).sum(1)
    every = torch.stack([loss(lower + torch.tensor([c >> i & 1 for i in range(n)]) * (upper - lower)) for c in range(2**n)]).amin(0)
    nearest = torch.where(w - lower > upper - w, upper, lower)
    assert bool((loss(q) <= loss(nearest) * 1.00001).all()) and bool((loss(q) >= every * 0.9999).all())
    assert float(loss(q).sum()) < 1.5 * float(every.sum()) < 0.5 * float(loss(nearest).sum())


def test_bad_input():
    x = torch.ones(4, 48)
    with pytest.raises(ValueError, match="multiple of 32"):
        blocks.encode(x, blocks.mx())
    with pytest.raises(ValueError, match="multiple of 32"):
        blocks.quantize(torch.empty(0, 32), blocks.mx())
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="x must be finite"):
            blocks.quantize(torch.tensor([bad] * 32), blocks.mx())
        with pytest.raises(ValueError, match="x must be finite"):
            blocks.encode(torch.tensor([1.0] * 31 + [bad]), blocks.nf4(32))
    with pytest.raises(ValueError, match="x must be finite"):
        blocks.quantize(torch.full((32,), 1e300, dtype=torch.float64), blocks.mx())
    for call in (lambda: blocks.mx("e9m9"), lambda: blocks.mx("bfloat16")):
        with pytest.raises(ValueError, match="element"):
            call()
    for call in (lambda: blocks.mx(rule="up"), lambda: blocks.mx(rule="absmax"), lambda: blocks.nvfp4("floor"), lambda: blocks.integer(4, 32, rule="floor")):
        with pytest.raises(ValueError, match="rule"):
            call()
    for call in (lambda: blocks.integer(9, 32), lambda: blocks.integer(1, 32), lambda: blocks.integer(2.5, 32)):
        with pytest.raises(ValueError, match="bits"):
            call()
    with pytest.raises(ValueError, match="block"):
        blocks.integer(4, 0)
    with pytest.raises(ValueError, match="points"):
        blocks.codebook([1.0, 0.0])
    with pytest.raises(ValueError, match="fmt"):
        blocks.quantize(x, "mxfp4")
    with pytest.raises(ValueError, match="x must be a floating"):
        blocks.quantize(torch.ones(32, dtype=torch.int64), blocks.mx())
    code = blocks.encode(torch.ones(32), blocks.mx("e4m3fn"))
    with pytest.raises(ValueError, match="finite"):
        blocks.Blocks(torch.full_like(code.codes, 127), code.scales, None, code.levels).decode()
    with pytest.raises(ValueError, match="codes must lie"):
        blocks.Blocks(torch.full_like(code.codes, 16), code.scales, None, code.levels[:16]).decode()
    with pytest.raises(ValueError, match="largest magnitude decides"):
        block_theory.format_distortion(blocks.integer(4, 32, False))
    with pytest.raises(ValueError, match="levels"):
        block_theory.distortion([1.0, 0.0], 4)
    with pytest.raises(ValueError, match="levels must not be zero"):
        block_theory.distortion([0.0], 4)
    with pytest.raises(ValueError, match="scale must map"):
        block_theory.distortion([-1.0, 1.0], 4, lambda a: -a)
    with pytest.raises(ValueError, match="block"):
        block_theory.best_levels(4, 1)
    with pytest.raises(ValueError, match="bits"):
        blocks.normal_float(2.5)
    eye, low = torch.eye(2), torch.zeros(1, 2)
    with pytest.raises(ValueError, match="finite"):
        float_search.learned_rounding(torch.tensor([[math.nan, 0.3]]), eye, low, low + 1)
    for sigma in (torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]), eye * math.nan, eye.double()):
        with pytest.raises(ValueError, match="sigma"):
            float_search.learned_rounding(low + 0.3, sigma, low, low + 1)
    for call in (lambda: float_search.search(torch.zeros(4), 4), lambda: float_search.search(torch.tensor([math.nan]), 4)):
        with pytest.raises(ValueError, match="x must be finite"):
            call()
    with pytest.raises(ValueError, match="most"):
        float_search.channel_shifts(torch.tensor([-1.0, 2.0]))
    with pytest.raises(ValueError, match="sigma"):
        float_search.learned_rounding(torch.ones(2, 3), torch.tensor([[1.0, 2, 3], [0, 1, 0], [0, 0, 1]]), torch.zeros(2, 3), torch.ones(2, 3) * 2)


@pytest.mark.parametrize("rule", ["absmax", "signed", "search"])
@pytest.mark.parametrize("scale", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_the_type_of_the_scale_hardly_matters(scale, rule):
    x = 30 * gaussian(64, 512, seed=5)
    exact, stored = ((blocks.quantize(x, blocks.integer(4, 32, rule=rule, scale=t)) - x).square().mean() for t in (torch.float32, scale))
    assert abs(float(stored / exact) - 1) < (0.05 if scale.itemsize == 1 else 0.01)
    with pytest.raises(ValueError, match="range"):
        blocks.integer(4, 32, rule="range", scale=torch.float8_e4m3fn)


@pytest.mark.parametrize("fmt, candidates", [
    (blocks.nvfp4("four over six"), lambda a: [a / 6, a / 4]),
    (blocks.nvfp4("search"), lambda a: [float((code + k).clamp(0, 126).view(torch.uint8).view(torch.float8_e4m3fn)) for code in [(a / 6).to(torch.float8_e4m3fn).view(torch.int8)] for k in range(-4, 9)]),
    (blocks.mx(rule="search"), lambda a: [2.0**(math.floor(math.log2(a)) - 2 + k) for k in (-1, 0, 1)]),
    (blocks.integer(3, 32, rule="search"), lambda a: [a / 3 * f for f in np.linspace(1, 0.4, 25)])], ids=lambda v: getattr(v, "name", ""))
def test_a_searched_scale_is_the_best_of_its_candidates(fmt, candidates):
    """Every block, in float64, the candidates written out."""
    x, levels = gaussian(12, fmt.block, seed=9), np.array([v for v in fmt.levels if math.isfinite(v)])
    code = blocks.encode(x, fmt)
    t = 1.0 if code.matrix is None else float(code.matrix)
    found = (code.decode() - x).double().square().sum(1)
    for row, error, scale in zip(x, found.tolist(), code.scales.float()[:, 0].tolist()):
        a = row.abs().max() / t
        tried = [float(torch.tensor(float(s)).to(fmt.scale).float()) * t for s in candidates(a)]
        w = row.double().numpy()
        best = min(float(np.square(w - s * levels[np.abs(w[:, None] / s - levels).argmin(1)]).sum()) for s in tried if s > 0)
        assert error == pytest.approx(best, rel=1e-5) and any(scale * t == pytest.approx(s, rel=1e-6) for s in tried if s > 0)
