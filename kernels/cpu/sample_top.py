"""The best tokens of a row: what clients may want to know beside the token itself."""

import math

import numpy as np
from numba import njit

from .. import exact
from .candidates import block_distances, cut, edge_by_count, gather

_F = np.float32
_UNIT = 2.0**-exact.WEIGHT_BITS

kernel = njit(cache=True, error_model="numpy")


@kernel
def logprob(distance, mass):
    """Log of a token's share, from its distance below the best logit and the weight of all."""
    return _F(-np.float64(distance) - math.log(np.float64(mass) * _UNIT))


@kernel
def _best_of_list(r, ids, n, top_n, mass, top_ids, top_logprobs):
    """Write the list's tokens in ascending order of (r, id), up to the ``top_n``-th and its equals."""
    last = np.int64(-1)
    bits = r[:n].view(np.int32)
    for place in range(min(n, top_ids.size)):
        nearest = np.int64(0x7FFFFFFFFFFFFFFF)
        for i in range(n):
            key = (np.int64(bits[i]) << 32) | np.int64(ids[i])
            nearest = min(nearest, key if key > last else np.int64(0x7FFFFFFFFFFFFFFF))
        if place >= top_n and nearest >> 32 != last >> 32:
            break
        top_ids[place] = nearest & 0xFFFFFFFF
        top_logprobs[place] = logprob(np.int32(nearest >> 32).view(np.float32), mass)
        last = nearest


@kernel
def best_of_list(r, weights, ids, n, top_n, mass, top_ids, top_logprobs):
    """The best tokens of an allowed set; the list is cut."""
    n = cut(r, n, edge_by_count(r, n, top_n), r, weights, ids)
    _best_of_list(r, ids, n, top_n, mass, top_ids, top_logprobs)


@kernel
def best_of_row(z, best, top_n, mass, scratch_r, scratch_weights, scratch_ids, blocks, top_ids, top_logprobs):
    """The best tokens of a whole row."""
    num_blocks = block_distances(z, best, blocks)
    bound = edge_by_count(blocks, num_blocks, top_n)
    n = gather(z, best, blocks, num_blocks, bound, scratch_r, scratch_weights, scratch_ids)
    best_of_list(scratch_r, scratch_weights, scratch_ids, n, top_n, mass, top_ids, top_logprobs)
