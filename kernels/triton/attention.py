"""Causal attention of the rows of a step over the pages of their sequences.

    logit  = q . k                        with a soft cap s: tanh(scale * (q . k) / s)
    weight = exp2(c * (logit - m))        c = log2(e) * scale, or log2(e) * s;   m = max logit of the row
    out    = sum over positions of weight * v / sum over positions of weight

A sink is a logit of each head that has a weight, but no value and no place: it joins the last sum alone.

Online softmax as in FlashAttention-2 (Dao 2023, arXiv 2307.08691), base 2; KV splits as in Flash-Decoding; pages as in
PagedAttention (Kwon et al. 2023, arXiv 2309.06180). A program packs the query heads that share a KV head with
the rows of its tile, so K and V are read once for all of them.

Every split is summed from an empty state, and splits are added up in their order: by the program itself where it reads
them all, by the merge kernel where each has a program of its own. Both give the same bits. Tiles sit at absolute
multiples of their size; a tile or split that a row does not see leaves its state exactly as it was. So a row's result
depends neither on its neighbours nor on where its chunk begins and ends, nor on its role: both multiply and sum in the
same order, see tiles.py.
"""

import torch
import triton
import triton.language as tl

from .. import StepBatch
from .activation import tanh
from .attention_plan import MERGE_FIELDS, UNIT_FIELDS, AttentionPlan
from .splits import split_of, split_start

_UNIT_FIELDS = tl.constexpr(UNIT_FIELDS)
_MERGE_FIELDS = tl.constexpr(MERGE_FIELDS)
_LOG2E = tl.constexpr(1.4426950408889634)
_MERGE_WARPS = 1  # a head is 64 to 256 fp32 values
_MERGE_BLOCKS = 16  # of one warp, for each multiprocessor


@triton.jit
def _finite(m):
    """``m``, but 0 instead of the -inf of a row that has seen nothing yet: its weights become 0, not NaN."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit
def _rescale(m, new_m, log2_scale):
    """What sums of weights relative to ``m`` are multiplied with. Exactly 1 where nothing changes: subtract first."""
    return tl.exp2((m - _finite(new_m)) * log2_scale)


@triton.jit
def _empty_state(ROWS: tl.constexpr, DIM: tl.constexpr):
    """A softmax state that has seen nothing: max logit, sum of weights, weighted sum of V."""
    m = tl.full([ROWS], float("-inf"), tl.float32)
    return m, tl.zeros([ROWS], tl.float32), tl.zeros([ROWS, DIM], tl.float32)


@triton.jit
def _add_state(state, other, log2_scale):
    """The sum of two softmax states. Spelled with fma so that every kernel that inlines it rounds alike."""
    m, total, acc = state
    other_m, other_total, other_acc = other
    new_m = tl.maximum(m, other_m)
    a = _rescale(m, new_m, log2_scale)
    b = _rescale(other_m, new_m, log2_scale)
    total = tl.fma(total, a, other_total * b)
    acc = tl.fma(acc, a[:, None], other_acc * b[:, None])
    return new_m, total, acc


@triton.jit
def _add_sink(total, m, sink, log2_scale):
    """The sum of weights relative to ``m`` with that of a sink, a natural logit. An fma, as in ``_add_state``."""
    return total + tl.exp2(tl.fma(-m, log2_scale, sink * _LOG2E))


@triton.jit
def _packed_rows(row, rows, kv_head, GROUP: tl.constexpr, Q_HEADS: tl.constexpr, ROWS: tl.constexpr):
    """Where the packed rows of a tile are in [rows, Q_HEADS], int64 [ROWS], and which of them exist."""
    packed = tl.arange(0, ROWS)
    # Quotient and remainder of the sum, so that they depend on ``row``: the compiler would otherwise compute those of
    # ``packed`` once and keep them in registers through all loops.
    flat = row * GROUP + packed
    index = (flat // GROUP).to(tl.int64) * Q_HEADS + kv_head * GROUP + flat % GROUP
    return index, packed < rows * GROUP


@triton.jit
def _load_pages(table_ptr, start, end, PAGE_SIZE: tl.constexpr, PAGES: tl.constexpr):
    """Pages of a tile, int32 [PAGES]; the trash page from ``end`` on."""
    page = start // PAGE_SIZE + tl.arange(0, PAGES)
    return tl.load(table_ptr + page, mask=page * PAGE_SIZE < end, other=0)


@triton.jit
def _place(turn, program, programs):
    """Index of a program's work in a round: there and back."""
    return turn * programs + tl.where(turn % 2 == 0, program, programs - 1 - program)


@triton.jit
def _mask(logit, positions, q_position, WINDOW: tl.constexpr):
    """-inf where a row does not see a position."""
    seen = positions[None, :] <= q_position[:, None]
    if WINDOW > 0:
        seen = seen & (positions[None, :] > q_position[:, None] - WINDOW)
    return tl.where(seen, logit, float("-inf"))


@triton.jit(do_not_specialize=["max_pages"])
def _attention_kernel(
    q_ptr,  # [rows, KV_HEADS * GROUP, HEAD_DIM]
    k_ptr,  # [pages, KV_HEADS, PAGE_SIZE, HEAD_DIM]
    v_ptr,  # like k_ptr
    out_ptr,  # [rows, KV_HEADS * GROUP, HEAD_DIM] out
    partial_out_ptr,  # fp32 [slots, KV_HEADS * GROUP, HEAD_DIM] out
    partial_stats_ptr,  # fp32 [slots, KV_HEADS * GROUP, 2] out
    units_ptr,  # int32 [capacity, 8], fields: see attention_plan.py
    counts_ptr,  # int32 [3]: few units, many units, merges
    sinks_ptr,  # fp32 [KV_HEADS * GROUP], read with SINKS
    page_table_ptr,  # int32 [sequences, max_pages]
    max_pages,
    log2_scale,  # exp2(log2_scale * logit) is the weight of a position; logit: q . k, or its tanh with SOFTCAP
    cap_scale,  # of q . k inside the tanh
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
    SINKS: tl.constexpr,
    MASK_BRANCH: tl.constexpr,  # branch around the masks of tiles that every row sees
):
    Q_HEADS: tl.constexpr = KV_HEADS * GROUP
    PAGES: tl.constexpr = (POSITIONS + PAGE_SIZE - 1) // PAGE_SIZE  # of a tile
    PAGE_STRIDE: tl.constexpr = KV_HEADS * PAGE_SIZE * HEAD_DIM
    packed = tl.arange(0, ROWS)
    dims = tl.arange(0, DIM)

    # Rounds alternate in direction: a chunk's later tiles read more positions, and so every program gets its share of
    # long and short ones.
    program, programs = tl.program_id(0), tl.num_programs(0)
    count = tl.load(counts_ptr + COUNT) * KV_HEADS
    rounds = count // programs
    rounds += (_place(rounds, program, programs) < count).to(tl.int32)
    for turn in range(rounds):
        work = _place(turn, program, programs)
        unit_ptr = units_ptr + work // KV_HEADS * _UNIT_FIELDS
        kv_head = work % KV_HEADS
        sequence = tl.load(unit_ptr)
        row = tl.load(unit_ptr + 1)
        rows = tl.load(unit_ptr + 2)
        position = tl.load(unit_ptr + 3)
        start = tl.load(unit_ptr + 4)
        end = tl.load(unit_ptr + 5)
        table_ptr = page_table_ptr + sequence.to(tl.int64) * max_pages
        head_offset = kv_head * (PAGE_SIZE * HEAD_DIM)
        last_position = position + rows - 1
        q_position = tl.minimum(position + packed // GROUP, last_position)
        q_index, is_row = _packed_rows(row, rows, kv_head, GROUP, Q_HEADS, ROWS)
        q_mask = is_row[:, None] & (dims[None, :] < HEAD_DIM)
        q = tl.load(q_ptr + q_index[:, None] * HEAD_DIM + dims[None, :], mask=q_mask, other=0.0)

        state = _empty_state(ROWS, DIM)
        split_state = _empty_state(ROWS, DIM)
        pages = _load_pages(table_ptr, start, end, PAGE_SIZE, PAGES)
        for tile_start in range(start, end, POSITIONS):
            if tile_start == split_start(split_of(tile_start)):
                state = _add_state(state, split_state, log2_scale)
                split_state = _empty_state(ROWS, DIM)

            # The next tile's pages are fetched an iteration early: a load whose address is loaded in the same
            # iteration would take a pipeline stage and leave one K/V buffer.
            next_pages = _load_pages(table_ptr, tile_start + POSITIONS, end, PAGE_SIZE, PAGES)
            positions = tile_start + tl.arange(0, POSITIONS)
            starts = tl.broadcast_to(pages.to(tl.int64)[:, None] * PAGE_STRIDE, [PAGES, POSITIONS // PAGES])
            # The reshape hides from the compiler that the starts are multiples of a head; loads would be 2 bytes wide.
            starts = tl.multiple_of(tl.reshape(starts, [POSITIONS]), 16)
            offsets = starts + (positions % PAGE_SIZE) * HEAD_DIM
            offsets = head_offset + offsets[:, None] + dims[None, :]
            if HEAD_DIM < DIM:
                k = tl.load(k_ptr + offsets, mask=dims[None, :] < HEAD_DIM, other=0.0)
            else:
                k = tl.load(k_ptr + offsets)
            logit = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee")
            if SOFTCAP:
                logit = tanh(logit * cap_scale)
            if MASK_BRANCH:
                is_edge = tile_start + POSITIONS > position + 1
                if WINDOW > 0:
                    is_edge = is_edge | (tile_start <= last_position - WINDOW)
                if is_edge:
                    logit = _mask(logit, positions, q_position, WINDOW)
            else:
                logit = _mask(logit, positions, q_position, WINDOW)

            m, total, acc = split_state
            new_m = tl.maximum(m, tl.max(logit, axis=1))
            alpha = _rescale(m, new_m, log2_scale)
            p = tl.exp2(logit * log2_scale - (_finite(new_m) * log2_scale)[:, None])  # one fma each
            total = total * alpha + tl.sum(p, axis=1)
            # A fresh page may hold NaN past the end of its sequence, and 0 * NaN would be NaN.
            v_mask = (positions[:, None] < end) & (dims[None, :] < HEAD_DIM)
            v = tl.load(v_ptr + offsets, mask=v_mask, other=0.0)
            acc = tl.dot(p.to(q.dtype), v.to(q.dtype), acc * alpha[:, None], input_precision="ieee")
            split_state = (new_m, total, acc)
            pages = next_pages
        m, total, acc = _add_state(state, split_state, log2_scale)

        # Read again, not kept: offsets of a whole tile held through the loop cost 16 registers and more.
        row = tl.load(unit_ptr + 1, volatile=True)
        rows = tl.load(unit_ptr + 2, volatile=True)
        slot = tl.load(unit_ptr + 6, volatile=True)
        q_index, is_row = _packed_rows(row, rows, kv_head, GROUP, Q_HEADS, ROWS)
        out_mask = is_row[:, None] & (dims[None, :] < HEAD_DIM)
        if slot < 0:
            if SINKS:
                sink = tl.load(sinks_ptr + q_index % Q_HEADS, mask=is_row, other=0.0)
                total = _add_sink(total, m, sink, log2_scale)
            out = acc / total[:, None] * v_scale
            out_offset = q_index[:, None] * HEAD_DIM + dims[None, :]
            tl.store(out_ptr + out_offset, out.to(out_ptr.dtype.element_ty), mask=out_mask)
        else:
            splits = tl.load(unit_ptr + 7)
            flat = slot * GROUP + packed
            slots = slot + (flat // GROUP - slot) * splits
            partial = slots.to(tl.int64) * Q_HEADS + kv_head * GROUP + flat % GROUP
            tl.store(partial_out_ptr + partial[:, None] * HEAD_DIM + dims[None, :], acc, mask=out_mask)
            tl.store(partial_stats_ptr + partial * 2, m, mask=is_row)
            tl.store(partial_stats_ptr + partial * 2 + 1, total, mask=is_row)


@triton.jit
def _merge_kernel(
    partial_out_ptr,  # fp32 [slots, Q_HEADS, HEAD_DIM]
    partial_stats_ptr,  # fp32 [slots, Q_HEADS, 2]
    merges_ptr,  # int32 [capacity, 3]: row of the batch, first partial slot, splits
    counts_ptr,  # int32 [3]: few units, many units, merges
    sinks_ptr,  # fp32 [Q_HEADS], read with SINKS
    out_ptr,  # [rows, Q_HEADS, HEAD_DIM] out
    log2_scale,
    v_scale,
    Q_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    SINKS: tl.constexpr,
):
    dims = tl.arange(0, DIM)
    mask = dims < HEAD_DIM
    for work in range(tl.program_id(0), tl.load(counts_ptr + 2) * Q_HEADS, tl.num_programs(0)):
        merge_ptr = merges_ptr + work // Q_HEADS * _MERGE_FIELDS
        head = work % Q_HEADS
        row = tl.load(merge_ptr).to(tl.int64)
        first_slot = tl.load(merge_ptr + 1).to(tl.int64)
        splits = tl.load(merge_ptr + 2)
        state = _empty_state(1, DIM)
        for s in range(splits):
            index = (first_slot + s) * Q_HEADS + head
            stats_ptr = partial_stats_ptr + index * 2 + tl.arange(0, 1)
            split_acc = tl.load(partial_out_ptr + index * HEAD_DIM + dims, mask=mask, other=0.0)[None, :]
            split = (tl.load(stats_ptr), tl.load(stats_ptr + 1), split_acc)
            state = _add_state(state, split, log2_scale)
        m, total, acc = state
        if SINKS:
            total = _add_sink(total, m, tl.load(sinks_ptr + head + tl.arange(0, 1)), log2_scale)
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
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of every row over its sequence, up to and including the row's own position.

    Args:
        q: [rows, q_heads, head_dim], contiguous.
        k_pages: [pages, kv_heads, page_size, head_dim], contiguous; fp8 pages hold K / k_scale.
        v_pages: like ``k_pages``.
        plan: of this step; its window is the one that applies.
        scale: of the logits, usually head_dim ** -0.5.
        softcap: s in s * tanh(logit / s); 0: none.
        sinks: fp32 [q_heads].

    Returns:
        [rows, q_heads * head_dim] in ``q``'s dtype. Rows of no sequence (padding) are left undefined.
    """
    rows, q_heads, head_dim = q.shape
    out = torch.empty_like(q)
    cap_scale = scale * k_scale / softcap if softcap else 0.0
    log2_scale = (softcap or scale * k_scale) * _LOG2E.value
    dim = triton.next_power_of_2(head_dim)
    group = q_heads // plan.kv_heads
    sink_logits = plan.partial_stats if sinks is None else sinks
    fp8 = k_pages.element_size() == 1  # its conversion leaves the branch no registers
    roles = ((plan.few_rows, plan.few_units), (plan.many_rows, plan.many_units))
    for role, (tile, units) in enumerate(roles[: 1 + plan.has_many_rows(rows)]):
        _attention_kernel[(plan.multiprocessors * tile.blocks,)](
            q, k_pages, v_pages, out, plan.partial_out, plan.partial_stats, units, plan.counts,
            sink_logits, batch.page_table, batch.page_table.stride(0), log2_scale, cap_scale, v_scale,
            COUNT=role, KV_HEADS=plan.kv_heads, GROUP=group, PAGE_SIZE=plan.page_size,
            HEAD_DIM=head_dim, DIM=dim, ROWS=tile.rows, POSITIONS=tile.positions,
            WINDOW=plan.window, SOFTCAP=softcap != 0.0, SINKS=sinks is not None,
            MASK_BRANCH=tile.mask_branch and not fp8,
            num_warps=tile.warps, num_stages=tile.stages, maxnreg=tile.registers,
        )  # fmt: skip
    _merge_kernel[(plan.multiprocessors * _MERGE_BLOCKS,)](
        plan.partial_out, plan.partial_stats, plan.merges, plan.counts, sink_logits, out, log2_scale, v_scale,
        Q_HEADS=q_heads, HEAD_DIM=head_dim, DIM=dim, SINKS=sinks is not None, num_warps=_MERGE_WARPS,
    )  # fmt: skip
    return out.view(rows, q_heads * head_dim)
