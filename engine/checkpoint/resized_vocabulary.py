"""A draft model whose matrices were padded to another number of rows than those of the model that it guesses for."""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F

from ...kernels.block_weight import BlockSource


class _Tensors(Protocol):
    def __contains__(self, name: str) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def get(self, name: str, expected_shape: Sequence[int]) -> torch.Tensor: ...

    def blocks(self, name: str, expected_shape: Sequence[int]) -> BlockSource | None: ...


class ResizedVocabulary:
    """A checkpoint with embedding and head cut, or with rows of zeros: no tokenizer has tokens for those."""

    def __init__(self, checkpoint: _Tensors, modules: Sequence[str], stored: int) -> None:
        """``modules``: embedding and head, which have ``stored`` rows."""
        self._checkpoint, self._stored = checkpoint, stored
        self._resized = {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}

    def __contains__(self, name: str) -> bool:
        return name in self._checkpoint

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor as it is stored. Raises ModelError if there is none of that name."""
        return self._checkpoint.shape(name)

    def get(self, name: str, expected_shape: Sequence[int]) -> torch.Tensor:
        """A tensor, with so many rows. Raises ModelError if it is missing, of another shape or no float."""
        if name not in self._resized:
            return self._checkpoint.get(name, expected_shape)
        wanted, *inner = expected_shape
        stored = self._checkpoint.get(name, (self._stored, *inner))
        missing = max(wanted - self._stored, 0)
        return F.pad(stored, (0, 0) * len(inner) + (0, missing))[:wanted]

    def blocks(self, name: str, expected_shape: Sequence[int]) -> BlockSource | None:
        """A weight as it is quantised; embedding and head are widened."""
        return None if name in self._resized else self._checkpoint.blocks(name, expected_shape)
