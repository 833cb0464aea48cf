"""fp8 e4m3 for Numba: 1 sign, 4 exponent bits (bias 7), 3 mantissa bits, largest 448, no infinity.

Micikevicius et al. 2022 (arXiv 2209.05433). Values travel as uint8; widen_fp8.py reads them.
"""

import numpy as np
from numba import njit

from .bf16 import bits_of_float

LARGEST = np.float32(448.0)
_MIN_NORMAL = np.float32(2.0**-6)
_SUBNORMAL_STEPS = np.float32(2.0**9)  # per unit, below the smallest normal


@njit
def round_to_fp8(value):
    """fp32 -> e4m3 bits, to nearest, ties to even; what is too large becomes the largest."""
    value = np.float32(value)
    sign = np.uint32(bits_of_float(value) >> np.uint32(24)) & np.uint32(0x80)
    magnitude = min(abs(value), LARGEST)
    if magnitude < _MIN_NORMAL:
        code = np.uint32(np.rint(magnitude * _SUBNORMAL_STEPS))
    else:
        bits = bits_of_float(magnitude)
        rounded = bits + np.uint32(0x7FFFF) + ((bits >> np.uint32(20)) & np.uint32(1))
        code = (rounded >> np.uint32(20)) - np.uint32((127 - 7) << 3)
    return np.uint8(sign | code)
