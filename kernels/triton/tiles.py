"""Tile choices of the attention kernels: data, no logic. Read by the launchers and by the audit."""

from typing import NamedTuple

import torch


class Tile(NamedTuple):
    """How one role of the attention kernel is compiled for one head dim on one architecture."""

    rows: int  # packed (row, query head) pairs of one program; a power of two, at least the group size
    positions: int  # of K and V in one loop iteration; a power of two that divides 256
    warps: int
    stages: int  # K/V buffers that the compiler may have in flight
    blocks: int  # that fit on one multiprocessor at a time: the grid is this many for each


# A sequence whose packed rows fit in one few-rows tile takes that role; the others take many-rows.
FEW_ROWS = 16  # the smallest M of the tensor cores

# (compute capability, padded head dim) -> few rows, many rows
TILES: dict[tuple[int, int], tuple[Tile, Tile]] = {
    (80, 64): (Tile(FEW_ROWS, 64, 4, 3, 3), Tile(128, 64, 8, 3, 1)),
    (80, 128): (Tile(FEW_ROWS, 64, 4, 3, 3), Tile(128, 64, 8, 2, 1)),
    (80, 256): (Tile(FEW_ROWS, 32, 4, 3, 3), Tile(64, 32, 4, 2, 1)),
    (90, 64): (Tile(FEW_ROWS, 64, 4, 3, 3), Tile(128, 64, 8, 3, 1)),
    (90, 128): (Tile(FEW_ROWS, 64, 4, 3, 3), Tile(128, 64, 8, 3, 1)),
    (90, 256): (Tile(FEW_ROWS, 32, 4, 3, 3), Tile(64, 64, 8, 2, 1)),
    (100, 64): (Tile(FEW_ROWS, 64, 4, 3, 3), Tile(128, 64, 8, 3, 1)),
    (100, 128): (Tile(FEW_ROWS, 64, 4, 3, 3), Tile(128, 64, 8, 3, 1)),
    (100, 256): (Tile(FEW_ROWS, 32, 4, 3, 3), Tile(64, 64, 8, 2, 1)),
    (120, 64): (Tile(FEW_ROWS, 64, 4, 3, 3), Tile(128, 64, 8, 2, 1)),
    (120, 128): (Tile(FEW_ROWS, 32, 4, 3, 3), Tile(128, 64, 8, 2, 1)),
    (120, 256): (Tile(FEW_ROWS, 32, 4, 2, 3), Tile(64, 32, 4, 2, 1)),
}
_INTERPRETED = 90  # whose tiles the interpreter runs with


def device_arch(device: torch.device) -> int:
    """The newest architecture of the table that the device can run: 80, 90, 100 or 120."""
    if device.type != "cuda":
        return _INTERPRETED
    major, minor = torch.cuda.get_device_capability(device)
    known = [arch for arch, _ in TILES if arch <= major * 10 + minor]
    if not known:
        raise RuntimeError(f"compute capability {major}.{minor} is too old: 8.0 is the oldest that is supported")
    return max(known)


def device_programs(device: torch.device, per_multiprocessor: int) -> int:
    """Programs that fill the device: the constant grid of kernels that walk a list."""
    if device.type != "cuda":
        return 2  # the interpreter runs one program after the other; two still show whether the walk is right
    return torch.cuda.get_device_properties(device).multi_processor_count * per_multiprocessor
