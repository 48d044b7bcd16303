"""Learned quantizers: gradients, moving averages, grids; agreement with vector-quantize-pytorch."""
import math

import numpy as np
import pytest
import torch
import vector_quantize_pytorch as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lecturelib.quantization import companding, kmeans, learned_grids, panter_dite
from lecturelib.quantization.learned import VectorQuantizer, rotate, straight_through, usage
from lecturelib.quantization.learned_grids import FSQ, LFQ
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pulled_back(estimator, z, q, g):
    z = z.clone().requires_grad_()
    out = estimator(z, q)
    out.backward(g)
    return out.detach(), z.grad


# ------------------------------------------------------------------------------- estimators
@pytest.mark.parametrize("estimator", [straight_through, rotate])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_is_the_codeword_bit_for_bit(estimator, dtype):
    z, q, g = (normal(50, 7, seed=s, dtype=dtype) for s in range(3))
    value, grad = pulled_back(estimator, z, q, g)
    assert torch.equal(value, q)
    if estimator is straight_through:
        assert torch.equal(grad, g)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_rotation_preserves_angles_and_scales(d, seed, scale):
    z, q, g = normal(3, d, seed=seed).unbind(0)
    q = q * scale
    _, grad = pulled_back(rotate, z, q, g)
    cosine = torch.nn.functional.cosine_similarity
    assert float((cosine(grad, z, 0) - cosine(g, q, 0)).abs()) < 1e-9
    assert float(grad.norm() / (g.norm() * q.norm() / z.norm())) == pytest.approx(1, rel=1e-9)


def test_rotation_is_the_matrix_of_the_theorem_and_of_the_reference():
    z, q = normal(40, 6), normal(40, 6, seed=1)
    _, ours = pulled_back(rotate, z, q, normal(40, 6, seed=2))
    _, theirs = pulled_back(rotate_to, z, q, normal(40, 6, seed=2))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)     # theirs divides by lengths of at least 1e-6
    jacobian = torch.stack([pulled_back(rotate, z[:1], q[:1], e[None])[1][0] for e in torch.eye(6, dtype=torch.float64)])
    R = jacobian * z[0].norm() / q[0].norm()
    torch.testing.assert_close(R @ R.T, torch.eye(6, dtype=torch.float64))
    assert float(torch.linalg.det(R)) == pytest.approx(1)
    torch.testing.assert_close(jacobian @ z[0], q[0])


@pytest.mark.parametrize("z, q", [([0.0, 0.0], [1.0, 0.0]), ([1.0, 0.0], [0.0, 0.0]), ([1.0, 0.0], [-2.0, 0.0])])
def test_without_a_rotation_the_gradient_is_straight_through(z, q):
    for dtype in DTYPES:
        g = torch.tensor([0.3, -0.7], dtype=dtype)
        value, grad = pulled_back(rotate, torch.tensor(z, dtype=dtype), torch.tensor(q, dtype=dtype), g)
        assert torch.equal(grad, g) and value.tolist() == q


# -------------------------------------------------------------------------- vector quantizer
def test_moving_averages_agree_with_the_reference():
    B, K, d = 64, 8, 3
    theirs = reference.VectorQuantize(dim=d, codebook_size=K, decay=0.9, eps=1e-12, threshold_ema_dead_code=0,
                                      rotation_trick=False, commitment_weight=0.25)
    ours = VectorQuantizer(theirs.codebook.clone(), decay=0.9)
    assert float(theirs._codebook.cluster_size.min()) == 1
    for t in range(30):
        z = normal(1, B, d, seed=t, dtype=torch.float32) * 0.5
        q, codes, loss = theirs(z)
        mine, mine_codes, mine_loss = ours(z)
        assert torch.equal(codes, mine_codes)
        torch.testing.assert_close(q, mine)
        torch.testing.assert_close(loss.squeeze(), mine_loss)
        torch.testing.assert_close(theirs.codebook, ours.codebook, rtol=2e-4, atol=1e-5)
    torch.testing.assert_close(theirs._codebook.cluster_size[0], ours.mass)


def test_no_decay_on_all_data_is_a_round_of_lloyd():
    x = normal(500, 2)
    book = kmeans.plus_plus(x, 9, torch.Generator().manual_seed(1))
    vq = VectorQuantizer(book, decay=0.0)
    for _ in range(5):
        book = kmeans.lloyd(x, book)[0]
        vq(x)
        torch.testing.assert_close(vq.codebook, book)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.floats(0, 0.99), st.integers(0, 1000))
def test_full_batch_averages_never_raise_the_distortion(K, decay, seed):
    x = normal(200, 2, seed=seed)
    vq = VectorQuantizer(normal(K, 2, seed=seed + 1), decay=decay)
    errors = []
    for _ in range(8):
        errors.append(kmeans.distortion(x, vq.codebook))
        vq(x)
    assert all(b <= a * (1 + 1e-12) for a, b in zip(errors, errors[1:]))


def test_a_codeword_without_vectors_does_not_move_and_revival_moves_it():
    far = torch.tensor([[0.0, 0.0], [100.0, 100.0]])
    vq = VectorQuantizer(far, decay=0.5)
    for t in range(400):                               # its mass underflows to zero on the way
        vq(normal(20, 2, seed=t, dtype=torch.float32))
    assert torch.equal(vq.codebook[1], far[1]) and bool(torch.isfinite(vq.codebook).all())
    alive = VectorQuantizer(far, decay=0.5, revive=0.1, generator=torch.Generator().manual_seed(0))
    for t in range(20):
        alive(normal(20, 2, seed=t, dtype=torch.float32))
    assert float(alive.codebook.abs().max()) < 5 and usage(alive.encode(normal(500, 2, dtype=torch.float32)), 2).used == 2


def test_evaluation_mode_leaves_the_codebook_alone():
    vq = VectorQuantizer(normal(5, 2)).eval()
    before = vq.codebook.clone()
    vq(normal(50, 2))
    assert torch.equal(vq.codebook, before)


def test_gradients_of_the_two_losses():
    z, book = normal(30, 2).requires_grad_(), normal(4, 2, seed=1)
    vq = VectorQuantizer(book, decay=None, commitment=0.25)
    q, codes, loss = vq(z)
    loss.backward()
    torch.testing.assert_close(z.grad, 0.25 * 2 * (z.detach() - book[codes]) / z.numel())
    expected = torch.zeros_like(book).index_add_(0, codes, 2 * (book[codes] - z.detach()) / z.numel())
    torch.testing.assert_close(vq.codebook.grad, expected)


def test_vector_quantizer_encodes_and_decodes():
    z, vq = normal(3, 5, 2), VectorQuantizer(normal(6, 2, seed=1)).eval()
    q, codes, _ = vq(z)
    assert codes.shape == (3, 5) and torch.equal(codes, vq.encode(z))
    assert torch.equal(vq.decode(codes), q) and torch.equal(vq.quantize(z), q)
    assert torch.equal(vq.quantize(q), q)


@pytest.mark.parametrize("name, bad", [
    ("codebook", lambda: VectorQuantizer(torch.tensor([[math.nan]]))),
    ("codebook", lambda: VectorQuantizer(torch.zeros(3))),
    ("decay", lambda: VectorQuantizer(torch.zeros(2, 2), decay=1.0)),
    ("commitment", lambda: VectorQuantizer(torch.zeros(2, 2), commitment=-1.0)),
    ("revive", lambda: VectorQuantizer(torch.zeros(2, 2), revive=0.1)),
    ("x", lambda: VectorQuantizer(torch.zeros(2, 2))(torch.tensor([[math.nan, 0.0]]))),
    ("codes", lambda: VectorQuantizer(torch.zeros(2, 2)).decode(torch.tensor([2]))),
    ("codes", lambda: usage(torch.tensor([0.5]), 2)),
    ("codes", lambda: usage(torch.tensor([], dtype=torch.long), 2)),
    ("levels", lambda: FSQ((8, 2))),
    ("levels", lambda: FSQ(())),
    ("margin", lambda: FSQ((5,), margin=0.0)),
    ("margin", lambda: FSQ((8, 5), margin=0.5)),
    ("margin", lambda: FSQ((2000,))),
    ("z", lambda: FSQ((5, 5)).encode(torch.zeros(4, 3))),
    ("z", lambda: FSQ((5,))(torch.tensor([[math.inf]]))),
    ("codes", lambda: FSQ((5,)).decode(torch.tensor([5]))),
    ("out", lambda: FSQ((5,)).encode(torch.zeros(4, 1), out=torch.zeros(4, dtype=torch.int32))),
    ("bits", lambda: LFQ(0)),
    ("z", lambda: LFQ(2).encode(torch.tensor([[math.nan, 0.0]]))),
    ("bits", lambda: LFQ(17).entropies(torch.zeros(1, 17))),
    ("codes", lambda: LFQ(3).decode(torch.tensor([-1]))),
])
def test_bad_input_is_named(name, bad):
    with pytest.raises(ValueError, match=name):
        bad()


# ------------------------------------------------------------------------------------ grids
@pytest.mark.parametrize("levels, size", [((8, 6, 5), 240), ((8, 5, 5, 5), 1000), ((7, 5, 5, 5, 5), 4375),
                                          ((8, 8, 8, 6, 5), 15360), ((8, 8, 8, 5, 5, 5), 64000)])
def test_fsq_agrees_with_the_reference(levels, size):
    ours, theirs = FSQ(levels), reference.FSQ(list(levels))
    assert ours.size == size == theirs.codebook_size
    z = normal(1, 2000, len(levels), dtype=torch.float32) * 2
    q, codes = theirs(z)
    mine, mine_codes = ours(z)
    assert torch.equal(codes.long(), mine_codes) and torch.equal(ours.encode(z), mine_codes)
    torch.testing.assert_close(q, mine)
    torch.testing.assert_close(theirs.indices_to_codes(codes), ours.decode(mine_codes))
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    g = normal(*z.shape, seed=3, dtype=torch.float32)
    theirs(a)[0].backward(g)
    ours(b)[0].backward(g)
    torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("L", [3, 4, 5, 8, 15, 16])
def test_fsq_is_a_compander_with_a_uniform_grid(L):
    fsq, z = FSQ((L,)), normal(20_000, 1) * 1.5
    half, shift = (L - 1) * 1.001 / 2, math.atanh(0.5 * (L % 2 == 0) / ((L - 1) * 1.001 / 2))
    codes = companding.encode(z, lambda x: 0.5 + half * torch.tanh(x + shift) / L, L, dtype=torch.int64)
    assert torch.equal(codes[:, 0], fsq.encode(z))
    assert torch.equal(torch.bucketize(z[:, 0], fsq.thresholds(0), right=True), fsq.encode(z))
    assert fsq.encode(torch.zeros(1, 1)).item() == L // 2


@pytest.mark.parametrize("L, margin", [(8, 0.14), (5, 0.24), (999, 1e-3)])
def test_fsq_stays_on_its_levels_far_out(L, margin):
    z = torch.tensor([[-1e4], [1e4]])
    assert FSQ((L,), margin).encode(z).tolist() == [0, L - 1] == FSQ((L,), margin).encode(z.double()).tolist()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(3, 9), min_size=1, max_size=5))
def test_every_fsq_code_decodes_to_its_own_point(levels):
    fsq = FSQ(tuple(levels))
    codes = torch.arange(min(fsq.size, 20_000))
    points = fsq.decode(codes, dtype=torch.float64)
    assert len(torch.unique(points, dim=0)) == len(codes) and float(points.abs().max()) <= 1
    half, offset, shift = fsq._constants(points)
    inside = (points * torch.tensor([L // 2 for L in levels]) + offset) / half
    assert torch.equal(fsq.encode(torch.atanh(inside) - shift), codes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grid", [FSQ((8, 5, 4)), LFQ(3)])
def test_grids_encode_decode_any_layout_and_type(grid, dtype, monkeypatch):
    z = normal(40, 30, 3, dtype=dtype)
    codes = grid.encode(z)
    assert codes.shape == (40, 30) and codes.dtype == torch.int64
    points, same = grid(z)
    assert torch.equal(same, codes) and points.dtype == dtype
    assert torch.equal(grid.encode(z.transpose(0, 1)), codes.T)
    assert torch.equal(grid.decode(codes, dtype=dtype), grid.quantize(z))
    out = torch.empty(40, 30, dtype=torch.int64)
    monkeypatch.setattr("lecturelib.quantization.learned_grids.PIECE", 70)
    assert grid.encode(z, out=out) is out and torch.equal(out, codes)
    assert grid.encode(z[:0]).shape == (0, 30)


@pytest.mark.parametrize("bits", [1, 4, 7])
def test_lfq_agrees_with_the_reference(bits):
    theirs, ours = reference.LFQ(codebook_size=2**bits, dim=bits, entropy_loss_weight=1.0, commitment_loss_weight=0.0), LFQ(bits)
    z = normal(1, 300, bits, dtype=torch.float32) * 0.3
    theirs.train()
    (q, codes, _), parts = theirs(z, inv_temperature=0.5, return_loss_breakdown=True)
    mine, mine_codes = ours(z)
    torch.testing.assert_close(q, mine)
    reverse = sum((mine_codes >> i & 1) << bits - 1 - i for i in range(bits))            # their first bit is the highest
    assert torch.equal(codes.long(), reverse)
    given, joint = ours.entropies(z, temperature=2.0)
    assert float(parts.per_sample_entropy) / math.log(2) == pytest.approx(float(given), abs=2e-3)
    assert float(parts.batch_entropy) / math.log(2) == pytest.approx(float(joint), abs=2e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.floats(0.05, 20), st.integers(0, 1000))
def test_lfq_entropies_are_ordered_and_the_first_is_that_of_all_words(bits, temperature, seed):
    z, lfq = normal(20, bits, seed=seed), LFQ(bits)
    given, joint = lfq.entropies(z, temperature)
    words = lfq.decode(torch.arange(lfq.size), dtype=torch.float64)
    p = torch.softmax(-torch.cdist(z, words).square() / temperature, 1)
    assert float(given) == pytest.approx(float(torch.special.entr(p).sum(1).mean()) / math.log(2), abs=1e-9)
    assert float(joint) == pytest.approx(float(torch.special.entr(p.mean(0)).sum()) / math.log(2), abs=1e-9)
    assert -1e-9 <= float(given) <= float(joint) + 1e-9 <= bits + 1e-8


def test_lfq_entropies_have_finite_gradients_far_out():
    z = (normal(50, 6, dtype=torch.float32) * 1e3).requires_grad_()
    given, joint = LFQ(6).entropies(z)
    (given - joint).backward()
    assert bool(torch.isfinite(z.grad).all())


# ------------------------------------------------------------------------------------ theory
@pytest.mark.parametrize("s", [1.7, 2.0379627, 3.0])
def test_constant_of_the_hyperbolic_tangent(s):
    value = learned_grids.tanh_constant(s)
    assert value == pytest.approx(panter_dite.bennett(stats.norm(), learned_grids.tanh_compander(s).slope), rel=1e-8)
    N = 2048
    assert N**2 * companding.distortion(stats.norm(), learned_grids.tanh_compander(s).expand, N) == pytest.approx(value, rel=0.01)
    assert value > learned_grids.tanh_constant(2.0379627) * (1 - 1e-12) > panter_dite.GAUSSIAN


@pytest.mark.parametrize("p", [[1.0], [0.5, 0.5], [0.25, 0.25, 0.5]])
def test_usage_is_the_entropy_of_the_histogram(p):
    codes = torch.repeat_interleave(torch.arange(len(p)), torch.tensor([int(400 * v) for v in p]))
    H, perplexity, used = usage(codes, 10)
    assert H == pytest.approx(stats.entropy(p, base=2), abs=1e-12) and perplexity == pytest.approx(2**H) and used == len(p)
    assert H <= math.log2(used) + 1e-12 and np.isfinite(H)
