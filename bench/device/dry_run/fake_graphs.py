"""CUDA graphs, streams and events of the device that is not there: ``torch.cuda``'s names, over the list of work."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch

from ....kernels.triton import program
from .fake_memory import Memory
from .pinned_copies import PinnedCopies
from .work import LAUNCHES, Work


class _Stream:
    """There is one order of work, whatever the stream."""

    def wait_stream(self, stream: "_Stream") -> None:
        pass


class _Capture:
    """What ``torch.cuda.graph`` is: work done inside is the graph's, and happens at its replays only."""

    def __init__(self, graph: Any, work: list[Work], memory: Memory | None) -> None:
        self._graph = graph
        self._work = work
        self._memory = memory

    def __enter__(self) -> None:
        self._begin = len(self._work)
        if self._memory is not None:
            self._memory.begin_capture()

    def __exit__(self, *error: object) -> None:
        if self._memory is not None:
            self._memory.end_capture(self._graph, len(self._work) - self._begin)
        captured = self._work[self._begin :]
        del self._work[self._begin :]
        wrong = sorted({f"{each.kind} of {each.name}" for each in captured if each.kind not in LAUNCHES})
        assert not wrong, f"in a capture: {', '.join(wrong)}"
        self._graph.captured = captured


@contextmanager
def recorded_graphs(work: list[Work], copies: PinnedCopies, memory: Memory | None = None) -> Iterator[None]:
    """While this is open, graphs are captured and replayed, and waits for the device are listed."""

    class Graph:
        """A torch.cuda.CUDAGraph that holds the work of one capture."""

        captured: list[Work]

        def replay(self) -> None:
            work.extend(self.captured)

    class Event:
        """A torch.cuda.Event."""

        def __init__(self, enable_timing: bool = False) -> None:
            pass

        def record(self) -> None:
            self._copies = copies.launched

        def synchronize(self) -> None:
            wait("event")
            copies.are_done(self._copies)

    def wait(name: str = "device") -> None:
        work.append(Work("wait", name, {}, 0))

    def capture(graph: Graph, **_: object) -> _Capture:
        return _Capture(graph, work, memory)

    names: dict[str, Any] = {
        "CUDAGraph": Graph,
        "Event": Event,
        "Stream": _Stream,
        "current_stream": _Stream,
        "graph": capture,
        "graph_pool_handle": object,
        "stream": nullcontext,
        "synchronize": wait,
    }
    program._capture_place.cache_clear()
    try:
        with mock.patch.object(program, "has_gpu", return_value=True), mock.patch.multiple(torch.cuda, **names):
            yield
    finally:
        program._capture_place.cache_clear()
