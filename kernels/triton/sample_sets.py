"""The allowed set of one row inside one program: edges found by bisection, candidates moved to a short list.

A source is an array of processed logits, the row itself or the list; ids of the list lie beside it. A token is known by
its key |r - centre|, r its distance below the best logit: with centre 0 the key is r, for typical-p the centre is the
mean distance. Keys are >= 0, so their fp32 bits sort like they do. Sums are of integers and don't depend on any order.
"""

import triton
import triton.language as tl

from .exact import clean, gumbel, plain_weight, weight, words_of

NO_TOKEN = tl.constexpr(0x7FFFFFFF)
INFINITE = tl.constexpr(0x7F800000)  # bits of infinity
MASSLESS = tl.constexpr(28.0)  # kernels/exact.py
PIVOTS = tl.constexpr(16)
# Relative error of a fp32 sum of a row's weights: 2^-24 for each of up to 2^10 additions in a lane.
SLACK = tl.constexpr(2.0**-14)


@triton.jit
def keys_of(src, n, start, best, reach, centre, CHUNK: tl.constexpr):
    """Distances and keys of one chunk of the source; infinite outside ``r <= reach``."""
    index = start + tl.arange(0, CHUNK)
    r = best - clean(tl.load(src + index, mask=index < n, other=float("-inf")))
    r = tl.where(r <= reach, r, float("inf"))
    return r, tl.abs(r - centre)


@triton.jit
def edge_by_count(src, n, best, target, CHUNK: tl.constexpr):
    """The smallest distance up to which ``target`` tokens lie (infinity if there are fewer)."""
    below = tl.full((), -1, tl.int32)
    edge = tl.full((), INFINITE, tl.int32)
    while edge - below > 1:
        middle = below + (edge - below) // 2
        count = tl.zeros((CHUNK,), tl.int32)
        for start in range(0, n, CHUNK):
            r, _ = keys_of(src, n, start, best, float("inf"), 0.0, CHUNK)
            count += (r.to(tl.int32, bitcast=True) <= middle).to(tl.int32)
        if tl.sum(count) >= target:
            edge = middle
        else:
            below = middle
    return edge.to(tl.float32, bitcast=True)


@triton.jit
def edge_by_mass(src, n, best, reach, centre, target, low, high, CHUNK: tl.constexpr):
    """The smallest key up to which the tokens with ``r <= reach`` weigh ``target``; it lies in [low, high]."""
    below = low.to(tl.int32, bitcast=True) - 1
    edge = high.to(tl.int32, bitcast=True)
    while edge - below > 1:
        middle = below + (edge - below) // 2
        mass = tl.zeros((CHUNK,), tl.int64)
        for start in range(0, n, CHUNK):
            r, key = keys_of(src, n, start, best, reach, centre, CHUNK)
            mass += tl.where(key.to(tl.int32, bitcast=True) <= middle, weight(r), 0)
        if tl.sum(mass) >= target:
            edge = middle
        else:
            below = middle
    return edge.to(tl.float32, bitcast=True)


@triton.jit
def mass_target(p, mass):
    """Weight that the kept tokens must reach: those above a kept one weigh less than p * mass."""
    return tl.ceil(p.to(tl.float64) * mass.to(tl.float64)).to(tl.int64)


@triton.jit
def pivot_keys():
    """fp32 [PIVOTS], closer together near 0 where the mass is."""
    steps = (tl.arange(0, PIVOTS) + 1).to(tl.float32) * (1.0 / PIVOTS)
    return steps * steps * MASSLESS


@triton.jit
def mass_by_pivot(src, n, best, reach, centre, CHUNK: tl.constexpr):
    """Weight up to each of PIVOTS keys.

    Returns the keys, the weights up to them in fp32, and the weight of all. For 16 sums an element, integers of 64 bits
    would take twice the time.
    """
    pivots = pivot_keys()
    masses = tl.zeros((PIVOTS, CHUNK), tl.float32)
    mass = tl.zeros((CHUNK,), tl.int64)
    for start in range(0, n, CHUNK):
        r, key = keys_of(src, n, start, best, reach, centre, CHUNK)
        w = plain_weight(r)
        mass += w.to(tl.int64)
        masses += tl.where(key[None, :] <= pivots[:, None], w[None, :], 0.0)
    return pivots, tl.sum(masses, axis=1), tl.sum(mass)


@triton.jit
def bracket(pivots, masses, target):
    """Two keys between which, for certain, lies the one up to which the tokens weigh ``target``."""
    target = target.to(tl.float32)
    low = tl.max(tl.where(masses < target * (1.0 - SLACK), pivots, 0.0), axis=0)
    high = tl.min(tl.where(masses >= target * (1.0 + SLACK), pivots, MASSLESS), axis=0)
    return low, high


@triton.jit
def mean_distance(src, n, best, reach, CHUNK: tl.constexpr):
    """Weight of the tokens with ``r <= reach`` and their mean distance: the entropy less the best token's surprise."""
    mass = tl.zeros((CHUNK,), tl.int64)
    moment = tl.zeros((CHUNK,), tl.int64)
    for start in range(0, n, CHUNK):
        r, _ = keys_of(src, n, start, best, reach, 0.0, CHUNK)
        w = weight(r)
        mass += w
        moment += (w.to(tl.float32) * tl.where(w > 0, r, 0.0)).to(tl.int64)
    mass = tl.sum(mass)
    return mass, (tl.sum(moment).to(tl.float64) / mass.to(tl.float64)).to(tl.float32)


@triton.jit
def shorten(
    row_ptr, n, best, centre, bound, list_z_ptr, list_ids_ptr,
    group_ptr,  # fp32 [num_groups], maxima of GROUP tokens
    near_ptr,  # int32 [num_groups] scratch
    num_groups,
    CAPACITY: tl.constexpr, CHUNK: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """List the row's unmasked tokens with a key of at most ``bound``, ascending in id.

    Where ``centre`` is 0 only groups are read that have such a token, which their maximum says. Returns the source to
    go on with and its length, and whether it is the list: with more than CAPACITY tokens, it is the row.
    """
    groups = tl.arange(0, GROUPS)
    nearest = best - tl.load(group_ptr + groups, mask=groups < num_groups, other=float("-inf"))
    is_near = (nearest < float("inf")) & (nearest <= tl.where(centre == 0.0, bound, float("inf")))
    near = tl.sum(is_near.to(tl.int32))
    tl.store(near_ptr + tl.cumsum(is_near.to(tl.int32), axis=0) - 1, groups, mask=is_near)
    tl.debug_barrier()  # what one thread wrote, others read from here on
    listed = tl.full((), 0, tl.int32)
    for start in range(0, near, CHUNK // GROUP):
        which = start + tl.arange(0, CHUNK // GROUP)
        group = tl.load(near_ptr + which, mask=which < near, other=n // GROUP + 1)  # past the row's end
        index = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        z = tl.load(row_ptr + index, mask=index < n, other=float("-inf"))  # in this shape loads are wide
        z, index = clean(tl.reshape(z, (CHUNK,))), tl.reshape(index, (CHUNK,))
        r = best - z
        wanted = (tl.abs(r - centre) <= bound) & (r < float("inf"))
        count = tl.sum(wanted.to(tl.int32))
        if count > 0:
            place = listed + tl.cumsum(wanted.to(tl.int32), axis=0) - 1
            keep = wanted & (place < CAPACITY)
            tl.store(list_z_ptr + place, z, mask=keep)
            tl.store(list_ids_ptr + place, index, mask=keep)
            listed += count
    tl.debug_barrier()  # what one thread wrote, others read from here on
    src = row_ptr
    is_list = listed <= CAPACITY
    if is_list:
        src = list_z_ptr
        n = listed
    return src, n, is_list


@triton.jit
def draw(src, ids_ptr, is_list, n, best, reach, centre, width, seed, position, CHUNK: tl.constexpr):
    """The best noised token with ``r <= reach`` and key <= ``width``, its logit, and the weight of all those."""
    top = tl.full((CHUNK,), float("-inf"), tl.float32)
    top_ids = tl.full((CHUNK,), NO_TOKEN, tl.int32)
    top_logits = top
    mass = tl.zeros((CHUNK,), tl.int64)
    for start in range(0, n, CHUNK):
        r, key = keys_of(src, n, start, best, reach, centre, CHUNK)
        allowed = (r < float("inf")) & (key <= width)
        if tl.sum(allowed.to(tl.int32)) > 0:
            index = start + tl.arange(0, CHUNK)
            z = tl.load(src + index, mask=allowed, other=float("-inf"))
            ids = index
            if is_list:
                ids = tl.load(ids_ptr + index, mask=allowed, other=0)
            mass += tl.where(allowed, weight(r), 0)
            scores = z + gumbel(words_of(seed, position, ids, 0))
            better = scores > top
            top = tl.where(better, scores, top)
            top_ids = tl.where(better, ids, top_ids)
            top_logits = tl.where(better, z, top_logits)
    token = tl.min(tl.where(top == tl.max(top), top_ids, NO_TOKEN))
    return token, tl.max(tl.where(top_ids == token, top_logits, float("-inf"))), tl.sum(mass)
