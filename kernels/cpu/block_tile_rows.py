"""Any number of rows times panels of block-quantised weights, put together from tiles that fit the registers.

As tile_rows.py, for block_tile.py's tiles.
"""

import numpy as np
from numba import njit, types

from .block_record import widen_record
from .block_tile import make_block_tile
from .features import HAS_32_REGISTERS, HAS_BF16_DOT
from .llvm import LANES
from .machine import array_at, prefetch

_MANY_ROWS = 16

_tile_8x3, _tile_4x3, _tile_1x3 = (make_block_tile(rows, 3) for rows in (8, 4, 1))
# 4 rows: sums of a group and of all groups are in registers.
_widened_4x3, _widened_1x3 = (make_block_tile(rows, 3, widened=True) for rows in (4, 1))
_tile_2x6, _tile_1x6 = (make_block_tile(rows, 6) for rows in (2, 1))
_tile_4x1, _tile_3x1, _tile_2x1, _tile_1x1 = (make_block_tile(rows, 1) for rows in (4, 3, 2, 1))
_tile_1x2 = make_block_tile(1, 2)
_widened_4x1, _widened_1x1 = (make_block_tile(rows, 1, widened=True) for rows in (4, 1))


@njit
def _three_panels(form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, records):
    row = 0
    while rows - row >= 8:
        _tile_8x3(form, x_like, x + row * x_stride, x_stride, s + row * s_stride, s_stride, w, w_stride,
                  y + row * y_stride, y_stride, records)  # fmt: skip
        row += 8
    if rows - row >= 4:
        _tile_4x3(form, x_like, x + row * x_stride, x_stride, s + row * s_stride, s_stride, w, w_stride,
                  y + row * y_stride, y_stride, records)  # fmt: skip
        row += 4
    while rows - row >= 1:
        _tile_1x3(form, x_like, x + row * x_stride, x_stride, s + row * s_stride, s_stride, w, w_stride,
                  y + row * y_stride, y_stride, records)  # fmt: skip
        row += 1


@njit
def _three_panels_widened(
    form,
    x_like,
    x,
    x_stride,
    s,
    s_stride,
    w,
    w_stride,
    y,
    y_stride,
    rows,
    records,
    widened,
    record_bytes,
    widened_bytes,
    next_w,
):
    """Many rows: codes are widened once for all of them, into the first-level cache; the next are fetched meanwhile."""
    for row in range(rows):
        array_at(y + row * y_stride, 3 * LANES, types.float32)[:] = np.float32(0.0)
    for record in range(records):
        for panel in range(3):
            widen_record(form, w + panel * w_stride + record * record_bytes, widened + panel * widened_bytes)
        ahead = w + (record + 1) * record_bytes if record + 1 < records else next_w
        for panel in range(3):
            prefetch(ahead + panel * w_stride, record_bytes)
        row = 0
        while rows - row >= 4:
            _widened_4x3(form, x_like, x + row * x_stride, x_stride, s + row * s_stride, s_stride, widened,
                         widened_bytes, y + row * y_stride, y_stride, record)  # fmt: skip
            row += 4
        while rows - row >= 1:
            _widened_1x3(form, x_like, x + row * x_stride, x_stride, s + row * s_stride, s_stride, widened,
                         widened_bytes, y + row * y_stride, y_stride, record)  # fmt: skip
            row += 1


@njit
def _six_panels(form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, records):
    row = 0
    while rows - row >= 4:
        for half in range(2):
            _tile_4x3(form, x_like, x + row * x_stride, x_stride, s + row * s_stride, s_stride,
                      w + 3 * half * w_stride, w_stride, y + row * y_stride + half * 3 * LANES * 4, y_stride,
                      records)  # fmt: skip
        row += 4
    if rows - row >= 2:
        _tile_2x6(form, x_like, x + row * x_stride, x_stride, s + row * s_stride, s_stride, w, w_stride,
                  y + row * y_stride, y_stride, records)  # fmt: skip
        row += 2
    if rows - row >= 1:
        _tile_1x6(form, x_like, x + row * x_stride, x_stride, s + row * s_stride, s_stride, w, w_stride,
                  y + row * y_stride, y_stride, records)  # fmt: skip


@njit
def _in_32_registers(
    form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, panels, records, widened, record_bytes,
    widened_bytes, next_w,
):  # fmt: skip
    if HAS_BF16_DOT and rows >= _MANY_ROWS and panels == 3:
        _three_panels_widened(
            form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, records, widened, record_bytes,
            widened_bytes, next_w,
        )  # fmt: skip
    elif panels == 3:
        _three_panels(form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, records)
    else:
        _six_panels(form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, records)


@njit
def _in_16_registers(
    form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, panels, records, widened, record_bytes,
    widened_bytes, next_w,
):  # fmt: skip
    """Up to 15 rows, codes are widened again for every 4: while these are multiplied, there are units free to do it."""
    if rows >= _MANY_ROWS:
        for panel in range(panels):
            w_panel, y_panel = w + panel * w_stride, y + panel * LANES * 4
            for row in range(rows):
                array_at(y_panel + row * y_stride, LANES, types.float32)[:] = np.float32(0.0)
            for record in range(records):
                widen_record(form, w_panel + record * record_bytes, widened)
                row = 0
                while rows - row >= 4:
                    _widened_4x1(form, x_like, x + row * x_stride, x_stride, s + row * s_stride, s_stride, widened, 0,
                                 y_panel + row * y_stride, y_stride, record)  # fmt: skip
                    row += 4
                while rows - row >= 1:
                    _widened_1x1(form, x_like, x + row * x_stride, x_stride, s + row * s_stride, s_stride, widened, 0,
                                 y_panel + row * y_stride, y_stride, record)  # fmt: skip
                    row += 1
        return
    if rows == 1 and panels % 2 == 0:
        for panel in range(0, panels, 2):
            w_panel, y_panel = w + panel * w_stride, y + panel * LANES * 4
            _tile_1x2(form, x_like, x, x_stride, s, s_stride, w_panel, w_stride, y_panel, y_stride, records)
        return
    for panel in range(panels):
        row, w_panel, y_panel = 0, w + panel * w_stride, y + panel * LANES * 4
        while rows - row >= 4:
            _tile_4x1(form, x_like, x + row * x_stride, x_stride, s + row * s_stride, s_stride, w_panel, 0,
                      y_panel + row * y_stride, y_stride, records)  # fmt: skip
            row += 4
        x_rows, s_rows, y_rows = x + row * x_stride, s + row * s_stride, y_panel + row * y_stride
        if rows - row == 3:
            _tile_3x1(form, x_like, x_rows, x_stride, s_rows, s_stride, w_panel, 0, y_rows, y_stride, records)
        elif rows - row == 2:
            _tile_2x1(form, x_like, x_rows, x_stride, s_rows, s_stride, w_panel, 0, y_rows, y_stride, records)
        elif rows - row == 1:
            _tile_1x1(form, x_like, x_rows, x_stride, s_rows, s_stride, w_panel, 0, y_rows, y_stride, records)


cover_blocks = _in_32_registers if HAS_32_REGISTERS else _in_16_registers
"""Its arguments: a BlockForm and an array of the rows' type; addresses and strides in bytes of rows, sums of their
units, panels and y; the number of rows (any), of panels (3 or 6), of records; room for three panels' widened records;
the size of a record, of a widened one; panels that are likely this thread's next.
"""
