"""The inner loop of products with block-quantised weights, as LLVM IR: a tile of rows x panels, group by group.

    y[m, o] = sum_g scale[o, g] * (sum_{i in g} x[m, i] * q[o, i] - zero[o, g] * s[m, g]) - minimum[o, g] * s[m, g]

with s[m, g] the sum of the row's values over the group. q, up to 8 bits wide, is exact in bf16, so nothing is rounded
but sums in fp32. Each output's sum runs over k in order, whatever the tile's shape: a row's result does not depend on
how many rows are computed with it.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .block_form import CHUNK, BlockForm
from .block_record import RecordReader, stored_as, widened_codes, widened_scales
from .llvm import F32, LANES, SUMS, Loop, fma, load, number, prefetch, splat
from .tile_products import AMX_ORDER, PRODUCTS

_STREAM_BYTES = 4096


def fetch_ahead(builder, form: BlockForm, begin, chunk, records, w, next_w, w_stride, panels: int) -> None:
    """Ask for a chunk's share of what is so far ahead in the panels, or in those that are likely next.

    ``begin``: of the record in its panel.
    """
    share, end = form.record_bytes // form.chunks, builder.mul(records, number(form.record_bytes))
    ahead = builder.add(begin, builder.mul(chunk, number(share)))
    ahead = builder.add(ahead, number(_STREAM_BYTES))
    is_next = builder.icmp_signed(">=", ahead, end)
    ahead = builder.select(is_next, builder.sub(ahead, end), ahead)
    ahead = builder.add(ahead, builder.select(is_next, next_w, w))
    for p in range(panels):
        of_panel = builder.add(ahead, builder.mul(w_stride, number(p)))
        for part in range(0, share, 64):
            prefetch(builder, builder.add(of_panel, number(part)))


def make_block_tile(rows: int, panels: int, widened: bool = False, amx_order: bool = False):
    """A Numba intrinsic for one tile shape.

    Its arguments: a BlockForm and an array of the rows' type, which select the code; then addresses and strides in
    bytes: x, x row stride, s, s row stride (fp32, one for each unit; not read where the form corrects nothing), w, w
    panel stride, y, y row stride; then the number of records, at least 1, and the address of the panels that are likely
    read next, which are fetched meanwhile. w is aligned to cache lines.

    With ``widened`` it adds one record's part to y: w are records as ``widen_record`` left them, a panel stride apart,
    and in place of the number of records comes the record's. The sums are the same, bit for bit. With ``amx_order``
    they are those of amx_blocks.py, instead; rows are bf16.
    """
    # Sums over all groups, where they would not fit the registers beside those of a group.
    in_memory = rows * panels > 12

    def typed(form, x_like):
        what = form.instance_type
        stored = types.uint16 if widened else stored_as(what)
        products = AMX_ORDER[stored] if amx_order else PRODUCTS[x_like.dtype, stored]
        x_size = x_like.dtype.bitwidth // 8
        units = CHUNK // what.unit

        def codegen(context, builder, _signature, values):
            _, _, x, x_stride, s, s_stride, w, w_stride, y, y_stride, records, next_w = values

            def pointer(base, stride, index, kind):
                address = builder.add(base, builder.mul(stride, number(index)))
                return builder.inttoptr(address, kind.as_pointer())

            def y_at(m, p):
                return builder.gep(pointer(y, y_stride, m, SUMS), [number(p)])

            zeros = ir.Constant(SUMS, [0.0] * LANES)
            with builder.goto_entry_block():
                held = [[None if in_memory else builder.alloca(SUMS) for _ in range(panels)] for _ in range(rows)]
            totals = [[y_at(m, p) if in_memory else held[m][p] for p in range(panels)] for m in range(rows)]
            for m in range(rows):
                for p in range(panels):
                    if not widened:
                        builder.store(zeros, totals[m][p]).align = 4
                    elif not in_memory:
                        builder.store(load(builder, y_at(m, p), 4), totals[m][p])
            over_records = None if widened else Loop(builder, records, "record")
            record = records if over_records is None else over_records.index
            heads = [builder.add(w, builder.mul(w_stride, number(p))) for p in range(panels)]
            if not widened:
                begin = builder.mul(record, number(what.record_bytes))
                heads = [builder.add(head, begin) for head in heads]
            over_chunks = Loop(builder, number(what.chunks), "chunk")
            chunk = builder.add(builder.mul(record, number(what.chunks)), over_chunks.index)
            x_chunk = builder.add(x, builder.mul(chunk, number(CHUNK * x_size)))
            x_rows = [pointer(x_chunk, x_stride, m, products.x_type) for m in range(rows)]
            if widened:
                codes = [widened_codes(builder, head, over_chunks.index) for head in heads]
            else:
                readers = [RecordReader(builder, what, head, over_chunks.index) for head in heads]
            if not widened:
                fetch_ahead(builder, what, begin, over_chunks.index, records, w, next_w, w_stride, panels)
            for unit in range(units):
                sums = [[[zeros, zeros] if amx_order else zeros] * panels for _ in range(rows)]
                steps = what.unit // 2
                for step in range(unit * steps, (unit + 1) * steps):
                    if widened:
                        weights = [load(builder, builder.gep(at, [number(step)]), 64) for at in codes]
                    else:
                        weights = [reader.weights(products, step) for reader in readers]
                    for m in range(rows):
                        at = products.load_x(builder, x_rows[m], number(step))
                        sums[m] = [
                            products.multiply_add(builder, total, at, weight)
                            for total, weight in zip(sums[m], weights, strict=True)
                        ]
                if widened:
                    places = [widened_scales(builder, what, head, over_chunks.index, unit) for head in heads]
                    scales = [
                        (load(builder, scale, 64), load(builder, correction, 64) if what.corrects else None)
                        for scale, correction in places
                    ]
                else:
                    scales = [reader.scales(unit, what.start) for reader in readers]
                for m in range(rows):
                    if what.corrects:
                        place = builder.add(builder.mul(chunk, number(units)), number(unit))
                        row_sum = splat(builder, load(builder, builder.gep(pointer(s, s_stride, m, F32), [place]), 4))
                    for p, (scale, correction) in enumerate(scales):
                        of_unit = builder.fadd(*sums[m][p]) if amx_order else sums[m][p]
                        total = fma(builder, scale, of_unit, load(builder, totals[m][p], 4))
                        if correction is not None:
                            total = fma(builder, correction, row_sum, total)
                        builder.store(total, totals[m][p]).align = 4
            over_chunks.close()
            if over_records is not None:
                over_records.close()
            if not in_memory:
                for m in range(rows):
                    for p in range(panels):
                        builder.store(load(builder, totals[m][p], 4), y_at(m, p)).align = 4
            return context.get_dummy_value()

        return types.void(form, x_like, *[types.intp] * 10), codegen

    @intrinsic
    def tile(_context, form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, records, next_w):
        return typed(form, x_like)

    return tile
