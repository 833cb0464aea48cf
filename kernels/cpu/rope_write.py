"""QK-norm, RoPE, and K and V into their pages, in one pass over the projected row.

    x = x / sqrt(mean(x^2) + eps) * (weight + offset)   Q and K heads, if the model has a QK-norm
    (a, b) -> (a cos - b sin, b cos + a sin)     a: first half of the head, b: second (NeoX layout)

Su et al. 2021 (arXiv 2104.09864). Pages hold what the attention's tile (tile.py) reads in order, so inside a page of
one head, with ``step`` = 2 for bf16 and 1 for fp32 and positions in panels of 16:

    K: [page_size / 16, head_dim / step, 16 positions, step]
    V: [head_dim / 16, page_size / step, 16 dims, step]

A page stays one contiguous box of page_size * head_dim values, as in the interface; only the order inside is ours.
"""

import numpy as np
import torch
from numba import njit, prange

from .. import QkNorm, StepBatch
from .stored import as_numpy, put, step_of, widen
from .tile import LANES

_PARALLEL_ROWS = 16
_NO_NORM = QkNorm(torch.ones(0), torch.ones(0), eps=0.0)


# The order of the sum is the vectoriser's choice, fixed when compiled: the same for each row.
@njit(fastmath={"reassoc", "contract"})
def _normalise_head(head, weight, eps, weight_offset):
    total = np.float32(0.0)
    for i in range(head.shape[0]):
        total += head[i] * head[i]
    scale = np.float32(1.0) / np.sqrt(total / np.float32(head.shape[0]) + eps)
    for i in range(head.shape[0]):
        head[i] = head[i] * scale * (widen(weight[i]) + weight_offset)


@njit(fastmath={"contract"})
def _rotate(head, cos_sin, rotated):
    half = head.shape[0] // 2
    a, b, cos, sin = head[:half], head[half:], cos_sin[:half], cos_sin[half:]
    rotated_a, rotated_b = rotated[:half], rotated[half:]
    for i in range(half):
        rotated_a[i] = a[i] * cos[i] - b[i] * sin[i]
        rotated_b[i] = b[i] * cos[i] + a[i] * sin[i]


@njit(fastmath={"contract"})
def _rope_write_row(row, qkv, cos_sin, position, slot, q, k_pages, v_pages, norm, q_weight, k_weight, constants):
    eps, weight_offset, k_inverse_scale, v_inverse_scale = constants
    q_heads, head_dim, step = q.shape[1], q.shape[2], step_of(q)
    kv_heads, page_size = k_pages.shape[1], k_pages.shape[2]
    heads = qkv[row].reshape((q_heads + 2 * kv_heads, head_dim))
    angles = cos_sin[position]
    rotated = np.empty(head_dim, np.float32)
    for head in range(q_heads):
        if norm:
            _normalise_head(heads[head], q_weight, eps, weight_offset)
        _rotate(heads[head], angles, rotated)
        q_head = q[row, head]
        for i in range(head_dim):
            put(q_head, i, rotated[i])
    page, offset = slot // page_size, slot % page_size
    k_base = (offset // LANES) * LANES * head_dim + (offset % LANES) * step
    v_base = (offset // step) * LANES * step + offset % step
    for head in range(kv_heads):
        k_head, v_head = heads[q_heads + head], heads[q_heads + kv_heads + head]
        k_page, v_page = k_pages[page, head].reshape(-1), v_pages[page, head].reshape(-1)
        if norm:
            _normalise_head(k_head, k_weight, eps, weight_offset)
        _rotate(k_head, angles, rotated)
        for i in range(head_dim):
            put(k_page, k_base + (i // step) * LANES * step + i % step, rotated[i] * k_inverse_scale)
        for panel in range(head_dim // LANES):
            for lane in range(LANES):
                target = v_base + panel * page_size * LANES + lane * step
                put(v_page, target, v_head[panel * LANES + lane] * v_inverse_scale)


@njit(cache=True)
def _rope_write_serial(qkv, cos_sin, positions, slots, q, k, v, norm, q_weight, k_weight, constants):
    for row in range(qkv.shape[0]):
        _rope_write_row(row, qkv, cos_sin, positions[row], slots[row], q, k, v, norm, q_weight, k_weight, constants)


@njit(cache=True, parallel=True)
def _rope_write_parallel(qkv, cos_sin, positions, slots, q, k, v, norm, q_weight, k_weight, constants):
    for row in prange(qkv.shape[0]):
        _rope_write_row(row, qkv, cos_sin, positions[row], slots[row], q, k, v, norm, q_weight, k_weight, constants)


def rope_and_write(
    qkv: torch.Tensor,
    cos_sin: torch.Tensor,
    batch: StepBatch,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    qk_norm: QkNorm | None = None,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> torch.Tensor:
    """Normalise Q and K if asked to, rotate them, write K and V to their slots.

    Args:
        qkv: [rows, (q_heads + 2 * kv_heads) * head_dim] fp32; Q and K are overwritten where there is a QK-norm.
        cos_sin: [max_positions, head_dim] fp32, cosines of the half dims, then sines.
        batch: its ``positions`` and ``slots``.
        k_pages: [pages, kv_heads, page_size, head_dim], written; page_size and head_dim multiples of 16. fp8 pages
            hold K / k_scale.
        v_pages: like ``k_pages``.
        qk_norm: weights of the QK-norm, None where the model has none.

    Returns:
        Q, [rows, q_heads, head_dim] in the pages' dtype; fp32 with fp8 pages.
    """
    rows, width = qkv.shape
    _, kv_heads, _, head_dim = k_pages.shape
    q_dtype = torch.float32 if k_pages.dtype == torch.float8_e4m3fn else k_pages.dtype
    q = torch.empty(rows, width // head_dim - 2 * kv_heads, head_dim, dtype=q_dtype)
    norm = qk_norm or _NO_NORM
    constants = (
        np.float32(norm.eps),
        np.float32(norm.weight_offset),
        np.float32(1.0 / k_scale),
        np.float32(1.0 / v_scale),
    )
    kernel = _rope_write_serial if rows < _PARALLEL_ROWS else _rope_write_parallel
    kernel(
        qkv.numpy(), cos_sin.numpy(), batch.positions.numpy(), batch.slots.numpy(), as_numpy(q),
        as_numpy(k_pages), as_numpy(v_pages), qk_norm is not None,
        as_numpy(norm.q_weight), as_numpy(norm.k_weight), constants,
    )  # fmt: skip
    return q
