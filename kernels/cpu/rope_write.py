"""QK-norm, RoPE, and K and V into their pages, in one pass over the projected row.

    x = x / sqrt(mean(x^2) + eps) * (weight + offset)   Q and K heads, or all of Q and of K, if there is a QK-norm;
                                                        as LayerNorm with x - mean(x) in place of x
    (a, b) -> (a cos - b sin, b cos + a sin)     a: first half of the head, b: second (NeoX layout)

Su et al. 2021 (arXiv 2104.09864). Pages hold what the attention's tile (tile.py) reads in order, so inside a page of
one head, with ``step`` = 2 for bf16 and 1 for fp32 and positions in panels of 16:

    K: [page_size / 16, head_dim / step, 16 positions, step]
    V: [head_dim / 16, page_size / step, 16 dims, step]

A page stays one contiguous box of page_size * head_dim values, as in the interface; only the order inside is ours.
"""

import numpy as np
import torch
from numba import njit, types

from .. import QkNorm, StepBatch
from .llvm import LANES
from .machine import array_at
from .op_graph import empty, run, struct_dtype, work_item
from .storage import put, widen
from .thread_pool import thread_pool

_ROWS = 2  # of a work item
_NO_NORM = QkNorm(torch.ones(0), torch.ones(0), eps=0.0)
_NONE, _RMS, _LAYER, _RMS_AFTER, _WHOLE = range(5)  # norms

_ARGUMENTS = struct_dtype(
    qkv=int, cos_sin=int, positions=int, slots=int, q=int, k_pages=int, v_pages=int, q_weight=int, k_weight=int,
    scratch=int, q_heads=int, kv_heads=int, head_dim=int, page_size=int, own_weights=int,
    eps=float, weight_offset=float, k_inverse_scale=float, v_inverse_scale=float,
)  # fmt: skip


# The order of the sum is the vectoriser's choice, fixed when compiled: the same for each row.
@njit(fastmath={"reassoc", "contract"}, error_model="numpy")
def _normalise(x, weight, eps, weight_offset):
    total = np.float32(0.0)
    for i in range(x.shape[0]):
        total += x[i] * x[i]
    scale = np.float32(1.0) / np.sqrt(total / np.float32(x.shape[0]) + eps)
    for i in range(x.shape[0]):
        x[i] = x[i] * scale * (widen(weight[i]) + weight_offset)


@njit(fastmath={"reassoc", "contract"}, error_model="numpy")
def _centre(x):
    total = np.float32(0.0)
    for i in range(x.shape[0]):
        total += x[i]
    mean = total / np.float32(x.shape[0])
    for i in range(x.shape[0]):
        x[i] -= mean


@njit(fastmath={"contract"}, error_model="numpy")
def _rotate(head, cos_sin, rotated):
    half = head.shape[0] // 2
    a, b, cos, sin = head[:half], head[half:], cos_sin[:half], cos_sin[half:]
    rotated_a, rotated_b = rotated[:half], rotated[half:]
    for i in range(half):
        rotated_a[i] = a[i] * cos[i] - b[i] * sin[i]
        rotated_b[i] = b[i] * cos[i] + a[i] * sin[i]


@njit(error_model="numpy")
def _normalise_and_rotate(norm, head, weight, angles, rotated, eps, weight_offset):
    if norm == _LAYER:
        _centre(head)
    if norm in (_RMS, _LAYER):
        _normalise(head, weight, eps, weight_offset)
    _rotate(head, angles, rotated)
    if norm == _RMS_AFTER:
        _normalise(rotated, weight, eps, weight_offset)


@njit(error_model="numpy")
def _put_all(target, source):
    for i in range(target.shape[0]):
        put(target, i, source[i])


@njit(error_model="numpy")
def _write_k(page, head, offset, scale):
    """``page`` is [page_size / 16, head_dim / step, 16, step]."""
    panel, lane, step = page[offset // LANES], offset % LANES, page.shape[3]
    for i in range(panel.shape[0]):
        for j in range(step):
            put(panel[i, lane], j, head[i * step + j] * scale)


@njit(error_model="numpy")
def _write_v(page, head, offset, scale):
    """``page`` is [head_dim / 16, page_size / step, 16, step]."""
    step = page.shape[3]
    for panel in range(page.shape[0]):
        words = page[panel, offset // step]
        for lane in range(LANES):
            put(words[lane], offset % step, head[panel * LANES + lane] * scale)


@work_item
def _rope_write(q_type, page_type, weight_type, norm):
    step, page_itemsize = 2 if q_type == types.uint16 else 1, page_type.bitwidth // 8

    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        head_dim, page_size, q_heads, kv_heads = a.head_dim, a.page_size, a.q_heads, a.kv_heads
        qkv = array_at(a.qkv, (rows, q_heads + 2 * kv_heads, head_dim), types.float32)
        q = array_at(a.q, (rows, q_heads, head_dim), q_type)
        positions, slots = array_at(a.positions, rows, types.int32), array_at(a.slots, rows, types.int64)
        q_width, k_width = q_heads * head_dim, kv_heads * head_dim
        q_weight, k_weight = array_at(a.q_weight, q_width, weight_type), array_at(a.k_weight, k_width, weight_type)
        stride = head_dim if a.own_weights else 0
        rotated = array_at(a.scratch + thread * head_dim * 4, head_dim, types.float32)
        box = kv_heads * page_size * head_dim * page_itemsize
        k_shape = (kv_heads, page_size // LANES, head_dim // step, LANES, step)
        v_shape = (kv_heads, head_dim // LANES, page_size // step, LANES, step)
        for row in range(item * _ROWS, min(item * _ROWS + _ROWS, rows)):
            angles = array_at(a.cos_sin + positions[row] * head_dim * 4, head_dim, types.float32)
            if norm == _WHOLE:
                row_at = a.qkv + row * (q_heads + 2 * kv_heads) * head_dim * 4
                _normalise(array_at(row_at, q_width, types.float32), q_weight, a.eps, a.weight_offset)
                k_row = array_at(row_at + q_width * 4, k_width, types.float32)
                _normalise(k_row, k_weight, a.eps, a.weight_offset)
            for head in range(q_heads):
                weight = q_weight[head * stride : head * stride + head_dim]
                _normalise_and_rotate(norm, qkv[row, head], weight, angles, rotated, a.eps, a.weight_offset)
                _put_all(q[row, head], rotated)
            page, offset = slots[row] // page_size, slots[row] % page_size
            k_page = array_at(a.k_pages + page * box, k_shape, page_type)
            v_page = array_at(a.v_pages + page * box, v_shape, page_type)
            for head in range(kv_heads):
                k_head, v_head = qkv[row, q_heads + head], qkv[row, q_heads + kv_heads + head]
                weight = k_weight[head * stride : head * stride + head_dim]
                _normalise_and_rotate(norm, k_head, weight, angles, rotated, a.eps, a.weight_offset)
                _write_k(k_page[head], rotated, offset, a.k_inverse_scale)
                _write_v(v_page[head], v_head, offset, a.v_inverse_scale)

    return kernel


def _kind_of(qk_norm: QkNorm | None) -> int:
    if qk_norm is None:
        return _NONE
    if qk_norm.whole:
        return _WHOLE
    if qk_norm.after:
        return _RMS_AFTER
    return _RMS if qk_norm.kind == "rms" else _LAYER


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
    """Normalise Q and K if asked to, rotate them, write K and V to their slots.

    Args:
        qkv: [rows, (q_heads + 2 * kv_heads) * head_dim] fp32; Q and K are overwritten where there is a QK-norm.
        cos_sin: [max_positions, head_dim] fp32, cosines of the half dims, then sines.
        batch: its ``positions`` and ``slots``.
        k_pages: [pages, kv_heads, page_size, head_dim], written; page_size and head_dim multiples of 16. fp8 pages
            hold K / k_scale.
        v_pages: like ``k_pages``.
        qk_norm: weights of the QK-norm, None where the model has none.
        dtype: of Q, fp32 or bf16, which the order inside fp8 pages depends on; None: the pages'.

    Returns:
        Q, [rows, q_heads, head_dim] in ``dtype``.
    """
    rows, width = qkv.shape
    _, kv_heads, page_size, head_dim = k_pages.shape
    q_dtype = dtype or k_pages.dtype
    assert q_dtype != torch.float8_e4m3fn, "beside fp8 pages Q's dtype must be given"
    q_heads = width // head_dim - 2 * kv_heads
    q = empty((rows, q_heads, head_dim), q_dtype)
    norm = qk_norm or _NO_NORM
    arguments = {
        "qkv": qkv, "cos_sin": cos_sin, "positions": batch.positions, "slots": batch.slots, "q": q,
        "k_pages": k_pages, "v_pages": v_pages, "q_weight": norm.q_weight, "k_weight": norm.k_weight,
        "scratch": empty((thread_pool().threads, head_dim)),
        "q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim, "page_size": page_size,
        "own_weights": int(norm.q_weight.numel() > head_dim),
        "eps": norm.eps, "weight_offset": norm.weight_offset,
        "k_inverse_scale": 1.0 / k_scale, "v_inverse_scale": 1.0 / v_scale,
    }  # fmt: skip
    kernel = _rope_write(q_dtype, k_pages.dtype, norm.q_weight.dtype, _kind_of(qk_norm))
    run(kernel, _ARGUMENTS, arguments, rows, per_rows=_ROWS)
    return q
