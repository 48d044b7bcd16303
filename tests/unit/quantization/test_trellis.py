"""The bitshift trellis: the search against all paths, tail-biting, the tables, and the bytes."""
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lecturelib.quantization import coder, trellis, trellis_codes
from lecturelib.quantization.trellis import Trellis


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small(L, k, seed):
    return Trellis(L, k, torch.randn(1 << L, generator=generator(seed), dtype=torch.float64))


def error(x, codes, code, tail_biting):
    return (trellis.decode(codes, code, tail_biting) - x).square().sum(1)


def all_codes(n, k):
    return torch.tensor(list(itertools.product(range(1 << k), repeat=n)))


@settings(max_examples=20, deadline=None)
@given(shape=st.sampled_from([(2, 1, 7), (3, 1, 6), (5, 1, 5), (4, 2, 4), (5, 2, 3), (6, 3, 2)]), seed=st.integers(0, 10**6))
def test_search_is_exact_against_all_paths(shape, seed):
    L, k, T = shape
    code, x = small(L, k, seed), torch.randn(3, T, generator=generator(seed + 1), dtype=torch.float64)
    found = trellis.viterbi(x, code)
    everything = all_codes(code.memory + T, k)
    least = torch.stack([(trellis.decode(everything, code) - row).square().sum(1).min() for row in x])
    assert torch.allclose(error(x, found, code, False), least, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(shape=st.sampled_from([(3, 1, 7), (4, 1, 8), (4, 2, 4), (5, 2, 4)]), seed=st.integers(0, 10**6))
def test_tail_biting_given_every_overlap_is_exact(shape, seed):
    L, k, T = shape
    code, x = small(L, k, seed), torch.randn(2, T, generator=generator(seed + 1), dtype=torch.float64)
    costs = []
    for r in range(1 << L - k):
        codes = trellis.search_given(x, code, torch.tensor([r]))
        assert (trellis.states(codes, code, True)[:, 0] >> k == r).all()
        costs.append(error(x, codes, code, True))
    everything = all_codes(T, k)
    least = torch.stack([(trellis.decode(everything, code, True) - row).square().sum(1).min() for row in x])
    assert torch.allclose(torch.stack(costs).amin(0), least, atol=1e-12)
    two_passes = error(x, trellis.viterbi(x, code, tail_biting=True), code, True)
    assert (two_passes >= least - 1e-12).all()


def test_two_passes_lose_little_against_the_exact_tail_biting_search():
    code, x = trellis_codes.random_code(6, 1, generator()), torch.randn(200, 48, generator=generator(1))
    exact = torch.stack([error(x, trellis.search_given(x, code, torch.tensor([r])), code, True) for r in range(32)]).amin(0)
    two = error(x, trellis.viterbi(x, code, True), code, True)
    free = error(x, trellis.viterbi(x, code), code, False)
    assert float(exact.mean()) <= float(two.mean()) < 1.01 * float(exact.mean())
    assert float(free.mean()) < float(exact.mean())        # the free start has more bits


@pytest.mark.parametrize("L,k,T", [(4, 2, 9), (7, 2, 12), (8, 3, 9), (9, 1, 20)])
def test_states_follow_the_register_and_tiles_decode_alone(L, k, T):
    code = small(L, k, 0)
    codes = torch.randint(1 << k, (5, T + code.memory), generator=generator(2))
    s = trellis.states(codes, code)
    assert torch.equal(s[:, 1:], (s[:, :-1] << k | codes[:, code.memory + 1:]) & (1 << L) - 1)
    assert torch.equal(trellis.states(codes[:, 3:], code), s[:, 3:])               # random access
    ring = codes[:, :T]
    assert torch.equal(trellis.states(ring.roll(4, 1), code, True), trellis.states(ring, code, True).roll(4, 1))


def test_batches_and_groups_do_not_matter(monkeypatch):
    code, x = trellis_codes.random_code(8, 2, generator()), torch.randn(9, 40, generator=generator(1))
    whole = trellis.viterbi(x, code, True)
    monkeypatch.setattr(trellis, "MEMORY", 41 * 64 * 2)
    monkeypatch.setattr(trellis, "CACHE", 256)
    assert torch.equal(trellis.viterbi(x, code, True), whole)
    assert torch.equal(torch.cat([trellis.viterbi(row[None], code, True) for row in x]), whole)


def test_long_rows_and_large_samples_stay_exact():
    code, x = trellis_codes.random_code(6, 1, generator()), torch.randn(2, 5000, generator=generator(1))
    single = error(x, trellis.viterbi(x, code), code, False)
    double = error(x, trellis.viterbi(x.double(), code), code, False)
    assert torch.allclose(single, double, rtol=1e-5)
    assert torch.equal(trellis.quantize(x.double(), code).float(), trellis.decode(trellis.viterbi(x.double(), code, True), code, True))


@pytest.mark.parametrize("L,limit", [(8, 0.0790), (10, 0.0715), (12, 0.0692)])
def test_sum_codes_beat_random_ones(L, limit):
    x = torch.randn(24, 256, generator=generator(5))
    power = x.square().mean()

    def D(code):                                           # the error, the excess of source power taken out
        return float((trellis.quantize(x, code) - x).square().mean()) / float(power)**0.5
    good = D(trellis_codes.sum_code(L, 2))
    assert 0.0625 < good < limit
    assert good < 0.96 * D(trellis_codes.random_code(L, 2, generator(1)))


def test_every_stored_weight_gives_a_table_near_the_gaussian():
    for L, k in trellis_codes.WEIGHTS:
        c = trellis_codes.sum_code(L, k).codebook
        assert abs(float(c.mean())) < 0.05 and abs(float(c.square().mean()) - 1) < 0.05


def test_training_lowers_the_error_on_its_samples():
    x = torch.randn(32, 256, generator=generator(3))
    start = trellis_codes.random_code(6, 2, generator(0))
    errors = [float((trellis.decode(trellis.viterbi(x, c), c) - x).square().mean())
              for c in (trellis_codes.train(start, x, r) for r in range(5))]
    assert all(b < a for a, b in zip(errors, errors[1:])) and errors[-1] < 0.97 * errors[0]


def test_the_published_tables_are_near_gaussian():
    for code in (trellis_codes.one_mad(16, 2), trellis_codes.three_inst(16, 2)):
        c = code.codebook.double()
        assert abs(float(c.mean())) < 0.02 and abs(float(c.square().mean()) - 1) < 0.02


@settings(max_examples=20, deadline=None)
@given(k=st.integers(1, 5), n=st.integers(1, 40), batch=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_packed_symbols_come_back(k, n, batch, seed):
    code = Trellis(2 * k, k, torch.zeros(1 << 2 * k))
    codes = torch.randint(1 << k, (batch, n), generator=generator(seed), dtype=torch.uint8)
    data = coder.pack(codes, code)
    assert torch.equal(coder.unpack(data, code), codes)
    assert len(data) == coder.HEAD.size + math.ceil(batch * n * k / 8)


def test_damage_and_strangers_are_refused():
    code, other = trellis_codes.random_code(4, 2, generator(0)), trellis_codes.random_code(4, 2, generator(1))
    data = coder.pack(torch.ones(2, 9, dtype=torch.uint8), code)
    for bad, with_code in ((data[:5], code), (data[:-1], code), (data + b"\0", code), (data[:-1] + b"x", code), (data, other),
                           (b"LQTe" + data[4:], code), (data[:4] + b"\2" + data[5:], code),
                           (data[:8] + data[12:16] + data[8:12] + data[16:], code), (data[:6] + b"\1" + data[7:], code)):
        with pytest.raises(ValueError, match="data must"):
            coder.unpack(bad, with_code)


def test_huge_samples_take_the_outermost_entries():
    code = Trellis(2, 1, torch.tensor([-1.5, 0.5, -0.5, 1.5]))
    for dtype, huge in ((torch.float32, 3e38), (torch.bfloat16, 3e38), (torch.float64, 1e300)):
        assert trellis.quantize(torch.full((1, 6), huge, dtype=dtype), code).tolist() == [[1.5] * 6]


def test_given_overlaps_are_checked():
    code, x = trellis_codes.random_code(6, 2, generator()), torch.zeros(3, 8)
    for bad in (torch.tensor([16]), torch.tensor([-1]), torch.tensor([1.0]), torch.tensor([1, 2]), 3):
        with pytest.raises(ValueError, match="overlap must"):
            trellis.search_given(x, code, bad)
    with pytest.raises(ValueError, match="bite their tail"):
        trellis.search_given(x[:, :1], code, torch.tensor([1]))


def test_bad_input_is_refused():
    code = trellis_codes.random_code(6, 2, generator())
    x = torch.zeros(2, 8)
    for bad in (torch.tensor([[0.0, math.nan]]), torch.tensor([[math.inf]]), torch.zeros(3), torch.zeros(2, 3, dtype=torch.int32), [[0.0]]):
        with pytest.raises(ValueError, match="x must"):
            trellis.viterbi(bad, code)
    with pytest.raises(ValueError, match="x must have rows"):
        trellis.viterbi(x[:, :1], code, tail_biting=True)
    with pytest.raises(ValueError, match="codes must"):
        trellis.decode(torch.full((1, 9), 4), code)
    with pytest.raises(ValueError, match="codes must"):
        trellis.decode(x, code)
    for L, k, table in ((6, 4, 64), (6, 2, 63), (1, 1, 2), (True, 1, 2)):
        with pytest.raises(ValueError):
            Trellis(L, k, torch.zeros(table))
    with pytest.raises(ValueError, match="finite"):
        Trellis(2, 1, torch.tensor([0, 1, 2, np.nan]))
    with pytest.raises(ValueError, match="weights"):
        trellis_codes.sum_code(9, 4)
    with pytest.raises(ValueError, match="weights"):
        trellis_codes.sum_code(8, 2, [1, 2])
    with pytest.raises(ValueError, match="weights"):
        trellis_codes.sum_code(2, 1, [1.5, 1.0])
    with pytest.raises(ValueError, match="rounds"):
        trellis_codes.train(code, x, -1)
    with pytest.raises(ValueError, match="codes must"):
        coder.pack(torch.full((1, 2), 4), code)


def test_input_is_left_alone_and_half_precision_works():
    code, x = trellis_codes.random_code(6, 2, generator()), torch.randn(2, 30, generator=generator(1)).half()
    before = x.clone()
    q = trellis.quantize(x, code)
    assert q.dtype == torch.float16 and torch.equal(x, before)
    assert torch.equal(trellis.viterbi(x, code, True), trellis.viterbi(x.float(), code, True))
