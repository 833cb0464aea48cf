"""How fast memory can be read: what a step that waits for memory is held against."""

import time
from collections.abc import Callable

import numpy as np
import torch

from ...engine.cores import usable_cores

HOST_BYTES = 512 << 20  # beyond every cache
DEVICE_BYTES = 4 << 30  # at most: an engine leaves one per cent of the memory, 256 MiB at least
REPEATS = 7


def read_bandwidth(device: torch.device) -> float:
    """Bytes per second, the best of several passes over memory that no cache holds."""
    return _device_bandwidth(device) if device.type == "cuda" else _host_bandwidth()


def _host_bandwidth() -> float:
    """All cores sum an array."""
    import numba

    @numba.njit(parallel=True, fastmath=True)
    def total(values: np.ndarray) -> float:
        found = 0.0
        for i in numba.prange(values.shape[0]):
            found += values[i]
        return found

    values = np.ones(HOST_BYTES // 8)
    used = numba.get_num_threads()
    numba.set_num_threads(usable_cores())
    total(values)  # compiles
    best = min(_seconds(lambda: total(values)) for _ in range(REPEATS))
    numba.set_num_threads(used)
    return HOST_BYTES / best


def copied_bytes(free: int) -> int:
    """Of a tensor that is copied to another of its size where so many bytes are free. A fifth of them stays free."""
    return min(DEVICE_BYTES, free * 2 // 5) // 4096 * 4096


def _device_bandwidth(device: torch.device) -> float:
    """The device copies a tensor: it reads and writes each byte."""
    size = copied_bytes(torch.cuda.mem_get_info(device)[0])
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        torch.cuda.synchronize(device)

    copy()
    return 2 * size / min(_seconds(copy) for _ in range(REPEATS))


def _seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin
