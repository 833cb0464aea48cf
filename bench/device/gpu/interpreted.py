"""Triton's interpreter multiplies with NumPy, whose BLAS may add a row's products in an order that depends on where the
row lies in the tile: on some processors rows then differ in the last bit that on a GPU do not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


@contextmanager
def dots_in_float64() -> Iterator[None]:
    """Dots of floats are summed in float64 and rounded once: then their order does not show."""
    dot = InterpreterBuilder.create_dot

    def exact_dot(self: Any, a: Any, b: Any, total: Any, *others: Any) -> Any:
        if not np.issubdtype(total.data.dtype, np.floating):
            return dot(self, a, b, total, *others)
        wide = dot(self, a, b, TensorHandle(total.data.astype(np.float64), tl.float64), *others)
        return TensorHandle(wide.data.astype(total.data.dtype), total.dtype.scalar)

    InterpreterBuilder.create_dot = exact_dot
    try:
        yield
    finally:
        InterpreterBuilder.create_dot = dot


@contextmanager
def dots_in_steps(size: int = 16) -> Iterator[None]:
    """Dots of floats as tensor cores sum them: ``size`` products at a time, added to an fp32 total in order.

    Whatever the number of rows: a difference that is left between two batches is the kernels' own.
    """
    dot = InterpreterBuilder.create_dot

    def step_dot(self: Any, a: Any, b: Any, total: Any, *others: Any) -> Any:
        if not np.issubdtype(total.data.dtype, np.floating):
            return dot(self, a, b, total, *others)
        left, right, out = a.data.astype(np.float64), b.data.astype(np.float64), total.data.astype(np.float32)
        for start in range(0, left.shape[1], size):
            out = out + (left[:, start : start + size] @ right[start : start + size]).astype(np.float32)
        return TensorHandle(out, total.dtype.scalar)

    InterpreterBuilder.create_dot = step_dot
    try:
        yield
    finally:
        InterpreterBuilder.create_dot = dot
