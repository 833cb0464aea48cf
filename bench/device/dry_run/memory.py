"""How the engine divides the memory of a card that is not there, and whether its largest step then fits."""

from typing import Any, NamedTuple

import torch

from ....engine.limits import Limits
from ....engine.memory import run_largest_step
from ....kernels import load_backend
from .fake_device import DEVICE, recorded_device
from .fake_memory import Memory
from .models import load_shape


class Division(NamedTuple):
    """Bytes."""

    total: int
    weights: int  # and the driver's own
    step: int  # buffers, graphs and the largest step
    cache: int
    left: int  # after the largest step beside the whole cache
    limits: Limits

    def __str__(self) -> str:
        parts = ((name, value) for name, value in self._asdict().items() if name != "limits")
        return ", ".join(f"{name} {value / 2**30:.2f} GiB" for name, value in parts)


def divide(shape: str, arch: int, total_bytes: int, num_layers: int | None = None, **settings: Any) -> Division:
    """Start an engine as ``headwater serve`` does, and run its largest step. ``settings``: of EngineConfig.

    Raises ModelError where a card of that size has no room, torch.OutOfMemoryError where the division is wrong.
    """
    memory = Memory(total_bytes)
    with recorded_device(arch, memory):
        loaded = load_shape(
            shape, load_backend("triton"), DEVICE,
            lambda size: torch.empty(size, dtype=torch.bfloat16, device=DEVICE), num_layers, **settings,
        )  # fmt: skip
        after_weights = memory.free_bytes
        limits = loaded.sized()
        run_largest_step(loaded.start(limits), limits)
        cache = limits.num_pages * loaded.page_bytes
        left = memory.free_bytes
        return Division(total_bytes, total_bytes - after_weights, after_weights - cache - left, cache, left, limits)
