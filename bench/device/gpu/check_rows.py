"""The row-wise kernels and the 8-bit linear against their formulas in float64."""

from typing import get_args

import torch

from ....kernels import PlainActivation, StepBatch
from ....kernels.triton import (
    QkNorm,
    act,
    add_layer_norm,
    add_rms_norm,
    clamped_silu_and_mul,
    gelu_tanh_and_mul,
    layer_norm,
    pack_linear,
    quantize_linear,
    rms_norm,
    rope_and_write,
    silu_and_mul,
    xielu,
)
from .formulas import activated, bent, gated_clamped, gated_gelu, gated_silu, layer_normalised, normalised, rotated
from .setup import Results, Setup, compare, equal, need_fp8


def check_norms(setup: Setup) -> Results:
    """rms_norm, add_rms_norm; a width that is no power of two, Gemma's offset, independence of the batch."""
    for rows, hidden in (
        [(3, 1), (3, 64), (8, 576), (3, 4096)] if setup.tiny else [(1, 4096), (64, 4096), (2048, 3584), (77, 576)]
    ):
        x, residual = setup.randn(rows, hidden), setup.randn(rows, hidden, seed=1)
        weight = setup.randn(hidden, seed=2)
        for offset in (0.0, 1.0):
            want = normalised(x.double(), weight, 1e-5, offset)
            yield compare(f"rms_norm {rows} x {hidden}, offset {offset:.0f}", rms_norm(x, weight, 1e-5, offset), want)
        total = x.double() + residual.double()
        alone = add_rms_norm(x[-1:].clone(), residual[-1:].clone(), weight, 1e-5)
        got = add_rms_norm(x, residual, weight, 1e-5)
        yield compare(f"add_rms_norm {rows} x {hidden}", got, normalised(total, weight, 1e-5))
        yield equal(f"add_rms_norm {rows} x {hidden}: the sum", residual, total.to(setup.dtype))
        yield equal(f"add_rms_norm {rows} x {hidden}: a row alone", got[-1:], alone)


def check_layer_norms(setup: Setup) -> Results:
    """layer_norm, add_layer_norm, with a bias and without; rows far from zero; independence of the batch."""
    for rows, hidden in (
        [(3, 2), (3, 64), (8, 576), (3, 2048)] if setup.tiny else [(1, 4096), (64, 4096), (2048, 3584), (77, 576)]
    ):
        x, residual = setup.randn(rows, hidden) + 3.0, setup.randn(rows, hidden, seed=1)
        weight = setup.randn(hidden, seed=2)
        for bias in (None, setup.randn(hidden, seed=3)):
            name = f"{rows} x {hidden}, bias {bias is not None}"
            want = layer_normalised(x.double(), weight, bias, 1e-5)
            yield compare(f"layer_norm {name}", layer_norm(x, weight, bias, 1e-5), want)
            total, carried = x.double() + residual.double(), residual.clone()
            alone = add_layer_norm(x[-1:].clone(), residual[-1:].clone(), weight, bias, 1e-5)
            got = add_layer_norm(x, carried, weight, bias, 1e-5)
            yield compare(f"add_layer_norm {name}", got, layer_normalised(total, weight, bias, 1e-5))
            yield equal(f"add_layer_norm {name}: the sum", carried, total.to(setup.dtype))
            yield equal(f"add_layer_norm {name}: a row alone", got[-1:], alone)


def check_activations(setup: Setup) -> Results:
    """SiLU and GELU, gated; GELU, ReLU and xIELU without a gate."""
    for rows, width in (
        [(3, 1), (2, 1536), (3, 2500)] if setup.tiny else [(1, 14336), (64, 14336), (2048, 10240), (7, 2500)]
    ):
        gate_up = setup.randn(rows, 2 * width) * 4
        yield compare(f"silu_and_mul {rows} x {width}", silu_and_mul(gate_up), gated_silu(gate_up))
        yield compare(f"gelu_tanh_and_mul {rows} x {width}", gelu_tanh_and_mul(gate_up), gated_gelu(gate_up))
        got, want = clamped_silu_and_mul(gate_up, 1.702, 7.0), gated_clamped(gate_up, 1.702, 7.0)
        yield compare(f"clamped_silu_and_mul {rows} x {width}", got, want)
        for kind in get_args(PlainActivation):
            yield compare(f"{kind} {rows} x {2 * width}", act(gate_up, kind), activated(gate_up, kind))
        factors = (0.7, 1.2, 0.5, -1e-6)
        yield compare(f"xielu {rows} x {2 * width}", xielu(gate_up, *factors), bent(gate_up, *factors))


def normalised_and_rotated(
    x: torch.Tensor, weight: torch.Tensor | None, norm: QkNorm | None, cos_sin: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Heads of Q or K, [rows, heads, head_dim] in float64, whose norm's weights are ``weight``."""
    if norm is None or weight is None:
        return rotated(x, cos_sin, positions)
    weight = weight.view(-1, x.shape[-1])
    if norm.after:
        return normalised(rotated(x, cos_sin, positions), weight, norm.eps, norm.weight_offset)
    if norm.kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    return rotated(normalised(x, weight, norm.eps, norm.weight_offset), cos_sin, positions)


def check_rope_and_write(setup: Setup) -> Results:
    """With each QK-norm and without: Q, what is in the slots, and that nothing else was written."""
    shapes = [(9, 3, 64), (4, 4, 80), (7, 1, 128), (2, 1, 256)]
    for q_heads, kv_heads, head_dim in shapes if setup.tiny else [*shapes, (32, 8, 128), (28, 4, 128)]:
        rows, page_size = (5, 16) if setup.tiny else (300, 16)
        pages = rows // page_size + 3
        qkv = setup.randn(rows, (q_heads + 2 * kv_heads) * head_dim)
        angles = setup.randn(512, head_dim // 2, dtype=torch.float32) * 3
        cos_sin = torch.cat([angles.cos(), angles.sin()], -1)
        positions = torch.arange(rows, dtype=torch.int32, device=setup.device)
        slots = torch.randperm(pages * page_size - page_size, generator=torch.Generator().manual_seed(0))[:rows]
        slots = (slots + page_size).to(setup.device)
        batch = StepBatch(positions, slots, *(setup.int32([0]),) * 3)
        q_weight, k_weight = (setup.randn(count * head_dim, seed=3) for count in (q_heads, kv_heads))
        shared = q_weight[:head_dim], k_weight[:head_dim]
        for what, norm in (
            ("", None),
            (", QK-norm", QkNorm(*shared, 1e-6, 1.0)),
            (", LayerNorm with weights of each head", QkNorm(q_weight, k_weight, 1e-6, kind="layer")),
            (", QK-norm after the rotation", QkNorm(*shared, 1e-6, after=True)),
        ):
            shape = (pages, kv_heads, page_size, head_dim)
            k_pages = torch.full(shape, torch.nan, dtype=setup.dtype, device=setup.device)
            v_pages = k_pages.clone()
            q = rope_and_write(qkv, cos_sin, batch, k_pages, v_pages, norm)
            heads = qkv.view(rows, -1, head_dim)
            parts = heads[:, :q_heads].double(), heads[:, q_heads:-kv_heads].double()
            weights = (None, None) if norm is None else (norm.q_weight, norm.k_weight)
            want_q, want_k = (
                normalised_and_rotated(part, weight, norm, cos_sin, positions)
                for part, weight in zip(parts, weights, strict=True)
            )
            name = f"rope_and_write {q_heads}/{kv_heads} x {head_dim}{what}"
            yield compare(f"{name}: Q", q, want_q)
            at = (slots // page_size, slice(None), slots % page_size)
            yield compare(f"{name}: K", k_pages[at], want_k)
            yield equal(f"{name}: V", v_pages[at], heads[:, -kv_heads:])
            k_pages[at] = v_pages[at] = torch.nan
            untouched = k_pages.isnan().all() & v_pages.isnan().all()
            yield equal(f"{name}: nothing else written", untouched.cpu(), torch.tensor(True))


def check_norm_of_all_heads(setup: Setup) -> Results:
    """A QK-norm over the whole width of Q and of K."""
    for q_heads, kv_heads, head_dim in [(4, 4, 80), (9, 3, 64)] if setup.tiny else [(32, 32, 128), (40, 8, 128)]:
        rows = 3 if setup.tiny else 300
        qkv = setup.randn(rows, (q_heads + 2 * kv_heads) * head_dim)
        heads = qkv.clone().view(rows, -1, head_dim)
        angles = setup.randn(rows, head_dim // 2, dtype=torch.float32) * 3
        cos_sin = torch.cat([angles.cos(), angles.sin()], -1)
        positions = torch.arange(rows, dtype=torch.int32, device=setup.device)
        batch = StepBatch(positions, positions.long() + 16, *(setup.int32([0]),) * 3)
        k_pages = setup.randn(rows // 16 + 2, kv_heads, 16, head_dim)
        v_pages = k_pages.clone()
        q_weight, k_weight = setup.randn(q_heads * head_dim, seed=3), setup.randn(kv_heads * head_dim, seed=4)
        q = rope_and_write(qkv, cos_sin, batch, k_pages, v_pages, QkNorm(q_weight, k_weight, 1e-6, whole=True))
        # What is rotated is the rounded norm, as in the models that have it.
        want_q, want_k = (
            normalised(part.flatten(1), weight, 1e-6).to(setup.dtype).unflatten(1, (-1, head_dim))
            for part, weight in ((heads[:, :q_heads], q_weight), (heads[:, q_heads:-kv_heads], k_weight))
        )
        name, slots = f"norm of all heads {q_heads}/{kv_heads} x {head_dim}", positions.long() + 16
        yield compare(f"{name}: Q", q, rotated(want_q, cos_sin, positions))
        at = (slots // 16, slice(None), slots % 16)
        yield compare(f"{name}: K", k_pages[at], rotated(want_k, cos_sin, positions))
        yield equal(f"{name}: V", v_pages[at], heads[:, -kv_heads:])


def check_fp8_pages(setup: Setup) -> Results:
    """An fp8 cache holds K and V over their scales; what does not fit saturates. Values are exact in fp8."""
    need_fp8(setup)
    head_dim, slots = 64, torch.tensor([16, 33], device=setup.device)
    qkv = torch.randint(-7, 8, (2, 3 * head_dim), generator=torch.Generator().manual_seed(0)).to(setup.dtype)
    qkv[0, -1] = 3e4
    qkv = qkv.to(setup.device)
    cos_sin = torch.cat([torch.ones(1, 32), torch.zeros(1, 32)], -1).to(setup.device)
    batch = StepBatch(setup.int32([0, 0]), slots, *(setup.int32([0]),) * 3)
    k_pages = torch.zeros(3, 1, 16, head_dim, dtype=torch.float8_e4m3fn, device=setup.device)
    v_pages = torch.zeros_like(k_pages)
    rope_and_write(qkv, cos_sin, batch, k_pages, v_pages, k_scale=0.25, v_scale=0.5)
    for name, pages, first, scale in (("K", k_pages, 64, 0.25), ("V", v_pages, 128, 0.5)):
        want = (qkv[:, first : first + 64].float() / scale).clamp(-448, 448)
        yield equal(f"fp8 pages: {name}", pages.view(48, head_dim)[slots].float(), want)


def check_linears(setup: Setup) -> Results:
    """int8 and fp8 weights against the rounded weights in float64; the unquantised one against its own."""
    shapes = [(1, 64, 33), (17, 272, 130), (65, 64, 130), (130, 272, 33)]
    large = [(1, 4096, 6144), (16, 14336, 4096), (64, 4096, 28672), (128, 3584, 4608), (300, 4096, 4096)]
    for rows, inputs, outputs in shapes if setup.tiny else [*shapes, *large]:
        x, weight = setup.randn(rows, inputs), setup.randn(outputs, inputs, seed=1)
        bias = setup.randn(outputs, seed=2)
        want = x.double() @ weight.double().T + bias.double()
        yield compare(f"linear {rows} x {inputs} -> {outputs}", pack_linear(weight, bias)(x), want)
        for dtype in (torch.int8, torch.float8_e4m3fn)[: 1 + setup.converts_fp8]:
            linear = quantize_linear(weight, bias, dtype)
            assert linear.scale is not None
            rounded = linear.weight.to(torch.float32).double() * linear.scale.double()[:, None]
            want = x.double() @ rounded.T + bias.double()
            name = f"{str(dtype).removeprefix('torch.')} linear {rows} x {inputs} -> {outputs}"
            got = linear(x)
            yield compare(name, got, want)
            yield equal(f"{name}: again", linear(x), got)
