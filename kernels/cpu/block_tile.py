"""The inner loop of products with block-quantised weights, as LLVM IR: a tile of rows x panels, group by group.

    y[m, o] = sum_g scale[o, g] * (sum_{i in g} x[m, i] * q[o, i] - zero[o, g] * s[m, g]) - minimum[o, g] * s[m, g]

with s[m, g] the sum of the row's values over the group. q, up to 8 bits wide, is exact in bf16, so nothing is rounded
but sums in fp32. Each output's sum runs over k in order, whatever the tile's shape: a row's result does not depend on
how many rows are computed with it.

block_form.py says how the codes lie: one shift (and a merge, where there are two planes) brings 32 of
them into place, and one lookup of a table of 32 or 64 words in registers widens them to bf16.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .block_form import BASE_BYTES, CHUNK, HAS_WORD_LOOKUP, PLANES, BlockForm
from .tile_products import I64, LANES, PRODUCTS, SUMS, declare, load, prefetch

_STREAM_BYTES = 4096

_I8, _I16, _I32, _F16 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.HalfType()
_SHORTS = ir.VectorType(_I16, 2 * LANES)
_WORDS = ir.VectorType(_I32, LANES)
# What a scale is read as, 16 lanes at a time.
_BASE_TYPES = {
    "float16": ir.VectorType(_F16, LANES),
    "bfloat16": ir.VectorType(_I16, LANES),
    "float32": SUMS,
}


class _Panel:
    """Reads a panel's codes and scales at one place: a record, and a chunk of it."""

    def __init__(self, builder, form: BlockForm, record, chunk) -> None:
        """``record`` is an address, ``chunk`` a number; both i64."""
        self._builder, self._form, self._record, self._chunk = builder, form, record, chunk
        self._codes = builder.add(
            builder.add(record, ir.Constant(I64, form.head.size)),
            builder.mul(chunk, ir.Constant(I64, form.chunk_bytes)),
        )
        self._words: dict[tuple[int, int], ir.Value] = {}  # by plane and number

    def _load(self, base, offset: int, kind: ir.Type, align: int):
        pointer = self._builder.inttoptr(self._builder.add(base, ir.Constant(I64, offset)), kind.as_pointer())
        return load(self._builder, pointer, align)

    def scales(self, half: int):
        """Scale of each lane in the unit ``half`` of the chunk, and the factor of the row's sum or None; fp32."""
        builder, form, head = self._builder, self._form, self._form.head
        group = builder.udiv(
            builder.add(builder.mul(self._chunk, ir.Constant(I64, CHUNK)), ir.Constant(I64, half * form.unit)),
            ir.Constant(I64, form.group),
        )

        def at(offset: int, size: int, kind: ir.Type):
            base = builder.add(self._record, builder.mul(group, ir.Constant(I64, LANES * size)))
            return self._load(base, offset, kind, min(LANES * size, 64))

        def floats(offset: int, steps: int):
            size, kind = BASE_BYTES[form.base], _BASE_TYPES[form.base]
            if not form.stepped:
                return _to_fp32(builder, form.base, at(offset, size, kind))
            whole = _to_fp32(builder, form.base, self._load(self._record, offset, kind, LANES * size))
            multiple = builder.sext(at(steps, 1, ir.VectorType(_I8, LANES)), _WORDS)
            return builder.fmul(whole, builder.sitofp(multiple, SUMS))

        scale, correction = floats(head.scale, head.scale_steps), None
        if form.zeros:
            correction = builder.fmul(scale, _to_fp32(builder, "float16", at(head.zero, 2, _BASE_TYPES["float16"])))
        if form.minima:
            minimum = floats(head.minimum, head.minimum_steps)
            correction = minimum if correction is None else builder.fadd(correction, minimum)
        return scale, None if correction is None else builder.fneg(correction)

    def weights(self, products, step: int):
        """The codes of values of k 2 ``step`` and 2 ``step`` + 1 of the chunk, as ``products`` multiplies them."""
        builder, form = self._builder, self._form
        if form.bits == 8:
            return products.prepare(builder, self._load(self._codes, step * 2 * LANES, products.w_type, 2 * LANES))
        codes, at, offset = None, 0, 0
        for plane, bits in enumerate(PLANES[form.bits]):
            per_word = 16 // bits
            number = step // per_word
            if (plane, number) not in self._words:
                self._words[plane, number] = self._load(self._codes, offset + number * 64, _SHORTS, 64)
            here = _shift(builder, self._words[plane, number], bits * (step % per_word) - at)
            masked = len(PLANES[form.bits]) > 1 or not HAS_WORD_LOOKUP  # the lookup reads low bits only
            if masked:
                mask = ((1 << bits) - 1) << at
                here = builder.and_(here, ir.Constant(_SHORTS, [mask] * (2 * LANES)))
            codes = here if codes is None else builder.or_(codes, here)
            at, offset = at + bits, offset + bits * CHUNK * LANES // 8
        return _look_up(builder, form, codes)


def _shift(builder, words, right: int):
    """By so many bits to the right; to the left if negative."""
    if right == 0:
        return words
    amount = ir.Constant(_SHORTS, [abs(right)] * (2 * LANES))
    return builder.lshr(words, amount) if right > 0 else builder.shl(words, amount)


def _look_up(builder, form: BlockForm, codes):
    """bf16 pairs of the codes' values; without the lookup, fp32 of the first k of each lane, and of the second."""
    values = form.table
    if HAS_WORD_LOOKUP:
        words = 64 if form.bits == 6 else 32
        table = [_bf16_bits(values[index % (1 << form.bits)]) for index in range(words)]
        parts = [ir.Constant(_SHORTS, table[start : start + 32]) for start in range(0, words, 32)]
        if len(parts) == 1:
            name, arguments = "llvm.x86.avx512.permvar.hi.512", [parts[0], codes]
        else:
            name, arguments = "llvm.x86.avx512.vpermi2var.hi.512", [parts[0], codes, parts[1]]
        function = declare(builder.module, name, _SHORTS, [_SHORTS] * len(arguments))
        return builder.bitcast(builder.call(function, arguments), _WORDS)
    pairs = builder.bitcast(codes, _WORDS)
    first = builder.and_(pairs, ir.Constant(_WORDS, [0xFFFF] * LANES))
    second = builder.lshr(pairs, ir.Constant(_WORDS, [16] * LANES))
    start = ir.Constant(_WORDS, [values[0]] * LANES)
    return [builder.sitofp(builder.add(part, start), SUMS) for part in (first, second)]


def _bf16_bits(value: int) -> int:
    """Of a whole number of up to 8 bits, which bf16 has exactly."""
    return int(np.float32(value).view(np.uint32) >> 16)


def _to_fp32(builder, base: str, values):
    if base == "float16":
        return builder.fpext(values, SUMS)
    if base == "bfloat16":
        words = builder.zext(values, _WORDS)
        return builder.bitcast(builder.shl(words, ir.Constant(_WORDS, [16] * LANES)), SUMS)
    return values


def _splat(builder, scalar):
    undefined = ir.Constant(SUMS, ir.Undefined)
    vector = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(vector, undefined, ir.Constant(_WORDS, [0] * LANES))


def _fma(builder, a, b, c):
    return builder.call(declare(builder.module, f"llvm.fma.v{LANES}f32", SUMS, [SUMS] * 3), [a, b, c])


class _Loop:
    """``for i in range(count)``, at least once."""

    def __init__(self, builder, count, name: str) -> None:
        self._builder, self._count = builder, count
        self._body = builder.append_basic_block(name)
        self._end = builder.append_basic_block(f"{name}_end")
        entry = builder.block
        builder.branch(self._body)
        builder.position_at_end(self._body)
        self.index = builder.phi(I64)
        self.index.add_incoming(ir.Constant(I64, 0), entry)

    def close(self) -> None:
        builder = self._builder
        following = builder.add(self.index, ir.Constant(I64, 1))
        self.index.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, self._count), self._body, self._end)
        builder.position_at_end(self._end)


def make_block_tile(rows: int, panels: int, widened: bool = False):
    """A Numba intrinsic for one tile shape.

    Its arguments: a BlockForm and an array of the rows' type, which select the code; then addresses and strides in
    bytes: x, x row stride, s, s row stride (fp32, one for each unit; not read where the form corrects nothing), w, w
    panel stride, y, y row stride; then the number of records, at least 1. w is aligned to cache lines.

    With ``widened`` it adds one record's part to y: in place of the number comes the record's, and after it the address
    of its codes as ``widen_record`` left them. The sums are the same, bit for bit.
    """
    # Sums over all groups, where they would not fit the registers beside those of a group.
    in_memory = rows * panels > 12

    def typed(form, x_like, arguments):
        what = form.instance_type
        narrow = types.uint16 if widened else _stored_as(what)
        products = PRODUCTS[x_like.dtype, narrow]
        x_size = x_like.dtype.bitwidth // 8

        def codegen(context, builder, _signature, values):
            _, _, x, x_stride, s, s_stride, w, w_stride, y, y_stride, records = values[:11]

            def pointer(base, stride, number, kind):
                address = builder.add(base, builder.mul(stride, ir.Constant(I64, number)))
                return builder.inttoptr(address, kind.as_pointer())

            def y_at(m, p):
                return builder.gep(pointer(y, y_stride, m, SUMS), [ir.Constant(I64, p)])

            zeros = ir.Constant(SUMS, [0.0] * LANES)
            with builder.goto_entry_block():
                held = [[None if in_memory else builder.alloca(SUMS) for _ in range(panels)] for _ in range(rows)]
            totals = [[y_at(m, p) if in_memory else held[m][p] for p in range(panels)] for m in range(rows)]
            if widened:
                record = records
                if not in_memory:
                    for m in range(rows):
                        for p in range(panels):
                            builder.store(load(builder, y_at(m, p), 4), totals[m][p])
            else:
                for total in (total for row in totals for total in row):
                    builder.store(zeros, total).align = 4
                over_records = _Loop(builder, records, "record")
                record = over_records.index
            heads = _heads(builder, what, w, w_stride, record, panels)
            over_chunks = _Loop(builder, ir.Constant(I64, what.chunks), "chunk")
            chunk = builder.add(builder.mul(record, ir.Constant(I64, what.chunks)), over_chunks.index)
            x_chunk = builder.add(x, builder.mul(chunk, ir.Constant(I64, CHUNK * x_size)))
            x_rows = [pointer(x_chunk, x_stride, m, products.x_type) for m in range(rows)]
            readers = [_Panel(builder, what, head, over_chunks.index) for head in heads]
            if rows <= 2:
                for head in heads:
                    line = builder.add(head, builder.mul(over_chunks.index, ir.Constant(I64, what.chunk_bytes)))
                    for part in range(0, what.chunk_bytes, 64):
                        prefetch(builder, builder.add(line, ir.Constant(I64, _STREAM_BYTES + part)))
            units = CHUNK // what.unit
            for unit in range(units):
                sums = [[zeros] * panels for _ in range(rows)]
                steps = what.unit // 2
                for step in range(unit * steps, (unit + 1) * steps):
                    if widened:
                        weights = [
                            load(builder, _widened_at(builder, what, values[11], over_chunks.index, p, step), 64)
                            for p in range(panels)
                        ]
                    else:
                        weights = [reader.weights(products, step) for reader in readers]
                    for m in range(rows):
                        at = products.load_x(builder, x_rows[m], ir.Constant(I64, step))
                        sums[m] = [
                            products.multiply_add(builder, total, at, weight)
                            for total, weight in zip(sums[m], weights, strict=True)
                        ]
                scales = [reader.scales(unit) for reader in readers]
                for m in range(rows):
                    if what.corrects:
                        place = builder.add(builder.mul(chunk, ir.Constant(I64, units)), ir.Constant(I64, unit))
                        of_row = builder.gep(pointer(s, s_stride, m, ir.FloatType()), [place])
                        row_sum = _splat(builder, load(builder, of_row, 4))
                    for p, (scale, correction) in enumerate(scales):
                        total = _fma(builder, scale, sums[m][p], load(builder, totals[m][p], 4))
                        if correction is not None:
                            total = _fma(builder, correction, row_sum, total)
                        builder.store(total, totals[m][p]).align = 4
            over_chunks.close()
            if not widened:
                over_records.close()
            if not in_memory:
                for m in range(rows):
                    for p in range(panels):
                        builder.store(load(builder, totals[m][p], 4), y_at(m, p)).align = 4
            return context.get_dummy_value()

        return types.void(form, x_like, *[types.intp] * arguments), codegen

    if widened:

        @intrinsic
        def tile_widened(_context, form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, record, codes):
            return typed(form, x_like, 10)

        return tile_widened

    @intrinsic
    def tile(_context, form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, records):
        return typed(form, x_like, 9)

    return tile


def make_widen_record(panels: int):
    """A Numba intrinsic that writes a record's codes as bf16: [panel, chunk, step, 16, 2], once for many rows.

    Its arguments: a BlockForm; then w, w panel stride, number of the record, and where to write, a multiple of 64.
    """

    @intrinsic
    def widen_record(_context, form, w, w_stride, record, target):
        what = form.instance_type
        products = PRODUCTS[types.uint16, _stored_as(what)]

        def codegen(context, builder, _signature, values):
            _, w, w_stride, record, target = values
            heads = _heads(builder, what, w, w_stride, record, panels)
            over_chunks = _Loop(builder, ir.Constant(I64, what.chunks), "chunk")
            for p, head in enumerate(heads):
                reader = _Panel(builder, what, head, over_chunks.index)
                for step in range(CHUNK // 2):
                    place = _widened_at(builder, what, target, over_chunks.index, p, step)
                    builder.store(reader.weights(products, step), place).align = 64
            over_chunks.close()
            return context.get_dummy_value()

        return types.void(form, *[types.intp] * 4), codegen

    return widen_record


def _stored_as(form: BlockForm) -> types.Type:
    return types.int8 if form.bits == 8 or not HAS_WORD_LOOKUP else types.uint16


def _heads(builder, form: BlockForm, w, w_stride, record, panels: int):
    """Where a record of each panel begins."""
    begin = builder.add(w, builder.mul(record, ir.Constant(I64, form.record_bytes)))
    return [builder.add(begin, builder.mul(w_stride, ir.Constant(I64, p))) for p in range(panels)]


def _widened_at(builder, form: BlockForm, base, chunk, panel: int, step: int):
    """Pointer to the 32 values of a step."""
    per_chunk = CHUNK // 2
    at = builder.mul(chunk, ir.Constant(I64, per_chunk * 64))
    at = builder.add(builder.add(base, at), ir.Constant(I64, (panel * form.chunks * per_chunk + step) * 64))
    return builder.inttoptr(at, _WORDS.as_pointer())
