"""The middle of a gated MLP: y = act(gate) * up, act SiLU or GELU (Shazeer 2020, arXiv 2002.05202)."""

import numpy as np
import torch
from numba import njit, prange

from .exp import exp
from .stored import as_numpy, put

_PARALLEL_ROWS = 8
_LOWEST = np.float32(-87.0)  # exp(87) is still finite in fp32


# sqrt(2 / pi) and 0.044715: the tanh approximation of GELU (Hendrycks & Gimpel 2016, arXiv 1606.08415).
_GELU_SCALE, _GELU_CUBE = np.float32(0.7978845608028654), np.float32(0.044715)


@njit(inline="always")
def sigmoid(x):
    """1 / (1 + e^-x) in fp32."""
    return np.float32(1.0) / (np.float32(1.0) + exp(-max(x, _LOWEST)))


# NumPy's error model: Python's would test every division for zero, and keep the loop from being vectorised.
@njit(fastmath={"contract"}, error_model="numpy")
def _gate_row(gate_up, y, gelu):
    width = y.shape[0]
    # Two slices, not one array with an offset: an index that might be negative keeps a loop from being vectorised.
    gates, ups = gate_up[:width], gate_up[width:]
    if gelu:
        for i in range(width):
            gate = gates[i]
            inner = _GELU_SCALE * (gate + _GELU_CUBE * gate * gate * gate)
            # 0.5 (1 + tanh(u)) = sigmoid(2 u)
            put(y, i, gate * sigmoid(np.float32(2.0) * inner) * ups[i])
    else:
        for i in range(width):
            gate = gates[i]
            put(y, i, gate * sigmoid(gate) * ups[i])


@njit(cache=True)
def _gate_serial(gate_up, y, gelu):
    for row in range(y.shape[0]):
        _gate_row(gate_up[row], y[row], gelu)


@njit(cache=True, parallel=True)
def _gate_parallel(gate_up, y, gelu):
    for row in prange(y.shape[0]):
        _gate_row(gate_up[row], y[row], gelu)


def silu_and_mul(gate_up: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[rows, 2 * width] fp32, gate first -> silu(gate) * up, [rows, width] in ``dtype``, that of the next linear."""
    return _launch(gate_up, dtype, gelu=False)


def gelu_tanh_and_mul(gate_up: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[rows, 2 * width] fp32, gate first -> gelu(gate) * up, [rows, width] in ``dtype``, that of the next linear."""
    return _launch(gate_up, dtype, gelu=True)


def _launch(gate_up: torch.Tensor, dtype: torch.dtype, gelu: bool) -> torch.Tensor:
    y = torch.empty(gate_up.shape[0], gate_up.shape[1] // 2, dtype=dtype)
    kernel = _gate_serial if y.shape[0] < _PARALLEL_ROWS else _gate_parallel
    kernel(gate_up.numpy(), as_numpy(y), gelu)
    return y
