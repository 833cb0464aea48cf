"""The two products of attention over one page, or two, by the register tile of tile.py: which tile for which rows."""

from numba import njit

from .tile import LANES, make_tile

# rows x panels accumulators: enough to hide the latency of a multiply-add, and few enough for 32 registers.
_score_8x2, _score_4x2, _score_3x2, _score_2x2, _score_1x2 = (make_tile(rows, 2) for rows in (8, 4, 3, 2, 1))
_score_8x1, _score_4x1, _score_3x1, _score_2x1, _score_1x1 = (make_tile(rows, 1) for rows in (8, 4, 3, 2, 1))
_value_8x2, _value_8x1 = (make_tile(8, panels, accumulate=True) for panels in (2, 1))
_value_4x4, _value_3x4, _value_2x4, _value_1x4 = (make_tile(rows, 4, accumulate=True) for rows in (4, 3, 2, 1))
_value_4x1, _value_3x1, _value_2x1, _value_1x1 = (make_tile(rows, 1, accumulate=True) for rows in (4, 3, 2, 1))


@njit
def scores_of_2(q, q_stride, k, k_stride, y, y_stride, rows, steps, like):
    """Scores of two panels of 16 positions that lie ``k_stride`` bytes apart."""
    row = 0
    while rows - row >= 8:
        _score_8x2(like, like, q + row * q_stride, q_stride, k, k_stride, y + row * y_stride, y_stride, steps)
        row += 8
    at, target = q + row * q_stride, y + row * y_stride
    if rows - row >= 4:
        _score_4x2(like, like, at, q_stride, k, k_stride, target, y_stride, steps)
        at, target, row = at + 4 * q_stride, target + 4 * y_stride, row + 4
    if rows - row == 3:
        _score_3x2(like, like, at, q_stride, k, k_stride, target, y_stride, steps)
    elif rows - row == 2:
        _score_2x2(like, like, at, q_stride, k, k_stride, target, y_stride, steps)
    elif rows - row == 1:
        _score_1x2(like, like, at, q_stride, k, k_stride, target, y_stride, steps)


@njit
def scores_of_1(q, q_stride, k, y, y_stride, rows, steps, like):
    row = 0
    while rows - row >= 8:
        _score_8x1(like, like, q + row * q_stride, q_stride, k, 0, y + row * y_stride, y_stride, steps)
        row += 8
    at, target = q + row * q_stride, y + row * y_stride
    if rows - row >= 4:
        _score_4x1(like, like, at, q_stride, k, 0, target, y_stride, steps)
        at, target, row = at + 4 * q_stride, target + 4 * y_stride, row + 4
    if rows - row == 3:
        _score_3x1(like, like, at, q_stride, k, 0, target, y_stride, steps)
    elif rows - row == 2:
        _score_2x1(like, like, at, q_stride, k, 0, target, y_stride, steps)
    elif rows - row == 1:
        _score_1x1(like, like, at, q_stride, k, 0, target, y_stride, steps)


@njit
def _values_of_rows(p, p_stride, v, v_stride, y, y_stride, rows, panels, steps, like):
    """A page's share of up to 4 rows of the result."""
    panel = 0
    while panels - panel >= 4:
        at, target = v + panel * v_stride, y + panel * LANES * 4
        if rows == 4:
            _value_4x4(like, like, p, p_stride, at, v_stride, target, y_stride, steps)
        elif rows == 3:
            _value_3x4(like, like, p, p_stride, at, v_stride, target, y_stride, steps)
        elif rows == 2:
            _value_2x4(like, like, p, p_stride, at, v_stride, target, y_stride, steps)
        elif rows == 1:
            _value_1x4(like, like, p, p_stride, at, v_stride, target, y_stride, steps)
        panel += 4
    while panel < panels:
        at, target = v + panel * v_stride, y + panel * LANES * 4
        if rows == 4:
            _value_4x1(like, like, p, p_stride, at, 0, target, y_stride, steps)
        elif rows == 3:
            _value_3x1(like, like, p, p_stride, at, 0, target, y_stride, steps)
        elif rows == 2:
            _value_2x1(like, like, p, p_stride, at, 0, target, y_stride, steps)
        elif rows == 1:
            _value_1x1(like, like, p, p_stride, at, 0, target, y_stride, steps)
        panel += 1


@njit
def values(p, p_stride, v, v_stride, y, y_stride, rows, panels, steps, like):
    """Add a page's share to the result."""
    row = 0
    while rows - row >= 8:
        at, target = p + row * p_stride, y + row * y_stride
        panel = 0
        while panels - panel >= 2:
            w = v + panel * v_stride
            _value_8x2(like, like, at, p_stride, w, v_stride, target + panel * LANES * 4, y_stride, steps)
            panel += 2
        if panel < panels:
            w = v + panel * v_stride
            _value_8x1(like, like, at, p_stride, w, 0, target + panel * LANES * 4, y_stride, steps)
        row += 8
    if rows - row >= 4:
        _values_of_rows(p + row * p_stride, p_stride, v, v_stride, y + row * y_stride, y_stride, 4, panels, steps, like)
        row += 4
    if row < rows:
        _values_of_rows(
            p + row * p_stride, p_stride, v, v_stride, y + row * y_stride, y_stride, rows - row, panels, steps, like
        )
