"""The first of the sampler's kernels: one program per (row, tile) reads the logits once."""

import triton
import triton.language as tl

from .exact import clean, gumbel, words_of_tile
from .sample_fields import GREEDY, POSITION, load_bounds, load_int, load_seed
from .sample_process import process_tile
from .sample_sets import NO_TOKEN

# What a tile leaves for the second kernel, a word each.
MAXIMUM = tl.constexpr(0)  # fp32, of the processed logits
TOTAL = tl.constexpr(1)  # fp32, sum of exp(z - MAXIMUM)
SCORE = tl.constexpr(2)  # fp32, best noised logit; only if the row's every token is allowed, like the two below
TOKEN = tl.constexpr(3)  # int32, its token
LOGIT = tl.constexpr(4)  # fp32, its logit
RAW_MAXIMUM = tl.constexpr(5)  # fp32, of the raw logits; if FULL, like the one below
RAW_TOTAL = tl.constexpr(6)
TILE_WORDS = tl.constexpr(7)


@triton.jit
def _maximum_and_sum(z):
    """The tile's maximum m and the sum of exp(z - m)."""
    best = tl.max(z, axis=0)
    return best, tl.sum(tl.exp(z - tl.where(best == float("-inf"), 0.0, best)), axis=0)


@triton.jit
def tiles_kernel(
    logits_ptr,  # fp32 [rows, vocab]
    z_ptr,  # fp32 [rows, vocab] out: processed logits; all rows if FULL, else only those with an allowed set
    fields_ptr,  # int32 [fields, stride], of SamplingBatch, like the five below
    token_counts_ptr,
    output_counts_ptr,
    bias_ids_ptr,
    bias_values_ptr,
    grammar_bits_ptr,
    tiles_ptr,  # fp32 [rows, TILE_WORDS, tiles] out
    groups_ptr,  # fp32 [rows, 2, groups] out: maximum of each group of GROUP tokens where z is written; raw if FULL
    stride,
    vocab,
    num_tiles,
    FULL: tl.constexpr,
    TILE: tl.constexpr,
    GROUP: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    ids = tile * TILE + tl.arange(0, TILE)
    mask = ids < vocab
    words_ptr = tiles_ptr + row * TILE_WORDS * num_tiles + tile
    groups: tl.constexpr = TILE // GROUP
    group_ptrs = groups_ptr + row * 2 * num_tiles * groups + tile * groups + tl.arange(0, groups)
    _, _, _, _, bounded = load_bounds(fields_ptr, stride, row, vocab, FULL)

    z = tl.load(logits_ptr + row * vocab + ids, mask=mask, other=float("-inf"))
    if FULL:
        raw = clean(z)
        best, total = _maximum_and_sum(raw)
        tl.store(words_ptr + RAW_MAXIMUM * num_tiles, best)
        tl.store(words_ptr + RAW_TOTAL * num_tiles, total)
        tl.store(group_ptrs + num_tiles * groups, tl.max(tl.reshape(raw, (groups, GROUP)), axis=1))
    z = process_tile(
        z, ids, mask, tile * TILE, row, fields_ptr, stride, token_counts_ptr, output_counts_ptr, bias_ids_ptr,
        bias_values_ptr, grammar_bits_ptr, vocab, FULL, TILE,
    )  # fmt: skip
    best, total = _maximum_and_sum(z)
    tl.store(words_ptr + MAXIMUM * num_tiles, best)
    tl.store(words_ptr + TOTAL * num_tiles, total)
    if bounded | FULL:
        tl.store(z_ptr + row * vocab + ids, z, mask=mask)
        tl.store(group_ptrs, tl.max(tl.reshape(z, (groups, GROUP)), axis=1))
    if not bounded:
        scores = z
        if load_int(fields_ptr, stride, row, GREEDY) == 0:
            position = load_int(fields_ptr, stride, row, POSITION)
            words = words_of_tile(load_seed(fields_ptr, stride, row), position, tile * TILE, 0, TILE)
            scores = z + gumbel(words)
        score = tl.max(scores, axis=0)
        token = tl.min(tl.where(scores == score, ids, NO_TOKEN), axis=0)
        tl.store(words_ptr + SCORE * num_tiles, score)
        tl.store(words_ptr + TOKEN * num_tiles, token.to(tl.float32, bitcast=True))
        tl.store(words_ptr + LOGIT * num_tiles, tl.max(tl.where(ids == token, z, float("-inf")), axis=0))
