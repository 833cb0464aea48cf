"""Experts that a file has stacked, under the names of one expert each.

As transformers 5 keeps them in memory; Llama 4 has the matrices as [in, out]:

    experts.gate_up_proj [experts, 2 * width, hidden]    experts.down_proj [experts, hidden, width]

As Granite's files have them:

    input_linear.weight  [experts, 2 * width, hidden]    output_linear.weight [experts, hidden, width]
"""

import re
from collections.abc import Sequence

import torch

from ...kernels.block_weight import BlockSource
from .safetensors_dir import Checkpoint

_OF_ONE = re.compile(r"(.*\.)experts\.(\d+)\.(gate|up|down)_proj\.weight")
_GATE_UP = ("experts.gate_up_proj", "input_linear.weight")
_DOWN = ("experts.down_proj", "output_linear.weight")
# Names of the stack, which part of an expert's outputs in it, of how many.
_PLACES = {"gate": (_GATE_UP, 0, 2), "up": (_GATE_UP, 1, 2), "down": (_DOWN, 0, 1)}


def has_stacked_experts(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is of this layout."""
    return any(name.endswith((".experts.down_proj", ".block_sparse_moe.output_linear.weight")) for name in checkpoint)


class StackedExperts:
    """A checkpoint whose stacked experts are found one by one; see Checkpoint."""

    def __init__(self, checkpoint: Checkpoint, transposed: bool) -> None:
        """``transposed``: the matrices are [in, out]."""
        self._checkpoint = checkpoint
        self._transposed = transposed

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
        (names, place, parts), index = _PLACES[part], int(expert)
        stacked = next(
            (f"{prefix}{name}" for name in names if f"{prefix}{name}" in self._checkpoint), prefix + names[0]
        )
        outputs, inputs = expected_shape
        # As many experts as there are, but no fewer than this one needs: then the error says so.
        count = max(self.shape(stacked)[0], index + 1)
        shape = (inputs, outputs * parts) if self._transposed else (outputs * parts, inputs)
        whole = self._checkpoint.get(stacked, (count, *shape))[index]
        return (whole.T if self._transposed else whole)[place * outputs : (place + 1) * outputs]

    def blocks(self, name: str, expected_shape: Sequence[int]) -> BlockSource | None:
        """No weight of such a file is block-quantised."""
        return self._checkpoint.blocks(name, expected_shape)
