"""The product by looked-up sums equals the one with decoded weights: exactly where sums are exact."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lecturelib.quantization import blocks, lut

FORMATS = [*(blocks.integer(b, 16) for b in range(2, 9)), *(blocks.integer(b, 32, False) for b in (1, 2, 3, 4)),
           blocks.integer(4, 32, rule="signed"), blocks.mx(), blocks.mx("e2m3"), blocks.nvfp4("four over six")]


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_same_product_as_decoded(fmt):
    g = torch.Generator().manual_seed(0)
    w, x = blocks.encode(torch.randn(24, 96, generator=g), fmt), torch.randn(5, 96, generator=g, dtype=torch.float64)
    exact = x @ w.decode().double().T
    assert torch.allclose(lut.matmul(x, lut.prepare(w)), exact, rtol=1e-6, atol=1e-5)
    assert lut.prepare(w).nibbles.max() < 16


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(0, 1000))
def test_integers_give_equal_bits(bits, m, count, T, seed):
    """Integer inputs and scales that are powers of two: no rounding anywhere, so equal and not only close."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(-127, 128, (T, 16 * count), generator=g).float()
    w = blocks.integer(bits, 16, scale=torch.float32)
    w = blocks.encode(torch.randint(-(2**(bits - 1)) + 1, 2**(bits - 1), (m, 16 * count), generator=g).float(), w)
    w = blocks.Blocks(w.codes, 2.0**torch.randint(-3, 4, w.scales.shape, generator=g), None, w.levels)
    assert torch.equal(lut.matmul(x, lut.prepare(w)), x @ w.decode().T)


def test_tables_are_half_of_all_sums():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = lut.tables(x)
    assert t.shape == (3, 2, 8)
    full = x.view(3, 2, 4) @ lut.SIGNS.double().T
    assert torch.allclose(torch.cat((t, -t.flip(-1)), -1), full, atol=1e-14)


def test_bad_input():
    x, w = torch.ones(2, 64), blocks.encode(torch.eye(64), blocks.integer(4, 32))
    with pytest.raises(ValueError, match="multiples of one unit"):
        lut.prepare(blocks.encode(torch.eye(64), blocks.nf4()))
    with pytest.raises(ValueError, match="weights must be a matrix"):
        lut.prepare(blocks.encode(torch.ones(64), blocks.integer(4, 32)))
    with pytest.raises(ValueError, match="weights must be a matrix"):
        lut.prepare(blocks.encode(torch.eye(6), blocks.integer(4, 6)))
    with pytest.raises(ValueError, match="x must be a floating"):
        lut.matmul(x[:, :32], lut.prepare(w))
    with pytest.raises(ValueError, match="x must be finite"):
        lut.matmul(x * math.nan, lut.prepare(w))
