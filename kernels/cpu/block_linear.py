"""Linear layers with block-quantised weights (kernels/block_weight.py): packed once, read once per step."""

from collections.abc import Sequence
from functools import cache

import torch
from numba import njit, types

from ..block_weight import BlockSource
from . import amx
from .amx_blocks import MOST_SPREAD, SHORT, SPREAD, SPREAD_BYTES, amx_panel, spread_rows
from .block_embed import EMBED, embed_blocks
from .block_form import CHUNK, BlockForm
from .block_pack import MOST_CHUNKS, form_of, pack
from .block_rows import prepare_rows, take_columns
from .block_tile import make_block_tile
from .block_tile_rows import block_tiles, cover_blocks
from .int8_rows import round_rows
from .llvm import LANES
from .machine import aligned_empty, array_at, copy_values
from .op_graph import empty, is_recording, run, struct_dtype, work_item
from .thread_pool import thread_pool

_ROWS = 64  # of a work item
_PANELS = 3  # that a work item covers; with few rows two items' worth
_FEW_ROWS = 8

# Of the form that needs most: three panels' records, or one's and its sums.
_WIDENED_BYTES = 3 * (MOST_CHUNKS * CHUNK * LANES * 2 + MOST_CHUNKS * 2 * 2 * LANES * 4)

_amx_order_2x3, _amx_order_1x3, _amx_order_1x1 = (
    make_block_tile(*shape, amx_order=True) for shape in [(2, 3), (1, 3), (1, 1)]
)

_ARGUMENTS = struct_dtype(
    x=int, s=int, w=int, y=int, bias=int, scratch=int, out=int, records=int, x_stride=int, s_stride=int, w_stride=int,
    y_stride=int, widened=int, spread=int, threads=int, tiles=int, record_bytes=int, widened_bytes=int,
)  # fmt: skip


@njit(error_model="numpy")
def _add(y, bias):
    for i in range(y.shape[0]):
        y[i] += bias[i]


@work_item
def _block_linear():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        blocks = (rows + _ROWS - 1) // _ROWS
        first, row, panels = item // blocks * _PANELS, item % blocks * _ROWS, _PANELS
        if rows < _FEW_ROWS:
            if item % 2 == 1:
                return
            panels = 2 * _PANELS
        count = min(_ROWS, rows - row)
        x, s, w = a.x + row * a.x_stride, a.s + row * a.s_stride, a.w + first * a.w_stride
        begin = first * LANES
        end = min(begin + panels * LANES, a.out)
        y, y_stride = a.y + row * a.y_stride + begin * 4, a.y_stride
        whole = begin + panels * LANES <= a.out
        if panels == 2 * _PANELS and not whole and a.out - begin <= _PANELS * LANES:
            panels = _PANELS  # no more are there
            whole = begin + panels * LANES <= a.out
        if not whole:  # the tile writes whole panels
            y, y_stride = a.scratch + thread * _ROWS * 2 * _PANELS * LANES * 4, 2 * _PANELS * LANES * 4
        ahead = first + panels * a.threads  # threads take turns, nearly always
        next_w = a.w + ahead * a.w_stride if (ahead + panels) * LANES <= a.out else w
        cover_blocks(
            a.tiles, x, a.x_stride, s, a.s_stride, w, a.w_stride, y, y_stride, count, panels, a.records,
            a.widened + thread * _WIDENED_BYTES, a.record_bytes, a.widened_bytes, next_w,
        )  # fmt: skip
        width = end - begin
        for done in range(count):
            target = array_at(a.y + (row + done) * a.y_stride + begin * 4, width, types.float32)
            if not whole:
                copy_values(target, array_at(y + done * y_stride, width, types.float32))
            if a.bias:
                _add(target, array_at(a.bias + begin * 4, width, types.float32))

    return kernel


@njit
def _few_rows_amx(form, x, x_stride, s, s_stride, w, w_stride, y, y_stride, rows, panels, records):
    x_like = array_at(x, 1, types.uint16)
    if panels == 3 and rows == 1:
        _amx_order_1x3(form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, records, w)
    elif panels == 3:
        _amx_order_2x3(form, x_like, x, x_stride, s, s_stride, w, w_stride, y, y_stride, records, w)
    else:
        for panel in range(panels):
            for row in range(rows):
                _amx_order_1x1(form, x_like, x + row * x_stride, x_stride, s + row * s_stride, s_stride,
                               w + panel * w_stride, w_stride, y + row * y_stride + panel * LANES * 4, y_stride,
                               records, w)  # fmt: skip


@work_item
def _block_linear_amx(form):
    unit, units, chunks = form.unit, form.units, form.chunks
    record_bytes, widened_bytes = form.record_bytes, form.widened_bytes

    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        blocks = (rows + _ROWS - 1) // _ROWS
        panel, row = item // blocks, item % blocks * _ROWS
        count, panels = min(_ROWS, rows - row), 1
        if rows <= amx.FEW_ROWS:
            if item % _PANELS != 0:
                return
            panels = min(_PANELS, (a.out + LANES - 1) // LANES - panel)
        column = panel * LANES
        width = min(panels * LANES, a.out - column)
        y, y_stride = a.y + row * a.y_stride + column * 4, a.y_stride
        whole = width % LANES == 0
        if not whole:  # whole registers are written
            y, y_stride = a.scratch + thread * _ROWS * 2 * _PANELS * LANES * 4, 2 * _PANELS * LANES * 4
        x, s, w = a.x + row * a.x_stride, a.s + row * a.s_stride, a.w + panel * a.w_stride
        amx.flush_subnormals(True)
        if rows > amx.FEW_ROWS:
            spread = a.spread if rows <= MOST_SPREAD else 0
            amx.configure(amx.ROWS if spread else count, CHUNK if spread else unit, SHORT)
            amx_panel(
                form, unit, units, chunks, record_bytes, widened_bytes, spread, x, a.x_stride, s, a.s_stride, w, y,
                y_stride, count, a.records, a.widened + thread * _WIDENED_BYTES,
            )  # fmt: skip
            amx.release()
        else:
            _few_rows_amx(form, x, a.x_stride, s, a.s_stride, w, a.w_stride, y, y_stride, rows, panels, a.records)
        amx.flush_subnormals(False)
        for done in range(count):
            target = array_at(a.y + (row + done) * a.y_stride + column * 4, width, types.float32)
            if not whole:
                copy_values(target, array_at(y + done * y_stride, width, types.float32))
            if a.bias:
                _add(target, array_at(a.bias + column * 4, width, types.float32))

    return kernel


class _Panels:
    """Weights of one form, packed, that follow each other in a linear; see BlockLinear."""

    def __init__(
        self, parts: Sequence[BlockSource], form: BlockForm, order: torch.Tensor | None, rounds_rows: bool
    ) -> None:
        self.form, self._order = form, order
        self._rounds_rows = rounds_rows and form.takes_int8
        self.outputs = sum(part.shape[0] for part in parts)
        self.inner = parts[0].shape[1]
        self.packed = pack(parts, form, _PANELS)

    def write(self, x: torch.Tensor, y: torch.Tensor, column: int, bias: torch.Tensor | None) -> None:
        """The product into the columns of ``y`` [rows, any] that begin with ``column``."""
        form, inner, rows = self.form, self.inner, x.shape[0]
        if self._order is not None:
            x = take_columns(x, self._order)
        rows_dtype, sums = x.dtype, None
        if self._rounds_rows:
            x, rows_dtype = round_rows(x, form), torch.int8
        else:
            x, sums = prepare_rows(x, form)
            rows_dtype = x.dtype
        records, spread, uses_amx = inner // (form.chunks * CHUNK), None, amx.HAS_AMX and rows_dtype == torch.bfloat16
        if uses_amx and not is_recording():
            spread = empty((inner // CHUNK, SPREAD_BYTES), torch.uint8)
            run(spread_rows(form), SPREAD, {"x": x, "spread": spread, "inner": inner}, rows, fixed=records)
        arguments = {
            "x": x, "s": sums, "w": self.packed, "y": y[:, column:],
            "bias": None if bias is None else bias[column:], "scratch": _scratch(), "widened": _widened(),
            "out": self.outputs, "threads": thread_pool().threads,
            "records": records, "spread": spread, "x_stride": x.shape[1] * x.itemsize,
            "s_stride": inner // form.unit * 4, "w_stride": self.packed.shape[1], "y_stride": y.shape[1] * 4,
            "record_bytes": form.record_bytes, "widened_bytes": form.widened_bytes,
        }  # fmt: skip
        if uses_amx:
            panels = -(-self.outputs // LANES)
            run(_block_linear_amx(form), _ARGUMENTS, arguments, rows, per_rows=_ROWS, times=panels)
            return
        arguments["tiles"] = block_tiles(rows_dtype, form)
        run(_block_linear(), _ARGUMENTS, arguments, rows, per_rows=_ROWS, times=self.packed.shape[0] // _PANELS)


@cache
def _widened() -> torch.Tensor:
    return aligned_empty((thread_pool().threads, _WIDENED_BYTES), torch.uint8)


@cache
def _scratch() -> torch.Tensor:
    return aligned_empty((thread_pool().threads, _ROWS, 2 * _PANELS * LANES), torch.float32)


class BlockLinear:
    """Weights [out, in] that read the same rows, one after another, and bias [all outputs] or None.

    ``rounds_rows``: to int8, block by block (int8_rows.py), where the form has a kernel for that.
    """

    def __init__(
        self, parts: Sequence[BlockSource], bias: torch.Tensor | None = None, rounds_rows: bool = False
    ) -> None:
        self._outputs = sum(part.shape[0] for part in parts)
        self._bias = None if bias is None else bias.float().contiguous()
        samples = [part.take(slice(0, 1)) for part in parts]
        # Whole panels of one form and order become one phase.
        kinds = [
            (form_of(sample), None if sample.order is None else tuple(sample.order.tolist())) for sample in samples
        ]
        self._panels: list[_Panels] = []
        at = 0
        while at < len(parts):
            end = at + 1
            while end < len(parts) and kinds[end] == kinds[at] and parts[end - 1].shape[0] % LANES == 0:
                end += 1
            self._panels.append(_Panels(parts[at:end], kinds[at][0], samples[at].order, rounds_rows))
            at = end

    @property
    def nbytes(self) -> int:
        return sum(panels.packed.nbytes for panels in self._panels) + (0 if self._bias is None else self._bias.nbytes)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, in], bf16 or fp32 -> [rows, out] fp32."""
        y = empty((x.shape[0], self._outputs))
        column = 0
        for panels in self._panels:
            panels.write(x, y, column, self._bias)
            column += panels.outputs
        return y

    def embed(self, token_ids: torch.Tensor, scale: float) -> torch.Tensor:
        """Rows of the weight at ``token_ids`` (int64 [rows]), times ``scale``: [rows, in] fp32."""
        (panels,) = self._panels
        hidden = panels.inner
        x = empty((token_ids.shape[0], hidden))
        arguments = {
            "w": panels.packed, "token_ids": token_ids, "x": x, "hidden": hidden, "w_stride": panels.packed.shape[1],
            "scale": scale,
        }  # fmt: skip
        run(embed_blocks(panels.form), EMBED, arguments, token_ids.shape[0], per_rows=1)
        return x


def pack_blocks(
    parts: Sequence[BlockSource], bias: torch.Tensor | None, dtype: torch.dtype, device: torch.device
) -> BlockLinear:
    """Pack weights [out, in] that read the same rows, and a bias [all outputs]; all may be dropped afterwards.

    ``dtype``: int8, or any other for rows of bf16 and of fp32 alike.
    """
    del device
    return BlockLinear(parts, bias, rounds_rows=dtype == torch.int8)
