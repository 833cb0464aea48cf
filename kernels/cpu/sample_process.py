"""What happens to a row of logits before tokens are compared, in place, in the order of ``SamplingBatch``."""

import numpy as np
from numba import njit

from .exact import clean, ordered, unordered

_F, _I = np.float32, np.int32
LOWEST_KEY = _I(np.array(-np.inf, _F).view(np.int32) ^ 0x7FFFFFFF)
_LOWEST = _F(-np.inf)

kernel = njit(cache=True, error_model="numpy")


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
