"""Perplexity of the bundled language model under every scheme for its weights, at rates from 2 to 4 bits.

The ratio is the perplexity of the model as it came over that of the quantized model: 1 is the best
possible.  Bits per weight count scales, zero points and step sizes; for the entropy-coded schemes they
are the ideal length of the adaptive coder.  Four windows of 512 tokens of held-out text, those of the
pages, whose summary figure takes from here what is too long for a page: a row's `result` is a record
as `lecturelib.ledger.results` takes it.
"""
import functools
import math
import time

from lecturelib.llm import language_model, layers
from lecturelib.quantization import gptq, layer_theory, sic
from torch import cat

SHRINK = (1.0, 0.9, 0.8, 0.7, 0.6)
GROUP, DAMPING = 64, 0.01

STUDY = True


def nearest(W, sigma, *, bits):
    return gptq.rtn(W, bits, GROUP, shrink=SHRINK if bits == 2 else (1.0,))


def fed(W, sigma, *, bits):
    return gptq.quantize(W, sigma, bits, GROUP, damping=DAMPING, shrink=SHRINK if bits == 2 else (1.0,))


def turned(W, sigma, *, bits):
    return gptq.rotated(W, sigma, functools.partial(fed, bits=bits))


def coded(W, sigma, *, scheme, **settings):
    return scheme(W, gptq.damped(sigma, DAMPING), **settings)


def schemes() -> dict:
    """Name of each scheme and the function; rates of the entropy-coded ones are those of the groups of 64."""
    rows = {}
    for b in (2, 3, 4):
        rows[f"RTN, {b} bits, groups of 64", "fixed"] = functools.partial(nearest, bits=b)
        rows[f"GPTQ, {b} bits, groups of 64", "fixed"] = functools.partial(fed, bits=b)
        rows[f"rotated GPTQ, {b} bits, groups of 64", "fixed"] = functools.partial(turned, bits=b)
    for b in (2, 3):
        rate = b + (16 + b) / GROUP
        rows[f"WaterSIC, {rate:.2f} bits", "entropy"] = functools.partial(coded, scheme=sic.watersic, rate=rate)
        rows[f"trellis of 8 states, {rate:.2f} bits", "entropy"] = functools.partial(coded, scheme=sic.trellis, rate=rate, states=8)
    for q in (4, 8):
        rows[f"nested $E_8$, rotated, q = {q}", "fixed"] = functools.partial(coded, scheme=sic.nested_e8, q=q)
    return rows


def gap(report, sigma, spectra, variances) -> float:
    """Mean over the weights of the bits above the limit of their layer."""
    bits = [(r.bits - float(layer_theory.needed_of_spectrum(spectra[id(sigma[r.names[0]])], r.loss, cat([variances[n] for n in r.names])))) * r.numbers
            for r in report]
    return sum(bits) / sum(r.numbers for r in report)


def measure() -> list[dict]:
    lm = language_model.load()
    calibration, held = language_model.texts()
    sigma = layers.covariances(lm.model, language_model.windows(lm.encode(calibration), 8))
    x = language_model.windows(lm.encode(held), 8)[::2]
    l0 = language_model.losses(lm.model, x)
    own, rows = language_model.perplexity(l0).value, []
    spectra = {id(S): layer_theory.spectrum(S) for S in {id(S): S for S in sigma.values()}.values()}
    variances = {n: w.square().mean(1) for n, w in layers.weights(lm.model).items()}
    for (name, kind), scheme in schemes().items():
        lm.restore()
        start = time.perf_counter()
        report = layers.quantize(lm.model, scheme, sigma, numbers=1 << 24)
        seconds = time.perf_counter() - start
        loss = language_model.losses(lm.model, x)
        value, (more, error) = language_model.perplexity(loss).value, language_model.excess(loss, l0)
        bits, above = layers.bits_per_weight(report), gap(report, sigma, spectra, variances)
        rows.append({"kernel": f"SmolLM2-135M, {name}", "ours": f"{value:.2f} at {bits:.3f} bits per weight",
                     "peer": f"unquantized {own:.2f}", "ratio": own / value, "spread": [math.exp(-more - 2 * error), math.exp(-more + 2 * error)],
                     "agreement": f"excess {more:.4f} nats, standard error {error:.4f}",
                     "result": {"problem": "perplexity", "scheme": name, "kind": kind, "rate": bits, "value": value, "error": value * error, "gap": above},
                     "note": f"{above:.3f} bit above the limit of the layers in the mean; quantized in {seconds:.0f} s"})
    return rows
