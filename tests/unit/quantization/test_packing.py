"""Bit packing against numpy's unpackbits, at every width and length."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lecturelib.quantization import packing


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 8), st.integers(0, 70), st.integers(0, 3), st.integers(0, 1000))
def test_pack_is_the_bit_stream_and_unpack_its_inverse(width, n, rows, seed):
    codes = torch.randint(0, 2**width, (rows, 2, n), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    data = packing.pack(codes, width)
    assert data.shape == (rows, 2, -(-n * width // 8))
    bits = np.unpackbits(codes.numpy()[..., None], axis=-1, bitorder="little")[..., :width].reshape(rows, 2, n * width)
    assert np.array_equal(data.numpy(), np.packbits(bits, axis=-1, bitorder="little"))
    assert torch.equal(packing.unpack(data, width, n), codes)


@pytest.mark.parametrize("width", range(1, 9))
def test_long_rows_and_views(width):
    codes = torch.randint(0, 2**width, (200008, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(width)).T
    data = packing.pack(codes, width)
    assert torch.equal(data, packing.pack(codes.contiguous(), width)) and data.numel() == 3 * 200008 * width // 8
    assert torch.equal(packing.unpack(data, width, 200008), codes)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 7), st.lists(st.integers(0, 127), min_size=8, max_size=8))
def test_fold_moves_bits_only(width, codes):
    codes = [c % 2**width for c in codes]
    word = sum(c << 8 * i for i, c in enumerate(codes))
    folded = packing.fold(torch.tensor([word]), width)
    assert int(folded) == sum(c << width * i for i, c in enumerate(codes))
    assert int(packing.unfold(folded, width)) == word


def test_a_view_may_start_within_a_word():
    codes = torch.arange(33, dtype=torch.uint8) % 32
    for first in (1, 3, 9):
        view = codes[first:first + 16]
        assert torch.equal(packing.pack(view, 5), packing.pack(view.clone(), 5))


def test_bad_input():
    codes = torch.tensor([1, 2, 8], dtype=torch.uint8)
    with pytest.raises(ValueError, match="codes must be below 8"):
        packing.pack(codes, 3)
    for bad in (0, 9, 2.5, "4", True):
        with pytest.raises(ValueError, match="width"):
            packing.pack(codes, bad)
    with pytest.raises(ValueError, match="uint8"):
        packing.pack(codes.int(), 4)
    with pytest.raises(ValueError, match="data must have 2 bytes"):
        packing.unpack(codes, 4, 3)
    with pytest.raises(ValueError, match="data must be"):
        packing.unpack(codes.int(), 4, 6)
