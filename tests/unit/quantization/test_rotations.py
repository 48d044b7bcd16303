"""Rotations: the transform against its definition, orthogonality, and what one round does not do."""
import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lecturelib.quantization import rotations


@pytest.mark.parametrize("d", [1, 2, 8, 64, 128, 1024])
def test_hadamard_is_scipys_matrix(d):
    x = torch.randn(3, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
    expected = x.numpy() @ scipy.linalg.hadamard(d) / d**0.5
    assert np.allclose(rotations.hadamard(x), expected, atol=1e-12)
    assert torch.allclose(rotations.hadamard(rotations.hadamard(x)), x, atol=1e-12)


def test_three_factors():
    x = torch.randn(2, 8192, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    halves = rotations.hadamard(x.view(2, 2, 4096))
    expected = torch.cat((halves[:, 0] + halves[:, 1], halves[:, 0] - halves[:, 1]), 1) / 2**0.5
    assert torch.allclose(rotations.hadamard(x), expected, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(0, 2**32), st.integers(1, 3), st.sampled_from([torch.float32, torch.float64]))
def test_random_hadamard_is_orthogonal_and_undone(d, seed, rounds, dtype):
    turn = rotations.RandomHadamard(d, seed, rounds)
    Q = turn.apply(torch.eye(d, dtype=dtype))
    eps = 20 * torch.finfo(dtype).eps
    assert torch.allclose(Q @ Q.T, torch.eye(d, dtype=dtype), atol=eps * 4)
    assert torch.allclose(turn.undo(torch.eye(d, dtype=dtype)), Q.T, atol=eps)
    assert torch.equal(rotations.RandomHadamard(d, seed, rounds).signs, turn.signs)


def test_shapes_strides_and_chunks(monkeypatch):
    turn = rotations.RandomHadamard(24, 5)
    x = torch.randn(4, 24, 7, generator=torch.Generator().manual_seed(0)).mT
    assert not x.is_contiguous()
    whole = turn.apply(x)
    assert whole.shape == x.shape and torch.allclose(turn.undo(whole), x, atol=1e-5)
    assert torch.allclose(turn.apply(x.bfloat16()).float(), whole, atol=0.1)
    assert turn.apply(x.bfloat16()).dtype == torch.bfloat16 and turn.apply(torch.empty(0, 24)).shape == (0, 24)
    out = torch.empty(x.shape)
    assert turn.apply(x, out=out) is out and torch.equal(out, whole)
    assert torch.equal(turn.undo(out, out=out), turn.undo(whole))
    monkeypatch.setattr(rotations, "CHUNK", 50)
    assert torch.allclose(turn.apply(x), whole, atol=1e-6)


def test_haar_is_orthogonal_and_its_entries_have_the_spherical_law():
    g = torch.Generator().manual_seed(1)
    entries = torch.stack([rotations.haar(5, g, torch.float64).matrix for _ in range(2000)])
    assert torch.allclose(entries @ entries.mT, torch.eye(5, dtype=torch.float64), atol=1e-13)
    law = stats.beta(2, 2, loc=-1, scale=2)
    for i, j in ((0, 0), (4, 4), (1, 3)):
        assert stats.kstest(entries[:, i, j].numpy(), law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("rounds, gaussian", [(1, False), (2, True)])
def test_a_basis_vector_needs_two_rounds(rounds, gaussian):
    y = torch.cat([rotations.RandomHadamard(1024, seed, rounds).apply(torch.eye(1024)[seed]) for seed in range(8)]) * 32
    fourth = float(y.square().square().mean())
    assert float(y.square().mean()) == pytest.approx(1, abs=1e-5)
    assert fourth == pytest.approx(3, abs=0.3) if gaussian else fourth == pytest.approx(1, abs=1e-5)


def test_bad_input():
    with pytest.raises(ValueError, match="power of two"):
        rotations.hadamard(torch.ones(12))
    with pytest.raises(ValueError, match="power of two"):
        rotations.hadamard([1.0, 2.0])
    with pytest.raises(ValueError, match="x must be a floating"):
        rotations.hadamard(torch.ones(8, dtype=torch.int64))
    with pytest.raises(ValueError, match="x must be finite"):
        rotations.hadamard(torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match="out must be"):
        rotations.hadamard(torch.ones(8), out=torch.empty(4))
    with pytest.raises(ValueError, match="last axis 8"):
        rotations.RandomHadamard(8, 0).apply(torch.ones(4))
    for bad in (0, -1, 1.5, "8"):
        with pytest.raises(ValueError, match="dimension"):
            rotations.RandomHadamard(bad, 0)
        with pytest.raises(ValueError, match="dimension"):
            rotations.haar(bad, torch.Generator())
    with pytest.raises(ValueError, match="rounds"):
        rotations.RandomHadamard(8, 0, 0)
    with pytest.raises(ValueError, match="odd factor"):
        rotations.RandomHadamard(8193, 0)
    with pytest.raises(ValueError, match="orthogonal"):
        rotations.Matrix(torch.ones(3, 3))
    with pytest.raises(ValueError, match="orthogonal"):
        rotations.Matrix(torch.empty(0, 0))
