"""The kernels in C against their eager paths, the reference: bit for bit where they round alike, on any thread count."""
import dataclasses
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lecturelib import native
from lecturelib.quantization import (
    blocks, codebooks, dither, float_formats, kmeans, lattices, outliers, packing, rotations, trellis, turboquant, uniform)
from scipy.linalg import hadamard

pytestmark = pytest.mark.skipif(native.library("rounding") is None, reason="there is no C compiler, or its work is not wanted")
COUNT = settings(max_examples=40, deadline=None)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
SIMPLE = st.integers(-64, 64).map(lambda k: k / 8)                     # ties, zeros, small integers
MILD = st.one_of(SIMPLE, st.floats(-100, 100, width=32), st.sampled_from([-0.0, 1e-45, -1e-40, 2.0**-126, 0.99999994, 7.9999995]))


@contextmanager
def path(fast):
    """Inside, every tensor goes through C, or none does."""
    with mock.patch.object(native, "LEAST", 0 if fast else 1 << 62), mock.patch.object(native, "library", native.library if fast else lambda name: None):
        yield


def both(f):
    out = []
    for fast in (True, False):
        with path(fast):
            out.append(f())
    return out


def same(a, b):
    """Equal numbers, and equal signs of zeros."""
    return torch.equal(a, b) and (not a.is_floating_point() or torch.equal(torch.signbit(a), torch.signbit(b)))


def vectors(elements, least=1, most=80):
    return hnp.arrays(np.float32, st.integers(least, most), elements=elements).map(torch.from_numpy)


def normal(*shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@COUNT
@given(x=vectors(FLOATS), dtype=st.sampled_from(native.NARROW), step=st.sampled_from([0.3, 1.0, 2.0**-3, 1e30, 1e-30]), offset=st.sampled_from([0.0, 0.5, -0.25]),
       bounds=st.sampled_from([None, (-2, 1), (-7, 7), (0, 255)]))
def test_uniform(x, dtype, step, offset, bounds):
    x = x.to(dtype)

    def run():
        try:
            return uniform.quantize(x, step, offset=offset, bounds=bounds)
        except ValueError as error:
            assert "finite" in str(error)
            return torch.tensor(0.0)
    assert same(*both(run))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_through_c_in_pieces(dtype):
    x = (3 * torch.randn(2 * native.PIECE + 77, generator=torch.Generator().manual_seed(1))).to(dtype)
    for f in (lambda x: uniform.quantize(x, 0.1), lambda x: float_formats.encode(x, float_formats.FORMATS["e4m3fn"]), lambda x: codebooks.quantize(x, [-1.0, 0.3, 2.0]),
              lambda x: dither.quantize(x, 0.1, 5, start=9), lambda x: dither.stochastic_round(x, 0.1, 5), lambda x: blocks.quantize(x[:native.PIECE + 64], blocks.mx())):
        assert torch.equal(*both(lambda f=f: f(x)))
    with path(True), pytest.raises(ValueError, match="finite"):
        uniform.quantize(torch.full((9,), 65504.0).half(), 65000.0, offset=0.5)


def test_uniform_in_place_beside_the_largest_float32():
    x = torch.cat((torch.linspace(-9, 9, 5000), torch.tensor([1.2e38]), torch.linspace(-9, 9, 5000)))
    for bounds in (None, (-3, 3)):
        a, b = both(lambda bounds=bounds: uniform.quantize(x, 0.37, offset=0.25, bounds=bounds))
        z = x.clone()
        with path(True):
            uniform.quantize(z, 0.37, offset=0.25, bounds=bounds, out=z)
        assert same(a, b) and same(a, z)
    with path(True), pytest.raises(ValueError, match="keep"):
        uniform.quantize(x, 1e-3)


@COUNT
@given(x=vectors(st.one_of(FLOATS, SIMPLE)), dtype=st.sampled_from(native.NARROW), name=st.sampled_from(sorted(float_formats.FORMATS)))
def test_float_formats(x, dtype, name):
    fmt = float_formats.FORMATS[name]
    if dtype != torch.float32:
        dtype = torch.bfloat16 if fmt.mantissa < 8 else torch.float16
        x = x.clamp(-6e4, 6e4).to(dtype)
    assert same(*both(lambda: float_formats.quantize(x, fmt)))
    if fmt.bits <= 8:
        assert same(*both(lambda: float_formats.encode(x, fmt)))


@pytest.mark.parametrize("name", sorted(n for n, f in float_formats.FORMATS.items() if f.bits <= 8))
def test_every_number_of_a_format_its_midpoints_and_their_neighbors(name):
    fmt = float_formats.FORMATS[name]
    p = float_formats.points(fmt)
    x = torch.cat((p, (p[1:] + p[:-1]) / 2)).float()
    x = torch.cat((x, torch.nextafter(x, torch.tensor(torch.inf)), torch.nextafter(x, torch.tensor(-torch.inf))))
    assert same(*both(lambda: float_formats.quantize(x, fmt))) and same(*both(lambda: float_formats.encode(x, fmt)))
    with path(True):
        assert torch.equal(float_formats.quantize(p.float(), fmt), p.float())


@COUNT
@given(x=vectors(MILD), points=st.sets(st.integers(-200, 200), min_size=1, max_size=90), unit=st.sampled_from([1.0, 0.1, 1e-3]), dtype=st.sampled_from(native.NARROW))
def test_codebooks(x, points, unit, dtype):
    c = [unit * p for p in sorted(points)]
    tau = codebooks.thresholds(torch.tensor(c))                                 # values exactly on thresholds go down
    z = torch.cat((x, tau, torch.nextafter(tau, torch.full_like(tau, torch.inf)), torch.tensor(c)))
    z = z.to(dtype)
    assert same(*both(lambda: codebooks.quantize(z, c)))
    for kind in (torch.uint8, torch.int32):
        codes = both(lambda kind=kind: codebooks.encode(z, c, dtype=kind))
        assert same(*codes)
    assert same(*both(lambda: codebooks.decode(codes[0].to(torch.uint8), c)))


FORMATS = [blocks.integer(4, 8), blocks.integer(3, 24, symmetric=False), blocks.integer(1, 8, symmetric=False), blocks.integer(4, 16, rule="signed"), blocks.mx(block=8),
           *(blocks.mx(rule=r, block=16) for r in ("even", "ceil", "rceil")), blocks.mx("e4m3fn"), blocks.mx("e5m2", block=8), blocks.mx("e3m2", block=8),
           blocks.nvfp4(block=8), blocks.nf4(8), blocks.nf4(8, torch.bfloat16), blocks.codebook(np.linspace(-1, 1, 20), 8), blocks.integer(4, 8, scale=torch.bfloat16),
           blocks.integer(4, 8, rule="signed", scale=torch.float8_e4m3fn), blocks.integer(8, 8, rule="even", scale=torch.float8_e8m0fnu)]


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), rows=st.integers(1, 3), count=st.integers(1, 3))
def test_blocks(fmt, data, rows, count):
    x = data.draw(hnp.arrays(np.float32, (rows, count * fmt.block), elements=MILD).map(torch.from_numpy))
    for of in (x, x.half(), torch.stack((x, x), -1)[..., 0], x.double(), x.unsqueeze(0).expand(2, -1, -1)):
        a, b = both(lambda of=of: blocks.quantize(of, fmt))
        assert a.dtype == of.dtype and torch.equal(a, b)
    a, b = both(lambda: blocks.encode(x, fmt))
    assert torch.equal(a.codes, b.codes) and torch.equal(a.scales.float(), b.scales.float())
    assert torch.equal(*both(a.decode))
    with path(True):
        assert torch.equal(a.decode(), blocks.quantize(x, fmt))
        z = x.clone()
        assert torch.equal(blocks.quantize(z, fmt, out=z), a.decode()) and blocks.quantize(z, fmt, out=z).data_ptr() == z.data_ptr()


@pytest.mark.parametrize("scale", blocks.SCALES[:3])
def test_every_half_precision_number_as_a_scale_and_what_lies_between(scale):
    x = torch.arange(2**16 - 1).int().bitwise_left_shift(15).view(torch.float32)           # all float32 with seven or fewer digits and one more
    x = x[torch.isfinite(x)]
    x = torch.cat((x, torch.nextafter(x, torch.zeros_like(x)), torch.nextafter(x, torch.full_like(x, torch.inf))))
    x = x[x < {torch.float16: 65519.0}.get(scale, 3.38e38)]
    fmt = blocks.BlockFormat("numbers", 1, (0.0, 1.0), scale, "absmax")
    a, b = both(lambda: blocks.encode(x, fmt))
    assert torch.equal(a.scales.float(), b.scales.float()) and torch.equal(*both(a.decode))


@pytest.mark.parametrize("matrices", [1, 4])
def test_every_e4m3_scale_and_what_lies_between(matrices):
    a = torch.arange(0, 448, 2.0**-11)[:2**19].view(-1, 1)
    x = torch.cat((a[::4], torch.full((matrices, 1), 448.0), torch.nextafter(a[::4], torch.tensor(0.0)), torch.nextafter(a[::4], torch.tensor(1e9))))
    x = x[:len(x) // matrices * matrices].view(matrices, 1, -1)
    fmt = blocks.BlockFormat("numbers", 1, (0.0, 1.0), torch.float8_e4m3fn, "absmax")
    a, b = both(lambda: blocks.encode(x, fmt))
    assert torch.equal(a.scales.float(), b.scales.float()) and torch.equal(a.matrix, b.matrix) and len(a.scales.float().unique()) > 100


@pytest.mark.parametrize("fmt", [blocks.nvfp4("four over six"), blocks.integer(3, 16, rule="search"), blocks.nvfp4("search"), blocks.mx(rule="search")], ids=lambda f: f.name)
def test_searched_scales_have_the_same_error(fmt):
    x = normal(40, 64, seed=3)
    errors = [(v - x).square().view(-1, fmt.block).sum(1) for v in both(lambda: blocks.quantize(x, fmt))]
    assert torch.allclose(*errors, rtol=1e-5)


@COUNT
@given(x=hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=MILD).map(torch.from_numpy), bits=st.integers(2, 8),
       per=st.sampled_from(["row", "tensor"]), clip=st.sampled_from([1.0, 0.7]))
def test_absmax(x, bits, per, clip):
    assert torch.equal(*both(lambda: outliers.quantize(x, bits, per, clip)))


@COUNT
@given(x=vectors(MILD), dtype=st.sampled_from(native.NARROW), seed=st.integers(0, 2**64 - 1), start=st.integers(0, 10**9), step=st.sampled_from([0.3, 1.0, 1e20]), bounds=st.sampled_from([None, (-3, 2)]))
def test_dither(x, dtype, seed, start, step, bounds):
    x, step = x.to(dtype), step if dtype == torch.float32 else min(step, 1.0)
    assert same(*both(lambda: dither.draw(len(x), seed, start=start)))
    assert torch.equal(*both(lambda: dither.quantize(x, step, seed, start=start, bounds=bounds)))
    assert torch.equal(*both(lambda: dither.stochastic_round(x, step, seed, start=start)))


def test_stochastic_rounding_draws_again_as_the_eager_code_does():
    x = torch.full((1 << 22,), 0.6e-7)                                          # a step with probability one in 2^24: the first 24 bits tie
    with path(True):
        fast = dither.stochastic_round(x, 1.0, seed=5)
    slow = dither.stochastic_round(x[:1 << 16], 1.0, seed=5)
    undecided = (2 * x + 0.5 * 2.0**-24).double()                               # one and a half units: further bits decide in half of the ties
    assert torch.equal(fast[:1 << 16], slow) and torch.equal(*both(lambda: dither.stochastic_round(undecided.float(), 1.0, seed=6)))
    assert float(fast.mean()) == pytest.approx(0.6e-7, abs=5 * (0.6e-7 / len(x))**0.5)


@settings(max_examples=30, deadline=None)
@given(d=st.sampled_from([1, 2, 3, 5, 12, 16, 24, 32, 48, 64, 80, 96, 128, 1024, 1536]), n=st.integers(1, 5), rounds=st.integers(1, 3), seed=st.integers(0, 99))
def test_rotations(d, n, rounds, seed):
    x, turn = normal(n, d, seed=seed), rotations.RandomHadamard(d, seed, rounds)
    for f in (turn.apply, turn.undo):
        a, b = both(lambda f=f: f(x))
        assert torch.allclose(a, b, atol=2e-5) and float(a.norm()) == pytest.approx(float(x.norm()), rel=1e-5)
    if d & d - 1 == 0:
        assert torch.allclose(*both(lambda: rotations.hadamard(x)), atol=1e-5)


@pytest.mark.parametrize("d", [8, 12, 48, 576])
@pytest.mark.parametrize("fast", [True, False])
def test_a_rotation_is_signs_and_hartley_times_hadamard(d, fast):
    turn, power = rotations.RandomHadamard(d, seed=1, rounds=1), d & -d
    k = np.outer(range(d // power), range(d // power)) * 2 * np.pi / (d // power)
    H = np.kron((np.cos(k) + np.sin(k)) / (d // power)**0.5, hadamard(power) / power**0.5)
    with path(fast):
        assert np.allclose(turn.apply(torch.eye(d)).numpy(), (H * turn.signs[0].numpy()).T, atol=1e-6)


@COUNT
@given(width=st.integers(1, 8), rows=st.integers(1, 3), n=st.one_of(st.integers(1, 9).map(lambda words: 8 * words), st.integers(1, 40)), seed=st.integers(0, 99))
def test_packing(width, rows, n, seed):
    codes = torch.randint(0, 1 << width, (rows, n), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    data = both(lambda: packing.pack(codes, width))
    assert torch.equal(*data) and torch.equal(*both(lambda: packing.unpack(data[0], width, n)))
    with path(True):
        assert torch.equal(packing.unpack(data[0], width, n), codes)
        if width < 8:
            codes[-1, -1] = 1 << width
            with pytest.raises(ValueError, match="below"):
                packing.pack(codes, width)


@settings(max_examples=30, deadline=None)
@given(L=st.integers(2, 10), k=st.integers(1, 4), batch=st.integers(1, 3), extra=st.integers(0, 40), seed=st.integers(0, 99), bite=st.booleans())
def test_trellis(L, k, batch, extra, seed, bite):
    if L < 2 * k:
        return
    code = trellis.Trellis(L, k, normal(1 << L, seed=seed))
    x = normal(batch, code.memory + 1 + extra, seed=seed + 1)
    costs = [(trellis.decode(codes, code, bite) - x).square().sum(1).double()
             for codes in both(lambda: trellis.viterbi(x, code, bite))]
    assert torch.allclose(*costs, rtol=1e-5)


@COUNT
@given(n=st.integers(1, 70), K=st.integers(1, 300), d=st.integers(1, 16), seed=st.integers(0, 99))
def test_nearest_codeword(n, K, d, seed):
    x, book = normal(n, d, seed=seed), normal(K, d, seed=seed + 1)
    distance = torch.cdist(x.double(), book.double())
    with path(True):
        codes = kmeans.nearest(x, book)
    assert torch.allclose(distance.gather(1, codes[:, None])[:, 0], distance.amin(1), atol=1e-5)


def test_of_equal_codewords_the_first():
    with path(True):
        assert kmeans.nearest(torch.ones(50, 3), torch.ones(7, 3)).eq(0).all()


@pytest.mark.parametrize("n, K, d", [(1, 1, 1), (300, 7, 3), (500, 40, 8), (200, 5, 40)])
def test_cells_of_codewords(n, K, d):
    """The same codes, so the same sums, bit for bit; some cells are empty."""
    x, book = normal(n, d, seed=n), normal(K, d, seed=K)
    book[-1] += 100 * (K > 1)
    (a, s, e), (b, t, f) = both(lambda: kmeans._cells(x, book))
    assert torch.equal(a, b) and torch.equal(s, t) and torch.allclose(e, f, rtol=1e-5, atol=0) and int(a.sum()) == n


@COUNT
@given(x=hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.just(8)), elements=MILD).map(torch.from_numpy))
def test_e8(x):
    a, b = both(lambda: lattices.e8().nearest(x))
    assert torch.equal(a, b)
    double = 2 * a
    assert torch.equal(double, double.round()) and not (a.sum(1) % 2).any() and ((double % 2).sum(1) % 8 == 0).all()


@COUNT
@given(n=st.integers(1, 20), j=st.integers(4, 8), odd=st.sampled_from([1, 3, 5, 15, 17]), bits=st.integers(1, 5), rounds=st.integers(1, 3), scale=st.sampled_from(turboquant.SCALES),
       size=st.sampled_from([1e-12, 1.0, 1e12]), special=st.sampled_from([None, 0.0, 1e-20, 1e20]), seed=st.integers(0, 99))
def test_turboquant(n, j, odd, bits, rounds, scale, size, special, seed):
    """The norms are summed in another order, by which a coordinate beside a threshold may get the code next to it."""
    d = odd << j
    code, x = turboquant.design(rotations.RandomHadamard(d, seed, rounds), bits), size * normal(n, d, seed=seed)
    if special is not None:
        x[seed % n] *= special
    norms, (least, most) = x.double().square().sum(1).sqrt(), turboquant.SAFE
    with path(True):
        assert turboquant._at_once(x, code, torch.empty_like(x, dtype=torch.uint8), torch.empty(n), torch.empty(n)) == (bits <= 4 and bool((norms > least).all() and (norms < most).all()))
    (a, s), (b, t) = both(lambda: turboquant.encode(x, code, scale))
    off = a != b
    assert off.sum() <= 1 + 1e-3 * a.numel() and bool(((a.int() - b.int()).abs() <= 1).all())
    y = turboquant._turned(x, code)[0]
    thresholds = codebooks.thresholds(code.points)
    assert bool(((y[off] - thresholds[torch.minimum(a, b)[off].long()]).abs() < 1e-4).all())
    assert torch.allclose(s[~off.any(1)], t[~off.any(1)], rtol=1e-5, atol=0)


KERNELS = {
    "uniform": lambda x: uniform.quantize(x, 0.1), "float": lambda x: float_formats.quantize(x, float_formats.FORMATS["e4m3fn"]), "codebook": lambda x: codebooks.quantize(x, [-1.0, 0.0, 1.0]),
    "blocks": lambda x: blocks.quantize(x, blocks.mx()), "encode": lambda x: blocks.encode(x, blocks.integer(4, 32, symmetric=False)).codes, "dither": lambda x: dither.quantize(x, 0.1, 3),
    "stochastic": lambda x: dither.stochastic_round(x, 0.1, 3), "rotation": lambda x: rotations.RandomHadamard(x.shape[1], 1).apply(x),
    "e8": lambda x: lattices.e8().nearest(x.view(-1, 8)), "absmax": lambda x: outliers.quantize(x, 4),
    "turboquant": lambda x: turboquant.quantize(x, turboquant.design(rotations.RandomHadamard(x.shape[1], 1), 2), "vector"), "nearest": lambda x: kmeans.nearest(x.view(-1, 8), normal(40, 8)),
    "Lloyd": lambda x: kmeans.lloyd(x.view(-1, 8), normal(40, 8))[0]}


@pytest.mark.parametrize("name", KERNELS)
def test_the_number_of_threads_does_not_matter_and_nothing_given_is_changed(name):
    x, found, before = normal(70, 96, seed=5), [], torch.get_num_threads()
    kept = x.clone()
    try:
        for threads in (1, 2, 8):
            torch.set_num_threads(threads)
            with path(True):
                found.append(KERNELS[name](x))
    finally:
        torch.set_num_threads(before)
    assert same(found[0], found[1]) and same(found[0], found[2]) and torch.equal(x, kept)


@pytest.mark.parametrize("name", KERNELS)
def test_the_work_is_done_in_c(name):
    """An error code that sends a kernel back to PyTorch would hide every other fault."""
    codes = []
    def call(*arguments, run=native.call):
        codes.append(run(*arguments))
        return codes[-1]
    with path(True), mock.patch.object(native, "call", call):
        KERNELS[name](normal(70, 96, seed=6))
    assert codes and set(codes) == {native.OK}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("at", [0, 3000, 6719])
@pytest.mark.parametrize("name", KERNELS)
def test_what_is_not_finite_is_refused(name, bad, at):
    x = normal(70, 96)
    x.view(-1)[at] = bad
    with path(True), pytest.raises(ValueError, match="finite"):
        KERNELS[name](x)


def test_codes_without_a_level_are_refused():
    with path(True):
        b = blocks.encode(normal(4, 64), blocks.nf4(32))
        b.codes[3, 63] = 16
        with pytest.raises(ValueError, match="codes must lie in"):
            b.decode()
        with pytest.raises(ValueError, match="codes must lie in"):
            codebooks.decode(torch.full((300,), 3, dtype=torch.uint8), [0.0, 1.0, 2.0])
        wide = blocks.encode(normal(4, 64), blocks.mx("e4m3fn"))
        wide.codes[0, 0] = 0x7f                                                 # a NaN
        with pytest.raises(ValueError, match="finite"):
            wide.decode()


def test_codes_of_another_type_decode_alike():
    b = blocks.encode(normal(4, 64), blocks.nf4(32))
    with path(True):
        assert torch.equal(dataclasses.replace(b, codes=b.codes.long()).decode(), b.decode())


def test_small_tensors_do_without_the_compiler():
    with mock.patch.object(native, "library", side_effect=AssertionError):
        blocks.quantize(normal(4, 64), blocks.mx())
        uniform.quantize(normal(100), 0.1)
        rotations.RandomHadamard(64, 0).apply(normal(3, 64))
