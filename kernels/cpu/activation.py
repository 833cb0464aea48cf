"""SiLU-and-mul, the middle of a gated MLP: y = gate / (1 + exp(-gate)) * up (Shazeer 2020, arXiv 2002.05202)."""

import numpy as np
import torch
from numba import njit, prange

from .bf16 import as_numpy, put
from .exp import exp

_PARALLEL_ROWS = 8
_LOWEST = np.float32(-87.0)  # exp(87) is still finite in fp32


@njit(fastmath={"contract"})
def _silu_and_mul_row(gate_up, y):
    width = y.shape[0]
    for i in range(width):
        gate = gate_up[i]
        put(y, i, gate / (np.float32(1.0) + exp(-max(gate, _LOWEST))) * gate_up[width + i])


@njit(cache=True)
def _silu_and_mul_serial(gate_up, y):
    for row in range(y.shape[0]):
        _silu_and_mul_row(gate_up[row], y[row])


@njit(cache=True, parallel=True)
def _silu_and_mul_parallel(gate_up, y):
    for row in prange(y.shape[0]):
        _silu_and_mul_row(gate_up[row], y[row])


def silu_and_mul(gate_up: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[rows, 2 * width] fp32, gate first -> [rows, width] in ``dtype``, that of the linear that follows."""
    y = torch.empty(gate_up.shape[0], gate_up.shape[1] // 2, dtype=dtype)
    kernel = _silu_and_mul_serial if y.shape[0] < _PARALLEL_ROWS else _silu_and_mul_parallel
    kernel(gate_up.numpy(), as_numpy(y))
    return y
