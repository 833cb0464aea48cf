"""bf16 for Numba, which has no such type: values travel as uint16 and are computed on in fp32.

``widen`` and ``narrow`` are overloaded on the stored type, so one kernel source serves bf16 and fp32 arrays.
"""

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's memory as NumPy sees it; bf16 as uint16."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


@intrinsic
def float_of_bits(_context, bits):  # uint32 -> fp32, same bits
    def codegen(_context, builder, _signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def bits_of_float(_context, value):  # fp32 -> uint32, same bits
    def codegen(_context, builder, _signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


def widen(stored):
    """A stored value as fp32."""
    raise NotImplementedError


@overload(widen, inline="always")
def _widen(stored):
    if stored == types.uint16:
        return lambda stored: float_of_bits(np.uint32(stored) << np.uint32(16))
    return lambda stored: stored


@njit(inline="always")
def round_to_bf16(value):
    """fp32 -> bf16 bits, to nearest, ties to even (IEEE 754 section 4.3.1). NaN stays NaN for quiet payloads."""
    bits = bits_of_float(np.float32(value))
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


def put(array, index, value):
    """``array[index] = value``, rounded to what the array stores."""
    raise NotImplementedError


@overload(put, inline="always")
def _put(array, index, value):
    if array.dtype == types.uint16:

        def store(array, index, value):
            array[index] = round_to_bf16(value)
    else:

        def store(array, index, value):
            array[index] = value

    return store
