"""Experts as GPT-OSS's files have them: stacked, gate and up in turn, in MXFP4 or as floats, [in, out] then.

    experts.gate_up_proj_blocks  uint8 [experts, 2 * width, hidden / 32, 16], the first of two codes in the lower bits
    experts.gate_up_proj_scales  uint8 [experts, 2 * width, hidden / 32]
    experts.gate_up_proj         in their place: floats [experts, hidden, 2 * width]
    experts.gate_up_proj_bias    [experts, 2 * width]
    experts.down_proj...         likewise, [experts, hidden, width]

They are found under the names of one expert each, which a checkpoint may have them under, too.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ...kernels.block_weight import BlockWeight
from .errors import ModelError
from .mxfp4 import GROUP, NO_NUMBER, mxfp4_weight
from .safetensors_dir import DAMAGED, Checkpoint

_OF_ONE = re.compile(r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.(weight|bias)")

_PLACES = {"gate": ("gate_up", 0, 2), "up": ("gate_up", 1, 2), "down": ("down", 0, 1)}


class _Place(NamedTuple):
    """Where an expert's part is: outputs ``first``, ``first + every``, ... of a stacked tensor."""

    stacked: str
    expert: int
    first: int
    every: int
    is_bias: bool


class Mxfp4Blocks:
    """Every other output of an expert, or all: a BlockSource (kernels/block_weight.py)."""

    def __init__(self, blocks: torch.Tensor, scales: torch.Tensor) -> None:
        """``blocks``: uint8 [out, groups, 16]; ``scales``: uint8 [out, groups]."""
        self._blocks, self._scales = blocks, scales
        out, groups = scales.shape
        self.shape = (out, groups * GROUP)

    def take(self, rows: torch.Tensor | slice) -> BlockWeight:
        """Some of its outputs."""
        blocks, scales = self._blocks[rows], self._scales[rows]
        codes = torch.stack([blocks & 15, blocks >> 4], -1).view(len(blocks), -1)
        return mxfp4_weight(codes, scales)


class InterleavedExperts:
    """A checkpoint whose stacked experts are found one by one; see Checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def __contains__(self, name: str) -> bool:
        return name in self._checkpoint

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor as it is stored. Raises ModelError if there is none of that name."""
        return self._checkpoint.shape(name)

    def get(self, name: str, expected_shape: Sequence[int]) -> torch.Tensor:
        """A tensor as floats, or its part of a stacked one. Raises ModelError if it is missing or of another shape."""
        place = self._place(name)
        if place is None:
            return self._checkpoint.get(name, expected_shape)
        if (blocks := self.blocks(name, expected_shape)) is not None:
            return blocks.take(slice(None)).dequantized()
        outputs, *inputs = expected_shape
        stacked = f"{place.stacked}_bias" if place.is_bias else place.stacked
        whole = self._checkpoint.get(stacked, (self._count(stacked, place), *inputs, outputs * place.every))
        part = whole[place.expert, ..., place.first :: place.every]
        return part if place.is_bias else part.T

    def blocks(self, name: str, expected_shape: Sequence[int]) -> Mxfp4Blocks | None:
        """A weight as it is packed; None if it is stored as floats. Raises ModelError if it is damaged."""
        place = self._place(name)
        if place is None or place.is_bias or f"{place.stacked}_blocks" not in self._checkpoint:
            return None
        outputs, inputs = expected_shape
        if inputs % GROUP:
            raise ModelError(f"{name}: {inputs} inputs are not groups of {GROUP}, which MXFP4 has")
        stacked = f"{place.stacked}_scales"
        shape = (self._count(stacked, place), outputs * place.every, inputs // GROUP)
        which = (place.expert, slice(place.first, None, place.every))
        scales = self._checkpoint.get_bytes(stacked, shape)[which]
        if bool((scales == NO_NUMBER).any()):
            raise ModelError(f"{self._checkpoint.model_dir}: {stacked} has a scale that is no number. {DAMAGED}.")
        return Mxfp4Blocks(self._checkpoint.get_bytes(f"{place.stacked}_blocks", (*shape, GROUP // 2))[which], scales)

    def _count(self, stacked: str, place: _Place) -> int:
        """As many experts as there are, but no fewer than this one needs: then the error says so."""
        return max(self.shape(stacked)[0], place.expert + 1)

    def _place(self, name: str) -> _Place | None:
        match = _OF_ONE.fullmatch(name)
        if match is None or name in self._checkpoint:
            return None
        prefix, expert, part, kind = match.groups()
        stacked, first, every = _PLACES[part]
        return _Place(f"{prefix}.{stacked}_proj", int(expert), first, every, kind == "bias")
