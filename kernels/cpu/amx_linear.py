"""Linear layers through the tile registers (amx.py), on weights as linear.py packs them.

A work item is one panel of 16 outputs and up to 64 rows: their sums stay in four registers over all of k, so weights
are read once for 64 rows. 8-bit weights are widened to bf16 some chunks of k at a time, in the first-level cache.
"""

from functools import cache

import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from . import amx
from .finish import finish
from .llvm import I64, LANES, SUMS, WORDS, Loop, load, number, prefetch
from .machine import aligned_empty, array_at, copy_values
from .op_graph import run, struct_dtype, work_item
from .thread_pool import thread_pool
from .tile_products import AMX_ORDER, PRODUCTS

CHUNK = 32  # values of k of one instruction
ROWS = amx.SUMS_TILES * amx.ROWS  # of a work item
_CHUNK_BYTES = CHUNK * LANES * 2
_WIDENED_CHUNKS = 8  # at a time
WIDENED_BYTES = _WIDENED_CHUNKS * _CHUNK_BYTES
_AHEAD = 4096  # bytes


def _make_span(blocks: int):
    """Adds the products of ``chunks`` chunks to the sums of so many blocks of rows. Addresses and strides in bytes."""

    @intrinsic
    def span(_context, x, x_stride, w, chunks):
        def codegen(context, builder, _signature, arguments):
            x, x_stride, w, chunks = arguments
            over = Loop(builder, chunks, "chunk")
            at = builder.add(w, builder.mul(over.index, number(_CHUNK_BYTES)))
            amx.load_tile(builder, amx.WEIGHTS, at, number(64))
            if blocks == 1:
                for line in range(0, _CHUNK_BYTES, 64):
                    prefetch(builder, builder.add(at, number(_AHEAD + line)))
            column = builder.add(x, builder.mul(over.index, number(CHUNK * 2)))
            for block in range(blocks):
                rows = builder.add(column, builder.mul(x_stride, number(block * amx.ROWS)))
                tile = amx.rows_tile(block, blocks)
                amx.load_tile(builder, tile, rows, x_stride)
                amx.multiply_add(builder, block, tile, amx.WEIGHTS)
            over.close()
            return context.get_dummy_value()

        return types.void(*[types.intp] * 4), codegen

    return span


def _make_edge(blocks: int, op):
    """``op(builder, register, address, stride)`` for the sums of each block of rows."""

    @intrinsic
    def edge(_context, y, y_stride):
        def codegen(context, builder, _signature, arguments):
            y, y_stride = arguments
            for block in range(blocks):
                op(builder, block, builder.add(y, builder.mul(y_stride, number(block * amx.ROWS))), y_stride)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp), codegen

    return edge


def _zero(builder, tile, _address, _stride):
    amx.zero(builder, tile)


_span_1, _span_2, _span_3, _span_4 = (_make_span(blocks) for blocks in (1, 2, 3, 4))
_store_1, _store_2, _store_3, _store_4 = (_make_edge(blocks, amx.store_tile) for blocks in (1, 2, 3, 4))
_begin = _make_edge(amx.SUMS_TILES, _zero)


@intrinsic
def _widen_chunks(_context, w_like, w, target, chunks):
    """8-bit weights of a panel as bf16, exactly."""
    products = PRODUCTS[types.uint16, w_like.dtype]

    def codegen(context, builder, _signature, arguments):
        _, w, target, chunks = arguments
        over = Loop(builder, builder.mul(chunks, number(CHUNK // 2)), "step")
        at = builder.add(w, builder.mul(over.index, number(products.w_step)))
        prefetch(builder, builder.add(at, number(_AHEAD)))
        values = load(builder, builder.inttoptr(at, products.w_type.as_pointer()), products.w_align)
        to = builder.inttoptr(builder.add(target, builder.mul(over.index, number(64))), WORDS.as_pointer())
        builder.store(products.prepare(builder, values), to).align = 64
        over.close()
        return context.get_dummy_value()

    return types.void(w_like, types.intp, types.intp, types.intp), codegen


def _make_few_tile(rows: int, panels: int):
    """One or two rows and 8-bit weights, in the registers' order of sums. Addresses and strides in bytes."""

    @intrinsic
    def tile(_context, w_like, x, x_stride, w, w_stride, y, y_stride, chunks):
        products = AMX_ORDER[w_like.dtype]

        def codegen(context, builder, _signature, arguments):
            _, x, x_stride, w, w_stride, y, y_stride, chunks = arguments
            zeros = ir.Constant(SUMS, [0.0] * LANES)

            def pointer(base, stride, index, kind):
                return builder.inttoptr(builder.add(base, builder.mul(stride, number(index))), kind.as_pointer())

            with builder.goto_entry_block():
                totals = [[builder.alloca(SUMS) for _ in range(panels)] for _ in range(rows)]
            for total in (total for row in totals for total in row):
                builder.store(zeros, total)
            over = Loop(builder, chunks, "chunk")
            first = builder.mul(over.index, number(CHUNK // 2))
            sums = [[[zeros, zeros] for _ in range(panels)] for _ in range(rows)]
            for step in range(CHUNK // 2):
                k = builder.add(first, number(step))
                for p in range(panels):
                    at = builder.gep(pointer(w, w_stride, p, products.w_type), [k])
                    if step % 2 == 0:  # one line is two steps
                        prefetch(builder, builder.add(builder.ptrtoint(at, I64), number(_AHEAD)))
                    weights = products.prepare(builder, load(builder, at, products.w_align))
                    for m in range(rows):
                        values = products.load_x(builder, pointer(x, x_stride, m, products.x_type), k)
                        sums[m][p] = products.multiply_add(builder, sums[m][p], values, weights)
            for m in range(rows):
                for p in range(panels):
                    total = builder.fadd(load(builder, totals[m][p], 64), builder.fadd(*sums[m][p]))
                    builder.store(total, totals[m][p])
            over.close()
            for m in range(rows):
                for p in range(panels):
                    target = builder.gep(pointer(y, y_stride, m, SUMS), [number(p)])
                    builder.store(load(builder, totals[m][p], 64), target).align = 4
            return context.get_dummy_value()

        return types.void(w_like, *[types.intp] * 7), codegen

    return tile


_few_1, _few_2 = _make_few_tile(1, 1), _make_few_tile(2, 1)


@njit
def _span(blocks, x, x_stride, w, chunks):
    if blocks == 1:
        _span_1(x, x_stride, w, chunks)
    elif blocks == 2:
        _span_2(x, x_stride, w, chunks)
    elif blocks == 3:
        _span_3(x, x_stride, w, chunks)
    else:
        _span_4(x, x_stride, w, chunks)


@njit
def _store(blocks, y, y_stride):
    if blocks == 1:
        _store_1(y, y_stride)
    elif blocks == 2:
        _store_2(y, y_stride)
    elif blocks == 3:
        _store_3(y, y_stride)
    else:
        _store_4(y, y_stride)


_ARGUMENTS = struct_dtype(
    x=int, w=int, y=int, scale=int, bias=int, scratch=int, widened=int, out=int, chunks=int, x_stride=int, w_stride=int
)


@work_item
def amx_linear(w_type, finishes):
    wide = w_type == types.uint16

    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        groups = (rows + ROWS - 1) // ROWS
        panel, row = item // groups, item % groups * ROWS
        count = min(ROWS, rows - row)
        blocks = (count + amx.ROWS - 1) // amx.ROWS
        x, w = a.x + row * a.x_stride, a.w + panel * a.w_stride
        column = panel * LANES
        width = min(LANES, a.out - column)
        y, y_stride = a.y + (row * a.out + column) * 4, a.out * 4
        if width < LANES:  # whole registers are written
            y, y_stride = a.scratch + thread * ROWS * LANES * 4, LANES * 4
        amx.flush_subnormals(True)
        if wide or rows > amx.FEW_ROWS:
            amx.configure(count, CHUNK, 1 << (blocks - 1))
            _begin(y, y_stride)
            if wide:
                _span(blocks, x, a.x_stride, w, a.chunks)
            else:
                w_like, widened = array_at(w, 1, w_type), a.widened + thread * WIDENED_BYTES
                for chunk in range(0, a.chunks, _WIDENED_CHUNKS):
                    chunks = min(_WIDENED_CHUNKS, a.chunks - chunk)
                    _widen_chunks(w_like, w + chunk * CHUNK * LANES, widened, chunks)
                    _span(blocks, x + chunk * CHUNK * 2, a.x_stride, widened, chunks)
            _store(blocks, y, y_stride)
            amx.release()
        elif rows == 1:
            _few_1(array_at(w, 1, w_type), x, a.x_stride, w, a.w_stride, y, y_stride, a.chunks)
        else:
            _few_2(array_at(w, 1, w_type), x, a.x_stride, w, a.w_stride, y, y_stride, a.chunks)
        amx.flush_subnormals(False)
        if finishes or width < LANES:
            scale = array_at(a.scale + column * 4, width if a.scale else 0, types.float32)
            bias = array_at(a.bias + column * 4, width if a.bias else 0, types.float32)
            for done in range(count):
                target = array_at(a.y + ((row + done) * a.out + column) * 4, width, types.float32)
                if width < LANES:
                    copy_values(target, array_at(y + done * y_stride, width, types.float32))
                finish(target, scale, bias)

    return kernel


def write_product(
    x: torch.Tensor, panels: torch.Tensor, y: torch.Tensor, scale: torch.Tensor | None, bias: torch.Tensor | None
) -> None:
    """y [rows, out] = (x [rows, in] W^T) * scale + bias: bf16 rows; ``panels`` as linear.py has them; in % 32 == 0."""
    rows, inner = x.shape
    panel = panels[0]
    arguments = {
        "x": x, "w": panels, "y": y, "scale": scale, "bias": bias, "scratch": _scratch(), "widened": _widened(),
        "out": y.shape[1], "chunks": inner // CHUNK, "x_stride": inner * 2, "w_stride": panel.numel() * panel.itemsize,
    }  # fmt: skip
    kernel = amx_linear(panel.dtype, scale is not None or bias is not None)
    run(kernel, _ARGUMENTS, arguments, rows, per_rows=ROWS, times=panels.shape[0])


@cache
def _scratch() -> torch.Tensor:
    return aligned_empty((thread_pool().threads, ROWS, LANES), torch.float32)


@cache
def _widened() -> torch.Tensor:
    return aligned_empty((thread_pool().threads, WIDENED_BYTES), torch.uint8)
