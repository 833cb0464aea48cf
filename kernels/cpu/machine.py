"""What Numba lacks of the machine: memory by address, atomics, and calls by address. Addresses are integers."""

import platform

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

_I64 = ir.IntType(64)
_VOID = ir.VoidType()
# What a waiting loop tells the core, so that its other hardware thread gets the units.
_IS_X86 = platform.machine() in ("x86_64", "AMD64")


@intrinsic
def _pointer(_context, address, dtype):
    result = types.CPointer(dtype.dtype)

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return result(types.intp, dtype), codegen


@njit(inline="always")
def array_at(address, shape, dtype):
    """The memory at ``address`` as a C-contiguous array; ``dtype`` is a compile-time constant."""
    return carray(_pointer(address, dtype), shape)


def _word(builder, address):
    return builder.inttoptr(address, _I64.as_pointer())


@intrinsic
def atomic_add(_context, address, value):
    """Add to the int64 at ``address``. Returns what was there."""

    def codegen(_context, builder, _signature, arguments):
        return builder.atomic_rmw("add", _word(builder, arguments[0]), arguments[1], "seq_cst")

    return types.intp(types.intp, types.intp), codegen


@intrinsic
def atomic_max(_context, address, value):
    """Raise the int64 at ``address`` to ``value`` if it is less. Returns what was there."""

    def codegen(_context, builder, _signature, arguments):
        return builder.atomic_rmw("max", _word(builder, arguments[0]), arguments[1], "seq_cst")

    return types.intp(types.intp, types.intp), codegen


@intrinsic
def atomic_exchange(_context, address, value):
    """Put ``value`` at ``address``. Returns what was there."""

    def codegen(_context, builder, _signature, arguments):
        return builder.atomic_rmw("xchg", _word(builder, arguments[0]), arguments[1], "seq_cst")

    return types.intp(types.intp, types.intp), codegen


@intrinsic
def atomic_load(_context, address):
    """The int64 at ``address``; what its writer wrote before it is seen, too."""

    def codegen(_context, builder, _signature, arguments):
        return builder.load_atomic(_word(builder, arguments[0]), "seq_cst", 8)

    return types.intp(types.intp), codegen


@intrinsic
def pause(_context):
    """Tell the core that this is a waiting loop."""

    def codegen(context, builder, _signature, _arguments):
        if _IS_X86:
            name, kind = "llvm.x86.sse2.pause", ir.FunctionType(_VOID, [])
            builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def call(_context, function, arguments, item, thread, rows, sequences):
    """Call a work item (tape.py) by its address."""

    def codegen(context, builder, _signature, values):
        kind = ir.FunctionType(_VOID, [_I64] * 5)
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), codegen


def aligned_empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor whose data start at a multiple of 64 bytes: a cache line, and what the tile's loads want."""
    count = int(np.prod(shape))
    buffer = torch.empty(count + 64 // dtype.itemsize, dtype=dtype)
    offset = (-buffer.data_ptr() % 64) // dtype.itemsize
    return buffer[offset : offset + count].view(shape)
