"""Block-quantised weights: one description of what GGUF, GPTQ, AWQ and compressed-tensors files hold.

    weight[o, i] = scale[o, g] * (value(codes[o, i]) - zero[o, g]) - minimum[o, g]          g = i // group

where ``value`` is the code itself or its entry in a table; scale and minimum may be products of a float for a
super-block and an integer for a group. Nothing here rounds: every format turns into it as it is.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch

# Twice what the codes of E2M1 stand for, the floats of 4 bits of MXFP4: whole numbers.
E2M1_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


@dataclass(frozen=True)
class Scales:
    """Floats of the groups of a weight, [out, groups]; with ``steps`` they are ``base`` of a super-block x step."""

    base: torch.Tensor  # fp16, bf16 or fp32 [out, groups], or [out, super-blocks] beside ``steps``
    steps: torch.Tensor | None = None  # int8 [out, groups]

    def values(self) -> torch.Tensor:
        """fp32 [out, groups]; exact, as 11 + 8 bits fit fp32."""
        base = self.base.float()
        if self.steps is None:
            return base
        return base.repeat_interleave(self.steps.shape[1] // base.shape[1], 1) * self.steps.float()

    def take(self, rows: torch.Tensor | slice) -> "Scales":
        """Of some outputs."""
        return Scales(self.base[rows], None if self.steps is None else self.steps[rows])


@dataclass(frozen=True)
class BlockWeight:
    """A weight [out, in] in 2 to 8 bits. See the module for the formula."""

    codes: torch.Tensor  # uint8 [out, in]
    bits: int
    group: int  # inputs that share a scale, a multiple of 16; divides ``in``
    scale: Scales
    zero: torch.Tensor | int = 0  # int16 [out, groups], or one for all
    minimum: Scales | None = None
    table: tuple[int, ...] | None = None  # value of each code, -128 to 127
    order: torch.Tensor | None = None  # int64 [in]: column j of the codes is input order[j]

    @property
    def shape(self) -> tuple[int, int]:
        out, inner = self.codes.shape
        return out, inner

    def take(self, rows: torch.Tensor | slice) -> "BlockWeight":
        """Some of its outputs."""
        return replace(
            self,
            codes=self.codes[rows],
            scale=self.scale.take(rows),
            zero=self.zero[rows] if isinstance(self.zero, torch.Tensor) else self.zero,
            minimum=None if self.minimum is None else self.minimum.take(rows),
        )

    def dequantized(self) -> torch.Tensor:
        """The weight in fp32, [out, in]: what every kernel is compared with."""
        out, inner = self.codes.shape
        codes = self.codes.float() if self.table is None else torch.tensor(self.table).float()[self.codes.long()]
        grouped = codes.view(out, -1, self.group)
        zero = self.zero.float()[..., None] if isinstance(self.zero, torch.Tensor) else float(self.zero)
        weight = self.scale.values()[..., None] * (grouped - zero)
        if self.minimum is not None:
            weight = weight - self.minimum.values()[..., None]
        weight = weight.reshape(out, inner)
        if self.order is None:
            return weight
        ordered = torch.empty_like(weight)
        ordered[:, self.order] = weight
        return ordered


class BlockSource(Protocol):
    """A block-quantised weight that is read some outputs at a time: one byte a code is too much for all of it."""

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in]."""
        ...

    def take(self, rows: torch.Tensor | slice) -> BlockWeight:
        """Some of its outputs, by their numbers (int64) or a range. Any of them have all the same form."""
        ...
