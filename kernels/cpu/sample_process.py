"""What happens to a row of logits before tokens are compared, in place, in the order of ``SamplingBatch``."""

import numpy as np
from numba import njit

from .. import exact
from .exact import clean, ordered, philox, unordered

_F, _I, _U = np.float32, np.int32, np.uint32
LOWEST_KEY = _I(np.array(-np.inf, _F).view(np.int32) ^ 0x7FFFFFFF)
_LOWEST = _F(-np.inf)
_WATERMARK_KEY = np.uint64(exact.WATERMARK_KEY)
_WATERMARK_DOMAIN = _U(exact.WATERMARK_DOMAIN)
_BLOCK = 256  # random words at a time: they stay in the first-level cache

kernel = njit(cache=True, error_model="numpy")


@kernel
def add_watermark(z, previous, threshold, delta, words):
    """Add ``delta`` to the green tokens: those whose word, keyed by the token before, is below ``threshold``."""
    key = np.uint64(previous) * _WATERMARK_KEY
    key0, key1 = _U(key), _U(key >> np.uint64(32))
    for start in range(0, z.size, _BLOCK):
        for c in range(_BLOCK // 4):
            w0, w1, w2, w3 = philox(key0, key1, _U(start // 4 + c), _U(0), _U(0), _WATERMARK_DOMAIN)
            words[4 * c] = w0
            words[4 * c + 1] = w1
            words[4 * c + 2] = w2
            words[4 * c + 3] = w3
        for i in range(min(_BLOCK, z.size - start)):
            x = z[start + i]
            z[start + i] = x + delta if words[i] < threshold else x


@kernel
def add_biases(z, ids, values):
    for i in range(ids.size):
        z[ids[i]] += values[i]


@kernel
def penalise(z, counts, repetition, frequency, length):
    """Repetition and frequency penalty over prompt and output, ``length`` tokens together."""
    length = _F(max(length, 1))
    for i in range(z.size):
        x = z[i]
        repeated = x * repetition if x < _F(0) else x / repetition
        x = repeated if counts[i] > 0 else x
        z[i] = x - (_F(counts[i]) / length) * frequency


@kernel
def penalise_output(z, counts, frequency, presence):
    """Frequency and presence penalty over the output alone."""
    for i in range(z.size):
        x = z[i] - _F(counts[i]) * frequency
        z[i] = x - (presence if counts[i] > 0 else _F(0))


@kernel
def forbid(z, bits):
    """Keep what the grammar's bits allow."""
    for i in range(z.size):
        z[i] = z[i] if (bits[i >> 5] >> (i & 31)) & 1 else _LOWEST


@kernel
def scale(z, factor):
    """Temperature, and no NaN from here on. Returns the largest logit."""
    best = LOWEST_KEY
    for i in range(z.size):
        x = clean(z[i] * factor)
        z[i] = x
        best = max(best, ordered(x))
    return unordered(_I(best))
