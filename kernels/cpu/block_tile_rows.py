"""Any number of rows times panels of block-quantised weights, put together from tiles that fit the registers.

As tile_rows.py, for block_tile.py's tiles. Each is compiled by itself and called by its address, once for all rows that
it takes: what is here is compiled once, whatever the form of the weights, and no tile is once more as part of each
function above it.
"""

from functools import cache

import numpy as np
import torch
from numba import njit, types

from .block_form import BlockForm
from .block_record import widen_record
from .block_tile import make_block_tile
from .features import SET
from .int8_tile import make_int8_tile, widen_to_bytes
from .llvm import LANES
from .machine import array_at, call_tile, call_widen, prefetch
from .op_graph import by_address

_MANY_ROWS = 16
_MOST_PANELS, _MOST_ROWS = 6, 8  # of a tile


@by_address(11)
def _int8_tile(form, rows, panels, widened):
    tile = make_int8_tile(rows, panels, widened)

    def function(times, x, x_stride, s, s_stride, w, w_stride, y, y_stride, records, next_w):
        for time in range(times):
            row = time * rows
            tile(form, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, records, next_w)

    return function


@by_address(11)
def _tile(x_type, form, rows, panels, widened):
    tile = make_block_tile(rows, panels, widened)

    def function(times, x, x_stride, s, s_stride, w, w_stride, y, y_stride, records, next_w):
        x_like = array_at(x, 1, x_type)
        for time in range(times):
            row = time * rows
            tile(form, x_like, x + row * x_stride, x_stride, s + row * s_stride, s_stride, w, w_stride,
                 y + row * y_stride, y_stride, records, next_w)  # fmt: skip

    return function


@by_address(2)
def _widen(form, to_bytes):
    widen = widen_to_bytes if to_bytes else widen_record

    def function(record, target):
        widen(form, record, target)

    return function


@cache
def block_tiles(x_type: torch.dtype, form: BlockForm) -> torch.Tensor:
    """The addresses of a form's tiles, 0 where there is none: int64 [widened or not, panels, rows].

    At [1, 0, 0] is that of the function that widens a record, at [1, 0, 1] the number of rows it is worth that for; the
    largest number if it never is. ``x_type``: int8 for what ``round_rows`` makes.
    """
    tiles = torch.zeros(2, _MOST_PANELS + 1, _MOST_ROWS + 1, dtype=torch.int64)
    tiles[1, 0, 1] = torch.iinfo(torch.int64).max
    is_int8 = x_type == torch.int8
    for widened, by_panels in enumerate(SET.tiles.int8 if is_int8 else SET.tiles.blocks):
        for panels, heights in by_panels.items():
            for rows in heights:
                shape = rows, panels, bool(widened)
                tiles[widened, panels, rows] = _int8_tile(form, *shape) if is_int8 else _tile(x_type, form, *shape)
        if widened and by_panels:
            tiles[1, 0, 0], tiles[1, 0, 1] = _widen(form, is_int8), _MANY_ROWS
    return tiles


@njit
def _tallest_first(tiles, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, records, next_w):
    """``tiles``: of these panels, by their rows. Of widened records, ``records`` is the record's number."""
    row = 0
    for height in range(_MOST_ROWS, 0, -1):
        times = (rows - row) // height
        if tiles[height] != 0 and times > 0:
            call_tile(tiles[height], times, x + row * x_stride, x_stride, s + row * s_stride, s_stride, w, w_stride,
                      y + row * y_stride, y_stride, records, next_w)  # fmt: skip
            row += times * height


@njit
def _widen_and_cover(
    tiles, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, panels, records, widened, record_bytes,
    widened_bytes, next_w,
):  # fmt: skip
    """Many rows: codes are widened once for all of them, into the first-level cache; the next are fetched meanwhile."""
    for row in range(rows):
        array_at(y + row * y_stride, panels * LANES, types.float32)[:] = np.float32(0.0)
    for record in range(records):
        for panel in range(panels):
            call_widen(tiles[0, 0], w + panel * w_stride + record * record_bytes, widened + panel * widened_bytes)
        ahead = w + (record + 1) * record_bytes if record + 1 < records else next_w
        for panel in range(panels):
            prefetch(ahead + panel * w_stride, record_bytes)
        _tallest_first(tiles[panels], x, x_stride, s, s_stride, widened, widened_bytes, y, y_stride, rows, record,
                       next_w)  # fmt: skip


@njit
def _in_wide_tiles(
    tiles, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, panels, records, widened, record_bytes,
    widened_bytes, next_w,
):  # fmt: skip
    if panels == 3:
        if rows >= tiles[1, 0, 1]:
            _widen_and_cover(tiles[1], x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, panels, records,
                             widened, record_bytes, widened_bytes, next_w)  # fmt: skip
        else:
            _tallest_first(tiles[0, 3], x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, records, next_w)
        return
    four = rows // 4 * 4  # fewer than 8 rows
    if four > 0:
        for half in range(2):
            w_half, y_half = w + 3 * half * w_stride, y + 3 * half * LANES * 4
            _tallest_first(tiles[0, 3], x, x_stride, s, s_stride, w_half, w_stride, y_half, y_stride, four, records,
                           next_w + 3 * half * w_stride)  # fmt: skip
    if four < rows:
        x, s, y = x + four * x_stride, s + four * s_stride, y + four * y_stride
        _tallest_first(tiles[0, 6], x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows - four, records, next_w)


@njit
def _in_narrow_tiles(
    tiles, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, panels, records, widened, record_bytes,
    widened_bytes, next_w,
):  # fmt: skip
    """Up to 15 rows, codes are widened again for every 4: while these are multiplied, there are units free to do it."""
    panel = 0
    while rows == 1 and panels - panel >= 2:
        w_panels, y_panels = w + panel * w_stride, y + panel * LANES * 4
        ahead = w_panels + 2 * w_stride if panel + 2 < panels else next_w
        _tallest_first(tiles[0, 2], x, x_stride, s, s_stride, w_panels, w_stride, y_panels, y_stride, rows, records,
                       ahead)  # fmt: skip
        panel += 2
    while panel < panels:
        w_panel, y_panel = w + panel * w_stride, y + panel * LANES * 4
        ahead = w_panel + w_stride if panel + 1 < panels else next_w
        if rows >= tiles[1, 0, 1]:
            _widen_and_cover(tiles[1], x, x_stride, s, s_stride, w_panel, w_stride, y_panel, y_stride, rows, 1, records,
                             widened, record_bytes, widened_bytes, ahead)  # fmt: skip
        else:
            _tallest_first(tiles[0, 1], x, x_stride, s, s_stride, w_panel, 0, y_panel, y_stride, rows, records, ahead)
        panel += 1


_cover = _in_wide_tiles if SET.tiles.wide else _in_narrow_tiles


@njit
def cover_blocks(
    tiles, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, panels, records, widened, record_bytes,
    widened_bytes, next_w,
):  # fmt: skip
    """``rows`` (any number) times 3 or 6 panels.

    Its arguments: the address of ``block_tiles``; addresses and strides in bytes of rows, sums of their units, panels
    and y; the number of rows, of panels, of records; room for three panels' widened records; the size of a record, of a
    widened one; panels that are likely this thread's next.
    """
    table = array_at(tiles, (2, _MOST_PANELS + 1, _MOST_ROWS + 1), types.int64)
    _cover(table, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, panels, records, widened, record_bytes,
           widened_bytes, next_w)  # fmt: skip
