"""Any number of rows times panels of block-quantised weights, put together from tiles that fit the registers.

As tile_rows.py, for block_tile.py's tiles.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit, types

from .block_record import widen_record
from .block_tile import make_block_tile
from .features import HAS_32_REGISTERS, HAS_BF16_DOT
from .llvm import LANES
from .machine import array_at, prefetch
from .named import njit_of

_MANY_ROWS = 16


def _rows_of(panels: int, heights: Sequence[int], widened: bool = False):
    """Any number of rows times so many panels, by tiles of so many rows, from the tallest to 1.

    Its last arguments are the number of records; of widened ones, the record's; and the panels that are likely next.
    """
    height, *lower = heights
    tile = make_block_tile(height, panels, widened)
    if not lower:
        assert height == 1

        @njit_of(panels, heights, widened)
        def each_row(form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, records, next_w):
            for row in range(rows):
                tile(form, x_like, x + row * x_stride, x_stride, s + row * s_stride, s_stride, w, w_stride,
                     y + row * y_stride, y_stride, records, next_w)  # fmt: skip

        return each_row
    rest = _rows_of(panels, lower, widened)

    @njit_of(panels, heights, widened)
    def tallest_first(form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, records, next_w):
        row = 0
        while rows - row >= height:
            tile(form, x_like, x + row * x_stride, x_stride, s + row * s_stride, s_stride, w, w_stride,
                 y + row * y_stride, y_stride, records, next_w)  # fmt: skip
            row += height
        if row < rows:
            x, s, y = x + row * x_stride, s + row * s_stride, y + row * y_stride
            rest(form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows - row, records, next_w)

    return tallest_first


def _make_widened(panels: int):
    """Many rows: codes are widened once for all of them, into the first-level cache; the next are fetched meanwhile."""
    # 4 rows: of three panels and 32 registers, sums of a group and of all groups are in registers.
    cover = _rows_of(panels, (4, 1), widened=True)

    @njit_of(panels)
    def widen_and_cover(
        form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, records, widened, record_bytes,
        widened_bytes, next_w,
    ):  # fmt: skip
        for row in range(rows):
            array_at(y + row * y_stride, panels * LANES, types.float32)[:] = np.float32(0.0)
        for record in range(records):
            for panel in range(panels):
                widen_record(form, w + panel * w_stride + record * record_bytes, widened + panel * widened_bytes)
            ahead = w + (record + 1) * record_bytes if record + 1 < records else next_w
            for panel in range(panels):
                prefetch(ahead + panel * w_stride, record_bytes)
            cover(form, x_like, x, x_stride, s, s_stride, widened, widened_bytes, y, y_stride, rows, record, next_w)

    return widen_and_cover


_three, _two, _one = _rows_of(3, (8, 4, 1)), _rows_of(2, (1,)), _rows_of(1, (4, 3, 2, 1))
_four_rows_of_three, _six = _rows_of(3, (4, 1)), _rows_of(6, (2, 1))
_widened_three, _widened_one = _make_widened(3), _make_widened(1)


@njit
def _in_32_registers(
    form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, panels, records, widened, record_bytes,
    widened_bytes, next_w,
):  # fmt: skip
    if panels == 3:
        if HAS_BF16_DOT and rows >= _MANY_ROWS:
            _widened_three(
                form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, records, widened, record_bytes,
                widened_bytes, next_w,
            )  # fmt: skip
        else:
            _three(form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, records, next_w)
        return
    four = rows // 4 * 4  # fewer than 8 rows
    if four > 0:
        for half in range(2):
            w_half, y_half = w + 3 * half * w_stride, y + 3 * half * LANES * 4
            _four_rows_of_three(form, x_like, x, x_stride, s, s_stride, w_half, w_stride, y_half, y_stride, four,
                                records, next_w + 3 * half * w_stride)  # fmt: skip
    if four < rows:
        x, s, y = x + four * x_stride, s + four * s_stride, y + four * y_stride
        _six(form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows - four, records, next_w)


@njit
def _in_16_registers(
    form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, panels, records, widened, record_bytes,
    widened_bytes, next_w,
):  # fmt: skip
    """Up to 15 rows, codes are widened again for every 4: while these are multiplied, there are units free to do it."""
    panel = 0
    while rows == 1 and panels - panel >= 2:
        w_panels, y_panels = w + panel * w_stride, y + panel * LANES * 4
        ahead = w_panels + 2 * w_stride if panel + 2 < panels else next_w
        _two(form, x_like, x, x_stride, s, s_stride, w_panels, w_stride, y_panels, y_stride, rows, records, ahead)
        panel += 2
    while panel < panels:
        w_panel, y_panel = w + panel * w_stride, y + panel * LANES * 4
        ahead = w_panel + w_stride if panel + 1 < panels else next_w
        if rows >= _MANY_ROWS:
            _widened_one(
                form, x_like, x, x_stride, s, s_stride, w_panel, w_stride, y_panel, y_stride, rows, records, widened,
                record_bytes, widened_bytes, ahead,
            )  # fmt: skip
        else:
            _one(form, x_like, x, x_stride, s, s_stride, w_panel, 0, y_panel, y_stride, rows, records, ahead)
        panel += 1


cover_blocks = _in_32_registers if HAS_32_REGISTERS else _in_16_registers
"""Its arguments: a BlockForm and an array of the rows' type; addresses and strides in bytes of rows, sums of their
units, panels and y; the number of rows (any), of panels (3 or 6), of records; room for three panels' widened records;
the size of a record, of a widened one; panels that are likely this thread's next.
"""
