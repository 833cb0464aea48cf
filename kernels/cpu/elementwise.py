"""Value by value: a sum into the stream, the stream in another dtype, a factor."""

import torch
from numba import njit, types

from .machine import array_at
from .op_graph import empty, run, struct_dtype, work_item
from .storage import put, widen

_ROWS = 4  # of a work item
_ADD = struct_dtype(x=int, residual=int, width=int)
_CAST = struct_dtype(x=int, y=int, width=int)
_SCALE = struct_dtype(x=int, width=int, factor=float)


@njit(error_model="numpy")
def add_row(residual, x):
    for i in range(x.shape[0]):
        residual[i] += x[i]


@work_item
def _add():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ADD)[0]
        x = array_at(a.x, (rows, a.width), types.float32)
        residual = array_at(a.residual, (rows, a.width), types.float32)
        for row in range(item * _ROWS, min(item * _ROWS + _ROWS, rows)):
            add_row(residual[row], x[row])

    return kernel


def add(x: torch.Tensor, residual: torch.Tensor) -> None:
    """``residual += x``, [rows, width] fp32 both."""
    run(_add(), _ADD, {"x": x, "residual": residual, "width": x.shape[1]}, x.shape[0], per_rows=_ROWS)


@njit(error_model="numpy")
def _put_row(y, x):
    for i in range(x.shape[0]):
        put(y, i, widen(x[i]))


@work_item
def _cast(x_type, y_type):
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _CAST)[0]
        x, y = array_at(a.x, (rows, a.width), x_type), array_at(a.y, (rows, a.width), y_type)
        for row in range(item * _ROWS, min(item * _ROWS + _ROWS, rows)):
            _put_row(y[row], x[row])

    return kernel


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``x`` [rows, width], fp32 or bf16, in ``dtype``: itself where it has that."""
    if x.dtype == dtype:
        return x
    y = empty((x.shape[0], x.shape[1]), dtype)
    run(_cast(x.dtype, dtype), _CAST, {"x": x, "y": y, "width": x.shape[1]}, x.shape[0], per_rows=_ROWS)
    return y


@njit(error_model="numpy")
def _scale_row(x, factor):
    for i in range(x.shape[0]):
        x[i] *= factor


@work_item
def _scale():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _SCALE)[0]
        _scale_row(array_at(a.x + item * a.width * 4, a.width, types.float32), a.factor)

    return kernel


def scale(x: torch.Tensor, factor: float) -> None:
    """``x *= factor`` in place, fp32 [rows, width]."""
    run(_scale(), _SCALE, {"x": x, "width": x.shape[1], "factor": factor}, x.shape[0], per_rows=1)
