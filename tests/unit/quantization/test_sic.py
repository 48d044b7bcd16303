"""Successive cancellation: exact feedback, the gaps of the theory, bytes that decode, bad input."""
import math
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lecturelib.quantization import rotations, sic, sic_coder, sic_trellis
from lecturelib.quantization import entropy_trellis as et


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_sigma(n, seed, spread=1.0):
    """AR(0.9) seen through log-normal scales and, at odd seeds, a rotation."""
    g, i = generator(seed), torch.arange(n)
    d = torch.exp(spread * torch.randn(n, generator=g, dtype=torch.float64))
    S = 0.9 ** (i[:, None] - i).abs().double() * d[:, None] * d
    Q = rotations.haar(n, g, torch.float64).matrix
    return Q @ S @ Q.T if seed % 2 else S


def gap(W, W_hat, S, bits):
    """Bits above reverse water-filling for W iid N(0, 1), from the eigenvalues."""
    E, eigen = (W - W_hat).double(), torch.linalg.eigvalsh(S)
    D, low, high = float(((E @ S) * E).mean()), 1e-12, float(eigen.max())
    for _ in range(100):
        level = math.sqrt(low * high)
        low, high = (level, high) if float(eigen.clamp(max=level).mean()) < D else (low, level)
    return bits - float((0.5 * torch.log2(eigen / level)).clamp(min=0).mean())


@settings(max_examples=15, deadline=None)
@given(n=st.sampled_from([8, 24, 40]), m=st.integers(1, 9), width=st.sampled_from([1, 2, 8]), block=st.sampled_from([8, 16, 64]),
       seed=st.integers(0, 10**6))
def test_the_loss_is_the_sum_of_the_columns_own_losses(n, m, width, block, seed):
    S = torch.stack([random_sigma(n, seed), random_sigma(n, seed + 1)])
    L, W = torch.linalg.cholesky(S), torch.randn(2, n, m, generator=generator(seed), dtype=torch.float64)
    T, W_hat, own, order = W.clone(), torch.zeros_like(W), [], []

    def decide(i, t):
        q = torch.round(t)
        own.append(((t - q).transpose(1, 2) @ L[:, i:i + width, i:i + width]).square().sum((1, 2)))
        order.append(i)
        W_hat[:, i:i + width] = q
        return q
    sic.cancel(T, L, decide, width, block)
    E = (W - W_hat).transpose(1, 2)
    torch.testing.assert_close(((E @ S) * E).sum((1, 2)), torch.stack(own).sum(0))
    torch.testing.assert_close(T, W - W_hat)
    assert order == list(range(n - width, -1, -width))


def test_plain_watersic_is_babai_with_steps_over_the_pivots():
    S = random_sigma(12, 3)
    W, L = torch.randn(1, 20, 12, generator=generator(), dtype=torch.float64), torch.linalg.cholesky(S)
    W_hat, _, (code,) = sic.watersic(W, S[None], step=0.3, ridge=False, codes=True)
    alpha, E = torch.exp2(code.steps.double() / 16), torch.zeros(20, 12, dtype=torch.float64)
    assert ((alpha * L.diagonal() / 0.3).log2().abs() < 1 / 31).all()
    for i in range(11, -1, -1):
        t = W[0, :, i] + E[:, i + 1:] @ L[i + 1:, i] / L[i, i]
        q = torch.round(t / alpha[i])
        assert torch.equal(q.int(), code.integers[:, i].int())
        E[:, i] = W[0, :, i] - q * alpha[i]
    torch.testing.assert_close(W_hat[0], W[0] - E, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(code.weights().double(), W_hat[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("states, theory, least", [(0, 0.5 * math.log2(2 * math.pi * math.e / 12), 0.0), (8, 0.0745, -0.01), (64, 0.045, -0.01)])
def test_the_gap_does_not_depend_on_the_covariance(seed, states, theory, least):
    n, m, S = 24, 3072, random_sigma(24, seed, 0.6)
    W, sigma = torch.randn(1, m, n, generator=generator(seed)), S.float()[None]
    W_hat, bits = sic.trellis(W, sigma, 4.0, states=states, chunk=512) if states else sic.watersic(W, sigma, 4.0)
    assert abs(float(bits) - 4.0) < 0.05
    assert theory + least < gap(W, W_hat, S, float(bits) - sic_coder.SIDE / m) < theory + 0.035


def test_the_charge_for_the_rate_helps_at_low_rates_and_vanishes_at_high_ones():
    S = random_sigma(32, 2)
    W, sigma = torch.randn(1, 1024, 32, generator=generator(5)), S.float()[None]
    gaps = {}
    for rate in (1.0, 5.0):
        for ridge in (False, True):
            W_hat, bits = sic.watersic(W, sigma, rate, ridge=ridge)
            gaps[rate, ridge] = gap(W, W_hat, S, float(bits))
    assert gaps[1.0, True] < gaps[1.0, False] - 0.1
    assert gaps[5.0, True] < gaps[5.0, False] + 0.005 and gaps[5.0, False] < gaps[5.0, True] + 0.08


def test_columns_below_the_water_level_cost_their_side_information_only():
    d = torch.tensor([1.0] * 8 + [1e-6] * 8)
    W = torch.randn(1, 512, 16, generator=generator(1))
    _, bits, (code,) = sic.watersic(W, torch.diag(d)[None], 1.0, codes=True)
    assert not code.integers[:, 8:].any() and code.integers[:, :8].any() and abs(float(bits) - 1.0) < 0.05


@pytest.mark.parametrize("kind", ["integers", "trellis", "short chunks"])
@pytest.mark.parametrize("rate", [0.8, 3.0])
def test_bytes_decode_bit_for_bit_and_are_as_many_as_counted(kind, rate):
    S = random_sigma(32, 4, 2.0).float()
    W = torch.randn(2, 384, 32, generator=generator(2))
    W[0, 3, 5] = 3000.0                                    # escapes
    sigma = torch.stack([S, torch.eye(32)])
    if kind == "integers":
        W_hat, bits, codes = sic.watersic(W, sigma, rate, codes=True)
    else:
        W_hat, bits, codes = sic.trellis(W, sigma, rate, states=8 if kind == "trellis" else 64, chunk=None if kind == "trellis" else 32, codes=True)
    for k, code in enumerate(codes):
        data = sic_coder.encode(code)
        again = sic_coder.decode(data)
        assert torch.equal(again.integers, code.integers.int()) and torch.equal(again.steps, code.steps)
        assert torch.equal(again.weights(), W_hat[k])
        assert abs(8 * len(data) - float(bits[k]) * W[k].numel()) < 1e-3 * 8 * len(data) + 64
        broken = data[:70] + bytes([data[70] ^ 1]) + data[71:]
        with pytest.raises(ValueError, match="undamaged"):
            sic_coder.decode(broken)
    for bad in (b"", b"LQSc", b"x" * 200):
        with pytest.raises(ValueError, match="undamaged"):
            sic_coder.decode(bad)


def test_integers_off_the_trellis_are_refused():
    code = sic_coder.Columns(torch.ones(16, 2, dtype=torch.int32), torch.zeros(2, dtype=torch.int16), 8, 8)
    with pytest.raises(ValueError, match="path of the trellis"):
        sic_coder.encode(code)


@settings(max_examples=10, deadline=None)
@given(states=st.sampled_from([4, 8, 16]), T=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_the_search_is_exact_against_all_paths_and_goes_on_from_its_state(states, T, seed):
    h0, h1 = et.MASKS[states]
    search, x = sic_trellis.Search(states, 3), 4 * torch.randn(2, T, 3, generator=generator(seed))
    state = [0, 0, 0]
    for part in x:
        found = search(part)
        for s in range(3):
            paths = [(0.0, state[s])]
            for t in range(T):                             # both ways on from every path
                paths = [(cost + (float(part[t, s]) - near(float(part[t, s]), w, h0, h1)) ** 2, w & states - 1)
                         for cost, at in paths for w in (at << 1, at << 1 | 1)]
            cost, at = sum((float(part[t, s]) - float(found[t, s])) ** 2 for t in range(T)), state[s]
            assert abs(cost - min(paths)[0]) < 1e-4
            for t in range(T):
                w = next(w for w in (at << 1, at << 1 | 1) if label(w, h0, h1) == int(found[t, s]) % 4)
                at = w & states - 1
            state[s] = at
    assert search.state.tolist() == state


def label(w, h0, h1):
    return 2 * ((w & h0).bit_count() % 2) + (w & h1).bit_count() % 2


def near(x, w, h0, h1):
    j = label(w, h0, h1)
    return j + 4 * round((x - j) / 4)


@pytest.mark.parametrize("n", [8, 72, 576, 1536])
def test_the_rotation_is_orthogonal_and_keeps_the_loss(n):
    turn = rotations.RandomHadamard(n, 7)
    Q = turn.apply(torch.eye(n, dtype=torch.float64))
    torch.testing.assert_close(Q @ Q.T, torch.eye(n, dtype=torch.float64))
    torch.testing.assert_close(turn.undo(Q), torch.eye(n, dtype=torch.float64))


def test_nested_e8_at_the_rate_it_says_with_the_error_of_the_code():
    W = torch.randn(2, 256, 72, generator=generator(3))
    W_hat, bits = sic.nested_e8(W, torch.eye(72).expand(2, 72, 72), 7)
    assert abs(bits - (math.log2(7) + 2 / 8 + 16 / 72)) < 1e-12
    D = float((W - W_hat).square().mean())
    assert 0.22 < bits - 16 / 72 + 0.5 * math.log2(D) < 0.36
    S = random_sigma(72, 0).float().expand(2, 72, 72)
    loss = [float((((W - V) @ S) * (W - V)).mean()) for V in (sic.nested_e8(W, S, 7)[0], W_hat)]
    assert loss[0] < 0.7 * loss[1]                         # with and without feedback


@pytest.mark.parametrize("f", [lambda W, S: sic.watersic(W, S, 3.0), lambda W, S: sic.trellis(W, S, 3.0), lambda W, S: sic.nested_e8(W, S, 4)])
def test_bad_operands_are_refused(f):
    W, S = torch.randn(1, 16, 8, generator=generator()), torch.eye(8)[None]
    skew, indefinite, nan = S.clone(), S.clone(), S.clone()
    skew[0, 0, 1], indefinite[0, 0, 0], nan[0, 2, 2] = 0.5, -3.0, math.nan
    for sigma, message in ((skew, "symmetric"), (indefinite, "positive definite"), (nan, "sigma must be finite"), (S[0], "shape"), (S[:, :7, :7], "shape")):
        with pytest.raises(ValueError, match=message):
            f(W, sigma)
    with pytest.raises(ValueError, match="W must be finite"):
        f(W * math.inf, S)
    for bad in (W[0], W.int(), W[:, :0]):
        with pytest.raises(ValueError, match="W must"):
            f(bad, S)


def test_bad_parameters_are_refused():
    W, S = torch.randn(1, 16, 8, generator=generator()), torch.eye(8)[None]
    for call, message in ((lambda: sic.watersic(W, S), "one of rate and step"), (lambda: sic.watersic(W, S, 2.0, step=1.0), "one of rate and step"),
                          (lambda: sic.watersic(W, S, -1.0), "rate"), (lambda: sic.watersic(W, S, step=0.0), "step"),
                          (lambda: sic.trellis(W, S, 2.0, states=7), "states"), (lambda: sic.trellis(W, S, 2.0, chunk=5), "chunk"),
                          (lambda: sic.nested_e8(W[:, :, :7], S[:, :7, :7], 4), "multiple of 8"), (lambda: sic.nested_e8(W, S, 1), "q must"),
                          (lambda: sic_trellis.Search(9, 1), "states")):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("states", [8, 256])
def test_the_search_is_the_same_with_tensors_and_with_arrays(states, monkeypatch):
    x = 5 * torch.randn(3, 40, 6, generator=generator(8))
    first, second = sic_trellis.Search(states, 6), sic_trellis.Search(states, 6)
    results = [first(part) for part in x]
    monkeypatch.setattr(sic_trellis, "_arrays", lambda device: (torch, torch.take, lambda y: y))
    assert all(torch.equal(second(part), result) for part, result in zip(x, results))
    assert torch.equal(first.state, second.state)


@pytest.mark.parametrize("scheme", [sic.watersic, lambda W, S, **k: sic.trellis(W, S, chunk=4, **k)])
def test_a_step_too_small_for_16_bits_is_refused(scheme):
    W, sigma = torch.randn(1, 8, 6, generator=torch.Generator().manual_seed(0)), torch.eye(6)[None]
    with pytest.raises(ValueError, match="16 bits"):
        scheme(W, sigma, step=1e-6)
    assert scheme(W, sigma, step=1e-3)[0].shape == W.shape


@pytest.mark.parametrize("k", [-12, -5, -4, 0, 3, 8, 12])
def test_the_counts_of_a_class_start_as_a_gaussian_of_its_size(k):
    """Small ones have the integers -1, 0, 1 alone; with parities the even and the odd integers share the law."""
    r, half = 2.0**(k / sic_coder.PER_OCTAVE), sic_coder.REACH
    v = np.arange(-half, half + 1)
    assert sic_coder.shift(k) == 0
    one = (sic_coder.prior(k, False) - sic_coder.FLOOR) / sic_coder.PRIOR
    even, odd = (sic_coder.prior(k, True) - sic_coder.FLOOR) / sic_coder.PRIOR
    assert one.shape == (1, 2 * half + 1) and one.sum() == pytest.approx(1) and even.sum() == pytest.approx(1) and odd.sum() == pytest.approx(1)
    assert one[0] @ v == pytest.approx(0, abs=1e-12) and one[0] @ v**2 == pytest.approx(r * r, rel=1e-12 if r < 0.5 else 0.12 if r == 0.5 else 2e-3)
    assert even @ (2 * v) == pytest.approx(0, abs=1e-9) and odd @ (2 * v + 1) == pytest.approx(0, abs=1e-9)
    if r < 0.5:
        assert even[half] == pytest.approx(1) and odd[half] == pytest.approx(0.5) and odd[half - 1] == pytest.approx(0.5)
        assert one[0, half] == pytest.approx(1 - r * r)
    if r > 2:
        assert even @ (2 * v)**2 == pytest.approx(r * r + 1 / 3, rel=0.02) and odd @ (2 * v + 1)**2 == pytest.approx(r * r + 1 / 3, rel=0.02)


def test_large_classes_send_low_bits_as_they_are():
    assert [sic_coder.shift(k) for k in (12, 13, 16, 17, 20)] == [0, 1, 1, 2, 2]
    for k in (16, 24):
        s, v = sic_coder.shift(k), np.arange(-sic_coder.REACH, sic_coder.REACH + 1)
        middle = v * 2.0**s + (2**s - 1) / 2
        p = (sic_coder.prior(k, False)[0] - sic_coder.FLOOR) / sic_coder.PRIOR
        assert p @ middle**2 == pytest.approx(2.0**(k / 2), rel=0.02) and p @ middle == pytest.approx(0, abs=1e-6 * 2**s)


def test_bytes_of_another_version_are_refused():
    data = sic_coder.encode(sic_coder.Columns(torch.ones(16, 2, dtype=torch.int32), torch.zeros(2, dtype=torch.int16)))
    newer = data[:4] + bytes([2]) + data[5:-4]
    with pytest.raises(ValueError, match="version 1; got 2"):
        sic_coder.decode(newer + struct.pack("<I", zlib.crc32(newer)))
