"""Linears of which each serves some of the rows: what the experts of a mixture are.

    y[pair, out] = scale[e, out] * sum_in x[pair, in] * W[e, out, in] + b[e, out]          e: the pair's expert

Weights lie one expert after the other. The grid is the largest that any choice of experts needs; programs past the
last rows end at once. A sum is never split over programs, and taken in the order of linear_kernel.py.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton import knobs

from .. import Linear, Unsupported
from ..routing import GroupedLinear, Routing
from .block_grouped import GroupedBlocks
from .block_linear import BlockLinear
from .groups import choose_tile, find_group, most_tiles
from .linear import TritonLinear, VendorLinear
from .linear_kernel import segment_sum, write_tile
from .linear_tiles import LinearTile, expert_tiles, register_limit
from .tiles import Gpu, gpu_of


@triton.jit
def _grouped_kernel(
    x_ptr,  # [pairs, INPUTS]
    weight_ptr,  # [EXPERTS, OUTPUTS, INPUTS]
    scale_ptr,  # fp32 [EXPERTS, OUTPUTS], read with SCALED
    bias_ptr,  # [EXPERTS, OUTPUTS], read with BIAS
    starts_ptr,  # int32 [EXPERTS + 1]
    y_ptr,  # [pairs, OUTPUTS] out
    EXPERTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    SCALED: tl.constexpr,
    BIAS: tl.constexpr,
    EXPERT_BLOCK: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
):
    expert, first, end = find_group(starts_ptr, tl.program_id(1), EXPERTS, BLOCK_ROWS, EXPERT_BLOCK)
    if first >= end:
        return
    output = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    row = first + tl.arange(0, BLOCK_ROWS)
    cols = tl.arange(0, BLOCK_INPUTS)
    output_mask, row_mask = output < OUTPUTS, row < end
    of_expert = expert.to(tl.int64) * OUTPUTS
    x_ptrs = x_ptr + row.to(tl.int64)[:, None] * INPUTS + cols[None, :]
    weight_ptrs = weight_ptr + (of_expert + output)[:, None] * INPUTS + cols[None, :]
    acc = segment_sum(
        x_ptrs, weight_ptrs, row_mask, output_mask, 0,
        OUTPUTS, INPUTS, INPUTS, BLOCK_ROWS, BLOCK_OUTPUTS, BLOCK_INPUTS,
    )  # fmt: skip
    write_tile(
        acc, scale_ptr + of_expert, bias_ptr + of_expert, y_ptr, row, output, row_mask, output_mask,
        OUTPUTS, SCALED, BIAS,
    )  # fmt: skip


class GroupedDense:
    """Weights in the model's dtype, or in 8 bits with a scale for each output."""

    def __init__(
        self, weight: torch.Tensor, scale: torch.Tensor | None, bias: torch.Tensor | None, gpu: Gpu | None = None
    ) -> None:
        """``weight`` [experts, out, in], ``scale`` fp32 [experts, out], ``bias`` [experts, out]; ``gpu``: as there."""
        self._arch = (gpu or gpu_of(weight.device)).arch
        self._weight, self._scale, self._bias = weight, scale, bias
        self._is_compiled = knobs.runtime.interpret  # which compiles nothing

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self._weight, self._scale, self._bias) if part is not None)

    def __call__(self, x: torch.Tensor, routing: Routing) -> torch.Tensor:
        """See GroupedLinear."""
        pairs, (experts, outputs, _) = x.shape[0], self._weight.shape
        y = x.new_empty(pairs, outputs)
        tiles = expert_tiles(self._arch, x.itemsize)
        if not self._is_compiled:  # no request is to wait for the compiler, whatever tile it comes to need
            for tile in tiles:
                self._write(x, routing, y, tile)
            self._is_compiled = True
        self._write(x, routing, y, choose_tile(tiles, pairs, experts))
        return y

    def _write(self, x: torch.Tensor, routing: Routing, y: torch.Tensor, tile: LinearTile) -> None:
        weight, scale, bias = self._weight, self._scale, self._bias
        (pairs, inputs), (experts, outputs, _) = x.shape, weight.shape
        _grouped_kernel[(triton.cdiv(outputs, tile.outputs), most_tiles(pairs, experts, tile.rows))](
            x, weight, weight if scale is None else scale, weight if bias is None else bias, routing.plan, y,
            EXPERTS=experts, OUTPUTS=outputs, INPUTS=inputs, SCALED=scale is not None, BIAS=bias is not None,
            EXPERT_BLOCK=triton.next_power_of_2(experts), BLOCK_ROWS=tile.rows, BLOCK_OUTPUTS=tile.outputs,
            BLOCK_INPUTS=tile.inputs, num_warps=tile.warps, num_stages=tile.stages,
            maxnreg=register_limit(weight.dtype),
        )  # fmt: skip


class _Parts(NamedTuple):
    weight: torch.Tensor
    scale: torch.Tensor | None
    bias: torch.Tensor | None


def _parts(member: Linear) -> _Parts:
    assert isinstance(member, TritonLinear | VendorLinear)
    return _Parts(member.weight, member.scale if isinstance(member, TritonLinear) else None, member.bias)


def _stacked(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    return None if tensors[0] is None else torch.stack([tensor for tensor in tensors if tensor is not None])


def group_linears(members: Sequence[Linear]) -> GroupedLinear:
    """Put the weights of linears of one shape and form one after the other. Raises Unsupported."""
    kinds = {type(member) for member in members}
    blocks = [member for member in members if isinstance(member, BlockLinear)]
    if len(blocks) == len(members):
        return GroupedBlocks(blocks)
    if kinds != {VendorLinear} and kinds != {TritonLinear}:
        raise Unsupported("experts of one layer whose weights are in different forms")
    parts = [_parts(member) for member in members]
    if len({part.weight.dtype for part in parts}) > 1:
        raise Unsupported("experts of one layer whose weights are in different forms")
    weight = _stacked([part.weight for part in parts])
    assert weight is not None, "a linear has one"
    return GroupedDense(weight, _stacked([part.scale for part in parts]), _stacked([part.bias for part in parts]))
