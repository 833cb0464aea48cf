"""What Numba lacks of the machine: memory by address, atomics, and calls by address. Addresses are integers."""

import mmap
import platform

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

_I64, _I32 = ir.IntType(64), ir.IntType(32)
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


@njit(inline="always")
def copy_values(target, source):
    """All of an array into ``target``, of as many values: ``target[:] = source``, which compiles a message about shapes
    that don't match, with all it needs to write numbers, into each kernel: a second of the first start.
    """
    for i in range(target.shape[0]):
        target[i] = source[i]


@intrinsic
def half_at(_context, address):
    """The fp16 at ``address`` as fp32."""

    def codegen(_context, builder, _signature, arguments):
        half = builder.load(builder.inttoptr(arguments[0], ir.HalfType().as_pointer()))
        half.align = 2
        return builder.fpext(half, ir.FloatType())

    return types.float32(types.intp), codegen


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
def _prefetch_line(_context, address):
    def codegen(context, builder, _signature, arguments):
        name = "llvm.prefetch.p0"
        kind = ir.FunctionType(_VOID, [ir.IntType(8).as_pointer(), _I32, _I32, _I32])
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        builder.call(function, [pointer, *(ir.Constant(_I32, value) for value in (0, 2, 1))])  # to read, keep, data
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@njit(inline="always")
def prefetch(address, size):
    """Ask for the cache lines of ``size`` bytes: they arrive while something else is computed."""
    for offset in range(0, size, 64):
        _prefetch_line(address + offset)


@intrinsic
def ticks(_context):
    """The core's time stamp counter."""

    def codegen(_context, builder, _signature, _arguments):
        name, kind = "llvm.readcyclecounter", ir.FunctionType(_I64, [])
        return builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), [])

    return types.intp(), codegen


@intrinsic
def pause(_context):
    """Tell the core that this is a waiting loop."""

    def codegen(context, builder, _signature, _arguments):
        if _IS_X86:
            name, kind = "llvm.x86.sse2.pause", ir.FunctionType(_VOID, [])
            builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), [])
        return context.get_dummy_value()

    return types.void(), codegen


def _call_of(arguments: int):
    """What an intrinsic is that calls a function of so many integers by its address, its first argument."""

    def codegen(context, builder, _signature, values):
        kind = ir.FunctionType(_VOID, [_I64] * arguments)
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * (arguments + 1)), codegen


@intrinsic
def call(_context, function, arguments, item, thread, rows, sequences):
    """Call a work item (op_graph.py) by its address."""
    return _call_of(5)


@intrinsic
def call_tile(_context, function, times, x, x_stride, s, s_stride, w, w_stride, y, y_stride, records, next_w):
    """Call a tile (block_tile_rows.py) by its address."""
    return _call_of(11)


@intrinsic
def call_widen(_context, function, record, target):
    """Call by its address what widens a record (block_tile_rows.py)."""
    return _call_of(2)


class _Arena:
    """Memory in huge pages, handed out piece by piece; each piece keeps all of it alive."""

    SIZE = 64 << 20

    def __init__(self, size: int) -> None:
        # Private: shared memory, the default, comes in huge pages only where the administrator says so.
        self._memory = mmap.mmap(-1, max(size, self.SIZE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._used = 0

    def take(self, size: int) -> torch.Tensor | None:
        """uint8 [size] at a multiple of 64 bytes; None if there is no room left."""
        if self._used + size > len(self._memory):
            return None
        piece = torch.frombuffer(self._memory, dtype=torch.uint8, offset=self._used, count=size)
        self._used += -(-size // 64) * 64
        return piece


_arena: _Arena | None = None


def lasting_empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Like ``aligned_empty``, for what lasts as long as the process: weights.

    In huge pages a step over all weights misses the TLB a few hundred times instead of 70 000 times.
    """
    global _arena
    size = int(np.prod(shape)) * dtype.itemsize
    piece = _arena.take(size) if _arena is not None else None
    if piece is None:
        _arena = _Arena(size)
        piece = _arena.take(size)
        assert piece is not None
    return piece.view(dtype).view(shape)


def aligned_empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor whose data start at a multiple of 64 bytes: a cache line, and what the tile's loads want."""
    count = int(np.prod(shape))
    buffer = torch.empty(count + 64 // dtype.itemsize, dtype=dtype)
    offset = (-buffer.data_ptr() % 64) // dtype.itemsize
    return buffer[offset : offset + count].view(shape)
