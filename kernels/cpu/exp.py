"""exp for Numba loops: plain arithmetic, so it vectorises. LLVM has no vector exp without a vendor library."""

import numpy as np
from llvmlite import ir
from numba import njit

from .bf16 import float_of_bits
from .llvm import LANES, SUMS, declare

LOG2_E = np.float32(1.4426950408889634)

# Minimax polynomial of 2^f on [-0.5, 0.5], degree 6: relative error under 1e-7 (Cephes exp2f).
_C1, _C2, _C3 = np.float32(6.931472028550421e-1), np.float32(2.402264791363012e-1), np.float32(5.550332471162809e-2)
_C4, _C5, _C6 = np.float32(9.618437357674640e-3), np.float32(1.339887440266574e-3), np.float32(1.535336188319500e-4)
_ONE, _HALF, _LOWEST = np.float32(1.0), np.float32(0.5), np.float32(-126.0)


@njit(inline="always")
def exp2(x):
    """2^x in fp32 for x <= 127; anything below -126, -inf included, gives 0."""
    clamped = max(x, _LOWEST)
    whole = np.floor(clamped + _HALF)
    f = clamped - whole
    poly = _ONE + f * (_C1 + f * (_C2 + f * (_C3 + f * (_C4 + f * (_C5 + f * _C6)))))
    power = float_of_bits(np.uint32((np.int32(whole) + np.int32(127)) << np.int32(23)))
    return poly * power if x >= _LOWEST else np.float32(0.0)


@njit(inline="always")
def exp(x):
    """e^x in fp32 for x <= 88; below -87 it gives 0."""
    return exp2(x * LOG2_E)


def exp2_lanes(builder, x):
    """``exp2`` of a vector of LANES values as LLVM IR."""
    kind = ir.VectorType(ir.IntType(32), LANES)

    def floats(value):
        return ir.Constant(SUMS, [float(value)] * LANES)

    def words(value):
        return ir.Constant(kind, [value] * LANES)

    fma = declare(builder.module, f"llvm.fma.v{LANES}f32", SUMS, [SUMS] * 3)
    floor = declare(builder.module, f"llvm.floor.v{LANES}f32", SUMS, [SUMS])
    seen = builder.fcmp_ordered(">=", x, floats(_LOWEST))
    clamped = builder.select(seen, x, floats(_LOWEST))
    whole = builder.call(floor, [builder.fadd(clamped, floats(_HALF))])
    f = builder.fsub(clamped, whole)
    poly = floats(_C6)
    for coefficient in (_C5, _C4, _C3, _C2, _C1, _ONE):
        poly = builder.call(fma, [f, poly, floats(coefficient)])
    exponent = builder.shl(builder.add(builder.fptosi(whole, kind), words(127)), words(23))
    return builder.select(seen, builder.fmul(poly, builder.bitcast(exponent, SUMS)), floats(0.0))
