"""How a step's attention is divided into work items of about equal length.

A block is some rows of one sequence. It becomes one work item if it is short beside the step, else several that divide
its segments of positions, and its KV heads if there are too few segments. They leave the segments' shares in slots, one
for a segment and a packed row. Whatever the division, results are the same (attention.py).
"""

from dataclasses import dataclass

import torch
from numba import types

from .. import StepBatch
from .machine import aligned_empty, array_at
from .op_graph import run, struct_dtype, work_item
from .thread_pool import thread_pool

_PACKED_ROWS = 24  # rows x query heads of a block: three 8-row tiles share each page read
_ITEMS_PER_THREAD = 12  # about, if there is that much to do: threads end nearly together
# Positions of a segment, about: whole pages. K and V of a head's segment and those that are asked for meanwhile have to
# fit the second-level cache. Measured, prompts: 256 are 7 % slower than 512.
_SEGMENT = 512

# Segments count from position 0; pages and ``visible``, the end of what its first row sees, are the block's; ``slot``
# is -1 where the item is all of its heads' segments.
ITEM = struct_dtype(
    sequence=int, first_row=int, rows=int, head=int, heads_end=int, segment=int, segments_end=int,
    slot=int, parts=int, counter=int, first_page=int, end_page=int, visible=int,
)  # fmt: skip
_ARGUMENTS = struct_dtype(
    query_start=int, kv_lengths=int, items=int, num_items=int, block_rows=int, kv_heads=int, group=int, window=int,
    page_size=int, segment_pages=int, slots=int, parts=int,
)  # fmt: skip


@dataclass
class AttentionPlan:
    """Work items of a step, and memory for what they hand on to each other."""

    kv_heads: int
    group: int  # query heads per KV head
    window: int  # positions that a row sees, its own included; 0: all
    page_size: int
    segment_pages: int
    block_rows: int  # rows of a block, at most
    parts: int  # work items beyond one for each block and KV head, at most
    items: torch.Tensor  # uint8 [items, bytes of ITEM]
    num_items: torch.Tensor  # int64 [1]
    counters: torch.Tensor  # int64 [blocks * KV heads]: parts done, zero between steps
    shares: torch.Tensor  # fp32 [slots, head_dim + 2]: each slot's product, largest exponent, sum


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
) -> AttentionPlan:
    """Room for the plans of steps over so many rows and sequences of up to ``max_tokens`` tokens."""
    del device
    group = q_heads // kv_heads
    block_rows = max(1, _PACKED_ROWS // group)
    segment_pages = max(1, _SEGMENT // page_size)
    parts = _ITEMS_PER_THREAD * thread_pool().threads
    blocks = sequences + rows // block_rows + 1
    seen = min(max_tokens, window + block_rows + segment_pages * page_size) if window else max_tokens
    # Enough for one block of the longest sequence; a block that finds no slots left is not cut.
    slots = (seen // (segment_pages * page_size) + 2) * block_rows * q_heads
    return AttentionPlan(
        kv_heads, group, window, page_size, segment_pages, block_rows, parts,
        torch.zeros(blocks * kv_heads + parts, ITEM.itemsize, dtype=torch.uint8),
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(blocks * kv_heads, dtype=torch.int64),
        aligned_empty((slots, head_dim + 2), torch.float32),
    )  # fmt: skip


@work_item
def _fill():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        kv_heads, group, block_rows = a.kv_heads, a.group, a.block_rows
        query_start = array_at(a.query_start, sequences + 1, types.int32)
        kv_lengths = array_at(a.kv_lengths, sequences, types.int32)
        most = kv_heads * (sequences + rows // block_rows + 1) + a.parts
        items = array_at(a.items, most, ITEM)
        count, slots, counters, total = 0, 0, 0, 0
        for filling in range(2):  # first the step's length is found
            length = max((total * kv_heads + a.parts - 1) // a.parts, 1)
            for sequence in range(sequences):
                last = query_start[sequence + 1]
                for row in range(query_start[sequence], last, block_rows):
                    in_block = min(block_rows, last - row)
                    # Row r sees positions up to kv_length - (last - 1 - r), its own.
                    visible = kv_lengths[sequence] - (last - row) + 1
                    first = max(visible - a.window, 0) // a.page_size if a.window > 0 else 0
                    end = (visible + in_block - 1 + a.page_size - 1) // a.page_size
                    packed = in_block * group
                    cost = (end - first) * (packed + 3)  # K and V are read once for all: about as long as 3 rows take
                    if filling == 0:
                        total += cost
                        continue
                    segment, segments_end = first // a.segment_pages, (end - 1) // a.segment_pages + 1
                    segments, parts, heads = segments_end - segment, 1, kv_heads
                    if cost * kv_heads > length:
                        # Heads of a page lie side by side, and memory is faster if they are read one after the other.
                        parts = (cost * kv_heads + length - 1) // length
                        if parts > segments:
                            parts, heads = min((cost + length - 1) // length, segments), 1
                        if parts > 1 and slots + segments * packed * kv_heads > a.slots:
                            parts, heads = 1, 1
                    for head in range(0, kv_heads, heads):
                        for part in range(parts):
                            new = items[count]
                            new.sequence, new.first_row, new.rows = sequence, row, in_block
                            new.head, new.heads_end = head, head + heads
                            new.segment = segment + segments * part // parts
                            new.segments_end = segment + segments * (part + 1) // parts
                            new.slot, new.parts, new.counter = slots if parts > 1 else -1, parts, counters
                            new.first_page, new.end_page, new.visible = first, end, visible
                            count += 1
                        if parts > 1:
                            slots += segments * packed * heads
                            counters += 1
        array_at(a.num_items, 1, types.int64)[0] = count

    return kernel


def fill_plan(plan: AttentionPlan, batch: StepBatch) -> None:
    """Divide a step into work items."""
    arguments = {
        "query_start": batch.query_start, "kv_lengths": batch.kv_lengths, "items": plan.items,
        "num_items": plan.num_items, "block_rows": plan.block_rows, "kv_heads": plan.kv_heads, "group": plan.group,
        "window": plan.window, "page_size": plan.page_size, "segment_pages": plan.segment_pages,
        "slots": len(plan.shares), "parts": plan.parts,
    }  # fmt: skip
    run(_fill(), _ARGUMENTS, arguments, len(batch.positions), len(batch.kv_lengths), fixed=1)
