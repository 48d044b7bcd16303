"""Spectral bases and neural operators: exactness on grids, symmetries, independence of resolution."""
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from lecturelib.pde import discretize, operators, spectral

F64 = torch.float64
BASES = [spectral.Fourier(5), spectral.Cosine(4), spectral.Cosine(3, 2)]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=gen(seed))


def random_function(basis, seed=0, count=3):
    """Coefficients of `count` random functions in the span of the basis."""
    real = basis.evaluate(basis.points(7)).abs().amax(0) > 0          # without the sine of k = 0
    return randn(count, basis.size, seed=seed) * real


# -------------------------------------------------------------------------------------- bases
@pytest.mark.parametrize("basis", BASES, ids=repr)
def test_bases_are_orthonormal_on_their_grid(basis):
    analysis, synthesis = spectral.tables(basis, 2 * basis.modes + 1)
    gram = analysis @ synthesis
    assert torch.allclose(gram, torch.diag(gram.diagonal()), atol=1e-13)
    assert set(gram.diagonal().round(decimals=12).tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("basis", BASES, ids=repr)
def test_eigenvalues_are_those_of_minus_laplacian(basis):
    for y in basis.points(5)[::3]:
        hessians = torch.func.hessian(lambda y: basis.evaluate(y[None])[0])(y)
        laplacian = hessians.diagonal(dim1=1, dim2=2).sum(1)
        assert torch.allclose(-laplacian, basis.eigenvalues() * basis.evaluate(y[None])[0], atol=1e-9)


@given(st.integers(1, 6), st.integers(0, 9), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_coefficients_are_exact_up_to_the_alias_limit(modes, degree, seed):
    low, high = spectral.Fourier(modes), spectral.Fourier(max(modes, degree))
    c = random_function(high, seed) * (high.eigenvalues() <= (2 * math.pi * degree) ** 2 + 1)
    n = max(modes, degree) + modes + 1
    found = spectral.coefficients(low, spectral.values(high, c, n))
    assert torch.allclose(found, c[:, :low.size], atol=1e-12)


def test_fourier_coefficients_are_those_of_the_fft():
    v, basis = randn(2, 16), spectral.Fourier(5)
    c = spectral.coefficients(basis, v).reshape(2, 6, 2)
    hat = torch.fft.rfft(v, norm="forward")[:, :6]
    size = torch.tensor([1.0] + [math.sqrt(2)] * 5, dtype=F64)
    assert torch.allclose(torch.complex(c[..., 0], -c[..., 1]), hat * size, atol=1e-13)


def test_unresolved_functions_are_left_out():
    v = spectral.values(spectral.Fourier(8), random_function(spectral.Fourier(8)), 12)
    c = spectral.coefficients(spectral.Fourier(8), v)
    assert (c[:, 12:] == 0).all() and (c[:, :12] != 0).any()


@pytest.mark.parametrize("d", [1, 2])
def test_multiplier_solves_the_neumann_problem(d):
    basis = spectral.Cosine(4, d)
    mu = basis.eigenvalues()
    c = random_function(basis, 3) * (mu > 0)
    f = spectral.values(basis, c, 9)
    u = spectral.multiply(basis, torch.where(mu > 0, 1 / mu, 0.0), f)
    assert torch.allclose(spectral.coefficients(basis, u) * mu, c, atol=1e-12)
    errors = []
    for n in (32, 64):                                        # the finite volumes of three_forms
        f = spectral.values(basis, c, n)
        u = spectral.multiply(basis, torch.where(mu > 0, 1 / mu, 0.0), f)
        residual = discretize.neumann_laplacian(u.reshape(-1, *[n] * d), d).flatten(1) - f
        errors.append(float(residual.norm()) * n ** (-d / 2))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.05)


# ------------------------------------------------------------------------------- Fourier layer
@given(st.integers(0, 4), st.integers(0, 6), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_layer_is_exact_on_band_limited_functions(modes, degree, seed):
    basis, inputs = spectral.Fourier(modes), spectral.Fourier(degree)
    layer = operators.SpectralLayer(basis, 3, gen(seed))
    n = modes + max(modes, degree) + 1
    fine = 4 * n                                              # contains the coarse grid
    c = random_function(inputs, seed)
    v, w = (spectral.values(inputs, c, m).T[None] for m in (n, fine))
    assert torch.allclose(layer(v), layer(w)[:, ::4], atol=1e-11)


def test_layer_aliases_one_point_below_the_threshold():
    modes, degree = 3, 5
    layer = operators.SpectralLayer(spectral.Fourier(modes), 1, gen())
    n = modes + degree
    wave = lambda m: torch.cos(2 * math.pi * degree * torch.arange(m, dtype=F64) / m)[None, :, None]
    assert (layer(wave(n)) - layer(wave(4 * n))[:, ::4]).abs().max() > 1e-2


def test_cosine_layer_is_exact_on_band_limited_functions():
    basis, inputs = spectral.Cosine(3, 2), spectral.Cosine(5, 2)
    layer = operators.SpectralLayer(basis, 2, gen(1))
    c = random_function(inputs, 1, 2)
    coarse, fine = (layer(spectral.values(inputs, c, n).T[None]) for n in (5, 15))   # 2·5 > 3 + 5
    assert torch.allclose(coarse[0], fine[0].reshape(15, 15, 2)[1::3, 1::3].reshape(25, 2), atol=1e-12)


@given(st.integers(0, 19), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_operator_on_the_circle_commutes_with_translations(shift, seed):
    net = operators.NeuralOperator(spectral.Fourier(6), 4, 2, generator=gen(seed))
    a = randn(2, 20, seed=seed)
    assert torch.allclose(net(a.roll(shift, 1)), net(a).roll(shift, 1), atol=1e-11)


def test_operator_on_the_square_commutes_with_reflections():
    net = operators.NeuralOperator(spectral.Cosine(3, 2), 4, 2, generator=gen())
    a = randn(2, 8, 8)
    assert torch.allclose(net(a.flip(1).flatten(1)), net(a.flatten(1)).reshape(2, 8, 8).flip(1).flatten(1))


def test_linear_layer_is_the_solution_operator():
    basis = spectral.Cosine(6)
    layer = operators.SpectralLayer(basis, 1, gen())
    mu = basis.eigenvalues()
    with torch.no_grad():
        layer.local.weight.zero_(), layer.local.bias.zero_()
        layer.R.copy_(torch.where(mu > 0, 1 / mu, 0.0)[:, None, None, None])
        f = spectral.values(basis, random_function(basis), 16)
        u = layer(f[..., None])[..., 0]
    assert torch.allclose(u, spectral.multiply(basis, torch.where(mu > 0, 1 / mu, 0.0), f), atol=1e-13)


@pytest.mark.parametrize("activation, order", [(torch.relu, 2), (torch.abs, 2)])
def test_kinks_of_the_activation_alias_like_n_to_minus_two(activation, order):
    net = operators.NeuralOperator(spectral.Fourier(4), 6, 2, activation=activation, generator=gen(3))
    errors = aliasing(net, (64, 256))
    assert math.log(errors[0] / errors[1], 4) == pytest.approx(order, abs=0.45)


def test_smooth_activation_aliases_exponentially_little():
    net = operators.NeuralOperator(spectral.Fourier(4), 6, 2, generator=gen(3))
    errors = aliasing(net, (16, 64))
    assert errors[1] < 1e-12 and errors[0] > 1e-9


def aliasing(net, grids, fine=2048):
    a = lambda n: torch.exp(torch.sin(2 * math.pi * torch.arange(n, dtype=F64) / n))[None]
    with torch.no_grad():
        exact = net(a(fine))
        return [float((net(a(n)) - exact[:, ::fine // n]).abs().max()) for n in grids]


# ------------------------------------------------------------------------------------ networks
def test_deeponet_outputs_lie_in_an_affine_space_of_its_rank():
    net = operators.DeepONet(spectral.Fourier(6), 3, generator=gen())
    with torch.no_grad():
        out = net(randn(40, 32))
    s = torch.linalg.svdvals(out - out.mean(0))
    assert s[2] > 1e-6 * s[0] and s[3] < 1e-13 * s[0]


def test_deeponet_reads_and_writes_any_grid():
    basis = spectral.Fourier(4)
    net = operators.DeepONet(basis, 3, width=16, depth=1, generator=gen())
    c = random_function(basis)
    coarse, fine = (net(spectral.values(basis, c, n)) for n in (10, 40))
    assert torch.allclose(coarse, fine[:, ::4], atol=1e-12)
    assert torch.allclose(net(spectral.values(basis, c, 10), basis.points(40)), fine, atol=1e-12)


@pytest.mark.parametrize("n", [3, 8, 9])
def test_deeponet_has_one_trunk_on_all_grids(n):
    basis = spectral.Fourier(4)                      # 8 points do not resolve 4 frequencies
    net = operators.DeepONet(basis, 3, width=16, depth=1, generator=gen())
    a = randn(2, n)
    assert torch.allclose(net(a), net(a, basis.points(n)), atol=1e-12)


@pytest.mark.parametrize("build", [
    lambda: operators.NeuralOperator(spectral.Fourier(6), 8, 2, generator=gen()),
    lambda: operators.DeepONet(spectral.Fourier(6), 6, width=48, depth=2, generator=gen()),
], ids=["FNO", "DeepONet"])
def test_fit_learns_the_derivative(build):
    basis = spectral.Fourier(3)
    c = random_function(basis, 1, 200)
    c[:, 0] = 0
    a = spectral.values(basis, c, 16)
    rotated = c.reshape(-1, 4, 2).flip(2) * torch.tensor([1.0, -1.0], dtype=F64)
    k = torch.arange(4, dtype=F64)[:, None]
    u = spectral.values(basis, (rotated * k).flatten(1), 16)
    net = build()
    before = operators.relative_errors(net(a), u).mean()
    seen = operators.fit(net, a[:150], u[:150], 400, generator=gen(2), every=200,
                         watch=lambda net: operators.relative_errors(net(a[150:]), u[150:]).mean().item())
    assert len(seen) == 3 and before > 0.5 and seen[-1] < 0.15 and seen[-1] < seen[0] / 4


def test_fit_is_reproducible_and_follows_the_dtype_of_the_weights():
    a, u = randn(30, 16), randn(30, 16, seed=1)
    ends = []
    for _ in range(2):
        net = operators.NeuralOperator(spectral.Fourier(3), 4, 1, generator=gen(5), dtype=torch.float32)
        operators.fit(net, a, u, 5, batch=10, generator=gen(6))
        ends.append([p.clone() for p in net.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*ends)) and ends[0][0].dtype == torch.float32


def test_operations_count_the_cheaper_transform():
    few, many = (operators.NeuralOperator(spectral.Fourier(K), 8, 3) for K in (1, 100))
    n, w, h = 256, 8, 64
    rest = lambda size: 3 * (2 * size * 2 * w * w + 2 * n * w * w + 10 * n * w) + 2 * n * (w + w * h + h) + 10 * n * h
    assert few.operations(n) == rest(4) + 3 * 2 * (2 * 4 * n) * w
    assert many.operations(n) == rest(202) + 3 * 2 * (2.5 * n * 8) * w


def test_operations_grow_linearly_with_the_grid_and_quadratically_with_the_width():
    net = lambda w: operators.NeuralOperator(spectral.Fourier(4), w, 2, hidden=w)
    assert net(16).operations(400) / net(16).operations(200) == pytest.approx(2, rel=0.02)
    assert 2 < net(512).operations(64) / net(256).operations(64) < 4


A = torch.zeros(4, 16, dtype=F64)


@pytest.mark.parametrize("call, names", [
    (lambda: spectral.Fourier(-1), "modes"),
    (lambda: spectral.Cosine(2, 0), "d must"),
    (lambda: spectral.coefficients(spectral.Cosine(2, 2), A[:, :15]), "samples on a uniform grid"),
    (lambda: spectral.coefficients(spectral.Fourier(2), A * math.nan), "v must be finite"),
    (lambda: spectral.values(spectral.Fourier(2), A, 8), "6 coefficients"),
    (lambda: spectral.multiply(spectral.Fourier(2), A[0], A), "multiplier"),
    (lambda: spectral.Fourier(2).evaluate(A), r"shape \(n, 1\)"),
    (lambda: operators.NeuralOperator(spectral.Fourier(2), width=0), "width"),
    (lambda: operators.NeuralOperator(spectral.Fourier(2), inputs=2)(A), "a must have shape"),
    (lambda: operators.DeepONet(spectral.Fourier(2), rank=0), "rank"),
    (lambda: operators.relative_errors(A, A[:2]), "one shape"),
    (lambda: operators.relative_errors(A + 1, A), "zero solution"),
    (lambda: operators.relative_errors(A * math.nan, A + 1), "predicted must be finite"),
    (lambda: fit(A, A + 1, every=0), "every"),
    (lambda: fit(A, A + 1, batch=5), "same number of samples"),
    (lambda: fit(A, A), "zero solution"),
    (lambda: fit(A, A + math.inf), "u must be finite"),
    (lambda: fit(A, A + 1, rate=-1.0), "rate"),
    (lambda: fit(randn(4, 16), randn(4, 16, seed=1), rate=1e300, steps=8), "did not converge"),
])
def test_refusals_name_the_argument(call, names):
    with pytest.raises(ValueError, match=names):
        call()


def fit(a, u, batch=2, rate=1e-3, steps=1, every=100):
    net = operators.NeuralOperator(spectral.Fourier(2), 3, 1, generator=gen())
    return operators.fit(net, a, u, steps, batch, rate, generator=gen(), every=every)
