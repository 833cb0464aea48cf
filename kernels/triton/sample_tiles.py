"""The first of the sampler's kernels: one program per (row, tile) reads the logits once."""

import triton
import triton.language as tl

from .exact import clean, gumbel, words_of_tile
from .sample_process import process_tile
from .sample_sets import NO_TOKEN


@triton.jit
def bounds_of(row, vocab, greedy_ptr, top_k_ptr, top_p_ptr, min_p_ptr, typical_p_ptr):
    """What bounds a row's allowed set, and whether anything does: (top_k, top_p, min_p, typical_p, bounded)."""
    top_k = tl.load(top_k_ptr + row)
    top_k = tl.where(top_k < vocab, top_k, 0)
    top_p = tl.load(top_p_ptr + row)
    min_p = top_p * 0.0
    typical_p = min_p + 1.0
    if min_p_ptr is not None:
        min_p = tl.load(min_p_ptr + row)
    if typical_p_ptr is not None:
        typical_p = tl.load(typical_p_ptr + row)
    bounded = (top_k > 0) | (top_p < 1.0) | (min_p > 0.0) | (typical_p < 1.0)
    return top_k, top_p, min_p, typical_p, bounded & (tl.load(greedy_ptr + row) == 0)


@triton.jit
def _maximum_and_sum(z):
    """The tile's maximum m and the sum of exp(z - m)."""
    best = tl.max(z, axis=0)
    return best, tl.sum(tl.exp(z - tl.where(best == float("-inf"), 0.0, best)), axis=0)


@triton.jit
def tiles_kernel(
    logits_ptr,  # fp32 [rows, vocab]
    z_ptr,  # fp32 [rows, vocab] out: processed logits; all rows with DETAILS, else only those with an allowed set
    greedy_ptr,  # [rows], like everything up to token_counts_ptr; the fields of SamplingBatch
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    typical_p_ptr,
    repetition_penalty_ptr,
    frequency_penalty_ptr,
    output_frequency_penalty_ptr,
    presence_penalty_ptr,
    seeds_ptr,
    positions_ptr,
    seen_ptr,
    token_counts_ptr,  # int32 [penalised sequences, vocab]
    output_counts_ptr,
    bias_start_ptr,
    bias_ids_ptr,
    bias_values_ptr,
    grammar_ptr,
    grammar_bits_ptr,
    watermark_ptr,
    tile_max_ptr,  # fp32 [rows, tiles] out, like the four below
    tile_sum_ptr,  # sum of exp(z - tile maximum)
    tile_score_ptr,  # best noised logit of a row whose every token is allowed
    tile_token_ptr,  # its token, int32
    tile_logit_ptr,  # its logit
    group_max_ptr,  # fp32 [rows, tiles * TILE / GROUP] out, where z is written
    raw_max_ptr,  # the same of the raw logits, with DETAILS
    raw_sum_ptr,
    raw_group_max_ptr,
    vocab,
    num_tiles,
    WATERMARK_THRESHOLD: tl.constexpr,
    WATERMARK_DELTA: tl.constexpr,
    DETAILS: tl.constexpr,
    TILE: tl.constexpr,
    GROUP: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    ids = tile * TILE + tl.arange(0, TILE)
    mask = ids < vocab
    at = row * num_tiles + tile
    groups: tl.constexpr = TILE // GROUP
    group_at = at * groups + tl.arange(0, groups)
    greedy = tl.load(greedy_ptr + row)
    position = tl.load(positions_ptr + row)
    _, _, _, _, bounded = bounds_of(row, vocab, greedy_ptr, top_k_ptr, top_p_ptr, min_p_ptr, typical_p_ptr)

    z = tl.load(logits_ptr + row * vocab + ids, mask=mask, other=float("-inf"))
    if DETAILS:
        raw = clean(z)
        best, total = _maximum_and_sum(raw)
        tl.store(raw_max_ptr + at, best)
        tl.store(raw_sum_ptr + at, total)
        tl.store(raw_group_max_ptr + group_at, tl.max(tl.reshape(raw, (groups, GROUP)), axis=1))
    z = process_tile(
        z,
        ids,
        mask,
        tile * TILE,
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
        WATERMARK_THRESHOLD,
        WATERMARK_DELTA,
        TILE,
    )
    best, total = _maximum_and_sum(z)
    tl.store(tile_max_ptr + at, best)
    tl.store(tile_sum_ptr + at, total)
    if bounded | DETAILS:
        tl.store(z_ptr + row * vocab + ids, z, mask=mask)
        tl.store(group_max_ptr + group_at, tl.max(tl.reshape(z, (groups, GROUP)), axis=1))
    if not bounded:
        scores = z
        if greedy == 0:
            scores = z + gumbel(words_of_tile(tl.load(seeds_ptr + row), position, tile * TILE, 0, TILE))
        score = tl.max(scores, axis=0)
        token = tl.min(tl.where(scores == score, ids, NO_TOKEN), axis=0)
        tl.store(tile_score_ptr + at, score)
        tl.store(tile_token_ptr + at, token)
        tl.store(tile_logit_ptr + at, tl.max(tl.where(ids == token, z, float("-inf")), axis=0))
