"""Walking, covariances and quantization in batches, on a small random model of the real architecture."""
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lecturelib.llm import language_model, layers


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
                         num_key_value_heads=2, tie_word_embeddings=True)
    return LlamaForCausalLM(config).eval().requires_grad_(False)


@pytest.fixture
def x():
    return torch.randint(0, 97, (5, 24), generator=torch.Generator().manual_seed(1))


def signs(W, sigma):
    """A scheme that can be sent to another process: one bit and a scale for each row."""
    return W.sign() * W.abs().mean(-1, keepdim=True), 1 + 16 / W.shape[-1]


def test_covariances_are_second_moments(model, x):
    sigmas, seen = layers.covariances(model, x, batch=2), []
    handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(x)
    handle.remove()
    flat = seen[0].reshape(-1, 48).double()
    sigma = sigmas["model.layers.1.mlp.down_proj"]
    assert torch.allclose(sigma.double(), flat.T @ flat / len(flat), rtol=1e-4, atol=1e-6)
    assert torch.equal(sigma, sigma.T) or torch.allclose(sigma, sigma.T, rtol=1e-5)


def test_layers_that_read_the_same_tensor_share(model, x):
    sigmas = layers.covariances(model, x)
    one = "model.layers.2.self_attn."
    assert sigmas[one + "q_proj"] is sigmas[one + "k_proj"] is sigmas[one + "v_proj"]
    assert sigmas[one + "q_proj"] is not sigmas[one + "o_proj"]
    assert len({id(s) for s in sigmas.values()}) == 4 * 3 and len(sigmas) == 7 * 3
    batches = layers.stacks(model, sigmas)
    assert sorted(map(len, batches)) == [3, 3, 3, 3]
    assert {n for batch in batches for stack in batch for n in stack} == set(layers.linear_layers(model))
    assert max(map(len, layers.stacks(model, sigmas, numbers=1))) == 1


@pytest.mark.parametrize("numbers", [1, 1 << 12, 1 << 24])
def test_batches_do_not_show(model, x, numbers):
    sigmas, own = layers.covariances(model, x), {n: w.clone() for n, w in layers.weights(model).items()}
    report = layers.quantize(model, signs, sigmas, numbers=numbers)
    for name, w in layers.weights(model).items():
        assert torch.allclose(w, signs(own[name], None)[0])
    assert all(r.loss == pytest.approx(sum(e * len(own[n]) for e, n in zip(r.losses, r.names, strict=True)) / sum(len(own[n]) for n in r.names)) for r in report)
    assert sum(r.numbers for r in report) == sum(w.numel() for w in own.values())
    for r in report:
        W = torch.cat([own[n] for n in r.names])
        assert r.loss == pytest.approx(float(layers.loss(W, signs(W, None)[0], sigmas[r.names[0]])), rel=1e-5)


def test_the_loss_is_the_output_error(model, x):
    """tr E Sigma E^T / (m n) against the mean square of the outputs' difference."""
    sigmas, seen = layers.covariances(model, x), []
    layer = model.model.layers[0].mlp.gate_proj
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(x)
    handle.remove()
    W_hat = signs(layer.weight, None)[0]
    direct = (seen[0] @ (layer.weight - W_hat).T).square().mean() / layer.weight.shape[1]
    assert float(layers.loss(layer.weight, W_hat, sigmas["model.layers.0.mlp.gate_proj"])) == pytest.approx(float(direct), rel=1e-4)


def test_any_executor(model, x):
    own = {n: w.clone() for n, w in layers.weights(model).items()}
    plain = layers.quantize(model, signs)
    alone = {n: w.clone() for n, w in layers.weights(model).items()}
    layers.assign(model, own)
    with ThreadPoolExecutor(2) as executor:
        assert layers.quantize(model, signs, executor=executor) == plain
    assert all(torch.equal(w, alone[n]) for n, w in layers.weights(model).items())


def test_a_dask_cluster(model, x):
    from distributed import Client, LocalCluster
    own = {n: w.clone() for n, w in layers.weights(model).items()}
    sigmas = layers.covariances(model, x)
    plain = layers.quantize(model, signs, sigmas)
    layers.assign(model, own)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster, Client(cluster) as client:
        spread = layers.quantize(model, signs, sigmas, executor=client.get_executor())
    assert [r.names for r in spread] == [r.names for r in plain]
    assert [r.loss for r in spread] == pytest.approx([r.loss for r in plain])


def test_exact_weights_change_nothing(model, x):
    before = language_model.losses(model, x)
    layers.quantize(model, lambda W, sigma: (W.clone(), 32.0))
    assert torch.equal(language_model.losses(model, x), before)


def test_losses_against_the_model(model, x):
    expected = model(x, labels=x).loss
    assert float(language_model.losses(model, x, batch=2, rows=7).mean()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("call, name", [
    (lambda m, x: layers.covariances(m, x[:0]), "x"),
    (lambda m, x: layers.assign(m, {"nothing": x}), "new"),
    (lambda m, x: layers.assign(m, {"model.layers.0.mlp.up_proj": torch.zeros(2, 2)}), "new"),
    (lambda m, x: layers.quantize(m, lambda W, s: (W[:, :1], 1.0)), "scheme"),
    (lambda m, x: layers.quantize(m, lambda W, s: (W / 0, 1.0)), "scheme"),
    (lambda m, x: layers.linear_layers(torch.nn.ReLU()), "model"),
    (lambda m, x: language_model.losses(m, x[0]), "x"),
    (lambda m, x: language_model.losses(m, x[:, :1]), "x"),
    (lambda m, x: language_model.windows(torch.arange(0), 1, 4), "ids"),
    (lambda m, x: language_model.windows(torch.arange(9), 3, 4), "ids"),
    (lambda m, x: language_model.windows(torch.arange(9.0), 1, 4), "ids"),
    (lambda m, x: language_model.windows(torch.arange(9), 0, 4), "count"),
    (lambda m, x: language_model.excess(torch.zeros(2, 3), torch.zeros(2, 4)), "reference"),
])
def test_bad_input(model, x, call, name):
    with pytest.raises(ValueError, match=name):
        call(model, x)


def test_a_model_that_breaks_says_so(model, x):
    model.model.layers[0].mlp.up_proj.weight.data.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match="finite"):
        language_model.losses(model, x)
