"""Outliers: scales, mixed precision, smoothing against its bound, rotations merged into a model."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM

from lecturelib.llm import layers, rotated
from lecturelib.quantization import outliers, rotations, uniform


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    config = LlamaConfig(**dict(vocab_size=50, hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
                                num_key_value_heads=2, head_dim=6, tie_word_embeddings=True) | changes)
    model = LlamaForCausalLM(config).double().eval().requires_grad_(False)
    for w in model.parameters():
        w.data.mul_(5)
    norm = lambda: torch.nn.RMSNorm(24, eps=1e-6, dtype=torch.float64)          # Llama's own works in float32
    model.model.norm = norm()
    for block in model.model.layers:
        block.input_layernorm, block.post_attention_layernorm = norm(), norm()
    for module in model.modules():
        if isinstance(module, torch.nn.RMSNorm):
            module.weight.data.uniform_(0.5, 2)
    return model.requires_grad_(False)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(0, 2**32), st.sampled_from(["row", "tensor"]), st.sampled_from([1.0, 0.8]),
       st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_absmax(bits, seed, per, clip, dtype):
    x = torch.randn(3, 5, 8, generator=generator(seed)).to(dtype)
    q = outliers.encode(x, bits, per, clip)
    N = 2**(bits - 1) - 1
    assert q.codes.dtype == torch.int8 and int(q.codes.abs().max()) <= N
    y = outliers.quantize(x, bits, per, clip)
    assert y.dtype == dtype and torch.equal(y, q.decode().to(dtype))
    out = x.clone()
    assert outliers.quantize(out, bits, per, clip, out=out) is out and torch.equal(out, y)
    if clip == 1 and dtype != torch.bfloat16:
        assert bool(((x - y).abs() <= q.step * 0.500001).all())
        rows = q.codes.abs().amax(-1) if per == "row" else q.codes.abs().amax()
        assert bool((rows == N).all())
    if per == "tensor" and dtype == torch.float32:
        assert torch.equal(y, uniform.quantize(x, float(q.step), bounds=(-N, N)))


def test_zeros_signs_and_scalars():
    assert torch.equal(outliers.quantize(torch.zeros(2, 3), 4), torch.zeros(2, 3))
    assert float(outliers.quantize(torch.tensor(-3.0), 4)) == pytest.approx(-3)
    x = torch.randn(4, 6, generator=generator())
    assert torch.equal(outliers.quantize(-x, 4), -outliers.quantize(x, 4))
    assert torch.allclose(outliers.quantize(8 * x, 4), 8 * outliers.quantize(x, 4))


def test_integer_product_is_the_product_of_the_reconstructions():
    a, b = (outliers.encode(torch.randn(k, 1536, generator=generator(k)).double(), 8) for k in (5, 7))
    assert torch.allclose(outliers.matmul(a, b), a.decode() @ b.decode().T, rtol=1e-12, atol=0)
    c = outliers.encode(torch.randn(5, 1536, generator=generator()), 8, "tensor")
    assert torch.allclose(outliers.matmul(c, c), c.decode() @ c.decode().T, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 6))
def test_mixed_product(seed, count):
    x, w = torch.randn(6, 32, generator=generator(seed)).clamp(-5, 5), torch.randn(4, 32, generator=generator(seed + 1))
    x[:, :count] += 60
    mask = outliers.outlier_channels(x)
    assert mask.tolist() == [True] * count + [False] * (32 - count)
    keep = ~mask
    expected = x[:, mask] @ w[:, mask].T + outliers.quantize(x[:, keep], 8) @ outliers.quantize(w[:, keep], 8).T
    assert torch.allclose(outliers.mixed_product(x, w), expected, atol=1e-4)
    assert torch.allclose(outliers.mixed_product(x + 100, w, 2), (x + 100) @ w.T, rtol=1e-5, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.floats(0, 3))
def test_smoothing_bound(seed, n, spread):
    g = generator(seed)
    X, W = ((spread * torch.randn(n, generator=g, dtype=torch.float64)).exp() for _ in range(2))
    p = X * W
    bound = float(2 * p.max() * p.sum())
    half = outliers.smooth(X, W)
    assert outliers.smoothed_error(half, X, W) == pytest.approx(bound, rel=1e-9)
    assert float(half.log().mean()) == pytest.approx(0, abs=1e-9)
    for width in (0.01, 0.3, 2.0):
        s = half * (width * torch.randn(n, generator=g, dtype=torch.float64)).exp()
        assert outliers.smoothed_error(s, X, W) >= bound * (1 - 1e-9)
    values = [outliers.smoothed_error(outliers.smooth(X, W, a / 8), X, W, 3.0, 1.0) for a in range(9)]
    assert all(values[k] <= (values[k - 1] + values[k + 1]) / 2 * (1 + 1e-9) for k in range(1, 8))
    assert min(values[4:]) <= min(values[:5]) * (1 + 1e-12)


def test_smoothing_keeps_the_product():
    x, w = (torch.randn(k, 16, generator=generator(k), dtype=torch.float64) for k in (3, 5))
    x[:, 2] = 0
    s = outliers.smooth(x.abs().amax(0), w.abs().amax(0), 0.7)
    assert torch.allclose((x / s) @ (w * s).T, x @ w.T, atol=1e-12)


def test_awq():
    g = generator(3)
    x, w = torch.randn(64, 32, generator=g), torch.randn(16, 32, generator=g)
    x[:, :2] *= 30
    s, alpha, errors = outliers.awq(w, x, lambda v: outliers.quantize(v, 3))
    assert len(errors) == 11 and alpha > 0 and min(errors) < 0.7 * errors[0]
    again = (outliers.quantize(w * s, 3) / s - w)
    assert float((x @ again.T).square().mean()) == pytest.approx(min(errors), rel=1e-5)
    assert errors[0] == pytest.approx(float((x @ (outliers.quantize(w, 3) - w).T).square().mean()), rel=1e-5)


@pytest.mark.parametrize("n", [64, 96, 576, 1536])
def test_incoherence_bound(n):
    delta, tries = 0.05, 150
    spike, spread = torch.eye(n)[0], torch.ones(n)
    H = rotations.hadamard(torch.ones(1, n)) if n & (n - 1) == 0 else None
    for x in (spike, spread) if H is None else (spike, spread, H[0]):
        for rounds in (1, 2):
            y = torch.stack([rotations.RandomHadamard(n, seed, rounds).apply(x) for seed in range(tries)])
            over = int((outliers.incoherence(y) > outliers.incoherence_bound(n, delta)).sum())
            assert over <= delta * tries
    assert outliers.incoherence_bound(n, delta) < math.sqrt(4 * math.log(2 * n / delta)) + 1e-9


def test_kurtosis():
    k = outliers.kurtosis(torch.randn(2, 10**5, generator=generator()))
    assert k.shape == (2,) and k.tolist() == pytest.approx([3, 3], abs=0.1)
    assert float(outliers.kurtosis(torch.ones(7))) == 1


def test_replaced_products():
    model, x = tiny(), torch.arange(20).view(2, 10)
    before, seen = model(x).logits, []
    with rotated.replaced(model, lambda v, w, name: (seen.append(name), v @ w.T)[1]):
        assert torch.allclose(model(x).logits, before, atol=1e-12)
    assert seen == list(layers.linear_layers(model)) and torch.equal(model(x).logits, before)
    with pytest.raises(RuntimeError, match="stop"), rotated.replaced(model, lambda *_: (_ for _ in ()).throw(RuntimeError("stop"))):
        model(x)
    assert torch.equal(model(x).logits, before)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}, {"num_key_value_heads": 4}])
@pytest.mark.parametrize("online", [True, False])
def test_rotated_model_is_the_same_function(changes, online):
    model, x = tiny(1, **changes), torch.arange(20).view(2, 10)
    before, hidden = model(x).logits, model(x, output_hidden_states=True).hidden_states
    rotated.merge(model, 5, online)
    assert float((model(x).logits - before).abs().max()) < 1e-10 * float(before.abs().max())
    turn = rotations.RandomHadamard(24, 5)
    after = model(x, output_hidden_states=True).hidden_states
    assert torch.allclose(after[1], turn.apply(hidden[1]), atol=1e-9)
    assert all(bool((norm.weight == 1).all()) for norm in (model.model.norm, model.model.layers[1].input_layernorm))


def test_bad_input():
    x = torch.ones(2, 4)
    for bad in (torch.tensor([1.0, math.nan]), torch.tensor([math.inf]), torch.ones(3, dtype=torch.int64), torch.empty(0), [1.0]):
        with pytest.raises(ValueError, match="x must be"):
            outliers.quantize(bad, 4)
        with pytest.raises(ValueError, match="x must be"):
            outliers.kurtosis(bad)
    for bits in (1, 9, 2.5, "4", True):
        with pytest.raises(ValueError, match="bits"):
            outliers.encode(x, bits)
    with pytest.raises(ValueError, match="per must"):
        outliers.encode(x, 4, "column")
    for clip in (0, 1.5, math.nan):
        with pytest.raises(ValueError, match="clip"):
            outliers.encode(x, 4, clip=clip)
    with pytest.raises(ValueError, match="out must"):
        outliers.quantize(x, 4, out=torch.empty(2))
    with pytest.raises(ValueError, match="threshold"):
        outliers.mixed_product(x, x, threshold=0)
    with pytest.raises(ValueError, match="alpha"):
        outliers.smooth(x[0], x[0], 1.2)
    with pytest.raises(ValueError, match="x_max"):
        outliers.smooth(-x[0], x[0])
    with pytest.raises(ValueError, match="w_max must be a vector"):
        outliers.smooth(x[0], torch.zeros(4))
    with pytest.raises(ValueError, match="length"):
        outliers.smooth(x[0], torch.ones(3))
    with pytest.raises(ValueError, match=r"x must be \(T, n\)"):
        outliers.awq(x, torch.ones(2, 3), lambda w: w)
    for n, delta, name in ((0, 0.1, "n must"), (8, 0, "delta"), (8, 1, "delta")):
        with pytest.raises(ValueError, match=name):
            outliers.incoherence_bound(n, delta)
    with pytest.raises(ValueError, match="Llama"):
        rotated.fold(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="biases"):
        rotated.merge(tiny(attention_bias=True), 0)
    with pytest.raises(ValueError, match="w must be finite"):
        outliers.mixed_product(100 * x, torch.full((3, 4), math.nan))          # no channel is left for the codes
    with pytest.raises(ValueError, match="bits"):
        outliers.mixed_product(100 * x, x, bits=1)
    with pytest.raises(ValueError, match=r"w must be \(m, n\)"):
        outliers.mixed_product(x, torch.ones(3, 5))
    for s, name in ((torch.tensor([1.0, math.nan, 1, 1]), "finite"), (torch.zeros(4), "positive"), (torch.ones(1), "as long as")):
        with pytest.raises(ValueError, match=name):
            outliers.smoothed_error(s, x[0], x[0])
    for function in (outliers.incoherence, outliers.kurtosis):
        with pytest.raises(ValueError, match="zeros"):
            function(torch.tensor([[1.0, 2.0], [0.0, 0.0]]))


def test_nested_products_come_back():
    model, x, seen = tiny(), torch.arange(20).view(2, 10), []
    note = lambda who: lambda v, w, name: (seen.append(who), v @ w.T)[1]
    with rotated.replaced(model, note("outer")):
        with rotated.replaced(model, note("inner")):
            model(x)
        assert set(seen) == {"inner"}
        model(x)
    count = len(seen)
    model(x)
    assert seen[-1] == "outer" and len(seen) == count and not any("forward" in vars(m) for m in model.modules())


def test_gains_of_another_kind_are_refused():
    torch.manual_seed(0)
    model = GemmaForCausalLM(GemmaConfig(vocab_size=50, hidden_size=24, intermediate_size=36, num_hidden_layers=1, num_attention_heads=4,
                                         num_key_value_heads=2, head_dim=6)).eval()
    with pytest.raises(ValueError, match="gains"):
        rotated.fold(model)


@pytest.mark.parametrize("exponent", range(120, 150))
def test_steps_below_the_normal_numbers_do_not_lead_beyond_the_last_code(exponent):
    x = torch.linspace(-1, 1, 201) * 1.43 * 2.0**-exponent
    assert torch.equal(outliers.quantize(x, 8), outliers.encode(x, 8).decode())
