"""Entropy-coded trellises: exactness, decodability, the bytes, the rates."""
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lecturelib.quantization import coder
from lecturelib.quantization import entropy_trellis as et

POLYNOMIALS = et.UNGERBOECK


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def eight():
    return et.design(2.0, POLYNOMIALS[8], torch.randn(64, 512, generator=generator()))


def toy(memory, h0, h1, seed):
    """Five points and random frequencies."""
    f = torch.randint(1, et.TOTAL // 8, (5,), generator=generator(seed))
    f[0] = et.TOTAL - f[2] - f[4]
    f[1] = et.TOTAL - f[3]
    return et.Code(memory, h0, h1, torch.tensor([-2.0, -1.1, 0.1, 0.9, 2.0]), f, 0.3)


def walk(code, i):
    """Does the sequence of integers follow the trellis from state 0?"""
    state = 0
    for value in i:
        if value % 2 != (state << 1 & code.h1).bit_count() % 2:
            return False
        bit = (value % 4 >> 1) ^ (state << 1 & code.h0).bit_count() % 2
        state = (state << 1 | bit) & (1 << code.memory) - 1
    return True


@settings(max_examples=12, deadline=None)
@given(poly=st.sampled_from([(2, 0o5, 0o2), (3, 0o13, 0o4), (3, 0o11, 0o6), (4, 0o23, 0o4)]), seed=st.integers(0, 10**6))
def test_search_is_exact_against_all_paths(poly, seed):
    code, x = toy(*poly, seed), 1.5 * torch.randn(2, 5, generator=generator(seed + 1))
    paths = torch.tensor([p for p in itertools.product(range(-2, 3), repeat=5) if walk(code, p)])
    lengths = code.lengths()

    def cost(row, i):
        return (row - et.decode(i, code)).square().sum(-1) + code.slope * lengths[i + 2].sum(-1)
    _, found, rate = et.quantize(x, code)
    for row, i in zip(x, found.long()):
        assert walk(code, i.tolist())
        assert abs(float(cost(row, i) - cost(row, paths).min())) < 1e-5
    assert abs(rate - float(lengths[found.long() + 2].mean())) < 1e-6


def test_bytes_decode_to_the_same_reconstruction_and_number(eight):
    x = torch.randn(16, 2048, generator=generator(7))
    x_hat, indices, rate = et.quantize(x, eight)
    data = coder.encode(indices, eight)
    again = coder.decode(data, eight)
    assert torch.equal(again, indices) and torch.equal(et.decode(again, eight), x_hat)
    overhead = 8 * len(data) - rate * x.numel()
    assert 0 < overhead < 8 * (coder.HEAD.size + 4) + 64 * 2 + 1e-3 * rate * x.numel()


@settings(max_examples=10, deadline=None)
@given(batch=st.integers(1, 5), T=st.integers(1, 30), scale=st.sampled_from([0.01, 1.0, 30.0]), seed=st.integers(0, 10**6))
def test_round_trip_of_any_signal(eight, batch, T, scale, seed):
    x = scale * torch.randn(batch, T, generator=generator(seed))
    x_hat, indices, _ = et.quantize(x, eight)
    assert torch.equal(et.decode(coder.decode(coder.encode(indices, eight), eight), eight), x_hat)
    assert all(walk(eight, row) for row in indices.tolist())


def test_the_trellis_collects_the_granular_gain():
    x, y = torch.randn(64, 512, generator=generator(1)), torch.randn(32, 2048, generator=generator(2))
    scale = float(y.square().mean())**0.5
    gaps = []
    for states in (4, 8, 32):
        code = et.design(2.0, POLYNOMIALS[states], x)
        y_hat, _, rate = et.quantize(y / scale, code)
        gaps.append(rate + 0.5 * math.log2(float((y / scale - y_hat).square().mean())))
    assert gaps[0] > gaps[1] > gaps[2] > 0 and gaps[1] < 0.09 and gaps[2] < 0.065


def test_slope_trades_rate_for_error(eight):
    x = torch.randn(8, 512, generator=generator(3))
    rates, errors = zip(*[(r, float((x - q).square().mean())) for q, _, r in
                          (et.quantize(x, eight, slope) for slope in (0.0, 0.05, 0.1, 0.3))])
    assert list(rates) == sorted(rates, reverse=True) and list(errors) == sorted(errors)


def test_damage_and_strangers_are_refused(eight):
    _, indices, _ = et.quantize(torch.randn(2, 64, generator=generator()), eight)
    data = coder.encode(indices, eight)
    other = et.Code(eight.memory, eight.h0, eight.h1, eight.points * 2, eight.frequencies, eight.slope)
    for bad, code in ((data[:-1], eight), (data + b"\0", eight), (data, other), (b"", eight), (b"LQTf" + data[4:], eight),
                      (data[:8] + data[12:16] + data[8:12] + data[16:], eight)):
        with pytest.raises(ValueError, match="data must"):
            coder.decode(bad, code)
    wrong = indices.clone()
    wrong[0, 0] += 1
    with pytest.raises(ValueError, match="path"):
        coder.encode(wrong, eight)
    with pytest.raises(ValueError, match="integer"):
        coder.encode(indices.float(), eight)


def test_bad_input_is_refused(eight):
    with pytest.raises(ValueError, match="finite"):
        et.quantize(torch.tensor([[math.nan]]), eight)
    with pytest.raises(ValueError, match="slope"):
        et.quantize(torch.zeros(1, 2), eight, -1.0)
    with pytest.raises(ValueError, match="indices"):
        et.decode(torch.tensor([[999]]), eight)
    with pytest.raises(ValueError, match="rate"):
        et.design(0.1, POLYNOMIALS[8], torch.zeros(1, 2))
    with pytest.raises(ValueError, match="four samples"):
        et.design(2.0, POLYNOMIALS[8], torch.zeros(1, 3))
    with pytest.raises(ValueError, match="rounds"):
        et.design(2.0, POLYNOMIALS[8], torch.zeros(1, 8), 6.5)
    with pytest.raises(ValueError, match="at least 5"):     # a coset would be empty
        et.Code(2, 0o5, 0o2, torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([et.TOTAL // 2, et.TOTAL, et.TOTAL // 2]), 0.1)
    good = (eight.memory, eight.h0, eight.h1, eight.points, eight.frequencies, eight.slope)
    for position, value in ((1, 0o12), (2, 0o5), (3, -eight.points), (4, eight.frequencies + 1), (5, math.nan)):
        with pytest.raises(ValueError):
            et.Code(*good[:position], value, *good[position + 1:])


def test_sources_far_out_saturate(eight):
    x_hat, indices, _ = et.quantize(torch.full((1, 8), 1e6), eight)
    assert int(indices.min()) >= len(eight.points) // 2 - 3 and torch.isfinite(x_hat).all()


def test_samples_too_large_for_single_precision_saturate(eight):
    for huge in (torch.full((1, 8), 1e30), torch.full((1, 8), 1e300, dtype=torch.float64)):
        x_hat, indices, _ = et.quantize(huge, eight)
        assert int(indices.min()) >= len(eight.points) // 2 - 3 and torch.isfinite(x_hat).all()


@pytest.mark.parametrize("states,rate", [(4, 0.8), (8, 0.7), (256, 0.7), (8, 6.0)])
def test_low_and_high_rates_are_reached(states, rate):
    code = et.design(rate, et.MASKS[states], torch.randn(32, 512, generator=generator(5)))
    x = torch.randn(16, 1024, generator=generator(6))
    x_hat, _, spent = et.quantize(x, code)
    assert abs(spent / rate - 1) < 0.12 and spent + 0.5 * math.log2(float((x - x_hat).square().mean())) < 0.13


def test_design_takes_rows_of_any_length():
    assert et.design(2.0, POLYNOMIALS[8], torch.randn(512, 9, generator=generator(5))).memory == 3


def test_a_rate_that_is_not_reached_is_an_error():
    with pytest.raises(ValueError, match="rate 0.5 was not reached.*0.7 bit"):
        et.design(0.5, POLYNOMIALS[8], torch.randn(32, 256, generator=generator(3)))
