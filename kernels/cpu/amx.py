"""Intel's tile registers (AMX): 16 rows x 16 outputs x 32 values of k in one instruction of 16 cycles, as LLVM IR.

A product of bf16 rows goes through them where the processor has them, for every number of rows: its sums run in another
order than those of tile.py (an instruction sums even and odd k apart, adds both, and adds that to the output), so the
two are never mixed within a linear. A row's sum does not depend on the rows beside it (Intel SDM vol. 2, TDPBF16PS).
With one or two rows, fp32 multiply-adds in that same order are faster (``AMX_ORDER`` in tile_products.py). What is
below the normal numbers counts as zero, in the instruction and in all that is computed beside it.

The registers of all kernels: sums in 0 to 3, rows in 4 and 5, weights in 6. Measured on 2 cores of a Xeon of 2023 with
a weight of 11264 x 2048: 1.8 / 12.5 ms at 32 / 256 rows in bf16, 9.2 / 70 through AVX512-BF16, whose dot product has
half the rate of fp32 there; Q4_K 2.8 / 23 and 10.4 / 79. ``HEADWATER_AMX=0`` turns them off.
"""

import ctypes
import os
import platform
import sys

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .features import SET
from .llvm import I8, I16, I32, declare, number

ROWS = 16  # of a tile register
FEW_ROWS = 2  # without the registers
SUMS_TILES = 4
WHOLE, PART, WEIGHTS = 4, 5, 6


def _allowed() -> bool:
    """Whether the processor has them and Linux gives them to this process and all its threads."""
    if not SET.amx or os.environ.get("HEADWATER_AMX") == "0":
        return False
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0


HAS_AMX = _allowed()


def _call(builder, name: str, *arguments) -> None:
    function = declare(builder.module, f"llvm.x86.{name}", ir.VoidType(), [argument.type for argument in arguments])
    builder.call(function, arguments)


def zero(builder, tile: int) -> None:
    _call(builder, "tilezero", ir.Constant(I8, tile))


def load_tile(builder, tile: int, address, stride) -> None:
    _call(builder, "tileloadd64", ir.Constant(I8, tile), builder.inttoptr(address, I8.as_pointer()), stride)


def store_tile(builder, tile: int, address, stride) -> None:
    _call(builder, "tilestored64", ir.Constant(I8, tile), builder.inttoptr(address, I8.as_pointer()), stride)


def multiply_add(builder, sums: int, rows: int, weights: int) -> None:
    _call(builder, "tdpbf16ps", *(ir.Constant(I8, tile) for tile in (sums, rows, weights)))


@intrinsic
def configure(_context, rows, unit, short):
    """Shape the registers for blocks of 16 rows, the last with what is left of ``rows``, and ``unit`` (32 or 16) of k.

    Rows of whole blocks are read into register 4, those of the last into 5. ``short`` has a bit for each of the
    registers of sums that belongs to the last block.
    """

    def codegen(context, builder, _signature, arguments):
        rows, unit, short = arguments
        with builder.goto_entry_block():
            shapes = builder.alloca(ir.ArrayType(I8, 64))
        shapes.align = 64
        builder.store(ir.Constant(ir.ArrayType(I8, 64), bytearray([1] + [0] * 63)), shapes)

        def shape(tile, height, width):
            at = builder.gep(shapes, [number(0), number(16 + 2 * tile)])
            builder.store(builder.trunc(width, I16), builder.bitcast(at, I16.as_pointer()))
            builder.store(builder.trunc(height, I8), builder.gep(shapes, [number(0), number(48 + tile)]))

        bytes_of_k = builder.mul(unit, number(2))
        last = builder.sdiv(builder.sub(rows, number(1)), number(ROWS))
        rest = builder.sub(rows, builder.mul(last, number(ROWS)))
        for tile in range(SUMS_TILES):
            is_short = builder.trunc(builder.lshr(short, number(tile)), ir.IntType(1))
            shape(tile, builder.select(is_short, rest, number(ROWS)), number(64))
        shape(WHOLE, number(ROWS), bytes_of_k)
        shape(PART, rest, bytes_of_k)
        shape(WEIGHTS, builder.sdiv(unit, number(2)), number(64))
        _call(builder, "ldtilecfg", builder.bitcast(shapes, I8.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), codegen


_FLUSH, _KEEP = (
    0x9FC0,
    0x1F80,
)  # MXCSR: all exceptions masked, with and without "flush to zero" and "denormals are zero"


@intrinsic
def flush_subnormals(_context, flush):
    """From here on this thread takes subnormal numbers for zero, or (False) no longer."""

    def codegen(context, builder, _signature, arguments):
        with builder.goto_entry_block():
            word = builder.alloca(I32)
        builder.store(builder.select(arguments[0], ir.Constant(I32, _FLUSH), ir.Constant(I32, _KEEP)), word)
        _call(builder, "sse.ldmxcsr", builder.bitcast(word, I8.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.boolean), codegen


@intrinsic
def release(_context):
    """The registers are empty again: the kernel saves nothing of them when it switches threads."""

    def codegen(context, builder, _signature, _arguments):
        _call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), codegen


def rows_tile(block: int, blocks: int) -> int:
    """The register that a block of rows is read into."""
    return PART if block == blocks - 1 else WHOLE
