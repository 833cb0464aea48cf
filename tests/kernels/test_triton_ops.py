"""The smaller Triton kernels in the interpreter, beside what tests/bench/device/test_gpu.py has of the GPU command."""

import pytest
import torch

from headwater.bench.device.gpu.interpreted import dots_in_steps
from headwater.bench.device.gpu.setup import compare
from headwater.kernels import StepBatch, load_backend
from headwater.kernels.triton import (
    TritonLinear,
    gelu_tanh_and_mul,
    pack_linear,
    pack_quantized,
    quantize_linear,
    rope_and_write,
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


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("rows", [3, 257])  # each segment a program of its own, and not
def test_an_activation_in_the_linear_has_the_bits_of_two_launches(activation, rows):
    x = torch.randn(rows, 1040, dtype=torch.float16)
    weight, bias = torch.randn(80, 1040).half(), torch.randn(80).half()  # a tile, and a part of one
    linear = pack_linear(weight, bias)
    assert linear.can_gate()
    act = silu_and_mul if activation == "silu" else gelu_tanh_and_mul
    with dots_in_steps():
        assert torch.equal(linear.gated(x, activation), act(linear(x)))
    assert not pack_linear(weight[:72]).can_gate()


@pytest.mark.parametrize("rows", [3, 257])
def test_a_rotation_in_the_linear_has_the_bits_of_two_launches(rows):
    q_heads, kv_heads, head_dim, page_size = 3, 1, 48, 4  # heads across tiles
    x, weight = torch.randn(rows, 1040).half(), torch.randn(5 * head_dim, 1040).half()
    cos_sin = torch.rand(rows + 7, head_dim)
    positions = torch.randperm(rows + 7, dtype=torch.int32)[:rows]
    slots = torch.randperm(4 * page_size * 65)[:rows]
    batch = StepBatch(positions, slots, positions, positions, positions[:, None])
    made = [torch.zeros(4 * 65, kv_heads, page_size, head_dim, dtype=torch.float16) for _ in range(4)]
    linear = pack_linear(weight)
    assert (linear.can_rotate(head_dim), linear.can_rotate(40)) == (True, False)
    with dots_in_steps():
        q = linear.rotated(x, cos_sin, batch, *made[:2], 0.5, 2.0)
        want = rope_and_write(linear(x), cos_sin, batch, *made[2:], None, 0.5, 2.0)
    assert want.shape == (rows, q_heads, head_dim)
    for got, expected in ((q, want), (made[0], made[2]), (made[1], made[3])):
        assert expected.any()
        assert torch.equal(got, expected)
