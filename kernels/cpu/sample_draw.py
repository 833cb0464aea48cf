"""The best noised token of a row, or of a list of its tokens."""

import numpy as np
from numba import njit

from .exact import gumbel, inline, ordered, philox, unordered
from .sample_process import LOWEST_KEY

_I, _U = np.int32, np.uint32
NOISE_BLOCK = 256  # noised logits at a time: they stay in the first-level cache

kernel = njit(cache=True, error_model="numpy")


@kernel
def first(z, value):
    """The lowest index with that value; 0 if there is none."""
    for start in range(0, z.size, NOISE_BLOCK):
        block = z[start : start + NOISE_BLOCK]
        here = _I(0)
        for i in range(block.size):  # without an exit, so that it vectorises
            here |= _I(block[i] == value)
        if here:
            for i in range(block.size):
                if block[i] == value:
                    return start + i
    return 0


@inline
def _words(seed, position, counter):
    """The random words of the tokens 4 * counter .. 4 * counter + 3."""
    key, place = np.uint64(seed), np.uint64(position)
    high = np.uint64(32)
    return philox(_U(key), _U(key >> high), _U(counter), _U(place), _U(place >> high), _U(0))


@kernel
def draw_all(z, seed, position, words):
    """The best noised token of a whole row. ``words``: uint32 [NOISE_BLOCK] scratch."""
    best, token = LOWEST_KEY, 0
    noised = words.view(np.float32)
    for start in range(0, z.size, NOISE_BLOCK):
        for c in range(NOISE_BLOCK // 4):
            w0, w1, w2, w3 = _words(seed, position, start // 4 + c)
            words[4 * c] = w0
            words[4 * c + 1] = w1
            words[4 * c + 2] = w2
            words[4 * c + 3] = w3
        count = min(NOISE_BLOCK, z.size - start)
        block_best = LOWEST_KEY
        for i in range(count):
            x = z[start + i] + gumbel(words[i])
            noised[i] = x
            block_best = max(block_best, ordered(x))
        if block_best > best:
            best = block_best
            token = start + first(noised[:count], unordered(_I(block_best)))
    return token


@kernel
def draw_listed(z, seed, position, ids, n, words):
    """The best noised token of a list, which ascends in id. Loops apart, so that all but the gather vectorise."""
    best, token = LOWEST_KEY, 0
    noised = words.view(np.float32)
    for start in range(0, n, NOISE_BLOCK):
        count = min(NOISE_BLOCK, n - start)
        for i in range(count):
            token_id = _U(ids[start + i])
            w0, w1, w2, w3 = _words(seed, position, token_id >> _U(2))
            odd, late = (token_id & _U(1)) > 0, (token_id & _U(2)) > 0
            low, high = w1 if odd else w0, w3 if odd else w2
            words[i] = high if late else low
        for i in range(count):
            noised[i] = gumbel(words[i])
        block_best = LOWEST_KEY
        for i in range(count):
            x = z[ids[start + i]] + noised[i]
            noised[i] = x
            block_best = max(block_best, ordered(x))
        if block_best > best:
            best = block_best
            token = ids[start + first(noised[:count], unordered(_I(block_best)))]
    return token
