"""A linear as several, each over a range of its inputs: any form of weights, with the kernels that it has.

The parts' phases are recorded as experts' are (grouped.py), and those that are alike run as one.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numba import types

from .. import Linear
from .machine import array_at, call
from .op_graph import Phase, Recording, empty, fill, keep, keep_tensors, run, struct_dtype, work_item

_ROWS = 4  # of a work item
_SPLIT = struct_dtype(x=int, row_bytes=int, parts=int, starts=int, count=int)
_EACH = struct_dtype(kernel=int, members=int, words=int, fixed=int, per_rows=int, times=int)


@work_item
def _split():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _SPLIT)[0]
        parts, starts = array_at(a.parts, a.count, types.int64), array_at(a.starts, a.count + 1, types.int64)
        for row in range(item * _ROWS, min(item * _ROWS + _ROWS, rows)):
            for part in range(a.count):
                size = starts[part + 1] - starts[part]
                source = array_at(a.x + row * a.row_bytes + starts[part], size, types.uint8)
                array_at(parts[part] + row * size, size, types.uint8)[:] = source

    return kernel


def split(x: torch.Tensor, widths: Sequence[int]) -> list[torch.Tensor]:
    """Ranges of the columns of x [rows, in], one after another, each [rows, width] contiguous."""
    rows = x.shape[0]
    assert sum(widths) == x.shape[1], f"{sum(widths)} columns of {x.shape[1]}"
    if len(widths) == 1:
        return [x]
    parts = [empty((rows, width), x.dtype) for width in widths]
    starts = np.cumsum([0, *widths]) * x.itemsize
    addresses = np.array([part.data_ptr() for part in parts], np.int64)
    keep(starts, addresses)
    arguments = {
        "x": x, "row_bytes": x.shape[1] * x.itemsize, "parts": addresses.ctypes.data, "starts": starts.ctypes.data,
        "count": len(parts),
    }  # fmt: skip
    run(_split(), _SPLIT, arguments, rows, per_rows=_ROWS)
    return parts


@work_item
def _each():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _EACH)[0]
        items = a.fixed
        if a.per_rows > 0:
            items += (rows + a.per_rows - 1) // a.per_rows
        items *= a.times
        member = item // items
        call(a.kernel, a.members + member * a.words * 8, item - member * items, thread, rows, sequences)

    return kernel


def call_each(members: Sequence[Linear], parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What each linear makes of its rows [rows, in of it]."""
    if len(members) == 1:
        return [members[0](parts[0])]
    # One recording for each: what they return must be there at the same time.
    recordings = [Recording() for _ in members]
    recorded = [recording.record(member, x) for recording, member, x in zip(recordings, members, parts, strict=True)]
    rows = parts[0].shape[0]
    for phases in zip(*(phases for _, phases in recorded), strict=True):
        for alike in _runs(phases):
            _run_alike(alike, rows)
    keep(list(members))
    return [y for y, _ in recorded]


def _runs(phases: Sequence[Phase]) -> list[list[Phase]]:
    """Neighbours that are alike; a segment that is wider than the others may not be."""
    runs: list[list[Phase]] = []
    for phase in phases:
        if runs and _kind(runs[-1][0]) == _kind(phase):
            runs[-1].append(phase)
        else:
            runs.append([phase])
    return runs


def _kind(phase: Phase) -> tuple[int, int, int, int]:
    return phase.kernel, phase.fixed, phase.per_rows, phase.times


def _run_alike(phases: Sequence[Phase], rows: int) -> None:
    first = phases[0]
    filled = [fill(phase.kind, phase.arguments) for phase in phases]
    members = np.concatenate([values for values, _ in filled])
    assert first.kind.itemsize % 8 == 0
    keep(members)
    keep_tensors([tensor for _, tensors in filled for tensor in tensors])
    arguments = {
        "kernel": first.kernel, "members": members.ctypes.data, "words": first.kind.itemsize // 8,
        "fixed": first.fixed, "per_rows": first.per_rows, "times": first.times,
    }  # fmt: skip
    run(
        _each(), _EACH, arguments, rows,
        fixed=first.fixed, per_rows=first.per_rows, times=first.times * len(phases),
    )  # fmt: skip
