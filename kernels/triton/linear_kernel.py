"""The kernel of linears with weights in 16 or 8 bits: y = scale * (x W^T) + b.

The inputs are divided into segments by the weight's shape alone (linear_tiles.py). A segment is summed from nothing, in
steps of k in order, and segments are added in order:

    y[row, out] = scale[out] * ((s_0 + s_1) + ...) + b[out]          s_i = sum over the k of segment i

by one program where rows are many, by a program for each segment where they are few: whoever comes last adds them. Both
give the same bits, as each product takes the same instruction with the same k, whatever the height of its tile.

The weight is the left operand, with the outputs as M: the rows of a decode step are the narrow side of the product, and
8-bit weights are widened in the registers that they are multiplied from.
"""

import triton
import triton.language as tl


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
):  # fmt: skip
    if SCALED:
        acc *= tl.load(scale_ptr + output, mask=output_mask, other=0.0)[:, None]
    if BIAS:
        acc += tl.load(bias_ptr + output, mask=output_mask, other=0.0).to(tl.float32)[:, None]
    y_ptrs = y_ptr + row.to(tl.int64)[:, None] * OUTPUTS + output[None, :]
    y = tl.trans(acc.to(y_ptr.dtype.element_ty))
    tl.store(y_ptrs, y, mask=row_mask[:, None] & output_mask[None, :])


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
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
    GROUP: tl.constexpr,  # tiles of rows that pass over the outputs together
):
    OUTPUT_TILES: tl.constexpr = (OUTPUTS + BLOCK_OUTPUTS - 1) // BLOCK_OUTPUTS
    tile = tl.program_id(0)
    row_tiles = (rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    first_row_tile = tile // (GROUP * OUTPUT_TILES) * GROUP
    height = tl.minimum(row_tiles - first_row_tile, GROUP)
    place = tile % (GROUP * OUTPUT_TILES)
    row = (first_row_tile + place % height) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    output = place // height * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    row_mask, output_mask = row < rows, output < OUTPUTS
    cols = tl.arange(0, BLOCK_INPUTS)
    x_ptrs = x_ptr + row.to(tl.int64)[:, None] * INPUTS + cols[None, :]
    weight_ptrs = weight_ptr + output.to(tl.int64)[:, None] * INPUTS + cols[None, :]
    acc = segment_sum(
        x_ptrs, weight_ptrs, row_mask, output_mask, tl.program_id(1),
        OUTPUTS, INPUTS, SEGMENT, BLOCK_ROWS, BLOCK_OUTPUTS, BLOCK_INPUTS,
    )  # fmt: skip
    if SPLIT:
        SIZE: tl.constexpr = BLOCK_OUTPUTS * BLOCK_ROWS
        tiles = OUTPUT_TILES * row_tiles
        at = tl.arange(0, BLOCK_OUTPUTS)[:, None] * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[None, :]
        tl.store(partial_ptr + (tl.program_id(1) * tiles + tile) * SIZE + at, acc)
        tl.debug_barrier()  # all threads have written before one of them says so
        if tl.atomic_add(arrived_ptr + tile, 1, sem="acq_rel") == SEGMENTS - 1:
            acc = tl.load(partial_ptr + tile * SIZE + at, cache_modifier=".cg")
            for segment in tl.static_range(1, SEGMENTS):
                acc += tl.load(partial_ptr + (segment * tiles + tile) * SIZE + at, cache_modifier=".cg")
            tl.store(arrived_ptr + tile, 0)
            write_tile(acc, scale_ptr, bias_ptr, y_ptr, row, output, row_mask, output_mask, OUTPUTS, SCALED, BIAS)
    else:
        for segment in range(1, SEGMENTS):
            acc += segment_sum(
                x_ptrs, weight_ptrs, row_mask, output_mask, segment,
                OUTPUTS, INPUTS, SEGMENT, BLOCK_ROWS, BLOCK_OUTPUTS, BLOCK_INPUTS,
            )  # fmt: skip
        write_tile(acc, scale_ptr, bias_ptr, y_ptr, row, output, row_mask, output_mask, OUTPUTS, SCALED, BIAS)
