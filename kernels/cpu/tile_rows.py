"""Any number of rows times any number of panels, put together from tiles (tile.py) that fit the processor's registers.

A tile's sums must be enough to hide the latency of a multiply-add (4 to 6 cycles, two of them started in each), and few
enough for the registers beside weights and rows. A result does not depend on which tile it is computed by.
"""

from collections.abc import Sequence

from .features import SET
from .llvm import LANES
from .named import njit_of
from .tile import make_tile


def _rows_of(panels: int, heights: Sequence[int], accumulate: bool):
    """Any number of rows times so many panels, by tiles of so many rows, from the tallest to 1."""
    height, *lower = heights
    tile = make_tile(height, panels, accumulate)
    if not lower:
        assert height == 1

        @njit_of(panels, heights, accumulate)
        def each_row(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, rows, steps):
            for row in range(rows):
                tile(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)

        return each_row
    rest = _rows_of(panels, lower, accumulate)

    @njit_of(panels, heights, accumulate)
    def tallest_first(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, rows, steps):
        row = 0
        while rows - row >= height:
            tile(x_like, w_like, x + row * x_stride, x_stride, w, w_stride, y + row * y_stride, y_stride, steps)
            row += height
        if row < rows:
            x, y = x + row * x_stride, y + row * y_stride
            rest(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, rows - row, steps)

    return tallest_first


def _make_wide(accumulate: bool):
    # Fewer than 8 rows: memory is the limit, and panels in order are what the core fetches ahead by itself.
    six, three, one = (
        _rows_of(panels, heights, accumulate)
        for panels, heights in ((6, (4, 2, 1)), (3, (8, 4, 2, 1)), (1, (8, 4, 2, 1)))
    )
    tile_ahead_3, tile_ahead_1 = (make_tile(8, 3, accumulate, ahead=panels) for panels in (3, 1))

    @njit_of(accumulate)
    def three_ahead(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, rows, steps, next_w):
        """``next_w`` is fetched meanwhile, in one pass of 8 rows or in three."""
        row = 0
        if rows >= 24:
            while row < 24:
                x_rows, y_rows, ahead = x + row * x_stride, y + row * y_stride, next_w + row // 8 * w_stride
                tile_ahead_1(x_like, w_like, x_rows, x_stride, w, w_stride, y_rows, y_stride, steps, ahead, 0)
                row += 8
        elif rows >= 8:
            tile_ahead_3(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, steps, next_w, w_stride)
            row = 8
        if row < rows:
            x, y = x + row * x_stride, y + row * y_stride
            three(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, rows - row, steps)

    @njit_of(accumulate)
    def cover(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, rows, panels, steps, next_w):
        panel = 0
        while rows < 8 and panels - panel >= 6:
            w_panels, y_panels = w + panel * w_stride, y + panel * LANES * 4
            six(x_like, w_like, x, x_stride, w_panels, w_stride, y_panels, y_stride, rows, steps)
            panel += 6
        while panels - panel >= 3:
            w_panels, y_panels, ahead = w + panel * w_stride, y + panel * LANES * 4, next_w + panel * w_stride
            three_ahead(x_like, w_like, x, x_stride, w_panels, w_stride, y_panels, y_stride, rows, steps, ahead)
            panel += 3
        while panel < panels:
            w_panel, y_panel = w + panel * w_stride, y + panel * LANES * 4
            one(x_like, w_like, x, x_stride, w_panel, 0, y_panel, y_stride, rows, steps)
            panel += 1

    return cover


def _make_narrow(accumulate: bool):
    tile_4x1, tile_1x3 = make_tile(4, 1, accumulate), make_tile(1, 3, accumulate)
    tile_4x1_ahead = make_tile(4, 1, accumulate, ahead=1)
    fewer_than_4 = _rows_of(1, (3, 2, 1), accumulate)

    @njit_of(accumulate)
    def cover(x_like, w_like, x, x_stride, w, w_stride, y, y_stride, rows, panels, steps, next_w):
        """4 rows stay in the first-level cache while all panels pass; those are read again from the second."""
        row = 0
        while rows - row >= 4:
            x_rows, y_rows = x + row * x_stride, y + row * y_stride
            for panel in range(panels):
                w_panel, y_panel = w + panel * w_stride, y_rows + panel * LANES * 4
                if row == 0:
                    ahead = next_w + panel * w_stride
                    tile_4x1_ahead(x_like, w_like, x_rows, x_stride, w_panel, 0, y_panel, y_stride, steps, ahead, 0)
                else:
                    tile_4x1(x_like, w_like, x_rows, x_stride, w_panel, 0, y_panel, y_stride, steps)
            row += 4
        x_rows, y_rows, panel = x + row * x_stride, y + row * y_stride, 0
        while rows - row == 1 and panels - panel >= 3:
            w_panels, y_panels = w + panel * w_stride, y_rows + panel * LANES * 4
            tile_1x3(x_like, w_like, x_rows, x_stride, w_panels, w_stride, y_panels, y_stride, steps)
            panel += 3
        while row < rows and panel < panels:
            w_panel, y_panel = w + panel * w_stride, y_rows + panel * LANES * 4
            fewer_than_4(x_like, w_like, x_rows, x_stride, w_panel, 0, y_panel, y_stride, rows - row, steps)
            panel += 1

    return cover


def make_cover(accumulate: bool = False):
    """An ``@njit`` function; ``accumulate`` adds to y.

    Its arguments: arrays of the rows' and the weight's type; addresses and strides in bytes of rows, panels and y; the
    number of rows, of panels, of steps along k; panels that are likely this thread's next, fetched with many rows.
    """
    return (_make_wide if SET.tiles.wide else _make_narrow)(accumulate)
