"""Sums in the tree of kernels/exchange.py, of parts that lie anywhere."""

from collections.abc import Sequence

import numpy as np
import torch
from numba import njit, types

from .machine import array_at
from .op_graph import keep, run, struct_dtype, work_item

_WIDTH = 512  # columns of a work item
_TREE = struct_dtype(parts=int, count=int, y=int, width=int)


@njit(error_model="numpy")
def _add_pair(y, a, b):
    for i in range(y.shape[0]):
        y[i] = a[i] + b[i]


@njit(error_model="numpy")
def _add_four(y, a, b, c, d):
    for i in range(y.shape[0]):
        y[i] = (a[i] + b[i]) + (c[i] + d[i])


@njit(error_model="numpy")
def _add_eight(y, a, b, c, d, e, f, g, h):
    for i in range(y.shape[0]):
        y[i] = ((a[i] + b[i]) + (c[i] + d[i])) + ((e[i] + f[i]) + (g[i] + h[i]))


@work_item
def _tree_sum():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _TREE)[0]
        row, begin = item % rows, item // rows * _WIDTH
        width, offset = min(_WIDTH, a.width - begin), (row * a.width + begin) * 4
        parts = array_at(a.parts, a.count, types.int64)
        y = array_at(a.y + offset, width, types.float32)
        p0 = array_at(parts[0] + offset, width, types.float32)
        if a.count == 1:
            y[:] = p0
        else:
            p1 = array_at(parts[1] + offset, width, types.float32)
            if a.count == 2:
                _add_pair(y, p0, p1)
            else:
                p2 = array_at(parts[2] + offset, width, types.float32)
                p3 = array_at(parts[3] + offset, width, types.float32)
                if a.count == 4:
                    _add_four(y, p0, p1, p2, p3)
                else:
                    p4 = array_at(parts[4] + offset, width, types.float32)
                    p5 = array_at(parts[5] + offset, width, types.float32)
                    p6 = array_at(parts[6] + offset, width, types.float32)
                    p7 = array_at(parts[7] + offset, width, types.float32)
                    _add_eight(y, p0, p1, p2, p3, p4, p5, p6, p7)

    return kernel


def tree_sum(parts: Sequence[torch.Tensor], y: torch.Tensor) -> None:
    """``y`` = the sum of 1, 2, 4 or 8 ``parts``, pair by pair; fp32 [rows, width] all."""
    assert len(parts) in (1, 2, 4, 8)
    addresses = np.array([part.data_ptr() for part in parts], np.int64)
    rows, width = y.shape
    arguments = {"parts": addresses.ctypes.data, "count": len(parts), "y": y, "width": width}
    keep(addresses)
    run(_tree_sum(), _TREE, arguments, rows, per_rows=1, times=-(-width // _WIDTH))
