"""The kernels of block-quantised weights; block_form.py says how the weights lie in memory.

    y[row, out] = sum_g scale[out, g] * sum_k x[row, k] * (q[out, k] - zero[out, g]) - minimum[out, g] * sum_k x[row, k]

over the k of each group g. Codes less their zero points are exact in the rows' dtype, their products are summed in fp32
by the tensor cores, group by group, and the sums are scaled: nothing is rounded but sums in fp32.

The weight is the left operand: the few rows of a decode step are the narrow side of the product, codes are widened in
the registers that they are multiplied from, and a scale belongs to a row of the sums.

The inputs are divided into segments as those of linear_kernel.py, by the weight's shape alone: each is summed from
nothing, group by group in order, and segments are added in order, by one program or by whoever comes last. So a row has
the same bits whatever the height of its tile.
"""

import triton
import triton.language as tl

from .block_form import WORDS
from .block_widen import code_values, group_minimum, group_scale, group_zero, widened
from .groups import find_group

_WORDS = tl.constexpr(WORDS)


@triton.jit
def _load_words(ptr, block, part, word, output, mask, BITS: tl.constexpr, OUTPUTS: tl.constexpr, BLOCK: tl.constexpr):
    """Words of the tile of a plane that has the codes of a part, 16 values of k, of a block."""
    tile = block * (BLOCK * BITS // 16 // _WORDS) + part * BITS // 16
    return tl.load(ptr + (tile.to(tl.int64) * OUTPUTS + output) * _WORDS + word, mask=mask, other=0)


@triton.jit
def _segment_sum(
    x_ptrs,  # [16, BLOCK_ROWS], at k = 0
    low_ptr, high_ptr, spans_ptr, bases_ptr, sums_ptrs,
    row_mask, output, output_mask,
    first_block, end_block, sums_stride,
    zeros,  # fp32 [BLOCK_OUTPUTS, BLOCK_ROWS]
    ones,  # [BLOCK_OUTPUTS, 16], the rows' dtype
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, FORM: tl.constexpr, PAIRS: tl.constexpr, SUMMED: tl.constexpr,
    STEPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """fp32 [BLOCK_OUTPUTS, BLOCK_ROWS]. What is rounded is not left to the compiler: scaled sums are one fma."""
    word = tl.arange(0, _WORDS)[None, :]
    BLOCKS: tl.constexpr = (INPUTS + FORM.block - 1) // FORM.block
    acc = zeros
    for turn in tl.range(first_block, end_block, STEPS, num_stages=STAGES):
        for step in tl.static_range(STEPS):
            block = turn + step
            mask = output_mask
            if BLOCKS % STEPS:
                mask = mask & (block < BLOCKS)
            span = block // (FORM.span // FORM.block)
            span_ptrs = spans_ptr + span * (FORM.span_words * OUTPUTS) + output
            base_ptrs = bases_ptr + output
            if FORM.super_block:
                base_ptrs += block // (FORM.super_block // FORM.block) * (FORM.base_words * OUTPUTS)
            for part in tl.static_range(FORM.block // _WORDS):
                if part * FORM.low_bits % 16 == 0:
                    low = _load_words(low_ptr, block, part, word, output, mask, FORM.low_bits, OUTPUTS, FORM.block)
                if FORM.high_bits == 0:
                    high = low
                elif part * FORM.high_bits % 16 == 0:
                    high = _load_words(high_ptr, block, part, word, output, mask, FORM.high_bits, OUTPUTS, FORM.block)
                if part * _WORDS % FORM.unit == 0:
                    part_sums, row_sums = zeros, zeros
                    if FORM.zeros != "":
                        zero = group_zero(span_ptrs, part * _WORDS // FORM.group, OUTPUTS, mask, FORM)
                    else:
                        zero = 0
                at = block * FORM.block + part * _WORDS
                x_mask = row_mask
                if INPUTS % (FORM.block * STEPS):
                    x_mask = x_mask & (at + tl.arange(0, _WORDS)[:, None] < INPUTS)
                x = tl.load(x_ptrs + at, mask=x_mask, other=0.0)
                weight = widened(low, high, zero, x, part, FORM, PAIRS)
                part_sums = tl.dot(weight, x, part_sums, input_precision="ieee")
                if FORM.minima and not SUMMED:
                    row_sums = tl.dot(ones, x, row_sums, input_precision="ieee")
                if (part + 1) * _WORDS % FORM.unit == 0:
                    group = part * _WORDS // FORM.group
                    scale = group_scale(span_ptrs, base_ptrs, group, OUTPUTS, mask, FORM)
                    acc = tl.fma(scale + zeros, part_sums, acc)
                    if FORM.minima:
                        if SUMMED:
                            row_sums = tl.load(
                                sums_ptrs + at // FORM.unit * sums_stride, mask=row_mask & (at < INPUTS), other=0.0
                            )
                        minimum = group_minimum(span_ptrs, base_ptrs, group, OUTPUTS, mask, FORM)
                        acc = tl.fma(-minimum + zeros, row_sums + zeros, acc)
    return acc


@triton.jit
def _write_tile(
    acc, bias_ptr, y_ptr, row, column, row_mask, output_mask, Y_STRIDE: tl.constexpr, BIAS: tl.constexpr
):  # fmt: skip
    if BIAS:
        acc += tl.load(bias_ptr + column, mask=output_mask, other=0.0).to(tl.float32)
    y_ptrs = y_ptr + row.to(tl.int64) * Y_STRIDE + column
    tl.store(y_ptrs, acc.to(y_ptr.dtype.element_ty), mask=row_mask & output_mask)


@triton.jit(do_not_specialize=["rows"])
def block_linear_kernel(
    x_ptr,  # [rows, INPUTS]
    low_ptr, high_ptr, spans_ptr, bases_ptr,  # see block_pack.py
    sums_ptr,  # fp32 [units, rows], see row_sums_kernel, read with SUMMED
    bias_ptr,  # [Y_STRIDE], of each expert, read with BIAS
    starts_ptr,  # see find_group, read with EXPERTS
    y_ptr,  # [rows, Y_STRIDE] out
    partial_ptr,  # fp32 [SEGMENTS, tiles, BLOCK_OUTPUTS, BLOCK_ROWS], used with SPLIT
    arrived_ptr,  # int32 [tiles], zeros before and after, used with SPLIT
    rows,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,  # packed
    WIDTH: tl.constexpr,  # outputs of a row
    EXPERTS: tl.constexpr,  # 0: one weight for all rows; else the outputs of each expert, one after the other
    EXPERT_BLOCK: tl.constexpr,  # power of two >= EXPERTS
    Y_STRIDE: tl.constexpr,
    COLUMN: tl.constexpr,  # of y and the bias, where the outputs begin
    BIAS: tl.constexpr,
    FORM: tl.constexpr,
    PAIRS: tl.constexpr,  # see widened
    SUMMED: tl.constexpr,
    SEGMENTS: tl.constexpr,
    SEGMENT: tl.constexpr,  # inputs of one, a multiple of STEPS blocks
    SPLIT: tl.constexpr,  # each segment has a program of its own: the third dim of the grid
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    STEPS: tl.constexpr,  # blocks of one turn of the loop
    STAGES: tl.constexpr,  # given to the loop, so that words of groups are fetched ahead, too: they feed no product
):  # fmt: skip
    output = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)[:, None]
    column, sums_stride = COLUMN + output, rows
    if EXPERTS:
        expert, first, rows = find_group(starts_ptr, tl.program_id(1), EXPERTS, BLOCK_ROWS, EXPERT_BLOCK)
        if first >= rows:
            return
        bias_ptr += expert * Y_STRIDE
        row = first + tl.arange(0, BLOCK_ROWS)[None, :]
        output_mask = output < WIDTH
        output += expert * WIDTH
    else:
        row = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[None, :]
        output_mask = output < OUTPUTS
    row_mask = row < rows
    x_ptrs = x_ptr + row.to(tl.int64) * INPUTS + tl.arange(0, _WORDS)[:, None]
    zeros = tl.zeros([BLOCK_OUTPUTS, BLOCK_ROWS], tl.float32)
    ones = tl.full([BLOCK_OUTPUTS, _WORDS], 1.0, tl.float32).to(x_ptr.dtype.element_ty)
    BLOCKS: tl.constexpr = (INPUTS + FORM.block - 1) // FORM.block
    LENGTH: tl.constexpr = SEGMENT // FORM.block
    if SPLIT:
        segment = tl.program_id(2)
        acc = _segment_sum(
            x_ptrs, low_ptr, high_ptr, spans_ptr, bases_ptr, sums_ptr + row, row_mask, output, output_mask,
            segment * LENGTH, tl.minimum(segment * LENGTH + LENGTH, BLOCKS), sums_stride, zeros, ones,
            INPUTS, OUTPUTS, FORM, PAIRS, SUMMED, STEPS, STAGES,
        )  # fmt: skip
        SIZE: tl.constexpr = BLOCK_OUTPUTS * BLOCK_ROWS
        tile, tiles = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0), tl.num_programs(0) * tl.num_programs(1)
        at = tl.arange(0, BLOCK_OUTPUTS)[:, None] * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[None, :]
        tl.store(partial_ptr + (segment * tiles + tile) * SIZE + at, acc)
        tl.debug_barrier()  # all threads have written before one of them says so
        if tl.atomic_add(arrived_ptr + tile, 1, sem="acq_rel") == SEGMENTS - 1:
            acc = tl.load(partial_ptr + tile * SIZE + at, cache_modifier=".cg")
            for other in tl.static_range(1, SEGMENTS):
                acc += tl.load(partial_ptr + (other * tiles + tile) * SIZE + at, cache_modifier=".cg")
            tl.store(arrived_ptr + tile, 0)
            _write_tile(acc, bias_ptr, y_ptr, row, column, row_mask, output_mask, Y_STRIDE, BIAS)
    else:
        total = zeros
        for segment in range(SEGMENTS):
            total += _segment_sum(
                x_ptrs, low_ptr, high_ptr, spans_ptr, bases_ptr, sums_ptr + row, row_mask, output, output_mask,
                segment * LENGTH, tl.minimum(segment * LENGTH + LENGTH, BLOCKS), sums_stride, zeros, ones,
                INPUTS, OUTPUTS, FORM, PAIRS, SUMMED, STEPS, STAGES,
            )  # fmt: skip
        _write_tile(total, bias_ptr, y_ptr, row, column, row_mask, output_mask, Y_STRIDE, BIAS)


@triton.jit(do_not_specialize=["rows"])
def row_sums_kernel(
    x_ptr,  # [rows, INPUTS]
    sums_ptr,  # fp32 [units, rows] out: of each row's values, UNIT at a time
    rows,
    INPUTS: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,  # units of a program
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
):
    """By products with ones, as few rows have them beside their own: in the same order."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[None, :]
    place = tl.arange(0, BLOCK_OUTPUTS)[:, None]
    k = tl.arange(0, _WORDS)[:, None]
    ones = tl.full([BLOCK_OUTPUTS, _WORDS], 1.0, tl.float32).to(x_ptr.dtype.element_ty)
    zeros = tl.zeros([BLOCK_OUTPUTS, BLOCK_ROWS], tl.float32)
    for step in range(BLOCK):
        unit = tl.program_id(1) * BLOCK + step
        sums = zeros
        for part in tl.static_range(UNIT // _WORDS):
            at = unit * UNIT + part * _WORDS + k
            x = tl.load(x_ptr + row.to(tl.int64) * INPUTS + at, mask=(row < rows) & (at < INPUTS), other=0.0)
            sums = tl.dot(ones, x, sums, input_precision="ieee")
        tl.store(
            sums_ptr + unit * rows + row + 0 * place, sums, mask=(row < rows) & (place == 0) & (unit * UNIT < INPUTS)
        )


@triton.jit
def block_embed_kernel(
    token_ids_ptr,  # int64 [rows]
    low_ptr, high_ptr, spans_ptr, bases_ptr,  # see block_pack.py
    y_ptr,  # [rows, INPUTS] out
    factor,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    FORM: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    output = tl.load(token_ids_ptr + tl.program_id(0))
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < INPUTS
    block, part, word = cols // FORM.block, cols % FORM.block // _WORDS, cols % _WORDS
    low = _load_words(low_ptr, block, part, word, output, mask, FORM.low_bits, OUTPUTS, FORM.block)
    high = low
    if FORM.high_bits:
        high = _load_words(high_ptr, block, part, word, output, mask, FORM.high_bits, OUTPUTS, FORM.block)
    value = code_values(low, high, part, FORM)
    group = cols % FORM.span // FORM.group
    span_ptrs = spans_ptr + cols // FORM.span * (FORM.span_words * OUTPUTS) + output
    base_ptrs = bases_ptr + output
    if FORM.super_block:
        base_ptrs += cols // FORM.super_block * (FORM.base_words * OUTPUTS)
    if FORM.zeros != "":
        value -= group_zero(span_ptrs, group, OUTPUTS, mask, FORM)
    else:
        value -= FORM.zero
    y = group_scale(span_ptrs, base_ptrs, group, OUTPUTS, mask, FORM) * value.to(tl.float32)
    if FORM.minima:
        y -= group_minimum(span_ptrs, base_ptrs, group, OUTPUTS, mask, FORM)
    y_ptrs = y_ptr + tl.program_id(0).to(tl.int64) * INPUTS + cols
    tl.store(y_ptrs, (y * factor).to(y_ptr.dtype.element_ty), mask=mask)
