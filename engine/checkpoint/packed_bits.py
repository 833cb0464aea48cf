"""Codes of a few bits in 32-bit words, and inputs that are grouped in another order than they come."""

import torch

from .errors import ModelError

WORD = 32  # bits


def words(count: int, bits: int) -> int:
    """How many words ``count`` codes take."""
    return -(-count * bits // WORD)


def unpack(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Integers [rows, words(count, bits)] -> uint8 [rows, count]. The first code is in the lowest bits."""
    rows = len(packed)
    if 8 % bits == 0:
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
        codes = packed.to(torch.int32).contiguous().view(torch.uint8)[..., None] >> shifts
        return (codes & (2**bits - 1)).view(rows, -1)[:, :count].contiguous()
    # ``bits`` words hold 32 codes, some of which lie in two of them.
    missing = -packed.shape[1] % bits
    lots = torch.nn.functional.pad(packed.long() & 0xFFFFFFFF, (0, missing)).view(rows, -1, bits)
    codes = torch.empty(*lots.shape[:2], WORD, dtype=torch.uint8)
    for i in range(WORD):
        word, shift = divmod(i * bits, WORD)
        code = lots[..., word] >> shift
        if shift + bits > WORD:
            code |= lots[..., word + 1] << (WORD - shift)
        codes[..., i] = code & (2**bits - 1)
    return codes.view(rows, -1)[:, :count].contiguous()


def group_order(name: str, groups: torch.Tensor, count: int) -> torch.Tensor | None:
    """Inputs by their group, int64, or None if they come like that. Raises ModelError, with ``name``.

    ``groups``: int64 [inputs], each one's group below ``count``; all have the same size.
    """
    if groups.min() < 0 or groups.max() >= count:
        raise ModelError(f"{name}: groups {groups.min()} to {groups.max()}, where {count} have a scale. It is damaged")
    sizes = torch.bincount(groups, minlength=count)
    if (sizes != len(groups) // count).any():
        raise ModelError(f"{name}: groups of {sizes.min()} to {sizes.max()} inputs; all of one size are supported")
    if (groups.diff() >= 0).all():
        return None
    return torch.argsort(groups, stable=True)


def compact_zeros(zeros: torch.Tensor) -> torch.Tensor | int:
    """[out, groups] -> int16, or the one that all are, as in every symmetric weight."""
    first = int(zeros[0, 0])
    return first if bool((zeros == first).all()) else zeros.to(torch.int16).contiguous()
