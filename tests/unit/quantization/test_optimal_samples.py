"""Codebooks from samples: against kmeans1d, brute force, and the density they come from."""
from itertools import combinations

import kmeans1d
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lecturelib.quantization import lloyd_max, optimal_samples


def by_kmeans1d(x, levels):
    found = kmeans1d.cluster(x, levels)
    return np.array(found.centroids), float(np.mean((x - np.array(found.centroids)[found.clusters])**2))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-30, 30), min_size=1, max_size=9), st.integers(1, 5))
def test_brute_force_over_all_cuts(values, levels):
    x = np.sort(np.array(values, dtype=float))
    if len(np.unique(x)) < levels:
        with pytest.raises(ValueError, match="distinct"):
            optimal_samples.optimal(x, levels)
        return
    best = min(sum(((part - part.mean())**2).sum() for part in np.split(x, cut))
               for cut in combinations(range(1, len(x)), levels - 1))
    assert optimal_samples.optimal(values, levels).distortion == pytest.approx(best / len(x), abs=1e-12)


@pytest.mark.parametrize("n", [17, 300, 4000])
@pytest.mark.parametrize("levels", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("law", [stats.norm(), stats.laplace(100, 3), stats.t(3), stats.expon()])
def test_agreement_with_kmeans1d(n, levels, law):
    x = law.rvs(n, random_state=0)
    points, error = by_kmeans1d(x, levels)
    book = optimal_samples.optimal(x, levels)
    assert book.distortion == pytest.approx(error, rel=1e-9)
    np.testing.assert_allclose(book.points, points, rtol=1e-9, atol=1e-9)


def test_repeated_samples_and_weights_are_the_same():
    x = np.array([1.0, 1.0, 1.0, 4.0, 6.0, 6.0, 9.0])
    book = optimal_samples.optimal(x, 3)
    weighted = optimal_samples.optimal([9.0, 1.0, 4.0, 6.0], 3, weights=[1, 3, 1, 2])
    np.testing.assert_allclose(book.points, weighted.points)
    assert book.distortion == pytest.approx(by_kmeans1d(x, 3)[1]) == weighted.distortion


@pytest.mark.parametrize("levels", [2, 7, 16, 64])
@pytest.mark.parametrize("law", [stats.norm(3, 2), stats.laplace(), stats.gamma(2)])
def test_fast_route_is_a_fixed_point_close_to_the_optimum(levels, law):
    x = np.sort(law.rvs(20000, random_state=1))
    fast, best = optimal_samples.fast(x, levels), optimal_samples.optimal(x, levels)
    assert best.distortion * (1 - 1e-12) <= fast.distortion <= best.distortion * (1 + 2e-4)
    cells = np.split(x, np.searchsorted(x, fast.thresholds, "right"))
    np.testing.assert_allclose([c.mean() for c in cells], fast.points, rtol=1e-10)
    assert fast.distortion == pytest.approx(np.mean(np.concatenate([(c - c.mean())**2 for c in cells])), rel=1e-10)


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("count", [1, optimal_samples.PIECE, 2 * optimal_samples.PIECE, 8 * optimal_samples.PIECE + 3])
def test_the_order_does_not_depend_on_threads(threads, count):
    x = np.random.default_rng(4).integers(-10**5, 10**5, count).astype(float)
    ordered, before = np.sort(x), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        optimal_samples._sort(x)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(x, ordered)


def test_samples_approach_their_density():
    """The empirical codebook is optimistic on its own samples and a little worse on the density."""
    x = stats.norm.rvs(size=200000, random_state=2)
    book, limit = optimal_samples.fast(x, 8), lloyd_max.lloyd_max(stats.norm(), 8)
    np.testing.assert_allclose(book.points, limit.points, atol=0.05)
    assert book.distortion == pytest.approx(limit.distortion, rel=0.02)


@settings(max_examples=20, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(0.01, 100))
def test_shift_and_scale(shift, scale):
    x = np.random.default_rng(3).standard_normal(200)
    base, moved = optimal_samples.optimal(x, 5), optimal_samples.optimal(shift + scale * x, 5)
    np.testing.assert_allclose(moved.points, shift + scale * base.points, rtol=1e-9, atol=1e-9)
    assert moved.distortion == pytest.approx(scale**2 * base.distortion, rel=1e-6)


def test_tensors_are_taken():
    x = torch.randn(100, generator=torch.Generator().manual_seed(0), requires_grad=True)
    np.testing.assert_array_equal(optimal_samples.optimal(x, 4).points,
                                  optimal_samples.optimal(x.detach().numpy(), 4).points)


@pytest.mark.parametrize("call, name", [
    (lambda x: optimal_samples.optimal([], 2), "x must"), (lambda x: optimal_samples.optimal([np.nan, 1.0], 2), "x must"),
    (lambda x: optimal_samples.optimal(x, 0), "levels"), (lambda x: optimal_samples.optimal(x, 2.5), "levels"),
    (lambda x: optimal_samples.optimal([1.0, 1.0], 2), "distinct"), (lambda x: optimal_samples.fast(x, 4, groups=2), "groups"),
    (lambda x: optimal_samples.optimal(x, 2, weights=[1.0]), "weights"), (lambda x: optimal_samples.optimal(x, 2, weights=-x), "weights"),
])
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call(np.arange(1.0, 9.0))
