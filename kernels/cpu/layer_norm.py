"""Residual add + LayerNorm, one pass over the row.

    h = x + residual;  y = (h - mean(h)) / sqrt(mean((h - mean(h))^2) + eps) * weight + bias

Ba et al. 2016 (arXiv 1607.06450). Cohere's has no bias. As in norm.py, the stream is fp32 and y has the weight's dtype.
"""

import numpy as np
import torch
from numba import njit, types

from .elementwise import add_row
from .machine import array_at
from .op_graph import empty, run, struct_dtype, work_item
from .storage import put, widen

_ROWS = 4  # of a work item
_ARGUMENTS = struct_dtype(x=int, residual=int, weight=int, bias=int, y=int, hidden=int, eps=float)


# The order of the sums is the vectoriser's choice, fixed when compiled: the same for each row.
@njit(inline="always", fastmath={"reassoc", "contract"})
def _sum(h):
    total = np.float32(0.0)
    for i in range(h.shape[0]):
        total += h[i]
    return total


@njit(inline="always", fastmath={"reassoc", "contract"})
def _sum_of_squares(h, mean):
    total = np.float32(0.0)
    for i in range(h.shape[0]):
        total += (h[i] - mean) * (h[i] - mean)
    return total


@njit(fastmath={"contract"}, error_model="numpy")
def _normalise_row(h, weight, bias, y, eps):
    size = np.float32(h.shape[0])
    mean = _sum(h) / size
    scale = np.float32(1.0) / np.sqrt(_sum_of_squares(h, mean) / size + eps)
    if bias.shape[0] > 0:
        for i in range(h.shape[0]):
            put(y, i, (h[i] - mean) * scale * widen(weight[i]) + widen(bias[i]))
    else:
        for i in range(h.shape[0]):
            put(y, i, (h[i] - mean) * scale * widen(weight[i]))


@work_item
def _layer_norm(weight_type, adds):
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        shape = (rows, a.hidden)
        x, weight = array_at(a.x, shape, types.float32), array_at(a.weight, a.hidden, weight_type)
        bias = array_at(a.bias, a.hidden if a.bias else 0, weight_type)
        y = array_at(a.y, shape, weight_type)
        for row in range(item * _ROWS, min(item * _ROWS + _ROWS, rows)):
            if adds:
                residual = array_at(a.residual, shape, types.float32)[row]
                add_row(residual, x[row])
                _normalise_row(residual, weight, bias, y[row], a.eps)
            else:
                _normalise_row(x[row], weight, bias, y[row], a.eps)

    return kernel


def _run(x, residual, weight, bias, eps, out):
    rows, hidden = x.shape
    y = empty((rows, hidden), weight.dtype) if out is None else out
    arguments = {"x": x, "residual": residual, "weight": weight, "bias": bias, "y": y, "hidden": hidden, "eps": eps}
    run(_layer_norm(weight.dtype, residual is not None), _ARGUMENTS, arguments, rows, per_rows=_ROWS)
    return y


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    """[rows, hidden] fp32 -> [rows, hidden] in the dtype of ``weight`` and ``bias``, [hidden] both."""
    return _run(x, None, weight, bias, eps, None)


def add_layer_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Normalise ``x + residual`` (fp32 both); ``residual`` becomes the sum. Returns the dtype of ``weight``."""
    return _run(x, residual, weight, bias, eps, out)
