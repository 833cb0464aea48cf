"""Tile choices of the attention kernels: data, no logic. Read by the launchers and by the audit."""

from functools import cache
from typing import NamedTuple

import torch
import triton

from .. import Unsupported

REGISTERS = 65536  # of a multiprocessor, the same on all four architectures


class AdapterTile(NamedTuple):
    """How the two kernels of low-rank updates are compiled."""

    rows: int  # of a program: those of several adapters, one after the other
    inputs: int  # of one loop iteration
    outputs: int  # of one program
    splits: int  # of the inputs, each its own program, up to ``few_rows`` rows
    few_rows: int
    warps: int
    stages: int
    registers: int  # a thread may use; without a limit the compiler guesses one of its own, and spills


ADAPTER_TILE = AdapterTile(16, 128, 64, 8, 64, 4, 3, 128)


class Tile(NamedTuple):
    """How one role of the attention kernel is compiled for one head dim on one architecture."""

    rows: int  # packed (row, query head) pairs of one program; a power of two, at least the group size
    positions: int  # of K and V in one loop iteration; a power of two that divides 256
    warps: int
    stages: int  # K/V buffers that the compiler may have in flight
    blocks: int  # that fit on one multiprocessor at a time: the grid is this many for each
    # Branch around the causal mask of tiles that need none. Only wgmma gains: elsewhere the compiler no longer sees
    # that the two products are chained and sends P through shared memory (8.x, 12.x), or spills (10.x).
    mask_branch: bool = False

    @property
    def registers(self) -> int:
        """Registers a thread may use, so that ``blocks`` fit; without a limit the compiler guesses one of its own."""
        return min(REGISTERS // (self.warps * 32 * self.blocks) // 8 * 8, 255)


# (compute capability, padded head dim) -> few rows, many rows. A sequence whose packed rows fit in one few-rows tile
# takes that role; the others take many-rows. 8.6 and 8.9, with 99 KiB of shared memory a block, run the tiles of 8.0.
# The audit shows for each: no spills, two or more K/V buffers in flight.
#
# The roles of a line multiply with the same instruction, in the same steps of k, and divide a tile's positions among
# as many warps: so a row has the same bits in both, which the audit holds (Facts.order). Where rows are few, most of a
# tile of 64 rows is empty: the tensor cores have the time, as they wait for K and V.
TILES: dict[tuple[int, int], tuple[Tile, Tile]] = {
    (80, 64): (Tile(64, 64, 4, 3, 2), Tile(128, 64, 8, 3, 1)),
    (80, 128): (Tile(16, 64, 8, 3, 2), Tile(64, 64, 8, 3, 1)),
    (80, 256): (Tile(16, 32, 8, 3, 2), Tile(32, 32, 8, 3, 1)),
    (90, 64): (Tile(64, 64, 4, 3, 3), Tile(128, 64, 8, 3, 1, mask_branch=True)),
    (90, 128): (Tile(64, 64, 4, 3, 2), Tile(128, 64, 8, 3, 1, mask_branch=True)),
    (90, 256): (Tile(64, 32, 8, 3, 1), Tile(64, 32, 8, 3, 1, mask_branch=True)),
    (100, 64): (Tile(64, 64, 8, 3, 1), Tile(64, 64, 8, 3, 1)),
    (100, 128): (Tile(64, 32, 8, 4, 1), Tile(64, 32, 8, 4, 1)),
    (100, 256): (Tile(16, 32, 8, 3, 2), Tile(32, 32, 8, 3, 1)),
    (120, 64): (Tile(64, 64, 4, 3, 2), Tile(128, 64, 8, 3, 1)),
    (120, 128): (Tile(16, 32, 8, 3, 2), Tile(64, 32, 8, 3, 1)),
    (120, 256): (Tile(16, 32, 8, 3, 1), Tile(32, 32, 8, 3, 1)),
}


class Gpu(NamedTuple):
    """What the launchers need to know of a device."""

    arch: int  # the newest of the table that the device can run: 80, 90, 100 or 120
    multiprocessors: int  # grids of kernels that walk a list are multiples of it
    converts_fp8: bool = True  # from 8.9 on


FP8_CAPABILITY = (8, 9)  # the first whose conversions Triton compiles

# The interpreter runs one program after the other; two still show whether a list is walked right.
INTERPRETER = Gpu(arch=90, multiprocessors=2)


@cache
def gpu_of(device: torch.device) -> Gpu:
    """Look the device up. Raises Unsupported where it is too old."""
    if device.type != "cuda":
        return INTERPRETER
    properties = torch.cuda.get_device_properties(device)
    known = [arch for arch, _ in TILES if arch <= properties.major * 10 + properties.minor]
    if not known:
        found = f"{properties.major}.{properties.minor}"
        raise Unsupported(f"compute capability {found} is too old: 8.0 is the oldest that is supported")
    return Gpu(max(known), properties.multi_processor_count, (properties.major, properties.minor) >= FP8_CAPABILITY)


def attention_tiles(gpu: Gpu, group: int, head_dim: int) -> tuple[Tile, Tile]:
    """Few rows, many rows. ``group``: query heads that share a KV head. Raises Unsupported."""
    found = TILES.get((gpu.arch, triton.next_power_of_2(head_dim)))
    if found is None:
        least, most = (limit(dim for arch, dim in TILES if arch == gpu.arch) for limit in (min, max))
        raise Unsupported(f"heads of {head_dim} dims: attention has tiles for {least // 2 + 1} to {most}")
    if group > found[0].rows:
        raise Unsupported(f"{group} query heads share a KV head: attention packs up to {found[0].rows}")
    return found


def check_pages(pages: torch.Tensor) -> None:
    """Raises Unsupported where the pages' dtype cannot be converted."""
    if pages.element_size() == 1 and not gpu_of(pages.device).converts_fp8:
        raise Unsupported(f"fp8 pages need compute capability {'.'.join(map(str, FP8_CAPABILITY))}")
