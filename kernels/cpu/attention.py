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
from numba import get_num_threads, njit, prange, types
from numba.extending import overload

from .. import StepBatch
from .exp import LOG2_E, exp2
from .stored import as_numpy, put, step_of, widen
from .tile import LANES, make_tile

_PACKED_ROWS = 24  # rows x query heads of a work item: three 8-row tiles share each page read
_score_8, _score_4, _score_2, _score_1 = (make_tile(rows, 1) for rows in (8, 4, 2, 1))
_value_8, _value_4, _value_2, _value_1 = (make_tile(rows, 1, accumulate=True) for rows in (8, 4, 2, 1))


@dataclass
class AttentionPlan:
    """Work items of a step, dealt so that each thread's consecutive share costs about the same."""

    kv_heads: int
    group: int  # query heads per KV head
    window: int  # positions that a row sees, its own included; 0: all
    scratch: torch.Tensor  # fp32 [threads, packed rows, positions], scores
    items: np.ndarray  # int64 [items, 4]: sequence, first row, rows, KV head


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
    """Room for the plans of steps over sequences of up to ``max_tokens`` tokens; the rest is not needed here."""
    del rows, sequences, head_dim, device
    group = q_heads // kv_heads
    positions = -(-max_tokens // page_size) * page_size
    scratch = torch.empty(get_num_threads(), _block_rows(group) * group, positions)
    return AttentionPlan(kv_heads, group, window, scratch, np.empty((0, 4), dtype=np.int64))


def fill_plan(plan: AttentionPlan, batch: StepBatch) -> None:
    """Divide a step into work items."""
    block, window = _block_rows(plan.group), plan.window
    starts, lengths = batch.query_start.numpy(), batch.kv_lengths.numpy()
    items, costs = [], []
    for sequence, length in enumerate(lengths):
        first, last = int(starts[sequence]), int(starts[sequence + 1])
        for row in range(first, last, block):
            rows = min(block, last - row)
            items += [(sequence, row, rows, head) for head in range(plan.kv_heads)]
            seen = int(length) - (last - row - rows)
            costs += [rows * (min(seen, window + rows) if window else seen)] * plan.kv_heads
    threads = plan.scratch.shape[0]
    order = np.argsort(-np.array(costs, dtype=np.int64), kind="stable")
    dealt = np.concatenate([order[thread::threads] for thread in range(threads)])
    plan.items = np.array(items, dtype=np.int64).reshape(-1, 4)[dealt]


def _block_rows(group: int) -> int:
    """Rows of a work item."""
    return max(1, _PACKED_ROWS // group)


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
def _maximum(scores):
    largest = np.float32(-np.inf)
    for i in range(scores.shape[0]):
        largest = max(largest, scores[i])
    return largest


@njit(inline="always", fastmath={"contract"})
def _cap(scores, cap_scale, softcap):
    """softcap * tanh(score * cap_scale); tanh x = 1 - 2 / (e^2x + 1)."""
    for i in range(scores.shape[0]):
        x = min(max(scores[i] * cap_scale, np.float32(-20.0)), np.float32(20.0))
        scores[i] = softcap * (np.float32(1.0) - np.float32(2.0) / (exp2(x * (LOG2_E + LOG2_E)) + np.float32(1.0)))


# 16 partial sums, each over its own lane of every panel: vectorised, and independent of where a chunk ended.
@njit(fastmath={"contract"})
def _softmax_row(scores, probabilities, begin, first, last, end, scale_log2):
    """exp2(scores - max) of positions first .. last into ``probabilities``, zeros elsewhere. Returns the sum."""
    scores[begin:first] = np.float32(0.0)
    scores[last:end] = np.float32(0.0)
    shown = scores[first:last]
    shift = _maximum(shown) * scale_log2
    for i in range(shown.shape[0]):
        shown[i] = exp2(shown[i] * scale_log2 - shift)
    sums = np.zeros(LANES, np.float32)
    panels = scores[begin:end].reshape((end - begin) // LANES, LANES)
    for panel in range(panels.shape[0]):
        for lane in range(LANES):
            sums[lane] += panels[panel, lane]
    seen = scores[begin:end]
    for i in range(seen.shape[0]):
        put(probabilities, i, seen[i])
    total = np.float32(0.0)
    for lane in range(LANES):
        total += sums[lane]
    return total


def _page_address(pages, page, head, widened):
    """Where a page's values lie in a type that the tile reads; fp8 is widened first, into ``widened``."""
    raise NotImplementedError


@overload(_page_address)
def _page_address_of(pages, page, head, widened):
    if pages.dtype == types.uint8:

        def address(pages, page, head, widened):
            source = pages[page, head].reshape(-1)
            for i in range(source.shape[0]):
                widened[i] = widen(source[i])
            return widened.ctypes.data
    else:

        def address(pages, page, head, widened):
            return pages[page, head].ctypes.data

    return address


@njit(fastmath={"contract"}, error_model="numpy")
def _attend(item, group, window, query_start, kv_lengths, page_table, q, k_pages, v_pages, scores, out, scales):
    sequence, first_row, rows, head = item[0], item[1], item[2], item[3]
    scale_log2, cap_scale, softcap, v_scale = scales
    head_dim, page_size, step = k_pages.shape[3], k_pages.shape[2], step_of(q)
    packed = rows * group
    # Row r sees positions up to kv_length - (last_row - r), its own.
    visible = kv_lengths[sequence] - (query_start[sequence + 1] - first_row) + 1
    first_page = max(visible - window, 0) // page_size if window > 0 else 0
    last_page = (visible + rows - 1 + page_size - 1) // page_size
    begin, end = first_page * page_size, last_page * page_size

    block_q = np.empty((packed, head_dim), q.dtype)
    for r in range(rows):
        block_q[r * group : (r + 1) * group] = q[first_row + r, head * group : (head + 1) * group]
    buffer = np.empty(page_size * head_dim + LANES, np.float32)
    aligned = (-buffer.ctypes.data % 64) // 4
    widened = buffer[aligned : aligned + page_size * head_dim]
    q_stride = head_dim // step * 4
    for page_index in range(first_page, last_page):
        k_page = _page_address(k_pages, page_table[sequence, page_index], head, widened)
        for panel in range(page_size // LANES):
            k_panel = k_page + panel * (head_dim // step) * LANES * 4
            y = scores.ctypes.data + (page_index * page_size + panel * LANES) * 4
            _scores(block_q.ctypes.data, q_stride, k_panel, y, scores.shape[1] * 4, packed, head_dim // step, block_q)

    probabilities = np.empty((packed, end - begin), q.dtype)
    sums = np.empty(packed, np.float32)
    for i in range(packed):
        last = visible + i // group
        first = max(last - window, 0) if window > 0 else 0
        if softcap > 0:
            _cap(scores[i, first:last], cap_scale, softcap)
        sums[i] = _softmax_row(scores[i], probabilities[i], begin, first, last, end, scale_log2)

    result = np.zeros((packed, head_dim), np.float32)
    p_stride, words = (end - begin) // step * 4, page_size // step
    for page_index in range(first_page, last_page):
        v_page = _page_address(v_pages, page_table[sequence, page_index], head, widened)
        p = probabilities.ctypes.data + (page_index - first_page) * words * 4
        for panel in range(head_dim // LANES):
            v_panel = v_page + panel * words * LANES * 4
            y = result.ctypes.data + panel * LANES * 4
            _values(p, p_stride, v_panel, y, head_dim * 4, packed, words, block_q)

    for i in range(packed):
        scale = v_scale / sums[i]
        start = (head * group + i % group) * head_dim
        target, source = out[first_row + i // group, start : start + head_dim], result[i]
        for d in range(head_dim):
            put(target, d, source[d] * scale)


@njit(parallel=True, cache=True)
def _attention_kernel(
    items, group, window, query_start, kv_lengths, page_table, q, k_pages, v_pages, scratch, out, scales
):
    threads = scratch.shape[0]
    share = (items.shape[0] + threads - 1) // threads
    for thread in prange(threads):
        for i in range(thread * share, min((thread + 1) * share, items.shape[0])):
            _attend(
                items[i], group, window, query_start, kv_lengths, page_table,
                q, k_pages, v_pages, scratch[thread], out, scales,
            )  # fmt: skip


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
    out = torch.empty(rows, q_heads * head_dim, dtype=q.dtype)
    scales = (
        np.float32(LOG2_E if softcap else scale * k_scale * LOG2_E),
        np.float32(scale * k_scale / softcap if softcap else 0.0),
        np.float32(softcap),
        np.float32(v_scale),
    )
    _attention_kernel(
        plan.items, plan.group, plan.window, batch.query_start.numpy(), batch.kv_lengths.numpy(),
        batch.page_table.numpy(), as_numpy(q), as_numpy(k_pages), as_numpy(v_pages), plan.scratch.numpy(),
        as_numpy(out), scales,
    )  # fmt: skip
    return out
