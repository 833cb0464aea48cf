"""The softmax of attention: one row of scores, of which all are kept."""

import numpy as np
from numba import njit

from .exp import LOG2_E, exp2
from .stored import put
from .tile import LANES


@njit(inline="always", fastmath={"reassoc", "nnan"})
def _maximum(scores):
    largest = np.float32(-np.inf)
    for i in range(scores.shape[0]):
        largest = max(largest, scores[i])
    return largest


@njit(inline="always", fastmath={"contract"})
def cap(scores, cap_scale, softcap):
    """softcap * tanh(score * cap_scale); tanh x = 1 - 2 / (e^2x + 1)."""
    for i in range(scores.shape[0]):
        x = min(max(scores[i] * cap_scale, np.float32(-20.0)), np.float32(20.0))
        scores[i] = softcap * (np.float32(1.0) - np.float32(2.0) / (exp2(x * (LOG2_E + LOG2_E)) + np.float32(1.0)))


# 16 partial sums, each over its own lane of every panel: vectorised, and independent of where a chunk ended.
@njit(fastmath={"contract"})
def softmax_row(scores, probabilities, sums, begin, first, last, end, scale_log2):
    """exp2(scores - max) of positions first .. last into ``probabilities``, zeros elsewhere. Returns the sum.

    ``sums`` is scratch for LANES values.
    """
    scores[begin:first] = np.float32(0.0)
    scores[last:end] = np.float32(0.0)
    shown = scores[first:last]
    shift = _maximum(shown) * scale_log2
    for i in range(shown.shape[0]):
        shown[i] = exp2(shown[i] * scale_log2 - shift)
    sums[:] = np.float32(0.0)
    panels = scores[begin:end].reshape((end - begin) // LANES, LANES)
    for panel in range(panels.shape[0]):
        for lane in range(LANES):
            sums[lane] += panels[panel, lane]
    seen = scores[begin:end]
    for i in range(seen.shape[0]):
        put(probabilities, i, seen[i])
    total = np.float32(0.0)
    for lane in range(LANES):
        total += sums[lane]
    return total
