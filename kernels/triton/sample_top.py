"""The best tokens of a row or list: what clients may want to know beside the token itself."""

import triton
import triton.language as tl

from .sample_sets import keys_of

_NONE = tl.constexpr(0x7FFFFFFFFFFFFFFF)


@triton.jit
def write_best(
    src,
    ids_ptr,
    is_list,
    n,
    best,
    reach,
    centre,
    width,
    top_n,
    log_mass,
    top_ids_ptr,  # int64 [WIDTH] out
    top_logprobs_ptr,  # fp32 [WIDTH] out
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write the allowed tokens in ascending order of (r, id), up to the ``top_n``-th and its equals."""
    places = tl.arange(0, WIDTH)
    top_ids = tl.full((WIDTH,), -1, tl.int64)
    top_logprobs = tl.full((WIDTH,), float("-inf"), tl.float32)
    last = tl.full((), -1, tl.int64)
    place = tl.full((), 0, tl.int32)
    more = top_n > 0
    while more:
        nearest = tl.full((CHUNK,), _NONE, tl.int64)
        for start in range(0, n, CHUNK):
            r, key = keys_of(src, n, start, best, reach, centre, CHUNK)
            index = start + tl.arange(0, CHUNK)
            ids = index
            if is_list:
                ids = tl.load(ids_ptr + index, mask=index < n, other=0)
            order = (r.to(tl.int32, bitcast=True).to(tl.int64) << 32) | ids.to(tl.int64)
            later = (r < float("inf")) & (key <= width) & (order > last)
            nearest = tl.minimum(nearest, tl.where(later, order, _NONE))
        found = tl.min(nearest)
        more = (found < _NONE) & ((place < top_n) | ((found >> 32) == (last >> 32)))
        if more:
            logprob = -(found >> 32).to(tl.int32).to(tl.float32, bitcast=True) - log_mass
            top_ids = tl.where(places == place, found & 0xFFFFFFFF, top_ids)
            top_logprobs = tl.where(places == place, logprob, top_logprobs)
            last = found
            place += 1
            more = place < WIDTH
    tl.store(top_ids_ptr + places, top_ids)
    tl.store(top_logprobs_ptr + places, top_logprobs)
