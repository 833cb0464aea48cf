"""The kernel of linears with weights in 16 or 8 bits: y = scale * (x W^T) + b.

The inputs are divided into segments by the weight's shape alone (linear_tiles.py). A segment is summed from nothing, in
steps of k in order, and segments are added in order:

    y[row, out] = scale[out] * ((s_0 + s_1) + ...) + b[out]          s_i = sum over the k of segment i

by one program where rows are many, by a program for each segment where they are few: whoever comes last adds them. Both
give the same bits, as each product takes the same instruction with the same k, whatever the height of its tile.

The weight is the left operand, with the outputs as M: the rows of a decode step are the narrow side of the product, and
8-bit weights are widened in the registers that they are multiplied from.

Gate and up of an MLP may become act(gate) * up before they are written: a tile then has 8 outputs of the gate and the
same 8 of up in turn, which a thread's part of a product holds both of (of 8 rows' distance from each other).
"""

import triton
import triton.language as tl

from .activation import act_and_mul


@triton.jit
def segment_sum(
    x_ptrs,  # [BLOCK_ROWS, BLOCK_INPUTS], at k = 0
    weight_ptrs,  # [BLOCK_OUTPUTS, BLOCK_INPUTS], at k = 0
    row_mask,  # [BLOCK_ROWS]
    output_mask,  # [BLOCK_OUTPUTS]
    segment,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    SEGMENT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
):
    """fp32 [BLOCK_OUTPUTS, BLOCK_ROWS]."""
    cols = tl.arange(0, BLOCK_INPUTS)
    acc = tl.zeros([BLOCK_OUTPUTS, BLOCK_ROWS], tl.float32)
    for start in range(segment * SEGMENT, tl.minimum(segment * SEGMENT + SEGMENT, INPUTS), BLOCK_INPUTS):
        x_mask, weight_mask = row_mask[:, None], output_mask[:, None]
        if INPUTS % BLOCK_INPUTS:
            in_range = start + cols[None, :] < INPUTS
            x_mask, weight_mask = x_mask & in_range, weight_mask & in_range
        x = tl.load(x_ptrs + start, mask=x_mask, other=0.0)
        if OUTPUTS % BLOCK_OUTPUTS or INPUTS % BLOCK_INPUTS:
            weight = tl.load(weight_ptrs + start, mask=weight_mask, other=0.0)
        else:
            weight = tl.load(weight_ptrs + start)
        acc = tl.dot(weight.to(x.dtype), tl.trans(x), acc, input_precision="ieee")
    return acc


@triton.jit
def write_tile(
    acc,  # fp32 [BLOCK_OUTPUTS, BLOCK_ROWS]
    scale_ptr, bias_ptr, y_ptr, row, output, row_mask, output_mask,
    OUTPUTS: tl.constexpr, SCALED: tl.constexpr, BIAS: tl.constexpr,
    GATED: tl.constexpr = False, GELU: tl.constexpr = False, first_output=0,
):  # fmt: skip
    acc = finished(acc, scale_ptr, bias_ptr, output, output_mask, SCALED, BIAS)
    if GATED:
        write_gated_tile(acc.to(y_ptr.dtype.element_ty), y_ptr, row, first_output, row_mask, OUTPUTS, GELU)
    else:
        y_ptrs = y_ptr + row.to(tl.int64)[:, None] * OUTPUTS + output[None, :]
        y = tl.trans(acc.to(y_ptr.dtype.element_ty))
        tl.store(y_ptrs, y, mask=row_mask[:, None] & output_mask[None, :])


@triton.jit
def in_turn(output, WIDTH: tl.constexpr):
    """Which row of the weight an output of the tiles is, where 8 of the first half of each WIDTH and 8 of its second
    come in turn; half of WIDTH is a multiple of 8."""
    at = output % WIDTH
    return output - at + at // 16 * 8 + at % 8 + at // 8 % 2 * (WIDTH // 2)


@triton.jit
def halves(value):
    """[2 * n, rows] as they are after ``in_turn`` -> both halves' [n, rows]."""
    OUTPUTS: tl.constexpr = value.shape[0]
    ROWS: tl.constexpr = value.shape[1]
    first, second = tl.split(tl.permute(tl.reshape(value, [OUTPUTS // 16, 2, 8, ROWS]), [0, 2, 3, 1]))
    return tl.reshape(first, [OUTPUTS // 2, ROWS]), tl.reshape(second, [OUTPUTS // 2, ROWS])


@triton.jit
def finished(acc, scale_ptr, bias_ptr, output, output_mask, SCALED: tl.constexpr, BIAS: tl.constexpr):
    """Sums fp32 [outputs, rows], times their scale, and with their bias."""
    if SCALED:
        acc *= tl.load(scale_ptr + output, mask=output_mask, other=0.0)[:, None]
    if BIAS:
        acc += tl.load(bias_ptr + output, mask=output_mask, other=0.0).to(tl.float32)[:, None]
    return acc


@triton.jit
def write_gated_tile(
    value,  # [BLOCK_OUTPUTS, BLOCK_ROWS] as they would be written, gate and up in turn
    y_ptr,  # [rows, OUTPUTS / 2] out
    row, first_output, row_mask,
    OUTPUTS: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    gate, up = halves(value)
    y = tl.trans(act_and_mul(gate.to(tl.float32), up.to(tl.float32), GELU, 0.0, 0.0).to(value.dtype))
    output = first_output // 2 + tl.arange(0, value.shape[0] // 2)
    y_ptrs = y_ptr + row.to(tl.int64)[:, None] * (OUTPUTS // 2) + output[None, :]
    tl.store(y_ptrs, y, mask=row_mask[:, None] & (output[None, :] < OUTPUTS // 2))


@triton.jit
def place_of_tile(
    rows, OUTPUTS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr, GROUP: tl.constexpr
):
    """The rows [BLOCK_ROWS] of a program's tile, and its first output. GROUP: tiles of rows that pass over the outputs
    together."""
    OUTPUT_TILES: tl.constexpr = (OUTPUTS + BLOCK_OUTPUTS - 1) // BLOCK_OUTPUTS
    tile = tl.program_id(0)
    first_row_tile = tile // (GROUP * OUTPUT_TILES) * GROUP
    height = tl.minimum((rows + BLOCK_ROWS - 1) // BLOCK_ROWS - first_row_tile, GROUP)
    place = tile % (GROUP * OUTPUT_TILES)
    row = (first_row_tile + place % height) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    return row, place // height * BLOCK_OUTPUTS


@triton.jit
def tile_sums(
    x_ptr, weight_ptr, partial_ptr, arrived_ptr,
    row,  # int [BLOCK_ROWS]
    weight_row,  # int [BLOCK_OUTPUTS]
    row_mask, output_mask,
    OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
    SEGMENTS: tl.constexpr, SEGMENT: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr, BLOCK_INPUTS: tl.constexpr,
):  # fmt: skip
    """fp32 [BLOCK_OUTPUTS, BLOCK_ROWS], and whether they are whole: else another program has the rest, and goes on."""
    cols = tl.arange(0, BLOCK_INPUTS)
    x_ptrs = x_ptr + row.to(tl.int64)[:, None] * INPUTS + cols[None, :]
    weight_ptrs = weight_ptr + weight_row.to(tl.int64)[:, None] * INPUTS + cols[None, :]
    acc = segment_sum(
        x_ptrs, weight_ptrs, row_mask, output_mask, tl.program_id(1),
        OUTPUTS, INPUTS, SEGMENT, BLOCK_ROWS, BLOCK_OUTPUTS, BLOCK_INPUTS,
    )  # fmt: skip
    is_whole = tl.full((), 1, tl.int1)
    if SPLIT:
        SIZE: tl.constexpr = BLOCK_OUTPUTS * BLOCK_ROWS
        tile, tiles = tl.program_id(0), tl.num_programs(0)
        at = tl.arange(0, BLOCK_OUTPUTS)[:, None] * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[None, :]
        tl.store(partial_ptr + (tl.program_id(1) * tiles + tile) * SIZE + at, acc)
        tl.debug_barrier()  # all threads have written before one of them says so
        is_whole = tl.atomic_add(arrived_ptr + tile, 1, sem="acq_rel") == SEGMENTS - 1
        if is_whole:
            acc = tl.load(partial_ptr + tile * SIZE + at, cache_modifier=".cg")
            for segment in tl.static_range(1, SEGMENTS):
                acc += tl.load(partial_ptr + (segment * tiles + tile) * SIZE + at, cache_modifier=".cg")
            tl.store(arrived_ptr + tile, 0)
    else:
        for segment in range(1, SEGMENTS):
            acc += segment_sum(
                x_ptrs, weight_ptrs, row_mask, output_mask, segment,
                OUTPUTS, INPUTS, SEGMENT, BLOCK_ROWS, BLOCK_OUTPUTS, BLOCK_INPUTS,
            )  # fmt: skip
    return acc, is_whole


@triton.jit(do_not_specialize=["rows"])
def linear_kernel(
    x_ptr,  # [rows, INPUTS]
    weight_ptr,  # [OUTPUTS, INPUTS]
    scale_ptr,  # fp32 [OUTPUTS], read with SCALED
    bias_ptr,  # [OUTPUTS], read with BIAS
    y_ptr,  # [rows, OUTPUTS] out
    partial_ptr,  # fp32 [SEGMENTS, tiles, BLOCK_OUTPUTS, BLOCK_ROWS], used with SPLIT
    arrived_ptr,  # int32 [tiles], zeros before and after, used with SPLIT
    rows,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    SEGMENTS: tl.constexpr,
    SEGMENT: tl.constexpr,  # inputs of one, a multiple of BLOCK_INPUTS
    SPLIT: tl.constexpr,  # each segment has a program of its own: the second dim of the grid
    SCALED: tl.constexpr,
    BIAS: tl.constexpr,
    GATED: tl.constexpr,  # y [rows, OUTPUTS / 2] is act(gate) * up, the gate the first half of the outputs
    GELU: tl.constexpr,  # the activation is its tanh form; else SiLU
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
    GROUP: tl.constexpr,  # tiles of rows that pass over the outputs together
):
    row, first_output = place_of_tile(rows, OUTPUTS, BLOCK_ROWS, BLOCK_OUTPUTS, GROUP)
    output = first_output + tl.arange(0, BLOCK_OUTPUTS)
    row_mask, output_mask = row < rows, output < OUTPUTS
    if GATED:
        output = in_turn(output, OUTPUTS)
    acc, is_whole = tile_sums(
        x_ptr, weight_ptr, partial_ptr, arrived_ptr, row, output, row_mask, output_mask,
        OUTPUTS, INPUTS, SEGMENTS, SEGMENT, SPLIT, BLOCK_ROWS, BLOCK_OUTPUTS, BLOCK_INPUTS,
    )  # fmt: skip
    if is_whole:
        write_tile(
            acc, scale_ptr, bias_ptr, y_ptr, row, output, row_mask, output_mask,
            OUTPUTS, SCALED, BIAS, GATED, GELU, first_output,
        )  # fmt: skip
