"""The small ops around the layers: token ids into rows, rows of logits out, and copies between host and step."""

from functools import lru_cache

import numpy as np
import torch
from numba import njit, types

from .block_linear import BlockLinear
from .exp import exp
from .machine import array_at, copy_values
from .op_graph import Prepared, empty, is_capturing, run, struct_dtype, work_item
from .storage import widen

_ROWS = 4  # of a work item
_COPY_BYTES = 1 << 16  # of a work item

_EMBED = struct_dtype(table=int, token_ids=int, x=int, hidden=int, scale=float)
_ROWS_OF = struct_dtype(x=int, listed=int, y=int, row_bytes=int)
_TAKE = struct_dtype(token_ids=int, sources=int, sampled=int)
_COUNT = struct_dtype(counts=int, rows=int, token_ids=int, width=int)
_CAP = struct_dtype(x=int, width=int, cap=float)
_COPY = struct_dtype(target=int, source=int, size=int)
_BOXES = struct_dtype(target=int, target_step=int, source=int, source_step=int, size=int)


@njit(error_model="numpy")
def _scale_row(x, source, scale):
    for i in range(x.shape[0]):
        x[i] = widen(source[i]) * scale


@work_item
def _embed(table_type, index_type):
    itemsize = table_type.bitwidth // 8

    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _EMBED)[0]
        token_ids = array_at(a.token_ids, rows, index_type)
        x = array_at(a.x, (rows, a.hidden), types.float32)
        for row in range(item * _ROWS, min(item * _ROWS + _ROWS, rows)):
            source = array_at(a.table + token_ids[row] * a.hidden * itemsize, a.hidden, table_type)
            _scale_row(x[row], source, a.scale)

    return kernel


def embed(table: torch.Tensor | BlockLinear, token_ids: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """Rows of ``table`` [vocab, hidden] at ``token_ids`` (int64 or int32 [rows]), times ``scale``, fp32."""
    assert dtype == torch.float32, "the stream of this backend is fp32"
    if isinstance(table, BlockLinear):
        return table.embed(token_ids, scale)
    x = empty((token_ids.shape[0], table.shape[1]))
    arguments = {"table": table, "token_ids": token_ids, "x": x, "hidden": table.shape[1], "scale": scale}
    run(_embed(table.dtype, token_ids.dtype), _EMBED, arguments, token_ids.shape[0], per_rows=_ROWS)
    return x


@work_item
def _take_rows():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ROWS_OF)[0]
        source = a.x + array_at(a.listed, rows, types.int64)[item] * a.row_bytes
        target = array_at(a.y, (rows, a.row_bytes), types.uint8)[item]
        copy_values(target, array_at(source, a.row_bytes, types.uint8))

    return kernel


def take_rows(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows of x [any, width] at ``rows`` (int64 [n]), [n, width]."""
    y = empty((rows.shape[0], x.shape[1]), x.dtype)
    arguments = {"x": x, "listed": rows, "y": y, "row_bytes": x.shape[1] * x.itemsize}
    run(_take_rows(), _ROWS_OF, arguments, rows.shape[0], per_rows=1)
    return y


@work_item
def _take():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _TAKE)[0]
        token_ids, sources = array_at(a.token_ids, rows, types.int64), array_at(a.sources, rows, types.int64)
        for row in range(rows):
            if sources[row] >= 0:
                token_ids[row] = array_at(a.sampled + sources[row] * 8, 1, types.int64)[0]

    return kernel


def take_tokens(token_ids: torch.Tensor, sources: torch.Tensor, sampled: torch.Tensor) -> None:
    """``token_ids[row] = sampled[sources[row]]`` where ``sources[row]`` is not negative; int64 all."""
    arguments = {"token_ids": token_ids, "sources": sources, "sampled": sampled}
    run(_take(), _TAKE, arguments, token_ids.shape[0], fixed=1)


@work_item
def _count():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _COUNT)[0]
        of_row, token_ids = array_at(a.rows, rows, types.int32), array_at(a.token_ids, rows, types.int64)
        for row in range(rows):
            if of_row[row] >= 0:
                array_at(a.counts + of_row[row] * a.width * 4, a.width, types.int32)[token_ids[row]] += 1

    return kernel


def count_tokens(counts: torch.Tensor, rows: torch.Tensor, token_ids: torch.Tensor) -> None:
    """``counts[rows[i], token_ids[i]] += 1`` where ``rows[i]`` is not negative.

    ``counts`` is int32 [any, vocab], ``rows`` int32 [n], ``token_ids`` int64 [n].
    """
    arguments = {"counts": counts, "rows": rows, "token_ids": token_ids, "width": counts.shape[1]}
    run(_count(), _COUNT, arguments, token_ids.shape[0], fixed=1)


@njit(fastmath={"contract"}, error_model="numpy")
def _cap_row(x, cap):
    for i in range(x.shape[0]):
        # tanh u = 1 - 2 / (e^2u + 1); beyond 20 it is 1 in fp32.
        u = min(max(x[i] / cap, np.float32(-20.0)), np.float32(20.0))
        x[i] = cap * (np.float32(1.0) - np.float32(2.0) / (exp(u + u) + np.float32(1.0)))


@work_item
def _cap():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _CAP)[0]
        _cap_row(array_at(a.x + item * a.width * 4, a.width, types.float32), a.cap)

    return kernel


def soft_cap(x: torch.Tensor, cap: float) -> None:
    """``x = cap * tanh(x / cap)`` in place, fp32 [rows, width]."""
    run(_cap(), _CAP, {"x": x, "width": x.shape[1], "cap": cap}, x.shape[0], per_rows=1)


@work_item
def _copy():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _COPY)[0]
        begin = item * _COPY_BYTES
        size = min(_COPY_BYTES, a.size - begin)
        copy_values(array_at(a.target + begin, size, types.uint8), array_at(a.source + begin, size, types.uint8))

    return kernel


@work_item
def _copy_box():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _BOXES)[0]
        target, source = a.target + item * a.target_step, a.source + item * a.source_step
        copy_values(array_at(target, a.size, types.uint8), array_at(source, a.size, types.uint8))

    return kernel


def copy_boxes(target: torch.Tensor, source: torch.Tensor) -> None:
    """``copy`` of uint8 [boxes, bytes] whose boxes lie apart. Doesn't wait."""
    assert not is_capturing()
    assert target.shape == source.shape
    boxes, size = source.shape
    arguments = {
        "target": target.data_ptr(), "target_step": target.stride(0), "source": source.data_ptr(),
        "source_step": source.stride(0), "size": size,
    }  # fmt: skip
    Prepared(_copy_box(), _BOXES, arguments, fixed=boxes).launch(target, source)


def copy(target: torch.Tensor, source: torch.Tensor) -> None:
    """All of ``source`` to ``target``: same shape, same dtype, both contiguous. Doesn't wait; see ``Event``."""
    size = source.numel() * source.itemsize
    assert size == target.numel() * target.itemsize
    if is_capturing():
        run(_copy(), _COPY, {"target": target, "source": source, "size": size}, 1, fixed=-(-size // _COPY_BYTES))
    else:
        prepared_copy(target.data_ptr(), source.data_ptr(), size).launch(target, source)


@lru_cache(maxsize=1024)
def prepared_copy(target: int, source: int, size: int) -> Prepared:
    """A copy between two addresses: a step makes the same few again and again."""
    arguments = {"target": target, "source": source, "size": size}
    return Prepared(_copy(), _COPY, arguments, fixed=-(-size // _COPY_BYTES))
