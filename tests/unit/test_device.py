"""The kernels run where their input lives and give the CPU's results: `pytest --device cuda`."""
import pytest
import torch
from lecturelib.quantization import uniform

KERNELS = {
    "quantize": lambda x: uniform.quantize(x, 0.1, bounds=(-8, 7)),
    "quantize, mid-rise": lambda x: uniform.quantize(x, 0.1, offset=0.5),
    "encode": lambda x: uniform.encode(x, 0.1),
    "decode": lambda x: uniform.decode(uniform.encode(x, 0.1), 0.1, dtype=x.dtype),
}


@pytest.fixture
def device(request):
    return torch.device(request.config.option.device)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", KERNELS)
def test_same_result_where_the_input_lives(kernel, dtype, device):
    x = torch.randn(1 << 12, generator=torch.Generator().manual_seed(0)).to(dtype)
    there = KERNELS[kernel](x.to(device))
    assert there.device.type == device.type
    assert torch.equal(there.cpu(), KERNELS[kernel](x))
