"""Gradient descent and conjugate gradients: rates, exact counts, bounds."""
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from lecturelib.pde import discretize, iteration

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


@given(st.lists(st.floats(0.05, 20), min_size=2, max_size=6), st.floats(1e-8, 0.5), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_count_is_the_first_iteration_below_the_tolerance(lam, tolerance, seed):
    lam = torch.tensor(lam, dtype=F64)
    e = randn(len(lam), seed=seed) + 0.1
    count = iteration.gradient_descent_count(lam, e, tolerance)
    factor = 1 - iteration.optimal_step(lam) * lam
    left = lambda j: float((factor**j * e).norm() / e.norm())
    assert left(count) <= tolerance * (1 + 1e-9)
    assert count == 1 or left(count - 1) > tolerance * (1 - 1e-9)
    if lam.max() / lam.min() > 1.001:
        kappa = float(lam.max() / lam.min())
        assert count <= math.ceil(iteration.gradient_descent_bound(kappa, tolerance) * (1 + 1e-12))
        assert iteration.gradient_descent_bound(kappa, tolerance) <= kappa * math.log(1 / tolerance) / 2 * (1 + 1e-12)


def test_count_agrees_with_the_run():
    n, tolerance = 12, 1e-4
    A, lam, Q = discretize.matrix(n), discretize.eigenvalues(n)[1:], discretize.modes(n)[:, 1:]
    x_star = Q @ randn(n - 1)
    count = iteration.gradient_descent_count(lam, Q.T @ x_star, tolerance)
    target = tolerance * float(x_star.norm())
    done = lambda x: float((x - x_star).norm()) <= target
    _, ran = iteration.gradient_descent(lambda x: A @ x, A @ x_star, torch.zeros(n, dtype=F64),
                                        iteration.optimal_step(lam), 10_000, done)
    assert ran == count


@pytest.mark.parametrize("power, order", [(1, 1), (2, 2)])
def test_gradient_descent_counts_grow_like_kappa_to_the_order(power, order):
    kappa, counts = [], []
    for n in (64, 512):
        lam = discretize.eigenvalues(n)[1:]
        kappa.append(float(lam.max() / lam.min()))
        slowest = torch.zeros_like(lam)
        slowest[0] = 1
        counts.append(iteration.gradient_descent_count(lam**power, slowest, 1e-6))
    assert math.log(counts[1] / counts[0]) / math.log(kappa[1] / kappa[0]) == pytest.approx(order, abs=1e-3)


@pytest.mark.parametrize("power", [1, 2])
def test_optimal_step_is_optimal(power):
    lam = discretize.eigenvalues(10)[1:] ** power
    best = iteration.optimal_step(lam)
    worst = lambda step: float((1 - step * lam).abs().max())
    kappa = float(lam.max() / lam.min())
    assert worst(best) == pytest.approx((kappa - 1) / (kappa + 1), rel=1e-12)
    assert all(worst(best * s) > worst(best) for s in (0.5, 0.9, 0.99, 1.01, 1.1))


@given(st.integers(2, 12), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_conjugate_gradients_end_after_n_steps_and_keep_their_bound(n, seed):
    lam = torch.linspace(1, 30, n, dtype=F64)
    Q, _ = torch.linalg.qr(randn(n, n, seed=seed))
    A = Q @ torch.diag(lam) @ Q.T
    x_star = randn(n, seed=seed + 1)
    norm = lambda e: float((e @ (A @ e)).sqrt())
    rho = (math.sqrt(30) - 1) / (math.sqrt(30) + 1)
    start = torch.zeros(n, dtype=F64)
    for j in (1, 3, n):
        x, _ = iteration.conjugate_gradients(lambda v: A @ v, A @ x_star, start, j)
        assert norm(x - x_star) <= 2 * rho**j * norm(x_star) * (1 + 1e-9) + 1e-12
    assert norm(x - x_star) < 1e-6 * norm(x_star)


def test_conjugate_gradients_beat_every_krylov_element():
    A = discretize.matrix(9, 1, "dirichlet")
    b, steps = randn(8), 3
    x_star = torch.linalg.solve(A, b)
    x, _ = iteration.conjugate_gradients(lambda v: A @ v, b, torch.zeros(8, dtype=F64), steps)
    K = torch.stack([torch.linalg.matrix_power(A / A.norm(), j) @ b for j in range(steps)], 1)
    best = K @ torch.linalg.solve(K.T @ A @ K, K.T @ b)
    torch.testing.assert_close(x, best, atol=1e-8, rtol=1e-6)
    assert (x - x_star).norm() > 1e-3                         # three steps are not enough


def test_iterations_act_on_tensors_and_stop_at_once_when_done():
    A = lambda v: discretize.neumann_laplacian(v, 2)
    x_star = randn(6, 6)
    x_star -= x_star.mean()
    x, count = iteration.conjugate_gradients(A, A(x_star), torch.zeros(6, 6, dtype=F64), 200,
                                             lambda v: float((v - x_star).norm()) < 1e-8)
    assert float((x - x_star).norm()) < 1e-8 and count < 36
    assert iteration.conjugate_gradients(A, A(x_star), x_star, 5, lambda v: True)[1] == 0
    assert iteration.gradient_descent(A, A(x_star), x_star, 1.0, 5, lambda v: True)[1] == 0


@pytest.mark.parametrize("n", [4, 9, 40])
def test_conjugate_gradients_stop_at_rounding_on_a_singular_matrix(n):
    b = randn(n)
    b -= b.mean()
    x, count = iteration.conjugate_gradients(discretize.neumann_laplacian, b, torch.zeros(n, dtype=F64), 5000)
    assert float((discretize.neumann_laplacian(x) - b).norm() / b.norm()) < 1e-12 and count < 3 * n


def test_no_error_needs_no_iteration():
    assert iteration.gradient_descent_count(torch.tensor([1.0, 2.0]), torch.zeros(2), 0.1) == 0
    tiny = 1e-200 * torch.ones(2, dtype=F64)
    assert iteration.gradient_descent_count(torch.tensor([1.0, 3.0]), tiny, 0.1) == 4


def test_inputs_are_left_alone():
    b, x = randn(4), randn(4, seed=1)
    kept = b.clone(), x.clone()
    iteration.gradient_descent(lambda v: v, b, x, 0.5, 3)
    iteration.conjugate_gradients(lambda v: v, b, x, 3)
    assert torch.equal(b, kept[0]) and torch.equal(x, kept[1])


LAM, E = torch.tensor([1.0, 2.0]), torch.ones(2)


@pytest.mark.parametrize("call, names", [
    (lambda: iteration.gradient_descent(lambda x: x, E, torch.ones(3), 0.1, 1), "shape of b"),
    (lambda: iteration.gradient_descent(lambda x: x, E * math.nan, E, 0.1, 1), "b must be finite"),
    (lambda: iteration.gradient_descent(lambda x: x, E, E, -0.1, 1), "step"),
    (lambda: iteration.gradient_descent(lambda x: x, E, E, 0.1, -1), "iterations"),
    (lambda: iteration.gradient_descent(lambda x: 1e30 * x, 0 * E, E, 1.0, 10), "step is too long"),
    (lambda: iteration.conjugate_gradients(lambda x: -x, E, 0 * E, 5), "semidefinite"),
    (lambda: iteration.conjugate_gradients(lambda x: x * LAM * torch.tensor([1.0, 0.0]), E, 0 * E, 5), "in its range"),
    (lambda: iteration.conjugate_gradients(lambda x: x * math.nan, E, 0 * E, 5), "semidefinite"),
    (lambda: iteration.gradient_descent(lambda x: x, E, E, E, 1), "step"),
    (lambda: iteration.optimal_step(LAM - 2), "eigenvalues"),
    (lambda: iteration.optimal_step(LAM[:0]), "eigenvalues"),
    (lambda: iteration.gradient_descent_count(LAM, E[:1], 0.1), "error"),
    (lambda: iteration.gradient_descent_bound(3.0, 0.0), "tolerance"),
    (lambda: iteration.conjugate_gradients_bound(3.0, math.nan), "tolerance"),
    (lambda: iteration.gradient_descent_count(LAM - 1, E, 0.1), "eigenvalues"),
    (lambda: iteration.gradient_descent_count(LAM, E, 1.5), "tolerance"),
    (lambda: iteration.gradient_descent_count(LAM, E, 0.1, step=1.0), "step"),
    (lambda: iteration.gradient_descent_bound(1.0, 0.1), "kappa"),
    (lambda: iteration.conjugate_gradients_bound(math.inf, 0.1), "kappa"),
])
def test_refusals_name_the_argument(call, names):
    with pytest.raises(ValueError, match=names):
        call()
