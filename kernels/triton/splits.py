"""Where a sequence's KV is cut into splits.

The cuts are at fixed absolute positions, the same for every sequence and every step: every 256 positions up to 4096,
every 512 up to 16384, every 1024 after that. So the splits of a row follow from its own position alone: whoever
computes it, in one program or in many, alone or within a chunk, sums the same splits in the same order.

256 positions of one KV head (128 dims, 16 bit) are 128 KiB to read, against 2 to 8 KiB of partial result to write;
longer sequences have enough splits to fill a GPU with longer ones, which halves what the merge reads.
"""

import triton
import triton.language as tl

SHORT_TOKENS = 256
MEDIUM_TOKENS = 512
LONG_TOKENS = 1024
MEDIUM_FROM = 16  # first split of the medium size, at position 4096
LONG_FROM = 40  # first split of the long size, at position 16384

_SHORT = tl.constexpr(SHORT_TOKENS)
_MEDIUM = tl.constexpr(MEDIUM_TOKENS)
_LONG = tl.constexpr(LONG_TOKENS)
_MEDIUM_FROM = tl.constexpr(MEDIUM_FROM)
_LONG_FROM = tl.constexpr(LONG_FROM)


@triton.jit
def split_start(split):
    """First position of a split; ``split_start(split + 1)`` is its end. Scalars or tensors."""
    short = tl.minimum(split, _MEDIUM_FROM)
    medium = tl.minimum(tl.maximum(split - _MEDIUM_FROM, 0), _LONG_FROM - _MEDIUM_FROM)
    long = tl.maximum(split - _LONG_FROM, 0)
    return short * _SHORT + medium * _MEDIUM + long * _LONG


@triton.jit
def split_of(position):
    """The split that holds a position >= 0. Scalars or tensors."""
    medium_start: tl.constexpr = _MEDIUM_FROM * _SHORT
    long_start: tl.constexpr = medium_start + (_LONG_FROM - _MEDIUM_FROM) * _MEDIUM
    medium = _MEDIUM_FROM + (position - medium_start) // _MEDIUM
    long = _LONG_FROM + (position - long_start) // _LONG
    return tl.where(position < medium_start, position // _SHORT, tl.where(position < long_start, medium, long))


def max_splits(tokens: int) -> int:
    """Splits of a sequence of ``tokens`` tokens, on the host."""
    medium_start = MEDIUM_FROM * SHORT_TOKENS
    long_start = medium_start + (LONG_FROM - MEDIUM_FROM) * MEDIUM_TOKENS
    if tokens <= medium_start:
        return -(-tokens // SHORT_TOKENS)
    if tokens <= long_start:
        return MEDIUM_FROM - (-(tokens - medium_start) // MEDIUM_TOKENS)
    return LONG_FROM - (-(tokens - long_start) // LONG_TOKENS)
