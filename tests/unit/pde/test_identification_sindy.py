"""Sparse regression: libraries, the two forms, noise, thresholds, and the flow with sensitivities."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lecturelib.pde import sindy

F64 = torch.float64


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.fixture(scope="module")
def orbit():
    E, Xi = sindy.lorenz()
    t = torch.arange(4001, dtype=F64) * 1e-3
    return E, Xi, sindy.flow(Xi, E, torch.tensor([-8.0, 7, 27]), t)


@given(st.integers(1, 4), st.integers(0, 4))
def test_the_number_of_monomials(d, degree):
    E = sindy.monomials(d, degree)
    assert len(E) == math.comb(d + degree, degree) and len({tuple(e) for e in E.tolist()}) == len(E)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_the_library_and_its_gradient(seed):
    E, x = sindy.monomials(3, 3), numbers(seed, 4, 3)
    direct = torch.stack([(x**e).prod(1) for e in E], 1)
    assert torch.allclose(sindy.library(x, E), direct)
    jacobian = torch.autograd.functional.jacobian
    auto = torch.stack([jacobian(lambda p: sindy.library(p[None], E)[0], row) for row in x])
    assert torch.allclose(sindy.library_gradient(x, E), auto)


@pytest.mark.parametrize("p", [2, 4, 6])
def test_the_weak_equations_hold_to_high_order_on_an_exact_solution(p):
    E, rate = sindy.monomials(1, 1), -0.7
    Xi, defects = torch.tensor([[0.0], [rate]], dtype=F64), []
    for radius in (10, 20):
        h = 1.0 / radius
        x = torch.exp(rate * torch.arange(4 * radius, dtype=F64) * h)[:, None]
        A, B = sindy.weak_system(x, h, E, radius, p, 7)
        defects.append(float((A @ Xi - B).abs().max()))
    assert math.log2(defects[0] / defects[1]) > p - 0.3 or defects[1] < 1e-13


def test_strong_equations_are_of_second_order():
    E, rate, defects = sindy.monomials(1, 1), -0.7, []
    for h in (0.1, 0.05):
        x = torch.exp(rate * torch.arange(0, 2, h, dtype=F64))[:, None]
        A, B = sindy.strong_system(x, h, E)
        defects.append(float((rate * A[:, 1:] - B).abs().max()))
    assert math.log2(defects[0] / defects[1]) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("h", [1e-3, 1e-2])
def test_noise_of_both_forms_has_the_predicted_deviation(h):
    radius, reps = round(0.3 / h), 4000
    phi, dphi = sindy.bump(radius, 6, h)
    eps = numbers(0, reps, 2 * radius + 1)
    tolerance = 5 / math.sqrt(2 * reps)
    assert float(((eps[:, 2] - eps[:, 0]) / (2 * h)).std()) == pytest.approx(sindy.strong_noise(1.0, h), rel=tolerance)
    assert float((eps @ dphi / phi.sum()).std()) == pytest.approx(sindy.weak_noise(1.0, h, 0.3, 6), rel=tolerance)


def test_the_systems_rows_are_windows():
    x, E = numbers(0, 50, 2), sindy.monomials(2, 2)
    phi, dphi = sindy.bump(5, 3, 0.1)
    A, B = sindy.weak_system(x, 0.1, E, 5, 3, 4)
    for k in (0, 3, len(A) - 1):
        window = x[4 * k:4 * k + 11]
        assert torch.allclose(A[k], 0.1 * phi @ sindy.library(window, E))
        assert torch.allclose(B[k], -0.1 * dphi @ window)


def test_thresholding_recovers_a_sparse_vector_exactly():
    A = numbers(0, 60, 8)
    Xi = torch.zeros(8, 2, dtype=F64)
    Xi[1, 0], Xi[4, 0], Xi[6, 1] = 2.0, -0.5, 30.0
    found = sindy.threshold_least_squares(A, A @ Xi + 1e-3 * numbers(1, 60, 2), 0.1)
    assert bool(((found != 0) == (Xi != 0)).all()) and float((found - Xi).abs().max()) < 2e-3


def test_lorenz_from_exact_and_noisy_data(orbit):
    E, Xi, x = orbit
    h = 1e-3
    exact = sindy.threshold_least_squares(*sindy.weak_system(x, h, E, 200, 6, 50), 0.1)
    assert float((exact - Xi).norm() / Xi.norm()) < 1e-9
    sigma = 0.01 * x.std(0)
    errors = []
    for seed in range(4):
        y = x + sigma * numbers(seed, *x.shape)
        weak = sindy.threshold_least_squares(*sindy.weak_system(y, h, E, 200, 6, 20), 0.1)
        weighted = sindy.reweight(y, h, E, weak, sigma, 200, 6, 50)
        strong = sindy.threshold_least_squares(*sindy.strong_system(y, h, E), 0.1)
        errors.append([float((C - Xi).norm() / Xi.norm()) for C in (strong, weak, weighted)])
    strong, weak, weighted = (torch.tensor(e).square().mean().sqrt() for e in zip(*errors))
    assert weighted < weak < strong and weighted < 2e-3


def test_the_weights_are_the_covariance_of_the_linearized_noise(orbit):
    """One round from the truth equals generalized least squares with a covariance built by brute force."""
    E, Xi, x = orbit
    y, sigma, h = x[:100], torch.tensor([0.1, 0.2, 0.3], dtype=F64), 1e-3
    radius, p, stride = 10, 4, 6
    A, B = sindy.weak_system(y, h, E, radius, p, stride)
    support, K = torch.nonzero(Xi), len(A)

    def defect(data):
        A, B = sindy.weak_system(data, h, E, radius, p, stride)
        return (A @ Xi - B).T.reshape(-1)
    columns = (torch.autograd.functional.jacobian(defect, y) * sigma).reshape(3 * K, -1)
    covariance = columns @ columns.T
    system = torch.zeros(3 * K, len(support), dtype=F64)
    for j, (term, k) in enumerate(support.tolist()):
        system[k * K:(k + 1) * K, j] = A[:, term]
    inverse = torch.linalg.inv(covariance)
    c = torch.linalg.solve(system.T @ inverse @ system, system.T @ inverse @ B.T.reshape(-1))
    ours = sindy.reweight(y, h, E, Xi, sigma, radius, p, stride, rounds=1)
    assert torch.allclose(ours[support[:, 0], support[:, 1]], c, rtol=1e-6, atol=1e-6)


def test_sensitivities_against_differences(orbit):
    E, Xi, _ = orbit
    t, x0, step = torch.tensor([0.0, 0.5, 1.0], dtype=F64), torch.tensor([-8.0, 7, 27], dtype=F64), 1e-5
    support = torch.nonzero(Xi)
    x, S = sindy.flow(Xi, E, x0, t, support)
    for j, (row, col) in enumerate(support.tolist()):
        moved = [Xi.clone() for _ in range(2)]
        moved[0][row, col] += step
        moved[1][row, col] -= step
        difference = (sindy.flow(moved[0], E, x0, t) - sindy.flow(moved[1], E, x0, t)) / (2 * step)
        assert torch.allclose(S[:, :, j], difference, rtol=1e-4, atol=1e-4)
    assert torch.allclose(S[0, :, -3:], torch.eye(3, dtype=F64))


def test_refusals():
    E = sindy.monomials(2, 1)
    with pytest.raises(ValueError, match="columns"):
        sindy.library(torch.zeros(3, 3), E)
    with pytest.raises(ValueError, match="at least 11 samples"):
        sindy.weak_system(torch.zeros(10, 2), 0.1, E, 5, 3, 1)
    with pytest.raises(ValueError, match="finite"):
        sindy.weak_system(torch.full((20, 2), torch.nan), 0.1, E, 5, 3, 1)
    with pytest.raises(ValueError, match="at least 3"):
        sindy.strong_system(torch.zeros(2, 2), 0.1, E)
    with pytest.raises(ValueError, match="rank 1 of 2"):
        sindy.threshold_least_squares(torch.ones(5, 2), torch.ones(5, 1), 0.1)
    with pytest.raises(ValueError, match="removes every term"):
        sindy.threshold_least_squares(torch.eye(3), 0.01 * torch.ones(3, 1), 0.1)
    with pytest.raises(ValueError, match="p must be"):
        sindy.bump(5, 1, 0.1)
    blow_up = torch.tensor([[0.0], [0.0], [1.0]], dtype=F64)
    with pytest.raises(ValueError, match="could not be continued"):
        sindy.flow(blow_up, sindy.monomials(1, 2), torch.tensor([1.0]), torch.tensor([0.0, 2.0], dtype=F64))
    E3, Xi = sindy.lorenz()
    noisy = numbers(0, 30, 3)
    with pytest.raises(ValueError, match="3 standard deviations"):
        sindy.reweight(noisy, 0.1, E3, Xi, torch.ones(1, dtype=F64), 5, 3, 5)
    with pytest.raises(ValueError, match="Xi must have shape"):
        sindy.reweight(noisy, 0.1, E3, Xi[:4], torch.ones(3, dtype=F64), 5, 3, 5)
    with pytest.raises(ValueError, match="stride must leave"):
        sindy.reweight(torch.zeros(30, 3, dtype=F64), 0.1, E3, Xi, torch.zeros(3, dtype=F64), 5, 3, 1)
