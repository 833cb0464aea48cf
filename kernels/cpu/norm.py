"""Residual add + RMSNorm, one pass over the row.

    h = x + residual;  y = h / sqrt(mean(h^2) + eps) * (weight + offset)

Zhang & Sennrich 2019 (arXiv 1910.07467). The stream (x, residual) is fp32, so rounding happens once, where the row
enters a linear: y has the weight's dtype.
"""

import numpy as np
import torch
from numba import njit, types

from .elementwise import add_row
from .machine import array_at
from .op_graph import empty, run, struct_dtype, work_item
from .storage import put, widen

_ROWS = 4  # of a work item
_ARGUMENTS = struct_dtype(x=int, residual=int, weight=int, y=int, hidden=int, eps=float, offset=float)


# The order of the sum is the vectoriser's choice, fixed when compiled: the same for each row.
@njit(inline="always", fastmath={"reassoc", "contract"})
def _sum_of_squares(h):
    total = np.float32(0.0)
    for i in range(h.shape[0]):
        total += h[i] * h[i]
    return total


@njit(fastmath={"contract"}, error_model="numpy")
def _normalise_row(h, weight, y, eps, offset):
    scale = np.float32(1.0) / np.sqrt(_sum_of_squares(h) / np.float32(h.shape[0]) + eps)
    for i in range(h.shape[0]):
        put(y, i, h[i] * scale * (widen(weight[i]) + offset))


@work_item
def _norm(weight_type, adds):
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        shape = (rows, a.hidden)
        x, weight = array_at(a.x, shape, types.float32), array_at(a.weight, a.hidden, weight_type)
        y = array_at(a.y, shape, weight_type)
        for row in range(item * _ROWS, min(item * _ROWS + _ROWS, rows)):
            if adds:
                residual = array_at(a.residual, shape, types.float32)[row]
                add_row(residual, x[row])
                _normalise_row(residual, weight, y[row], a.eps, a.offset)
            else:
                _normalise_row(x[row], weight, y[row], a.eps, a.offset)

    return kernel


def _run(x, residual, weight, eps, offset, out):
    rows, hidden = x.shape
    y = empty((rows, hidden), weight.dtype) if out is None else out
    arguments = {
        "x": x, "residual": residual, "weight": weight, "y": y, "hidden": hidden, "eps": eps, "offset": offset,
    }  # fmt: skip
    run(_norm(weight.dtype, residual is not None), _ARGUMENTS, arguments, rows, per_rows=_ROWS)
    return y


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, weight_offset: float = 0.0) -> torch.Tensor:
    """[rows, hidden] fp32 -> [rows, hidden] in the dtype of ``weight`` [hidden]; ``weight_offset`` is added to it."""
    return _run(x, None, weight, eps, weight_offset, None)


def add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    weight_offset: float = 0.0,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Normalise ``x + residual`` (fp32 both); ``residual`` becomes the sum. Returns the dtype of ``weight``."""
    return _run(x, residual, weight, eps, weight_offset, out)
