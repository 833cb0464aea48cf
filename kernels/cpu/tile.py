"""The inner loop of every matrix product on the CPU, as LLVM IR: a tile of rows x panels held in registers.

    y[m, 16 p + lane] = sum_k x[m, k] * w[p, k, lane]          m < rows, p < panels

Each output has one accumulator and its sum runs over k in order, whatever the tile's shape: so a row's result does not
depend on how many rows are computed with it, bit by bit. A compiler left to vectorise the plain loop gives that up.

Measured on 2 Zen 4 cores over the layers' weights of a 135 M model, bf16: 5.0 / 7.5 / 17.3 ms at 1 / 8 / 32 rows, 393
GFLOP/s at 256 rows; at 1 row 43 GB/s, which is what the memory gives.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .llvm import I64, LANES, SUMS, load, prefetch
from .tile_products import PRODUCTS

# How far ahead panels are asked for where memory is the limit. Measured, one row over the weights of the default model:
# bf16 40 to 44 GB/s, int8 25 to 33.
_STREAM_BYTES = 2048


def _pointer(builder, base, stride, index, pointee):
    """``base + stride * index`` as a pointer."""
    return builder.inttoptr(builder.add(base, builder.mul(stride, ir.Constant(I64, index))), pointee.as_pointer())


def _loop_over_k(builder, products, x_rows, w_panels, first, steps, ahead):
    """Sums [rows][panels] after ``steps`` steps that begin with ``first``; ``ahead`` are the lines to ask for."""
    rows, panels = len(x_rows), len(w_panels)
    entry = builder.block
    loop, end = builder.append_basic_block("k_loop"), builder.append_basic_block("k_end")
    builder.branch(loop)

    builder.position_at_end(loop)
    k = builder.phi(I64)
    k.add_incoming(ir.Constant(I64, 0), entry)
    sums = [[builder.phi(SUMS) for _ in range(panels)] for _ in range(rows)]
    if rows * panels <= 6 and panels > 1:
        for panel in w_panels:
            at = builder.ptrtoint(builder.gep(panel, [k]), I64)
            prefetch(builder, builder.add(at, ir.Constant(I64, _STREAM_BYTES)))
    weights = [
        products.prepare(builder, load(builder, builder.gep(panel, [k]), products.w_align)) for panel in w_panels
    ]
    for line in ahead:
        prefetch(builder, builder.add(line, builder.mul(k, ir.Constant(I64, 64))))
    new = []
    for m in range(rows):
        x_splats = products.load_x(builder, x_rows[m], k)
        new.append([products.multiply_add(builder, sums[m][p], x_splats, weights[p]) for p in range(panels)])
    next_k = builder.add(k, ir.Constant(I64, 1))
    k.add_incoming(next_k, loop)
    for m in range(rows):
        for p in range(panels):
            sums[m][p].add_incoming(first[m][p], entry)
            sums[m][p].add_incoming(new[m][p], loop)
    builder.cbranch(builder.icmp_signed("<", next_k, steps), loop, end)
    builder.position_at_end(end)
    return new


def make_tile(rows: int, panels: int, accumulate: bool = False, ahead: int = 0):
    """A Numba intrinsic for one tile shape.

    Its arguments: any two arrays of the rows' and the weight's type (PRODUCTS), which only select the code; then
    addresses and strides in bytes: x, x row stride, w, w panel stride, y, y row stride; then the number of steps along
    k (K, or K / 2 with bf16 weights), at least 1. Panels are aligned to one step of theirs. ``accumulate`` adds to y.

    With ``ahead``, two more: an address and a stride in bytes. In each step, one cache line of that many panels there
    is asked for: what will be needed next comes in while this is computed, at the pace at which it is computed.
    """

    def typed(x_like, w_like, addresses):
        products = PRODUCTS[x_like.dtype, w_like.dtype]

        def codegen(context, builder, _signature, arguments):
            _, _, x, x_stride, w, w_stride, y, y_stride, steps = arguments[:9]
            lines = [builder.add(arguments[9], builder.mul(arguments[10], ir.Constant(I64, p))) for p in range(ahead)]
            x_rows = [_pointer(builder, x, x_stride, m, products.x_type) for m in range(rows)]
            w_panels = [_pointer(builder, w, w_stride, p, products.w_type) for p in range(panels)]
            y_panels = [
                [builder.gep(_pointer(builder, y, y_stride, m, SUMS), [ir.Constant(I64, p)]) for p in range(panels)]
                for m in range(rows)
            ]
            zeros = ir.Constant(SUMS, [0.0] * LANES)
            first = [[load(builder, panel, 4) if accumulate else zeros for panel in row] for row in y_panels]
            sums = _loop_over_k(builder, products, x_rows, w_panels, first, steps, lines)
            for m in range(rows):
                for p in range(panels):
                    store = builder.store(sums[m][p], y_panels[m][p])
                    store.align = 4
            return context.get_dummy_value()

        return types.void(x_like, w_like, *[types.intp] * addresses), codegen

    if ahead:

        @intrinsic
        def tile_ahead(_context, x_like, w_like, x, x_stride, w, w_stride, y, y_stride, steps, next_, next_stride):
            return typed(x_like, w_like, 9)

        return tile_ahead

    @intrinsic
    def tile(_context, x_like, w_like, x, x_stride, w, w_stride, y, y_stride, steps):
        return typed(x_like, w_like, 7)

    return tile
