"""Which rows a program of a grouped linear has: the pairs of a row and an expert lie sorted by expert (route.py)."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import triton
import triton.language as tl


@triton.jit
def find_group(starts_ptr, tile, EXPERTS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The expert of a tile of rows, its first row, and where the expert's rows end; no row of a tile past the last.

    starts_ptr: int32 [EXPERTS + 1]. BLOCK: power of two >= EXPERTS.
    """
    expert = tl.arange(0, BLOCK)
    start = tl.load(starts_ptr + expert, mask=expert < EXPERTS, other=0)
    end = tl.load(starts_ptr + expert + 1, mask=expert < EXPERTS, other=0)
    tiles = (end - start + BLOCK_ROWS - 1) // BLOCK_ROWS
    before = tl.cumsum(tiles, axis=0) - tiles
    is_own = (before <= tile) & (tile < before + tiles)
    found = tl.sum(tl.where(is_own, expert, 0), axis=0)
    first = tl.sum(tl.where(is_own, start + (tile - before) * BLOCK_ROWS, 0), axis=0)
    return found, first, tl.sum(tl.where(is_own, end, 0), axis=0)


class HasRows(Protocol):
    @property
    def rows(self) -> int: ...


Tile = TypeVar("Tile", bound=HasRows)


def choose_tile(tiles: Sequence[Tile], pairs: int, experts: int) -> Tile:
    """Of ascending rows, the largest that an expert's rows fill on average."""
    return max((tile for tile in tiles if tile.rows * experts <= pairs), key=lambda tile: tile.rows, default=tiles[0])


def most_tiles(pairs: int, experts: int, rows: int) -> int:
    """Tiles of so many rows that there can be, however the pairs fall on the experts."""
    return min(pairs, pairs // rows + min(experts, pairs))
