"""From tensors of a checkpoint to weights of a backend: checked, fused, converted, on the device."""

from collections.abc import Sequence

import torch

from ...kernels import Backend, Linear
from ..checkpoint.safetensors_dir import Checkpoint


class WeightLoader:
    """Loads weights by name. One tensor of the checkpoint is in flight at a time, besides the mapped file."""

    def __init__(self, checkpoint: Checkpoint, backend: Backend, dtype: torch.dtype, device: torch.device) -> None:
        self.backend = backend
        self.device = device
        self.storage_dtype = backend.storage_dtype(dtype)
        self.stream_dtype = backend.stream_dtype(dtype)
        self._checkpoint = checkpoint
        self._dtype = dtype

    def tensor(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """A tensor of that shape in the storage dtype on the device. Raises ModelError."""
        # First to the dtype that was asked for, so that fp16 widened to fp32 has fp16's values.
        loaded = self._checkpoint.get(name, tuple(shape))
        return loaded.to(self.device).to(self._dtype).to(self.storage_dtype).contiguous()

    def vector(self, name: str, size: int) -> torch.Tensor:
        """A norm weight or bias, [size]. Raises ModelError."""
        return self.tensor(name, (size,))

    def linear(self, parts: Sequence[tuple[str, int]], inner: int, bias: bool) -> Linear:
        """One linear from one or several (module name, output width) that read the same rows. Raises ModelError."""
        weight = torch.cat([self.tensor(f"{name}.weight", (width, inner)) for name, width in parts])
        if not bias:
            return self.backend.pack_linear(weight)
        return self.backend.pack_linear(
            weight, torch.cat([self.vector(f"{name}.bias", width) for name, width in parts])
        )
