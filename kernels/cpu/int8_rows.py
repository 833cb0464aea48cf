"""Rows rounded to int8 for products with block-quantised weights: each block of 32 values by itself.

    scale = max |x| / 127        code = x / scale to the nearest, ties to even        x is about scale * code

A block whose largest value is below 2^-100 counts as zeros; one that has infinity or NaN has that as its scale. A row
becomes lines of 64 bytes, one for each block: the codes as ``order_of`` puts them, then fp32 scale and, for each unit
of the block, scale times the sum of its codes, then as int32 that sum times the form's ``byte_start``.
"""

import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .block_form import CHUNK, BlockForm, order_of
from .llvm import F32, I8, I16, I32, LANES, SUMS, WORDS, declare, load, number, splat
from .machine import array_at
from .op_graph import empty, run, struct_dtype, work_item

LINE = 64  # bytes of a block
SCALE, SUM, START = CHUNK, CHUNK + 4, CHUNK + 12  # where they begin in it
LEAST = 2.0**-100
_MAGIC = 1.5 * 2**23  # added to a small number, it leaves the nearest whole one in the low bits
_ARGUMENTS = struct_dtype(x=int, y=int, inner=int, start=int)


def _words(value: int):
    return ir.Constant(WORDS, [value] * LANES)


def _reduce(builder, name: str, values):
    """Of 16 whole numbers."""
    return builder.call(declare(builder.module, f"llvm.vector.reduce.{name}.v16i32", I32, [WORDS]), [values])


def _load_half(builder, x, half: int, is_bf16: bool):
    """16 values of the block as fp32."""
    at = builder.add(x, number(half * LANES * (2 if is_bf16 else 4)))
    if not is_bf16:
        return load(builder, builder.inttoptr(at, SUMS.as_pointer()), 4)
    values = load(builder, builder.inttoptr(at, ir.VectorType(I16, LANES).as_pointer()), 2)
    return builder.bitcast(builder.shl(builder.zext(values, WORDS), _words(16)), SUMS)


def _rounded(builder, halves):
    """The block's scale; the codes of each half, and their sums."""
    sizes = [builder.and_(builder.bitcast(half, WORDS), _words(0x7FFFFFFF)) for half in halves]
    larger = builder.select(builder.icmp_unsigned(">", *sizes), *sizes)
    largest = builder.bitcast(_reduce(builder, "umax", larger), F32)
    is_zero = builder.fcmp_ordered("<", largest, ir.Constant(F32, LEAST))
    scale = builder.select(is_zero, ir.Constant(F32, 0.0), builder.fdiv(largest, ir.Constant(F32, 127.0)))
    divisor = splat(builder, builder.select(is_zero, ir.Constant(F32, float("inf")), scale))
    magic = ir.Constant(SUMS, [_MAGIC] * LANES)
    moved = [builder.bitcast(builder.fadd(builder.fdiv(half, divisor), magic), WORDS) for half in halves]
    sums = [_reduce(builder, "add", builder.sub(half, builder.bitcast(magic, WORDS))) for half in moved]
    return scale, [builder.trunc(half, ir.VectorType(I8, LANES)) for half in moved], sums


def _make_round_block(unit: int, order: tuple[int, ...]):
    """An intrinsic for units of so many values: x as an array that selects the type; the addresses of the block and of
    its line; the form's ``byte_start``.
    """

    @intrinsic
    def round_block(_context, x_like, x, line, start):
        is_bf16 = x_like.dtype == types.uint16

        def codegen(context, builder, _signature, arguments):
            _, x, line, start = arguments
            halves = [_load_half(builder, x, half, is_bf16) for half in (0, 1)]
            scale, codes, sums = _rounded(builder, halves)

            def store(value, offset: int) -> None:
                at = builder.inttoptr(builder.add(line, number(offset)), value.type.as_pointer())
                builder.store(value, at).align = 4

            store(builder.shuffle_vector(*codes, ir.Constant(ir.VectorType(I32, CHUNK), list(order))), 0)
            store(scale, SCALE)
            for index, total in enumerate(sums if unit < CHUNK else [builder.add(*sums)]):
                store(builder.fmul(scale, builder.sitofp(total, F32)), SUM + 4 * index)
                store(builder.mul(total, builder.trunc(start, I32)), START + 4 * index)
            return context.get_dummy_value()

        return types.void(x_like, *[types.intp] * 3), codegen

    return round_block


@work_item
def _round_rows(x_type, unit, order):
    itemsize = x_type.bitwidth // 8
    round_block = _make_round_block(unit, order)

    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        x_like = array_at(a.x, 1, x_type)
        x, y = a.x + item * a.inner * itemsize, a.y + item * (a.inner // CHUNK) * LINE
        for block in range(a.inner // CHUNK):
            round_block(x_like, x + block * CHUNK * itemsize, y + block * LINE, a.start)

    return kernel


def round_rows(x: torch.Tensor, form: BlockForm) -> torch.Tensor:
    """``x`` [rows, in], bf16 or fp32 -> uint8 [rows, in / 32 * 64], as products with weights of that form read it."""
    rows, inner = x.shape
    y = empty((rows, inner // CHUNK * LINE), torch.uint8)
    kernel = _round_rows(x.dtype, form.unit, order_of(form.bits))
    arguments = {"x": x, "y": y, "inner": inner, "start": form.byte_start}
    run(kernel, _ARGUMENTS, arguments, rows, per_rows=1)
    return y
