"""Stored values: bf16 as uint16, fp8 (e4m3) as uint8, or fp32. Computing is done in fp32.

``widen`` and ``put`` are overloaded on the stored type, so one kernel source serves all of them. fp8 is only put:
widen_fp8.py reads it, many values at a time.
"""

import numpy as np
from numba import types
from numba.extending import overload

from .bf16 import float_of_bits, round_to_bf16
from .fp8 import round_to_fp8


def widen(stored):
    """A stored value as fp32."""
    raise NotImplementedError


@overload(widen, inline="always")
def _widen(stored):
    if stored == types.uint16:
        return lambda stored: float_of_bits(np.uint32(stored) << np.uint32(16))
    return (lambda stored: stored) if stored == types.float32 else None  # None: Numba says that there is no such


def put(array, index, value):
    """``array[index] = value``, rounded to what the array stores."""
    raise NotImplementedError


@overload(put, inline="always")
def _put(array, index, value):
    if array.dtype == types.uint16:

        def store(array, index, value):
            array[index] = round_to_bf16(value)
    elif array.dtype == types.uint8:

        def store(array, index, value):
            array[index] = round_to_fp8(value)
    else:

        def store(array, index, value):
            array[index] = value

    return store
