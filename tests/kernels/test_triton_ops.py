"""The smaller Triton kernels in the interpreter, beside what tests/bench/device/test_gpu.py has of the GPU command."""

import pytest
import torch

from headwater.bench.device.gpu.setup import compare
from headwater.kernels import load_backend
from headwater.kernels.triton import (
    TritonLinear,
    gelu_tanh_and_mul,
    pack_linear,
    pack_quantized,
    quantize_linear,
    silu_and_mul,
)
from headwater.kernels.triton.linear import VendorLinear


def test_gated_activations_do_not_overflow():
    gate_up = torch.tensor([[-1e30, 1e30, -100.0, 100.0, 1.0, 1.0, 1.0, 1.0]])
    want = torch.tensor([[0.0, 1e30, 0.0, 100.0]])
    torch.testing.assert_close(silu_and_mul(gate_up), want)
    torch.testing.assert_close(gelu_tanh_and_mul(gate_up)[:, 2:], want[:, 2:])


def test_a_linear_without_a_bias():
    x, weight = torch.randn(3, 7), torch.randn(5, 7)
    assert compare("", pack_linear(weight)(x), x.double() @ weight.double().T).holds


def test_without_exactness_the_vendors_library_has_the_linears():
    weight, x = torch.randn(5, 7, dtype=torch.float16), torch.randn(3, 7, dtype=torch.float16)
    exact, vendors = (load_backend("triton", exact).pack_linear(weight) for exact in (True, False))
    assert (type(exact), type(vendors)) == (TritonLinear, VendorLinear)
    assert torch.equal(vendors(x), x @ weight.T)
    assert compare("", exact(x), x.double() @ weight.double().T).holds
    assert load_backend("cpu", exact=False) is load_backend("cpu")


@pytest.mark.parametrize(("dtype", "half_a_step"), [(torch.int8, 1 / 254), (torch.float8_e4m3fn, 1 / 16)])
def test_a_weight_is_rounded_to_8_bits_and_can_be_packed_again(dtype, half_a_step):
    x, weight, bias = torch.randn(17, 272), torch.randn(130, 272), torch.randn(130)
    linear = quantize_linear(weight, bias, dtype)
    rounded = linear.weight.double() * linear.scale.double()[:, None]
    assert (rounded - weight).abs().max() <= weight.abs().max() * half_a_step
    assert torch.equal(pack_quantized(linear.weight, linear.scale, bias)(x), linear(x))
