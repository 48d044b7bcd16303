"""Both sides of every bound in an argument check: the last value that is taken, the first that is refused."""
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from lecturelib.pde import (_check, approximation, baselines, bases, boundary, bounds, certificates, certified, curse, discretize, domains, energies,
                            equation_error, equilibrium, evolution, fem, forms, galerkin, implicit, inverse, inverse_pinn, iteration, linear, marini, mesh,
                            natural_gradient, networks, operators, poincare, regression, sample_space, sindy, spectral)
from lecturelib.pde.approximation import Function
from lecturelib.pde.domains import Box

F64, PI, INF, NAN, EPS = torch.float64, math.pi, math.inf, math.nan, 2.0**-52
TINY, HUGE = sys.float_info.min, sys.float_info.max
BELOW, ABOVE = math.nextafter(1.0, 0.0), math.nextafter(1.0, 2.0)
UNIT, PLATE = Box.unit(1), Box([1.0, -2.0], [3.0, 5.0])


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def ones(*shape):
    return torch.ones(*shape, dtype=F64)


def zero(x):
    return 0 * x[:, 0]


def one(x):
    return 1 + 0 * x[:, 0]


def numbers(*values):
    return torch.tensor(values, dtype=F64)


def plane(value, slope, laplacian=0.0):
    """An approximation on a line with the given constant value, gradient and Laplacian."""
    return Function(lambda x: one(x) * value, lambda x: 0 * x + slope, lambda x: one(x) * laplacian)


class Point:
    """A network of one layer of parameters: itself."""

    def __init__(self, theta):
        self.theta = theta

    def at(self, theta):
        return Point(theta)


def net(m=3, box=UNIT):
    return networks.Shallow.random(m, box, gen())


def soft(box=UNIT):
    return energies.StrongForm(zero, box.quadrature(4), zero, box.boundary(2))


# ------------------------------------------------------------------------ the three checks themselves
def takes(call, good, bad, name):
    """`call` takes the good values and refuses the bad ones by name."""
    for value in good:
        call(value)
    for value in bad:
        with pytest.raises(ValueError, match=name):
            call(value)


@pytest.mark.parametrize("least", [-1, 0, 1, 2, 3])
def test_whole_takes_its_least_value_and_none_below(least):
    assert _check.whole("n", least, least) == least and _check.whole("n", least + 1, least) == least + 1
    for value in (least - 1, least + 0.5, float(least), True, None, "3", NAN):
        with pytest.raises(ValueError, match=f"n must be an integer of at least {least}; got"):
            _check.whole("n", value, least)


def test_positive_takes_all_of_the_open_half_line():
    assert all(_check.positive("s", v) == v for v in (TINY, 5e-324, 1, HUGE))
    for value in (0, 0.0, -0.0, -5e-324, -1, INF, -INF, NAN, None, "a", ones(2)):
        with pytest.raises(ValueError, match="s must be positive and finite; got"):
            _check.positive("s", value)


def test_tensor_takes_finite_floats_of_the_stated_number_of_axes():
    x = torch.zeros(2, 0, dtype=torch.float16)
    assert _check.tensor("x", x) is x is _check.tensor("x", x, 2) and _check.tensor("x", torch.tensor(HUGE, dtype=F64), 0) == HUGE
    for value, axes, word in ((x, 1, "1 axes"), (x, 3, "3 axes"), (x.long(), 2, "int64"), ([1.0], 1, "list"), (numbers(1, INF), 1, "finite"), (numbers(NAN), 1, "finite")):
        with pytest.raises(ValueError, match=word):
            _check.tensor("x", value, axes)


# ------------------------------------------------------------ integers: f(least) is taken, f(least - 1) refused
QUADRATIC = lambda u: u.theta.square().sum()
LEAST = [
    ("rank", 0, lambda k: regression.PCA.fit(torch.eye(3, dtype=F64)).tail(k)),
    ("rank", 0, lambda k: regression.PCA.fit(torch.eye(3, dtype=F64)).encode(ones(3), k)),
    ("degree", 0, lambda k: mesh.simplex_rule(1, k)),
    ("degree", 0, lambda k: mesh.simplex_rule(2, k)),
    ("degree", 0, lambda k: sindy.monomials(1, k)),
    ("iterations", 0, lambda k: iteration.gradient_descent(lambda x: x, ones(2), ones(2), 0.5, k)),
    ("iterations", 0, lambda k: iteration.conjugate_gradients(lambda x: x, ones(2), ones(2), k)),
    ("iterations", 0, lambda k: evolution.Darcy(ones(1, 2, 2)).solve(0 * ones(2, 2), iterations=k)),
    ("modes", 0, lambda k: spectral.Fourier(k)),
    ("modes", 0, lambda k: spectral.Cosine(k)),
    ("iterations", 1, lambda k: baselines.adam(Point(ones(2)), QUADRATIC, k)),
    ("iterations", 1, lambda k: baselines.lbfgs(Point(ones(2)), QUADRATIC, k)),
    ("order", 1, lambda k: bases.Tensor("cosine", UNIT, torch.tensor([[1]]), k)),
    ("order", 1, lambda k: bases.RandomFeatures(ones(1, 1), ones(1), UNIT, order=k)),
    ("N", 1, lambda k: bases.RandomFeatures.sample(UNIT, k, 1.0, gen())),
    ("n", 1, lambda k: bases.full(k, 2)),
    ("d", 1, lambda k: bases.full(2, k)),
    ("cutoff", 1, lambda k: certificates.deflated_residual_bound(plane(0, 0), lambda x: torch.cos(PI * x[:, 0]), *UNIT.quadrature(9), cutoff=k)),
    ("m", 1, lambda k: certified.ridge_sum(k, 2, gen())),
    ("d", 1, lambda k: certified.ridge_sum(2, k, gen())),
    ("n", 2, lambda k: certified.spread_points(k, 2, gen())),
    ("d", 1, lambda k: certified.spread_points(2, k, gen())),
    ("d", 1, lambda k: curse.nodes(1.0, 0.5, k)),
    ("n", 1, lambda k: curse.q1_error(k, 2)),
    ("d", 1, lambda k: curse.q1_error(2, k)),
    ("n", 1, lambda k: discretize.centers(k)),
    ("d", 1, lambda k: discretize.centers(2, k)),
    ("n", 2, lambda k: discretize.matrix(k)),
    ("d", 1, lambda k: discretize.matrix(2, k)),
    ("n", 2, lambda k: discretize.modes(k, "dirichlet")),
    ("n", 2, lambda k: discretize.eigenvalues(k)),
    ("d", 1, lambda k: discretize.eigenvalues(2, k)),
    ("d", 1, lambda k: discretize.neumann_laplacian(ones(2, 2), k)),
    ("of at least 2", 2, lambda k: discretize.neumann_laplacian(ones(k, k), 2)),
    ("of at least 2", 2, lambda k: discretize.difference_norm(ones(k, k), 2)),
    ("of at least 1", 1, lambda k: discretize.dirichlet_laplacian(ones(k, k), 2)),
    ("order", 1, lambda k: domains.gauss_legendre(k)),
    ("order", 1, lambda k: PLATE.quadrature(k)),
    ("d", 1, Box.unit),
    ("n", 1, lambda k: energies.interior_sample(PLATE, k, gen())),
    ("n", 1, lambda k: energies.boundary_sample(PLATE, k, gen())),
    ("count", 1, lambda k: equation_error.modes(k)),
    ("d", 1, lambda k: equation_error.modes(2, k)),
    ("n", 4, lambda k: equation_error.strong(lambda x: PI**2 * torch.cos(PI * x[:, 0]), torch.cos(PI * torch.arange(k + 1.0, dtype=F64) / k), k, torch.tensor([[0]]))),
    ("degree", 3, lambda k: equilibrium.derivative_svd(k, 1.0, False)),
    ("degree", 3, lambda k: equilibrium.Equilibrium(lambda x: x[:, 0] - 0.5, UNIT, k)),
    ("count", 1, lambda k: evolution.gaussian_field(spectral.Fourier(1), k, 1.0, 1.0, gen())),
    ("steps", 1, lambda k: evolution.burgers_stepping(0 * ones(8), 0.1, 0.1, k)),
    ("n", 2, implicit.Pattern.tridiagonal),
    ("n", 1, implicit.Pattern.dense),
    ("steps", 1, lambda k: implicit.root(LINEAR, ones(1), ones(1), steps=k)),
    ("n", 2, lambda k: inverse.Elliptic(k, one, boundary="dirichlet")),
    ("d", 1, lambda k: inverse.Elliptic(2, one, k, boundary="dirichlet")),
    ("m", 1, lambda k: inverse_pinn.Shallow.random(k, 2, 1.0, gen())),
    ("d", 1, lambda k: inverse_pinn.Shallow.random(2, k, 1.0, gen())),
    ("n", 1, mesh.square),
    ("m", 1, lambda k: networks.Shallow.random(k, PLATE, gen())),
    ("m", 1, lambda k: networks.Shallow.band(k, PLATE, 1.0, gen())),
    ("width", 1, lambda k: operators.NeuralOperator(spectral.Fourier(1), width=k)),
    ("depth", 1, lambda k: operators.NeuralOperator(spectral.Fourier(1), depth=k)),
    ("inputs", 1, lambda k: operators.NeuralOperator(spectral.Fourier(1), inputs=k)),
    ("hidden", 1, lambda k: operators.NeuralOperator(spectral.Fourier(1), hidden=k)),
    ("rank", 1, lambda k: operators.DeepONet(spectral.Fourier(1), rank=k)),
    ("width", 1, lambda k: operators.DeepONet(spectral.Fourier(1), 1, width=k)),
    ("depth", 1, lambda k: operators.DeepONet(spectral.Fourier(1), 1, depth=k)),
    ("steps", 1, lambda k: fit(steps=k)),
    ("batch", 1, lambda k: fit(batch=k)),
    ("every", 1, lambda k: fit(every=k)),
    ("degree", 3, lambda k: poincare.box_eigenvalue([1.0], k)),
    ("number of samples", 2, lambda k: regression.PCA.fit(torch.eye(3, dtype=F64)[:k])),
    ("at least 2", 2, lambda k: regression.LinearMap.fit(torch.eye(3, dtype=F64)[:k], torch.eye(3, dtype=F64)[:k])),
    ("at least 2", 2, lambda k: regression.Kernel.fit(torch.eye(3, dtype=F64)[:k], torch.eye(3, dtype=F64)[:k])),
    ("points", 1, lambda k: sample_space.train(net(), lambda n: soft(), 1.0, 0, (k, 1))),
    ("points", 1, lambda k: sample_space.train(net(), lambda n: soft(), 1.0, 0, (1, k))),
    ("d", 1, lambda k: sindy.monomials(k, 1)),
    ("at least 3 samples", 3, lambda k: sindy.strong_system(ones(k, 1), 0.1, sindy.monomials(1, 1))),
    ("radius", 2, lambda k: sindy.bump(k, 2, 0.1)),
    ("p", 2, lambda k: sindy.bump(2, k, 0.1)),
    ("stride", 1, lambda k: sindy.weak_system(ones(5, 1), 0.1, sindy.monomials(1, 1), 2, 2, k)),
    ("at least 7 samples", 7, lambda k: sindy.weak_system(ones(k, 1), 0.1, sindy.monomials(1, 1), 3, 2, 1)),
    ("d", 1, lambda k: spectral.Cosine(1, k)),
    ("n", 1, lambda k: spectral.Fourier(1).points(k)),
    ("n", 1, lambda k: spectral.Cosine(1, 2).points(k)),
    ("samples on a uniform grid", 1, lambda k: spectral.coefficients(spectral.Cosine(1), ones(2, k))),
    ("without weights", 4, lambda k: boundary.soft_dirichlet_bound(plane(0, 0), zero, zero, UNIT, ones(k, 1), UNIT.boundary(1))),
    ("without weights", 4, lambda k: certificates.residual_bound(plane(0, 0), zero, ones(k, 1), constant=1.0)),
    ("at least 2 points", 2, lambda k: galerkin.least_squares(LINES, one, zero, (ones(k, 1) / 3, ones(k)), (ones(0, 1), ones(0)))),
    ("at least 2 tests", 2, lambda k: equation_error.weak(lambda x: PI**2 * torch.cos(PI * x[:, 0]), torch.cos(PI * torch.arange(9, dtype=F64) / 8), 8,
                                                          equation_error.modes(2, 1), equation_error.modes(k + 1, 1)[1:])),
    ("as many rows as columns", 2, lambda k: linear.solve_strong(torch.eye(2, dtype=F64)[:k], ones(k))),
    ("at least one", 1, lambda k: iteration.optimal_step(ones(k))),
    ("at least one", 1, lambda k: inverse_pinn.InversePinn(one, ones(2, 1), ones(2), 1.0, 2).train(*KINKS, weights=(1.0,) * k, steps=1)),
    ("at least one boundary weight", 1, lambda k: natural_gradient.gauss_newton(net(), soft(), betas=(1.0,) * k, iterations=1)),
    ("one positive weight per point", 1, lambda k: energies.StrongForm(zero, (ones(k, 1), ones(k)))),
]
LINEAR = implicit.Problem(lambda u, t: u - t, lambda u, t: 0 * u + 1, implicit.Pattern.dense(1))
LINES = bases.Tensor("legendre", UNIT, torch.tensor([[1], [2]]))
KINKS = [inverse_pinn.Shallow.random(2, 1, 1.0, gen(k)) for k in (0, 1)]


def fit(steps=1, batch=1, every=1, samples=2, rate=1e-3):
    model = operators.NeuralOperator(spectral.Fourier(1), 2, 1, hidden=2, generator=gen())
    return operators.fit(model, ones(samples, 4), ones(samples, 4), steps, batch, rate, gen(), lambda m: 0, every)


@pytest.mark.parametrize("name, least, call", LEAST, ids=[f"{i}-{name}" for i, (name, *_) in enumerate(LEAST)])
def test_the_least_integer_is_taken_and_the_one_below_refused(name, least, call):
    call(least)
    with pytest.raises(ValueError, match=name):
        call(least - 1)


# --------------------------------------------------------------------- numbers that must be positive: f(s) taken, f(0) refused
POSITIVE = [
    ("rate", 1e-3, lambda s: baselines.adam(Point(ones(2)), QUADRATIC, 1, s)),
    ("scale", 1e-3, lambda s: bases.RandomFeatures.sample(UNIT, 2, s, gen())),
    ("error", 1e-9, lambda s: boundary.SoftCertificate(1.0, 0.5, "").effectivity(s)),
    ("sigmas", 1e-9, lambda s: boundary.soft_dirichlet_bound(plane(0, 0), zero, zero, UNIT, UNIT.quadrature(2), UNIT.boundary(1), s)),
    ("weights must be positive", TINY, lambda s: boundary.soft_dirichlet_bound(plane(0, 0), zero, zero, UNIT, (ones(2, 1), numbers(1, s)), UNIT.boundary(1))),
    ("constant", 1e-9, lambda s: bounds.chain(Function(lambda x: x[:, 0] ** 2), zero, LINES, *UNIT.quadrature(3), s)),
    ("error", 1e-9, lambda s: certificates.Certificate(1.0, 0.0, 1.0, "").effectivity(s)),
    ("constant", 1e-9, lambda s: certificates.residual_bound(plane(0, 0), zero, *UNIT.quadrature(3), constant=s)),
    ("volume", 1e-9, lambda s: certificates.residual_bound(plane(0, 0), zero, ones(4, 1), constant=1.0, volume=s)),
    ("length", 0.5, lambda s: curse.nodes(s, 0.5, 1)),
    ("spacing", 0.5, lambda s: curse.nodes(1.0, s, 1)),
    ("between 0 and 1", 0.01, lambda s: curse.q1_cells(s, 1)),
    ("one positive weight", TINY, lambda s: energies.StrongForm(zero, (ones(2, 1), numbers(1, s)))),
    ("one positive weight", TINY, lambda s: energies.RitzForm(zero, (ones(2, 1), numbers(1, s)))),
    ("tau", 1e-9, lambda s: evolution.gaussian_field(spectral.Fourier(1), 1, s, 1.0, gen())),
    ("power", 1e-9, lambda s: evolution.gaussian_field(spectral.Fourier(1), 1, 1.0, s, gen())),
    ("deviation", 1e-9, lambda s: evolution.gaussian_field(spectral.Fourier(1), 1, 1.0, 1.0, gen(), s)),
    ("viscosity", 1e-9, lambda s: evolution.burgers(ones(8), s, 1.0)),
    ("time", 1e-9, lambda s: evolution.burgers(ones(8), 0.1, s)),
    ("viscosity", 1e-9, lambda s: evolution.burgers_stepping(ones(8), s, 1.0, 1)),
    ("time", 1e-9, lambda s: evolution.burgers_stepping(ones(8), 0.1, s, 1)),
    ("a must be positive", TINY, lambda s: evolution.Darcy(numbers(1, 1, 1, s).reshape(1, 2, 2))),
    ("tolerance", 1e-9, lambda s: evolution.Darcy(ones(1, 2, 2)).solve(0 * ones(2, 2), s)),
    ("cutoff", 1e-9, lambda s: galerkin.solve(torch.eye(2), torch.ones(2), s)),
    ("no constants", TINY, lambda s: galerkin.spectrum(torch.diag(numbers(1, s)))),
    ("weight", 1e-9, lambda s: galerkin.least_squares(LINES, one, zero, UNIT.quadrature(3), UNIT.boundary(1)[:2], s)),
    ("h", 1e-3, lambda s: implicit.central_difference(lambda x: x.sum(), ones(1), ones(1), s)),
    ("noise", 1e-9, lambda s: implicit.optimal_step(1.0, s)),
    ("third", 1e-9, lambda s: implicit.optimal_step(max(s, 0.0), 1.0)),
    ("sigma", 1e-3, lambda s: inverse.fit(lambda m: (m, torch.eye(1, dtype=F64)), ones(1), s, ones(1), ones(0, 1))),
    ("sigma", 1e-9, lambda s: inverse.risk(torch.eye(1, dtype=F64), ones(1), s, ones(1))),
    ("positive values", TINY, lambda s: inverse.Elliptic(2, one, boundary="dirichlet").solve(numbers(1, s))),
    ("tolerance", 1e-3, lambda s: inverse.discrepancy(lambda g: g, 2.0, tolerance=s)),
    ("scale", 1e-9, lambda s: inverse_pinn.Shallow.random(1, 1, s, gen())),
    ("sigma", 1e-9, lambda s: inverse_pinn.InversePinn(one, ones(1, 1), ones(1), s, 2)),
    ("norm of f", 1e-9, lambda s: inverse_pinn.InversePinn(lambda x: max(s, 0.0) * one(x), ones(1, 1), ones(1), 1.0, 2)),
    ("weights must be positive", 1e-9, lambda s: inverse_pinn.InversePinn(one, ones(2, 1), ones(2), 1.0, 2).train(*KINKS, weights=(1.0, s), steps=1)),
    ("step", 1e-9, lambda s: iteration.gradient_descent(lambda x: x, ones(1), ones(1), s, 1)),
    ("step", 0.1, lambda s: iteration.gradient_descent_count(ones(1), ones(1), 0.5, s)),
    ("eigenvalues must be positive", 0.5, lambda s: iteration.optimal_step(numbers(1, s))),
    ("tolerance", 0.5, lambda s: iteration.gradient_descent_bound(3.0, s)),
    ("constant", 1e-9, lambda s: marini.MariniFlux(lambda x: x[:, 0] - 0.5, mesh.square(1), s)),
    ("betas", 1e-9, lambda s: natural_gradient.gauss_newton(net(), soft(), betas=(s,), iterations=1)),
    ("cutoff", 1e-9, lambda s: natural_gradient.gauss_newton(net(), soft(), cutoff=s, iterations=1)),
    ("tolerance", HUGE, lambda s: natural_gradient.gauss_newton(net(), soft(), iterations=1, tolerance=s)),
    ("scale", 1e-9, lambda s: networks.Shallow.random(1, UNIT, gen(), s)),
    ("bandwidth", 1e-9, lambda s: networks.Shallow.band(1, UNIT, s, gen())),
    ("rate", 1e-9, lambda s: fit(rate=s)),
    ("diameter", 1e-9, poincare.payne_weinberger),
    ("sides", 1e-3, lambda s: poincare.box_eigenvalue([1.0, s], 3)),
    ("length", 1e-3, lambda s: poincare.weighted_eigenvalue(one1, s, 5)),
    ("weight must be positive", 0.1, lambda s: poincare.weighted_eigenvalue(lambda x: s + 0 * x, 1.0, 3)),
    ("neck", 0.5, lambda s: poincare.dumbbell(s, 0.5, 0.5)),
    ("length", 0.5, lambda s: poincare.dumbbell(0.5, s, 0.5)),
    ("h", 0.5, lambda s: poincare.dumbbell(0.5, 0.5, s)),
    ("nugget", 1e-9, lambda s: regression.Kernel.fit(torch.eye(3, dtype=F64), ones(3, 1), nugget=s)),
    ("lengths", 1.0, lambda s: regression.Kernel.fit(torch.eye(3, dtype=F64), ones(3, 1), lengths=(s,))),
    ("beta", 1e-9, lambda s: sample_space.Tangent(net(), soft(), s)),
    ("beta", 1e-9, lambda s: sample_space.solve_outer(net(), soft(), s)),
    ("damping", 1e-9, lambda s: sample_space.train(net(), lambda n: soft(), 1.0, 0, (1, 1), s)),
    ("h", 1e-9, lambda s: sindy.strong_system(ones(3, 1), s, sindy.monomials(1, 1))),
    ("h", 1e-9, lambda s: sindy.bump(2, 2, s)),
    ("threshold", 1e-9, lambda s: sindy.threshold_least_squares(torch.eye(2), torch.ones(2, 1), s)),
]


def one1(x):
    return 1 + 0 * x


@pytest.mark.parametrize("name, value, call", POSITIVE, ids=[f"{i}-{name}" for i, (name, *_) in enumerate(POSITIVE)])
def test_small_positive_numbers_are_taken_and_zero_and_below_refused(name, value, call):
    call(value)
    for bad in (0.0, -value):
        with pytest.raises(ValueError, match=name):
            call(bad)


# ------------------------------------------------------------------------------------- zero is taken, less is not
@pytest.mark.parametrize("name, call", [
    ("weight ≥ 0", lambda s: galerkin.least_squares(LINES, one, zero, (numbers(0, 0.5, 1)[:, None], numbers(1, s, 1)), UNIT.boundary(1)[:2])),
    ("weight ≥ 0", lambda s: galerkin.least_squares(LINES, one, zero, UNIT.quadrature(3), (UNIT.boundary(1)[0], numbers(1, s)))),
    ("gamma must not be negative", lambda s: inverse.filtered(torch.eye(2, dtype=F64), ones(2), numbers(1, s))),
    ("gamma must not be negative", lambda s: inverse.risk(torch.eye(2, dtype=F64), ones(2), 1.0, numbers(1, s))),
    ("potential must be convex", lambda s: energies.RitzForm(zero, UNIT.quadrature(2), (lambda v: v, lambda v: v, lambda v: 0 * v + s)).tangent(net())),
    ("unit cube", lambda s: certificates.deflated_residual_bound(plane(0, 0), zero, numbers(s, 1)[:, None], ones(2))),
    ("unit cube", lambda s: certificates.deflated_residual_bound(plane(0, 0), zero, numbers(0, 1 - s)[:, None], ones(2))),
    ("vertex numbers", lambda s: mesh.Mesh(numbers(0, 1)[:, None], torch.tensor([[int(s), 1]]))),
    ("vertex numbers", lambda s: mesh.Mesh(numbers(0, 1)[:, None], torch.tensor([[0, 1 - int(s)]]))),
    ("at least 0 for 'cosine'", lambda s: bases.Tensor("cosine", UNIT, torch.tensor([[int(s)]]))),
    ("at least 1 for 'sine'", lambda s: bases.Tensor("sine", UNIT, torch.tensor([[1 + int(s)]]))),
    ("at least 1 for 'bubble'", lambda s: bases.Tensor("bubble", UNIT, torch.tensor([[1 + int(s)]]))),
])
def test_zero_is_taken_and_less_refused(name, call):
    call(0.0)
    with pytest.raises(ValueError, match=name):
        call(-1.0)


# ------------------------------------------------------------------------------ one of several: every neighbor is refused
@pytest.mark.parametrize("name, good, bad, call", [
    ("columns", (1, 3), (0, 4), lambda k: bounds.galerkin_factor(torch.eye(4, dtype=F64), torch.eye(4, dtype=F64)[:, :k])),
    ("degree must be 1 or 2", (1, 2), (0, 3), lambda k: fem.Space(mesh.square(1), k)),
    ("d must", (1, 2), (0, 3), lambda k: inverse.Elliptic(2, one, k, "dirichlet")),
    ("1 or 2 columns", (1, 2), (0, 3), lambda k: mesh.Mesh(torch.eye(k + 1, k, dtype=F64), torch.arange(k + 1)[None])),
    ("cells must have shape", (3,), (2, 4), lambda k: mesh.Mesh(numbers(0, 0, 1, 0, 0, 1, 1, 1).reshape(4, 2)[:max(k, 3)], torch.arange(k)[None])),
    ("batch", (1, 5), (0, 6), lambda k: fit(batch=k, samples=5)),
    ("one output", (2, 3), (0, 1), lambda k: networks.Deep(ones(2 * max(k - 1, 0)), [1] * k)),
    ("one output", (1,), (0, 2), lambda k: networks.Deep(ones(k * 3), [2, k])),
    ("samples on a uniform grid", (4, 9), (3, 5, 8, 10), lambda k: spectral.coefficients(spectral.Cosine(1, 2), ones(k))),
    ("samples on a uniform grid", (8, 27), (7, 9, 26, 28), lambda k: spectral.side(spectral.Cosine(1, 3), ones(k))),
    ("must hold 3 values|3 positive values", (3,), (2, 4), lambda k: inverse.Elliptic(3, one, boundary="dirichlet").solve(ones(k))),
    ("9 positive values", (9,), (8, 10), lambda k: inverse.Elliptic(3, one, 2, "dirichlet").solve(ones(k))),
    ("nodal values", (25,), (24, 26), lambda k: equation_error._grid(ones(k), 4, 2)),
    ("one weight per point", (4,), (3, 5), lambda k: forms.energy(zero, zero, ones(4, 1), ones(k))),
    ("one entry per point", (4,), (3, 5), lambda k: approximation.errors(plane(1, 2), plane(1, 1), ones(4, 1), ones(k))),
    ("one entry per point", (4,), (3, 5), lambda k: certificates.residual_bound(plane(0, 0), zero, ones(4, 1), ones(k), constant=1.0)),
    ("one positive weight per point", (4,), (3, 5), lambda k: energies.StrongForm(zero, (ones(4, 1), ones(k)))),
    ("one per point", (4,), (3, 5), lambda k: boundary.soft_dirichlet_bound(plane(0, 0), zero, zero, UNIT, (ones(4, 1), ones(k)), UNIT.boundary(1))),
    ("one weight ≥ 0 for each", (4,), (3, 5), lambda k: galerkin.least_squares(LINES, one, zero, (ones(4, 1), ones(k)), UNIT.boundary(1)[:2])),
    ("one value per point", (4,), (3, 5), lambda k: inverse_pinn.InversePinn(one, ones(4, 1), ones(k), 1.0)),
    ("same number of samples", (4,), (3, 5), lambda k: regression.LinearMap.fit(torch.eye(4, dtype=F64), ones(k, 1))),
    ("entries", (4,), (3, 5), lambda k: implicit.solve(ones(k), implicit.Pattern(4, torch.arange(4), torch.arange(4)), ones(4))),
    ("b must have 4 rows", (4,), (3, 5), lambda k: implicit.solve(ones(4), implicit.Pattern(4, torch.arange(4), torch.arange(4)), ones(k))),
    ("at most two axes", (1, 2), (0, 3), lambda k: implicit.solve(ones(1), implicit.Pattern.dense(1), ones(1).reshape([1] * k))),
    ("B must have 4 rows", (4,), (3, 5), lambda k: sindy.threshold_least_squares(torch.eye(4, dtype=F64), ones(k, 1), 0.1)),
    ("c must have 2 entries", (2,), (1, 3), lambda k: LINES.function(ones(k))),
    ("c must have 4 entries", (4,), (3, 5), lambda k: fem.Space(mesh.square(1)).function(ones(k))),
    ("c must end in 4", (4,), (3, 5), lambda k: spectral.values(spectral.Fourier(1), ones(k), 4)),
    ("multiplier", (4,), (3, 5), lambda k: spectral.multiply(spectral.Fourier(1), ones(k), ones(4))),
    ("root must have 2 columns", (2,), (1, 3), lambda k: inverse.laplace(torch.eye(2, dtype=F64), ones(1, k))),
    ("data must have 3", (3,), (2, 4), lambda k: inverse.filtered(ones(3, 2), ones(k), ones(1))),
    ("x must have 2", (2,), (1, 3), lambda k: inverse.risk(ones(3, 2), ones(k), 1.0, ones(1))),
    ("load must have 3", (3,), (2, 4), lambda k: inverse.Elliptic(2, one, boundary="dirichlet").solve(ones(2), ones(k))),
    ("f must end in", (3,), (2, 4), lambda k: evolution.Darcy(ones(1, 3, 3)).solve(0 * ones(k, k))),
    ("standard deviations", (1,), (0, 2), lambda k: sindy.reweight(torch.arange(9.0, dtype=F64)[:, None], 0.1, sindy.monomials(1, 1), ones(2, 1), ones(k), 2, 2, 2)),
    ("error must have one coefficient", (3,), (2, 4), lambda k: iteration.gradient_descent_count(numbers(1, 2, 3), ones(k), 0.1)),
    ("shape of b", (3,), (2, 4), lambda k: iteration.gradient_descent(lambda x: x, ones(3), ones(k), 0.1, 1)),
    ("theta must have shape", (13,), (12, 14), lambda k: net(3, PLATE).at(ones(k))),
    ("theta must have shape", (13,), (12, 14), lambda k: networks.Deep(ones(k), [2, 3, 1])),
    ("W, b, a, c must have shapes", (3,), (2, 4), lambda k: networks.Shallow(ones(3, 2), ones(3), ones(k), ones(1))),
    ("W, b, a, c must have shapes", (1,), (0, 2), lambda k: networks.Shallow(ones(3, 2), ones(3), ones(3), ones(k))),
    ("one row per unit", (3,), (2, 4), lambda k: certified.RidgeSum(ones(3, 2), ones(k), ones(3))),
    ("one row per unit", (3,), (2, 4), lambda k: certified.RidgeSum(ones(3, 2), ones(3), ones(k))),
    ("weight must have shape", (2,), (1, 3), lambda k: bases.RandomFeatures(ones(3, k), ones(3), PLATE)),
    ("index must be an integer tensor", (2,), (1, 3), lambda k: bases.Tensor("cosine", PLATE, torch.ones(1, k, dtype=torch.long))),
    ("x must have shape", (2,), (1, 3), lambda k: spectral.Cosine(1, 2).evaluate(ones(3, k))),
    ("columns", (2,), (1, 3), lambda k: mesh.square(1).locate(ones(1, k))),
    ("columns", (2,), (1, 3), lambda k: sindy.library(ones(1, k), sindy.monomials(2, 1))),
    ("columns", (2,), (1, 3), lambda k: equation_error.cosines(ones(1, k), torch.ones(1, 2))),
    ("columns", (2,), (1, 3), lambda k: regression.Kernel.fit(torch.eye(2, dtype=F64), ones(2, 1))(ones(1, k))),
    ("a must have shape", (2,), (1, 3), lambda k: operators.NeuralOperator(spectral.Fourier(1), 2, 1, inputs=2)(ones(1, 4, k))),
    ("K must have shape", (3,), (2, 4), lambda k: galerkin.solve(torch.eye(3, dtype=F64), ones(k))),
    ("A and M must have shape", (3,), (2, 4), lambda k: curse.tensor_solve(torch.eye(3), torch.eye(3), torch.ones(3, k))),
    ("A and M must have shape", (3,), (2, 4), lambda k: curse.tensor_solve(torch.eye(3), torch.eye(k), torch.ones(3, 3))),
    ("must be square", (3,), (2, 4), lambda k: linear.variational(ones(3, k), ones(3), ones(k))),
    ("b must have 3", (3,), (2, 4), lambda k: linear.strong(ones(3, 2), ones(k), ones(2))),
    ("x must have 2", (2,), (1, 3), lambda k: linear.strong(ones(3, 2), ones(3), ones(k))),
    ("Y must have 3 rows", (3,), (2, 4), lambda k: linear.weak(ones(3, 2), ones(3), ones(2), ones(k, 1))),
    ("W must have as many columns", (2,), (1, 3), lambda k: linear.solve_weak(torch.eye(3, dtype=F64), ones(3), torch.eye(3, dtype=F64)[:, :k], torch.eye(3, dtype=F64)[:, :2])),
])
def test_the_sizes_that_fit_are_taken_and_their_neighbors_refused(name, good, bad, call):
    takes(call, good, bad, name)


# ------------------------------------------------------------------------------------------ real bounds at both sides
def near(*values):
    """One point per value on a line, with weights 1."""
    return numbers(*values)[:, None], ones(len(values))


def halves(x, left, right):
    return left + (right - left) * (x[:, 0] >= 0.5).to(x)


def listed(*values):
    """The callable that returns these values, whatever the points."""
    return lambda x: numbers(*values)


def scattered(*numbers_):
    """A diagonal matrix with one pattern entry for each diagonal entry."""
    i = torch.arange(len(numbers_))
    return implicit.solve(numbers(*numbers_), implicit.Pattern(len(numbers_), i, i), ones(len(numbers_)))


def burgers_range(e, nu=0.1):
    """Cole-Hopf's φ of a = A sin 2πx has exponent range A/(2πν): here e times the largest that is allowed."""
    amplitude = 2 * PI * nu * -math.log(EPS) * e
    return evolution.burgers(amplitude * torch.sin(2 * PI * torch.arange(64, dtype=F64) / 64), nu, 0.1)


def constant_plus_cosine(mean):
    """A residual with mean square 1 and the given mean."""
    return certificates.residual_bound(plane(0, 0), lambda x: mean + math.sqrt(2 - 2 * mean**2) * torch.cos(PI * x[:, 0]), *UNIT.quadrature(20), constant=1.0)


def sampled(mean, n=1000):
    """n residuals ±1 plus a mean, given in standard errors."""
    sign = torch.cat([ones(n // 2), -ones(n // 2)])
    return certificates.residual_bound(plane(0, 0), lambda x: sign + mean * float(sign.std()) / math.sqrt(n), torch.rand(n, 1, generator=gen(), dtype=F64), constant=1.0)


def on_the_boundary(trace):
    """u = x(1 − x)/2 + trace·bound for f = 1, with the bound that the boundary value is measured against."""
    pair = equilibrium.Equilibrium(one, UNIT, 4, "dirichlet")
    rule, bubble = UNIT.quadrature(6), lambda x: 2 * x[:, 0] * (1 - x[:, 0])
    size = certificates._distance(Function(bubble), pair, *rule)
    return certificates.certify(Function(lambda x: bubble(x) + trace * size, lambda x: 2 - 4 * x), pair, *rule)


def changing(share):
    """A distance that grows from 1 − share to 1 as the order of the rule is doubled."""
    pair = SimpleNamespace(domain=UNIT, order=2, dtype=F64, device=None, bc="neumann", width=0.0, oscillation=0.0, constant=1.0, flux=lambda x: 0 * x)
    return certificates.certify(Function(zero, lambda x: 0 * x + (1 - share if len(x) == 2 else 1)), pair)


def carried_by_one(share, n=1001):
    """n residuals of one size, and one that carries the given share of their squares; mean zero is not needed for u = 0 on the boundary."""
    r = ones(n)
    r[0] = math.sqrt(share / (1 - share) * (n - 1))
    return certificates.residual_bound(plane(0, 0), lambda x: r, torch.rand(n, 1, generator=gen(), dtype=F64), constant=1.0, bc="dirichlet")


def coarse_rule(t):
    """f with ∫f = 0 whose mean by a rule that is too coarse is t·10⁻⁵."""
    grid, q = mesh.square(2), lambda x: x[:, 0] ** 6 - 1 / 7
    x, w = grid.quadrature(0)
    return marini.MariniFlux(lambda y: halves(y, 1.0, -1.0) + 1e-5 * t * q(y) / float(w @ q(x)), grid, 1.0, 0)


def two_triangles(coupling):
    """A mass and a stiffness matrix whose second eigenvalue is `coupling` times the ratio of their largest diagonal entries."""
    from scipy.sparse import csc_array
    return poincare._first(csc_array(torch.tensor([[1.0, -1, 0, 0], [-1, 1 + coupling, -coupling, 0], [0, -coupling, 1 + coupling, -1], [0, 0, -1, 1]], dtype=F64).numpy()),
                           csc_array(torch.eye(4, dtype=F64).numpy()))


def flat(height):
    """A triangle of base 1 and the given height in units of its least height, 16 ε."""
    return mesh.Mesh(numbers(0, 0, 1, 0, 0, 16 * EPS * height).reshape(3, 2), torch.tensor([[0, 1, 2]]))


@pytest.mark.parametrize("name, good, bad, call", [
    ("kappa", (1.0, HUGE), (BELOW, 0.0, INF, NAN), bounds.symmetric_factor),
    ("kappa", (ABOVE, HUGE), (1.0, 0.5, INF, NAN), lambda k: iteration.gradient_descent_bound(k, 0.5)),
    ("kappa", (1 + 1e-15, HUGE), (1.0, 0.5, INF, NAN), lambda k: iteration.conjugate_gradients_bound(k, 0.5)),
    ("tolerance", (TINY, BELOW), (0.0, 1.0, NAN), lambda t: iteration.gradient_descent_bound(3.0, t)),
    ("tolerance", (TINY, BELOW), (0.0, 1.0, NAN), lambda t: iteration.conjugate_gradients_bound(3.0, t)),
    ("tolerance", (1e-9, BELOW), (0.0, 1.0), lambda t: iteration.gradient_descent_count(numbers(1, 3), ones(2), t)),
    ("some mode does not decay", (0.66,), (2 / 3, 0.67), lambda s: iteration.gradient_descent_count(numbers(1, 3), ones(2), 0.5, s)),
    ("error must lie between", (0.01, BELOW), (0.0, 1.0, NAN), lambda e: curse.q1_cells(e, 3)),
    ("spacing must divide", (1 + 0.9e-9, 1 - 0.9e-9), (1 + 1.1e-9, 1 - 1.1e-9), lambda s: curse.nodes(2.0, 0.5 * s, 1)),
    ("neck", (1.0, 0.2), (ABOVE, 2.0, NAN), lambda s: poincare.dumbbell(s, 0.5, 0.5)),
    ("lower", (ABOVE,), (1.0, 0.5, INF, NAN), lambda b: domains.gauss_legendre(2, 1.0, b)),
    ("lower", (BELOW,), (1.0, -INF), lambda a: domains.gauss_legendre(2, a, 1.0)),
    ("lower", (ABOVE,), (1.0, 0.5, INF, NAN), lambda b: Box([0.0, 1.0], [1.0, b])),
    ("sorted", (1e-9, 0.4), (-0.1, 1.1), lambda t: mesh.interval([0.0, t, 1.0])),
    ("degenerate", (1.01, 5.0), (0.0, 0.99, 1.0), flat),
    ("degenerate", (1e-300,), (0.0,), lambda t: mesh.interval([0.0, t, 1.0])),
    ("lie in the mesh", (0.0, -0.9e-8), (-1.1e-8, -1.0), lambda t: mesh.square(1).locate(numbers(0.5, t)[None])),
    ("lie in the mesh", (1.0, 1 + 0.9e-8), (1 + 1.1e-8, 2.0), lambda t: mesh.interval([0, 0.5, 1]).locate(numbers(1 + (t - 1) / 2)[None])),
    ("mean", (0.0099, -0.0099), (0.0101, -0.0101), constant_plus_cosine),
    ("mean", (0.0, 4.9, -4.9), (5.1, -5.1), sampled),
    ("mean", (0.99e-9, -0.99e-9), (1.1e-9, -1.1e-9), lambda m: certificates.residual_bound(plane(0, 0), lambda x: m * one(x), *UNIT.quadrature(3), constant=1.0)),
    ("carries", (0.0499,), (0.0501, 0.9), carried_by_one),
    ("carries", (20,), (19,), lambda n: certificates.residual_bound(plane(0, 0), one, ones(n, 1), constant=1.0, bc="dirichlet")),
    ("changes by", (0.0, 0.0099), (0.0101, 0.5), changing),
    ("vanish on the boundary", (0.0, 0.99e-6, -0.99e-6), (1.01e-6, -1.01e-6), on_the_boundary),
    ("unit cube", (1.0, BELOW), (ABOVE,), lambda t: certificates.deflated_residual_bound(plane(0, 0), zero, *near(0.0, t))),
    ("not be constant", (1.0, 1e-9), (0.0,), lambda s: approximation.errors(plane(1, 1), plane(s, 2), *near(0.5))),
    ("not be constant", (1.0, 1e-9), (0.0,), lambda s: approximation.errors(plane(1, 1), plane(2, s), *near(0.5))),
    ("must integrate to zero", (0.9, -0.9), (1.1, -1.1), lambda t: inverse.Elliptic(2, lambda x: halves(x, 1 + 1e-6 * t, -1.0))),
    ("mean zero", (0.9, -0.9), (1.1, -1.1), lambda t: energies.RitzForm(listed(1 + 2e-6 * t, -1), near(0, 1))),
    ("mean zero", (0.9, -0.9), (1.1, -1.1), lambda t: galerkin.compatible(listed(1 + 2e-6 * t, -1), *near(0, 1))),
    ("mean zero", (0.9, -0.9), (1.1, -1.1), lambda t: galerkin.compatible(listed(1 + 0.2 * t, -1 + 0.02 * t), *near(0, 1), 0.11)),
    ("mean zero", (0.9, -0.9), (1.1, -1.1), lambda t: fem.poisson(fem.Space(mesh.interval([0, 0.5, 1])), lambda x: halves(x, 1 + 2e-6 * t, -1.0))),
    ("∫f = 0", (0.9, -0.9), (1.1, -1.1), coarse_rule),
    ("∫f = 0", (0.9, -0.9), (1.1, -1.1), lambda t: equilibrium.Equilibrium(lambda x: math.sqrt(2) * torch.cos(PI * x[:, 0]) + 1e-9 * t, UNIT, 3)),
    ("∫f = 0", (0.9, -0.9), (1.1, -1.1), lambda t: equilibrium.Equilibrium(lambda x: math.sqrt(2) * torch.cos(PI * x[:, 0]) + 100 * 2.0**-23 * t, UNIT, 3, dtype=torch.float32)),
    ("mean zero", (0.9, -0.9), (1.1, -1.1), lambda t: evolution.Darcy(ones(1, 2, 2)).solve(numbers(1, -1, 1, -1).reshape(2, 2) + 1e-8 * t, 1.0)),
    ("too small", (0.99,), (1.01,), burgers_range),
    ("invertible", (1.01 * EPS, 2 * EPS), (EPS, 0.5 * EPS), lambda s: scattered(1.0, s)),
    ("full column rank", (2.01 * EPS,), (2 * EPS, EPS), lambda s: linear.solve_strong(torch.diag(numbers(1, s)), ones(2))),
    ("together they have rank", (2.01 * EPS,), (1.99 * EPS,), lambda s: inverse.laplace(torch.diag(numbers(1, s)), ones(0, 2))),
    ("rank 1 of 2", (1.5, 2.0), (0.5, 0.0), lambda t: galerkin.solve(numbers(1, 1 - 4 * EPS * t, 1 - 4 * EPS * t, 1).reshape(2, 2), ones(2))),
    ("target must lie between", (1.01, 1.99), (1.0, 2.0, 0.5, 3.0), lambda t: inverse.discrepancy(lambda g: g, t, 1.0, 2.0)),
    ("curvature|semidefinite", (1e-300, 1.0), (0.0, -1.0), lambda s: iteration.conjugate_gradients(lambda x: s * x, ones(1), 0 * ones(1), 1)),
    ("threshold", (0.5, 1.0), (ABOVE, 2.0), lambda t: sindy.threshold_least_squares(torch.eye(2, dtype=F64), ones(2, 1), t)),
    ("did not converge: loss", (0.25, 1.0), (0.2499, 0.1), lambda t: natural_gradient._converged(natural_gradient.Run(None, [1.0, 0.25]), "run", t)),
    ("connected", (1e-9,), (1e-13,), two_triangles),
])
def test_real_bounds_hold_from_both_sides(name, good, bad, call):
    takes(call, good, bad, name)


@pytest.mark.parametrize("columns, rows", [(3, 5), (4, 5)])
def test_the_rank_of_sparse_regression_is_counted_at_rounding(columns, rows):
    """Two unit columns at angle t have singular values √(1 ± cos t) ≈ √2, t/√2: independent if t > 2·rows·ε."""
    def at(t):
        A = torch.zeros(rows, 2, dtype=F64)
        A[0], A[1, 1] = 1.0, t
        return sindy.threshold_least_squares(A, A.sum(1, keepdim=True), 1e-9)
    at(2.2 * rows * EPS)
    with pytest.raises(ValueError, match="rank 1 of 2"):
        at(1.8 * rows * EPS)
