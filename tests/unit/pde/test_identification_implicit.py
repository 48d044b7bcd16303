"""The implicit function theorem as a solver: derivatives of every order, both solves, refusals."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lecturelib.pde import implicit
from lecturelib.pde.implicit import Pattern, Problem, root, solve

F64 = torch.float64


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def dominant(n, seed):
    """Entries of a diagonally dominant, unsymmetric tridiagonal matrix."""
    values = numbers(seed, 3 * n - 2)
    values[n - 1:2 * n - 1] += 6 * torch.sign(values[n - 1:2 * n - 1])
    return values


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(0, 10**6), st.booleans())
def test_the_sparse_solve_is_the_dense_one(n, seed, transposed):
    pattern, values, b = Pattern.tridiagonal(n), dominant(n, seed), numbers(seed + 1, n, 2)
    A = pattern.matrix(values)
    x = solve(values, pattern, b, transposed)
    assert torch.allclose((A.T if transposed else A) @ x, b, atol=1e-10)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("columns", [(), (2,)])
def test_first_and_second_derivatives_of_the_linear_solve(transposed, columns):
    pattern = Pattern.tridiagonal(4)
    inputs = dominant(4, 0).requires_grad_(), numbers(1, 4, *columns).requires_grad_()
    f = lambda v, b: solve(v, pattern, b, transposed)
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


def test_repeated_entries_are_added():
    i = torch.zeros(2, dtype=torch.long)
    assert solve(torch.tensor([1.0, 3.0]), Pattern(1, i, i), torch.tensor([8.0])).item() == 2.0


def test_the_gradient_agrees_with_that_of_torchs_dense_solve():
    n, pattern = 40, Pattern.tridiagonal(40)
    values, b = dominant(n, 5), numbers(6, n)
    ours, dense = values.clone().requires_grad_(), values.clone().requires_grad_()
    solve(ours, pattern, b).square().sum().backward()
    torch.linalg.solve(pattern.matrix(dense), b).square().sum().backward()
    assert torch.allclose(ours.grad, dense.grad, rtol=1e-10, atol=1e-12)


def coupled(n):
    x = torch.linspace(0, 1, n, dtype=F64)

    def residual(u, t):
        return u**3 + 2 * u - torch.sin(t[0] * x) - t[1] * u.roll(1) * t[0] / 4

    def jacobian(u, t):
        return torch.func.jacrev(residual)(u, t).reshape(-1)
    return Problem(residual, jacobian, Pattern.dense(n))


def test_first_and_second_derivatives_through_newton():
    theta = torch.tensor([0.7, 0.3], dtype=F64, requires_grad=True)
    f = lambda t: root(coupled(4), t, torch.zeros(4, dtype=F64))
    assert torch.autograd.gradcheck(f, (theta,))
    assert torch.autograd.gradgradcheck(f, (theta,))


def test_the_derivative_does_not_depend_on_the_start():
    gradients = []
    for start in (0.0, 0.8):
        theta = torch.tensor([0.7, 0.3], dtype=F64, requires_grad=True)
        root(coupled(4), theta, torch.full((4,), start, dtype=F64)).sum().backward()
        gradients.append(theta.grad)
    assert torch.allclose(*gradients, rtol=1e-10)


def test_newton_steps_with_the_residual_at_its_own_iterate():
    # a Jacobian of the wrong sign: no step descends, and every iterate is the end of a shortest step
    residuals, jacobians, i = [], [], torch.arange(1)

    def residual(u, t):
        residuals.append(float(u))
        return torch.atan(u) - t

    def jacobian(u, t):
        jacobians.append(float(u))
        return 0 * u - 1

    wrong = Problem(residual, jacobian, Pattern(1, i, i))
    zero, one = torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)
    with pytest.raises(ValueError, match="did not converge in 3 steps: the residual is"):
        root(wrong, zero, one, steps=3)
    assert len(jacobians) == 3 and set(jacobians) <= set(residuals)
    with pytest.raises(ValueError, match="steps"):
        root(wrong, zero, one, steps=0)


@pytest.mark.parametrize("alpha", [0.3, 0.7, 1.0])
def test_bratu_against_its_closed_form(alpha):
    n = 199
    h, z = 1 / (n + 1), torch.zeros(1, dtype=F64)

    def residual(u, mu):
        w = torch.cat([z, u, z])
        return (2 * w[1:-1] - w[:-2] - w[2:]) / h**2 - mu * torch.exp(u)

    def jacobian(u, mu):
        off = torch.full((n - 1,), -1 / h**2, dtype=F64)
        return torch.cat([off, 2 / h**2 - mu * torch.exp(u), off])
    mu = torch.tensor(8 * alpha**2 / math.cosh(alpha) ** 2, dtype=F64, requires_grad=True)
    u = root(Problem(residual, jacobian, Pattern.tridiagonal(n)), mu, torch.zeros(n, dtype=F64))
    x = torch.linspace(0, 1, n + 2, dtype=F64)[1:-1]
    exact = 2 * torch.log(math.cosh(alpha) / torch.cosh(alpha * (1 - 2 * x)))
    assert float((u.detach() - exact).abs().max()) < 1e-4
    slope = 2 * math.tanh(alpha) / (16 * alpha / math.cosh(alpha) ** 2 * (1 - alpha * math.tanh(alpha)))
    assert abs(float(torch.autograd.grad(u[n // 2], mu)[0]) / slope - 1) < 1e-3


@pytest.mark.parametrize("third, noise", [(6.0, 1e-12), (1e3, 1e-9)])
def test_the_optimal_step_minimizes_the_error(third, noise):
    best = implicit.optimal_step(third, noise)
    at = implicit.difference_error(best, third, noise)
    assert at == pytest.approx(1.5 * noise / best)
    assert all(implicit.difference_error(best * f, third, noise) > at for f in (0.5, 0.9, 1.1, 2.0))


def test_the_truncation_error_is_sharp_for_cubics():
    x = torch.zeros(1, dtype=F64)
    error = float(implicit.central_difference(lambda x: (x**3).sum(), x, torch.ones_like(x), 0.1))
    assert error == pytest.approx(implicit.difference_error(0.1, 6.0, 0.0))


def test_float32_is_solved_in_float32():
    pattern = Pattern.tridiagonal(5)
    assert solve(dominant(5, 0).float(), pattern, torch.ones(5)).dtype == torch.float32


def test_refusals():
    pattern = Pattern.tridiagonal(3)
    good = dominant(3, 0)
    with pytest.raises(ValueError, match="invertible"):
        solve(torch.zeros(7, dtype=F64), pattern, torch.ones(3, dtype=F64))
    ones = torch.ones(4, dtype=F64)
    with pytest.raises(ValueError, match="invertible"):
        solve(ones, Pattern.dense(2), torch.ones(2, dtype=F64))
    with pytest.raises(ValueError, match="values must have 7"):
        solve(good[:-1], pattern, torch.ones(3, dtype=F64))
    with pytest.raises(ValueError, match="b must have 3 rows"):
        solve(good, pattern, torch.ones(4, dtype=F64))
    with pytest.raises(ValueError, match="finite"):
        solve(good * torch.nan, pattern, torch.ones(3, dtype=F64))
    i = torch.arange(1)
    no_root = Problem(lambda u, t: u * u + t, lambda u, t: 2 * u, Pattern(1, i, i))
    with pytest.raises(ValueError, match="did not converge in 50 steps: the residual is|invertible"):
        root(no_root, torch.ones(1, dtype=F64), torch.full((1,), 0.9, dtype=F64))
