"""The inner loop of products of int8 rows (int8_rows.py) with block-quantised weights, as LLVM IR: rows x panels.

    y[m, o] = sum_b scale[m, b] * (sum_{units u of b} scale[o, u] * n[m, o, u]) + sum_u correction[o, u] * sum[m, u]

with n[m, o, u] the sum of the products of a unit's codes, whole numbers and so exact whatever their order
(byte_dots.py). All else is fp32, block by block, unit by
unit in order: a row's result depends neither on its batch nor on which instruction there is.
"""

from collections.abc import Sequence
from itertools import chain

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .block_form import CHUNK, QUADS, BlockForm
from .block_record import RecordReader, widened_scales
from .block_tile import fetch_ahead
from .byte_dots import BYTE_DOT
from .int8_rows import LINE, SCALE, START, SUM
from .llvm import F32, I32, LANES, SUMS, WORDS, Loop, fma, load, number, splat


class _Block:
    """A block of a row: its line."""

    def __init__(self, builder, line) -> None:
        self._builder, self._line = builder, line

    def at(self, offset: int, kind: ir.Type):
        """A number of the line, in 16 lanes."""
        pointer = self._builder.inttoptr(self._builder.add(self._line, number(offset)), kind.as_pointer())
        return splat(self._builder, load(self._builder, pointer, 4), WORDS if kind == I32 else SUMS)


class _Widened:
    """Reads a record as ``widen_to_bytes`` left it; see RecordReader."""

    def __init__(self, builder, form: BlockForm, record, chunk) -> None:
        self._builder, self._form, self._record, self._chunk = builder, form, record, chunk

    def quads(self, quad: int):
        return load(self._builder, _bytes_at(self._builder, self._record, self._chunk, quad), 64)

    def scales(self, half: int, _start: int):
        at = widened_scales(self._builder, self._form, self._record, self._chunk, half)
        scale, correction = (load(self._builder, place, 64) for place in at)
        return scale, correction if self._form.corrects_bytes else None


def _bytes_at(builder, record, chunk, quad: int):
    """Where a widened record has the bytes of a quad."""
    at = builder.add(builder.mul(chunk, number(CHUNK * LANES)), number(quad * 4 * LANES))
    return builder.inttoptr(builder.add(record, at), WORDS.as_pointer())


def _multiply_block(
    builder, form: BlockForm, rows: list[_Block], readers: Sequence[RecordReader | _Widened], totals
) -> None:
    """Add a chunk's products to the totals, pointers [rows][panels]."""
    assert BYTE_DOT is not None
    units = CHUNK // form.unit
    parts: list[list[ir.Value | None]] = [[None] * len(readers) for _ in rows]
    corrections = []
    for unit in range(units):
        first = [
            row.at(START + 4 * unit, I32) if form.byte_start and (BYTE_DOT.takes_wide or not form.has_wide_bytes)
            else ir.Constant(WORDS, [0] * LANES)
            for row in rows
        ]  # fmt: skip
        sums = [[start] * len(readers) for start in first]
        for quad in range(unit * QUADS // units, (unit + 1) * QUADS // units):
            codes = [reader.quads(quad) for reader in readers]
            for m, row in enumerate(rows):
                x = row.at(4 * quad, I32)
                sums[m] = [
                    BYTE_DOT.add(builder, total, code, x, form.has_wide_bytes)
                    for total, code in zip(sums[m], codes, strict=True)
                ]
        scales = [reader.scales(unit, 0) for reader in readers]
        corrections.append([correction for _, correction in scales])
        for m in range(len(rows)):
            for p, (scale, _) in enumerate(scales):
                product = builder.sitofp(sums[m][p], SUMS)
                part = parts[m][p]
                parts[m][p] = builder.fmul(scale, product) if part is None else fma(builder, scale, product, part)
    for m, row in enumerate(rows):
        scale = row.at(SCALE, F32)
        for p, part in enumerate(parts[m]):
            total = fma(builder, part, scale, load(builder, totals[m][p], 4))
            for unit in range(units):
                if corrections[unit][p] is not None:
                    total = fma(builder, corrections[unit][p], row.at(SUM + 4 * unit, F32), total)
            builder.store(total, totals[m][p]).align = 4


@intrinsic
def widen_to_bytes(_context, form, record, target):
    """Write a record for many int8 rows: its codes as bytes, quad by quad, and scales as ``widen_record`` has them."""
    what = form.instance_type

    def codegen(context, builder, _signature, arguments):
        _, record, target = arguments
        chunks = Loop(builder, number(what.chunks), "chunk")
        reader = RecordReader(builder, what, record, chunks.index)
        for quad in range(QUADS):
            builder.store(reader.quads(quad), _bytes_at(builder, target, chunks.index, quad)).align = 64
        for unit in range(CHUNK // what.unit):
            places = widened_scales(builder, what, target, chunks.index, unit)
            for value, place in zip(reader.scales(unit, 0), places, strict=True):
                if value is not None:
                    builder.store(value, place).align = 64
        chunks.close()
        return context.get_dummy_value()

    return types.void(form, types.intp, types.intp), codegen


def make_int8_tile(rows: int, panels: int, widened: bool):
    """A Numba intrinsic for one tile shape. Its arguments are ``make_block_tile``'s, without sums of rows: x is what
    ``round_rows`` made. With ``widened`` records are as ``widen_to_bytes`` left them.
    """

    @intrinsic
    def tile(_context, form, x, x_stride, w, w_stride, y, y_stride, records, next_w):
        what = form.instance_type

        def codegen(context, builder, _signature, values):
            _, x, x_stride, w, w_stride, y, y_stride, records, next_w = values

            def pointer(base, stride, index: int, offset: int = 0):
                at = builder.add(builder.add(base, builder.mul(stride, number(index))), number(offset))
                return builder.inttoptr(at, SUMS.as_pointer())

            places = [[pointer(y, y_stride, m, p * LANES * 4) for p in range(panels)] for m in range(rows)]
            with builder.goto_entry_block():
                totals = [[builder.alloca(SUMS) for _ in range(panels)] for _ in range(rows)]
            for total, place in zip(chain(*totals), chain(*places), strict=True):
                zeros = ir.Constant(SUMS, [0.0] * LANES)
                builder.store(load(builder, place, 4) if widened else zeros, total).align = 4
            over_records = None if widened else Loop(builder, records, "record")
            record = records if over_records is None else over_records.index
            begin = number(0) if widened else builder.mul(record, number(what.record_bytes))
            heads = [builder.add(builder.add(w, builder.mul(w_stride, number(p))), begin) for p in range(panels)]
            over_chunks = Loop(builder, number(what.chunks), "chunk")
            chunk = over_chunks.index
            line = builder.mul(builder.add(builder.mul(record, number(what.chunks)), chunk), number(LINE))
            line = builder.add(x, line)
            if not widened:
                fetch_ahead(builder, what, begin, chunk, records, w, next_w, w_stride, panels)
            readers = [(_Widened if widened else RecordReader)(builder, what, head, chunk) for head in heads]
            blocks = [_Block(builder, builder.add(line, builder.mul(x_stride, number(m)))) for m in range(rows)]
            _multiply_block(builder, what, blocks, readers, totals)
            over_chunks.close()
            if over_records is not None:
                over_records.close()
            for total, place in zip(chain(*totals), chain(*places), strict=True):
                builder.store(load(builder, total, 4), place).align = 4
            return context.get_dummy_value()

        return types.void(form, *[types.intp] * 8), codegen

    return tile
