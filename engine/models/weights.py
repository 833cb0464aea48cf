"""From tensors of a checkpoint to weights of a backend: checked, fused, converted, on the device."""

from collections.abc import Sequence

import torch

from ...kernels import Backend, Linear
from ..checkpoint.safetensors_dir import Checkpoint
from .dtypes import Dtypes


class WeightLoader:
    """Loads weights by name. One tensor of the checkpoint is in flight at a time, besides the mapped file."""

    def __init__(self, checkpoint: Checkpoint, backend: Backend, dtypes: Dtypes, device: torch.device) -> None:
        self.backend = backend
        self.device = device
        self.dtypes = dtypes
        self._checkpoint = checkpoint

    def tensor(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """A weight matrix of that shape on the device. Raises ModelError."""
        # First to the dtype that was asked for, so that fp16 widened to fp32 has fp16's values.
        loaded = self._checkpoint.get(name, tuple(shape))
        return loaded.to(self.device).to(self.dtypes.model).to(self.dtypes.weights).contiguous()

    def vector(self, name: str, size: int) -> torch.Tensor:
        """A norm weight or bias, [size], in the rows' dtype. Raises ModelError."""
        return self.tensor(name, (size,)).to(self.dtypes.rows)

    def linear(self, parts: Sequence[tuple[str, int]], inner: int, bias: bool) -> Linear:
        """One linear from one or several (module name, output width) that read the same rows. Raises ModelError."""
        weight = torch.cat([self.tensor(f"{name}.weight", (width, inner)) for name, width in parts])
        if not bias:
            return self.backend.pack_linear(weight)
        return self.backend.pack_linear(
            weight, torch.cat([self.vector(f"{name}.bias", width) for name, width in parts])
        )
