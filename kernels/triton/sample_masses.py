"""The sampler's kernel between its two others: the weights of rows with top-p alone, by all multiprocessors."""

import triton
import triton.language as tl

from .sample_fields import load_bounds
from .sample_sets import PIVOTS, mass_by_pivot, pivot_keys
from .sample_tiles import MAXIMUM, TILE_WORDS

_CHUNK = tl.constexpr(1024)  # tokens per iteration


@triton.jit
def masses_kernel(
    z_ptr,  # fp32 [rows, vocab], processed
    fields_ptr,  # int32 [fields, stride]
    tiles_ptr,  # what the tiles left, see tiles_kernel
    masses_ptr,  # fp32 [rows, PARTS, PIVOTS] out: see mass_by_pivot, of each part of a row
    totals_ptr,  # int64 [rows, PARTS] out
    stride,
    vocab,
    num_tiles,
    FULL: tl.constexpr,
    TILES: tl.constexpr,  # power of two, at least num_tiles
    PARTS: tl.constexpr,
):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    top_k, top_p, _, _, bounded = load_bounds(fields_ptr, stride, row, vocab, FULL)
    if bounded & (top_p < 1.0) & (top_k == 0):  # else the other kernel has a short list, or no need
        tiles = tl.arange(0, TILES)
        maxima_ptr = tiles_ptr + (row * TILE_WORDS + MAXIMUM) * num_tiles
        best = tl.max(tl.load(maxima_ptr + tiles, mask=tiles < num_tiles, other=float("-inf")), axis=0)
        size = (vocab + PARTS * _CHUNK - 1) // (PARTS * _CHUNK) * _CHUNK
        first = part * size
        n = tl.maximum(tl.minimum(vocab - first, size), 0)
        _keys, masses, total = mass_by_pivot(z_ptr + row * vocab + first, n, best, float("inf"), 0.0, _CHUNK)
        at = row * PARTS + part
        tl.store(masses_ptr + at * PIVOTS + tl.arange(0, PIVOTS), masses)
        tl.store(totals_ptr + at, total)


@triton.jit
def merged_masses(masses_ptr, totals_ptr, row, PARTS: tl.constexpr):
    """What mass_by_pivot returns of a whole row."""
    parts = tl.arange(0, PARTS)
    at = row * PARTS + parts
    masses = tl.load(masses_ptr + at[:, None] * PIVOTS + tl.arange(0, PIVOTS)[None, :])
    return pivot_keys(), tl.sum(masses, axis=0), tl.sum(tl.load(totals_ptr + at), axis=0)
