"""Products with block-quantised weights through the tile registers (amx.py), record by record.

A record (block_form.py) is widened to bf16 in the first-level cache, once for up to 64 rows. Each unit of 16 or 32
values of k gives its own sums, which are scaled and added in order, as block_tile.py does.

To take sums out of a register costs 16 cycles, to multiply 16. With 3 to 8 rows that would be paid for rows that are
not there. So the rows are *spread* first: each unit of a record has rows of the register of its own, and zeros where
the other units' values are. One register then holds the sums of up to 4 units, and what zeros add changes no sum.
"""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from . import amx
from .block_form import CHUNK
from .block_record import widen_record
from .llvm import F32, LANES, SUMS, Loop, fma, load, number, splat
from .machine import array_at, prefetch
from .op_graph import struct_dtype, work_item

MOST_SPREAD = 8  # rows
SHORT = 0b1010  # the registers of sums that _multiply_last uses
SPREAD_BYTES = amx.ROWS * CHUNK * 2  # of a chunk
_TILE = amx.ROWS * LANES * 4  # bytes of sums
SPREAD = struct_dtype(x=int, spread=int, inner=int)


@njit
def _slots(rows):
    """Rows of a register that a unit gets: a power of two."""
    return 4 if rows <= 4 else 8


@work_item
def spread_rows(form):
    """3 to 8 rows as registers of bf16, one for each chunk: uint8 [chunks, 16, 64]; an item is a record."""
    unit, units, chunks = form.unit, form.units, form.chunks

    def kernel(arguments, item, thread, rows, sequences):
        if not amx.FEW_ROWS < rows <= MOST_SPREAD:
            return
        a = array_at(arguments, 1, SPREAD)[0]
        slots = _slots(rows)
        together = min(amx.ROWS // slots, units)
        x = array_at(a.x, (rows, a.inner), types.uint16)
        for chunk in range(chunks):
            k = (item * chunks + chunk) * CHUNK
            tile = array_at(a.spread + (item * chunks + chunk) * SPREAD_BYTES, (amx.ROWS, CHUNK), types.uint16)
            tile[:] = 0
            for part in range(CHUNK // unit):
                slot = (chunk * (CHUNK // unit) + part) % together * slots
                for row in range(rows):
                    for i in range(part * unit, part * unit + unit):
                        tile[slot + row, i] = x[row, k + i]

    return kernel


@intrinsic
def _multiply_spread(_context, spread, codes, sums, groups, chunks):
    """Sums of spread rows: ``groups`` registers of ``chunks`` chunks each."""

    def codegen(context, builder, _signature, arguments):
        spread, codes, sums, groups, chunks = arguments
        over_groups = Loop(builder, groups, "group")
        amx.zero(builder, 0)
        over = Loop(builder, chunks, "chunk")
        chunk = builder.mul(builder.add(builder.mul(over_groups.index, chunks), over.index), number(SPREAD_BYTES))
        amx.load_tile(builder, amx.WEIGHTS, builder.add(codes, chunk), number(64))
        amx.load_tile(builder, amx.PART, builder.add(spread, chunk), number(64))
        amx.multiply_add(builder, 0, amx.PART, amx.WEIGHTS)
        over.close()
        amx.store_tile(builder, 0, builder.add(sums, builder.mul(over_groups.index, number(_TILE))), number(64))
        over_groups.close()
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), codegen


def _make_multiply(last: bool):
    """A block of 16 rows or, the last, of as many as there are."""

    @intrinsic
    def multiply(_context, form, x, x_stride, codes, sums):
        what = form.instance_type

        def codegen(context, builder, _signature, arguments):
            _, x, x_stride, codes, sums = arguments
            tile, step = amx.PART if last else amx.WHOLE, what.unit * 2
            over = Loop(builder, number(what.units // 2 or 1), "pair")
            for i in range(min(2, what.units)):
                unit = builder.add(builder.mul(over.index, number(2)), number(i))
                at = 2 * i + (1 if last else 0)  # of whole blocks 0 and 2, of the last one 1 and 3
                amx.zero(builder, at)
                amx.load_tile(
                    builder, amx.WEIGHTS, builder.add(codes, builder.mul(unit, number(what.unit * 32))), number(64)
                )
                amx.load_tile(builder, tile, builder.add(x, builder.mul(unit, number(step))), x_stride)
                amx.multiply_add(builder, at, tile, amx.WEIGHTS)
                amx.store_tile(builder, at, builder.add(sums, builder.mul(unit, number(_TILE))), number(64))
            over.close()
            return context.get_dummy_value()

        return types.void(form, *[types.intp] * 4), codegen

    return multiply


_multiply_whole, _multiply_last = _make_multiply(False), _make_multiply(True)


@intrinsic
def _add_units(_context, form, widened, sums, sums_stride, s, s_stride, y, y_stride, rows, keeps):
    """y [rows, 16] = the units' sums, a stride apart, scaled and added in order; to what is there if ``keeps`` is 1."""
    what = form.instance_type

    def codegen(context, builder, _signature, arguments):
        _, widened, sums, sums_stride, s, s_stride, y, y_stride, rows, keeps = arguments

        def at(base, offset):
            return builder.inttoptr(builder.add(base, offset), SUMS.as_pointer())

        factors = [
            [
                load(builder, at(widened, number(what.widened_scales + (2 * unit + i) * LANES * 4)), 64)
                for i in range(1 + what.corrects)
            ]
            for unit in range(what.units)
        ]
        over = Loop(builder, rows, "row")
        target = at(y, builder.mul(y_stride, over.index))
        zeros = ir.Constant(SUMS, [0.0] * LANES)
        total = builder.select(builder.icmp_signed("==", keeps, number(1)), load(builder, target, 4), zeros)
        begin = builder.add(sums, builder.mul(over.index, number(LANES * 4)))
        of_row = builder.inttoptr(builder.add(s, builder.mul(s_stride, over.index)), F32.as_pointer())
        for unit, (scale, *correction) in enumerate(factors):
            part = load(builder, at(begin, builder.mul(sums_stride, number(unit))), 64)
            total = fma(builder, scale, part, total)
            if correction:
                row_sum = splat(builder, load(builder, builder.gep(of_row, [number(unit)]), 4))
                total = fma(builder, correction[0], row_sum, total)
        builder.store(total, target).align = 4
        over.close()
        return context.get_dummy_value()

    return types.void(form, *[types.intp] * 9), codegen


@njit
def amx_panel(
    form, unit, units, chunks, record_bytes, widened_bytes, spread, x, x_stride, s, s_stride, w, y, y_stride, rows,
    records, scratch,
):  # fmt: skip
    """One panel's products with up to 64 rows, or 3 to 8 that are spread; ``spread`` is 0 if they aren't.

    ``scratch``: a widened record, then 16 registers of sums.
    """
    widened, sums = scratch, scratch + widened_bytes
    slots = _slots(rows)
    together = min(amx.ROWS // slots, units)
    per_chunk = CHUNK // unit
    for record in range(records):
        source = w + record * record_bytes
        prefetch(source + 2 * record_bytes, record_bytes)
        widen_record(form, source, widened)
        s_record = s + record * units * 4
        keeps = 1 if record > 0 else 0
        if spread:
            at = spread + record * chunks * SPREAD_BYTES
            _multiply_spread(at, widened, sums, units // together, together // per_chunk)
            _add_units(form, widened, sums, slots * LANES * 4, s_record, s_stride, y, y_stride, rows, keeps)
        else:
            for row in range(0, rows, amx.ROWS):
                x_rows = x + row * x_stride + record * chunks * CHUNK * 2
                if row + amx.ROWS >= rows:
                    _multiply_last(form, x_rows, x_stride, widened, sums)
                else:
                    _multiply_whole(form, x_rows, x_stride, widened, sums)
                count = min(amx.ROWS, rows - row)
                y_rows, s_rows = y + row * y_stride, s_record + row * s_stride
                _add_units(form, widened, sums, _TILE, s_rows, s_stride, y_rows, y_stride, count, keeps)
