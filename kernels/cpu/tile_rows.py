"""Any number of rows times some panels, put together from tiles (tile.py) that fit the processor's registers.

A tile's sums must be enough to hide the latency of a multiply-add (4 to 6 cycles, two of them started in each), and few
enough for the registers beside weights and rows. A result does not depend on which tile it is computed by.
"""

from numba import njit

from .features import HAS_32_REGISTERS
from .llvm import LANES
from .tile import make_tile

_tile_8x3, _tile_4x6, _tile_2x6, _tile_1x6 = (make_tile(*shape) for shape in [(8, 3), (4, 6), (2, 6), (1, 6)])
_tile_4x3, _tile_2x3, _tile_1x3 = (make_tile(rows, 3) for rows in (4, 2, 1))
_tile_8x3_ahead_3, _tile_8x3_ahead_1 = (make_tile(8, 3, ahead=panels) for panels in (3, 1))
_tile_8x1, _tile_4x1, _tile_3x1, _tile_2x1, _tile_1x1 = (make_tile(rows, 1) for rows in (8, 4, 3, 2, 1))
_tile_4x1_ahead = make_tile(4, 1, ahead=1)


@njit
def _six_panels(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, rows, steps):
    """Fewer than 8 rows: memory is the limit, and panels in order are what the core fetches ahead by itself."""
    row = 0
    if rows - row >= 4:
        _tile_4x6(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)
        row += 4
    if rows - row >= 2:
        _tile_2x6(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)
        row += 2
    if rows - row >= 1:
        _tile_1x6(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)


@njit
def _three_panels(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, rows, steps, next_w):
    """``next_w`` is fetched meanwhile, in one pass or in three."""
    row = 0
    while rows - row >= 8:
        x_rows, y_rows = x + row * x_stride, y + row * y_stride
        if rows < 24 and row == 0:
            _tile_8x3_ahead_3(x_like, w_like, x_rows, x_stride, w, w_stride, y_rows, y_stride, steps, next_w, w_stride)
        elif rows >= 24 and row < 24:
            ahead = next_w + row // 8 * w_stride
            _tile_8x3_ahead_1(x_like, w_like, x_rows, x_stride, w, w_stride, y_rows, y_stride, steps, ahead, 0)
        else:
            _tile_8x3(x_like, w_like, x_rows, x_stride, w, w_stride, y_rows, y_stride, steps)
        row += 8
    if rows - row >= 4:
        _tile_4x3(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)
        row += 4
    if rows - row >= 2:
        _tile_2x3(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)
        row += 2
    if rows - row >= 1:
        _tile_1x3(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)


@njit
def _one_panel(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, rows, steps):
    row = 0
    while rows - row >= 8:
        _tile_8x1(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)
        row += 8
    if rows - row >= 4:
        _tile_4x1(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)
        row += 4
    if rows - row >= 2:
        _tile_2x1(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)
        row += 2
    if rows - row >= 1:
        _tile_1x1(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)


@njit
def _in_32_registers(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, rows, panels, steps, next_w):
    if panels == 6:
        _six_panels(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, rows, steps)
    elif panels == 3:
        _three_panels(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, rows, steps, next_w)
    else:
        _one_panel(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, rows, steps)


@njit
def _in_16_registers(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, rows, panels, steps, next_w):
    """4 rows stay in the first-level cache while all panels pass; those are read again and again from the second."""
    row = 0
    while rows - row >= 4:
        x_rows, y_rows = x + row * x_stride, y + row * y_stride
        for panel in range(panels):
            w_panel, y_panel = w + panel * w_stride, y_rows + panel * LANES * 4
            if row == 0:
                ahead = next_w + panel * w_stride
                _tile_4x1_ahead(x_like, w_like, x_rows, x_stride, w_panel, 0, y_panel, y_stride, steps, ahead, 0)
            else:
                _tile_4x1(x_like, w_like, x_rows, x_stride, w_panel, 0, y_panel, y_stride, steps)
        row += 4
    x_rows, y_rows = x + row * x_stride, y + row * y_stride
    if rows - row == 1 and panels % 3 == 0:
        for panel in range(0, panels, 3):
            w_panel, y_panel = w + panel * w_stride, y_rows + panel * LANES * 4
            _tile_1x3(x_like, w_like, x_rows, x_stride, w_panel, w_stride, y_panel, y_stride, steps)
        return
    for panel in range(panels):
        w_panel, y_panel = w + panel * w_stride, y_rows + panel * LANES * 4
        if rows - row == 3:
            _tile_3x1(x_like, w_like, x_rows, x_stride, w_panel, 0, y_panel, y_stride, steps)
        elif rows - row == 2:
            _tile_2x1(x_like, w_like, x_rows, x_stride, w_panel, 0, y_panel, y_stride, steps)
        elif rows - row == 1:
            _tile_1x1(x_like, w_like, x_rows, x_stride, w_panel, 0, y_panel, y_stride, steps)


cover = _in_32_registers if HAS_32_REGISTERS else _in_16_registers
"""Its arguments: arrays of the rows' and the weight's type; addresses and strides in bytes of rows, panels and y; the
number of rows (any), of panels (1, 3 or 6), of steps along k; panels that are likely this thread's next, fetched with
many rows.
"""
