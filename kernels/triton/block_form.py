"""How block-quantised weights lie in device memory: what the packing (block_pack.py) writes and the kernels read.

Codes are in planes of 8, 4, 2 or 1 bits. An int16 word of a plane holds the bits of an output at 16 / bits
values of k that are 16 apart. A tile is 16 such words, [tiles, out, 16]: two threads read an output's with 16 bytes
each, and one shift makes of all of them the codes of 16 consecutive k, the depth of a tensor core instruction. Adjacent
words are adjacent k, so both halves of a register become a pair of fp16 or bf16 at once. What belongs to groups is in
words of 32 bits, [spans, words, out], so that no load is narrower than that.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .. import Unsupported
from ..block_weight import E2M1_DOUBLED, BlockWeight

WORDS = 16  # of a tile and an output: the k of one product
PLANES = {2: (2, 0), 3: (2, 1), 4: (4, 0), 5: (4, 1), 6: (4, 2), 8: (8, 0)}  # of each width of codes, lowest bits first
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "int16": 2, "int8": 1, "": 0}
_LEAST_INPUTS, _MOST_INPUTS = 64, 256  # of a block
_TABLE_BITS = 4  # codes that a table of 128 bits has entries for


class BlockForm(NamedTuple):
    """The compile-time arguments of the kernels; those that follow from others are here because Triton's cache on disk
    knows a kernel by its arguments. Sizes are in values of k, offsets in bytes.
    """

    bits: int
    low_bits: int  # of the plane with the lowest bits
    high_bits: int  # of the other plane; 0: there is none
    block: int  # what a step of the loop takes: whole tiles of each plane
    group: int  # with one scale: divides the block, or is a multiple of it
    unit: int  # whose products are summed before they are scaled
    span: int  # whose scales, minima and zero points are side by side: ``groups`` of each, in ``span_words`` words
    groups: int
    span_words: int
    base: str  # torch's name of the dtype of scales and minima
    base_bytes: int
    super_block: int  # whose scale times an int8 step a group's is; 0: there are no steps
    scale_bytes: int  # of a group's scale in a span
    minima: bool
    minimum_at: int  # where minima begin in a span
    nibbles: bool  # the steps of a scale and a minimum share a byte
    zero: int  # of all groups, taken off the codes
    zeros: str  # dtype of the groups' zero points; "": they have none
    zeros_at: int
    zero_bytes: int
    has_table: bool  # codes stand for int8 values: the bytes of two int64
    table_low: int
    table_high: int

    @property
    def base_words(self) -> int:
        """32-bit words of a super-block: its scale, and its minimum."""
        return -(-self.base_bytes * (1 + self.minima) // 4)

    @property
    def is_e2m1(self) -> bool:
        """Whether codes are floats of 4 bits: their bits can be moved to those of larger floats."""
        return self.has_table and (self.table_low, self.table_high) == _table_words(E2M1_DOUBLED)

    @property
    def is_full(self) -> bool:
        """Whether nothing of a span's words is left over."""
        return self.zeros_at + self.groups * self.zero_bytes == 4 * self.span_words


@dataclass(frozen=True)
class _Weight:
    """What a form follows from, beside the size of a block."""

    bits: int
    group: int
    base: str
    super_block: int
    minima: bool
    zero: int
    zeros: str
    table: tuple[int, ...]

    def form(self, block: int) -> BlockForm:
        group = self.group if self.group % block == 0 else math.gcd(self.group, block)
        span = max(group, block)
        groups = span // group
        base_bytes, zero_bytes = _BYTES[self.base], _BYTES[self.zeros]
        scale_bytes = 1 if self.super_block else base_bytes
        nibbles = self.bits == 2 and self.super_block > 0 and self.minima
        minimum_at = 0 if nibbles else groups * scale_bytes
        zeros_at = groups * scale_bytes * (2 if self.minima and not nibbles else 1)
        return BlockForm(
            self.bits, *PLANES[self.bits], block, group, min(group, block), span, groups,
            -(-(zeros_at + groups * zero_bytes) // 4), self.base, base_bytes, self.super_block, scale_bytes,
            self.minima, minimum_at, nibbles, self.zero, self.zeros, zeros_at, zero_bytes,
            bool(self.table), *_table_words(self.table),
        )  # fmt: skip


def _table_words(table: tuple[int, ...]) -> tuple[int, int]:
    return _int64(table[:8]), _int64(table[8:])


def _int64(values: tuple[int, ...]) -> int:
    """With these int8 as its bytes, the first the lowest."""
    return int.from_bytes(bytes(value & 255 for value in values), "little", signed=len(values) == 8)


def form_of(weight: BlockWeight) -> BlockForm:
    """The form of a weight, taken from any of its outputs. Raises Unsupported."""
    bits = min(bits for bits in PLANES if bits >= weight.bits)
    zeros = isinstance(weight.zero, torch.Tensor)
    zero, table = 0 if zeros else int(weight.zero), weight.table or ()
    if table and bits > _TABLE_BITS:
        raise Unsupported(f"tables of codes of {weight.bits} bits")  # no file has them
    block = max(_LEAST_INPUTS, WORDS * 16 // min(bits for bits in PLANES[bits] if bits))
    base, super_block = str(weight.scale.base.dtype).removeprefix("torch."), 0
    if weight.scale.steps is not None:
        super_block = weight.shape[1] // weight.scale.base.shape[1]
        if super_block % block or block % weight.group:
            base, super_block = "float32", 0  # no file has these: the products are kept, which are exact
    stored_zeros = ("int16" if bits == 8 else "int8") if zeros else ""
    described = _Weight(bits, weight.group, base, super_block, weight.minimum is not None, zero, stored_zeros, table)
    form = described.form(block)
    while not form.is_full and weight.group < 2 * block <= _MOST_INPUTS and weight.shape[1] % (2 * block) == 0:
        block *= 2
        if super_block % block:
            break
        form = described.form(block)
    return form
