"""Number formats against torchao, bitsandbytes and gfloat, which computes in exact float64.  Collected only when named: pytest tests/oracles."""
import numpy as np
import pytest
import torch

from lecturelib.quantization import blocks, float_formats

torchao = pytest.importorskip("torchao")
bitsandbytes = pytest.importorskip("bitsandbytes")
gfloat = pytest.importorskip("gfloat")


def numbers(seed=0):
    """Gaussian blocks, and blocks whose maximum is at, just below and just above powers of two and 1.75, 6 times them."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(1024, 512, generator=g)
    edges = torch.tensor([f * 2.0**k for f in (1.0, 1.5, 1.75, 1.96875, 1.25) for k in range(-8, 9)])
    edges = torch.cat((edges, torch.nextafter(edges, torch.tensor(0.0)), torch.nextafter(edges, torch.tensor(1e9))))
    rows = torch.randn(len(edges), 32, generator=g).clamp(-3, 3) / 4 * edges[:, None]
    rows[:, 5] = edges
    return torch.cat((x.view(-1, 32), rows))


@pytest.mark.parametrize("element, dtype", [("e2m1", "float4_e2m1fn_x2"), ("e4m3fn", "float8_e4m3fn"), ("e5m2", "float8_e5m2")])
@pytest.mark.parametrize("rule", blocks.POWERS)
def test_torchao_mx(element, dtype, rule):
    from torchao.prototype.mx_formats.mx_tensor import ScaleCalculationMode, to_mx
    x, fmt = numbers(), blocks.mx(element, rule)
    if rule == "rceil":        # torchao takes a maximum one unit in the last place above max * 2^k for that number itself
        below = torch.nextafter(x.abs().amax(1), torch.tensor(0.0)).double() / fmt.top
        x = x[torch.frexp(below)[0] != 0.5]
    scale, data = to_mx(x, getattr(torch, dtype), 32, ScaleCalculationMode[rule.upper()])
    ours = blocks.encode(x, fmt)
    assert torch.equal(scale.view(torch.uint8).view(-1), ours.scales.view(torch.uint8).view(-1))
    if element == "e2m1":
        assert torch.equal(data.view(torch.uint8).view(len(x), -1), ours.codes[:, ::2] | ours.codes[:, 1::2] << 4)
    else:
        assert torch.equal(data.view(torch.uint8).view(len(x), -1), ours.codes)


def test_torchao_nvfp4():
    from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize
    x = torch.randn(512, 256, generator=torch.Generator().manual_seed(1))
    ours = blocks.encode(x, blocks.nvfp4())
    scale, data = nvfp4_quantize(x, 16, ours.matrix.view(()))
    assert float((scale.view(torch.uint8).view(-1) != ours.scales.view(torch.uint8).view(-1)).float().mean()) < 1e-3
    same = ours.codes[:, ::2] | ours.codes[:, 1::2] << 4
    assert float((data.view(torch.uint8).view(same.shape) != same).float().mean()) < 1e-3


@pytest.mark.parametrize("block", [64, 128])
def test_bitsandbytes_nf4(block):
    from bitsandbytes.functional import quantize_4bit
    x = torch.randn(512, 256, generator=torch.Generator().manual_seed(2))
    packed, state = quantize_4bit(x, blocksize=block, quant_type="nf4")
    ours = blocks.encode(x, blocks.nf4(block))
    assert torch.allclose(state.code.float(), ours.levels, atol=2e-7)
    assert torch.equal(state.absmax.view(-1), ours.scales.view(-1))
    flat = ours.codes.view(-1)
    assert torch.equal(packed.view(-1), flat[::2] << 4 | flat[1::2])


@pytest.mark.parametrize("name, other", [("e2m1", "ocp_e2m1"), ("e2m3", "ocp_e2m3"), ("e3m2", "ocp_e3m2"), ("e4m3fn", "ocp_e4m3"), ("e5m2", "ocp_e5m2"),
                                         ("float16", "binary16"), ("bfloat16", "bfloat16")])
def test_gfloat_on_every_number_and_midpoint(name, other):
    from gfloat import formats
    fmt, theirs = float_formats.FORMATS[name], getattr(formats, f"format_info_{other}")
    p = float_formats.points(fmt)
    x = torch.cat((p, (p[1:] + p[:-1]) / 2)).float()
    x = torch.cat((x, torch.nextafter(x, torch.tensor(torch.inf)), torch.nextafter(x, torch.tensor(-torch.inf)), 3 * p.float()))
    x = x[torch.isfinite(x)]
    expected = torch.from_numpy(gfloat.round_ndarray(theirs, x.double().numpy(), sat=True)).float()
    found = float_formats.quantize(x, fmt)
    assert torch.equal(found, expected) and torch.equal(torch.signbit(found), torch.signbit(expected))


def adversarial(element):
    """Blocks of ties, with a maximum at, just below and just above a power of two, from the largest scale down to below the smallest."""
    p = float_formats.points(float_formats.FORMATS[element])
    ties = ((p[1:] + p[:-1]) / 2).float()
    rows = torch.nn.functional.pad(ties, (0, -len(ties) % 31)).view(-1, 31)
    top = 2.0**np.floor(np.log2(float_formats.FORMATS[element].maximum))
    for k in (*range(-149, -118), *range(-20, 21), *range(110, 126)):
        for j, most in enumerate((1.0, 1.9999999, 1.0000001, 1.5)):
            first = torch.full((len(rows), 1), top * most)
            yield torch.cat((first, rows.clamp(-top, top)), 1) * 2.0**(k - np.log2(top))


@pytest.mark.parametrize("element", ["e2m1", "e2m3", "e3m2", "e4m3fn", "e5m2"])
def test_gfloat_on_adversarial_mx_blocks(element):
    from gfloat import formats
    x = torch.cat(list(adversarial(element)))
    x = x[(x.abs() > 0).any(1)]
    kind = f"mxfp{float_formats.FORMATS[element].bits}_{element.removesuffix('fn')}"
    theirs = getattr(formats, f"format_info_{kind}")
    def power(emax, v):                                    # gfloat's own takes a logarithm, wrong just below a power of two
        return 2.0**np.clip(np.frexp(np.abs(v).max())[1] - 1 - emax, -127, 127)
    expected = torch.from_numpy(np.stack([gfloat.quantize_block(theirs, v, power) for v in x.double().numpy()]))
    found = blocks.quantize(x, blocks.mx(element)).double()
    assert torch.equal(found, expected.float().double())
    assert len(x) > 300 and float((found == x).double().mean()) < 0.9
