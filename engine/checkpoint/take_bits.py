"""Codes of a few bits out of bytes, in one pass and without Python's lock: several threads read a file's weights."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(nogil=True, cache=True)
def take_bits(parts: NDArray[np.uint8], shifts: tuple[int, ...], bits: int, codes: NDArray[np.uint8]) -> None:
    """[blocks, parts, n] -> codes [blocks, parts, shifts * n]: ``bits`` of all bytes at a shift, then at the next."""
    blocks, many, n = parts.shape
    mask = np.uint8((1 << bits) - 1)
    for block in range(blocks):
        for part in range(many):
            for place, shift in enumerate(shifts):
                for i in range(n):
                    codes[block, part, place * n + i] = parts[block, part, i] >> np.uint8(shift) & mask
