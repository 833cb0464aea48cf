"""Linear layer: y = x W^T + b, for one row or many, weights read once per step.

The weight is packed into panels of 16 outputs, [panels, K, 16] for fp32 and [panels, K / 2, 16, 2] for bf16, so that
the inner loop (tile.py) streams memory in order. Sums and outputs are fp32. Rows are of the weight's dtype, or fp32
beside bf16 weights: then nothing but the weight is rounded.
"""

import numpy as np
import torch
from numba import njit, prange

from ..quantize import round_weight
from .stored import as_numpy
from .tile import LANES, make_tile

# rows x panels accumulators must fit 32 registers and be enough to hide the latency of the multiply-add (6 on Zen 4).
_GROUP = 6  # panels that one work item covers
_tile_8x3, _tile_4x6, _tile_2x6, _tile_1x6 = (make_tile(*shape) for shape in [(8, 3), (4, 6), (2, 6), (1, 6)])
_tile_8x1, _tile_4x1, _tile_2x1, _tile_1x1 = (make_tile(rows, 1) for rows in (8, 4, 2, 1))


@njit
def _full_group(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, rows, steps):
    row = 0
    half = 3 * w_stride
    while rows - row >= 8:
        _tile_8x3(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)
        _tile_8x3(
            x_like, w_like, x + row * x_stride, x_stride, w + half, w_stride, y + row * y_stride + 192, y_stride, steps
        )
        row += 8
    if rows - row >= 4:
        _tile_4x6(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)
        row += 4
    if rows - row >= 2:
        _tile_2x6(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)
        row += 2
    if rows - row >= 1:
        _tile_1x6(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)


@njit
def _one_panel(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, rows, steps):
    row = 0
    while rows - row >= 8:
        _tile_8x1(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)
        row += 8
    if rows - row >= 4:
        _tile_4x1(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)
        row += 4
    if rows - row >= 2:
        _tile_2x1(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)
        row += 2
    if rows - row >= 1:
        _tile_1x1(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)


@njit(parallel=True, cache=True)
def _linear_kernel(
    x,  # [rows, K] fp32 or bf16 bits
    w,  # [panels, steps, 16] fp32, int8 or fp8 bits, or [panels, steps, 32] bf16 bits
    y,  # [rows, panels * 16] fp32, out
):
    rows, panels, steps = x.shape[0], w.shape[0], w.shape[1]
    x_stride, y_stride, w_stride = x.shape[1] * x.itemsize, panels * LANES * 4, steps * w.shape[2] * w.itemsize
    x_address, y_address, w_address = x.ctypes.data, y.ctypes.data, w.ctypes.data
    for group in prange((panels + _GROUP - 1) // _GROUP):
        first = group * _GROUP
        if first + _GROUP <= panels:
            w_group, y_group = w_address + first * w_stride, y_address + first * 64
            _full_group(x, w, x_address, x_stride, w_group, w_stride, y_group, y_stride, rows, steps)
        else:
            for panel in range(first, panels):
                w_panel, y_panel = w_address + panel * w_stride, y_address + panel * 64
                _one_panel(x, w, x_address, x_stride, w_panel, w_stride, y_panel, y_stride, rows, steps)


def _aligned_empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor whose data start at a multiple of 64 bytes, as the tile's loads want it."""
    count = int(np.prod(shape))
    itemsize = dtype.itemsize
    buffer = torch.empty(count + 64 // itemsize, dtype=dtype)
    offset = (-buffer.data_ptr() % 64) // itemsize
    return buffer[offset : offset + count].view(shape)


class PackedLinear:
    """A weight [out, in], scale [out] or None, and bias [out] or None, in panels."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, scale: torch.Tensor | None = None) -> None:
        out, inner = weight.shape
        self.out_features = out
        per_step = 2 if weight.dtype == torch.bfloat16 else 1  # values of k that the tile multiplies at a time
        panels, steps = -(-out // LANES), -(-inner // per_step)
        self._pad_k = steps * per_step - inner
        padded = weight.new_zeros(panels * LANES, steps * per_step)
        padded[:out, :inner] = weight
        self._packed = _aligned_empty((panels, steps, LANES * per_step), weight.dtype)
        lanes = self._packed.view(panels, steps, LANES, per_step)
        lanes.copy_(padded.view(panels, LANES, steps, per_step).transpose(1, 2))
        self._panels = as_numpy(self._packed)
        self._scale = None if scale is None else scale.float()
        self._bias = None if bias is None else bias.float()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, in], bf16 or fp32 -> [rows, out] fp32. With fp32 weights, rows are fp32."""
        if self._pad_k:
            x = torch.nn.functional.pad(x, (0, self._pad_k))
        y = torch.empty(x.shape[0], self._panels.shape[0] * LANES)
        _linear_kernel(as_numpy(x), self._panels, y.numpy())
        if y.shape[1] != self.out_features:
            y = y[:, : self.out_features].contiguous()
        if self._scale is not None:
            y *= self._scale
        if self._bias is not None:
            y += self._bias
        return y


def pack_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> PackedLinear:
    """Pack a weight [out, in] of fp32 or bf16, and a bias [out]; both may be dropped afterwards."""
    return PackedLinear(weight, bias)


def quantize_linear(
    weight: torch.Tensor, bias: torch.Tensor | None = None, dtype: torch.dtype = torch.int8
) -> PackedLinear:
    """Round ``weight`` [out, in] to ``dtype`` (int8 or float8_e4m3fn), scaled so that each output's largest fits."""
    rounded, scale = round_weight(weight, dtype)
    return PackedLinear(rounded, bias, scale)
