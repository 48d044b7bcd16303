"""What every kernel promises, on any shape, layout and type: no NaN or infinity goes in or comes out, the layout does not show, the input stays."""
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lecturelib import native
from lecturelib.quantization import (
    blocks, codebooks, companding, dither, float_formats, kmeans, lattices, learned_grids, nested, outliers, power, rotations, trellis, trellis_codes, turboquant, uniform)

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EXTREME = (0.0, -0.0, 1.0, -1.5, 0.25, 6.0, 448.0, 2.0**-24, -2.0**-126, 1e-45, -1e-310, 1e4, -6e4, 3e38, -1.7e308)
MU, TURN = companding.mu_law(255.0, 4.0), rotations.RandomHadamard(16, 0)
BOOK = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
VORONOI, TRELLIS = nested.VoronoiCode(lattices.e8(), 4, (0.5, 1.0, 3.0)), trellis_codes.sum_code(8, 2)
TURBO = turboquant.design(TURN, 2)
NUMBERS = {
    "uniform": lambda x: uniform.quantize(x, 0.1, bounds=(-8, 7)), "uniform, no ends": lambda x: uniform.quantize(x, 0.5, offset=0.5), "uniform codes": lambda x: uniform.encode(x, 0.1, bounds=(-8, 7)),
    "dither": lambda x: dither.quantize(x, 0.1, 7, bounds=(-8, 7)), "stochastic": lambda x: dither.stochastic_round(x, 0.5, 7),
    "codebook": lambda x: codebooks.quantize(x, [-1.5, 0.0, 0.5]), "codebook codes": lambda x: codebooks.encode(x, [-1.5, 0.0, 0.5], dtype=torch.uint8),
    "e2m1": lambda x: float_formats.quantize(x, float_formats.FORMATS["e2m1"]), "e4m3fn codes": lambda x: float_formats.encode(x, float_formats.FORMATS["e4m3fn"]),
    "power": lambda x: power.quantize(x, 0.75, 0.2, 15), "power codes": lambda x: power.encode(x, 0.75, 0.2, 15),
}
ROWS = {                                                       # rows of 16
    **{f.name: lambda x, f=f: blocks.quantize(x, f) for f in (blocks.mx(block=16), blocks.nvfp4(), blocks.nvfp4("search", 8), blocks.integer(4, 8), blocks.integer(3, 16, False, scale=torch.float32),
                                                           blocks.integer(4, 16, rule="signed", scale=torch.bfloat16), blocks.nf4(16))},
    "block codes": lambda x: blocks.encode(x, blocks.nf4(16)).codes, "absmax": lambda x: outliers.quantize(x, 4), "absmax codes": lambda x: outliers.encode(x, 8).codes,
    "rotation": TURN.apply, "rotation back": TURN.undo, "hadamard": rotations.hadamard, "nearest codeword": lambda x: kmeans.nearest(x, BOOK.to(x.dtype)),
    "E8": lambda x: lattices.e8().nearest(x.unflatten(-1, (2, 8))).flatten(-2), "D4": lambda x: lattices.checkerboard(4).nearest(x.unflatten(-1, (4, 4))).flatten(-2),
    "hexagonal": lambda x: lattices.hexagonal().nearest(x.unflatten(-1, (8, 2))).flatten(-2), "Voronoi": lambda x: nested.quantize(x.unflatten(-1, (2, 8)), VORONOI).flatten(-2), "TurboQuant": lambda x: turboquant.quantize(x, TURBO),
    "TurboQuant codes": lambda x: turboquant.encode(x, TURBO)[0], "trellis": lambda x: trellis.quantize(x.reshape(-1, 16), TRELLIS).view(x.shape),
    "FSQ": lambda x: learned_grids.FSQ((8, 5, 5, 5)).quantize(x.unflatten(-1, (4, 4))).flatten(-2),
}
KERNELS = {**NUMBERS, **ROWS}
COUNT = settings(max_examples=12, deadline=None)
every_kernel = pytest.mark.parametrize("name, least", [(name, least) for name in KERNELS for least in (0, native.LEAST)], ids=lambda v: {0: "C"}.get(v, v) if isinstance(v, str) or v == 0 else "PyTorch")


def run(name, least, x):
    """The kernel, in C where it can be from `least` numbers on."""
    with mock.patch.object(native, "LEAST", least):
        return KERNELS[name](x)


@st.composite
def layouts(draw, rows):
    """A tensor of random shape and layout: permuted, expanded, with steps, or with gaps of a hundred thousand numbers."""
    shape = draw(st.lists(st.integers(1, 3), min_size=1 if rows else 0, max_size=3)) + ([16] if rows else [])
    dtype, seed = draw(st.sampled_from(FLOATS)), draw(st.integers(0, 99))
    x = (2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)
    kind = draw(st.sampled_from(["plain", "permuted", "expanded", "steps", "gaps"]))
    if kind == "permuted" and x.ndim > 1:
        order = draw(st.permutations(range(x.ndim)))
        return x.permute(order).contiguous().permute([order.index(i) for i in range(x.ndim)])
    if kind == "expanded" and x.ndim > 1:
        return x[:1].expand(shape)
    if kind == "steps" and x.ndim:
        return x.repeat_interleave(3, -1)[..., 1::3]
    if kind == "gaps" and x.ndim:
        wide = torch.zeros(shape[0] * 100_000 + x.numel(), dtype=dtype).as_strided(shape, (100_000, *x[0].contiguous().stride()))
        return wide.copy_(x)
    return x


@every_kernel
@COUNT
@given(data=st.data())
def test_the_layout_does_not_show_and_the_input_stays(name, least, data):
    x = data.draw(layouts(name in ROWS))
    before = x.clone()
    y = run(name, least, x)
    assert torch.equal(y, run(name, least, x.contiguous())) and torch.equal(x, before) and len(y) == len(x) if x.ndim else y.ndim == 0
    if y.is_floating_point():
        assert y.dtype == x.dtype and y.shape == x.shape and not y.requires_grad
        assert torch.equal(y, run(name, least, x.clone().requires_grad_()).detach())


@every_kernel
@COUNT
@given(data=st.data(), bad=st.sampled_from([torch.nan, torch.inf, -torch.inf]), dtype=st.sampled_from(FLOATS))
def test_what_is_not_finite_is_refused(name, least, data, bad, dtype):
    x = torch.zeros((3, 16), dtype=dtype)
    x.view(-1)[data.draw(st.integers(0, 47))] = bad
    with pytest.raises(ValueError, match="finite"):
        run(name, least, x)


@every_kernel
@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.sampled_from(EXTREME), min_size=16, max_size=16), dtype=st.sampled_from(FLOATS))
def test_extremes_give_finite_numbers_or_an_error_that_names_them(name, least, values, dtype):
    x = torch.tensor(values, dtype=torch.float64).clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype).view(1, 16)
    try:
        y = run(name, least, x)
    except ValueError as error:
        assert any(word in str(error) for word in ("finite", "fit", "hold", "overflow")), error
        return
    assert not y.is_floating_point() or bool(torch.isfinite(y).all())


@every_kernel
def test_other_types_and_empty_tensors(name, least):
    for x in (torch.zeros(2, 16, dtype=torch.int64), torch.zeros(2, 16, dtype=torch.complex64)):
        with pytest.raises(ValueError, match="float"):
            run(name, least, x)
    x = torch.zeros(0, 16)
    try:
        assert len(run(name, least, x)) == 0
    except ValueError as error:
        assert any(word in str(error) for word in ("shape", "least one", "empty", "multiple", "entries")), error
