"""The second of the sampler's kernels: one program per row turns what the tiles left into a token."""

import triton
import triton.language as tl

from .. import exact
from ..sampling_batch import PROCESSED, RAW, TOP_WIDTH
from .exact import clean, distance_of_min_p
from .sample_fields import POSITION, TOP_N, load_bounds, load_int, load_seed
from .sample_masses import merged_masses
from .sample_sets import (
    NO_TOKEN,
    bracket,
    draw,
    edge_by_count,
    edge_by_mass,
    mass_by_pivot,
    mass_target,
    mean_distance,
    shorten,
)
from .sample_tiles import LOGIT, MAXIMUM, RAW_MAXIMUM, RAW_TOTAL, SCORE, TILE_WORDS, TOKEN, TOTAL
from .sample_top import write_best

_UNIT = tl.constexpr(2.0**-exact.WEIGHT_BITS)
_WIDTH = tl.constexpr(TOP_WIDTH)
_PROCESSED, _RAW = tl.constexpr(PROCESSED), tl.constexpr(RAW)
_CHUNK = tl.constexpr(1024)  # tokens per iteration over a row or list
_WIDE = tl.constexpr(4096)  # tokens per iteration where a list is filled: it is the memory's latency that takes time


@triton.jit
def _merge(words_ptr, num_tiles, MAX: tl.constexpr, SUM: tl.constexpr, TILES: tl.constexpr):
    """The row's best logit and the log of the sum of exp(z - best), from two words of its tiles."""
    tiles = tl.arange(0, TILES)
    mask = tiles < num_tiles
    tile_max = tl.load(words_ptr + MAX * num_tiles + tiles, mask=mask, other=float("-inf"))
    tile_sum = tl.load(words_ptr + SUM * num_tiles + tiles, mask=mask, other=0.0)
    best = tl.max(tile_max, axis=0)
    base = tl.where(best == float("-inf"), 0.0, best)
    total = tl.sum(tile_sum * tl.exp(tile_max - base), axis=0)
    return best, tl.log(tl.maximum(total, 1.0))  # 1 is what the best token adds; less only if nothing is allowed


@triton.jit
def _merge_best(words_ptr, num_tiles, TILES: tl.constexpr):
    """The row's best noised token and its logit."""
    tiles = tl.arange(0, TILES)
    mask = tiles < num_tiles
    scores = tl.load(words_ptr + SCORE * num_tiles + tiles, mask=mask, other=float("-inf"))
    tokens = tl.load(words_ptr + TOKEN * num_tiles + tiles, mask=mask, other=0.0).to(tl.int32, bitcast=True)
    tokens = tl.where(mask, tokens, NO_TOKEN)
    token = tl.min(tl.where(scores == tl.max(scores, axis=0), tokens, NO_TOKEN), axis=0)
    logits = tl.load(words_ptr + LOGIT * num_tiles + tiles, mask=mask, other=float("-inf"))
    return token, tl.max(tl.where(tokens == token, logits, float("-inf")), axis=0)


@triton.jit
def rows_kernel(
    logits_ptr,  # fp32 [rows, vocab], raw; read only if FULL
    z_ptr,  # fp32 [rows, vocab], processed
    fields_ptr,  # int32 [fields, stride]
    tiles_ptr,  # what the tiles left, see tiles_kernel
    groups_ptr,
    list_z_ptr,  # fp32 [rows, CAPACITY] scratch
    list_ids_ptr,  # int32 [rows, CAPACITY] scratch
    near_ptr,  # int32 [rows, groups] scratch
    masses_ptr,  # see masses_kernel, like the next
    totals_ptr,
    token_ids_ptr,  # of Sampled, like the three below; the last two are written only if FULL
    logprobs_ptr,
    top_ids_ptr,
    top_logprobs_ptr,
    stride,
    vocab,
    num_tiles,
    FULL: tl.constexpr,
    TILES: tl.constexpr,  # power of two, at least num_tiles
    TILE_GROUPS: tl.constexpr,  # groups of a tile
    GROUP: tl.constexpr,  # tokens of one
    PARTS: tl.constexpr,
    CAPACITY: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    top_k, top_p, min_p, typical_p, bounded = load_bounds(fields_ptr, stride, row, vocab, FULL)
    GROUPS: tl.constexpr = TILES * TILE_GROUPS
    num_groups = num_tiles * TILE_GROUPS
    words_ptr = tiles_ptr + row * TILE_WORDS * num_tiles
    group_ptr = groups_ptr + row * 2 * num_groups
    best, log_mass = _merge(words_ptr, num_tiles, MAXIMUM, TOTAL, TILES)
    row_ptr = z_ptr + row * vocab
    near_ptr += row * num_groups
    own_z, own_ids = list_z_ptr + row * CAPACITY, list_ids_ptr + row * CAPACITY
    token = tl.full((), 0, tl.int32)
    logprob = tl.full((), float("-inf"), tl.float32)

    # The source, the row or its list, and what of it is allowed: r <= reach and |r - centre| <= width.
    src = row_ptr
    n = vocab
    is_list = False
    reach = tl.full((), float("inf"), tl.float32)
    centre = tl.full((), 0.0, tl.float32)
    width = tl.full((), float("inf"), tl.float32)
    if best > float("-inf"):
        logit = best
        if bounded:
            if top_k > 0:
                bound = edge_by_count(group_ptr, num_groups, best, top_k, GROUPS)
                src, n, is_list = shorten(
                    row_ptr,
                    vocab,
                    best,
                    0.0,
                    bound,
                    own_z,
                    own_ids,
                    group_ptr,
                    near_ptr,
                    num_groups,
                    CAPACITY,
                    _WIDE,
                    GROUPS,
                    GROUP,
                )
                reach = edge_by_count(src, n, best, top_k, _CHUNK)
            if top_p < 1.0:
                if top_k > 0:
                    pivots, masses, mass = mass_by_pivot(src, n, best, reach, 0.0, _CHUNK)
                else:
                    pivots, masses, mass = merged_masses(masses_ptr, totals_ptr, row, PARTS)
                target = mass_target(top_p, mass)
                low, high = bracket(pivots, masses, target)
                if not is_list:
                    src, n, is_list = shorten(
                        row_ptr,
                        vocab,
                        best,
                        0.0,
                        high,
                        own_z,
                        own_ids,
                        group_ptr,
                        near_ptr,
                        num_groups,
                        CAPACITY,
                        _WIDE,
                        GROUPS,
                        GROUP,
                    )
                reach = edge_by_mass(src, n, best, reach, 0.0, target, low, high, _CHUNK)
            if min_p > 0.0:
                reach = tl.minimum(reach, distance_of_min_p(min_p))
                if not is_list:
                    src, n, is_list = shorten(
                        row_ptr,
                        vocab,
                        best,
                        0.0,
                        reach,
                        own_z,
                        own_ids,
                        group_ptr,
                        near_ptr,
                        num_groups,
                        CAPACITY,
                        _WIDE,
                        GROUPS,
                        GROUP,
                    )
            if typical_p < 1.0:
                mass, centre = mean_distance(src, n, best, reach, _CHUNK)
                pivots, masses, _ = mass_by_pivot(src, n, best, reach, centre, _CHUNK)
                target = mass_target(typical_p, mass)
                low, high = bracket(pivots, masses, target)
                if not is_list:
                    src, n, is_list = shorten(
                        row_ptr,
                        vocab,
                        best,
                        centre,
                        high,
                        own_z,
                        own_ids,
                        group_ptr,
                        near_ptr,
                        num_groups,
                        CAPACITY,
                        _WIDE,
                        GROUPS,
                        GROUP,
                    )
                width = edge_by_mass(src, n, best, reach, centre, target, low, high, _CHUNK)
            seed, position = load_seed(fields_ptr, stride, row), load_int(fields_ptr, stride, row, POSITION)
            token, logit, mass = draw(src, own_ids, is_list, n, best, reach, centre, width, seed, position, _CHUNK)
            log_mass = tl.log(mass.to(tl.float32) * _UNIT)
        else:
            token, logit = _merge_best(words_ptr, num_tiles, TILES)
        logprob = -(best - logit) - log_mass
    tl.store(token_ids_ptr + row, token.to(tl.int64))
    tl.store(logprobs_ptr + row * 2 + _PROCESSED, logprob)

    if FULL:
        top_n = load_int(fields_ptr, stride, row, TOP_N)
        if top_n >= 0:
            if not bounded:
                bound = edge_by_count(group_ptr, num_groups, best, top_n, GROUPS)
                src, n, is_list = shorten(
                    row_ptr,
                    vocab,
                    best,
                    0.0,
                    bound,
                    own_z,
                    own_ids,
                    group_ptr,
                    near_ptr,
                    num_groups,
                    CAPACITY,
                    _WIDE,
                    GROUPS,
                    GROUP,
                )
            top = (row * 2 + _PROCESSED) * _WIDTH
            write_best(
                src, own_ids, is_list, n, best, reach, centre, width, top_n, log_mass, top_ids_ptr + top,
                top_logprobs_ptr + top, _CHUNK, _WIDTH,
            )  # fmt: skip
            tl.debug_barrier()  # the list is read to the end before it is written again

            raw_ptr = logits_ptr + row * vocab
            best, log_mass = _merge(words_ptr, num_tiles, RAW_MAXIMUM, RAW_TOTAL, TILES)
            logprob = clean(tl.load(raw_ptr + token)) - best - log_mass
            logprob = tl.where(best > float("-inf"), logprob, float("-inf"))
            tl.store(logprobs_ptr + row * 2 + _RAW, logprob)
            bound = edge_by_count(group_ptr + num_groups, num_groups, best, top_n, GROUPS)
            src, n, is_list = shorten(
                raw_ptr,
                vocab,
                best,
                0.0,
                bound,
                own_z,
                own_ids,
                group_ptr + num_groups,
                near_ptr,
                num_groups,
                CAPACITY,
                _WIDE,
                GROUPS,
                GROUP,
            )
            everything = float("inf")
            top = (row * 2 + _RAW) * _WIDTH
            write_best(
                src, own_ids, is_list, n, best, everything, 0.0, everything, top_n, log_mass, top_ids_ptr + top,
                top_logprobs_ptr + top, _CHUNK, _WIDTH,
            )  # fmt: skip
