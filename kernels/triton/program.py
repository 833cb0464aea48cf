"""Steps that cost the host one call: CUDA graphs, one for each size, over static tensors.

Without a GPU (the interpreter) every launch calls the function, which is what graphs replay.
"""

from collections.abc import Callable, Sequence

import torch


class Program:
    """Graphs of one function, by the number of rows that each was captured for."""

    def __init__(self, function: Callable[[int], object], sizes: Sequence[int]) -> None:
        self._function = function
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        if not torch.cuda.is_available():
            return
        pool = None
        # Largest first: the smaller ones find their memory in its pool.
        for size in sorted(sizes, reverse=True):
            function(size)  # compiles and allocates what a capture may not
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                function(size)
            pool = pool or graph.pool()
            self._graphs[size] = graph

    def launch(self, rows: int, sequences: int = 0) -> None:
        """Run the smallest graph that is large enough; without one, the function."""
        del sequences  # those beyond the last have no rows: the plan on the device finds out
        size = min((size for size in self._graphs if size >= rows), default=None)
        if size is None:
            self._function(rows)
        else:
            self._graphs[size].replay()


def capture(function: Callable[[int], object], sizes: Sequence[int]) -> Program:
    """Capture ``function(rows)`` for each of ``sizes``; rows beyond a step's own must be harmless."""
    return Program(function, sizes)


class Event:
    """The point that the device's work had reached when it was made."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event() if torch.cuda.is_available() else None
        if self._event is not None:
            self._event.record()

    def wait(self) -> None:
        """Block until the device has come to that point."""
        if self._event is not None:
            self._event.synchronize()
