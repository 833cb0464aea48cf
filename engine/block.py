"""Tensors of fixed shapes in one piece of memory, on the device and twice on the host: one copy moves them all."""

from collections.abc import Mapping

import numpy as np
import torch

from .staging import Copy, Staged

_ALIGNMENT = 64  # bytes: a cache line, and more than Triton specialises on


class Block:
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
        self._staged = Staged((size,), torch.uint8, device)

        def views(memory: torch.Tensor) -> dict[str, torch.Tensor]:
            return {
                name: memory[starts[name] : self._ends[name]].view(dtype).view(shape)
                for name, (shape, dtype) in fields.items()
            }

        self.device = views(self._staged.device)
        self.host = [{name: view.numpy() for name, view in views(host).items()} for host in self._staged.host]

    def turn(self) -> dict[str, np.ndarray]:
        """The host's side that was not used last; it is the one in use from now on."""
        return self.host[self._staged.turn()]

    def upload(self, copy: Copy) -> None:
        """Bring the host's side in use to the device."""
        self._staged.upload(self._size, copy)

    def download(self, copy: Copy, through: str) -> None:
        """Bring the fields up to ``through`` from the device to the host's side in use."""
        self._staged.download(self._ends[through], copy)
