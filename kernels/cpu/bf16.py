"""bf16 for Numba, which has no such type: values travel as uint16 and are computed on in fp32."""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic


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


@njit(inline="always")
def round_to_bf16(value):
    """fp32 -> bf16 bits, to nearest, ties to even (IEEE 754 section 4.3.1). NaN stays NaN for quiet payloads."""
    bits = bits_of_float(np.float32(value))
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))
