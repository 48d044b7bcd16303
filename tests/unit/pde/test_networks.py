"""Networks, their derivatives and tangents, boundary conditions, losses: two routes for everything."""
import math

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lecturelib.pde import approximation, boundary, energies, forms, networks
from lecturelib.pde.domains import Box

F64 = torch.float64
PI = math.pi


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def zero(x):
    return torch.zeros_like(x[:, 0])


def every_network(d, seed=0):
    box = Box([0.5] * d, [1.5 + i for i in range(d)])
    lift = approximation.Function(lambda x: x[:, 0].square())
    shallow = networks.Shallow.random(6, box, generator(seed), 1.3)
    return {"tanh": shallow, "sine": networks.Shallow.random(5, box, generator(seed), 2.0, "sin"),
            "band": networks.Shallow.band(5, box, 3.0, generator(seed)),
            "subsets": networks.Shallow.random(6, box, generator(seed), 1.0, subsets=True),
            "deep": networks.Deep.random([d, 5, 4, 1], generator(seed)),
            "hard": boundary.Constrained(shallow, boundary.bubble(box), lift),
            "hard deep": boundary.Constrained(networks.Deep.random([d, 4, 1], generator(seed)), boundary.bubble(box))}


def points(d, n=7, seed=3):
    return 0.6 + torch.rand(n, d, generator=generator(seed), dtype=F64)


KINDS = list(every_network(1))


# ------------------------------------------------------------------------------------ derivatives
@pytest.mark.parametrize("d", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_agree_with_automatic_differentiation(kind, d):
    u, x = every_network(d)[kind], points(d)
    assert torch.allclose(u.gradient(x), forms.gradient(u.value, x), rtol=1e-11, atol=1e-11)
    assert torch.allclose(u.laplacian(x), forms.laplacian(u.value, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_tangents_are_the_derivatives_in_the_parameters(kind, d):
    u, x = every_network(d)[kind], points(d)
    for name in ("value", "gradient", "laplacian"):
        tangent = getattr(u, "tangent_" + name)(x)
        route = torch.func.jacrev(lambda t: getattr(u.at(t), name)(x))(u.theta)
        assert torch.allclose(tangent, route, rtol=1e-10, atol=1e-10), name


def test_a_deep_network_with_one_hidden_layer_is_the_shallow_one():
    u = networks.Shallow.random(4, Box.unit(3), generator())
    v = networks.Deep(torch.cat([u.W.ravel(), u.b, u.a, u.c]), [3, 4, 1])
    x = points(3)
    for name in ("value", "gradient", "laplacian"):
        assert torch.allclose(getattr(u, name)(x), getattr(v, name)(x))


def test_forward_laplacian_agrees_with_sympy():
    u, x = networks.Deep.random([2, 3, 2, 1], generator(1), scale=2.0), points(2)
    variables = sympy.symbols("x y")
    h = sympy.Matrix(variables)
    for k, (W, b) in enumerate(u.layers()):
        h = sympy.Matrix(W.tolist()) * h + sympy.Matrix(b.tolist())
        h = h.applyfunc(sympy.tanh) if k < 2 else h
    exact = sympy.lambdify(variables, sum(sympy.diff(h[0], v, 2) for v in variables))
    assert torch.allclose(u.laplacian(x), torch.tensor([exact(*p) for p in x.tolist()], dtype=F64), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(d=st.integers(1, 6), m=st.integers(1, 30), seed=st.integers(0, 1000))
def test_every_ridge_passes_through_the_box(d, m, seed):
    box = Box([-1.0] * d, [2.0] * d)
    u = networks.Shallow.random(m, box, generator(seed), 0.7, subsets=bool(seed % 2))
    reach = 1.5 * u.W.abs().sum(1)                       # |w·(x − center)| on the box
    assert bool(((u.b + 0.5 * u.W.sum(1)).abs() <= reach + 1e-12).all())
    assert u.theta.shape == (m * (d + 2) + 1,)


def test_subsets_have_every_size():
    u = networks.Shallow.random(4000, Box.unit(4), generator(), subsets=True)
    share = torch.bincount((u.W != 0).sum(1), minlength=5) / 4000
    assert share[0] == 0 and bool(((share[1:] - 0.25).abs() < 0.03).all())


# ------------------------------------------------------------------------------------- boundary
@pytest.mark.parametrize("d", [1, 2, 3])
def test_hard_conditions_hold_exactly(d):
    box = Box([0.5] * d, [1.5 + i for i in range(d)])
    u = every_network(d)["hard"]
    x, _, _ = box.boundary(4)
    assert float((u.value(x) - x[:, 0].square()).abs().max()) < 1e-14
    assert float(u.tangent_value(x).abs().max()) < 1e-14


@pytest.mark.parametrize("d", [2, 3, 5, 10, 50])
def test_trace_constant_of_the_cube_is_the_formula(d):
    box = Box.unit(d)
    assert boundary.trace_constant(box)**2 == pytest.approx(2 / PI - 2 / PI**2 * (1 - 2 / d))
    assert boundary.balanced_weight(box) == pytest.approx((boundary.trace_constant(box) * d * PI**2)**2)


@settings(max_examples=25, deadline=None)
@given(d=st.integers(1, 3), seed=st.integers(0, 10**6), long=st.floats(1.0, 4.0), scale=st.floats(0.3, 5.0))
def test_the_soft_certificate_is_never_below_the_error(d, seed, long, scale):
    box = Box([0.0] * d, [1.0] * (d - 1) + [long])
    target, guess = (networks.Shallow.random(5, box, generator(seed + k), scale) for k in (0, 1))
    c = boundary.soft_dirichlet_bound(guess, lambda x: -target.laplacian(x), target.value, box,
                                      box.quadrature(16), box.boundary(16))
    x, w = box.quadrature(16)
    error = float((w @ (guess.value(x) - target.value(x)).square()).sqrt())
    assert c.effectivity(error) >= 1


@settings(max_examples=20, deadline=None)
@given(d=st.integers(1, 3), seed=st.integers(0, 10**6), stretch=st.floats(1.0, 3.0))
def test_the_trace_inequality_holds_for_bubbles(d, seed, stretch):
    """‖∂ₙφ‖ ≤ C‖Δφ‖ for φ = bubble · network."""
    box = Box([0.0] * d, [stretch] + [1.0] * (d - 1))
    phi = boundary.Constrained(networks.Shallow.random(4, box, generator(seed), 2.0), boundary.bubble(box))
    (x, w), (xb, wb, normal) = box.quadrature(14), box.boundary(14)
    flux = float((wb @ (phi.gradient(xb) * normal).sum(1).square()).sqrt())
    assert flux <= boundary.trace_constant(box) * float((w @ phi.laplacian(x).square()).sqrt())


def test_monte_carlo_certificate_is_above_the_exact_one_and_near_it():
    box = Box.unit(4)
    target, guess = (networks.Shallow.random(5, box, generator(k), 1.0) for k in (0, 1))
    args = (guess, lambda x: -target.laplacian(x), target.value, box)
    exact = boundary.soft_dirichlet_bound(*args, box.quadrature(10), box.boundary(10))
    drawn = boundary.soft_dirichlet_bound(*args, energies.interior_sample(box, 20000, generator(2))[0],
                                          energies.boundary_sample(box, 20000, generator(3))[0])
    assert exact.bound < drawn.bound < 1.1 * exact.bound


# --------------------------------------------------------------------------------------- losses
def test_losses_agree_with_the_three_forms():
    box, u = Box.unit(2), networks.Shallow.random(5, Box.unit(2), generator())
    f = lambda x: torch.cos(PI * x[:, 0])                                     # mean zero
    rule, faces = box.quadrature(12), box.boundary(12)
    strong = energies.StrongForm(f, rule)
    assert float(strong.loss(u)) == pytest.approx(float(forms.strong_loss(u.value, f, *rule)) / 2)
    ritz = energies.RitzForm(f, rule)
    mean = float(rule[1] @ u.value(rule[0]))
    assert float(ritz.energy(u)) == pytest.approx(float(forms.energy(u.value, f, *rule)) + mean**2 / 2)
    soft = energies.StrongForm(f, rule, zero, faces)
    edge = float(faces[1] @ u.value(faces[0]).square())
    assert float(soft.loss(u, 3.0)) == pytest.approx(float(strong.loss(u)) + 1.5 * edge)


@pytest.mark.parametrize("kind", ["tanh", "deep", "hard"])
def test_jacobian_is_the_derivative_of_the_residual(kind):
    box = Box([0.5, 0.5], [1.5, 2.5])
    u = every_network(2)[kind]
    form = energies.StrongForm(zero, box.quadrature(3), lambda x: x[:, 0], box.boundary(2),
                               reaction=(lambda v: v**3, lambda v: 3 * v**2))
    route = torch.func.jacrev(lambda t: form.residual(u.at(t), 7.0))(u.theta)
    assert torch.allclose(form.jacobian(u, 7.0), route, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"vanishing": True}, {"potential": (
    lambda v: v**4 / 4, lambda v: v**3, lambda v: 3 * v**2)}])
def test_ritz_tangent_is_gradient_and_curvature(options):
    box = Box.unit(2)
    u = networks.Shallow.random(4, box, generator(), 2.0)
    form = energies.RitzForm(lambda x: torch.cos(PI * x[:, 0]), box.quadrature(8), **options)
    g, B = form.tangent(u)
    assert torch.allclose(g, torch.func.grad(lambda t: form.energy(u.at(t)))(u.theta), atol=1e-11)
    outer = networks.Shallow(u.W, u.b, u.a, u.c)         # E is exactly quadratic in a for Φ = 0
    rows = slice(4 * 3, 4 * 4)
    exact = torch.func.hessian(lambda a: form.energy(networks.Shallow(outer.W, outer.b, a, outer.c)))(u.a)
    assert torch.allclose((B.T @ B)[rows, rows], exact, atol=1e-10)


@pytest.mark.parametrize("d", [2, 5])
def test_monte_carlo_has_the_rate_one_half(d):
    box, f = Box.unit(d), lambda x: x.square().sum(1)
    exact, variance = d / 3, d * (1 / 5 - 1 / 9)
    for n in (50, 500):
        gen = generator(n)
        means = [float(w @ f(x)) for x, w in (energies.interior_sample(box, n, gen) for _ in range(400))]
        rms = math.sqrt(sum((m - exact)**2 for m in means) / 400)
        assert 0.85 < rms / math.sqrt(variance / n) < 1.15


def test_boundary_sample_is_uniform_on_the_faces():
    box = Box([0.0, 0.0], [1.0, 3.0])
    x, w = energies.boundary_sample(box, 40000, generator())
    assert float(w.sum()) == pytest.approx(8.0)
    on_long = (x[:, 0] == 0) | (x[:, 0] == 1)
    assert float(on_long.double().mean()) == pytest.approx(6 / 8, abs=0.01)


# -------------------------------------------------------------------------------------- refusals
def test_bad_input_is_refused_with_the_reason():
    box = Box.unit(2)
    rule = box.quadrature(4)
    with pytest.raises(ValueError, match="∫f = 1"):
        energies.RitzForm(lambda x: 1 + 0 * x[:, 0], rule)
    with pytest.raises(ValueError, match="right-hand side f must be finite; 16 of 16"):
        energies.StrongForm(lambda x: x[:, 0] * float("nan"), rule)
    with pytest.raises(ValueError, match=r"right-hand side f must return one value per point, shape \(16,\)"):
        energies.StrongForm(lambda x: x, rule)
    with pytest.raises(ValueError, match="boundary values g"):
        energies.StrongForm(zero, rule, lambda x: x, box.boundary(3))
    with pytest.raises(ValueError, match="together"):
        energies.StrongForm(zero, rule, g=zero)
    with pytest.raises(ValueError, match="one positive weight per point"):
        energies.StrongForm(zero, (rule[0], -rule[1]))
    with pytest.raises(ValueError, match="activation"):
        networks.Shallow.random(3, box, generator(), activation="relu")
    with pytest.raises(ValueError, match="m must be an integer"):
        networks.Shallow.random(0, box, generator())
    with pytest.raises(ValueError, match=r"theta must have shape \(13,\); got \(12,\)"):
        networks.Shallow.random(3, box, generator()).at(torch.zeros(12))
    with pytest.raises(ValueError, match=r"theta must have shape \(13,\)"):
        networks.Deep(torch.zeros(5), [2, 3, 1])
    with pytest.raises(ValueError, match="W, b, a, c must have shapes"):
        networks.Shallow(torch.zeros(2, 2), torch.zeros(3), torch.zeros(2), torch.zeros(1))
    net = networks.Shallow.random(3, box, generator())
    with pytest.raises(ValueError, match="activation must be one of"):
        networks.Deep(torch.zeros(13), [2, 3, 1], "relu")
    with pytest.raises(ValueError, match="one output"):
        networks.Deep(torch.zeros(17), [2, 3, 2])
    with pytest.raises(ValueError, match="one positive weight per point; got 0 for 0"):
        energies.StrongForm(zero, (rule[0][:0], rule[1][:0]))
    with pytest.raises(ValueError, match="potential must be convex"):
        energies.RitzForm(zero, rule, potential=(lambda v: -v**2, lambda v: -2 * v, lambda v: -2 + 0 * v)).tangent(net)
    with pytest.raises(ValueError, match="without weights"):
        boundary.soft_dirichlet_bound(net, zero, zero, box, rule[0][:1], box.boundary(2))
    with pytest.raises(ValueError, match="weights must be positive, one per point"):
        boundary.soft_dirichlet_bound(net, zero, zero, box, (rule[0], -rule[1]), box.boundary(2))
    with pytest.raises(ValueError, match="weights must be finite"):
        boundary.soft_dirichlet_bound(net, zero, zero, box, (rule[0], rule[1] * math.nan), box.boundary(2))
    with pytest.raises(ValueError, match="sigmas"):
        boundary.soft_dirichlet_bound(net, zero, zero, box, rule[0], rule[0], sigmas=math.nan)
    with pytest.raises(ValueError, match="g must return"):
        boundary.soft_dirichlet_bound(networks.Shallow.random(3, box, generator()), zero, lambda x: x, box, rule, box.boundary(2))
