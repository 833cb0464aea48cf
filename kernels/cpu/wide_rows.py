"""bf16 rows as fp32, where the processor has no dot product of bf16: widened once, not once for each panel."""

import torch
from numba import types

from .features import HAS_BF16_DOT
from .machine import array_at
from .op_graph import empty, run, struct_dtype, work_item
from .storage import widen

_ARGUMENTS = struct_dtype(x=int, y=int, width=int)


@work_item
def _widen_rows():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        x = array_at(a.x + item * a.width * 2, a.width, types.uint16)
        y = array_at(a.y + item * a.width * 4, a.width, types.float32)
        for i in range(a.width):
            y[i] = widen(x[i])

    return kernel


def wide_rows(x: torch.Tensor) -> torch.Tensor:
    """``x`` [rows, width] as a linear's tile takes it: exactly the same values."""
    if HAS_BF16_DOT or x.dtype != torch.bfloat16:
        return x
    y = empty(tuple(x.shape))
    run(_widen_rows(), _ARGUMENTS, {"x": x, "y": y, "width": x.shape[1]}, x.shape[0], per_rows=1)
    return y
