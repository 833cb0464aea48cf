"""Experts that a file has stacked, as transformers 5 keeps them in memory, under the names of one expert each.

experts.gate_up_proj [experts, 2 * width, hidden]    experts.down_proj [experts, hidden, width]
"""

import re
from collections.abc import Sequence

import torch

from ...kernels.block_weight import BlockSource
from .safetensors_dir import Checkpoint

_OF_ONE = re.compile(r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")
_PLACES = {"gate": ("gate_up_proj", 0, 2), "up": ("gate_up_proj", 1, 2), "down": ("down_proj", 0, 1)}


def has_stacked_experts(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is of this layout."""
    return any(name.endswith(".experts.down_proj") for name in checkpoint)


class StackedExperts:
    """A checkpoint whose stacked experts are found one by one; see Checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def __contains__(self, name: str) -> bool:
        return name in self._checkpoint

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor as it is stored. Raises ModelError if there is none of that name."""
        return self._checkpoint.shape(name)

    def get(self, name: str, expected_shape: Sequence[int]) -> torch.Tensor:
        """A tensor, or its part of a stacked one. Raises ModelError if it is missing, of another shape or no float."""
        match = _OF_ONE.fullmatch(name)
        if match is None or name in self._checkpoint:
            return self._checkpoint.get(name, expected_shape)
        prefix, expert, part = match.groups()
        (stacked, place, parts), index = _PLACES[part], int(expert)
        outputs, inputs = expected_shape
        # As many experts as there are, but no fewer than this one needs: then the error says so.
        count = max(self.shape(f"{prefix}.{stacked}")[0], index + 1)
        whole = self._checkpoint.get(f"{prefix}.{stacked}", (count, outputs * parts, inputs))
        return whole[index, place * outputs : (place + 1) * outputs]

    def blocks(self, name: str, expected_shape: Sequence[int]) -> BlockSource | None:
        """No weight of such a file is block-quantised."""
        return self._checkpoint.blocks(name, expected_shape)
