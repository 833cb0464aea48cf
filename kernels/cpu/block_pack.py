"""From the description of a block-quantised weight to the records that the tile reads (block_form.py)."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from numba import njit

from ..block_weight import BlockSource, BlockWeight
from .block_form import CHUNK, PLANES, BlockForm
from .features import SET
from .llvm import LANES
from .machine import lasting_empty
from .thread_pool import thread_pool

MOST_CHUNKS = 8  # of a record
_CODES_AT_A_TIME = 1 << 21  # of a thread: one byte each. Small tasks spend their time waiting for Python's lock


def form_of(weight: BlockWeight) -> BlockForm:
    """How the records of a weight look."""
    chunks = math.gcd(weight.shape[1] // CHUNK, MOST_CHUNKS)
    zeros = isinstance(weight.zero, torch.Tensor)
    values = weight.table or tuple(range(1 << weight.bits))
    bits, table = weight.bits, tuple(value - (0 if zeros else int(weight.zero)) for value in values)
    looks_up = SET.word_lookup or (SET.byte_lookup is not None and bits == 4)
    if bits == 8 or (weight.table is not None and not looks_up):
        bits, table = 8, ()
    return BlockForm(
        bits,
        table,
        math.gcd(weight.group, chunks * CHUNK),
        chunks,
        str(weight.scale.base.dtype).removeprefix("torch."),
        weight.scale.steps is not None,
        zeros,
        weight.minimum is not None,
    )


def pack(parts: Sequence[BlockSource], form: BlockForm, every: int) -> torch.Tensor:
    """Panels of weights [out, in] of one form, one after another: uint8 [panels, bytes].

    Args:
        parts: their outputs are multiples of 16, but for the last one's.
        every: the number of panels is rounded up to a multiple of it.
    """
    inner = parts[0].shape[1]
    records = inner // (form.chunks * CHUNK)
    counts = [-(-part.shape[0] // LANES) for part in parts]
    packed = lasting_empty((-(-sum(counts) // every) * every, records * form.record_bytes), torch.uint8)
    packed[sum(counts) :] = 0
    step = min(max(1, _CODES_AT_A_TIME // (LANES * inner)), -(-sum(counts) // thread_pool().threads))
    done, first = [], 0
    for part, count in zip(parts, counts, strict=True):
        for start in range(0, count, step):
            panels = packed[first + start : first + min(start + step, count)]
            done.append(_packers().submit(_pack_some, part, form, start * LANES, panels))
        first += count
    for one in done:
        one.result()
    return packed


@cache
def _packers() -> ThreadPoolExecutor:
    """Threads of which none has PyTorch wake others: those would spin against each other."""
    threads = thread_pool().threads
    return ThreadPoolExecutor(threads, "pack", initializer=torch.set_num_threads, initargs=(1,))


@torch.inference_mode()  # of each thread, and the panels may be made in it
def _pack_some(part: BlockSource, form: BlockForm, start: int, panels: torch.Tensor) -> None:
    weight = part.take(slice(start, min(start + len(panels) * LANES, part.shape[0])))
    count = len(panels)
    records = panels.view(count, -1, form.record_bytes)
    head = form.head
    codes = _by_lane(weight.codes, count)
    if form.bits == 8:
        offset = 128 if form.zeros else int(weight.zero)  # zero points are moved with the codes
        values = codes.short() - offset if weight.table is None else _table_values(weight)[codes.long()]
        codes = values.to(torch.int8).view(torch.uint8)
    _place_codes(codes.numpy(), records.numpy(), head.size, form.chunks, form.bits, PLANES[form.bits])
    for scales, base_at, steps_at in (
        (weight.scale, head.scale, head.scale_steps),
        (weight.minimum, head.minimum, head.minimum_steps),
    ):
        if scales is not None:
            _place(records, base_at, scales.base, 1 if form.stepped else form.groups)
            if scales.steps is not None:
                _place(records, steps_at, scales.steps, form.groups)
    if isinstance(weight.zero, torch.Tensor):
        zero = weight.zero - 128 if form.bits == 8 else weight.zero
        _place(records, head.zero, zero.half(), form.groups)


def _table_values(weight: BlockWeight) -> torch.Tensor:
    assert weight.table is not None
    return torch.tensor(weight.table, dtype=torch.int16) - int(weight.zero)


@njit(nogil=True, cache=True)
def _place_codes(codes, records, head, chunks, bits, planes):
    """codes uint8 [panels, 16, in] into records [panels, records, bytes], by words of four codes of all lanes."""
    panels, lanes, _ = codes.shape
    chunk_bytes = bits * 32 * lanes // 8
    fours, quads = codes.view(np.uint32), np.empty((8, lanes), np.uint32)
    for panel in range(panels):
        for record in range(records.shape[1]):
            for chunk in range(chunks):
                begin, k = head + chunk * chunk_bytes, (record * chunks + chunk) * 32
                target = records[panel, record, begin : begin + chunk_bytes]
                if bits == 8:
                    for step in range(16):
                        for lane in range(lanes):
                            target[step * 32 + lane * 2] = codes[panel, lane, k + 2 * step]
                            target[step * 32 + lane * 2 + 1] = codes[panel, lane, k + 2 * step + 1]
                    continue
                _gather_quads(fours, panel, k // 4, quads)
                _place_planes(quads, target.view(np.uint32), planes)


@njit(inline="always")
def _place_planes(quads, words, planes):
    """Words [8, 16] of four codes into the planes of a chunk: those of a few quads side by side in one word."""
    lanes = quads.shape[1]
    at, offset = 0, 0
    for width in planes:
        mask, per_word = np.uint32(((1 << width) - 1) * 0x01010101), 8 // width
        for word in range(width):
            for i in range(per_word):
                right, left = np.uint32(at), np.uint32(width * i)
                for lane in range(lanes):
                    here = (quads[word * per_word + i, lane] >> right & mask) << left
                    words[offset + lane] = here if i == 0 else words[offset + lane] | here
            offset += lanes
        at += width


@njit(inline="always")
def _gather_quads(fours, panel, start, quads):
    """A chunk's 8 words of each lane into [8, 16]: the k of ``place_of``'s steps, as ``order_of`` has them."""
    for lane in range(quads.shape[1]):
        for j in range(8):
            quads[j, lane] = fours[panel, lane, start + j]
    for at in range(0, 8, 2):
        for lane in range(quads.shape[1]):
            first, second = quads[at, lane], quads[at + 1, lane]
            quads[at, lane] = _interleaved(first, second)
            quads[at + 1, lane] = _interleaved(first >> np.uint32(16), second >> np.uint32(16))


@njit(inline="always")
def _interleaved(low, high):
    """Bytes 0 of both, then bytes 1 of both."""
    one, two = np.uint32(0xFF), np.uint32(0xFF00)
    return low & one | (high & one) << np.uint32(8) | (low & two) << np.uint32(8) | (high & two) << np.uint32(16)


def _by_lane(values: torch.Tensor, panels: int) -> torch.Tensor:
    """[out, any] -> [panels, 16, any], zeros for outputs that are not there."""
    out, width = values.shape
    if out < panels * LANES:
        padded = values.new_zeros((panels * LANES, width))
        padded[:out] = values
        values = padded
    return values.contiguous().view(panels, LANES, width)


def _place(records: torch.Tensor, offset: int, values: torch.Tensor, per_record: int) -> None:
    """Values of groups, or of super-blocks, into the heads: 16 lanes side by side."""
    panels, count, _ = records.shape
    wanted = count * per_record
    if values.shape[1] < wanted:  # a group is longer than a record
        values = values.repeat_interleave(wanted // values.shape[1], 1)
    lanes = _by_lane(values, panels).view(panels, LANES, count, per_record)
    placed = lanes.permute(0, 2, 3, 1).contiguous().view(panels, count, -1).view(torch.uint8)
    records[:, :, offset : offset + placed.shape[2]] = placed
