"""The kernels of block-quantised weights; block_form.py says how the weights lie in memory.

    y[row, out] = sum_g scale[out, g] * sum_k x[row, k] * (q[out, k] - zero[out, g]) - minimum[out, g] * sum_k x[row, k]

over the k of each group g. Codes less their zero points are exact in the rows' dtype, their products are summed in fp32
by the tensor cores, group by group, and the sums are scaled: nothing is rounded but sums in fp32.

The weight is the left operand: the few rows of a decode step are the narrow side of the product, codes are widened in
the registers that they are multiplied from, and a scale belongs to a row of the sums. With SPLITS, tensors have a
leading dim: each warp takes blocks of its own, for all outputs of the program, and their sums are added at the end.
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


@triton.jit(do_not_specialize=["rows"])
def block_linear_kernel(
    x_ptr,  # [rows, INPUTS]
    low_ptr, high_ptr, spans_ptr, bases_ptr,  # see block_pack.py
    sums_ptr,  # fp32 [units, rows], see row_sums_kernel, read with SUMMED
    bias_ptr,  # [Y_STRIDE], of each expert, read with BIAS
    starts_ptr,  # see find_group, read with EXPERTS
    y_ptr,  # [rows, Y_STRIDE] out
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
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    SPLITS: tl.constexpr,
    STEPS: tl.constexpr,  # blocks of a split in one turn of the loop
    STAGES: tl.constexpr,  # given to the loop, so that words of groups are fetched ahead, too: they feed no product
):  # fmt: skip
    output = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)[:, None]
    column, sums_stride = output, rows
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
    split = tl.arange(0, SPLITS)[:, None, None] if SPLITS > 1 else 0
    row_mask = row < rows
    word = tl.arange(0, _WORDS)[None, :]
    x_ptrs = x_ptr + row.to(tl.int64) * INPUTS + tl.arange(0, _WORDS)[:, None]
    zeros = tl.zeros([SPLITS, BLOCK_OUTPUTS, BLOCK_ROWS] if SPLITS > 1 else [BLOCK_OUTPUTS, BLOCK_ROWS], tl.float32)
    ones = tl.full([SPLITS, BLOCK_OUTPUTS, _WORDS] if SPLITS > 1 else [BLOCK_OUTPUTS, _WORDS], 1.0, tl.float32)
    ones = ones.to(x_ptr.dtype.element_ty)
    BLOCKS: tl.constexpr = (INPUTS + FORM.block - 1) // FORM.block
    TURN: tl.constexpr = SPLITS * STEPS
    acc = zeros
    for turn in tl.range(0, (BLOCKS + TURN - 1) // TURN, num_stages=STAGES):
        for step in tl.static_range(STEPS):
            block = (turn * STEPS + step) * SPLITS + split
            mask = output_mask
            if BLOCKS % TURN:
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
                if INPUTS % (FORM.block * TURN):
                    x_mask = x_mask & (at + tl.arange(0, _WORDS)[:, None] < INPUTS)
                x = tl.load(x_ptrs + at, mask=x_mask, other=0.0)
                weight = widened(low, high, zero, x, part, FORM, PAIRS)
                part_sums = tl.dot(weight, x, part_sums, input_precision="ieee")
                if FORM.minima and not SUMMED:
                    row_sums = tl.dot(ones, x, row_sums, input_precision="ieee")
                if (part + 1) * _WORDS % FORM.unit == 0:
                    group = part * _WORDS // FORM.group
                    acc += group_scale(span_ptrs, base_ptrs, group, OUTPUTS, mask, FORM) * part_sums
                    if FORM.minima:
                        if SUMMED:
                            sums_ptrs = sums_ptr + at // FORM.unit * sums_stride + row
                            row_sums = tl.load(sums_ptrs, mask=row_mask & (at < INPUTS), other=0.0)
                        acc -= group_minimum(span_ptrs, base_ptrs, group, OUTPUTS, mask, FORM) * row_sums
    if SPLITS > 1:
        acc = tl.sum(acc, axis=0)
    if BIAS:
        acc += tl.load(bias_ptr + COLUMN + column, mask=output_mask, other=0.0).to(tl.float32)
    y_ptrs = y_ptr + row.to(tl.int64) * Y_STRIDE + COLUMN + column
    tl.store(y_ptrs, acc.to(y_ptr.dtype.element_ty), mask=row_mask & output_mask)


@triton.jit(do_not_specialize=["rows"])
def row_sums_kernel(
    x_ptr,  # [rows, INPUTS]
    sums_ptr,  # fp32 [units, rows] out: of each row's values, UNIT at a time
    rows,
    INPUTS: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,  # units of a program
):
    row = tl.program_id(0)
    unit = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    cols = unit[:, None] * UNIT + tl.arange(0, UNIT)[None, :]
    x = tl.load(x_ptr + row.to(tl.int64) * INPUTS + cols, mask=cols < INPUTS, other=0.0).to(tl.float32)
    tl.store(sums_ptr + unit * rows + row, tl.sum(x, axis=1), mask=unit * UNIT < INPUTS)


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
