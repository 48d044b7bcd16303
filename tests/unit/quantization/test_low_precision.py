"""Training in low precision: roundings against their laws, products against exact ones, and the small model."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from lecturelib.llm import tiny
from lecturelib.quantization import float_formats, low_precision as lp
from lecturelib.quantization.float_formats import Format


def gen(seed):
    return torch.Generator().manual_seed(seed)


def gauss(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=gen(seed), dtype=dtype)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([(1, 2), (2, 1), (3, 0), (2, 3), (3, 2), (4, 3)]), st.floats(-1, 1), st.sampled_from([torch.float32, torch.float64]))
def test_stochastic_takes_the_two_neighbors_with_the_right_mean(split, t, dtype):
    fmt = Format(*split)
    x = torch.tensor(t, dtype=dtype) * fmt.maximum
    q = lp.stochastic(x.expand(4000), fmt, gen(1)).double()
    points = float_formats.points(fmt)
    x = float(x)
    low, high = float(points[points <= x].max()), float(points[points >= x].min())
    assert set(q.tolist()) <= {low, high}
    spread = math.sqrt((x - low) * (high - x) / 4000) + 1e-12
    assert abs(float(q.mean()) - x) < 5 * spread


@pytest.mark.parametrize("rule, error", [("floor", 0.0132), ("rms", 0.0138)])
def test_units_are_powers_of_two_and_have_the_error_of_the_integral(rule, error):
    x = gauss(4096, 32) * torch.exp2(3 * torch.rand(4096, 1, generator=gen(2), dtype=torch.float64))
    s = lp.unit(x, rule)
    assert s.shape == (4096, 1, 1) and torch.equal(s, torch.exp2(s.log2().round()))
    q, inside = lp.mxfp4(x, rule)
    relative = float(((q - x).square().mean(1) / x.square().mean(1)).mean())
    assert relative == pytest.approx(error, rel=0.06)
    assert torch.equal(inside, x.abs() <= 6 * s[:, 0] * (1 + 1e-6))
    levels = (q.view(-1, 32) / s[:, 0]).abs().unique()
    assert levels.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def test_largest_unit_is_where_halving_starts_to_pay():
    grid = float_formats.magnitudes(lp.E2M1).numpy()

    def error(s):
        c = s * grid
        edges = [0, *((c[1:] + c[:-1]) / 2), 12]
        return sum(2 * integrate.quad(lambda x, m=m: (x - m)**2 * stats.norm.pdf(x), a, b)[0]
                   for a, b, m in zip(edges, edges[1:], c, strict=False))
    assert lp.LARGEST_UNIT == pytest.approx(optimize.brentq(lambda s: error(s) - error(s / 2), 0.5, 1), abs=1e-6)


def test_floor_is_the_standard_at_powers_of_two_and_zero():
    for top, s in ((8.0, 2.0), (np.nextafter(np.float32(8), np.float32(0)), 1.0), (2.0**-20, 2.0**-22), (6.0, 1.0)):
        x = torch.zeros(32)
        x[3] = float(top)
        assert float(lp.unit(x, "floor")) == s
    for rule in lp.SCALES:
        assert not lp.mxfp4(torch.zeros(2, 64), rule)[0].any()


def test_safe_never_clips_and_is_unbiased():
    x = gauss(1, 64, seed=5).expand(20000, 64).contiguous()
    q, inside = lp.mxfp4(x, "safe", gen(3))
    assert bool(inside.all())
    z = (q - x).mean(0) / ((q - x).std(0) / 20000**0.5 + 1e-12)
    assert float(z.abs().max()) < 5
    for seed in range(200):
        y = gauss(1, 32, seed=seed, dtype=torch.float32)
        assert bool((y.abs() <= 6 * (1 + 1e-6) * lp.unit(y, "safe")[0]).all())


def test_widely_linear_is_the_real_matrix():
    W, x = gauss(6, 8), gauss(8, seed=1)
    U, V = lp.widely_linear(W)
    z = torch.complex(x[:4], x[4:])
    y = U @ z + V @ z.conj()
    assert torch.allclose(torch.cat((y.real, y.imag)), W @ x) and torch.allclose(lp.real_matrix(U, V), W)


def test_fourth_roots_are_signs_of_the_turned_numbers():
    U = torch.complex(gauss(300, 300), gauss(300, 300, seed=1))
    q = lp.fourth_roots(U)
    s = float(q.abs().mean())
    turned = U * complex(1, 1) / 2**0.5
    assert torch.allclose((q / s * complex(1, 1)).real, turned.real.sign()) and torch.allclose((q / s * complex(1, 1)).imag, turned.imag.sign())
    better = min(float((q / s * t - U).abs().square().mean()) for t in (0.99 * s, 1.01 * s))
    assert float((q - U).abs().square().mean()) < better
    assert float((q - U).abs().square().mean()) / 2 == pytest.approx(1 - 2 / math.pi, rel=0.01)


@pytest.mark.parametrize("scheme, error", [(lp.sign, 1 - 2 / math.pi), (lp.phase, 1 - 2 / math.pi)])
def test_one_bit_is_one_bit(scheme, error):
    w = gauss(2, 256, 256, dtype=torch.float32)
    assert float((scheme(w)[0] - w).square().mean()) == pytest.approx(error, rel=0.02)


def test_two_stages_are_better_than_one():
    w = gauss(256, 256)
    assert float((lp.phase(w, 2)[0] - w).square().mean()) == pytest.approx((1 - 2 / math.pi)**2, rel=0.1)


@pytest.mark.parametrize("recipe", [lp.FULL, lp.Recipe(rotate=True), lp.Recipe(gradient=lambda a, g: a, rotate=True)])
def test_nothing_rounded_is_exact(recipe):
    x, w, g = gauss(2, 32, 64).requires_grad_(), gauss(2, 96, 64, seed=1).requires_grad_(), gauss(2, 32, 96, seed=2)
    y = lp.linear(x, w, recipe, gen(0))
    y.backward(g)
    assert torch.allclose(y, x @ w.mT) and torch.allclose(x.grad, g @ w) and torch.allclose(w.grad, g.mT @ x)


def test_quartet_is_unbiased_for_the_straight_through_gradient():
    x, w, g = gauss(32, 32), gauss(64, 32, seed=1), gauss(32, 64, seed=2)
    x.requires_grad_(), w.requires_grad_()
    exact = lp.Recipe(lp.QUARTET.weight, lp.QUARTET.activation, rotate=True)
    want = torch.autograd.grad(lp.linear(x, w, exact), (x, w), g)
    many = [torch.autograd.grad(lp.linear(x, w, lp.QUARTET, gen(k)), (x, w), g) for k in range(400)]
    for k in (0, 1):
        draws = torch.stack([m[k] for m in many])
        z = (draws.mean(0) - want[k]) / (draws.std(0) / 20 + 1e-12)
        assert float(z.abs().max()) < 5.5 and float(z.square().mean()) == pytest.approx(1, abs=0.2)


def test_a_seed_is_the_same_alone_and_in_company():
    text = tiny.encode("the quick brown fox jumps over the lazy dog\n" * 60)
    validation = text[:330].view(10, 33)
    shape = tiny.Shape(width=32, heads=1)
    alone = tiny.train(text, validation, [1], lp.PHASE, steps=12, shape=shape)
    both = tiny.train(text, validation, [0, 1], lp.PHASE, steps=12, shape=shape)
    assert torch.allclose(alone.history[:, 0], both.history[:, 1], atol=1e-3) and both.history[-1].max() < both.history[0].min()
    assert both.loss.shape == (2,) and both.history.shape == (12, 2)


def test_the_model_is_causal():
    shape = tiny.Shape(width=32, heads=1)
    p = tiny.initial(shape, [0, 1])
    p["head"] *= 10
    x = torch.randint(97, (2, 3, 32), generator=gen(0))
    y = x.clone()
    y[..., 20:] = (y[..., 20:] + 1) % 97
    a, b = tiny.logits(p, x, shape), tiny.logits(p, y, shape)
    assert torch.allclose(a[:, :, :20], b[:, :, :20], atol=1e-5) and not torch.allclose(a[:, :, 20:], b[:, :, 20:], atol=1e-2)


def test_characters():
    assert tiny.decode(tiny.encode("def f(x):\n    return x")) == "def f(x):\n    return x"
    assert tiny.context_losses(torch.randint(97, (200_000,), generator=gen(0)), torch.randint(97, (50, 33), generator=gen(1)), 1) == \
        pytest.approx(math.log(97), abs=0.03)


def test_bad_input():
    nan = torch.full((32, 32), float("nan"))
    for call in (lp.mxfp4, lambda x: lp.block_float(x, Format(2, 1)), lp.sign, lp.phase, lambda x: lp.stochastic(x, lp.E2M1, gen(0))):
        with pytest.raises(ValueError, match="finite"):
            call(nan)
    with pytest.raises(ValueError, match="at most 6.0"):
        lp.stochastic(torch.tensor([7.0]), lp.E2M1, gen(0))
    with pytest.raises(ValueError, match="multiple of 32"):
        lp.mxfp4(torch.ones(4, 33))
    with pytest.raises(ValueError, match="rule must be one of"):
        lp.unit(torch.ones(32), "best")
    with pytest.raises(ValueError, match="float32 or float64"):
        lp.mxfp4(torch.ones(32, dtype=torch.int64))
    with pytest.raises(ValueError, match="even sides"):
        lp.widely_linear(torch.ones(3, 4))
    with pytest.raises(ValueError, match="must agree"):
        lp.linear(torch.ones(4, 32), torch.ones(4, 64))
    with pytest.raises(ValueError, match="needs a generator"):
        lp.linear(torch.ones(32, 32), torch.ones(32, 32), lp.QUARTET)
    with pytest.raises(ValueError, match="stages"):
        lp.phase(torch.ones(2, 2), 0)
    with pytest.raises(ValueError, match="order"):
        tiny.context_losses(torch.zeros(9, dtype=torch.int64), torch.zeros(1, 5, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="up to 33 columns"):
        tiny.train(torch.zeros(50, dtype=torch.int64), torch.zeros(1, 40, dtype=torch.int64), [0])
    with pytest.raises(ValueError, match="text must be"):
        tiny.train(torch.zeros(5, dtype=torch.int64), torch.zeros(1, 33, dtype=torch.int64), [0])


def test_floor_is_the_mxfp4_of_the_book_formats():
    from lecturelib.quantization import blocks
    x = gauss(64, 128, dtype=torch.float32) * torch.exp2(10 * torch.randn(64, 1, generator=gen(9)))
    x[0] = torch.arange(128) / 4.0
    assert torch.equal(lp.mxfp4(x)[0], blocks.quantize(x, blocks.mx()))
