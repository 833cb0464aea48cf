"""Linear layer: y = x W^T + b, for one row or many, weights read once per step.

The weight is packed into panels of 16 outputs, [panels, K, 16] for fp32 and [panels, K / 2, 16, 2] for what is
narrower, so that the inner loop (tile.py) streams memory in order. Sums and outputs are fp32. Rows are of the weight's
dtype, or fp32 beside bf16 weights: then nothing but the weight is rounded.

With many rows a thread fetches the panels of its next work item while it computes: 22 to 18 ms over the weights of the
default model at 32 rows.
"""

import torch
from numba import types

from ..quantize import round_weight
from . import amx, amx_linear
from .elementwise import cast
from .features import SET
from .finish import finish
from .llvm import LANES
from .machine import aligned_empty, array_at, copy_values, lasting_empty
from .op_graph import empty, run, struct_dtype, work_item
from .thread_pool import thread_pool
from .tile_rows import make_cover

_ROWS = 64  # of a work item: with the weights of a group they fit a core's second-level cache

_PANELS = 3  # that a work item covers; with few rows two items' worth, as more accumulators are needed
_FEW_ROWS = 8
_cover = make_cover()

_ARGUMENTS = struct_dtype(
    x=int, w=int, y=int, scale=int, bias=int, scratch=int, out=int, steps=int, x_stride=int, w_stride=int, threads=int
)


@work_item
def _linear(x_type, w_type, finishes):
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        x_like, w_like = array_at(a.x, 1, x_type), array_at(a.w, 1, w_type)
        blocks = (rows + _ROWS - 1) // _ROWS
        first, row, panels = item // blocks * _PANELS, item % blocks * _ROWS, _PANELS
        if rows < _FEW_ROWS:
            if item % 2 == 1:
                return
            panels = 2 * _PANELS
        count = min(_ROWS, rows - row)
        x, y_stride = a.x + row * a.x_stride, a.out * 4
        all_panels = (a.out + LANES - 1) // LANES
        last = min(first + panels, all_panels)
        if first + panels == last and last * LANES <= a.out:
            y = a.y + row * y_stride + first * LANES * 4
            w = a.w + first * a.w_stride
            ahead = first + _PANELS * a.threads  # threads take turns, nearly always
            next_w = a.w + ahead * a.w_stride if blocks == 1 and ahead + _PANELS <= all_panels else w
            _cover(x_like, w_like, x, a.x_stride, w, a.w_stride, y, y_stride, count, panels, a.steps, next_w)
        else:
            for panel in range(first, last):
                w = a.w + panel * a.w_stride
                width = min(LANES, a.out - panel * LANES)
                if width == LANES:
                    y = a.y + row * y_stride + panel * LANES * 4
                    _cover(x_like, w_like, x, a.x_stride, w, a.w_stride, y, y_stride, count, 1, a.steps, w)
                else:  # the tile writes whole panels
                    y = a.scratch + thread * _ROWS * LANES * 4
                    _cover(x_like, w_like, x, a.x_stride, w, a.w_stride, y, LANES * 4, count, 1, a.steps, w)
                    whole = array_at(y, (count, LANES), types.float32)
                    part = array_at(a.y, (rows, a.out), types.float32)[row : row + count, panel * LANES :]
                    for done in range(count):
                        copy_values(part[done], whole[done, :width])
        if finishes:
            begin, end = first * LANES, min(last * LANES, a.out)
            scale = array_at(a.scale + begin * 4, end - begin if a.scale else 0, types.float32)
            bias = array_at(a.bias + begin * 4, end - begin if a.bias else 0, types.float32)
            y_rows = array_at(a.y, (rows, a.out), types.float32)
            for finished in range(row, row + count):
                finish(y_rows[finished, begin:end], scale, bias)

    return kernel


class PackedLinear:
    """A weight [out, in], scale [out] or None, and bias [out] or None, in panels."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, scale: torch.Tensor | None = None) -> None:
        """Raises ValueError for an odd number of inputs, but for fp32: the tile reads pairs."""
        out, inner = weight.shape
        per_step = 1 if weight.dtype == torch.float32 else 2  # values of k that the tile multiplies at a time
        if inner % per_step:
            raise ValueError(f"a linear of {weight.dtype} needs an even number of inputs, not {inner}")
        panels, self._steps = -(-out // LANES), inner // per_step
        self._out, self._inner = out, inner
        self._panels = lasting_empty((panels, self._steps, LANES * per_step), weight.dtype)
        lanes = self._panels.view(panels, self._steps, LANES, per_step).transpose(1, 2)
        whole = out // LANES
        lanes[:whole] = weight[: whole * LANES].view(whole, LANES, self._steps, per_step)
        if whole < panels:
            lanes[whole] = 0
            lanes[whole, : out - whole * LANES] = weight[whole * LANES :].view(-1, self._steps, per_step)
        self._scale = None if scale is None else scale.float().contiguous()
        self._bias = None if bias is None else bias.float().contiguous()
        self._scratch = aligned_empty((thread_pool().threads, _ROWS, LANES), torch.float32) if whole < panels else None

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self._panels, self._scale, self._bias) if part is not None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, in], bf16 or fp32 -> [rows, out] fp32. With fp32 weights, rows are fp32."""
        y = empty((x.shape[0], self._out))
        panel = self._panels[0]
        if amx.HAS_AMX and x.dtype == torch.bfloat16 and self._inner % amx_linear.CHUNK == 0:
            amx_linear.write_product(x, self._panels, y, self._scale, self._bias)
            return y
        if SET.bf16_dot is None:  # widened once, not once for each panel: the same values
            x = cast(x, torch.float32)
        arguments = {
            "x": x, "w": self._panels, "y": y, "scale": self._scale, "bias": self._bias, "scratch": self._scratch,
            "out": self._out, "steps": self._steps, "x_stride": self._inner * x.itemsize,
            "w_stride": panel.numel() * panel.itemsize, "threads": thread_pool().threads,
        }  # fmt: skip
        finishes = self._scale is not None or self._bias is not None
        kernel = _linear(x.dtype, panel.dtype, finishes)
        items = -(-self._panels.shape[0] // _PANELS)
        run(kernel, _ARGUMENTS, arguments, x.shape[0], per_rows=_ROWS, times=items)
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


def pack_quantized(weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> PackedLinear:
    """Pack a ``weight`` [out, in] that is int8 or float8_e4m3fn already, with its ``scale``, fp32 [out]."""
    return PackedLinear(weight, bias, scale)
