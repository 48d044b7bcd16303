"""Schemes for keys and values, and a model's forward pass with a quantized cache."""
import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from lecturelib.llm import cache
from lecturelib.quantization import kv, rotations, turboquant

D = 64
ROTATION = rotations.RandomHadamard(D, seed=1)
CODE = {b: turboquant.design(ROTATION, b) for b in (1, 2, 3)}
S = turboquant.sketch(D, torch.Generator().manual_seed(0))
SCHEMES = {"channel": kv.Groups(2, 16, "channel"), "token": kv.Groups(3, 32, "token"), "turbo": kv.Turbo(CODE[2]),
           "mean": kv.Turbo(CODE[3], "mean"), "vector": kv.Turbo(CODE[2], "vector"), "product": kv.Product(CODE[1], S),
           "product, 1 bit": kv.Product(None, S), "centered": kv.Centered(kv.Turbo(CODE[2]), torch.ones(3, D)),
           "rotated": kv.Rotated(kv.Groups(2, 64, "token"), ROTATION)}


def vectors(*shape, seed=0):
    return torch.randn(*shape, D, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=50, hidden_size=256, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=128)
    return LlamaForCausalLM(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, 50, (2, 40), generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------------------------- schemes
@pytest.mark.parametrize("name", SCHEMES)
def test_codes_are_what_they_cost(name):
    scheme, x = SCHEMES[name], vectors(2, 3, 32)
    codes = scheme.encode(x)
    assert scheme.decode(codes).shape == x.shape and scheme.decode(codes).dtype == torch.float32
    assert torch.equal(scheme.quantize(x), scheme.decode(codes))
    floats = sum(c.numel() * 16 for c in codes if c.dtype == torch.float16)
    small = [c for c in codes if c.dtype == torch.uint8]
    assert len(small) and all(c.dtype in (torch.uint8, torch.float16) for c in codes)
    whole = sum(c.numel() * max(1, math.ceil(math.log2(int(c.max()) + 1))) for c in small)
    assert (floats + whole) / x.numel() == scheme.bits


@pytest.mark.parametrize("axis", kv.AXES)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_groups_against_the_definition(axis, bits):
    x = vectors(3, 32, seed=bits) * 7 + 3
    scheme = kv.Groups(bits, 16, axis)
    codes, step, zero = scheme.encode(x)
    y = scheme.decode((codes, step, zero))
    grid = x if axis == "token" else x.transpose(-1, -2)
    found = y if axis == "token" else y.transpose(-1, -2)
    for i in range(0, grid.shape[-1], 16):
        g, f = grid[..., i:i + 16], found[..., i:i + 16]
        low, high = g.amin(-1, keepdim=True), g.amax(-1, keepdim=True)
        exact = (high - low) / (2**bits - 1)
        assert ((f - g).abs() <= exact / 2 + 2e-3 * (low.abs() + high.abs())).all()      # float16 ends
        assert (f.sort(-1).values.diff(dim=-1) > 1e-4).sum(-1).max() <= 2**bits - 1


@settings(max_examples=20, deadline=None)
@given(st.floats(-100, 100), st.sampled_from(kv.AXES))
def test_groups_of_one_number_are_exact(value, axis):
    x = torch.full((16, D), value)
    assert (kv.Groups(2, 16, axis).quantize(x) - x).abs().max() <= 5e-4 * abs(value) + 1e-7


def test_a_group_knows_no_neighbor():
    x = vectors(1, 32)
    y = x.clone()
    y[0, 16:] = 100.0
    for scheme in (kv.Groups(2, 16, "channel"), kv.Groups(2, 16, "token"), kv.Turbo(CODE[2])):
        assert torch.equal(scheme.quantize(x)[0, :16], scheme.quantize(y)[0, :16])


@pytest.mark.parametrize("name", ["turbo", "mean", "vector", "product"])
def test_noise_is_the_variance(name):
    g = torch.Generator().manual_seed(3)
    k, y = vectors(1).expand(400, D), torch.nn.functional.normalize(vectors(400, seed=5), dim=-1)
    errors, means, predicted = [], [], 0.0
    for _ in range(40):
        turn = rotations.haar(D, g)
        code = {b: turboquant.Code(turn, b, CODE[b].points, CODE[b].distortion) for b in (1, 2, 3)}
        scheme = {"turbo": kv.Turbo(code[2]), "mean": kv.Turbo(code[2], "mean"), "vector": kv.Turbo(code[2], "vector"),
                  "product": kv.Product(code[1], turboquant.sketch(D, g))}[name]
        codes = scheme.encode(k[:1])
        shrink = 1 - CODE[2].distortion if name == "turbo" else 1.0
        errors.append((y @ (scheme.decode(codes)[0] - shrink * k[0])).square().mean())
        means.append(float(scheme.decode(codes)[0] @ k[0] / k[0].square().sum()))
        predicted = predicted + float(scheme.noise(codes)) / 40
    assert abs(float(torch.stack(errors).mean()) / predicted - 1) < 0.15
    assert abs(sum(means) / 40 - shrink) < 0.03


def test_noise_of_the_signs_is_that_of_the_proposition():
    x = vectors(2, 5)
    for scheme in (SCHEMES["product"], SCHEMES["product, 1 bit"]):
        codes = scheme.encode(x)
        rest = x if scheme.code is None else x - turboquant.decode(codes[0], codes[1].float(), scheme.code)
        assert torch.allclose(scheme.noise(codes), turboquant.qjl_variance(1.0) / len(scheme.S) * rest.square().sum(-1), rtol=2e-3)


def test_centered_takes_the_common_vector_away():
    x, c = vectors(2, 3, 16), 50 * torch.ones(3, D)
    x[0, 0, 0] -= 45                                                    # and is left alone where that is shorter
    plain, centered = kv.Turbo(CODE[2]), kv.Centered(kv.Turbo(CODE[2]), c)
    y = x + c.unsqueeze(-2)
    codes = centered.encode(y)
    assert codes[0][0, 0, 0] == 0 and int(codes[0].sum()) == codes[0].numel() - 1
    assert torch.allclose(centered.quantize(y)[1], plain.quantize(x)[1] + c.unsqueeze(-2), atol=2e-3)
    assert torch.equal(centered.quantize(y)[0, 0, 0], plain.quantize(y)[0, 0, 0])
    assert torch.allclose(centered.noise(codes)[1], plain.noise(plain.encode(x))[1], rtol=1e-2)
    always = kv.Centered(kv.Turbo(CODE[2]), c, always=True)
    assert torch.equal(always.quantize(y)[1], centered.quantize(y)[1]) and always.bits < centered.bits
    assert (always.quantize(y) - y)[0, 0, 0].norm() > 5 * (centered.quantize(y) - y)[0, 0, 0].norm()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e9])
@pytest.mark.parametrize("name", SCHEMES)
def test_refuses_what_is_not_finite(name, bad):
    x = vectors(3, 32)
    x[1, 3, 5] = bad
    with pytest.raises(ValueError, match="x must"):
        SCHEMES[name].encode(x)


def test_refuses_bad_parameters():
    for arguments, name in (((0, 16, "token"), "number_bits"), ((2, 1, "token"), "group"), ((2, 16, "row"), "axis")):
        with pytest.raises(ValueError, match=name):
            kv.Groups(*arguments)
    with pytest.raises(ValueError, match="scale"):
        kv.Turbo(CODE[2], "best")
    with pytest.raises(ValueError, match="multiple of 16"):
        kv.Groups(2, 16, "channel").encode(vectors(20))
    with pytest.raises(ValueError, match="center"):
        kv.Centered(kv.Turbo(CODE[2]), torch.full((D,), torch.nan))
    with pytest.raises(ValueError, match="variance is known"):
        SCHEMES["token"].noise(())


# --------------------------------------------------------------------------------------- model
def logits(model, x, **options):
    with torch.inference_mode():
        return model(x, **options).logits


def test_exact_cache_is_the_model(model, tokens):
    reference = logits(model, tokens)
    for block in (1, 7, 40):
        with cache.quantized(model, None, None, block):
            assert (logits(model, tokens) - reference).abs().max() < 1e-5
    assert model.config._attn_implementation != cache.NAME
    assert torch.equal(logits(model, tokens), reference)


def test_captured_keys_give_the_attention_of_the_model(model, tokens):
    q, k, v = cache.capture(model, tokens, [1])[1]
    assert q.shape == (2, 4, 40, D) and k.shape == v.shape == (2, 2, 40, D)
    mine = cache.attend(q, k, v, D**-0.5)
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert (mine - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("block, keys", [(1, "mean"), (16, "channel"), (16, "product"), (8, "centered")])
def test_token_by_token_is_the_same(model, tokens, block, keys):
    """The parallel pass computes what a cache of codes gives when tokens come one at a time."""
    keys = SCHEMES[keys] if keys != "centered" else kv.Centered(kv.Turbo(CODE[2]), torch.ones(2, D))
    values = SCHEMES["turbo"]
    with cache.quantized(model, keys, values, block):
        at_once = logits(model, tokens[:, :39])
    past, out = cache.Cache(keys, values, block), []
    for t in range(at_once.shape[1]):
        out.append(logits(model, tokens[:, t:t + 1], past_key_values=past, use_cache=True)[:, 0])
    assert (torch.stack(out, 1) - at_once).abs().max() < 2e-4
    assert past.get_seq_length() == at_once.shape[1]
    assert (logits(model, tokens[:, :39]) - at_once).abs().max() > 1e-3          # and it is no longer the model


def test_cache_takes_what_quantized_takes(model, tokens):
    """Functions of the layer, and None for what stays exact."""
    keys, values, x = lambda layer: SCHEMES["turbo" if layer else "mean"], None, tokens[:, :20]
    with cache.quantized(model, keys, values, 4):
        at_once = logits(model, x)
    past = cache.Cache(keys, values, 4)
    out = [logits(model, x[:, t:t + 1], past_key_values=past, use_cache=True)[:, 0] for t in range(20)]
    assert (torch.stack(out, 1) - at_once).abs().max() < 2e-4


def test_half_precision_stays_half(model, tokens):
    half = copy.deepcopy(model).bfloat16()
    with cache.quantized(half, SCHEMES["mean"], SCHEMES["turbo"], 8, corrected=True):
        assert logits(half, tokens).dtype == torch.bfloat16
    past = cache.Cache(SCHEMES["mean"], SCHEMES["turbo"], 1)
    for t in range(3):
        assert logits(half, tokens[:, t:t + 1], past_key_values=past, use_cache=True).dtype == torch.bfloat16


def test_block_decides_what_is_exact(model, tokens):
    q, k, v = cache.capture(model, tokens, [0])[0]
    nonsense = torch.full_like(k, 3.0)
    out = cache.attend(q, k, v, D**-0.5, nonsense, nonsense, block=16)
    exact = cache.attend(q, k, v, D**-0.5)
    assert torch.allclose(out[:, :, :16], exact[:, :, :16], atol=1e-6)
    own = cache.attend(q[:, :, 16:32], k[:, :, 16:32], v[:, :, 16:32], D**-0.5)
    assert not torch.allclose(out[:, :, 16:32], own, atol=1e-2)


def test_a_common_vector_in_all_keys_is_not_seen(model, tokens):
    q, k, v = cache.capture(model, tokens, [0])[0]
    c = vectors(2).unsqueeze(1)
    assert torch.allclose(cache.attend(q, k + c, v, D**-0.5), cache.attend(q, k, v, D**-0.5), atol=1e-5)


def test_correction_lowers_the_cache_by_half_its_variance(model, tokens):
    q, k, v = cache.capture(model, tokens, [0])[0]
    tilt = torch.full(k.shape[:3], 0.3)
    same = cache.attend(q, k, v, 1.0, k, v, 1, tilt)
    s = cache.scores(q, k, 1.0)
    t = torch.arange(40)
    s = s - 0.15 * q.square().sum(-1, keepdim=True) * (t < t[:, None])
    p = s.masked_fill(t > t[:, None], -torch.inf).softmax(-1)
    assert torch.allclose(same, cache.mix(p, v), atol=1e-5)


def test_model_refusals(model, tokens):
    with pytest.raises(ValueError, match="layers"):
        cache.capture(model, tokens, [2])
    with pytest.raises(ValueError, match="x must"):
        cache.capture(model, tokens[:0])
    with pytest.raises(ValueError, match="block"), cache.quantized(model, None, None, 0):
        logits(model, tokens)
    with pytest.raises(ValueError, match="inside another"), cache.quantized(model, None, None), cache.quantized(model, None, None):
        pass
    with pytest.raises(ValueError, match="one token"), torch.inference_mode():
        model(tokens, past_key_values=cache.Cache(SCHEMES["turbo"], SCHEMES["turbo"]))
    assert model.config._attn_implementation != cache.NAME
    for block in (0, 1.5, math.nan):
        with pytest.raises(ValueError, match="block"):
            cache.Cache(None, None, block)
    q, k, v = cache.capture(model, tokens, [0])[0]
    for k_hat, v_hat in ((k, None), (None, v)):
        with pytest.raises(ValueError, match="k_hat and v_hat"):
            cache.attend(q, k, v, 1.0, k_hat, v_hat)


@pytest.mark.parametrize("block", [5, 8, 16, 40, 100])
def test_blocks_one_by_one_and_all_at_once_agree(block, monkeypatch):
    g = torch.Generator().manual_seed(block)
    q, (k, v, k_hat, v_hat) = torch.randn(2, 6, 40, 8, generator=g), torch.randn(4, 2, 3, 40, 8, generator=g)
    tilt = torch.rand(2, 3, 40, generator=g)
    one_by_one = cache.attend(q, k, v, 0.3, k_hat, v_hat, block, tilt)
    monkeypatch.setattr(cache, "FEW", 0)
    assert torch.allclose(one_by_one, cache.attend(q, k, v, 0.3, k_hat, v_hat, block, tilt), atol=1e-5)
