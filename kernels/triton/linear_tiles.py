"""Tile choices of the linear kernel, and how a weight's inputs are divided: data, next to no logic.

What decides the order of a sum depends on the weight's shape alone: the segments, here, and the instruction, which is
the same in all tiles of an architecture but for the rows and outputs that it has (the audit holds that).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import triton


class LinearTile(NamedTuple):
    """How the kernel is compiled for steps of up to ``most`` rows, more than the tile before it is for."""

    most: int
    rows: int  # of one program
    outputs: int
    inputs: int  # of one loop iteration
    warps: int
    stages: int

    @property
    def is_split(self) -> bool:
        """Whether each segment has a program of its own."""
        return self.most <= SPLIT_ROWS


SPLIT_ROWS = 256
_ANY = 1 << 31
# Outputs of a program: 64 rows of wgmma are one warp group's.
_FEW = (LinearTile(16, 16, 64, 128, 4, 4), LinearTile(32, 32, 64, 128, 4, 4), LinearTile(64, 64, 64, 128, 4, 3))
_FEW_99_KIB = (  # of shared memory, which 8.6, 8.9 and 12.x have; with 128 inputs of 64 rows the compiler spills
    LinearTile(16, 16, 64, 128, 4, 3), LinearTile(32, 32, 64, 128, 4, 3), LinearTile(64, 64, 64, 64, 4, 4)
)  # fmt: skip
_SPLIT = LinearTile(SPLIT_ROWS, 128, 64, 64, 4, 4)
_MANY = LinearTile(_ANY, 128, 128, 64, 8, 3)
_WIDE = LinearTile(_ANY, 256, 128, 64, 8, 3)
_BEFORE_WIDE = 1023  # rows: wide tiles of fewer leave multiprocessors without one
_FP32 = (LinearTile(16, 16, 64, 32, 4, 3), LinearTile(SPLIT_ROWS, 64, 64, 32, 4, 3), LinearTile(_ANY, 64, 64, 32, 4, 3))

_SEGMENTED_OUTPUTS = 8192  # fewer are not enough programs of 64 outputs for 132 multiprocessors
_MOST_SEGMENTS = 4
_LEAST_INPUTS = 512  # of a segment
SEGMENT_STEP = 128  # a multiple of all tiles' inputs


_of_any_shard = False


@contextmanager
def sums_of_any_shard() -> Iterator[None]:
    """Linears made within it take sums in an order that doesn't depend on how many outputs their rank has."""
    global _of_any_shard
    before, _of_any_shard = _of_any_shard, True
    try:
        yield
    finally:
        _of_any_shard = before


def segments_of(outputs: int, inputs: int) -> tuple[int, int]:
    """How many segments the inputs of a weight have, and inputs of one; the last may have fewer."""
    if _of_any_shard:
        outputs = 1
    wanted = min(triton.cdiv(_SEGMENTED_OUTPUTS, outputs), _MOST_SEGMENTS, max(inputs // _LEAST_INPUTS, 1))
    size = triton.cdiv(triton.cdiv(inputs, wanted), SEGMENT_STEP) * SEGMENT_STEP
    return triton.cdiv(inputs, size), size


def linear_tiles(arch: int, segments: int, itemsize: int) -> tuple[LinearTile, ...]:
    """Ascending rows. ``itemsize``: bytes of a row's value; products of fp32 take the registers of three in 16 bits."""
    if itemsize > 2:
        return _FP32
    if arch in (90, 100):
        # A second sum beside the first leaves no registers for wide tiles.
        many = (_MANY._replace(most=_BEFORE_WIDE), _WIDE) if segments == 1 else (_MANY,)
        return (*_FEW, _SPLIT, *many)
    return (*_FEW_99_KIB, _SPLIT._replace(stages=3), _MANY)


def expert_tiles(arch: int, itemsize: int) -> tuple[LinearTile, ...]:
    """Ascending rows, for linears of which each serves some of the rows: a sum there has one segment."""
    if itemsize > 2:
        return _FP32[:2]
    small, _, medium, _, large = linear_tiles(arch, 2, itemsize)
    return small, medium, large


def register_limit(weight_dtype: torch.dtype) -> int | None:
    """Of a thread; None: the compiler guesses one. Widening 8 bits takes more than it guesses: it would spill."""
    return 255 if weight_dtype.itemsize == 1 else None


def choose_tile(tiles: tuple[LinearTile, ...], rows: int) -> LinearTile:
    """The one that is for so many rows."""
    return next(tile for tile in tiles if rows <= tile.most)
