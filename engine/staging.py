"""Memory through which a step's inputs go from the host to the device."""

from collections.abc import Callable

import torch

Copy = Callable[[torch.Tensor, torch.Tensor], None]  # to the first from the second: same shape, contiguous


def copy_async(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy in the order of the device's stream, without waiting for it."""
    target.copy_(source, non_blocking=True)


class Staged:
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
