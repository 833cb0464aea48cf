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
from numba import get_num_threads, njit, prange

from .. import StepBatch
from .bf16 import as_numpy, put
from .exp import LOG2_E, exp2
from .tile import LANES, make_tile

_PACKED_ROWS = 24  # rows x query heads of a work item: three 8-row tiles share each page read
_score_8, _score_4, _score_2, _score_1 = (make_tile(rows, 1) for rows in (8, 4, 2, 1))
_value_8, _value_4, _value_2, _value_1 = (make_tile(rows, 1, accumulate=True) for rows in (8, 4, 2, 1))


@dataclass
class AttentionPlan:
    """Work items of a step, dealt so that each thread's consecutive share costs about the same."""

    items: np.ndarray  # int64 [items, 4]: sequence, first row, rows, KV head
    scratch: torch.Tensor  # fp32 [threads, packed rows, positions], scores
    group: int  # query heads per KV head


def plan_attention(batch: StepBatch, q_heads: int, kv_heads: int, head_dim: int, page_size: int) -> AttentionPlan:
    """Divide a step into work items."""
    del head_dim
    group = q_heads // kv_heads
    block = max(1, _PACKED_ROWS // group)
    starts, lengths = batch.query_start.numpy(), batch.kv_lengths.numpy()
    items, costs = [], []
    for sequence, length in enumerate(lengths):
        first, last = int(starts[sequence]), int(starts[sequence + 1])
        for row in range(first, last, block):
            rows = min(block, last - row)
            items += [(sequence, row, rows, head) for head in range(kv_heads)]
            costs += [rows * (int(length) - (last - row - rows))] * kv_heads
    threads = get_num_threads()
    order = np.argsort(-np.array(costs, dtype=np.int64), kind="stable")
    dealt = np.concatenate([order[thread::threads] for thread in range(threads)]) if items else order
    longest = int(lengths.max()) if len(lengths) else 0
    positions = -(-max(longest, 1) // page_size) * page_size
    return AttentionPlan(
        items=np.array(items, dtype=np.int64).reshape(-1, 4)[dealt],
        scratch=torch.empty(threads, block * group, positions),
        group=group,
    )


@njit
def _scores(q, q_stride, k_panel, y, y_stride, rows, words, like):
    row = 0
    while rows - row >= 8:
        _score_8(like, like, q + row * q_stride, q_stride, k_panel, 0, y + row * y_stride, y_stride, words)
        row += 8
    if rows - row >= 4:
        _score_4(like, like, q + row * q_stride, q_stride, k_panel, 0, y + row * y_stride, y_stride, words)
        row += 4
    if rows - row >= 2:
        _score_2(like, like, q + row * q_stride, q_stride, k_panel, 0, y + row * y_stride, y_stride, words)
        row += 2
    if rows - row >= 1:
        _score_1(like, like, q + row * q_stride, q_stride, k_panel, 0, y + row * y_stride, y_stride, words)


@njit
def _values(p, p_stride, v_panel, y, y_stride, rows, words, like):
    row = 0
    while rows - row >= 8:
        _value_8(like, like, p + row * p_stride, p_stride, v_panel, 0, y + row * y_stride, y_stride, words)
        row += 8
    if rows - row >= 4:
        _value_4(like, like, p + row * p_stride, p_stride, v_panel, 0, y + row * y_stride, y_stride, words)
        row += 4
    if rows - row >= 2:
        _value_2(like, like, p + row * p_stride, p_stride, v_panel, 0, y + row * y_stride, y_stride, words)
        row += 2
    if rows - row >= 1:
        _value_1(like, like, p + row * p_stride, p_stride, v_panel, 0, y + row * y_stride, y_stride, words)


@njit(inline="always", fastmath={"reassoc", "nnan"})
def _maximum(scores, count):
    largest = np.float32(-np.inf)
    for i in range(count):
        largest = max(largest, scores[i])
    return largest


# 16 partial sums, each over its own lane of every panel: vectorised, and independent of where a chunk ended.
@njit(fastmath={"contract"})
def _softmax_row(scores, probabilities, visible, padded, scale_log2):
    """exp2(scores - max) into ``probabilities``, zeros from ``visible`` on. Returns the sum."""
    shift = _maximum(scores, visible) * scale_log2
    for i in range(visible):
        scores[i] = exp2(scores[i] * scale_log2 - shift)
    for i in range(visible, padded):
        scores[i] = np.float32(0.0)
    sums = np.zeros(LANES, np.float32)
    for start in range(0, padded, LANES):
        for lane in range(LANES):
            sums[lane] += scores[start + lane]
    for i in range(padded):
        put(probabilities, i, scores[i])
    total = np.float32(0.0)
    for lane in range(LANES):
        total += sums[lane]
    return total


@njit(fastmath={"contract"})
def _attend(
    sequence,
    first_row,
    rows,
    head,
    group,
    query_start,
    kv_lengths,
    page_table,
    q,
    k_pages,
    v_pages,
    scores,
    out,
    scale_log2,
    step,
):
    head_dim, page_size = k_pages.shape[3], k_pages.shape[2]
    packed = rows * group
    last_row = query_start[sequence + 1]
    # Row r sits at position kv_length - (last_row - r); it sees that position and all before it.
    visible = kv_lengths[sequence] - (last_row - first_row) + 1
    longest = visible + rows - 1
    pages = (longest + page_size - 1) // page_size
    padded = pages * page_size

    block_q = np.empty((packed, head_dim), q.dtype)
    for r in range(rows):
        block_q[r * group : (r + 1) * group] = q[first_row + r, head * group : (head + 1) * group]
    scores_stride, word_bytes = scores.shape[1] * 4, 4
    q_stride = head_dim // step * word_bytes
    for page_index in range(pages):
        k_page = k_pages[page_table[sequence, page_index], head].ctypes.data
        for panel in range(page_size // LANES):
            k_panel = k_page + panel * (head_dim // step) * LANES * word_bytes
            y = scores.ctypes.data + (page_index * page_size + panel * LANES) * 4
            _scores(block_q.ctypes.data, q_stride, k_panel, y, scores_stride, packed, head_dim // step, k_pages)

    probabilities = np.empty((packed, padded), q.dtype)
    sums = np.empty(packed, np.float32)
    for i in range(packed):
        sums[i] = _softmax_row(scores[i], probabilities[i], visible + i // group, padded, scale_log2)

    result = np.zeros((packed, head_dim), np.float32)
    p_stride, words = padded // step * word_bytes, page_size // step
    for page_index in range(pages):
        v_page = v_pages[page_table[sequence, page_index], head].ctypes.data
        p = probabilities.ctypes.data + page_index * words * word_bytes
        for panel in range(head_dim // LANES):
            v_panel = v_page + panel * words * LANES * word_bytes
            y = result.ctypes.data + panel * LANES * 4
            _values(p, p_stride, v_panel, y, head_dim * 4, packed, words, k_pages)

    for i in range(packed):
        scale = np.float32(1.0) / sums[i]
        start = (head * group + i % group) * head_dim
        for d in range(head_dim):
            put(out, (first_row + i // group, start + d), result[i, d] * scale)


@njit(parallel=True, cache=True)
def _attention_kernel(
    items, group, query_start, kv_lengths, page_table, q, k_pages, v_pages, scratch, out, scale_log2, step
):
    threads = scratch.shape[0]
    share = (items.shape[0] + threads - 1) // threads
    for thread in prange(threads):
        for i in range(thread * share, min((thread + 1) * share, items.shape[0])):
            _attend(
                items[i, 0], items[i, 1], items[i, 2], items[i, 3], group, query_start, kv_lengths, page_table,
                q, k_pages, v_pages, scratch[thread], out, scale_log2, step,
            )  # fmt: skip


def paged_attention(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    batch: StepBatch,
    plan: AttentionPlan,
    scale: float,
) -> torch.Tensor:
    """Causal attention of each row over the pages of its sequence.

    Args:
        q: [rows, q_heads, head_dim] in the pages' dtype.
        k_pages: [pages, kv_heads, page_size, head_dim], as rope_write.py wrote them.
        v_pages: like ``k_pages``.
        batch: which rows belong to which sequence, and its pages.
        plan: from ``plan_attention`` for this batch.
        scale: multiplies q k^T.

    Returns:
        [rows, q_heads * head_dim] in the pages' dtype. Rows of no sequence are left as they are: undefined.
    """
    rows, q_heads, head_dim = q.shape
    out = torch.empty(rows, q_heads * head_dim, dtype=q.dtype)
    _attention_kernel(
        plan.items, plan.group, batch.query_start.numpy(), batch.kv_lengths.numpy(), batch.page_table.numpy(),
        as_numpy(q), as_numpy(k_pages), as_numpy(v_pages), plan.scratch.numpy(), as_numpy(out),
        np.float32(scale * LOG2_E), 2 if q.dtype == torch.bfloat16 else 1,
    )  # fmt: skip
    return out
