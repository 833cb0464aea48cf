"""Low-rank updates chosen per row (kernels/low_rank.py), two launches for a linear:

    h[split, row, part, r] = scale * sum_{k in split} x[row, k] * a[slot, part, r, k]
    y[row, o] += sum_r (sum_split h[split, row, part, r]) * b[slot, part, o, r]       slot = slots[row]

A program takes a block of rows and goes through the slots that occur in it, each with the other slots' rows masked: so
grids are fixed, and rows of one slot that lie together cost one turn (S-LoRA's and Punica's segments, arXiv 2311.03285,
2310.18547, without a list of them). The matrices lie wherever an adapter was packed; the table has their addresses, so
a recorded graph serves adapters that come later. A program without such rows reads its slots and ends.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ..low_rank import MAX_RANK, RANK_STEP, LowRank
from .tiles import ADAPTER_TILE

_WORDS = 4  # of a part of a slot: addresses of a and b, padded rank, bits of the scale as fp32


@triton.jit
def _next_slot(slots, below):
    """The largest of ``slots`` [rows] that is less than ``below``; 0 if there is none."""
    return tl.max(tl.where(slots < below, slots, 0), axis=0)


@triton.jit(do_not_specialize=["rows"])
def _shrink_adapters_kernel(
    x_ptr,  # [rows, INPUTS]
    slots_ptr,  # int32 [rows]
    table_ptr,  # int64 [slots, PARTS, 4]
    h_ptr,  # fp32 [splits, rows, PARTS, MOST_RANKS] out
    rows,
    INPUTS: tl.constexpr,
    PARTS: tl.constexpr,
    MOST_RANKS: tl.constexpr,
    SPLIT: tl.constexpr,  # inputs of a split
    BLOCK_ROWS: tl.constexpr,
    BLOCK_RANKS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    part, split = tl.program_id(1), tl.program_id(2)
    slots = tl.load(slots_ptr + row, mask=row < rows, other=0)
    ranks, cols = tl.arange(0, BLOCK_RANKS), tl.arange(0, BLOCK_INPUTS)
    x_ptrs = x_ptr + row.to(tl.int64)[:, None] * INPUTS + cols[None, :]
    h_ptrs = h_ptr + ((split * rows + row).to(tl.int64) * PARTS + part)[:, None] * MOST_RANKS + ranks[None, :]
    slot = tl.max(slots, axis=0)
    while slot > 0:
        entry_ptr = table_ptr + (slot.to(tl.int64) * PARTS + part) * 4
        a_ptr = tl.multiple_of(tl.load(entry_ptr).to(tl.pointer_type(x_ptr.dtype.element_ty)), 16)
        rank = tl.multiple_of(tl.load(entry_ptr + 2).to(tl.int32), 16)
        scale = tl.load(entry_ptr + 3).to(tl.int32).to(tl.float32, bitcast=True)
        is_own = (slots == slot)[:, None]
        for first in range(0, rank, BLOCK_RANKS):
            in_rank = first + ranks < rank
            a_ptrs = a_ptr + (first + ranks).to(tl.int64)[:, None] * INPUTS + cols[None, :]
            sums = tl.zeros([BLOCK_ROWS, BLOCK_RANKS], tl.float32)
            for step in range(0, SPLIT, BLOCK_INPUTS):
                start = split * SPLIT + step
                in_range = start + cols[None, :] < INPUTS
                x = tl.load(x_ptrs + start, mask=is_own & in_range, other=0.0)
                a = tl.load(a_ptrs + start, mask=in_rank[:, None] & in_range, other=0.0)
                sums = tl.dot(x, tl.trans(a), sums, input_precision="ieee")
            tl.store(h_ptrs + first, sums * scale, mask=is_own & in_rank[None, :])
        slot = _next_slot(slots, slot)


@triton.jit(do_not_specialize=["rows"])
def _add_adapters_kernel(
    h_ptr,  # fp32 [SPLITS, rows, PARTS, MOST_RANKS]
    slots_ptr,  # int32 [rows]
    table_ptr,  # int64 [slots, PARTS, 4]
    blocks_ptr,  # int32 [blocks of outputs, 3]: part, first output within it, and its place in y
    widths_ptr,  # int32 [PARTS]
    y_ptr,  # [rows, OUTPUTS] in, out
    rows,
    OUTPUTS: tl.constexpr,
    PARTS: tl.constexpr,
    MOST_RANKS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_RANKS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    slots = tl.load(slots_ptr + row, mask=row < rows, other=0)
    block_ptr = blocks_ptr + tl.program_id(1) * 3
    part = tl.load(block_ptr)
    ranks = tl.arange(0, BLOCK_RANKS)
    output = tl.load(block_ptr + 1) + tl.arange(0, BLOCK_OUTPUTS)
    in_part = output < tl.load(widths_ptr + part)
    column = tl.load(block_ptr + 2) + tl.arange(0, BLOCK_OUTPUTS)
    y_ptrs = y_ptr + row.to(tl.int64)[:, None] * OUTPUTS + column[None, :]
    slot = tl.max(slots, axis=0)
    while slot > 0:
        entry_ptr = table_ptr + (slot.to(tl.int64) * PARTS + part) * 4
        b_ptr = tl.multiple_of(tl.load(entry_ptr + 1).to(tl.pointer_type(y_ptr.dtype.element_ty)), 16)
        rank = tl.multiple_of(tl.load(entry_ptr + 2).to(tl.int32), 16)
        is_own = (slots == slot)[:, None]
        sums = tl.zeros([BLOCK_ROWS, BLOCK_OUTPUTS], tl.float32)
        for first in range(0, rank, BLOCK_RANKS):
            in_rank = first + ranks < rank
            h = tl.zeros([BLOCK_ROWS, BLOCK_RANKS], tl.float32)
            for split in tl.static_range(SPLITS):
                h_row = (split * rows + row).to(tl.int64) * PARTS + part
                h_ptrs = h_ptr + h_row[:, None] * MOST_RANKS + (first + ranks)[None, :]
                h += tl.load(h_ptrs, mask=is_own & in_rank[None, :], other=0.0)
            b_ptrs = b_ptr + output.to(tl.int64)[:, None] * rank + (first + ranks)[None, :]
            b = tl.load(b_ptrs, mask=in_part[:, None] & in_rank[None, :], other=0.0)
            sums = tl.dot(h.to(b.dtype), tl.trans(b), sums, input_precision="ieee")
        mask = is_own & in_part[None, :] & (rank > 0)
        y = tl.load(y_ptrs, mask=mask, other=0.0).to(tl.float32) + sums
        tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=mask)
        slot = _next_slot(slots, slot)


class _Packed(NamedTuple):
    """One part of an adapter, on the device."""

    a: torch.Tensor  # [ranks, in]
    b: torch.Tensor  # [out, ranks]
    scale: float


class AdapterTable:
    """The adapters of one linear [sum of widths, inner], by slot."""

    def __init__(self, inner: int, widths: Sequence[int], slots: int, dtype: torch.dtype, device: torch.device) -> None:
        self._inner, self._parts, self._dtype, self._device = inner, len(widths), dtype, device
        self._kept: list[Sequence[_Packed | None]] = [()] * (slots + 1)
        self._table = torch.zeros((slots + 1, len(widths), _WORDS), dtype=torch.int64, device=device)
        self._widths = torch.tensor(widths, dtype=torch.int32, device=device)
        blocks = []
        start = 0
        for part, width in enumerate(widths):
            blocks += [(part, first, start + first) for first in range(0, width, ADAPTER_TILE.outputs)]
            start += width
        self._blocks = torch.tensor(blocks, dtype=torch.int32, device=device)

    def pack(self, parts: Sequence[LowRank | None]) -> Sequence[_Packed | None]:
        """See the interface."""
        return [None if part is None else self._packed(part) for part in parts]

    def put(self, slot: int, packed: Sequence[_Packed | None] | None) -> None:
        """See the interface."""
        assert slot > 0, "slot 0 has no adapter"
        words = torch.zeros((self._parts, _WORDS), dtype=torch.int64)
        for index, part in enumerate(packed or ()):
            if part is not None:
                bits = torch.tensor(part.scale, dtype=torch.float32).view(torch.int32).item()
                words[index] = torch.tensor([part.a.data_ptr(), part.b.data_ptr(), part.a.shape[0], bits])
        self._table[slot].copy_(words)
        self._kept[slot] = packed or ()

    def add(self, x: torch.Tensor, slots: torch.Tensor, y: torch.Tensor) -> None:
        """See the interface; x and y are of the table's dtype."""
        rows, tile = x.shape[0], ADAPTER_TILE
        # With few rows one program for a part would leave the device idle.
        splits = tile.splits if rows <= tile.few_rows else 1
        split = triton.cdiv(triton.cdiv(self._inner, splits), tile.inputs) * tile.inputs
        splits = triton.cdiv(self._inner, split)
        h = torch.empty((splits, rows, self._parts, MAX_RANK), dtype=torch.float32, device=x.device)
        blocks = triton.cdiv(rows, tile.rows)
        _shrink_adapters_kernel[(blocks, self._parts, splits)](
            x, slots, self._table, h, rows,
            INPUTS=self._inner, PARTS=self._parts, MOST_RANKS=MAX_RANK, SPLIT=split,
            BLOCK_ROWS=tile.rows, BLOCK_RANKS=RANK_STEP, BLOCK_INPUTS=tile.inputs,
            num_warps=tile.warps, num_stages=tile.stages, maxnreg=tile.registers,
        )  # fmt: skip
        _add_adapters_kernel[(blocks, len(self._blocks))](
            h, slots, self._table, self._blocks, self._widths, y, rows,
            OUTPUTS=y.shape[1], PARTS=self._parts, MOST_RANKS=MAX_RANK, SPLITS=splits,
            BLOCK_ROWS=tile.rows, BLOCK_RANKS=RANK_STEP, BLOCK_OUTPUTS=tile.outputs,
            num_warps=tile.warps, num_stages=tile.stages, maxnreg=tile.registers,
        )  # fmt: skip

    def _packed(self, part: LowRank) -> _Packed:
        a, b = part.padded(self._dtype)
        return _Packed(a.contiguous().to(self._device), b.contiguous().to(self._device), part.scale)


def new_adapters(
    inner: int, widths: Sequence[int], slots: int, dtype: torch.dtype, device: torch.device
) -> AdapterTable:
    """Room for the adapters of one linear, in slots 1 to ``slots``."""
    return AdapterTable(inner, widths, slots, dtype, device)
