"""The smaller Triton kernels in the interpreter, against their formulas in float64."""

import pytest
import torch

from headwater.kernels import StepBatch
from headwater.kernels.triton import (
    QkNorm,
    add_rms_norm,
    gelu_tanh_and_mul,
    pack_linear,
    pack_quantized,
    quantize_linear,
    rms_norm,
    rope_and_write,
    silu_and_mul,
)

DTYPES = [(torch.float32, 1e-6), (torch.float16, 1e-3)]


def near(got, want, tolerance):
    return torch.linalg.norm(got.double() - want) <= tolerance * torch.linalg.norm(want)


def norm_oracle(h, weight, eps, offset=0.0):
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps) * (weight.double() + offset)


@pytest.mark.parametrize("hidden", [1, 64, 576, 4096])  # 576: not a power of two
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm(hidden, dtype, tolerance, offset):
    x, weight = torch.randn(3, hidden, dtype=dtype), torch.randn(hidden, dtype=dtype)
    want = norm_oracle(x.double(), weight, 1e-5, offset)
    assert near(rms_norm(x, weight, 1e-5, offset), want, tolerance)


@pytest.mark.parametrize("hidden", [1, 64, 576, 4096])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_add_rms_norm(hidden, dtype, tolerance):
    x, residual, weight = (torch.randn(*shape, dtype=dtype) for shape in ((3, hidden), (3, hidden), (hidden,)))
    h = x.double() + residual.double()
    assert near(add_rms_norm(x, residual, weight, 1e-5), norm_oracle(h, weight, 1e-5), tolerance)
    assert torch.equal(residual, h.to(dtype))


@pytest.mark.parametrize("width", [1, 1536, 2500])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_gated_activations(width, dtype, tolerance):
    gate_up = torch.randn(3, 2 * width).mul(4).to(dtype)
    gate, up = gate_up.double().chunk(2, -1)
    assert near(silu_and_mul(gate_up), torch.nn.functional.silu(gate) * up, tolerance)
    gelu = torch.nn.functional.gelu(gate, approximate="tanh")
    assert near(gelu_tanh_and_mul(gate_up), gelu * up, tolerance)


def test_gated_activations_do_not_overflow():
    gate_up = torch.tensor([[-1e30, 1e30, -100.0, 100.0, 1.0, 1.0, 1.0, 1.0]])
    want = torch.tensor([[0.0, 1e30, 0.0, 100.0]])
    torch.testing.assert_close(silu_and_mul(gate_up), want)
    torch.testing.assert_close(gelu_tanh_and_mul(gate_up)[:, 2:], want[:, 2:])


@pytest.mark.parametrize("bias", [None, torch.randn(5)])
def test_pack_linear(bias):
    x, weight = torch.randn(3, 7), torch.randn(5, 7)
    want = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    assert near(pack_linear(weight, bias)(x), want, 1e-6)


@pytest.mark.parametrize("rows", [1, 17, 65, 130])  # every tile, and more than the largest
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 33), (272, 130)])
@pytest.mark.parametrize("weight_dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantized_linear(rows, inputs, outputs, weight_dtype):
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    linear = quantize_linear(weight, bias, weight_dtype)
    rounded = linear.weight.double() * linear.scale.double()[:, None]
    assert (rounded - weight).abs().max() <= weight.abs().max() * (1 / 254 if weight_dtype == torch.int8 else 1 / 16)
    y = linear(x)
    assert near(y, x.double() @ rounded.T + bias, 1e-6)
    assert torch.equal(pack_quantized(linear.weight, linear.scale, bias)(x), y)


def rope_oracle(x, cos_sin, positions, norm=None, eps=0.0, offset=0.0):
    """[rows, heads, head_dim] in float64."""
    x = x.double()
    if norm is not None:
        x = norm_oracle(x, norm, eps, offset)
    cos, sin = cos_sin[positions.long()].double()[:, None].chunk(2, -1)
    x1, x2 = x.chunk(2, -1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)


@pytest.mark.parametrize(("q_heads", "kv_heads", "head_dim"), [(9, 3, 64), (4, 4, 80), (7, 1, 128), (2, 1, 256)])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("norm_offset", [None, 0.0, 1.0])
def test_rope_and_write(q_heads, kv_heads, head_dim, dtype, tolerance, norm_offset):
    rows, page_size, pages = 5, 16, 4
    qkv = torch.randn(rows, (q_heads + 2 * kv_heads) * head_dim).to(dtype)
    angles = torch.rand(100, head_dim // 2) * 6
    cos_sin = torch.cat([angles.cos(), angles.sin()], -1)
    positions = torch.tensor([0, 99, 3, 4, 0], dtype=torch.int32)
    slots = torch.tensor([16, 63, 40, 17, 0])  # page edges; the last row is padding
    batch = StepBatch(positions, slots, *(torch.zeros(1, dtype=torch.int32),) * 3)
    k_pages = torch.full((pages, kv_heads, page_size, head_dim), torch.nan, dtype=dtype)
    v_pages = k_pages.clone()
    norm = None
    if norm_offset is not None:
        norm = QkNorm(torch.randn(head_dim).to(dtype), torch.randn(head_dim).to(dtype), 1e-6, norm_offset)

    q = rope_and_write(qkv, cos_sin, batch, k_pages, v_pages, norm)

    heads = qkv.view(rows, -1, head_dim)
    weights = (norm.q_weight, norm.k_weight) if norm else (None, None)
    want_q, want_k = (
        rope_oracle(part, cos_sin, positions, weight, 1e-6, norm_offset or 0.0)
        for part, weight in zip((heads[:, :q_heads], heads[:, q_heads:-kv_heads]), weights, strict=True)
    )
    assert near(q, want_q, tolerance)
    assert near(k_pages[slots // page_size, :, slots % page_size], want_k, tolerance)
    assert torch.equal(v_pages[slots // page_size, :, slots % page_size], heads[:, -kv_heads:])
    # Nothing but these slots was written.
    for written in (k_pages, v_pages):
        written[slots // page_size, :, slots % page_size] = torch.nan
        assert written.isnan().all()


def test_fp8_pages_hold_scaled_values_and_saturate():
    head_dim, slots = 64, torch.tensor([16, 33])
    qkv = torch.randint(
        -7, 8, (2, 3 * head_dim)
    ).float()  # exact in fp8: the interpreter rounds other values its own way
    qkv[0, -1] = 1e6
    cos_sin = torch.cat([torch.ones(1, 32), torch.zeros(1, 32)], -1)  # no rotation
    batch = StepBatch(torch.zeros(2, dtype=torch.int32), slots, *(torch.zeros(1, dtype=torch.int32),) * 3)
    k_pages = torch.zeros(3, 1, 16, head_dim, dtype=torch.float8_e4m3fn)
    v_pages = torch.zeros_like(k_pages)
    rope_and_write(qkv, cos_sin, batch, k_pages, v_pages, k_scale=0.25, v_scale=0.5)
    for pages, values, scale in ((k_pages, qkv[:, 64:128], 0.25), (v_pages, qkv[:, 128:], 0.5)):
        want = (values / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        assert torch.equal(pages.view(48, head_dim)[slots].float(), want.float())


def test_a_row_does_not_depend_on_its_batch():
    x, residual, weight = torch.randn(8, 576), torch.randn(8, 576), torch.randn(576)
    alone = add_rms_norm(x[3:4].clone(), residual[3:4].clone(), weight, 1e-5)
    assert torch.equal(add_rms_norm(x, residual, weight, 1e-5)[3:4], alone)
