"""The middle of an MLP: y = act(gate) * up, act SiLU or GELU (Shazeer 2020, arXiv 2002.05202); or y = act(x).

xIELU (Huang & Schlag 2024, arXiv 2411.13010) is of the second kind, with two factors that are learned.
"""

from typing import get_args

import numpy as np
import torch
from numba import njit, types

from .. import PlainActivation
from .exp import exp
from .machine import array_at
from .op_graph import empty, run, struct_dtype, work_item
from .storage import put

_ROWS = 2  # of a work item
_LOWEST = np.float32(-87.0)  # exp(87) is still finite in fp32
_ARGUMENTS = struct_dtype(gate_up=int, y=int, width=int, alpha=float, limit=float)
_PLAIN = struct_dtype(x=int, y=int, width=int)
_XIELU = struct_dtype(x=int, y=int, width=int, positive=float, negative=float, beta=float, eps=float)
_SILU_GATE, _GELU_GATE, _CLAMPED_GATE = range(3)
_GELU, _GELU_TANH, _RELU, _ = range(len(get_args(PlainActivation)))

# sqrt(2 / pi) and 0.044715: the tanh approximation of GELU (Hendrycks & Gimpel 2016, arXiv 1606.08415).
_GELU_SCALE, _GELU_CUBE = np.float32(0.7978845608028654), np.float32(0.044715)
# 1 / n!
_HALF, _3RD, _4TH, _5TH = np.float32(1 / 2), np.float32(1 / 6), np.float32(1 / 24), np.float32(1 / 120)
_6TH, _7TH, _8TH = np.float32(1 / 720), np.float32(1 / 5040), np.float32(1 / 40320)
_SQRT_HALF = np.float32(0.7071067811865476)
_ERF_P, _ERF_1, _ERF_2 = np.float32(0.3275911), np.float32(0.254829592), np.float32(-0.284496736)
_ERF_3, _ERF_4, _ERF_5 = np.float32(1.421413741), np.float32(-1.453152027), np.float32(1.061405429)


@njit(inline="always")
def sigmoid(x):
    """1 / (1 + e^-x) in fp32."""
    return np.float32(1.0) / (np.float32(1.0) + exp(-max(x, _LOWEST)))


# NumPy's error model: Python's would test every division for zero, and keep the loop from being vectorised.
@njit(fastmath={"contract"}, error_model="numpy")
def _silu_row(gates, ups, y):
    for i in range(y.shape[0]):
        gate = gates[i]
        put(y, i, gate * sigmoid(gate) * ups[i])


@njit(fastmath={"contract"}, error_model="numpy")
def _gelu_row(gates, ups, y):
    for i in range(y.shape[0]):
        gate = gates[i]
        inner = _GELU_SCALE * (gate + _GELU_CUBE * gate * gate * gate)
        # 0.5 (1 + tanh(u)) = sigmoid(2 u)
        put(y, i, gate * sigmoid(np.float32(2.0) * inner) * ups[i])


@njit(fastmath={"contract"}, error_model="numpy")
def _clamped_silu_row(gates, ups, alpha, limit, y):
    for i in range(y.shape[0]):
        gate, up = min(gates[i], limit), min(max(ups[i], -limit), limit)
        put(y, i, gate * sigmoid(alpha * gate) * (up + np.float32(1.0)))


@work_item
def _gate(y_type, kind):
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        gate_up = array_at(a.gate_up, (rows, 2, a.width), types.float32)
        y = array_at(a.y, (rows, a.width), y_type)
        for row in range(item * _ROWS, min(item * _ROWS + _ROWS, rows)):
            if kind == _GELU_GATE:
                _gelu_row(gate_up[row, 0], gate_up[row, 1], y[row])
            elif kind == _CLAMPED_GATE:
                _clamped_silu_row(gate_up[row, 0], gate_up[row, 1], a.alpha, a.limit, y[row])
            else:
                _silu_row(gate_up[row, 0], gate_up[row, 1], y[row])

    return kernel


def _run(gate_up: torch.Tensor, dtype: torch.dtype, kind: int, alpha: float = 0.0, limit: float = 0.0) -> torch.Tensor:
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    y = empty((rows, width), dtype)
    arguments = {"gate_up": gate_up, "y": y, "width": width, "alpha": alpha, "limit": limit}
    run(_gate(dtype, kind), _ARGUMENTS, arguments, rows, per_rows=_ROWS)
    return y


def silu_and_mul(gate_up: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[rows, 2 * width] fp32, gate first -> silu(gate) * up, [rows, width] in ``dtype``, that of the next linear."""
    return _run(gate_up, dtype, _SILU_GATE)


def gelu_tanh_and_mul(gate_up: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[rows, 2 * width] fp32, gate first -> gelu(gate) * up, [rows, width] in ``dtype``, that of the next linear."""
    return _run(gate_up, dtype, _GELU_GATE)


def clamped_silu_and_mul(gate_up: torch.Tensor, alpha: float, limit: float, dtype: torch.dtype) -> torch.Tensor:
    """gate * sigmoid(alpha * gate) * (up + 1), gate at most ``limit``, up within -limit and limit; else as above."""
    return _run(gate_up, dtype, _CLAMPED_GATE, alpha, limit)


@njit(inline="always")
def _normal_tail(z):
    """erfc(z) for z >= 0: formula 7.1.26 of Abramowitz and Stegun, within 1.5e-7."""
    t = np.float32(1.0) / (np.float32(1.0) + _ERF_P * z)
    return t * (_ERF_1 + t * (_ERF_2 + t * (_ERF_3 + t * (_ERF_4 + t * _ERF_5)))) * exp(-(z * z))


@njit(fastmath={"contract"}, error_model="numpy")
def _plain_gelu_row(x, y):
    for i in range(y.shape[0]):
        # x Phi(x), from the tail on the far side: no difference of nearly equal numbers.
        below = np.float32(0.5) * x[i] * _normal_tail(abs(x[i]) * _SQRT_HALF)
        put(y, i, below if x[i] < np.float32(0.0) else x[i] - below)


@njit(fastmath={"contract"}, error_model="numpy")
def _plain_gelu_tanh_row(x, y):
    for i in range(y.shape[0]):
        inner = _GELU_SCALE * (x[i] + _GELU_CUBE * x[i] * x[i] * x[i])
        put(y, i, x[i] * sigmoid(np.float32(2.0) * inner))


@njit(error_model="numpy")
def _plain_relu_row(x, y):
    for i in range(y.shape[0]):
        put(y, i, max(x[i], np.float32(0.0)))


@njit(error_model="numpy")
def _plain_relu2_row(x, y):
    for i in range(y.shape[0]):
        put(y, i, max(x[i], np.float32(0.0)) * max(x[i], np.float32(0.0)))


@work_item
def _act(y_type, kind):
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _PLAIN)[0]
        x, y = array_at(a.x, (rows, a.width), types.float32), array_at(a.y, (rows, a.width), y_type)
        for row in range(item * _ROWS, min(item * _ROWS + _ROWS, rows)):
            if kind == _GELU:
                _plain_gelu_row(x[row], y[row])
            elif kind == _GELU_TANH:
                _plain_gelu_tanh_row(x[row], y[row])
            elif kind == _RELU:
                _plain_relu_row(x[row], y[row])
            else:
                _plain_relu2_row(x[row], y[row])

    return kernel


def act(x: torch.Tensor, kind: PlainActivation, dtype: torch.dtype) -> torch.Tensor:
    """act(x), [rows, width] fp32 -> the same in ``dtype``, that of the next linear."""
    y = empty((x.shape[0], x.shape[1]), dtype)
    kernel = _act(dtype, get_args(PlainActivation).index(kind))
    run(kernel, _PLAIN, {"x": x, "y": y, "width": x.shape[1]}, x.shape[0], per_rows=_ROWS)
    return y


@njit(inline="always")
def _beyond_linear(x):
    """e^x - 1 - x for x <= 0: near zero by its series, for the difference would leave nothing of it."""
    series = _6TH + x * (_7TH + x * _8TH)
    series = _HALF + x * (_3RD + x * (_4TH + x * (_5TH + x * series)))
    return x * x * series if x > np.float32(-0.5) else exp(max(x, _LOWEST)) - np.float32(1.0) - x


@njit(fastmath={"contract"}, error_model="numpy")
def _xielu_row(x, positive, negative, beta, eps, y):
    for i in range(y.shape[0]):
        below = min(x[i], eps)
        bent = negative * (_beyond_linear(below) + (below - x[i]))
        put(y, i, (bent if x[i] <= np.float32(0.0) else positive * x[i] * x[i]) + beta * x[i])


@work_item
def _xielu(y_type):
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _XIELU)[0]
        x, y = array_at(a.x, (rows, a.width), types.float32), array_at(a.y, (rows, a.width), y_type)
        for row in range(item * _ROWS, min(item * _ROWS + _ROWS, rows)):
            _xielu_row(x[row], a.positive, a.negative, a.beta, a.eps, y[row])

    return kernel


def xielu(
    x: torch.Tensor, positive: float, negative: float, beta: float, eps: float, dtype: torch.dtype
) -> torch.Tensor:
    """positive * x^2 + beta * x, or negative * (e^min(x, eps) - 1 - x) + beta * x of x <= 0; else as ``act``."""
    y = empty((x.shape[0], x.shape[1]), dtype)
    arguments = {
        "x": x, "y": y, "width": x.shape[1], "positive": positive, "negative": negative, "beta": beta, "eps": eps,
    }  # fmt: skip
    run(_xielu(dtype), _XIELU, arguments, x.shape[0], per_rows=_ROWS)
    return y
