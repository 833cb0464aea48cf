"""From the description of block-quantised weights to what the kernels read (block_form.py)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .. import Unsupported
from ..block_weight import BlockSource, BlockWeight, Scales
from .block_form import WORDS, BlockForm

_CODES_AT_A_TIME = 1 << 26  # bytes: the rest of the packing is on the device, in a few times as much memory


class Packed(NamedTuple):
    """Weights of one form, one after another. What a form does not have is another tensor, which nothing reads."""

    low: torch.Tensor  # int16 [tiles, out, 16]
    high: torch.Tensor  # like ``low``, the upper bits
    spans: torch.Tensor  # int32 [spans, words, out]: scales or their steps, minima, zero points
    bases: torch.Tensor  # int32 [super-blocks, words, out]

    @property
    def nbytes(self) -> int:
        return sum({id(part): part.nbytes for part in self}.values())


def pack(parts: Sequence[BlockSource], form: BlockForm, device: torch.device) -> Packed:
    """Pack weights [out, in] of one form. Raises Unsupported."""
    outputs, inputs = sum(part.shape[0] for part in parts), parts[0].shape[1]
    padded = -(-inputs // form.block) * form.block

    def tiles(bits: int) -> torch.Tensor:
        return torch.empty((padded * bits // (16 * WORDS), outputs, WORDS), dtype=torch.int16, device=device)

    low = tiles(form.low_bits)
    high = tiles(form.high_bits) if form.high_bits else low
    shape = (-(-inputs // form.span), form.span_words, outputs)
    spans = torch.zeros(shape, dtype=torch.int32, device=device)
    bases = spans
    if form.super_block:
        shape = (inputs // form.super_block, form.base_words, outputs)
        bases = torch.zeros(shape, dtype=torch.int32, device=device)
    packed = Packed(low, high, spans, bases)
    step, at = max(1, _CODES_AT_A_TIME // inputs), 0
    for part in parts:
        for start in range(0, part.shape[0], step):
            weight = part.take(slice(start, min(start + step, part.shape[0])))
            _pack_some(weight, form, packed, slice(at, at + weight.shape[0]), padded)
            at += weight.shape[0]
    return packed


def _pack_some(weight: BlockWeight, form: BlockForm, packed: Packed, at: slice, padded: int) -> None:
    device = packed.low.device
    codes = torch.nn.functional.pad(weight.codes.to(device), (0, padded - weight.shape[1]))
    packed.low[:, at] = _plane(codes, 0, form.low_bits)
    if form.high_bits:
        packed.high[:, at] = _plane(codes, form.low_bits, form.high_bits)
    fields = []
    if form.super_block:
        scales = [scales for scales in (weight.scale, weight.minimum) if scales is not None]
        packed.bases[:, :, at] = _words([scales.base[:, :, None] for scales in scales], form.base_words, device)
        steps = [scales.steps for scales in scales if scales.steps is not None]
        if form.nibbles:
            if any(bool((each.min() < 0) | (each.max() > 15)) for each in steps):
                raise Unsupported("2-bit weights whose scales are no multiples 0 to 15 of a super-block's")
            steps = [steps[0] | steps[1] << 4]
        fields += steps
    else:
        fields += [_values(scales, form) for scales in (weight.scale, weight.minimum) if scales is not None]
    if isinstance(weight.zero, torch.Tensor):
        fields.append(weight.zero.to(getattr(torch, form.zeros)))
    repeated = [_grouped(field, weight, form) for field in fields]
    packed.spans[:, :, at] = _words(repeated, form.span_words, device)


def _values(scales: Scales, form: BlockForm) -> torch.Tensor:
    return scales.base if scales.steps is None else scales.values().to(getattr(torch, form.base))


def _plane(codes: torch.Tensor, at: int, bits: int) -> torch.Tensor:
    """Some bits of codes uint8 [out, in] as words: int16 [tiles, out, 16]; a word's first byte has the first k."""
    per_byte = 8 // bits
    parts = ((codes >> at) & ((1 << bits) - 1)).view(len(codes), -1, 2, per_byte, WORDS)
    bytes_ = parts[:, :, :, 0]
    for i in range(1, per_byte):
        bytes_ = bytes_ | parts[:, :, :, i] << (i * bits)
    return bytes_.permute(1, 0, 3, 2).contiguous().view(torch.int16).squeeze(-1)


def _grouped(field: torch.Tensor, weight: BlockWeight, form: BlockForm) -> torch.Tensor:
    """Values of the weight's groups [out, groups] as those of the form's: [out, spans, groups of a span]."""
    repeated = field.repeat_interleave(weight.group // form.group, 1)
    missing = -repeated.shape[1] % form.groups
    return torch.nn.functional.pad(repeated, (0, missing)).view(len(field), -1, form.groups)


def _words(fields: Sequence[torch.Tensor], count: int, device: torch.device) -> torch.Tensor:
    """Fields [out, n, any], one after another in words of 32 bits: int32 [n, count, out]."""
    as_bytes = [field.contiguous().to(device).view(torch.uint8) for field in fields]
    joined = torch.cat(as_bytes, -1)
    padded = torch.nn.functional.pad(joined, (0, 4 * count - joined.shape[-1])).contiguous()
    return padded.view(torch.int32).permute(1, 2, 0)
