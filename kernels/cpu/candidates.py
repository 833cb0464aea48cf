"""The allowed set of one row as a short list: gathered by a bound, cut by exact edges. Nothing is sorted.

A token is known by its distance r >= 0 below the row's best logit. For r the fp32 bits sort like the values, so an
edge is found by bisecting over the bits, 31 rounds at most, each a vectorised pass over the list.
"""

import numpy as np
from numba import njit

from .. import exact
from .exact import inline, ln, weight

BLOCK = 64  # tokens per block maximum: the k-th best block bounds the k-th best token from below
_I = np.int32
_F = np.float32
_MASSLESS = _F(exact.MASSLESS)
_LOWEST_MIN_P = _F(exact.LOWEST_MIN_P)
_INFINITE = _I(0x7F800000)
BUCKETS_PER_NAT = 32
BUCKETS = int(exact.MASSLESS) * BUCKETS_PER_NAT + 1
_BUCKETS_PER_NAT = _F(BUCKETS_PER_NAT)

kernel = njit(cache=True, error_model="numpy")


@inline
def _kept(keys, n, edge):
    """Tokens of the list whose key is at most the float with the bits ``edge``."""
    count = np.int64(0)
    bits = keys[:n].view(np.int32)
    for i in range(n):
        count += _I(bits[i] <= edge)
    return count


@inline
def _mass(keys, weights, n, edge):
    """Their weight."""
    mass = np.int64(0)
    bits = keys[:n].view(np.int32)
    for i in range(n):
        mass += weights[i] if bits[i] <= edge else np.int64(0)
    return mass


@kernel
def edge_by_count(keys, n, target):
    """The smallest key up to which ``target`` tokens lie (infinity if there are fewer); keys >= 0."""
    if n < target:
        return _F(np.inf)
    below, edge = _I(-1), _INFINITE
    while edge - below > 1:
        middle = _I(below + (edge - below) // 2)
        if _kept(keys, n, middle) >= target:
            edge = middle
        else:
            below = middle
    return _I(edge).view(np.float32)


@kernel
def edge_by_mass(keys, weights, n, target, low, high):
    """The smallest key up to which the tokens weigh ``target``; known to be at least ``low`` and at most ``high``."""
    below, edge = _I(_F(low).view(np.int32) - 1), _F(high).view(np.int32)
    while edge - below > 1:
        middle = _I(below + (edge - below) // 2)
        if _mass(keys, weights, n, middle) >= target:
            edge = middle
        else:
            below = middle
    return _I(edge).view(np.float32)


@kernel
def total(z, best):
    """Weight of a whole row."""
    mass = np.int64(0)
    for i in range(z.size):
        mass += weight(best - z[i])
    return mass


@kernel
def block_distances(z, best, out):
    """Distance of each block's best token; returns the number of blocks."""
    blocks = (z.size + BLOCK - 1) // BLOCK
    for block in range(blocks):
        nearest = _INFINITE
        for i in range(block * BLOCK, min(block * BLOCK + BLOCK, z.size)):
            bits = _F(best - z[i]).view(np.int32)
            nearest = bits if bits < nearest else nearest
        out[block] = _I(nearest).view(np.float32)
    return blocks


@kernel
def gather(z, best, blocks, num_blocks, bound, r, weights, ids):
    """List the unmasked tokens with a distance of at most ``bound``, ascending in id. Returns their number."""
    n = 0
    for block in range(num_blocks):
        if blocks[block] <= bound:
            for i in range(block * BLOCK, min(block * BLOCK + BLOCK, z.size)):
                distance = best - z[i]
                if distance <= bound and distance < _F(np.inf):
                    r[n] = distance
                    ids[n] = i
                    n += 1
    for i in range(n):
        weights[i] = weight(r[i])
    return n


@kernel
def cut(keys, n, edge, r, weights, ids):
    """Keep the listed tokens whose key is at most ``edge``. Returns their number."""
    kept = 0
    for i in range(n):
        if keys[i] <= edge:
            r[kept] = r[i]
            weights[kept] = weights[i]
            ids[kept] = ids[i]
            kept += 1
    return kept


@kernel
def mass_target(p, mass):
    """Weight that the kept tokens must reach: those above a kept one weigh less than p * mass."""
    return np.int64(np.ceil(np.float64(p) * np.float64(mass)))


@kernel
def mass_by_distance(z, best, histogram, weights):
    """Weight of the row's tokens by distance, in buckets of 1 / BUCKETS_PER_NAT. Returns the weight of all."""
    histogram[:] = 0
    for start in range(0, z.size, BLOCK):
        count = min(BLOCK, z.size - start)
        for i in range(count):  # apart from the loop below, so that it vectorises
            weights[i] = weight(best - z[start + i])
        for i in range(count):
            if weights[i] > 0:
                histogram[int((best - z[start + i]) * _BUCKETS_PER_NAT)] += weights[i]
    return histogram.sum()


@kernel
def edge_bucket(histogram, target):
    """The bucket in which the running weight reaches ``target``."""
    bucket, mass = 0, histogram[0]
    while mass < target:
        bucket += 1
        mass += histogram[bucket]
    return bucket


@kernel
def mean_distance(r, weights, n):
    """Mean distance of the listed tokens."""
    moment = np.int64(0)
    for i in range(n):
        moment += np.int64(_F(weights[i]) * r[i])
    return _F(np.float64(moment) / np.float64(weights[:n].sum()))


@kernel
def allowed(z, best, top_k, top_p, min_p, typical_p, r, weights, ids, blocks, histogram, keys):
    """List the allowed set of a row. Returns its size; the last five arguments and ``r`` are scratch or out."""
    num_blocks = block_distances(z, best, blocks)
    n = -1  # no list yet
    low, high = _F(0), _MASSLESS
    if top_k > 0:
        n = gather(z, best, blocks, num_blocks, edge_by_count(blocks, num_blocks, top_k), r, weights, ids)
        n = cut(r, n, edge_by_count(r, n, top_k), r, weights, ids)
    if top_p < _F(1):
        if n >= 0:
            target = mass_target(top_p, weights[:n].sum())
        else:
            target = mass_target(top_p, mass_by_distance(z, best, histogram, weights))
            bucket = edge_bucket(histogram, target)
            low, high = _F(bucket / BUCKETS_PER_NAT), _F((bucket + 1) / BUCKETS_PER_NAT)
            n = gather(z, best, blocks, num_blocks, high, r, weights, ids)
        n = cut(r, n, edge_by_mass(r, weights, n, target, low, high), r, weights, ids)
    if min_p > _F(0):
        edge = max(-ln(max(min_p, _LOWEST_MIN_P)), _F(0))
        if n >= 0:
            n = cut(r, n, edge, r, weights, ids)
        else:
            n = gather(z, best, blocks, num_blocks, edge, r, weights, ids)
    if typical_p < _F(1):
        if n < 0:
            n = gather(z, best, blocks, num_blocks, _MASSLESS, r, weights, ids)
        centre = mean_distance(r, weights, n)
        for i in range(n):
            keys[i] = abs(r[i] - centre)
        target = mass_target(typical_p, weights[:n].sum())
        n = cut(keys, n, edge_by_mass(keys, weights, n, target, _F(0), _MASSLESS), r, weights, ids)
    return n
