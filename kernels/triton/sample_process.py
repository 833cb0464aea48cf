"""What happens to a tile of logits before tokens are compared, in the order of ``SamplingBatch``."""

import triton
import triton.language as tl

from .exact import clean, divide, inverse_temperature
from .sample_fields import (
    BIAS_END,
    BIAS_START,
    COUNTS_ROW,
    FREQUENCY_PENALTY,
    GRAMMAR,
    GREEDY,
    OUTPUT_FREQUENCY_PENALTY,
    POSITION,
    PRESENCE_PENALTY,
    REPETITION_PENALTY,
    TEMPERATURE,
    load_float,
    load_int,
)

_BIASES = tl.constexpr(128)  # ids looked at together; 300 is what OpenAI's interface allows


@triton.jit
def _add_biases(z, ids, first_id, bias_ids_ptr, bias_values_ptr, start, end, TILE: tl.constexpr):
    """Add the biases of the tile's tokens; ids ascend, so the tile's entries are neighbours."""
    before, upto = start, start
    for chunk in range(start, end, _BIASES):
        index = chunk + tl.arange(0, _BIASES)
        biased = tl.load(bias_ids_ptr + index, mask=index < end, other=0x7FFFFFFF)
        before += tl.sum((biased < first_id).to(tl.int32), axis=0)
        upto += tl.sum((biased < first_id + TILE).to(tl.int32), axis=0)
    for entry in range(before, upto):
        z = tl.where(ids == tl.load(bias_ids_ptr + entry), z + tl.load(bias_values_ptr + entry), z)
    return z


@triton.jit
def process_tile(
    z,  # fp32 [TILE], the model's logits
    ids,  # int32 [TILE], first_id ..
    mask,  # [TILE], ids < vocab
    first_id,
    row,
    fields_ptr,  # of SamplingBatch, like the five below
    stride,
    token_counts_ptr,
    output_counts_ptr,
    bias_ids_ptr,
    bias_values_ptr,
    grammar_bits_ptr,
    vocab,
    FULL: tl.constexpr,  # optional fields are looked at
    TILE: tl.constexpr,
):
    """Bias, penalties, grammar, temperature."""
    if FULL:
        start, end = load_int(fields_ptr, stride, row, BIAS_START), load_int(fields_ptr, stride, row, BIAS_END)
        z = _add_biases(z, ids, first_id, bias_ids_ptr, bias_values_ptr, start, end, TILE)
    counted = load_int(fields_ptr, stride, row, COUNTS_ROW).to(tl.int64)
    if counted >= 0:
        counts = tl.load(token_counts_ptr + counted * vocab + ids, mask=mask, other=0)
        penalty = load_float(fields_ptr, stride, row, REPETITION_PENALTY)
        z = tl.where(counts > 0, tl.where(z < 0, z * penalty, divide(z, penalty)), z)
        if FULL:
            length = tl.maximum(load_int(fields_ptr, stride, row, POSITION), 1).to(tl.float32)
            share = divide(counts.to(tl.float32), length)
            z = z - share * load_float(fields_ptr, stride, row, FREQUENCY_PENALTY)
            counts = tl.load(output_counts_ptr + counted * vocab + ids, mask=mask, other=0)
            z = z - counts.to(tl.float32) * load_float(fields_ptr, stride, row, OUTPUT_FREQUENCY_PENALTY)
            z = z - tl.where(counts > 0, load_float(fields_ptr, stride, row, PRESENCE_PENALTY), 0.0)
    if FULL:
        grammar = load_int(fields_ptr, stride, row, GRAMMAR).to(tl.int64)
        if grammar >= 0:
            bits_row_ptr = grammar_bits_ptr + grammar * ((vocab + 31) // 32)
            bits = tl.load(bits_row_ptr + ids // 32, mask=mask, other=0)
            z = tl.where(((bits >> (ids % 32)) & 1) == 1, z, float("-inf"))
    if load_int(fields_ptr, stride, row, GREEDY) == 0:
        z = z * inverse_temperature(load_float(fields_ptr, stride, row, TEMPERATURE))
    return clean(z)
