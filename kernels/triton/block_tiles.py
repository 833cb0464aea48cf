"""Tile choices of the linear kernel of block-quantised weights: data, no logic."""

from typing import NamedTuple

from .tiles import REGISTERS


class BlockTile(NamedTuple):
    """How the kernel is compiled for up to ``rows`` rows."""

    rows: int
    outputs: int  # of one program
    splits: int  # warps that take the inputs in turn, each for all outputs of the program; 1: warps divide the outputs
    steps: int  # blocks that a split takes in one turn of the loop
    warps: int
    stages: int
    blocks: int  # that the registers of a multiprocessor have to be enough for

    @property
    def registers(self) -> int:
        """Registers a thread may use; without a limit the compiler guesses one of its own, and spills."""
        return min(REGISTERS // (self.warps * 32 * self.blocks) // 8 * 8, 255)


# By the inputs of a block; ascending rows, the last one serves all larger batches. 32 outputs of a program give 4096
# outputs 128 programs. Larger blocks have more codes in flight: their tiles are smaller, so that nothing is spilled.
_FEW_ROWS = {
    64: (BlockTile(8, 32, 4, 2, 4, 4, 4), BlockTile(16, 32, 4, 2, 4, 4, 2)),
    128: (BlockTile(8, 32, 4, 1, 4, 4, 2), BlockTile(16, 32, 4, 1, 4, 3, 2)),
    256: (BlockTile(8, 32, 4, 1, 4, 3, 2), BlockTile(16, 32, 2, 1, 2, 3, 2)),
}
_MANY_ROWS = {
    64: (BlockTile(32, 32, 4, 1, 4, 4, 2), BlockTile(64, 64, 1, 1, 4, 3, 3), BlockTile(128, 128, 1, 1, 8, 3, 1)),
    128: (BlockTile(32, 64, 1, 1, 4, 3, 2),),
    256: (BlockTile(32, 64, 1, 1, 4, 3, 2),),
}
# On 10.x, two warps: with four or eight the compiler takes tcgen05, for which each sum goes through tensor memory to be
# scaled; from 128 outputs on what Triton 3.7 makes of that only traps.
_MANY_ROWS_100 = {
    64: (BlockTile(32, 64, 1, 1, 2, 3, 4),),
    128: (BlockTile(32, 64, 1, 1, 2, 3, 4),),
    256: (BlockTile(16, 64, 1, 1, 2, 3, 4),),
}


def block_tiles(arch: int, block: int, bits: int) -> tuple[BlockTile, ...]:
    """Ascending rows. ``arch``: of tiles.Gpu; ``block``, ``bits``: of the form, see block_form.py."""
    few = _FEW_ROWS[128 if bits == 8 and block == 64 else block]  # 99 KiB of shared memory hold no more of 8 bits
    return few + (_MANY_ROWS_100 if arch == 100 else _MANY_ROWS)[block]
