r"""The linear layers of a model: walk them, see the covariance of what enters them, quantize them in batches.

A layer is $y=Wx$ with $W$ of shape (m, n); its input covariance is $\Sigma=\mathbb E\,xx^\top$, (n, n), and the
error that a replacement $\hat W$ makes is $\frac1{mn}\mathrm{tr}\,(W-\hat W)\Sigma(W-\hat W)^\top$.  Layers that read the same
vector (query, key and value; gate and up) share $\Sigma$ and are stacked on top of each other; stacks of
one shape, one for each block of the model, are quantized as one batch.
"""
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import torch
from torch import nn
from tqdm import tqdm

from lecturelib.llm.memory import frugal, tidy
from lecturelib.quantization.uniform import _all_finite

Scheme = Callable[[torch.Tensor, torch.Tensor | None], tuple[torch.Tensor, float]]


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """All linear layers by name but the output head, in the model's order."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and layer is not head}
    if not found:
        raise ValueError("model must have linear layers besides its head")
    return found


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weight (m, n) of every linear layer: the model's own tensors, not copies."""
    return {name: layer.weight.data for name, layer in linear_layers(model).items()}


def assign(model: nn.Module, new: dict[str, torch.Tensor]) -> None:
    """Write new weights into the layers named in `new`, in place.  Raises ValueError for a name or shape that is not there."""
    layers = linear_layers(model)
    for name, w in new.items():
        if name not in layers:
            raise ValueError(f"new names {name!r}, which is no linear layer of the model")
        if w.shape != layers[name].weight.shape:
            raise ValueError(f"new: {name} must have shape {tuple(layers[name].weight.shape)}; got {tuple(w.shape)}")
        layers[name].weight.data.copy_(w)


@torch.inference_mode()
def covariances(model: nn.Module, x: torch.Tensor, batch: int = 4, progress: bool = False) -> dict[str, torch.Tensor]:
    r"""$\Sigma=\frac1T\sum_t x_tx_t^\top$ of every linear layer's input on token numbers `x` (windows, T).

    Layers that read the same tensor get the same object.  Raises ValueError if `x` is empty.
    """
    if x.ndim != 2 or x.numel() == 0:
        raise ValueError(f"x must hold token numbers (windows, T); got shape {tuple(x.shape)}: is the calibration text empty?")
    layers, sums, leader, last = linear_layers(model), {}, {}, {}

    def hook(name):
        def see(_, args):
            a = args[0]
            if last.get("input") is not a:             # a further reader of the same tensor
                last.update(input=a, name=name)
                flat = a.reshape(-1, a.shape[-1])
                sums[name] = sums[name].addmm_(flat.T, flat) if name in sums else flat.T @ flat
            leader[name] = last["name"]
        return see
    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        with frugal(model.get_decoder()):
            for part in tqdm(x.split(batch), desc="covariances", disable=not progress):
                model.get_decoder()(part)
    finally:
        for handle in handles:
            handle.remove()
    for sigma in sums.values():
        sigma /= x.numel()
    return {name: sums[leader[name]] for name in layers}


def stacks(model: nn.Module, sigmas: dict[str, torch.Tensor] | None = None, numbers: int = 1 << 24) -> list[list[tuple[str, ...]]]:
    """Layers in batches: each batch a list of stacks, each stack the names of layers that share an input.

    All stacks of a batch have the same shapes; a batch has at most `numbers` weights and entries of
    covariances, or one stack.  Without `sigmas` every layer is a stack of its own.
    """
    shared, alike, batches = {}, {}, []
    for name, w in weights(model).items():
        shared.setdefault(id(sigmas[name]) if sigmas else name, []).append((name, w.shape))
    for stack in shared.values():
        alike.setdefault(tuple(shape for _, shape in stack), []).append(tuple(name for name, _ in stack))
    for shapes, names in alike.items():
        size = max(1, numbers // (sum(s.numel() for s in shapes) + (shapes[0][1]**2 if sigmas else 0)))
        batches += [names[k:k + size] for k in range(0, len(names), size)]
    return batches


@dataclass(frozen=True)
class Layer:
    r"""What a scheme did to a stack: `bits` per weight, all side information counted, `loss` $\frac1{mn}\mathrm{tr}\,(W-\hat W)\Sigma(W-\hat W)^\top$
    ($\Sigma=I$ without covariances), `numbers`, the count of its weights, and `losses`, that of each of its layers."""
    names: tuple[str, ...]
    bits: float
    loss: float
    numbers: int
    losses: tuple[float, ...] = ()


def loss(w: torch.Tensor, w_hat: torch.Tensor, sigma: torch.Tensor | None = None) -> torch.Tensor:
    r"""$\frac1{mn}\mathrm{tr}\,(W-\hat W)\Sigma(W-\hat W)^\top$ over the last two axes; $\Sigma=I$ if it is None.

    >>> loss(torch.eye(2), torch.zeros(2, 2), torch.tensor([[2.0, 1.0], [1.0, 4.0]]))
    tensor(1.5000)
    """
    return _rows(w, w_hat, sigma).mean(-1)


def _rows(w, w_hat, sigma):
    """The loss of each row, (..., m)."""
    e = w - w_hat
    return (e.square() if sigma is None else (e @ sigma).mul_(e)).mean(-1)


def quantize(model: nn.Module, scheme: Scheme, sigmas: dict[str, torch.Tensor] | None = None, *,
             executor: Executor | None = None, progress: bool = False, numbers: int = 1 << 24, keep: bool = True) -> list[Layer]:
    r"""Replace every linear layer by its quantized version, and say what that cost.

    Parameters
    ----------
    scheme : (W, Σ) -> (Ŵ, bits) for a batch: W, Ŵ (B, m, n), Σ (B, n, n) or None, bits per weight a number
        or a tensor (B,).
    sigmas : of `covariances`; None hands the scheme no Σ.
    executor : any `concurrent.futures.Executor`; the batches are spread over its workers.  The scheme
        must then be something it can send (for processes: a function of a module, not a lambda).
    numbers : most numbers in a batch, as in `stacks`.
    keep : if False only the report is made, and the model stays as it is.

    Raises ValueError if the scheme returns another shape or numbers that are not finite.  Batches done
    before that stay quantized; `LanguageModel.restore` gives all layers their own weights back.
    """
    batches, report, w = stacks(model, sigmas, numbers), [], weights(model)

    def operands():
        for batch in batches:
            W = torch.stack([torch.cat([w[n] for n in names]) for names in batch])
            yield W, None if sigmas is None else torch.stack([sigmas[names[0]] for names in batch])
    if executor is None:
        results = (_apply(scheme, *pair) for pair in operands())
    else:
        jobs = [executor.submit(_apply, scheme, *pair) for pair in operands()]
        results = (job.result() for job in jobs)
    for batch, (W_hat, bits, errors) in zip(batches, tqdm(results, total=len(batches), desc="layers", disable=not progress), strict=True):
        for k, names in enumerate(batch):
            heights = [len(w[n]) for n in names]
            report.append(Layer(names, float(bits[k]), float(errors[k].mean()), W_hat[k].numel(),
                                tuple(float(e.mean()) for e in errors[k].split(heights))))
            for name, rows in zip(names, W_hat[k].split(heights), strict=True) if keep else ():
                w[name].copy_(rows)
        tidy()
    return report


def bits_per_weight(report: list[Layer]) -> float:
    """The mean over all weights of a model."""
    return sum(r.bits * r.numbers for r in report) / sum(r.numbers for r in report)


def _apply(scheme, W, sigma):
    W_hat, bits = scheme(W, sigma)
    if W_hat.shape != W.shape:
        raise ValueError(f"scheme must return weights of shape {tuple(W.shape)}; got {tuple(W_hat.shape)}")
    if not _all_finite(W_hat):
        raise ValueError("scheme must return finite weights")
    return W_hat, torch.as_tensor(bits, dtype=torch.float64).expand(len(W)), _rows(W, W_hat, sigma)
