"""Staging buffers: memory through which a step's inputs and results go between the host and the device.

The host's side is there twice and used in turn, so that a step can be staged while another one is copied.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch

Copy = Callable[[torch.Tensor, torch.Tensor], None]  # to the first from the second: same shape, contiguous


_ALIGNMENT = 64  # bytes: a cache line, and more than Triton specialises on


def copy_async(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy in the order of the device's stream, without waiting for it."""
    target.copy_(source, non_blocking=True)


class StagedTensor:
    """A tensor on the device, and two on the host to be filled in turn: one is being copied, the other written."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self.host = [torch.zeros(shape, dtype=dtype, pin_memory=pinned) for _ in range(2)]
        self.arrays = [tensor.numpy() for tensor in self.host]  # the same memory
        self._turn = 0
        self.device = torch.zeros(shape, dtype=dtype, device=device)

    def turn(self) -> int:
        """Index of the host tensor that was not filled last; from now on it is the one to fill."""
        self._turn ^= 1
        return self._turn

    def upload(self, count: int, copy: Copy) -> None:
        """Bring the first ``count`` entries of the one filled last to the device."""
        if count > 0:
            copy(self.device[:count], self.host[self._turn][:count])

    def download(self, count: int, copy: Copy) -> None:
        """Bring the first ``count`` entries from the device to the host tensor that is in turn."""
        copy(self.host[self._turn][:count], self.device[:count])


class StagingBuffer:
    """Named tensors that travel together. The host's side is used in turn, so a step can be staged during another.

    Attributes:
        device: the tensors that kernels see, by name.
        host: the same in host memory, as NumPy arrays, for each of the two turns.
    """

    def __init__(self, fields: Mapping[str, tuple[tuple[int, ...], torch.dtype]], device: torch.device) -> None:
        self._ends: dict[str, int] = {}
        starts: dict[str, int] = {}
        size = 0
        for name, (shape, dtype) in fields.items():
            starts[name] = size
            self._ends[name] = size + int(np.prod(shape)) * dtype.itemsize
            size = -(-self._ends[name] // _ALIGNMENT) * _ALIGNMENT
        self._size = size
        self._staged = StagedTensor((size,), torch.uint8, device)

        def views(memory: torch.Tensor) -> dict[str, torch.Tensor]:
            return {
                name: memory[starts[name] : self._ends[name]].view(dtype).view(shape)
                for name, (shape, dtype) in fields.items()
            }

        self.device = views(self._staged.device)
        self.host = [{name: view.numpy() for name, view in views(host).items()} for host in self._staged.host]

    @property
    def memory(self) -> torch.Tensor:
        """All of ``device``, uint8 [any]."""
        return self._staged.device

    def turn(self) -> dict[str, np.ndarray]:
        """The host's side that was not used last; it is the one in use from now on."""
        return self.host[self._staged.turn()]

    def upload(self, copy: Copy) -> None:
        """Bring the host's side in use to the device."""
        self._staged.upload(self._size, copy)

    def download(self, copy: Copy, through: str) -> None:
        """Bring the fields up to ``through`` from the device to the host's side in use."""
        self._staged.download(self._ends[through], copy)
