"""Tile choices of the linear kernel of block-quantised weights, and how a weight's inputs are divided: data, next to no
logic. As in linear_tiles.py, what decides the order of a sum depends on the weight's shape alone.
"""

from typing import NamedTuple

import triton

from .tiles import REGISTERS


class BlockTile(NamedTuple):
    """How the kernel is compiled for up to ``rows`` rows."""

    rows: int
    outputs: int  # of one program
    warps: int
    steps: int  # blocks of one turn of the loop
    stages: int
    blocks: int  # that the registers of a multiprocessor have to be enough for

    @property
    def registers(self) -> int:
        """Registers a thread may use; without a limit the compiler guesses one of its own, and spills."""
        return min(REGISTERS // (self.warps * 32 * self.blocks) // 8 * 8, 255)


# By the inputs of a block; ascending rows, the last one serves all larger batches. 64 outputs of four warps are what
# wgmma takes.
_FEW = {
    64: (BlockTile(16, 64, 4, 2, 4, 4), BlockTile(32, 64, 4, 1, 4, 3)),
    128: (BlockTile(16, 64, 4, 1, 4, 3), BlockTile(32, 64, 4, 1, 3, 3)),
    256: (BlockTile(16, 64, 4, 1, 3, 2),),
}
_MANY = {
    64: (BlockTile(64, 64, 4, 1, 3, 2), BlockTile(128, 128, 8, 1, 3, 1)),
    128: (BlockTile(32, 64, 4, 1, 3, 2),),
    256: (BlockTile(32, 64, 4, 1, 3, 2),),
}
# On 10.x, two warps: with four or eight the compiler takes tcgen05, for which each sum goes through tensor memory to be
# scaled; from 128 outputs on what Triton 3.7 makes of that only traps.
_TILES_100 = {
    64: (BlockTile(8, 64, 2, 2, 4, 8), BlockTile(16, 64, 2, 2, 3, 6), BlockTile(32, 64, 2, 1, 3, 4)),
    128: (BlockTile(8, 64, 2, 1, 4, 6), BlockTile(32, 64, 2, 1, 3, 4)),
    256: (BlockTile(8, 64, 2, 1, 3, 4), BlockTile(16, 64, 2, 1, 3, 4)),
}
SPLIT_ROWS = 64  # of more, one program sums all segments
SUMMED_ROWS = 33  # so many and more are summed by a launch of its own, where a form has minima
SINGLE_SEGMENT_OUTPUTS = 16384  # fewer are not enough programs of 64 outputs for 132 multiprocessors
_MOST_SEGMENTS = 4
SEGMENT_STEP = 512  # inputs: a multiple of all blocks times steps


def segments_of(outputs: int, inputs: int) -> tuple[int, int]:
    """How many segments the inputs of a weight have, and inputs of one; the last may have fewer."""
    wanted = min(triton.cdiv(SINGLE_SEGMENT_OUTPUTS, outputs), _MOST_SEGMENTS, max(inputs // SEGMENT_STEP, 1))
    size = triton.cdiv(triton.cdiv(inputs, wanted), SEGMENT_STEP) * SEGMENT_STEP
    return triton.cdiv(inputs, size), size


def block_tiles(arch: int, block: int, bits: int, is_segmented: bool) -> tuple[BlockTile, ...]:
    """Ascending rows. ``arch``: of tiles.Gpu; ``block``, ``bits``: of the form, see block_form.py."""
    few = 128 if bits == 8 and block == 64 else block  # 99 KiB of shared memory hold no more of 8 bits
    if arch == 100:
        return _TILES_100[few]
    many = _MANY[block]
    # A second sum beside the first leaves no registers for wide tiles.
    return _FEW[few] + (many[:1] if is_segmented else many)
