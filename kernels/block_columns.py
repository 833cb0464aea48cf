"""A range of the inputs of a block-quantised weight."""

import math
from dataclasses import dataclass, replace

import torch

from .block_weight import BlockSource, BlockWeight, Scales

_CHUNK = 32  # inputs; a backend's records are 1, 2, 4 or 8 of them (cpu/block_pack.py)
_MOST_CHUNKS = 8


@dataclass(frozen=True)
class BlockColumns:
    """Inputs ``start`` to ``end`` of a weight whose inputs are in order, the same numbers.

    A group that is cut becomes several smaller ones with its scale, a super-block several with its own.
    """

    source: BlockSource
    start: int
    end: int

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in]."""
        return self.source.shape[0], self.end - self.start

    def take(self, rows: torch.Tensor | slice) -> BlockWeight:
        """See BlockSource."""
        weight, width = self.source.take(rows), self.end - self.start
        assert weight.order is None
        group = math.gcd(weight.group, self.start, width)
        groups = (self.start + torch.arange(0, width, group)) // weight.group
        scale = self._scales(weight, weight.scale, groups)
        return replace(
            weight,
            codes=weight.codes[:, self.start : self.end].contiguous(),
            group=group,
            scale=scale,
            zero=weight.zero[:, groups] if isinstance(weight.zero, torch.Tensor) else weight.zero,
            minimum=None if weight.minimum is None else self._scales(weight, weight.minimum, groups),
        )

    def _scales(self, weight: BlockWeight, scales: Scales, groups: torch.Tensor) -> Scales:
        if scales.steps is None:
            return Scales(scales.base[:, groups])
        width = self.end - self.start
        record = math.gcd(width // _CHUNK, _MOST_CHUNKS) * _CHUNK
        size = weight.shape[1] // scales.base.shape[1]  # of a super-block
        size = math.gcd(size, record, self.start)
        return Scales(
            scales.base[:, (self.start + torch.arange(0, width, size)) * scales.base.shape[1] // weight.shape[1]],
            scales.steps[:, groups],
        )
