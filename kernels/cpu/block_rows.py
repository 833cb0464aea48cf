"""Rows as products with block-quantised weights read them, and their sums."""

import numpy as np
import torch
from numba import types

from .block_form import BlockForm
from .features import SET
from .machine import array_at
from .op_graph import empty, run, struct_dtype, work_item
from .storage import widen

_ROWS = struct_dtype(x=int, y=int, s=int, inner=int)
_COLUMNS = struct_dtype(x=int, order=int, y=int, width=int)
_FACTORS = 16  # of rows: a period


@work_item
def _rows(x_type, unit, sums, widens, factors):
    """Sums of a row's values over each unit; the values as fp32, times the factors."""
    itemsize = x_type.bitwidth // 8

    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ROWS)[0]
        x = array_at(a.x + item * a.inner * itemsize, a.inner, x_type)
        if sums:
            s = array_at(a.s + item * (a.inner // unit) * 4, a.inner // unit, types.float32)
            for i in range(s.shape[0]):
                total = np.float32(0.0)
                for k in range(unit):
                    total += widen(x[i * unit + k])
                s[i] = total
        if widens:
            y = array_at(a.y + item * a.inner * 4, a.inner, types.float32)
            for start in range(0, a.inner, _FACTORS):
                for i in range(_FACTORS):
                    y[start + i] = widen(x[start + i]) * np.float32(factors[i])

    return kernel


def prepare_rows(x: torch.Tensor, form: BlockForm) -> tuple[torch.Tensor, torch.Tensor | None]:
    """``x`` [rows, in] as the tile takes it, and, where the form corrects, sums of its units, fp32 [rows, in / unit].

    Without a dot product of bf16, rows become fp32; where codes are multiplied in place, they make up for the places.
    """
    rows, inner = x.shape
    widens = form.in_place or (x.dtype == torch.bfloat16 and not SET.dots_blocks)
    if not widens and not form.corrects:
        return x, None
    y = empty((rows, inner)) if widens else x
    sums = empty((rows, inner // form.unit)) if form.corrects else None
    factors = tuple(1 / form.place(i // 2) for i in range(_FACTORS))
    run(_rows(x.dtype, form.unit, form.corrects, widens, factors), _ROWS, {"x": x, "y": y, "s": sums, "inner": inner},
        rows, per_rows=1)  # fmt: skip
    return y, sums


@work_item
def _take_columns(x_type):
    itemsize = x_type.bitwidth // 8

    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _COLUMNS)[0]
        x = array_at(a.x + item * a.width * itemsize, a.width, x_type)
        y = array_at(a.y + item * a.width * itemsize, a.width, x_type)
        order = array_at(a.order, a.width, types.int64)
        for i in range(a.width):
            y[i] = x[order[i]]

    return kernel


def take_columns(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """``x`` [rows, in] with its columns in the order of ``order``, int64 [in]."""
    y = empty(tuple(x.shape), x.dtype)
    run(_take_columns(x.dtype), _COLUMNS, {"x": x, "order": order, "y": y, "width": x.shape[1]}, x.shape[0], per_rows=1)
    return y
