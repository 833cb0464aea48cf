"""Paged causal attention on the CPU.

    out = softmax(q K^T * scale) V,  each row over its own positions 0 .. position

A sink is one more logit of the softmax, of each head, without a value.

Positions are cut into segments at fixed places. A segment's share of a row is its largest score, the sum of its
exponentials and their product with V, each computed from nothing; shares are added in order of the positions. So a
row's result depends neither on its neighbours, nor on how its prompt was cut into chunks, nor on which threads worked
on it, and what a thread works on stays in its nearest cache.

A block is some rows of one sequence, with the query heads of a KV head packed beside them. A work item (attention_plan)
is all heads of a block, or one, or some segments of one; then whoever comes last adds the shares up. Both products run
through the tiles of attention_tiles.py over pages in the order that rope_write.py describes.
"""

import numpy as np
import torch
from numba import njit, types

from .. import StepBatch
from .attention_plan import ITEM, AttentionPlan, fill_plan, new_plan
from .attention_tiles import PANELS, scores, values
from .exp import LOG2_E, exp2
from .llvm import LANES
from .machine import array_at, atomic_add, atomic_exchange, copy_values, prefetch
from .op_graph import empty, run, struct_dtype, work_item
from .softmax import cap, softmax_row
from .storage import put
from .thread_pool import thread_pool
from .widen_fp8 import widen_fp8_values

__all__ = ["AttentionPlan", "fill_plan", "new_plan", "paged_attention"]

_ARGUMENTS = struct_dtype(
    q=int, k_pages=int, v_pages=int, out=int, page_table=int, max_pages=int,
    items=int, num_items=int, counters=int, shares=int, block_rows=int, scores=int, probabilities=int, block_q=int,
    share=int, totals=int, total_sums=int, widened=int, addresses=int, threads=int,
    group=int, kv_heads=int, head_dim=int, page_size=int, segment_pages=int, window=int,
    scale_log2=float, cap_scale=float, softcap=float, v_scale=float, sinks=int,
)  # fmt: skip
_NOTHING = np.float32(-np.inf)


@njit(inline="always")
def _widen_boxes(boxes, count, box_values, q_type, widened):
    """Boxes of fp8 in Q's type at ``widened``, where nothing is rounded; the list then has their places there."""
    for i in range(count):
        widen_fp8_values(boxes[i], widened, box_values, q_type)
        boxes[i] = widened
        widened += array_at(widened, box_values, q_type).nbytes


@njit
def _ask_for(boxes, count, box):
    for i in range(count):
        prefetch(boxes[i], box)


@njit
def _list_boxes(boxes, pages, page_table, first, end, kv_heads, head, box):
    """Addresses of a head's boxes of some pages."""
    for page in range(first, end):
        boxes[page - first] = pages + (page_table[page] * kv_heads + head) * box


# No contraction: shares must be added with the same rounding wherever this is inlined.
@njit(error_model="numpy")
def _add_shares(totals, total_sums, shares, share_sums):
    """Add the rows' shares of a segment; sums are the largest exponent, and the sum of exponentials below it."""
    for row in range(totals.shape[0]):
        if share_sums[row, 0] == _NOTHING:
            continue
        largest = max(total_sums[row, 0], share_sums[row, 0])
        old, new = exp2(total_sums[row, 0] - largest), exp2(share_sums[row, 0] - largest)
        total_sums[row, 0] = largest
        total_sums[row, 1] = total_sums[row, 1] * old + share_sums[row, 1] * new
        total, share = totals[row], shares[row]
        for i in range(total.shape[0]):
            total[i] = total[i] * old + share[i] * new


@njit(error_model="numpy")
def _share_beside_sink(sums, sink):
    """What a row's sum of values is multiplied with: 1 / its sum of exponentials, the sink's among them."""
    sink *= LOG2_E
    largest = max(sums[0], sink)
    seen = exp2(sums[0] - largest)
    return seen / (sums[1] * seen + exp2(sink - largest))


@njit(fastmath={"contract"}, error_model="numpy")
def _scale_row(target, source, scale):
    for i in range(target.shape[0]):
        put(target, i, source[i] * scale)


@work_item
def _attend(q_type, page_type):
    step, page_itemsize = 2 if q_type == types.uint16 else 1, page_type.bitwidth // 8
    widens = page_type == types.uint8
    itemsize = q_type.bitwidth // 8

    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        num_items = array_at(a.num_items, 1, types.int64)[0]
        if item >= num_items:  # the number of items is a bound
            return
        # From the last to the first: chunks of prompts, which take longest, come after the decoding rows.
        items = array_at(a.items, num_items, ITEM)
        work = items[num_items - 1 - item]
        kv_heads, group, window, head_dim, page_size = a.kv_heads, a.group, a.window, a.head_dim, a.page_size
        sequence, first_row, count = work.sequence, work.first_row, work.rows
        packed = count * group
        page_table = array_at(a.page_table + sequence * a.max_pages * 4, a.max_pages, types.int32)
        seen_from, seen_to, visible = work.first_page, work.end_page, work.visible

        segment_pages, of_thread = a.segment_pages, thread * a.block_rows * group
        # Rows of scores have room for the panels that pad a segment.
        width = (segment_pages * page_size + PANELS * LANES - 1) // (PANELS * LANES) * PANELS * LANES
        heads = work.heads_end - work.head
        of_heads = of_thread * kv_heads
        block_q = array_at(a.block_q + of_heads * head_dim * itemsize, (heads, packed, head_dim), q_type)
        q = array_at(a.q, (rows, kv_heads, group, head_dim), q_type)
        out = array_at(a.out, (rows, kv_heads, group, head_dim), q_type)
        block_scores = array_at(a.scores + of_thread * width * 4, (packed, width), types.float32)
        probabilities = a.probabilities + of_thread * width * 4
        totals = array_at(a.totals + of_heads * head_dim * 4, (heads, packed, head_dim), types.float32)
        total_sums = array_at(a.total_sums + of_heads * 2 * 4, (heads, packed, 2), types.float32)
        share_bytes = packed * (head_dim + 2) * 4
        box_values = page_size * head_dim  # of one (page, head)
        box, panel_bytes, page_panels = box_values * page_itemsize, head_dim // step * LANES * 4, page_size // LANES
        widened = a.widened + thread * segment_pages * box_values * itemsize
        most_panels = width // LANES
        lists = array_at(a.addresses + thread * 5 * most_panels * 8, (5, most_panels), types.int64)
        k_boxes, v_boxes, next_boxes, k_panels, v_panels = lists[0], lists[1], lists[2], lists[3], lists[4]

        for head in range(heads):
            for row in range(count):
                for shared in range(group):
                    copy_values(block_q[head, row * group + shared], q[first_row + row, work.head + head, shared])
        totals[:] = np.float32(0.0)
        total_sums[:, :, 0] = _NOTHING
        total_sums[:, :, 1] = np.float32(0.0)
        share_at = a.share + thread * a.block_rows * group * (head_dim + 2) * 4
        if work.slot >= 0:
            share_at = a.shares + work.slot * (head_dim + 2) * 4
            share_at += (work.segment - seen_from // segment_pages) * heads * share_bytes
        for segment in range(work.segment, work.segments_end):
            first = max(segment * segment_pages, seen_from)
            end = min((segment + 1) * segment_pages, seen_to)
            pages = end - first
            positions, panels = pages * page_size, pages * page_panels
            for head in range(heads):
                head_q = block_q[head]
                # Pages lie anywhere, so the core can't guess which comes next: it is told while it computes. V during
                # K, the K that follows during V.
                at = work.head + head
                _list_boxes(k_boxes, a.k_pages, page_table, first, end, kv_heads, at, box)
                _list_boxes(v_boxes, a.v_pages, page_table, first, end, kv_heads, at, box)
                copy_values(next_boxes[:pages], v_boxes)
                if head + 1 < heads:
                    _list_boxes(next_boxes, a.k_pages, page_table, first, end, kv_heads, at + 1, box)
                elif segment + 1 < work.segments_end:
                    next_end = min(end + pages, seen_to)
                    _list_boxes(next_boxes, a.k_pages, page_table, end, next_end, kv_heads, work.head, box)
                elif item + a.threads < num_items:  # this thread's next item, if all go on at the same pace
                    other = items[num_items - 1 - item - a.threads]
                    begin = max(other.first_page, other.segment * segment_pages)
                    next_end = min(begin + pages, other.end_page)
                    table = array_at(a.page_table + other.sequence * a.max_pages * 4, a.max_pages, types.int32)
                    _list_boxes(next_boxes, a.k_pages, table, begin, next_end, kv_heads, other.head, box)
                if widens:
                    _ask_for(v_boxes, pages, box)
                    _widen_boxes(k_boxes, pages, box_values, q_type, widened)
                for i in range(panels):
                    k_panels[i] = k_boxes[i // page_panels] + i % page_panels * panel_bytes
                    v_panels[i] = v_boxes[i // page_panels] + i % page_panels * panel_bytes
                for i in range(panels, (panels + PANELS - 1) // PANELS * PANELS):
                    k_panels[i] = v_panels[i] = k_panels[panels - 1]
                later = k_panels if widens else v_panels
                scores(
                    head_q, head_q.ctypes.data, head_dim * itemsize, k_panels.ctypes.data, later.ctypes.data,
                    block_scores.ctypes.data, width * 4, packed, panels, head_dim // step,
                )  # fmt: skip

                share = array_at(share_at, (packed, head_dim), types.float32)
                share_sums = array_at(share_at + packed * head_dim * 4, (packed, 2), types.float32)
                for i in range(packed):
                    sees_to = visible + i // group - first * page_size
                    sees_from = max(sees_to - window, 0) if window > 0 else 0
                    sees_from, sees_to = min(sees_from, positions), max(min(sees_to, positions), 0)
                    row_scores = block_scores[i, :positions]
                    if a.softcap > 0:
                        cap(row_scores[sees_from:sees_to], a.cap_scale, a.softcap)
                    share_sums[i, 0], share_sums[i, 1] = softmax_row(
                        head_q, row_scores, probabilities + i * width * itemsize, sees_from, sees_to, a.scale_log2
                    )

                if widens:
                    _ask_for(next_boxes, pages, box)
                    _widen_boxes(v_boxes, pages, box_values, q_type, widened)
                    copy_values(next_boxes[:pages], v_boxes)
                values(
                    head_q, probabilities, width * itemsize, v_boxes.ctypes.data, next_boxes.ctypes.data,
                    page_size // step * LANES * 4, share.ctypes.data, head_dim * 4, packed, head_dim // LANES, pages,
                    page_size // step,
                )  # fmt: skip
                if work.slot < 0:
                    _add_shares(totals[head], total_sums[head], share, share_sums)
                else:
                    share_at += share_bytes

        if work.slot >= 0:
            counter = a.counters + work.counter * 8
            if atomic_add(counter, 1) + 1 < work.parts:
                return
            atomic_exchange(counter, 0)
            share_at = a.shares + work.slot * (head_dim + 2) * 4
            for _ in range(seen_from // segment_pages, (seen_to - 1) // segment_pages + 1):
                for head in range(heads):
                    share = array_at(share_at, (packed, head_dim), types.float32)
                    share_sums = array_at(share_at + packed * head_dim * 4, (packed, 2), types.float32)
                    _add_shares(totals[head], total_sums[head], share, share_sums)
                    share_at += share_bytes
        for head in range(heads):
            for i in range(packed):
                scale = a.v_scale / total_sums[head, i, 1]
                if a.sinks:
                    sinks = array_at(a.sinks, (kv_heads, group), types.float32)
                    scale = a.v_scale * _share_beside_sink(total_sums[head, i], sinks[work.head + head, i % group])
                _scale_row(out[first_row + i // group, work.head + head, i % group], totals[head, i], scale)

    return kernel


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
    """Causal attention of each row over the pages of its sequence, within the plan's window.

    Args:
        q: [rows, q_heads, head_dim] in the pages' dtype; with fp8 pages fp32 or bf16, as when they were written.
        k_pages: [pages, kv_heads, page_size, head_dim], as rope_write.py wrote them; fp8 pages hold K / k_scale.
        v_pages: like ``k_pages``.
        batch: which rows belong to which sequence, and its pages.
        plan: filled for this batch.
        scale: multiplies q k^T.
        softcap: s in s * tanh(logit / s); 0: none.
        sinks: fp32 [q_heads].

    Returns:
        [rows, q_heads * head_dim] in ``q``'s dtype. Rows of no sequence are left as they are: undefined.
    """
    rows, q_heads, head_dim = q.shape
    page_size, threads = k_pages.shape[2], thread_pool().threads
    out = empty((rows, q_heads * head_dim), q.dtype)
    packed = threads * plan.block_rows * plan.group
    panels = -(-plan.segment_pages * page_size // (PANELS * LANES)) * PANELS
    fp8 = k_pages.dtype == torch.float8_e4m3fn
    arguments = {
        "q": q, "k_pages": k_pages, "v_pages": v_pages, "out": out,
        "page_table": batch.page_table, "max_pages": batch.page_table.shape[1],
        "items": plan.items, "num_items": plan.num_items, "counters": plan.counters, "shares": plan.shares,
        "block_rows": plan.block_rows, "scores": empty((packed, panels * LANES)),
        "probabilities": empty((packed, panels * LANES)),
        "block_q": empty((packed * plan.kv_heads, head_dim), q.dtype), "share": empty((packed, head_dim + 2)),
        "totals": empty((packed * plan.kv_heads, head_dim)), "total_sums": empty((packed * plan.kv_heads, 2)),
        "widened": empty((threads, plan.segment_pages * page_size * head_dim), q.dtype) if fp8 else None,
        "addresses": empty((threads, 5, panels), torch.int64), "threads": threads,
        "group": plan.group, "kv_heads": plan.kv_heads, "head_dim": head_dim, "page_size": page_size,
        "segment_pages": plan.segment_pages, "window": plan.window,
        "scale_log2": LOG2_E if softcap else scale * k_scale * LOG2_E,
        "cap_scale": scale * k_scale / softcap if softcap else 0.0, "softcap": softcap, "v_scale": v_scale,
        "sinks": sinks,
    }  # fmt: skip
    run(
        _attend(q.dtype, k_pages.dtype), _ARGUMENTS, arguments, rows, len(batch.kv_lengths),
        fixed=-(-plan.parts // plan.kv_heads), per_rows=plan.block_rows, per_sequence=1, times=plan.kv_heads,
    )  # fmt: skip
    return out
