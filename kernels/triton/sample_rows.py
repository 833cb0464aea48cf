"""The second of the sampler's kernels: one program per row turns what the tiles left into a token."""

import triton
import triton.language as tl

from .. import exact
from .exact import clean, distance_of_min_p
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
from .sample_tiles import bounds_of
from .sample_top import rank, write_best

_UNIT = tl.constexpr(2.0**-exact.WEIGHT_BITS)


@triton.jit
def _merge(max_ptr, sum_ptr, row, num_tiles, TILES: tl.constexpr):
    """The row's best logit and the log of the sum of exp(z - best)."""
    tiles = tl.arange(0, TILES)
    at = row * num_tiles + tiles
    tile_max = tl.load(max_ptr + at, mask=tiles < num_tiles, other=float("-inf"))
    tile_sum = tl.load(sum_ptr + at, mask=tiles < num_tiles, other=0.0)
    best = tl.max(tile_max, axis=0)
    base = tl.where(best == float("-inf"), 0.0, best)
    total = tl.sum(tile_sum * tl.exp(tile_max - base), axis=0)
    return best, tl.log(tl.maximum(total, 1.0))  # 1 is what the best token adds; less only if nothing is allowed


@triton.jit
def _merge_best(score_ptr, token_ptr, logit_ptr, row, num_tiles, TILES: tl.constexpr):
    """The row's best noised token and its logit."""
    tiles = tl.arange(0, TILES)
    mask = tiles < num_tiles
    at = row * num_tiles + tiles
    scores = tl.load(score_ptr + at, mask=mask, other=float("-inf"))
    tokens = tl.load(token_ptr + at, mask=mask, other=NO_TOKEN)
    token = tl.min(tl.where(scores == tl.max(scores, axis=0), tokens, NO_TOKEN), axis=0)
    logits = tl.load(logit_ptr + at, mask=mask, other=float("-inf"))
    return token, tl.max(tl.where(tokens == token, logits, float("-inf")), axis=0)


@triton.jit
def rows_kernel(
    logits_ptr,  # fp32 [rows, vocab], raw; read only with DETAILS
    z_ptr,  # fp32 [rows, vocab], processed
    greedy_ptr,  # [rows], like the seven below; the fields of SamplingBatch
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    typical_p_ptr,
    seeds_ptr,
    positions_ptr,
    top_n_ptr,
    tile_max_ptr,  # what the tiles left, see tiles_kernel
    tile_sum_ptr,
    tile_score_ptr,
    tile_token_ptr,
    tile_logit_ptr,
    group_max_ptr,
    raw_max_ptr,
    raw_sum_ptr,
    raw_group_max_ptr,
    list_z_ptr,  # fp32 [rows, CAPACITY] scratch
    list_ids_ptr,  # int32 [rows, CAPACITY] scratch
    token_ids_ptr,  # [rows] out, like the four below; the fields of Sampled
    logprobs_ptr,
    ranks_ptr,
    raw_logprobs_ptr,
    raw_ranks_ptr,
    top_ids_ptr,  # [rows, WIDTH] out, like the three below
    top_logprobs_ptr,
    raw_top_ids_ptr,
    raw_top_logprobs_ptr,
    vocab,
    num_tiles,
    num_groups,
    DETAILS: tl.constexpr,
    TILES: tl.constexpr,  # powers of two, at least num_tiles and num_groups
    GROUPS: tl.constexpr,
    CAPACITY: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDE: tl.constexpr,  # tokens per iteration where it is the memory's latency that takes time
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    top_k, top_p, min_p, typical_p, bounded = bounds_of(
        row, vocab, greedy_ptr, top_k_ptr, top_p_ptr, min_p_ptr, typical_p_ptr
    )
    best, log_mass = _merge(tile_max_ptr, tile_sum_ptr, row, num_tiles, TILES)
    row_ptr = z_ptr + row * vocab
    group_ptr = group_max_ptr + row * num_groups
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
                src, n, is_list = shorten(row_ptr, vocab, best, 0.0, bound, own_z, own_ids, CAPACITY, WIDE)
                reach = edge_by_count(src, n, best, top_k, CHUNK)
            if top_p < 1.0:
                pivots, masses, mass = mass_by_pivot(src, n, best, reach, 0.0, CHUNK)
                target = mass_target(top_p, mass)
                low, high = bracket(pivots, masses, target)
                if not is_list:
                    src, n, is_list = shorten(row_ptr, vocab, best, 0.0, high, own_z, own_ids, CAPACITY, WIDE)
                reach = edge_by_mass(src, n, best, reach, 0.0, target, low, high, CHUNK)
            if min_p > 0.0:
                reach = tl.minimum(reach, distance_of_min_p(min_p))
                if not is_list:
                    src, n, is_list = shorten(row_ptr, vocab, best, 0.0, reach, own_z, own_ids, CAPACITY, WIDE)
            if typical_p < 1.0:
                mass, centre = mean_distance(src, n, best, reach, CHUNK)
                pivots, masses, _ = mass_by_pivot(src, n, best, reach, centre, CHUNK)
                target = mass_target(typical_p, mass)
                low, high = bracket(pivots, masses, target)
                if not is_list:
                    src, n, is_list = shorten(row_ptr, vocab, best, centre, high, own_z, own_ids, CAPACITY, WIDE)
                width = edge_by_mass(src, n, best, reach, centre, target, low, high, CHUNK)
            seed, position = tl.load(seeds_ptr + row), tl.load(positions_ptr + row)
            token, logit, mass = draw(src, own_ids, is_list, n, best, reach, centre, width, seed, position, CHUNK)
            log_mass = tl.log(mass.to(tl.float32) * _UNIT)
        else:
            token, logit = _merge_best(tile_score_ptr, tile_token_ptr, tile_logit_ptr, row, num_tiles, TILES)
        logprob = -(best - logit) - log_mass
    tl.store(token_ids_ptr + row, token.to(tl.int64))
    tl.store(logprobs_ptr + row, logprob)

    if DETAILS:
        top_n = tl.load(top_n_ptr + row)
        if top_n >= 0:
            distance = best - tl.load(row_ptr + token)
            distance = tl.where(distance >= 0, distance, 0.0)  # NaN where nothing is allowed: rank 1
            tl.store(ranks_ptr + row, rank(src, n, best, reach, centre, width, distance, CHUNK))
            if not bounded:
                bound = edge_by_count(group_ptr, num_groups, best, top_n, GROUPS)
                src, n, is_list = shorten(row_ptr, vocab, best, 0.0, bound, own_z, own_ids, CAPACITY, WIDE)
            top = row * WIDTH
            write_best(
                src,
                own_ids,
                is_list,
                n,
                best,
                reach,
                centre,
                width,
                top_n,
                log_mass,
                top_ids_ptr + top,
                top_logprobs_ptr + top,
                CHUNK,
                WIDTH,
            )
            tl.debug_barrier()  # the list is read to the end before it is written again

            raw_ptr = logits_ptr + row * vocab
            best, log_mass = _merge(raw_max_ptr, raw_sum_ptr, row, num_tiles, TILES)
            distance = best - clean(tl.load(raw_ptr + token))
            tl.store(raw_logprobs_ptr + row, tl.where(best > float("-inf"), -distance - log_mass, float("-inf")))
            distance = tl.where(distance >= 0, distance, 0.0)
            tl.store(raw_ranks_ptr + row, rank(raw_ptr, vocab, best, float("inf"), 0.0, float("inf"), distance, CHUNK))
            bound = edge_by_count(raw_group_max_ptr + row * num_groups, num_groups, best, top_n, GROUPS)
            src, n, is_list = shorten(raw_ptr, vocab, best, 0.0, bound, own_z, own_ids, CAPACITY, WIDE)
            write_best(
                src,
                own_ids,
                is_list,
                n,
                best,
                float("inf"),
                0.0,
                float("inf"),
                top_n,
                log_mass,
                raw_top_ids_ptr + top,
                raw_top_logprobs_ptr + top,
                CHUNK,
                WIDTH,
            )
