"""Low-rank updates chosen per row (kernels/low_rank.py), two phases for a linear:

    h[row, part, r] = scale * sum_k x[row, k] * a[slot, part, r, k]
    y[row, o] += sum_r h[row, part, r] * b[slot, part, o, r]            slot = slots[row], part = that of output o

A linear that was fused of several parts (Q, K and V) has an update for each of them. The matrices lie wherever an
adapter was packed; a table has their addresses, so a rank costs what it is, and an adapter comes or goes by some words.
Both products are those of the inner loop (tile.py): a row's sums don't depend on its neighbours. Neighbours of one slot
share what is read, so rows of an adapter should lie together. Slot 0 has no adapter: its rows of y are not touched.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit, types

from ..low_rank import MAX_RANK, LowRank
from .llvm import LANES
from .machine import aligned_empty, array_at, copy_values
from .op_graph import empty, run, struct_dtype, work_item
from .thread_pool import thread_pool
from .tile_rows import make_cover

_ROWS = 16  # of a work item
_RANK_PANELS = 4  # of a work item that computes h
_OUT_PANELS = 8  # of a work item that adds to y

_cover, _add_cover = make_cover(), make_cover(accumulate=True)

# Of one part of a slot: addresses of its panels (0: no update), its padded rank, and its scale.
_ENTRY = struct_dtype(a=int, b=int, rank=int, scale=float)
_PART = struct_dtype(start=int, width=int)  # its outputs
_ARGUMENTS = struct_dtype(
    x=int, y=int, h=int, slots=int, table=int, entries=int, parts=int, num_parts=int, scratch=int, out=int, inner=int,
    chunks=int,
)  # fmt: skip


@njit
def _end_of_run(slots, row, end):
    """Behind the last of the rows from ``row`` on that have its slot."""
    last = row + 1
    while last < end and slots[last] == slots[row]:
        last += 1
    return last


@njit(error_model="numpy")
def _scale_rows(h, width, stride, rows, scale):
    for row in range(rows):
        values = array_at(h + row * stride, width, types.float32)
        for i in range(width):
            values[i] *= scale


@work_item
def _shrink_adapters(x_type):
    per_step = 1 if x_type == types.float32 else 2  # values of k that the tile multiplies at a time
    itemsize = x_type.bitwidth // 8

    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        slots = array_at(a.slots, rows, types.int32)
        entries = array_at(a.table, a.entries, _ENTRY)
        like = array_at(a.x, 1, x_type)
        blocks = (rows + _ROWS - 1) // _ROWS
        row, what = item % blocks * _ROWS, item // blocks
        groups = MAX_RANK // LANES // _RANK_PANELS
        part, first = what // groups, what % groups * _RANK_PANELS
        steps, x_stride, h_stride = a.inner // per_step, a.inner * itemsize, a.num_parts * MAX_RANK * 4
        w_stride = a.inner * LANES * itemsize
        end = min(row + _ROWS, rows)
        while row < end:
            last = _end_of_run(slots, row, end)
            if slots[row] > 0:
                entry = entries[slots[row] * a.num_parts + part]
                panels = min(entry.rank // LANES - first, _RANK_PANELS)
                if panels > 0:
                    x, w = a.x + row * x_stride, entry.a + first * w_stride
                    h = a.h + row * h_stride + (part * MAX_RANK + first * LANES) * 4
                    _cover(like, like, x, x_stride, w, w_stride, h, h_stride, last - row, panels, steps, w)
                    _scale_rows(h, panels * LANES, h_stride, last - row, entry.scale)
            row = last

    return kernel


@work_item
def _add_adapters(w_type):
    per_step = 1 if w_type == types.float32 else 2
    itemsize = w_type.bitwidth // 8

    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        slots = array_at(a.slots, rows, types.int32)
        entries = array_at(a.table, a.entries, _ENTRY)
        parts = array_at(a.parts, a.num_parts, _PART)
        h_like, w_like = array_at(a.h, 1, types.float32), array_at(a.x, 1, w_type)
        blocks = (rows + _ROWS - 1) // _ROWS
        row, first, part = item % blocks * _ROWS, item // blocks * _OUT_PANELS, 0
        while True:  # items count the panels of one part after the other's
            panels = (parts[part].width + LANES - 1) // LANES
            whole = (panels + _OUT_PANELS - 1) // _OUT_PANELS * _OUT_PANELS
            if first < whole:
                break
            first -= whole
            part += 1
        start, width = parts[part].start, parts[part].width
        h_stride, y_stride = a.num_parts * MAX_RANK * 4, a.out * 4
        end, last_panel = min(row + _ROWS, rows), min(first + _OUT_PANELS, panels)
        while row < end:
            last = _end_of_run(slots, row, end)
            if slots[row] > 0:
                entry = entries[slots[row] * a.num_parts + part]
                if entry.rank > 0:
                    count, steps = last - row, entry.rank // per_step
                    h = a.h + row * h_stride + part * MAX_RANK * 4
                    w_stride = entry.rank * LANES * itemsize
                    full = min(last_panel, width // LANES) - first
                    y, w = a.y + row * y_stride + (start + first * LANES) * 4, entry.b + first * w_stride
                    _add_cover(h_like, w_like, h, h_stride, w, w_stride, y, y_stride, count, full, steps, w)
                    if first + full < last_panel:  # the tile reads and writes whole panels
                        y_rows = array_at(a.y, (rows, a.out), types.float32)
                        begin, w = start + (first + full) * LANES, w + full * w_stride
                        scratch = a.scratch + thread * _ROWS * LANES * 4
                        copied = array_at(scratch, (count, LANES), types.float32)
                        for done in range(row, last):
                            copy_values(
                                copied[done - row, : start + width - begin], y_rows[done, begin : start + width]
                            )
                        _add_cover(h_like, w_like, h, h_stride, w, 0, scratch, LANES * 4, count, 1, steps, w)
                        for done in range(row, last):
                            copy_values(
                                y_rows[done, begin : start + width], copied[done - row, : start + width - begin]
                            )
            row = last

    return kernel


class _Packed(NamedTuple):
    """One part of an adapter, in panels."""

    a: torch.Tensor  # [ranks / 16, in / per step, 16, per step]
    b: torch.Tensor  # [outputs / 16, ranks / per step, 16, per step]
    rank: int
    scale: float


class AdapterTable:
    """The adapters of one linear [sum of widths, inner], by slot."""

    def __init__(self, inner: int, widths: Sequence[int], slots: int, dtype: torch.dtype) -> None:
        self._inner, self._widths, self._dtype = inner, tuple(widths), dtype
        self._kept: list[Sequence[_Packed | None]] = [()] * (slots + 1)
        num_parts = len(widths)
        self._memory = torch.zeros((slots + 1) * num_parts * _ENTRY.itemsize, dtype=torch.uint8)
        self._entries = self._memory.numpy().view(_ENTRY).reshape(slots + 1, num_parts)
        self._parts = torch.zeros(num_parts * _PART.itemsize, dtype=torch.uint8)
        parts = self._parts.numpy().view(_PART)
        parts["width"] = widths
        parts["start"] = np.cumsum([0, *widths[:-1]])
        self._chunks = sum(-(-width // (LANES * _OUT_PANELS)) for width in widths)
        self._scratch = aligned_empty((thread_pool().threads, _ROWS, LANES), torch.float32)

    def pack(self, parts: Sequence[LowRank | None]) -> Sequence[_Packed | None]:
        """See the interface."""
        return [None if part is None else self._packed(part) for part in parts]

    def put(self, slot: int, packed: Sequence[_Packed | None] | None) -> None:
        """See the interface."""
        assert slot > 0, "slot 0 has no adapter"
        self._entries[slot] = 0
        self._kept[slot] = packed or ()
        for entry, part in zip(self._entries[slot], packed or (), strict=False):
            if part is not None:
                entry["a"], entry["b"] = part.a.data_ptr(), part.b.data_ptr()
                entry["rank"], entry["scale"] = part.rank, part.scale

    def add(self, x: torch.Tensor, slots: torch.Tensor, y: torch.Tensor) -> None:
        """See the interface; x is of the table's dtype, y fp32."""
        rows, num_parts = x.shape[0], len(self._widths)
        assert x.dtype == self._dtype
        h = empty((rows, num_parts * MAX_RANK))
        arguments = {
            "x": x, "y": y, "h": h, "slots": slots, "table": self._memory, "entries": self._entries.size,
            "parts": self._parts, "num_parts": num_parts, "scratch": self._scratch, "out": y.shape[1],
            "inner": self._inner, "chunks": self._chunks,
        }  # fmt: skip
        groups = MAX_RANK // LANES // _RANK_PANELS
        run(_shrink_adapters(x.dtype), _ARGUMENTS, arguments, rows, per_rows=_ROWS, times=num_parts * groups)
        run(_add_adapters(x.dtype), _ARGUMENTS, arguments, rows, per_rows=_ROWS, times=self._chunks)

    def _packed(self, part: LowRank) -> _Packed:
        a, b = part.padded(self._dtype)
        rank = a.shape[0]
        b = F.pad(b, (0, 0, 0, -b.shape[0] % LANES))
        return _Packed(_panels(a), _panels(b), rank, part.scale)


def _panels(weight: torch.Tensor) -> torch.Tensor:
    """[out, in] as the tile reads it; see linear.py."""
    out, inner = weight.shape
    per_step = 1 if weight.dtype == torch.float32 else 2
    packed = aligned_empty((out // LANES, inner // per_step, LANES, per_step), weight.dtype)
    packed[:] = weight.view(out // LANES, LANES, inner // per_step, per_step).transpose(1, 2)
    return packed


def new_adapters(
    inner: int, widths: Sequence[int], slots: int, dtype: torch.dtype, device: torch.device
) -> AdapterTable:
    """Room for the adapters of one linear, in slots 1 to ``slots``. Raises ValueError for an odd width of bf16 rows."""
    assert device.type == "cpu"
    if dtype != torch.float32 and inner % 2:
        raise ValueError(f"adapters of a linear of {dtype} need an even number of inputs, not {inner}")
    return AdapterTable(inner, widths, slots, dtype)
