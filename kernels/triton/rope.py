"""Between the QKV projection and attention: QK-norm, rotary embedding, KV-page write; one read of [rows, qkv].

    x  = x / sqrt(mean(x^2) + eps) * (weight + weight_offset)     Q and K heads, if the model has a QK-norm;
                                                                  as LayerNorm with x - mean(x) in place of x
    x1' = x1 * cos - x2 * sin,  x2' = x2 * cos + x1 * sin         Q and K heads; x1, x2: first and second half of a head

Su et al. 2021 (arXiv 2104.09864) in the NeoX layout; QK-norm as in Qwen3 and Gemma 3; OLMo 2's, over
all heads of a row, is a kernel of its own before. Q goes to a tensor of its own,
K and V go to their slots, divided by the cache's scale where the cache is fp8.
"""

import torch
import triton
import triton.language as tl

from .. import QkNorm, StepBatch
from .norm import row_block
from .tiles import check_pages

_HEADS = 4  # of a program: with 64 columns a half one 16-byte load a lane, and 10 programs a row for 8B models


@triton.jit
def store_page(ptr, x, mask):
    """Store fp32 ``x`` in the pointer's type; what an fp8 cache cannot hold becomes its largest value, not NaN."""
    if ptr.dtype.element_ty == tl.float8e4nv:
        x = tl.minimum(tl.maximum(x, -448.0), 448.0)
    tl.store(ptr, x.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def rotated(x1, x2, cos, sin, is_v):
    """Both halves of heads, rotated where they are not V's. Which product is rounded is not left to the compiler."""
    y1 = tl.where(is_v, x1, tl.fma(x1, cos, -(x2 * sin)))
    y2 = tl.where(is_v, x2, tl.fma(x2, cos, x1 * sin))
    return y1, y2


@triton.jit
def _rope_and_write_kernel(
    qkv_ptr,  # [rows, (Q_HEADS + 2 * KV_HEADS) * HEAD_DIM] in
    cos_sin_ptr,  # fp32 [max_positions, HEAD_DIM] in: cosines of the half dims, then sines
    positions_ptr,  # int32 [rows]
    slots_ptr,  # int64 [rows]
    q_ptr,  # [rows, Q_HEADS, HEAD_DIM] out
    k_ptr,  # [pages, KV_HEADS, PAGE_SIZE, HEAD_DIM] out
    v_ptr,  # like k_ptr
    q_weight_ptr,  # [HEAD_DIM], or with OWN_WEIGHTS [Q_HEADS, HEAD_DIM], read with NORM
    k_weight_ptr,  # like q_weight_ptr, of KV_HEADS
    eps,
    weight_offset,
    k_inverse_scale,
    v_inverse_scale,
    Q_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    NORM: tl.constexpr,  # "", "rms", "layer", or "after": RMSNorm of what was rotated
    OWN_WEIGHTS: tl.constexpr,  # each head has weights of its own
    HEADS: tl.constexpr,  # heads a program
    HALF_BLOCK: tl.constexpr,  # power of two >= HEAD_DIM / 2
):
    HALF: tl.constexpr = HEAD_DIM // 2
    row = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * HEADS + tl.arange(0, HEADS))[:, None]
    cols = tl.arange(0, HALF_BLOCK)[None, :]
    mask = (head < Q_HEADS + 2 * KV_HEADS) & (cols < HALF)

    source = qkv_ptr + (row * (Q_HEADS + 2 * KV_HEADS) + head) * HEAD_DIM + cols
    x1 = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    x2 = tl.load(source + HALF, mask=mask, other=0.0).to(tl.float32)
    is_q = head < Q_HEADS
    is_v = head >= Q_HEADS + KV_HEADS

    in_half = cols < HALF
    if NORM == "layer":
        mean = ((tl.sum(x1, axis=1) + tl.sum(x2, axis=1)) / HEAD_DIM)[:, None]
        x1 = tl.where(is_v, x1, tl.where(in_half, x1 - mean, 0.0))
        x2 = tl.where(is_v, x2, tl.where(in_half, x2 - mean, 0.0))
    if NORM != "":
        q_cols = cols
        k_cols = cols
        if OWN_WEIGHTS:
            q_cols = tl.where(is_q, head, 0) * HEAD_DIM + cols
            k_cols = tl.where(is_q | is_v, 0, head - Q_HEADS) * HEAD_DIM + cols
        q_weight1 = tl.load(q_weight_ptr + q_cols, mask=in_half, other=0.0).to(tl.float32)
        q_weight2 = tl.load(q_weight_ptr + HALF + q_cols, mask=in_half, other=0.0).to(tl.float32)
        k_weight1 = tl.load(k_weight_ptr + k_cols, mask=in_half, other=0.0).to(tl.float32)
        k_weight2 = tl.load(k_weight_ptr + HALF + k_cols, mask=in_half, other=0.0).to(tl.float32)
        weight1 = tl.where(is_q, q_weight1, k_weight1) + weight_offset
        weight2 = tl.where(is_q, q_weight2, k_weight2) + weight_offset
    if NORM == "rms" or NORM == "layer":
        scale = tl.rsqrt((tl.sum(x1 * x1, axis=1) + tl.sum(x2 * x2, axis=1)) / HEAD_DIM + eps)[:, None]
        x1 = tl.where(is_v, x1, x1 * scale * weight1)
        x2 = tl.where(is_v, x2, x2 * scale * weight2)

    angles = cos_sin_ptr + tl.load(positions_ptr + row).to(tl.int64) * HEAD_DIM + cols
    cos = tl.load(angles, mask=cols < HALF, other=0.0)
    sin = tl.load(angles + HALF, mask=cols < HALF, other=0.0)
    y1, y2 = rotated(x1, x2, cos, sin, is_v)
    if NORM == "after":
        scale = tl.rsqrt((tl.sum(y1 * y1, axis=1) + tl.sum(y2 * y2, axis=1)) / HEAD_DIM + eps)[:, None]
        y1 = tl.where(is_v, y1, y1 * scale * weight1)
        y2 = tl.where(is_v, y2, y2 * scale * weight2)

    q_target = q_ptr + (row * Q_HEADS + head) * HEAD_DIM + cols
    tl.store(q_target, y1.to(q_ptr.dtype.element_ty), mask=mask & is_q)
    tl.store(q_target + HALF, y2.to(q_ptr.dtype.element_ty), mask=mask & is_q)

    slot = tl.load(slots_ptr + row)
    page = slot // PAGE_SIZE
    kv_head = (head - Q_HEADS) % KV_HEADS
    kv_offset = ((page * KV_HEADS + kv_head) * PAGE_SIZE + slot % PAGE_SIZE) * HEAD_DIM + cols
    is_k = (head >= Q_HEADS) & (head < Q_HEADS + KV_HEADS)
    store_page(k_ptr + kv_offset, y1 * k_inverse_scale, mask & is_k)
    store_page(k_ptr + kv_offset + HALF, y2 * k_inverse_scale, mask & is_k)
    store_page(v_ptr + kv_offset, y1 * v_inverse_scale, mask & is_v)
    store_page(v_ptr + kv_offset + HALF, y2 * v_inverse_scale, mask & is_v)


@triton.jit
def _norm_width_kernel(
    qkv_ptr,  # [rows, Q_WIDTH + 2 * K_WIDTH] in, out
    q_weight_ptr,  # [Q_WIDTH]
    k_weight_ptr,  # [K_WIDTH]
    eps,
    weight_offset,
    Q_WIDTH: tl.constexpr,
    K_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two >= Q_WIDTH
):
    is_k = tl.program_id(1) == 1  # else Q
    width = tl.where(is_k, K_WIDTH, Q_WIDTH)
    cols = tl.arange(0, BLOCK)
    mask = cols < width
    x_ptrs = qkv_ptr + tl.program_id(0).to(tl.int64) * (Q_WIDTH + 2 * K_WIDTH) + tl.where(is_k, Q_WIDTH, 0) + cols
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / width + eps)
    if is_k:
        weight = tl.load(k_weight_ptr + cols, mask=mask, other=0.0).to(tl.float32)
    else:
        weight = tl.load(q_weight_ptr + cols, mask=mask, other=0.0).to(tl.float32)
    tl.store(x_ptrs, (x * scale * (weight + weight_offset)).to(qkv_ptr.dtype.element_ty), mask=mask)


def norm_width(qkv: torch.Tensor, qk_norm: QkNorm) -> None:
    """Normalise all of Q and all of K, in place."""
    q_width, k_width = qk_norm.q_weight.numel(), qk_norm.k_weight.numel()
    block, warps = row_block(max(q_width, k_width))
    _norm_width_kernel[(qkv.shape[0], 2)](
        qkv, qk_norm.q_weight, qk_norm.k_weight, qk_norm.eps, qk_norm.weight_offset,
        Q_WIDTH=q_width, K_WIDTH=k_width, BLOCK=block, num_warps=warps,
    )  # fmt: skip


def rope_and_write(
    qkv: torch.Tensor,
    cos_sin: torch.Tensor,
    batch: StepBatch,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    qk_norm: QkNorm | None = None,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Normalise and rotate Q and K, write K and V to their slots.

    Args:
        qkv: [rows, (q_heads + 2 * kv_heads) * head_dim], contiguous; overwritten by a QK-norm over all heads.
        cos_sin: fp32 [max_positions, head_dim]: cosines of the half dims, then sines.
        batch: gives every row its position and slot.
        k_pages: [pages, kv_heads, page_size, head_dim], contiguous, written; fp8 pages hold K / k_scale.
        v_pages: like ``k_pages``.
        qk_norm: weights of the QK-norm, None where the model has none.
        dtype: of Q; None: that of ``qkv``.

    Returns:
        Q, [rows, q_heads, head_dim] in ``dtype``.

    Raises Unsupported for fp8 pages on a GPU that is too old for them.
    """
    check_pages(k_pages)
    rows = qkv.shape[0]
    _, kv_heads, page_size, head_dim = k_pages.shape
    heads = qkv.shape[1] // head_dim
    q_heads = heads - 2 * kv_heads
    if qk_norm is not None and qk_norm.whole:
        norm_width(qkv, qk_norm)
        qk_norm = None
    q = qkv.new_empty(rows, q_heads, head_dim, dtype=dtype)
    _rope_and_write_kernel[(rows, triton.cdiv(heads, _HEADS))](
        qkv,
        cos_sin,
        batch.positions,
        batch.slots,
        q,
        k_pages,
        v_pages,
        qk_norm.q_weight if qk_norm else qkv,
        qk_norm.k_weight if qk_norm else qkv,
        qk_norm.eps if qk_norm else 0.0,
        qk_norm.weight_offset if qk_norm else 0.0,
        1.0 / k_scale,
        1.0 / v_scale,
        Q_HEADS=q_heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        PAGE_SIZE=page_size,
        NORM="" if qk_norm is None else "after" if qk_norm.after else qk_norm.kind,
        OWN_WEIGHTS=qk_norm is not None and qk_norm.q_weight.numel() > head_dim,
        HEADS=_HEADS,
        HALF_BLOCK=triton.next_power_of_2(head_dim // 2),
        num_warps=1,
    )
    return q
