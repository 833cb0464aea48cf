"""Causal attention of the rows of a step over the pages of their sequences.

    logit = c * (q . k), or with a soft cap s: log2(e) * s * tanh(scale * (q . k) / s);   c = scale * log2(e)
    out   = sum_positions exp2(logit - m) * v / sum_positions exp2(logit - m),   m = max logit of the row

Online softmax as in FlashAttention-2 (Dao 2023, arXiv 2307.08691), base 2; KV splits as in Flash-Decoding; pages as in
PagedAttention (Kwon et al. 2023, arXiv 2309.06180). A program packs the query heads that share a KV head with
the rows of its tile, so K and V are read once for all of them.

Every split is summed from an empty state, and splits are added up in their order: by the program itself where it reads
them all, by the merge kernel where each has a program of its own. Both give the same bits. Tiles sit at absolute
multiples of their size; a tile or split that a row does not see leaves its state exactly as it was.
"""

import torch
import triton
import triton.language as tl

from .. import StepBatch
from .activation import tanh
from .attention_plan import AttentionPlan
from .splits import split_of, split_start

_LOG2E = 1.4426950408889634
_MERGE_WARPS = 1  # a head is 64 to 256 fp32 values


@triton.jit
def _exp2_difference(x, m):
    """exp2(x - m), and 0 where both are -inf: nothing has been seen yet."""
    return tl.exp2(x - tl.where(m == float("-inf"), 0.0, m))


@triton.jit
def _add_state(m, total, acc, m_other, total_other, acc_other):
    """Log-sum-exp sum of two softmax states: max logit, sum of weights, weighted sum of V.

    Spelled with fma so that every kernel that inlines it rounds alike.
    """
    m_new = tl.maximum(m, m_other)
    a = _exp2_difference(m, m_new)
    b = _exp2_difference(m_other, m_new)
    total_new = tl.fma(total, a, total_other * b)
    return m_new, total_new, tl.fma(acc, tl.expand_dims(a, -1), acc_other * tl.expand_dims(b, -1))


@triton.jit
def _load_pages(table_ptr, start, kv_length, PAGE_SIZE: tl.constexpr, POSITIONS: tl.constexpr):
    """Pages of the positions of a tile, int32; the trash page past the end of the sequence."""
    positions = start + tl.arange(0, POSITIONS)
    return tl.load(table_ptr + positions // PAGE_SIZE, mask=positions < kv_length, other=0)


@triton.jit
def _attend_tiles(
    m,  # [ROWS] max logit
    total,  # [ROWS] sum of weights
    acc,  # [ROWS, DIM] weighted sum of V
    q,  # [ROWS, DIM]
    q_position,  # [ROWS]
    k_ptr,  # pages, at the program's KV head
    v_ptr,
    table_ptr,  # page table of the sequence
    start,  # multiple of POSITIONS
    end,
    kv_length,
    logit_scale,
    softcap,
    PAGE_STRIDE: tl.constexpr,  # elements
    PAGE_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    POSITIONS: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    MASKED: tl.constexpr,  # false where every row sees every position
):
    """Online softmax over positions start..end."""
    dims = tl.arange(0, DIM)
    pages = _load_pages(table_ptr, start, kv_length, PAGE_SIZE, POSITIONS)
    for tile_start in range(start, end, POSITIONS):
        # The next tile's pages are fetched an iteration early: a load whose address is loaded in the same
        # iteration would take a pipeline stage and leave one K/V buffer.
        next_pages = _load_pages(table_ptr, tile_start + POSITIONS, kv_length, PAGE_SIZE, POSITIONS)
        positions = tile_start + tl.arange(0, POSITIONS)
        offsets = pages.to(tl.int64) * PAGE_STRIDE + (positions % PAGE_SIZE) * HEAD_DIM
        offsets = offsets[:, None] + dims[None, :]
        # A fresh page may hold NaN past the end of its sequence, and 0 * NaN would be NaN.
        k_mask = dims[None, :] < HEAD_DIM
        v_mask = k_mask & (positions[:, None] < kv_length) if MASKED else k_mask

        k = tl.load(k_ptr + offsets, mask=k_mask, other=0.0) if HEAD_DIM < DIM else tl.load(k_ptr + offsets)
        logit = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee")
        if SOFTCAP:
            logit = softcap * tanh(logit * logit_scale)
        else:
            logit = logit * logit_scale
        if MASKED:
            seen = positions[None, :] <= q_position[:, None]
            if WINDOW > 0:
                seen = seen & (positions[None, :] > q_position[:, None] - WINDOW)
            logit = tl.where(seen, logit, float("-inf"))

        m_new = tl.maximum(m, tl.max(logit, axis=1))
        alpha = _exp2_difference(m, m_new)
        p = _exp2_difference(logit, m_new[:, None])
        total = total * alpha + tl.sum(p, axis=1)
        m = m_new
        if MASKED or HEAD_DIM < DIM:
            v = tl.load(v_ptr + offsets, mask=v_mask, other=0.0)
        else:
            v = tl.load(v_ptr + offsets)
        acc = tl.dot(p.to(q.dtype), v.to(q.dtype), acc * alpha[:, None], input_precision="ieee")
        pages = next_pages
    return m, total, acc


@triton.jit(do_not_specialize=["max_pages"])
def _attention_kernel(
    q_ptr,  # [rows, KV_HEADS * GROUP, HEAD_DIM]
    k_ptr,  # [pages, KV_HEADS, PAGE_SIZE, HEAD_DIM]
    v_ptr,  # like k_ptr
    out_ptr,  # [rows, KV_HEADS * GROUP, HEAD_DIM] out
    partial_out_ptr,  # fp32 [slots, KV_HEADS * GROUP, HEAD_DIM] out
    partial_stats_ptr,  # fp32 [slots, KV_HEADS * GROUP, 2] out
    units_ptr,  # int32 [capacity, 4]
    counts_ptr,  # int32 [3]: few units, many units, merges
    query_start_ptr,  # int32 [sequences + 1]
    kv_lengths_ptr,  # int32 [sequences]
    page_table_ptr,  # int32 [sequences, max_pages]
    max_pages,
    logit_scale,  # with SOFTCAP: scale / cap, else scale * log2(e)
    softcap,  # cap * log2(e)
    v_scale,
    COUNT: tl.constexpr,  # index of the list's length in counts
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,  # power of two >= HEAD_DIM
    ROWS: tl.constexpr,  # packed rows of a tile
    POSITIONS: tl.constexpr,  # of a tile
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
):
    Q_HEADS: tl.constexpr = KV_HEADS * GROUP
    TILE_ROWS: tl.constexpr = ROWS // GROUP
    PAGE_STRIDE: tl.constexpr = KV_HEADS * PAGE_SIZE * HEAD_DIM
    packed = tl.arange(0, ROWS)
    dims = tl.arange(0, DIM)

    for work in range(tl.program_id(0), tl.load(counts_ptr + COUNT) * KV_HEADS, tl.num_programs(0)):
        unit_ptr = units_ptr + work // KV_HEADS * 4
        kv_head = work % KV_HEADS
        sequence = tl.load(unit_ptr)
        first_row = tl.load(unit_ptr + 1)
        split = tl.load(unit_ptr + 2)
        slot = tl.load(unit_ptr + 3)
        query_start = tl.load(query_start_ptr + sequence)
        rows = tl.load(query_start_ptr + sequence + 1) - query_start
        kv_length = tl.load(kv_lengths_ptr + sequence)
        table_ptr = page_table_ptr + sequence.to(tl.int64) * max_pages
        head_offset = kv_head * (PAGE_SIZE * HEAD_DIM)

        # Packed rows past the last one repeat its position and are never stored.
        row = first_row + packed // GROUP
        is_row = (row < rows) & (packed < TILE_ROWS * GROUP)
        first_position = kv_length - rows + first_row
        last_position = tl.minimum(first_position + TILE_ROWS, kv_length) - 1
        q_position = tl.minimum(first_position + packed // GROUP, last_position)
        q_index = (query_start + row).to(tl.int64) * Q_HEADS + kv_head * GROUP + packed % GROUP
        q_offset = q_index[:, None] * HEAD_DIM + dims[None, :]
        out_mask = is_row[:, None] & (dims[None, :] < HEAD_DIM)
        q = tl.load(q_ptr + q_offset, mask=out_mask, other=0.0)

        window_start = tl.maximum(first_position - WINDOW + 1, 0) if WINDOW > 0 else 0
        first_split = tl.where(split < 0, split_of(window_start), split)
        end_split = tl.where(split < 0, split_of(last_position), split) + 1

        m = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        acc = tl.zeros([ROWS, DIM], tl.float32)
        for s in range(first_split, end_split):
            start = tl.maximum(split_start(s), window_start // POSITIONS * POSITIONS)
            end = tl.minimum(split_start(s + 1), last_position + 1)
            # From ``whole`` on, no row's window has begun later; before ``diagonal``, every row sees everything.
            whole = start
            if WINDOW > 0:
                whole = tl.cdiv(tl.maximum(last_position - WINDOW + 1, 0), POSITIONS) * POSITIONS
                whole = tl.minimum(tl.maximum(whole, start), end)
            diagonal = tl.minimum((first_position + 1) // POSITIONS * POSITIONS, end)
            diagonal = tl.maximum(diagonal, whole)

            split_m = tl.full([ROWS], float("-inf"), tl.float32)
            split_total = tl.zeros([ROWS], tl.float32)
            split_acc = tl.zeros([ROWS, DIM], tl.float32)
            if WINDOW > 0:
                split_m, split_total, split_acc = _attend_tiles(
                    split_m, split_total, split_acc, q, q_position, k_ptr + head_offset, v_ptr + head_offset, table_ptr,
                    start, whole, kv_length, logit_scale, softcap,
                    PAGE_STRIDE, PAGE_SIZE, HEAD_DIM, DIM, POSITIONS, WINDOW, SOFTCAP, MASKED=True,
                )  # fmt: skip
            split_m, split_total, split_acc = _attend_tiles(
                split_m, split_total, split_acc, q, q_position, k_ptr + head_offset, v_ptr + head_offset, table_ptr,
                whole, diagonal, kv_length, logit_scale, softcap,
                PAGE_STRIDE, PAGE_SIZE, HEAD_DIM, DIM, POSITIONS, WINDOW, SOFTCAP, MASKED=False,
            )  # fmt: skip
            split_m, split_total, split_acc = _attend_tiles(
                split_m, split_total, split_acc, q, q_position, k_ptr + head_offset, v_ptr + head_offset, table_ptr,
                diagonal, end, kv_length, logit_scale, softcap,
                PAGE_STRIDE, PAGE_SIZE, HEAD_DIM, DIM, POSITIONS, WINDOW, SOFTCAP, MASKED=True,
            )  # fmt: skip
            m, total, acc = _add_state(m, total, acc, split_m, split_total, split_acc)

        if slot < 0:
            out = acc / total[:, None] * v_scale
            tl.store(out_ptr + q_offset, out.to(out_ptr.dtype.element_ty), mask=out_mask)
        else:
            sequence_start = tl.maximum(kv_length - rows - WINDOW + 1, 0) if WINDOW > 0 else 0
            splits = split_of(kv_length - 1) - split_of(sequence_start) + 1
            partial = (slot + packed // GROUP * splits).to(tl.int64) * Q_HEADS + kv_head * GROUP + packed % GROUP
            tl.store(partial_out_ptr + partial[:, None] * HEAD_DIM + dims[None, :], acc, mask=out_mask)
            tl.store(partial_stats_ptr + partial * 2, m, mask=is_row)
            tl.store(partial_stats_ptr + partial * 2 + 1, total, mask=is_row)


@triton.jit
def _merge_kernel(
    partial_out_ptr,  # fp32 [slots, Q_HEADS, HEAD_DIM]
    partial_stats_ptr,  # fp32 [slots, Q_HEADS, 2]
    merges_ptr,  # int32 [capacity, 3]: row of the batch, first partial slot, splits
    counts_ptr,  # int32 [3]: few units, many units, merges
    out_ptr,  # [rows, Q_HEADS, HEAD_DIM] out
    v_scale,
    Q_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
):
    dims = tl.arange(0, DIM)
    mask = dims < HEAD_DIM
    for work in range(tl.program_id(0), tl.load(counts_ptr + 2) * Q_HEADS, tl.num_programs(0)):
        merge_ptr = merges_ptr + work // Q_HEADS * 3
        head = work % Q_HEADS
        row = tl.load(merge_ptr).to(tl.int64)
        first_slot = tl.load(merge_ptr + 1).to(tl.int64)
        splits = tl.load(merge_ptr + 2)
        m = tl.full([1], float("-inf"), tl.float32)
        total = tl.zeros([1], tl.float32)
        acc = tl.zeros([1, DIM], tl.float32)
        for s in range(splits):
            index = (first_slot + s) * Q_HEADS + head
            stats_ptr = partial_stats_ptr + index * 2 + tl.arange(0, 1)
            split_acc = tl.load(partial_out_ptr + index * HEAD_DIM + dims, mask=mask, other=0.0)[None, :]
            m, total, acc = _add_state(m, total, acc, tl.load(stats_ptr), tl.load(stats_ptr + 1), split_acc)
        out = tl.reshape(acc / total[:, None] * v_scale, [DIM])
        tl.store(out_ptr + (row * Q_HEADS + head) * HEAD_DIM + dims, out.to(out_ptr.dtype.element_ty), mask=mask)


def paged_attention(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    batch: StepBatch,
    plan: AttentionPlan,
    scale: float,
    softcap: float = 0.0,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> torch.Tensor:
    """Attention of every row over its sequence, up to and including the row's own position.

    Args:
        q: [rows, q_heads, head_dim], contiguous.
        k_pages: [pages, kv_heads, page_size, head_dim], contiguous; fp8 pages hold K / k_scale.
        v_pages: like ``k_pages``.
        plan: of this step; its window is the one that applies.
        scale: of the logits, usually head_dim ** -0.5.
        softcap: s in s * tanh(logit / s); 0: none.

    Returns:
        [rows, q_heads * head_dim] in ``q``'s dtype. Rows of no sequence (padding) are left undefined.
    """
    rows, q_heads, head_dim = q.shape
    out = torch.empty_like(q)
    logit_scale = scale * k_scale / softcap if softcap else scale * k_scale * _LOG2E
    dim = triton.next_power_of_2(head_dim)
    for role, (tile, units) in enumerate(((plan.few_rows, plan.few_units), (plan.many_rows, plan.many_units))):
        _attention_kernel[(plan.programs * tile.blocks,)](
            q, k_pages, v_pages, out, plan.partial_out, plan.partial_stats, units, plan.counts,
            batch.query_start, batch.kv_lengths, batch.page_table,
            batch.page_table.stride(0), logit_scale, softcap * _LOG2E, v_scale,
            COUNT=role, KV_HEADS=plan.kv_heads, GROUP=q_heads // plan.kv_heads, PAGE_SIZE=plan.page_size,
            HEAD_DIM=head_dim, DIM=dim, ROWS=tile.rows, POSITIONS=tile.positions,
            WINDOW=plan.window, SOFTCAP=softcap != 0.0, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    _merge_kernel[(plan.programs * 4,)](
        plan.partial_out, plan.partial_stats, plan.merges, plan.counts, out, v_scale,
        Q_HEADS=q_heads, HEAD_DIM=head_dim, DIM=dim, num_warps=_MERGE_WARPS,
    )  # fmt: skip
    return out.view(rows, q_heads * head_dim)
