"""Where the programs of a linear that share a tile leave their sums."""

from typing import NamedTuple

import torch


class Workspace(NamedTuple):
    """Where programs that share a tile leave their sums. One for all linears: they run one after the other."""

    partial: torch.Tensor  # fp32
    arrived: torch.Tensor  # int32, zeros between launches


workspaces: dict[torch.device, Workspace] = {}


def workspace(device: torch.device, sums: int, tiles: int) -> Workspace:
    """With room for so many. A smaller one stays with the linears that have it: a captured graph may use it."""
    found = workspaces.get(device)
    if found is None or len(found.partial) < sums or len(found.arrived) < tiles:
        partial = torch.empty(sums, dtype=torch.float32, device=device)
        workspaces[device] = found = Workspace(partial, torch.zeros(tiles, dtype=torch.int32, device=device))
    return found
