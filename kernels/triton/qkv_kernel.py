"""The linear of Q, K and V, with their rotation and the write to the pages: linear_kernel.py and rope.py in one launch.

A tile has 8 outputs of a head's first half and 8 of its second in turn, so that a thread has what is rotated together.
Sums are rounded to the rows' dtype before, as where they were written between two launches: the same bits.
"""

import triton
import triton.language as tl

from .linear_kernel import finished, halves, in_turn, place_of_tile, tile_sums
from .rope import rotated, store_page


@triton.jit
def _write_tile(
    value,  # [BLOCK_OUTPUTS, BLOCK_ROWS] as they would be written, both halves of heads in turn
    q_ptr, cos_sin_ptr, positions_ptr, slots_ptr, k_ptr, v_ptr, k_inverse_scale, v_inverse_scale,
    row, row_mask, first_output,
    OUTPUTS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE_SIZE: tl.constexpr,
):  # fmt: skip
    HALF: tl.constexpr = HEAD_DIM // 2
    Q_HEADS: tl.constexpr = OUTPUTS // HEAD_DIM - 2 * KV_HEADS
    x1, x2 = halves(value)
    x1, x2 = tl.trans(x1).to(tl.float32), tl.trans(x2).to(tl.float32)
    pair = first_output // 2 + tl.arange(0, value.shape[0] // 2)[None, :]
    head, col = pair // HALF, pair % HALF
    row, row_mask = row.to(tl.int64)[:, None], row_mask[:, None]
    mask = row_mask & (pair < OUTPUTS // 2)
    angles = cos_sin_ptr + tl.load(positions_ptr + row, mask=row_mask, other=0).to(tl.int64) * HEAD_DIM + col
    cos, sin = tl.load(angles, mask=mask, other=0.0), tl.load(angles + HALF, mask=mask, other=0.0)
    is_q, is_v = head < Q_HEADS, head >= Q_HEADS + KV_HEADS
    y1, y2 = rotated(x1, x2, cos, sin, is_v)
    q_ptrs = q_ptr + (row * Q_HEADS + head) * HEAD_DIM + col
    tl.store(q_ptrs, y1.to(q_ptr.dtype.element_ty), mask=mask & is_q)
    tl.store(q_ptrs + HALF, y2.to(q_ptr.dtype.element_ty), mask=mask & is_q)
    slot = tl.load(slots_ptr + row, mask=row_mask, other=0)
    kv_head = (head - Q_HEADS) % KV_HEADS
    at = ((slot // PAGE_SIZE * KV_HEADS + kv_head) * PAGE_SIZE + slot % PAGE_SIZE) * HEAD_DIM + col
    is_k = (head >= Q_HEADS) & (head < Q_HEADS + KV_HEADS)
    store_page(k_ptr + at, y1 * k_inverse_scale, mask & is_k)
    store_page(k_ptr + at + HALF, y2 * k_inverse_scale, mask & is_k)
    store_page(v_ptr + at, y1 * v_inverse_scale, mask & is_v)
    store_page(v_ptr + at + HALF, y2 * v_inverse_scale, mask & is_v)


@triton.jit(do_not_specialize=["rows"])
def qkv_kernel(
    x_ptr,  # [rows, INPUTS]
    weight_ptr,  # [OUTPUTS, INPUTS]: heads of Q, K and V
    scale_ptr,  # fp32 [OUTPUTS], read with SCALED
    bias_ptr,  # [OUTPUTS], read with BIAS
    q_ptr,  # [rows, Q_HEADS, HEAD_DIM] out
    partial_ptr, arrived_ptr,  # see linear_kernel, like what is not explained below
    rows,
    cos_sin_ptr,  # fp32 [max_positions, HEAD_DIM]: cosines of the half dims, then sines
    positions_ptr,  # int32 [rows]
    slots_ptr,  # int64 [rows]
    k_ptr,  # [pages, KV_HEADS, PAGE_SIZE, HEAD_DIM] out
    v_ptr,  # like k_ptr
    k_inverse_scale,
    v_inverse_scale,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    SEGMENTS: tl.constexpr,
    SEGMENT: tl.constexpr,
    SPLIT: tl.constexpr,
    SCALED: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
):  # fmt: skip
    row, first_output = place_of_tile(rows, OUTPUTS, BLOCK_ROWS, BLOCK_OUTPUTS, GROUP)
    output = first_output + tl.arange(0, BLOCK_OUTPUTS)
    row_mask, output_mask = row < rows, output < OUTPUTS
    output = in_turn(output, HEAD_DIM)
    acc, is_whole = tile_sums(
        x_ptr, weight_ptr, partial_ptr, arrived_ptr, row, output, row_mask, output_mask,
        OUTPUTS, INPUTS, SEGMENTS, SEGMENT, SPLIT, BLOCK_ROWS, BLOCK_OUTPUTS, BLOCK_INPUTS,
    )  # fmt: skip
    if is_whole:
        acc = finished(acc, scale_ptr, bias_ptr, output, output_mask, SCALED, BIAS)
        _write_tile(
            acc.to(q_ptr.dtype.element_ty), q_ptr, cos_sin_ptr, positions_ptr, slots_ptr, k_ptr, v_ptr,
            k_inverse_scale, v_inverse_scale, row, row_mask, first_output, OUTPUTS, KV_HEADS, HEAD_DIM, PAGE_SIZE,
        )  # fmt: skip
