"""Experts with block-quantised weights: their outputs are packed one expert after the other, as those of one linear."""

from collections.abc import Sequence

import torch
import triton
from triton import knobs

from .. import Unsupported
from ..routing import Routing
from .block_kernel import block_linear_kernel
from .block_linear import BlockLinear, Segment, takes_pairs
from .block_pack import Packed
from .block_tiles import SEGMENT_STEP, BlockTile
from .groups import choose_tile, most_tiles


class _GroupedSegment:
    """One segment of all experts: weights of one form."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        first = self._first = segments[0]
        if len({(segment.form, segment.outputs, segment.order is None) for segment in segments}) > 1:
            raise Unsupported("experts of one layer whose weights are in different forms")
        self._experts = len(segments)
        self._is_compiled = knobs.runtime.interpret  # which compiles nothing
        low, high, spans, bases = (torch.cat(parts, -1 - (index < 2)) for index, parts in enumerate(
            zip(*(segment.packed for segment in segments), strict=True)
        ))  # fmt: skip
        # What a form doesn't have is another tensor of the same expert.
        has_high, has_bases = (first.packed.high is not first.packed.low, first.packed.bases is not first.packed.spans)
        self._packed = Packed(low, high if has_high else low, spans, bases if has_bases else spans)
        orders = [segment.order for segment in segments if segment.order is not None]
        self._orders = torch.stack(orders) if orders else None

    @property
    def outputs(self) -> int:
        return self._first.outputs

    @property
    def nbytes(self) -> int:
        return self._packed.nbytes + (0 if self._orders is None else self._orders.nbytes)

    def write(self, x: torch.Tensor, routing: Routing, y: torch.Tensor, column: int, bias: torch.Tensor | None) -> None:
        """The products into the columns of y [pairs, any] from ``column`` on; ``bias``: [experts, any]."""
        if self._orders is not None:
            expert = torch.empty_like(routing.rows)
            expert[routing.positions.view(-1)] = routing.ids.view(-1).long()
            x = x.gather(1, self._orders.index_select(0, expert))
        tiles = self._first.tiles
        if not self._is_compiled:  # as in grouped.py
            for tile in tiles:
                self._launch(x, routing, y, column, bias, tile)
            self._is_compiled = True
        self._launch(x, routing, y, column, bias, choose_tile(tiles, x.shape[0], self._experts))

    def _launch(
        self,
        x: torch.Tensor,
        routing: Routing,
        y: torch.Tensor,
        column: int,
        bias: torch.Tensor | None,
        tile: BlockTile,
    ) -> None:
        segment, pairs, experts = self._first, x.shape[0], self._experts
        form = segment.form
        stages = tile.stages if x.itemsize == 2 else 2
        sums = segment.row_sums(x) if segment.is_summed(tile) else None
        grid = triton.cdiv(segment.outputs, tile.outputs), most_tiles(pairs, experts, tile.rows)
        block_linear_kernel[grid](
            x, *self._packed, x if sums is None else sums, x if bias is None else bias, routing.plan, y, x, x, pairs,
            INPUTS=segment.inputs, OUTPUTS=experts * segment.outputs, WIDTH=segment.outputs, EXPERTS=experts,
            EXPERT_BLOCK=triton.next_power_of_2(experts), Y_STRIDE=y.shape[1], COLUMN=column, BIAS=bias is not None,
            FORM=form, PAIRS=takes_pairs(form, x.dtype), SUMMED=sums is not None,
            SEGMENTS=1, SEGMENT=triton.cdiv(segment.inputs, SEGMENT_STEP) * SEGMENT_STEP, SPLIT=False,
            BLOCK_ROWS=tile.rows, BLOCK_OUTPUTS=tile.outputs, STEPS=tile.steps,
            STAGES=stages, num_warps=tile.warps, num_stages=stages, maxnreg=tile.registers,
        )  # fmt: skip


class GroupedBlocks:
    """Block linears of one shape and form, one for each expert. See kernels/triton/grouped.py."""

    def __init__(self, members: Sequence[BlockLinear]) -> None:
        if len({len(member.segments) for member in members}) > 1:
            raise Unsupported("experts of one layer whose weights are in different forms")
        self._segments = [
            _GroupedSegment(alike) for alike in zip(*(member.segments for member in members), strict=True)
        ]
        biases = [member.bias for member in members if member.bias is not None]
        self._bias = torch.stack(biases) if biases else None

    @property
    def nbytes(self) -> int:
        return sum(segment.nbytes for segment in self._segments) + (0 if self._bias is None else self._bias.nbytes)

    def __call__(self, x: torch.Tensor, routing: Routing) -> torch.Tensor:
        y = x.new_empty(x.shape[0], sum(segment.outputs for segment in self._segments))
        column = 0
        for segment in self._segments:
            segment.write(x, routing, y, column, self._bias)
            column += segment.outputs
        return y
