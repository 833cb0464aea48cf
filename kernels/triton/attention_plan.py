"""The attention plan of a step: which program reads what. Made once on the device, used by every layer.

A work unit is one tile of a sequence's rows against either all of its splits or one of them. Its fields, all int32:

    0 sequence
    1 row         index in the batch of the tile's first row
    2 rows        of the tile
    3 position    of the tile's first row
    4 start       first position to read, a multiple of the tile's positions
    5 end         position after the last one to read; may be before start: nothing to read
    6 slot        partial slot of the first row; -1: all splits are read here, the result goes to the output
    7 splits      of the sequence: partial slots from one row to the next

Units are listed by role: *few rows* where a sequence's packed rows (row, query head of one KV head) fit in one small
tile, *many rows* elsewhere. Programs walk the lists, so grids are constant and the host never learns the counts.

Sequences of at most SPLIT_ROWS rows are split, as long as partial results have room; when there is none left the rest
are read whole, by one program for each of their tiles and KV heads. That changes their time, not their result: see
splits.py.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .. import StepBatch
from .splits import max_splits, split_of, split_start
from .tiles import Gpu, Tile, attention_tiles, gpu_of

# Longer chunks fill half of a GPU with their row tiles, and their partial results would cost more than the other half
# gains: 256 rows after 2048 tokens of Llama 8B take as long as without (on paper).
SPLIT_ROWS = 128
SLOTS_PER_SEQUENCE = 16  # partial results: the splits of a sequence of 4096 tokens
SPLIT_TOKENS = 32768  # context up to which there is room for all splits of one chunk of SPLIT_ROWS

UNIT_FIELDS = 8
MERGE_FIELDS = 3  # row of the batch, first partial slot, splits
_WRITE_BLOCK = 64  # units or rows written at a time
_LEAST_TILE = 16  # packed rows
_LEAST_BLOCK = 256  # sequences that a program looks at: with more, the kernel is compiled anew at each power of two
_UNIT = tl.constexpr(UNIT_FIELDS)
_MERGE = tl.constexpr(MERGE_FIELDS)


_SMALL_STEP_ROWS = 256  # the largest graph's
_SMALL_STEP_FACTOR = (
    2  # times the rows of a few-rows tile; where many-rows tiles are larger, chunks are faster in these
)
_ANY_ROWS = 1 << 30


@dataclass
class AttentionPlan:
    """The lists of one step, and room for partial results. Refilled by every ``plan_attention`` that is given it."""

    q_heads: int
    kv_heads: int
    head_dim: int
    page_size: int
    window: int  # positions that a row sees, its own included; 0: all
    few_rows: Tile
    many_rows: Tile
    multiprocessors: int  # of the device: grids are multiples of it
    few_units: torch.Tensor  # int32 [capacity, 8]
    many_units: torch.Tensor  # like few_units
    merges: torch.Tensor  # int32 [capacity, 3]: row of the batch, first partial slot, splits
    counts: torch.Tensor  # int32 [3]: few units, many units, merges
    partial_out: torch.Tensor  # fp32 [slots, q_heads, head_dim]: sum of exp2(logit - max) * v
    partial_stats: torch.Tensor  # fp32 [slots, q_heads, 2]: max logit, sum of exp2(logit - max)

    def has_many_rows(self, rows: int) -> bool:
        """Whether sequences of a step of so many rows may take the role of that name: a graph may count on it."""
        return has_many_rows(rows, self.q_heads // self.kv_heads, self.few_rows, self.many_rows)


def has_many_rows(rows: int, group: int, few: Tile, many: Tile) -> bool:
    """Not if one few-rows tile holds the step; nor if it is so small that the larger tiles would save no time.

    Both roles give a row the same bits, and nearly all steps only decode: what is saved is an empty launch.
    """
    if rows <= _SMALL_STEP_ROWS and many.rows <= _SMALL_STEP_FACTOR * few.rows:
        return False
    return rows * group > few.rows


@triton.jit(do_not_specialize=["sequences", "slots", "most_few_rows"])
def _plan_kernel(
    query_start_ptr,  # int32 [sequences + 1]
    kv_lengths_ptr,  # int32 [sequences]
    few_units_ptr,  # int32 [capacity, 8] out
    many_units_ptr,  # int32 [capacity, 8] out
    merges_ptr,  # int32 [capacity, 3] out
    counts_ptr,  # int32 [3] out
    page_table_ptr,  # int32 [any, max_pages] out, written with CHANGES
    table_rows_ptr,  # int32 [sequences], of the page table, read with CHANGES
    places_ptr,  # int32 [CHANGES], in the flat table; -1: none
    pages_ptr,  # int32 [CHANGES]
    sequences,
    slots,  # room for partial results
    most_few_rows,  # packed rows of a sequence that takes the few-rows role
    GROUP: tl.constexpr,
    FEW_TILE: tl.constexpr,  # packed rows
    MANY_TILE: tl.constexpr,  # packed rows
    FEW_POSITIONS: tl.constexpr,
    MANY_POSITIONS: tl.constexpr,
    SPLIT_ROWS: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two >= sequences
    WRITE_BLOCK: tl.constexpr,
    CHANGES: tl.constexpr,
    CHANGE_BLOCK: tl.constexpr,  # power of two >= CHANGES / sequences
):
    # One program a sequence; each sums up its predecessors again, which is cheaper than a second launch.
    this = tl.program_id(0)
    table_row = this
    if CHANGES:
        change = this * CHANGE_BLOCK + tl.arange(0, CHANGE_BLOCK)
        place = tl.load(places_ptr + change, mask=change < CHANGES, other=-1)
        tl.store(page_table_ptr + place, tl.load(pages_ptr + change, mask=place >= 0, other=0), mask=place >= 0)
        table_row = tl.load(table_rows_ptr + this)
    sequence = tl.arange(0, BLOCK)
    exists = sequence < sequences
    first = tl.load(query_start_ptr + sequence, mask=exists, other=0)
    rows = tl.load(query_start_ptr + sequence + 1, mask=exists, other=0) - first
    length = tl.load(kv_lengths_ptr + sequence, mask=exists, other=0)
    last_split = split_of(tl.maximum(length - 1, 0))
    if WINDOW > 0:
        first_split = split_of(tl.maximum(length - rows - WINDOW + 1, 0))
    else:
        first_split = tl.zeros_like(last_split)
    splits = tl.where(rows > 0, last_split - first_split + 1, 0)
    wanted_slots = tl.where((splits > 1) & (rows <= SPLIT_ROWS), rows * splits, 0)
    slots_to_here = tl.cumsum(wanted_slots, axis=0)
    is_split = (wanted_slots > 0) & (slots_to_here <= slots)
    is_few = rows * GROUP <= most_few_rows
    tile_rows = tl.where(is_few, FEW_TILE // GROUP, MANY_TILE // GROUP)
    units = tl.cdiv(rows, tile_rows) * tl.where(is_split, splits, 1)
    few = tl.where(is_few, units, 0)
    many = tl.where(is_few, 0, units)
    merged_rows = tl.where(is_split, rows, 0)

    if this == 0:
        tl.store(counts_ptr, tl.sum(few))
        tl.store(counts_ptr + 1, tl.sum(many))
        tl.store(counts_ptr + 2, tl.sum(merged_rows))

    before = sequence < this
    own = sequence == this
    own_rows = tl.sum(tl.where(own, rows, 0))
    own_splits = tl.sum(tl.where(own, splits, 0))
    own_length = tl.sum(tl.where(own, length, 0))
    own_units = tl.sum(tl.where(own, units, 0))
    own_tile_rows = tl.sum(tl.where(own, tile_rows, 0))
    own_first = tl.sum(tl.where(own, first, 0))
    own_first_split = tl.sum(tl.where(own, first_split, 0))
    own_slot = tl.sum(tl.where(own, slots_to_here - wanted_slots, 0))
    own_is_split = tl.sum(tl.where(own & is_split, 1, 0)) > 0
    own_is_few = tl.sum(tl.where(own & is_few, 1, 0)) > 0
    few_before = tl.sum(tl.where(before, few, 0))
    many_before = tl.sum(tl.where(before, many, 0))
    merges_before = tl.sum(tl.where(before, merged_rows, 0))

    unit_splits = tl.where(own_is_split, own_splits, 1)
    target_ptr = tl.where(own_is_few, few_units_ptr + few_before * _UNIT, many_units_ptr + many_before * _UNIT)
    tile_positions = tl.where(own_is_few, FEW_POSITIONS, MANY_POSITIONS)
    for first_unit in range(0, own_units, WRITE_BLOCK):
        unit = first_unit + tl.arange(0, WRITE_BLOCK)
        row = unit // unit_splits * own_tile_rows
        split = unit % unit_splits
        rows_here = tl.minimum(own_tile_rows, own_rows - row)
        position = own_length - own_rows + row
        start = tl.zeros_like(position)
        if WINDOW > 0:
            start = tl.maximum(position - WINDOW + 1, 0) // tile_positions * tile_positions
        end = position + rows_here
        if own_is_split:
            start = tl.maximum(start, split_start(own_first_split + split))
            end = tl.minimum(end, split_start(own_first_split + split + 1))
        slot = tl.where(own_is_split, own_slot + row * own_splits + split, -1)
        mask = unit < own_units
        field_ptr = target_ptr + unit * _UNIT
        tl.store(field_ptr, table_row, mask=mask)
        tl.store(field_ptr + 1, own_first + row, mask=mask)
        tl.store(field_ptr + 2, rows_here, mask=mask)
        tl.store(field_ptr + 3, position, mask=mask)
        tl.store(field_ptr + 4, start, mask=mask)
        tl.store(field_ptr + 5, end, mask=mask)
        tl.store(field_ptr + 6, slot, mask=mask)
        tl.store(field_ptr + 7, own_splits, mask=mask)

    if own_is_split:
        for start in range(0, own_rows, WRITE_BLOCK):
            index = start + tl.arange(0, WRITE_BLOCK)
            target = merges_ptr + (merges_before + index) * _MERGE
            mask = index < own_rows
            tl.store(target, own_first + index, mask=mask)
            tl.store(target + 1, own_slot + index * own_splits, mask=mask)
            tl.store(target + 2, own_splits, mask=mask)


def new_plan(
    rows: int,
    sequences: int,
    max_tokens: int,
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    page_size: int,
    device: torch.device,
    window: int = 0,
    gpu: Gpu | None = None,
) -> AttentionPlan:
    """Allocate a plan for steps of up to ``rows`` rows and ``sequences`` sequences of up to ``max_tokens`` tokens.

    Args:
        window: positions that a row sees, its own included; 0: all.
        gpu: what the kernels are compiled for, if it is not ``device``.

    Raises Unsupported.
    """
    gpu = gpu or gpu_of(device)
    group = q_heads // kv_heads
    few, many = attention_tiles(gpu, group, head_dim)
    # At least one sequence of the greatest length can be split, with as many rows as the smallest few-rows tile holds;
    # and a short chunk after a long text, which is a turn of a chat.
    slots = max(
        sequences * SLOTS_PER_SEQUENCE,
        max(_LEAST_TILE // group, 1) * max_splits(max_tokens),
        min(rows, SPLIT_ROWS) * max_splits(min(max_tokens, SPLIT_TOKENS)),
    )

    def int32(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.int32, device=device)

    return AttentionPlan(
        q_heads=q_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        page_size=page_size,
        window=window,
        few_rows=few,
        many_rows=many,
        multiprocessors=gpu.multiprocessors,
        few_units=int32(sequences + min(rows, _SMALL_STEP_ROWS) // max(few.rows // group, 1) + slots, UNIT_FIELDS),
        many_units=int32(sequences + rows // (many.rows // group) + slots, UNIT_FIELDS),
        merges=int32(max(min(rows, slots), 1), MERGE_FIELDS),
        counts=int32(3),
        partial_out=torch.empty(slots, q_heads, head_dim, device=device),
        partial_stats=torch.empty(slots, q_heads, 2, device=device),
    )


def fill_plan(plan: AttentionPlan, batch: StepBatch) -> None:
    """Write the lists of one step, on the device and without a host sync."""
    sequences, table = batch.kv_lengths.shape[0], batch.page_table
    rows, places, pages = batch.changes or (table, table, table)
    changes = 0 if batch.changes is None else len(places)
    _plan_kernel[(sequences,)](
        batch.query_start,
        batch.kv_lengths,
        plan.few_units,
        plan.many_units,
        plan.merges,
        plan.counts,
        table,
        rows,
        places,
        pages,
        sequences,
        plan.partial_stats.shape[0],
        plan.few_rows.rows if plan.has_many_rows(batch.positions.shape[0]) else _ANY_ROWS,
        GROUP=plan.q_heads // plan.kv_heads,
        FEW_TILE=plan.few_rows.rows,
        MANY_TILE=plan.many_rows.rows,
        FEW_POSITIONS=plan.few_rows.positions,
        MANY_POSITIONS=plan.many_rows.positions,
        SPLIT_ROWS=SPLIT_ROWS,
        WINDOW=plan.window,
        BLOCK=max(triton.next_power_of_2(sequences), _LEAST_BLOCK),
        WRITE_BLOCK=_WRITE_BLOCK,
        CHANGES=changes,
        CHANGE_BLOCK=triton.next_power_of_2(max(triton.cdiv(changes, sequences), 1)),
    )


def plan_attention(
    batch: StepBatch,
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    page_size: int,
    window: int = 0,
    reuse: AttentionPlan | None = None,
) -> AttentionPlan:
    """Divide the work of a step. ``reuse``: a plan of ``new_plan`` to refill, so that the step allocates nothing."""
    plan = reuse or new_plan(
        batch.positions.shape[0],
        batch.kv_lengths.shape[0],
        batch.page_table.shape[1] * page_size,
        q_heads,
        kv_heads,
        head_dim,
        page_size,
        batch.positions.device,
        window,
    )
    fill_plan(plan, batch)
    return plan
