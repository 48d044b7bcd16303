"""Natural gradients: projection, factorizations, the sample space, and what the solvers reach."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lecturelib.pde import approximation, baselines, boundary, energies, natural_gradient, networks
from lecturelib.pde import sample_space
from lecturelib.pde.domains import Box
from lecturelib.pde.natural_gradient import Pseudoinverse

F64, PI = torch.float64, math.pi
SQUARE = Box.unit(2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def zero(x):
    return torch.zeros_like(x[:, 0])


def product(function):
    """∏ function(πx_i) with its derivatives by automatic differentiation."""
    return approximation.Function(lambda x: function(PI * x).prod(1))


SINE, COSINE = product(torch.sin), product(torch.cos)


def source(u):
    return lambda x: 2 * PI**2 * u.value(x)


# ------------------------------------------------------------------------------ thm-tangent-projection
@pytest.mark.parametrize("make", [
    lambda seed: networks.Shallow.random(8, SQUARE, generator(seed), 2.0),
    lambda seed: networks.Deep.random([2, 5, 4, 1], generator(seed), 1.5)])
@pytest.mark.parametrize("seed", range(3))
def test_a_step_is_the_projection_of_the_error(make, seed):
    u, (x, w) = make(seed), SQUARE.quadrature(24)
    g, B = energies.RitzForm(source(COSINE), (x, w)).tangent(u)
    step = B @ Pseudoinverse.ritz(B, g).step(1e-5)
    error = torch.cat([(w.sqrt()[:, None] * (u.gradient(x) - COSINE.gradient(x))).flatten(), (w @ u.value(x))[None]])
    projection = B @ Pseudoinverse.qr(B, error).step(1e-5)
    assert float((step - projection).norm() / projection.norm()) < 1e-8
    gap, gain, rest = (float(v.square().sum()) for v in (error, step, error - step))
    assert gap - gain == pytest.approx(rest, rel=1e-9, abs=1e-9 * gap)


def test_gauss_newton_solves_a_linear_model_in_one_step():
    u = networks.Shallow.random(12, SQUARE, generator(), 1.0)
    form = energies.StrongForm(source(SINE), SQUARE.quadrature(12), zero, SQUARE.boundary(12))
    once = sample_space.solve_outer(u, form, 10.0)
    twice = sample_space.solve_outer(once, form, 10.0)
    gradient = sample_space.outer_columns(once, form, 10.0).T @ form.residual(once, 10.0)
    assert float(gradient.abs().max()) < 1e-8 * float(form.residual(u, 10.0).norm())
    assert float(form.loss(twice, 10.0)) == pytest.approx(float(form.loss(once, 10.0)), rel=1e-9)


# --------------------------------------------------------------------------------- factorizations
@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 30), columns=st.integers(1, 20), seed=st.integers(0, 1000))
def test_pseudoinverse_is_that_of_torch(rows, columns, seed):
    J = torch.randn(rows, columns, generator=generator(seed), dtype=F64)
    r = torch.randn(rows, generator=generator(seed + 1), dtype=F64)
    exact = torch.linalg.pinv(J, rtol=1e-6) @ r
    assert torch.allclose(Pseudoinverse.qr(J, r).step(1e-6), exact, atol=1e-8)
    assert torch.allclose(Pseudoinverse.gram(J.T @ J, J.T @ r).step(1e-6), exact, atol=1e-5)
    assert torch.allclose(Pseudoinverse.ritz(J, J.T @ r).step(1e-6), exact, atol=1e-6) or rows < columns


def test_gram_loses_what_qr_keeps():
    """κ against κ²: a direction at 1e-9 of the largest singular value."""
    U, _ = torch.linalg.qr(torch.randn(30, 3, generator=generator(), dtype=F64))
    V, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator(1), dtype=F64))
    s = torch.tensor([1.0, 1e-3, 1e-9], dtype=F64)
    J, delta = U * s @ V.T, V.sum(1)
    r = J @ delta
    by_qr = Pseudoinverse.qr(J, r).step(1e-10)
    by_gram = Pseudoinverse.gram(J.T @ J, J.T @ r).step(1e-10)
    assert float((by_qr - delta).norm()) < 1e-5
    assert float((by_gram - delta).norm()) == pytest.approx(1.0, rel=1e-3)


def test_line_search_takes_the_first_minimum_and_reports_failure():
    def parabola(t):
        return float((t - 0.3) ** 2)
    start, step = torch.tensor(1.0), torch.tensor(2.8)
    value, eta, theta = natural_gradient.line_search(parabola, start, step, parabola(start))
    assert eta == 0.25 and float(theta) == pytest.approx(0.3) and value < 1e-12
    assert natural_gradient.line_search(parabola, start, -step, parabola(start)) is None
    assert natural_gradient.line_search(parabola, start, step / 2, parabola(start), enough=0.99)[1] in (1.0, 0.5)


# ------------------------------------------------------------------------------------ prop-woodbury
@settings(max_examples=20, deadline=None)
@given(d=st.integers(1, 5), m=st.integers(1, 12), seed=st.integers(0, 1000), beta=st.floats(0.1, 1e3),
       activation=st.sampled_from(["tanh", "sin"]))
def test_the_kernel_in_closed_form_is_j_times_its_transpose(d, m, seed, beta, activation):
    box, gen = Box.unit(d), generator(seed)
    u = networks.Shallow.random(m, box, gen, 1.2, activation)
    form = energies.StrongForm(zero, energies.interior_sample(box, 9, gen), zero, energies.boundary_sample(box, 6, gen))
    J, T = form.jacobian(u, beta), sample_space.Tangent(u, form, beta)
    size = float(J.square().sum())
    assert float((T.kernel() - J @ J.T).abs().max()) < 1e-13 * size
    y = torch.randn(15, generator=gen, dtype=F64)
    assert torch.allclose(T.pull(y), J.T @ y, atol=1e-10 * (1 + size))
    K = J @ J.T
    lam = 1e-3 * float(K.diagonal().mean())
    direct = torch.linalg.solve(J.T @ J + lam * torch.eye(J.shape[1], dtype=F64), J.T @ y)
    assert torch.allclose(T.step(y, 1e-3), direct, rtol=1e-6, atol=1e-7 * float(direct.norm()))


def test_outer_columns_are_those_of_the_jacobian():
    u = networks.Shallow.random(5, SQUARE, generator(), 1.0, "sin")
    form = energies.StrongForm(zero, SQUARE.quadrature(4), zero, SQUARE.boundary(3),
                               reaction=(lambda v: v**3, lambda v: 3 * v**2))
    assert torch.allclose(sample_space.outer_columns(u, form, 5.0), form.jacobian(u, 5.0)[:, -6:])


def test_training_in_the_sample_space_beats_the_linear_solve():
    box, gen = Box.unit(4), generator(1)
    g = lambda x: x[:, 0] * x[:, 1] + x[:, 2] * x[:, 3]

    def draw(n):
        return energies.StrongForm(zero, energies.interior_sample(box, n, gen), g, energies.boundary_sample(box, n, gen))

    start = networks.Shallow.random(24, box, gen, 0.7)
    x, _ = box.quadrature(4)
    linear = sample_space.solve_outer(start, draw(400), 500.0, 1e-12, "gram")
    run = sample_space.train(start, draw, 500.0, 12, (100, 200))
    before, after = (float((u.value(x) - g(x)).norm() / g(x).norm()) for u in (linear, run.u))
    assert after < 1e-2 and after < before / 5
    assert len(run.loss) == len(run.step) == len(run.beta) <= 12


# -------------------------------------------------------------------------------------- what they reach
@pytest.mark.parametrize("seed", [0, 1])
def test_dirichlet_problem_to_nine_digits(seed):
    form = energies.StrongForm(source(SINE), SQUARE.quadrature(30), zero, SQUARE.boundary(30))
    run = natural_gradient.gauss_newton(networks.Shallow.random(64, SQUARE, generator(seed)), form, tolerance=1e-9)
    x, w = SQUARE.quadrature(40)
    assert 2 * float((w @ (run.u.value(x) - SINE.value(x)).square()).sqrt()) < 1e-8
    assert len(run.u.theta) <= 500 and max(run.beta) == 1e4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_deep_network_with_exact_boundary_values(seed):
    u = boundary.Constrained(networks.Deep.random([2, 12, 12, 1], generator(seed), 1.0), boundary.bubble(SQUARE))
    form = energies.StrongForm(source(SINE), SQUARE.quadrature(12))
    run = natural_gradient.gauss_newton(u, form, betas=(1.0,), iterations=80)
    x, w = SQUARE.quadrature(20)
    assert 2 * float((w @ (run.u.value(x) - SINE.value(x)).square()).sqrt()) < 1e-6


def test_the_energy_reached_is_that_of_the_solution():
    form = energies.RitzForm(source(COSINE), SQUARE.quadrature(24))
    run = natural_gradient.energy_natural_gradient(networks.Shallow.random(40, SQUARE, generator(), 1.5), form)
    assert run.loss[-1] == pytest.approx(-PI**2 / 4, abs=1e-8)
    assert all(b <= a for a, b in zip(run.loss, run.loss[1:]))
    x, w = SQUARE.quadrature(24)
    assert abs(float(w @ run.u.value(x))) < 1e-4                     # the mean-zero solution


def test_baselines_descend_and_refuse_infinities():
    form = energies.StrongForm(source(SINE), SQUARE.quadrature(10), zero, SQUARE.boundary(10))
    u = networks.Shallow.random(10, SQUARE, generator())
    seen = []
    run = baselines.adam(u, lambda v: form.loss(v, 100.0), 60, watch=lambda k, v: seen.append(k), every=20)
    assert run.loss[-1] < run.loss[0] and seen == [19, 39, 59] and not run.u.theta.requires_grad
    assert baselines.lbfgs(u, lambda v: form.loss(v, 100.0), 60).loss[-1] < run.loss[-1]
    with pytest.raises(ValueError, match="iteration 0"):
        baselines.adam(u, lambda v: form.loss(v) * float("inf"), 5)


@pytest.mark.parametrize("iterations, every", [(60, 50), (30, 50), (40, 20)])
def test_lbfgs_makes_the_iterations_asked_for(iterations, every, monkeypatch):
    made, LBFGS = [], torch.optim.LBFGS

    class Counting(LBFGS):
        def step(self, closure):
            value = super().step(closure)
            made.append(self.state[self._params[0]]["n_iter"])
            return value

    monkeypatch.setattr(torch.optim, "LBFGS", Counting)
    form, seen = energies.StrongForm(source(SINE), SQUARE.quadrature(10), zero, SQUARE.boundary(10)), []
    u = networks.Shallow.random(10, SQUARE, generator())
    baselines.lbfgs(u, lambda v: form.loss(v, 100.0), iterations, watch=lambda k, v: seen.append(k + 1), every=every)
    assert made[-1] == seen[-1] == iterations


@pytest.mark.parametrize("rows", [20, 21, 22, 60])
def test_least_squares_without_q_is_least_squares(rows):
    M, r = (torch.randn(rows, k, generator=generator(k), dtype=F64) for k in (20, 1))
    exact = torch.linalg.lstsq(M, r, driver="gelsd").solution[:, 0]
    assert torch.allclose(sample_space._least_squares(M, r[:, 0], 1e-14, "qr"), exact, atol=1e-9)
    assert torch.allclose(Pseudoinverse.qr(M, r[:, 0]).step(1e-12), exact, atol=1e-9)


def test_missing_the_tolerance_says_by_how_much():
    form = energies.StrongForm(source(SINE), SQUARE.quadrature(8), zero, SQUARE.boundary(8))
    u = networks.Shallow.random(3, SQUARE, generator())
    with pytest.raises(ValueError, match=r"did not converge: loss .* after .* steps, .* times the tolerance 1e-12"):
        natural_gradient.gauss_newton(u, form, iterations=5, tolerance=1e-12)
    with pytest.raises(ValueError, match="solve must be"):
        natural_gradient.gauss_newton(u, form, solve="lu")
    with pytest.raises(ValueError, match="solve must be"):
        natural_gradient.energy_natural_gradient(u, form, solve="lu")
    with pytest.raises(ValueError, match="solve must be"):
        sample_space.solve_outer(u, form, 1.0, solve="lu")
    with pytest.raises(ValueError, match="no reaction"):
        sample_space.Tangent(u, energies.StrongForm(zero, SQUARE.quadrature(3)), 1.0)
    soft = energies.StrongForm(zero, SQUARE.quadrature(3), zero, SQUARE.boundary(2))
    for beta in (-1.0, math.nan):
        with pytest.raises(ValueError, match="betas must be positive"):
            natural_gradient.gauss_newton(u, form, betas=(1.0, beta))
        with pytest.raises(ValueError, match="beta must be positive"):
            sample_space.Tangent(u, soft, beta)
        with pytest.raises(ValueError, match="beta must be positive"):
            sample_space.solve_outer(u, soft, beta)
    with pytest.raises(ValueError, match="at least one boundary weight"):
        natural_gradient.gauss_newton(u, form, betas=())
    with pytest.raises(ValueError, match="cutoff must be positive"):
        natural_gradient.gauss_newton(u, form, cutoff=0.0)
