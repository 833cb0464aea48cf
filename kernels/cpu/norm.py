"""Residual add + RMSNorm, one pass over the row.

    h = x + residual;  y = h / sqrt(mean(h^2) + eps) * (weight + offset)

Zhang & Sennrich 2019 (arXiv 1910.07467). The stream (x, residual) is fp32, so rounding happens once, where the row
enters a linear: y has the weight's dtype.
"""

import numpy as np
import torch
from numba import njit, prange

from .stored import as_numpy, put, widen

_PARALLEL_ROWS = 32  # below, waking the second thread costs more than the rows


# The order of the sum is the vectoriser's choice, fixed when compiled: the same for each row.
@njit(inline="always", fastmath={"reassoc", "contract"})
def _sum_of_squares(h, hidden):
    total = np.float32(0.0)
    for i in range(hidden):
        total += h[i] * h[i]
    return total


@njit(fastmath={"contract"})
def _normalise_row(h, weight, y, eps, offset):
    hidden = h.shape[0]
    scale = np.float32(1.0) / np.sqrt(_sum_of_squares(h, hidden) / np.float32(hidden) + np.float32(eps))
    for i in range(hidden):
        put(y, i, h[i] * scale * (widen(weight[i]) + offset))


@njit(cache=True)
def _rms_norm_serial(x, weight, y, eps, offset):
    for row in range(x.shape[0]):
        _normalise_row(x[row], weight, y[row], eps, offset)


@njit(cache=True, parallel=True)
def _rms_norm_parallel(x, weight, y, eps, offset):
    for row in prange(x.shape[0]):
        _normalise_row(x[row], weight, y[row], eps, offset)


@njit(cache=True)
def _add_rms_norm_serial(x, residual, weight, y, eps, offset):
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            residual[row, i] += x[row, i]
        _normalise_row(residual[row], weight, y[row], eps, offset)


@njit(cache=True, parallel=True)
def _add_rms_norm_parallel(x, residual, weight, y, eps, offset):
    for row in prange(x.shape[0]):
        for i in range(x.shape[1]):
            residual[row, i] += x[row, i]
        _normalise_row(residual[row], weight, y[row], eps, offset)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, weight_offset: float = 0.0) -> torch.Tensor:
    """[rows, hidden] fp32 -> [rows, hidden] in the dtype of ``weight`` [hidden]; ``weight_offset`` is added to it."""
    y = torch.empty(x.shape, dtype=weight.dtype)
    kernel = _rms_norm_serial if x.shape[0] < _PARALLEL_ROWS else _rms_norm_parallel
    kernel(x.numpy(), as_numpy(weight), as_numpy(y), eps, np.float32(weight_offset))
    return y


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float, weight_offset: float = 0.0
) -> torch.Tensor:
    """Normalise ``x + residual`` (fp32 both); ``residual`` becomes the sum. Returns the dtype of ``weight``."""
    y = torch.empty(x.shape, dtype=weight.dtype)
    kernel = _add_rms_norm_serial if x.shape[0] < _PARALLEL_ROWS else _add_rms_norm_parallel
    kernel(x.numpy(), residual.numpy(), as_numpy(weight), as_numpy(y), eps, np.float32(weight_offset))
    return y
