"""How an op of the CPU backend runs: at once, or captured in a graph that is launched every step.

An op is one or several phases (thread_pool.py): a kernel compiled for C callers, its arguments, and a formula for the
number of work items. Outside of ``capture`` it runs and is waited for. Inside, it is appended to a graph, for the row
count of each launch: what CUDA graphs are to a GPU, without a graph for every size. So a step of hundreds of phases
costs Python one call.
"""

import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import types

from .compiled import compile_made, is_compiled
from .machine import aligned_empty
from .thread_pool import KERNEL, PHASE_WORDS, RING, thread_pool

NUMBA_TYPES = {
    torch.float32: types.float32,
    torch.bfloat16: types.uint16,
    torch.int64: types.int64,
    torch.int32: types.int32,
    torch.int8: types.int8,
    torch.float8_e4m3fn: types.uint8,
}


_names: dict[int, str] = {}  # of kernels, by their addresses


def struct_dtype(**fields: type) -> np.dtype:
    """Dtype of a struct that kernels read: int for addresses and sizes, float for fp32 constants."""
    kinds = {int: np.int64, float: np.float32}
    return np.dtype([(name, kinds[kind]) for name, kind in fields.items()], align=True)


class ByAddress:
    """Called with what a maker makes a function for, such as dtypes, it gives the address of what was compiled."""

    def __init__(self, make: Callable[..., Callable[..., None]], arguments: int) -> None:
        self.name = make.__name__
        self._make, self._arguments = make, arguments
        self._compiled: dict[tuple[Any, ...], Any] = {}

    def _function(self, kinds: tuple[Any, ...]) -> Callable[..., None]:
        return self._make(*(NUMBA_TYPES.get(kind, kind) for kind in kinds))

    def __call__(self, *kinds: Any) -> int:
        if kinds not in self._compiled:
            self._compiled[kinds] = compile_made(self._function(kinds), kinds, self._arguments)
            _names[self._compiled[kinds].address] = self.name.strip("_").replace("_", " ")
        return self._compiled[kinds].address

    def is_compiled(self, *kinds: Any) -> bool:
        """Whether the cache has it."""
        return is_compiled(self._function(kinds), kinds, self._arguments)


def by_address(arguments: int) -> Callable[[Callable[..., Callable[..., None]]], ByAddress]:
    """Decorates a maker of functions of so many integers."""
    return lambda make: ByAddress(make, arguments)


# Of kernels: ``kernel(arguments, item, thread, rows, sequences)``, ``arguments`` an address.
work_item = by_address(5)


class _Graph:
    """Captured phases, what they point to, and memory for what they hand on to each other.

    Attributes:
        rows: the largest number of rows of a launch.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.phases: list[tuple[int, ...]] = []
        self.kept: list[Any] = []
        self._made: set[int] = set()  # addresses
        self._free: defaultdict[tuple[torch.Size, torch.dtype], list[torch.Tensor]] = defaultdict(list)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Memory that is given to a later call once the tensor is dropped: phases run one after the other."""
        free = self._free[torch.Size(shape), dtype]
        if free:
            buffer = free.pop()
        else:
            buffer = aligned_empty(shape, dtype)
            self.kept.append(buffer)
            self._made.add(buffer.data_ptr())
        tensor = buffer.view(shape)
        weakref.finalize(tensor, free.append, buffer).atexit = False
        return tensor

    def keep(self, tensors: list[torch.Tensor]) -> None:
        """Keep what others made; the graph's own tensors are dropped for their memory to be used again."""
        self.kept += [tensor for tensor in tensors if tensor.data_ptr() not in self._made]


class Phase(NamedTuple):
    """What ``run`` was called with."""

    kernel: int
    kind: np.dtype
    arguments: dict[str, Any]
    fixed: int
    per_rows: int
    times: int


class Recording:
    """The phases of a few ops that are alike, one after the other, neither run nor captured.

    All use the same memory for what they return and hand on: only some rows of it are any one's (grouped.py).
    """

    def __init__(self) -> None:
        self._phases: list[Phase] = []
        self._buffers: list[torch.Tensor] = []
        self._used = 0

    def record(self, op: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, list[Phase]]:
        """What the op returns, and its phases."""
        global _recording
        assert _recording is None, "a recording inside a recording"
        self._phases, self._used = [], 0
        _recording = self
        try:
            return op(x), self._phases
        finally:
            _recording = None

    def add(self, phase: Phase) -> None:
        self._phases.append(phase)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The same as the op before got."""
        if self._used == len(self._buffers):
            self._buffers.append(_empty(shape, dtype))
        self._used += 1
        buffer = self._buffers[self._used - 1]
        assert (tuple(buffer.shape), buffer.dtype) == (tuple(shape), dtype), "ops that are not alike"
        return buffer


_graph: _Graph | None = None
_recording: Recording | None = None
# What launches that nobody waits for still look at: no thread is as many launches behind as the ring has slots. One
# more, as a launch is noted here before it waits for its slot.
_under_way: deque[Any] = deque(maxlen=RING + 1)


def empty(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What an op returns, or needs while it runs."""
    return _empty(shape, dtype) if _recording is None else _recording.empty(shape, dtype)


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return aligned_empty(shape, dtype) if _graph is None else _graph.empty(shape, dtype)


def run(
    kernel: int,
    kind: np.dtype,
    arguments: dict[str, Any],
    rows: int,
    sequences: int = 0,
    *,
    fixed: int = 0,
    per_rows: int = 0,
    per_sequence: int = 0,
    times: int = 1,
) -> None:
    """One phase of ``times * (fixed + rows / per_rows, rounded up + sequences * per_sequence)`` work items.

    Args:
        kernel: address that ``work_item`` gave.
        kind: type of its arguments, from ``struct_dtype``.
        arguments: by field name: tensors (contiguous; passed by address), None (0), or numbers.
        rows: that there are; when captured, each launch says how many, and a phase captured with several times the
            graph's has as many times a launch's.
        sequences: the same.
    """
    if _recording is not None:
        _recording.add(Phase(kernel, kind, arguments, fixed, per_rows, times))
        return
    values, tensors = fill(kind, arguments)
    row_factor = 1 if _graph is None else max(1, rows // _graph.rows)
    phase = (kernel, values.ctypes.data, fixed, per_rows, per_sequence, times, row_factor)
    assert len(phase) == PHASE_WORDS
    if _graph is not None:
        _graph.phases.append(phase)
        _graph.kept.append(values)
        _graph.keep(tensors)
        return
    pool = thread_pool()
    pool.release(pool.launch(np.array([phase], np.int64), rows, sequences))


def fill(kind: np.dtype, arguments: dict[str, Any]) -> tuple[np.ndarray, list[torch.Tensor]]:
    """The struct of arguments, and the tensors that it points to."""
    values = np.zeros(1, kind)
    tensors = [value for value in arguments.values() if isinstance(value, torch.Tensor)]
    for name, value in arguments.items():
        values[name] = value.data_ptr() if isinstance(value, torch.Tensor) else 0 if value is None else value
    return values, tensors


def is_capturing() -> bool:
    """Whether ops are captured instead of run."""
    return _graph is not None


def is_recording() -> bool:
    """Whether phases will have some of the rows only, which are not known yet."""
    return _recording is not None


def keep(*kept: Any) -> None:
    """What captured phases point to by address."""
    if _graph is not None:
        _graph.kept += kept


def keep_tensors(tensors: list[torch.Tensor]) -> None:
    """The same, but for what the graph itself has made: that memory is used again."""
    if _graph is not None:
        _graph.keep(tensors)


class Prepared:
    """One phase that is launched often, outside of graphs, and never waited for."""

    def __init__(self, kernel: int, kind: np.dtype, arguments: dict[str, int], fixed: int) -> None:
        self._values, _ = fill(kind, arguments)
        self._phases = np.array([(kernel, self._values.ctypes.data, fixed, 0, 0, 1, 1)], np.int64)

    def launch(self, *tensors: torch.Tensor) -> None:
        """Run it after all that was launched before; ``tensors`` are what it points to."""
        _under_way.append((self, tensors))
        thread_pool().launch(self._phases, 0, 0)


class Program:
    """A captured graph."""

    def __init__(self, graph: _Graph) -> None:
        self._kept = graph.kept
        self._phases = np.array(graph.phases, np.int64).reshape(-1, PHASE_WORDS)
        self._ticket = 0

    def launch(self, rows: int, sequences: int = 0) -> None:
        """Run it after all that was launched before, for so many rows and sequences. Returns at once."""
        _under_way.append(self)  # it may be dropped before its last launch is over
        self._ticket = thread_pool().launch(self._phases, rows, sequences)

    def seconds(self) -> dict[str, float]:
        """How long each kernel took in the last launch, all its phases together; waits for its end."""
        times: defaultdict[str, float] = defaultdict(float)
        for phase, seconds in zip(
            self._phases, thread_pool().phase_seconds(self._ticket, len(self._phases)), strict=True
        ):
            times[_names[int(phase[KERNEL])]] += float(seconds)
        return dict(times)


def capture(function: Callable[[int], object], sizes: Sequence[int]) -> Program:
    """Capture the ops that ``function`` calls for the largest of ``sizes`` rows; it is called once."""
    global _graph
    assert _graph is None, "a capture inside a capture"
    _graph = graph = _Graph(max(sizes))
    try:
        kept = function(graph.rows)
    finally:
        _graph = None
    graph.kept.append(kept)
    return Program(graph)


def release_recordings() -> None:
    """Programs have nothing in common."""


class Event:
    """The point that the launches had reached when it was made."""

    def __init__(self) -> None:
        self._ticket = thread_pool().last

    def wait(self) -> None:
        """Sleep until the kernels have come to that point."""
        thread_pool().wait(self._ticket)
