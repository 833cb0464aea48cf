"""fp8 values as fp32 or bf16, many at a time, exactly: attention multiplies with what its tile reads anyway."""

from llvmlite import ir
from numba import types
from numba.core.cgutils import for_range
from numba.extending import intrinsic

from .llvm import LANES, SUMS, load
from .tile_products import rounded_to_bf16, widened_fp8

_BYTES, _HALVES = ir.VectorType(ir.IntType(8), LANES), ir.VectorType(ir.IntType(16), LANES)


@intrinsic
def widen_fp8_values(_context, source, target, count, dtype):
    """``count`` values, a multiple of LANES, from one address to another; ``dtype``, fp32 or bf16, is a constant."""

    def codegen(context, builder, _signature, arguments):
        source, target, count, _ = arguments
        narrow = dtype.dtype == types.uint16
        sources = builder.inttoptr(source, _BYTES.as_pointer())
        targets = builder.inttoptr(target, (_HALVES if narrow else SUMS).as_pointer())
        with for_range(builder, builder.udiv(count, ir.Constant(count.type, LANES))) as loop:
            values = widened_fp8(builder, load(builder, builder.gep(sources, [loop.index]), 1))
            place = builder.gep(targets, [loop.index])
            builder.store(rounded_to_bf16(builder, values) if narrow else values, place).align = 4
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, dtype), codegen
