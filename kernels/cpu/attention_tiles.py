"""The two products of attention over a segment of positions, as LLVM IR: tile.py's tile, with its panels anywhere.

    scores: y[m, 16 p + lane] = sum_k q[m, k] * K[panel p][k, lane]
    values: y[m, 16 p + lane] = sum_k p[m, k] * V[page of k][p, k, lane]

A page table says where panels lie, so a tile takes a list of addresses. As in tile.py, each output is one accumulator
that runs over k in order, whatever the tile's shape, and stays in a register from the first page to the last. Each line
that is read asks for one that is needed later: memory works at an even pace while the core computes.
"""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .features import SET
from .llvm import I64, LANES, SUMS, load, prefetch
from .tile_products import PRODUCTS

PANELS = 4  # a segment's list of panels is padded to a multiple of this
_LINE = 64
_WIDE = SET.tiles.wide


def _constant(value):
    return ir.Constant(I64, value)


def _pointer(builder, address, pointee):
    return builder.inttoptr(address, pointee.as_pointer())


def _offset(builder, base, stride, index):
    return builder.add(base, builder.mul(stride, _constant(index)))


def _entry(builder, addresses, index):
    """The address at a place of a list."""
    return load(builder, builder.gep(_pointer(builder, addresses, I64), [index]), 8)


def _multiply_add(builder, products, sums, rows, k, weights):
    """One step: ``sums`` of rows x panels with the product of the rows' k-th values added."""
    new = []
    for m, row in enumerate(rows):
        x = products.load_x(builder, row, k)
        new.append([products.multiply_add(builder, sums[m][p], x, weights[p]) for p in range(len(weights))])
    return new


def _store(builder, sums, y, y_stride):
    for m, row in enumerate(sums):
        for p, value in enumerate(row):
            target = _pointer(builder, builder.add(_offset(builder, y, y_stride, m), _constant(p * _LINE)), SUMS)
            builder.store(value, target).align = 4


def _zeros(rows, panels):
    return [[ir.Constant(SUMS, [0.0] * LANES)] * panels for _ in range(rows)]


class _Loop:
    """``for index in range(count)``, count > 0, that carries rows x panels of sums."""

    def __init__(self, builder, count, sums):
        self._builder, self._count = builder, count
        entry, self._body = builder.block, builder.append_basic_block("loop")
        builder.branch(self._body)
        builder.position_at_end(self._body)
        self.index = builder.phi(I64)
        self.index.add_incoming(_constant(0), entry)
        self.sums = [[builder.phi(SUMS) for _ in row] for row in sums]
        self._each(sums, entry)

    def _each(self, sums, block):
        for phis, values in zip(self.sums, sums, strict=True):
            for phi, value in zip(phis, values, strict=True):
                phi.add_incoming(value, block)

    def end(self, sums):
        """Close the loop with what the sums are after a turn; gives what they are after the last."""
        builder = self._builder
        following = builder.add(self.index, _constant(1))
        self.index.add_incoming(following, builder.block)
        self._each(sums, builder.block)
        after = builder.append_basic_block("end")
        builder.cbranch(builder.icmp_signed("<", following, self._count), self._body, after)
        builder.position_at_end(after)
        return sums


def _make_score_tile(rows, panels):
    """Its arguments: an array of the stored type; addresses: q, row stride, list of panels, list of panels that will be
    needed next, y, row stride; steps along head_dim."""

    @intrinsic
    def tile(_context, like, q, q_stride, listed, ahead, y, y_stride, steps):
        products = PRODUCTS[like.dtype, like.dtype]

        def codegen(context, builder, _signature, arguments):
            _, q, q_stride, listed, ahead, y, y_stride, steps = arguments
            q_rows = [_pointer(builder, _offset(builder, q, q_stride, m), products.x_type) for m in range(rows)]
            k_panels = [
                _pointer(builder, _entry(builder, listed, _constant(p)), products.w_type) for p in range(panels)
            ]
            later = [_entry(builder, ahead, _constant(p)) for p in range(panels)]
            loop = _Loop(builder, steps, _zeros(rows, panels))
            weights = [
                products.prepare(builder, load(builder, builder.gep(panel, [loop.index]), products.w_align))
                for panel in k_panels
            ]
            for panel in later:
                prefetch(builder, builder.add(panel, builder.mul(loop.index, _constant(_LINE))))
            sums = loop.end(_multiply_add(builder, products, loop.sums, q_rows, loop.index, weights))
            _store(builder, sums, y, y_stride)
            return context.get_dummy_value()

        return types.void(like, *[types.intp] * 7), codegen

    return tile


def _make_value_tile(rows, panels):
    """Its arguments: an array of the stored type; addresses: probabilities, row stride, list of pages, list of pages
    that will be needed next, offset of the first panel in a page, panel stride, y, row stride; pages, steps of a page.
    """

    @intrinsic
    def tile(_context, like, p, p_stride, listed, ahead, first, v_stride, y, y_stride, pages, steps):
        products = PRODUCTS[like.dtype, like.dtype]

        def codegen(context, builder, _signature, arguments):
            _, p, p_stride, listed, ahead, first, v_stride, y, y_stride, pages, steps = arguments
            p_rows = [_pointer(builder, _offset(builder, p, p_stride, m), products.x_type) for m in range(rows)]
            outer = _Loop(builder, pages, _zeros(rows, panels))
            page, later = (builder.add(_entry(builder, pages_of, outer.index), first) for pages_of in (listed, ahead))
            first_step = builder.mul(outer.index, steps)
            v_panels = [_pointer(builder, _offset(builder, page, v_stride, i), products.w_type) for i in range(panels)]
            later_panels = [_offset(builder, later, v_stride, i) for i in range(panels)]
            inner = _Loop(builder, steps, outer.sums)
            weights = [
                products.prepare(builder, load(builder, builder.gep(panel, [inner.index]), products.w_align))
                for panel in v_panels
            ]
            for panel in later_panels:
                prefetch(builder, builder.add(panel, builder.mul(inner.index, _constant(_LINE))))
            k = builder.add(first_step, inner.index)
            sums = outer.end(inner.end(_multiply_add(builder, products, inner.sums, p_rows, k, weights)))
            _store(builder, sums, y, y_stride)
            return context.get_dummy_value()

        return types.void(like, *[types.intp] * 10), codegen

    return tile


# rows x panels accumulators: enough to hide the latency of a multiply-add, and few enough for 32 registers; for 16 of
# half the width, one panel, or one row.
_score_8x2, _score_4x4, _score_3x4, _score_2x4, _score_1x4 = (
    _make_score_tile(rows, panels) for rows, panels in ((8, 2), (4, 4), (3, 4), (2, 4), (1, 4))
)
_value_8x2, _value_4x4, _value_3x4, _value_2x4, _value_1x4 = (
    _make_value_tile(rows, panels) for rows, panels in ((8, 2), (4, 4), (3, 4), (2, 4), (1, 4))
)
_value_8x1, _value_4x1, _value_3x1, _value_2x1, _value_1x1 = (_make_value_tile(rows, 1) for rows in (8, 4, 3, 2, 1))
_score_4x1, _score_3x1, _score_2x1 = (_make_score_tile(rows, 1) for rows in (4, 3, 2))


@njit
def _scores_of_panel(like, q, q_stride, at, later, y, y_stride, rows, steps):
    """Two rows and more, where tiles are not wide."""
    row = 0
    while rows - row >= 4:
        _score_4x1(like, q + row * q_stride, q_stride, at, later, y + row * y_stride, y_stride, steps)
        row += 4
        later = at  # asked for
    x, out = q + row * q_stride, y + row * y_stride
    if rows - row == 3:
        _score_3x1(like, x, q_stride, at, later, out, y_stride, steps)
    elif rows - row == 2:
        _score_2x1(like, x, q_stride, at, later, out, y_stride, steps)
    elif rows - row == 1:  # the row before once more: one row alone would wait for its sums
        _score_2x1(like, x - q_stride, q_stride, at, later, out - y_stride, y_stride, steps)


@njit
def scores(like, q, q_stride, listed, ahead, y, y_stride, rows, panels, steps):
    """Scores of so many panels, rounded up to a multiple of PANELS: what the lists have."""
    for panel in range(0, panels, PANELS):
        at, later, target = listed + panel * 8, ahead + panel * 8, y + panel * LANES * 4
        if not _WIDE and rows > 1:
            for i in range(PANELS):
                of_panel = target + i * LANES * 4
                _scores_of_panel(like, q, q_stride, at + i * 8, later + i * 8, of_panel, y_stride, rows, steps)
            continue
        row = 0
        while rows - row >= 8:
            x, out = q + row * q_stride, target + row * y_stride
            _score_8x2(like, x, q_stride, at, later, out, y_stride, steps)
            _score_8x2(like, x, q_stride, at + 16, later + 16, out + 2 * LANES * 4, y_stride, steps)
            row += 8
            later = at  # asked for
        x, out = q + row * q_stride, target + row * y_stride
        if rows - row >= 4:
            _score_4x4(like, x, q_stride, at, later, out, y_stride, steps)
            x, out, row, later = x + 4 * q_stride, out + 4 * y_stride, row + 4, at
        if rows - row == 3:
            _score_3x4(like, x, q_stride, at, later, out, y_stride, steps)
        elif rows - row == 2:
            _score_2x4(like, x, q_stride, at, later, out, y_stride, steps)
        elif rows - row == 1:
            _score_1x4(like, x, q_stride, at, later, out, y_stride, steps)


@njit
def _values_of_rows(like, p, p_stride, listed, ahead, v_stride, y, y_stride, rows, panels, pages, steps):
    """Up to 4 rows of the result."""
    panel = 0
    while panels - panel >= 4 and (_WIDE or rows == 1):
        first, out = panel * v_stride, y + panel * LANES * 4
        if rows == 4:
            _value_4x4(like, p, p_stride, listed, ahead, first, v_stride, out, y_stride, pages, steps)
        elif rows == 3:
            _value_3x4(like, p, p_stride, listed, ahead, first, v_stride, out, y_stride, pages, steps)
        elif rows == 2:
            _value_2x4(like, p, p_stride, listed, ahead, first, v_stride, out, y_stride, pages, steps)
        elif rows == 1:
            _value_1x4(like, p, p_stride, listed, ahead, first, v_stride, out, y_stride, pages, steps)
        panel += 4
    while panel < panels:
        first, out = panel * v_stride, y + panel * LANES * 4
        if rows == 4:
            _value_4x1(like, p, p_stride, listed, ahead, first, v_stride, out, y_stride, pages, steps)
        elif rows == 3:
            _value_3x1(like, p, p_stride, listed, ahead, first, v_stride, out, y_stride, pages, steps)
        elif rows == 2:
            _value_2x1(like, p, p_stride, listed, ahead, first, v_stride, out, y_stride, pages, steps)
        elif rows == 1:
            _value_1x1(like, p, p_stride, listed, ahead, first, v_stride, out, y_stride, pages, steps)
        panel += 1


@njit
def values(like, p, p_stride, listed, ahead, v_stride, y, y_stride, rows, panels, pages, steps):
    """The segment's result: ``panels`` of 16 dims, over the positions of its pages."""
    row = 0
    while _WIDE and rows - row >= 8:
        x, out = p + row * p_stride, y + row * y_stride
        panel = 0
        while panels - panel >= 2:
            target = out + panel * LANES * 4
            _value_8x2(like, x, p_stride, listed, ahead, panel * v_stride, v_stride, target, y_stride, pages, steps)
            panel += 2
        if panel < panels:
            target = out + panel * LANES * 4
            _value_8x1(like, x, p_stride, listed, ahead, panel * v_stride, v_stride, target, y_stride, pages, steps)
        row += 8
        ahead = listed  # asked for
    for tail in range(row, rows, 4):
        _values_of_rows(
            like, p + tail * p_stride, p_stride, listed, ahead, v_stride, y + tail * y_stride, y_stride,
            min(rows - tail, 4), panels, pages, steps,
        )  # fmt: skip
        ahead = listed
