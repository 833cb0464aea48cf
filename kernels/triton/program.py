"""Steps that cost the host one call: CUDA graphs, one for each size, over static tensors.

Without a GPU (the interpreter) every launch calls the function, for the rows that the graph would have.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import triton
from triton import knobs

_PoolHandle = Any  # torch's own name for it is private


@cache
def has_gpu() -> bool:
    """Whether kernels run on a GPU. In the interpreter they don't, even if there is one."""
    return not knobs.runtime.interpret and torch.cuda.is_available()


@cache
def _capture_place() -> tuple[torch.cuda.Stream, _PoolHandle]:
    """The stream on which everything is captured, and the memory of what is allocated meanwhile.

    One for all programs: no two run at once, and what one leaves behind is in tensors that were there before it.
    """
    return torch.cuda.Stream(), torch.cuda.graph_pool_handle()


class Program:
    """Graphs of one function, by the number of rows that each was captured for."""

    def __init__(self, function: Callable[[int], object], sizes: Sequence[int]) -> None:
        self._function = function
        self._sizes = sorted(sizes)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        if has_gpu():
            # Largest first: the smaller ones find their memory in its pool.
            for size in reversed(self._sizes):
                self._graphs[size] = self._captured(size)

    def launch(self, rows: int, sequences: int = 0) -> None:
        """Run the smallest graph that is large enough; without one, the function."""
        del sequences  # those beyond the last have no rows: the plan on the device finds out
        index = bisect_left(self._sizes, rows)
        size = self._sizes[index] if index < len(self._sizes) else rows
        graph = self._graphs.get(size)
        if graph is None:
            self._function(size)
        else:
            graph.replay()

    @torch.inference_mode()
    def _captured(self, size: int) -> torch.cuda.CUDAGraph:
        stream, pool = _capture_place()
        # Once before, on the same stream: kernels are compiled and loaded, the libraries' workspaces and the sampler's
        # scratch allocated, none of which may happen in a capture or belongs into its pool.
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._function(size)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            self._function(size)
        return graph


def numerics() -> str:
    """See Backend."""
    return f"triton {triton.__version__} on {torch.cuda.get_device_name() if has_gpu() else 'the interpreter'}"


def capture(function: Callable[[int], object], sizes: Sequence[int]) -> Program:
    """Capture ``function(rows)`` for each of ``sizes``; rows beyond a step's own must be harmless."""
    return Program(function, sizes)


def release_recordings() -> None:
    """Let programs that are recorded from now on share memory of their own: that of those before may be given back."""
    _capture_place.cache_clear()


class Event:
    """The point that the work launched on the current stream had reached when it was made."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event() if has_gpu() else None
        if self._event is not None:
            self._event.record()

    def wait(self) -> None:
        """Block until the device has come to that point. It spins: to be woken up would take longer than a kernel."""
        if self._event is not None:
            self._event.synchronize()
