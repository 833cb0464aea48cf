"""RoPE on Q and K, and K and V into their pages, in one pass over the projected row.

    (a, b) -> (a cos - b sin, b cos + a sin)     a: first half of the head, b: second (NeoX layout)

Su et al. 2021 (arXiv 2104.09864). Pages hold what the attention's tile (tile.py) reads in order, so inside a page of
one head, with ``step`` = 2 for bf16 and 1 for fp32 and positions in panels of 16:

    K: [page_size / 16, head_dim / step, 16 positions, step]
    V: [head_dim / 16, page_size / step, 16 dims, step]

A page stays one contiguous box of page_size * head_dim values, as in the interface; only the order inside is ours.
"""

import torch
from numba import njit, prange

from .. import StepBatch
from .bf16 import as_numpy, put
from .tile import LANES

_PARALLEL_ROWS = 16


@njit(fastmath={"contract"})
def _rope_write_row(row, qkv, cos_sin, position, slot, q, k_pages, v_pages, step):
    q_heads, head_dim = q.shape[1], q.shape[2]
    kv_heads, page_size = k_pages.shape[1], k_pages.shape[2]
    half = head_dim // 2
    for head in range(q_heads):
        start = head * head_dim
        for i in range(half):
            cos, sin = cos_sin[position, i], cos_sin[position, half + i]
            a, b = qkv[row, start + i], qkv[row, start + half + i]
            put(q, (row, head, i), a * cos - b * sin)
            put(q, (row, head, half + i), b * cos + a * sin)
    page, offset = slot // page_size, slot % page_size
    for head in range(kv_heads):
        k_page, v_page = k_pages[page, head].reshape(-1), v_pages[page, head].reshape(-1)
        k_start = (q_heads + head) * head_dim
        v_start = k_start + kv_heads * head_dim
        k_base = (offset // LANES) * LANES * head_dim + (offset % LANES) * step
        for i in range(half):
            cos, sin = cos_sin[position, i], cos_sin[position, half + i]
            a, b = qkv[row, k_start + i], qkv[row, k_start + half + i]
            j = half + i
            put(k_page, k_base + (i // step) * LANES * step + i % step, a * cos - b * sin)
            put(k_page, k_base + (j // step) * LANES * step + j % step, b * cos + a * sin)
        v_base = (offset // step) * LANES * step + offset % step
        for i in range(head_dim):
            put(v_page, v_base + (i // LANES) * page_size * LANES + (i % LANES) * step, qkv[row, v_start + i])


@njit(cache=True)
def _rope_write_serial(qkv, cos_sin, positions, slots, q, k_pages, v_pages, step):
    for row in range(qkv.shape[0]):
        _rope_write_row(row, qkv, cos_sin, positions[row], slots[row], q, k_pages, v_pages, step)


@njit(cache=True, parallel=True)
def _rope_write_parallel(qkv, cos_sin, positions, slots, q, k_pages, v_pages, step):
    for row in prange(qkv.shape[0]):
        _rope_write_row(row, qkv, cos_sin, positions[row], slots[row], q, k_pages, v_pages, step)


def rope_and_write(
    qkv: torch.Tensor, cos_sin: torch.Tensor, batch: StepBatch, k_pages: torch.Tensor, v_pages: torch.Tensor
) -> torch.Tensor:
    """Rotate Q and K, write K and V to their slots.

    Args:
        qkv: [rows, (q_heads + 2 * kv_heads) * head_dim] fp32.
        cos_sin: [max_positions, head_dim] fp32, cosines of the half dims, then sines.
        batch: its ``positions`` and ``slots``.
        k_pages: [pages, kv_heads, page_size, head_dim], written; page_size and head_dim multiples of 16.
        v_pages: like ``k_pages``.

    Returns:
        Q, [rows, q_heads, head_dim] in the pages' dtype.
    """
    rows, width = qkv.shape
    _, kv_heads, _, head_dim = k_pages.shape
    q = torch.empty(rows, width // head_dim - 2 * kv_heads, head_dim, dtype=k_pages.dtype)
    step = 2 if k_pages.dtype == torch.bfloat16 else 1
    kernel = _rope_write_serial if rows < _PARALLEL_ROWS else _rope_write_parallel
    kernel(
        qkv.numpy(), cos_sin.numpy(), batch.positions.numpy(), batch.slots.numpy(),
        as_numpy(q), as_numpy(k_pages), as_numpy(v_pages), step,
    )  # fmt: skip
    return q
