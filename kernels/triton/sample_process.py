"""What happens to a tile of logits before tokens are compared, in the order of ``SamplingBatch``."""

import triton
import triton.language as tl

from .. import exact
from .exact import clean, divide, inverse_temperature, words_of_tile

_WATERMARK_KEY = tl.constexpr(exact.WATERMARK_KEY)
_WATERMARK_DOMAIN = tl.constexpr(exact.WATERMARK_DOMAIN)
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
    greedy,
    position,
    temperature_ptr,
    repetition_penalty_ptr,
    seen_ptr,
    token_counts_ptr,
    frequency_penalty_ptr,
    output_frequency_penalty_ptr,
    presence_penalty_ptr,
    output_counts_ptr,
    bias_start_ptr,
    bias_ids_ptr,
    bias_values_ptr,
    grammar_ptr,
    grammar_bits_ptr,
    watermark_ptr,
    vocab,
    WATERMARK_THRESHOLD: tl.constexpr,
    WATERMARK_DELTA: tl.constexpr,
    TILE: tl.constexpr,
):
    """Watermark, bias, penalties, grammar, temperature."""
    if watermark_ptr is not None:
        previous = tl.load(watermark_ptr + row)
        if previous >= 0:
            key = previous.to(tl.uint64) * _WATERMARK_KEY
            words = words_of_tile(key, previous * 0, first_id, _WATERMARK_DOMAIN, TILE)
            z = tl.where(words.to(tl.int64) < WATERMARK_THRESHOLD, z + WATERMARK_DELTA, z)
    if bias_start_ptr is not None:
        start, end = tl.load(bias_start_ptr + row), tl.load(bias_start_ptr + row + 1)
        z = _add_biases(z, ids, first_id, bias_ids_ptr, bias_values_ptr, start, end, TILE)
    seen = tl.load(seen_ptr + row).to(tl.int64)
    if seen >= 0:
        counts = tl.load(token_counts_ptr + seen * vocab + ids, mask=mask, other=0)
        penalty = tl.load(repetition_penalty_ptr + row)
        z = tl.where(counts > 0, tl.where(z < 0, z * penalty, divide(z, penalty)), z)
        if frequency_penalty_ptr is not None:
            share = divide(counts.to(tl.float32), tl.maximum(position, 1).to(tl.float32))
            z = z - share * tl.load(frequency_penalty_ptr + row)
        if output_counts_ptr is not None:
            counts = tl.load(output_counts_ptr + seen * vocab + ids, mask=mask, other=0)
            if output_frequency_penalty_ptr is not None:
                z = z - counts.to(tl.float32) * tl.load(output_frequency_penalty_ptr + row)
            if presence_penalty_ptr is not None:
                z = z - tl.where(counts > 0, tl.load(presence_penalty_ptr + row), 0.0)
    if grammar_ptr is not None:
        grammar = tl.load(grammar_ptr + row).to(tl.int64)
        if grammar >= 0:
            bits_row_ptr = grammar_bits_ptr + grammar * ((vocab + 31) // 32)
            bits = tl.load(bits_row_ptr + ids // 32, mask=mask, other=0)
            z = tl.where(((bits >> (ids % 32)) & 1) == 1, z, float("-inf"))
    if greedy == 0:
        z = z * inverse_temperature(tl.load(temperature_ptr + row))
    return clean(z)
