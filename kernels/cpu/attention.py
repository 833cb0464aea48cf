"""Paged causal attention on the CPU.

    out = softmax(q K^T * scale) V,  each row over its own positions 0 .. position

One work item is a block of rows of one sequence and one KV head, with the query heads of that KV head packed beside
the rows. Its scores are all kept (fp32, [packed rows, positions]), so the softmax needs no rescaling: exact maximum,
one exp per score. Both products run through the register tile of tile.py over pages in the order that rope_write.py
describes. Sums go over positions in order and a row's masked scores add exact zeros: a row's result depends neither on
its neighbours nor on how its prompt was cut into chunks.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit, types

from .. import StepBatch
from .attention_tiles import scores_of_1, scores_of_2, values
from .exp import LOG2_E
from .machine import aligned_empty, array_at, prefetch
from .softmax import cap, softmax_row
from .stored import put, widen
from .tape import empty, record, run, work_item
from .team import team
from .tile import LANES

_BLOCKS_PER_THREAD = 3  # from there on a work item is a block with all its heads
_PACKED_ROWS = 24  # rows x query heads of a work item: three 8-row tiles share each page read
_ARGUMENTS = record(
    q=int, k_pages=int, v_pages=int, out=int, query_start=int, kv_lengths=int, page_table=int, max_pages=int,
    blocks=int, num_blocks=int, block_rows=int, many_blocks=int, scores=int, probabilities=int, block_q=int,
    result=int, widened=int,
    positions=int, group=int, kv_heads=int, head_dim=int, page_size=int, window=int,
    scale_log2=float, cap_scale=float, softcap=float, v_scale=float,
)  # fmt: skip
_PLAN_ARGUMENTS = record(query_start=int, blocks=int, num_blocks=int, block_rows=int)


@dataclass
class AttentionPlan:
    """Blocks of rows of a step, and memory to work in."""

    kv_heads: int
    group: int  # query heads per KV head
    window: int  # positions that a row sees, its own included; 0: all
    block_rows: int  # rows of a block, at most
    positions: int  # of the longest sequence, a multiple of the page size
    blocks: torch.Tensor  # int64 [blocks, 3]: sequence, first row, rows
    num_blocks: torch.Tensor  # int64 [1]
    scores: torch.Tensor  # fp32 [threads, packed rows, positions], and as many probabilities
    probabilities: torch.Tensor


def new_plan(
    rows: int,
    sequences: int,
    max_tokens: int,
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    page_size: int,
    device: torch.device,
    window: int = 0,
) -> AttentionPlan:
    """Room for the plans of steps over so many rows and sequences of up to ``max_tokens`` tokens."""
    del head_dim, device
    group = q_heads // kv_heads
    block_rows = max(1, _PACKED_ROWS // group)
    positions = -(-max_tokens // page_size) * page_size
    scores = aligned_empty((2, team().threads, block_rows * group, positions), torch.float32)
    blocks = torch.zeros(sequences + rows // block_rows + 1, 3, dtype=torch.int64)
    num_blocks = torch.zeros(1, dtype=torch.int64)
    return AttentionPlan(kv_heads, group, window, block_rows, positions, blocks, num_blocks, scores[0], scores[1])


@work_item
def _fill():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _PLAN_ARGUMENTS)[0]
        query_start = array_at(a.query_start, sequences + 1, types.int32)
        blocks = array_at(a.blocks, (sequences + rows // a.block_rows + 1, 3), types.int64)
        count = 0
        for sequence in range(sequences):
            last = query_start[sequence + 1]
            for row in range(query_start[sequence], last, a.block_rows):
                blocks[count, 0], blocks[count, 1], blocks[count, 2] = sequence, row, min(a.block_rows, last - row)
                count += 1
        array_at(a.num_blocks, 1, types.int64)[0] = count

    return kernel


def fill_plan(plan: AttentionPlan, batch: StepBatch) -> None:
    """Divide a step into blocks."""
    arguments = {
        "query_start": batch.query_start, "blocks": plan.blocks, "num_blocks": plan.num_blocks,
        "block_rows": plan.block_rows,
    }  # fmt: skip
    run(_fill(), _PLAN_ARGUMENTS, arguments, len(batch.positions), len(batch.kv_lengths), fixed=1)


@njit(error_model="numpy")
def _widen_page(source, widened):
    for i in range(source.shape[0]):
        widened[i] = widen(source[i])


@work_item
def _attend(q_type, page_type):
    step, page_itemsize = 2 if q_type == types.uint16 else 1, page_type.bitwidth // 8
    widens = page_type == types.uint8
    itemsize = q_type.bitwidth // 8

    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        kv_heads, group, window, head_dim, page_size = a.kv_heads, a.group, a.window, a.head_dim, a.page_size
        index, first_head, last_head = item // kv_heads, item % kv_heads, item % kv_heads + 1
        num_blocks = array_at(a.num_blocks, 1, types.int64)[0]
        if index >= num_blocks:  # the number of items is a bound
            return
        if num_blocks >= a.many_blocks:  # enough for all threads: the heads of a block one after the other
            if first_head > 0:
                return
            last_head = kv_heads
        # From the last to the first: chunks of prompts, which take longest, come after the decoding rows.
        block = array_at(a.blocks, (num_blocks, 3), types.int64)[num_blocks - 1 - index]
        sequence, first_row, count = block[0], block[1], block[2]
        packed = count * group
        query_end = array_at(a.query_start, sequences + 1, types.int32)[sequence + 1]
        page_table = array_at(a.page_table + sequence * a.max_pages * 4, a.max_pages, types.int32)
        # Row r sees positions up to kv_length - (last_row - r), its own.
        visible = array_at(a.kv_lengths, sequences, types.int32)[sequence] - (query_end - first_row) + 1
        first_page = max(visible - window, 0) // page_size if window > 0 else 0
        last_page = (visible + count - 1 + page_size - 1) // page_size
        begin, end = first_page * page_size, last_page * page_size

        of_thread = thread * a.block_rows * group  # packed rows before this thread's
        block_q = array_at(a.block_q + of_thread * head_dim * itemsize, (packed, head_dim), q_type)
        q = array_at(a.q, (rows, kv_heads * group, head_dim), q_type)
        out = array_at(a.out, (rows, kv_heads * group, head_dim), q_type)
        q_stride, steps = head_dim * itemsize, head_dim // step
        scores_at, scores_stride = a.scores + of_thread * a.positions * 4, a.positions * 4
        scores = array_at(scores_at, (packed, a.positions), types.float32)
        probabilities_at = a.probabilities + of_thread * a.positions * 4
        probabilities = array_at(probabilities_at, (packed, end - begin), q_type)
        result = array_at(a.result + of_thread * (head_dim + 1) * 4, (packed, head_dim), types.float32)
        sums = array_at(a.result + (of_thread * (head_dim + 1) + packed * head_dim) * 4, packed, types.float32)
        box_values = page_size * head_dim  # of one (page, head)
        box = box_values * page_itemsize
        widened_at = a.widened + thread * box_values * 4
        widened = array_at(widened_at, box_values if widens else 0, types.float32)
        panel_bytes, page_panels = steps * LANES * 4, page_size // LANES

        for head in range(first_head, last_head):
            for row in range(count):
                block_q[row * group : (row + 1) * group] = q[first_row + row, head * group : (head + 1) * group]
            # Pages lie anywhere, so the core can't guess which comes next: it is told while it computes. V during K,
            # the next head's K during V.
            odd = 0  # the panel in hand is the second of its pair
            for page in range(first_page, last_page):
                at = page_table[page] * kv_heads + head
                prefetch(a.v_pages + at * box, box)
                k = a.k_pages + at * box
                y = scores_at + page * page_size * 4
                if widens:
                    _widen_page(array_at(k, box_values, page_type), widened)
                    for i in range(page_panels):
                        scores_of_1(
                            block_q.ctypes.data, q_stride, widened_at + i * panel_bytes, y + i * LANES * 4,
                            scores_stride, packed, steps, block_q,
                        )  # fmt: skip
                    continue
                for i in range(odd, page_panels, 2):
                    k_panel, k_after = k + i * panel_bytes, k + (i + 1) * panel_bytes
                    if i + 1 == page_panels and page + 1 < last_page:
                        k_after = a.k_pages + (page_table[page + 1] * kv_heads + head) * box
                    if i + 1 == page_panels and page + 1 == last_page:
                        scores_of_1(
                            block_q.ctypes.data, q_stride, k_panel, y + i * LANES * 4,
                            scores_stride, packed, steps, block_q,
                        )  # fmt: skip
                    else:
                        scores_of_2(
                            block_q.ctypes.data, q_stride, k_panel, k_after - k_panel, y + i * LANES * 4,
                            scores_stride, packed, steps, block_q,
                        )  # fmt: skip
                odd = (odd + page_panels) % 2

            for i in range(packed):
                last = visible + i // group
                first = max(last - window, 0) if window > 0 else 0
                if a.softcap > 0:
                    cap(scores[i, first:last], a.cap_scale, a.softcap)
                sums[i] = softmax_row(
                    scores[i], probabilities[i], result[i, :LANES], begin, first, last, end, a.scale_log2
                )

            result[:] = np.float32(0.0)
            p_stride, words = (end - begin) * itemsize, page_size // step
            for page in range(first_page, last_page):
                at = page_table[page] * kv_heads + head
                if head + 1 < last_head:
                    prefetch(a.k_pages + (at + 1) * box, box)
                v = a.v_pages + at * box
                if widens:
                    _widen_page(array_at(v, box_values, page_type), widened)
                    v = widened_at
                p = probabilities_at + (page - first_page) * page_size * itemsize
                values(
                    p, p_stride, v, words * LANES * 4, result.ctypes.data, head_dim * 4,
                    packed, head_dim // LANES, words, block_q,
                )  # fmt: skip

            for i in range(packed):
                _scale_row(out[first_row + i // group, head * group + i % group], result[i], a.v_scale / sums[i])

    return kernel


@njit(fastmath={"contract"}, error_model="numpy")
def _scale_row(target, source, scale):
    for i in range(target.shape[0]):
        put(target, i, source[i] * scale)


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
    """Causal attention of each row over the pages of its sequence, within the plan's window.

    Args:
        q: [rows, q_heads, head_dim] in the pages' dtype; fp32 with fp8 pages.
        k_pages: [pages, kv_heads, page_size, head_dim], as rope_write.py wrote them; fp8 pages hold K / k_scale.
        v_pages: like ``k_pages``.
        batch: which rows belong to which sequence, and its pages.
        plan: filled for this batch.
        scale: multiplies q k^T.
        softcap: s in s * tanh(logit / s); 0: none.

    Returns:
        [rows, q_heads * head_dim] in ``q``'s dtype. Rows of no sequence are left as they are: undefined.
    """
    rows, q_heads, head_dim = q.shape
    page_size = k_pages.shape[2]
    out = empty((rows, q_heads * head_dim), q.dtype)
    packed = team().threads * plan.block_rows * plan.group
    arguments = {
        "q": q, "k_pages": k_pages, "v_pages": v_pages, "out": out, "query_start": batch.query_start,
        "kv_lengths": batch.kv_lengths, "page_table": batch.page_table, "max_pages": batch.page_table.shape[1],
        "blocks": plan.blocks, "num_blocks": plan.num_blocks, "block_rows": plan.block_rows,
        "many_blocks": _BLOCKS_PER_THREAD * team().threads, "scores": plan.scores,
        "probabilities": plan.probabilities, "block_q": empty((packed, head_dim), q.dtype),
        "result": empty((packed, head_dim + 1)), "widened": empty((team().threads, page_size * head_dim)),
        "positions": plan.positions, "group": plan.group, "kv_heads": plan.kv_heads, "head_dim": head_dim,
        "page_size": page_size, "window": plan.window,
        "scale_log2": LOG2_E if softcap else scale * k_scale * LOG2_E,
        "cap_scale": scale * k_scale / softcap if softcap else 0.0, "softcap": softcap, "v_scale": v_scale,
    }  # fmt: skip
    run(
        _attend(q.dtype, k_pages.dtype), _ARGUMENTS, arguments, rows, len(batch.kv_lengths),
        per_rows=plan.block_rows, per_sequence=1, times=plan.kv_heads,
    )  # fmt: skip
    return out
