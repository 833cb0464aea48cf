"""Weights of linears that are stored as [in, out], as GPT-2 has them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .safetensors_dir import Checkpoint

if TYPE_CHECKING:
    import torch


class TransposedCheckpoint:
    """A checkpoint in which the matrices of some modules are the other way round."""

    def __init__(self, checkpoint: Checkpoint, modules: Sequence[str]) -> None:
        """``modules``: last names, such as c_fc."""
        self._checkpoint = checkpoint
        self._endings = tuple(f".{module}.weight" for module in modules)

    def __contains__(self, name: str) -> bool:
        return name in self._checkpoint

    def shape(self, name: str) -> tuple[int, ...]:
        """As it is asked for: [out, in]. Raises ModelError if there is no such tensor."""
        shape = self._checkpoint.shape(name)
        return shape[::-1] if name.endswith(self._endings) else shape

    def get(self, name: str, expected_shape: Sequence[int]) -> "torch.Tensor":
        """See ``Checkpoint.get``."""
        if not name.endswith(self._endings):
            return self._checkpoint.get(name, expected_shape)
        return self._checkpoint.get(name, expected_shape[::-1]).T

    def blocks(self, name: str, expected_shape: Sequence[int]) -> None:  # noqa: ARG002
        """No weight of such a file is block-quantised."""
        return None
