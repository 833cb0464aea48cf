"""What ranks of this backend exchange (kernels/exchange.py): through memory that their processes share.

Every rank reads what it needs where the others wrote it; nothing is sent. A sum costs one barrier, as two places for
the parts are used in turn: who writes a place again has passed the barrier of the sum in between, where all others had
read it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from numba import types

from .. import Linear
from ..routing import GroupedLinear, Routing
from .barrier import BARRIER_BYTES, Barrier
from .machine import array_at
from .op_graph import empty, run, struct_dtype, work_item
from .segments import call_each, split
from .tree_sum import tree_sum

_ALIGNMENT = 64  # bytes
_COPY_BYTES = 1 << 16  # of a work item
_COPY = struct_dtype(target=int, source=int, size=int)
_ROWS_TO = struct_dtype(target=int, target_step=int, source=int, source_step=int, size=int)


@work_item
def _copy_all():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _COPY)[0]
        begin = item * _COPY_BYTES
        size = min(_COPY_BYTES, a.size - begin)
        array_at(a.target + begin, size, types.uint8)[:] = array_at(a.source + begin, size, types.uint8)

    return kernel


@work_item
def _copy_row():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ROWS_TO)[0]
        target, source = a.target + item * a.target_step, a.source + item * a.source_step
        array_at(target, a.size, types.uint8)[:] = array_at(source, a.size, types.uint8)

    return kernel


class _Summed:
    """See Exchange.summed."""

    def __init__(self, exchange: "SharedExchange", parts: Sequence[Linear], widths: Sequence[int]) -> None:
        self._exchange, self._parts, self._widths = exchange, list(parts), list(widths)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._exchange.sum(call_each(self._parts, split(x, self._widths)))


class _SummedGroup:
    """See Exchange.summed_group."""

    def __init__(self, exchange: "SharedExchange", parts: Sequence[GroupedLinear], widths: Sequence[int]) -> None:
        self._exchange, self._parts, self._widths = exchange, list(parts), list(widths)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def __call__(self, x: torch.Tensor, routing: Routing) -> torch.Tensor:
        columns = split(x, self._widths)
        return self._exchange.sum([part(own, routing) for part, own in zip(self._parts, columns, strict=True)])


class SharedExchange:
    """One rank's end; see Exchange. All ranks make the same calls, so that places in the memory are the same."""

    def __init__(self, rank: int, size: int, memory: torch.Tensor | None) -> None:
        """``memory``: uint8 [any], zeros, that all ranks share; None for one rank alone."""
        self.rank, self.size = rank, size
        self._memory, self._used = memory, 0
        self._gathered: dict[tuple[int, int, torch.dtype], torch.Tensor] = {}
        self._slots: dict[tuple[int, int], tuple[torch.Tensor, int]] = {}
        self._barrier = None if memory is None else Barrier(self._take((BARRIER_BYTES,), torch.uint8), size)

    def packing(self) -> AbstractContextManager[None]:
        """See Exchange: a tile's sums know nothing of other outputs."""
        return nullcontext()

    def summed(self, parts: Sequence[Linear], widths: Sequence[int]) -> Linear:
        """See Exchange."""
        return _Summed(self, parts, widths)

    def summed_group(self, parts: Sequence[GroupedLinear], widths: Sequence[int]) -> GroupedLinear:
        """See Exchange."""
        return _SummedGroup(self, parts, widths)

    def sum(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Of all ranks' ``parts``, fp32 [rows, width] each: the tree of kernels/exchange.py."""
        rows, width = parts[0].shape
        if self.size == 1:
            y = empty((rows, width))
            tree_sum(parts, y)
            return y
        places = self._place(rows, width)
        tree_sum(parts, places[self.rank])
        self._wait()
        y = empty((rows, width))
        tree_sum(list(places), y)
        return y

    def broadcast(self, tensors: Sequence[torch.Tensor], of_sequences: Sequence[torch.Tensor] = ()) -> None:
        """See Exchange."""
        if self.size == 1:
            return
        self._wait()  # nobody reads what was there before any more
        copies = [(tensor, self._take(tuple(tensor.shape), tensor.dtype)) for tensor in (*tensors, *of_sequences)]
        for turn in (0, 1):
            if (self.rank == 0) == (turn == 0):
                for index, (own, shared) in enumerate(copies):
                    target, source = (shared, own) if turn == 0 else (own, shared)
                    (_copy if index < len(tensors) else _copy_of_sequences)(target, source)
            if turn == 0:
                self._wait()

    def gather(self, x: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
        """See Exchange."""
        if self.size == 1:
            return x
        rows, own = x.shape
        assert own == widths[self.rank]
        shape = rows, sum(widths), x.dtype
        whole = self._gathered.get(shape)
        if whole is None:
            whole = self._gathered[shape] = self._take(shape[:2], x.dtype)
        self._wait()  # nobody reads what was there before any more
        arguments = {
            "target": whole.data_ptr() + sum(widths[: self.rank]) * x.itemsize,
            "target_step": whole.shape[1] * x.itemsize, "source": x, "source_step": own * x.itemsize,
            "size": own * x.itemsize,
        }  # fmt: skip
        run(_copy_row(), _ROWS_TO, arguments, rows, per_rows=1)
        self._wait()
        return whole

    def _wait(self) -> None:
        assert self._barrier is not None
        self._barrier.wait()

    def _place(self, rows: int, width: int) -> torch.Tensor:
        """fp32 [ranks, rows, width], not the one that was given out last for this shape."""
        slots, turn = self._slots.get((rows, width), (None, 0))
        if slots is None:
            slots = self._take((2, self.size, rows, width), torch.float32)
        self._slots[rows, width] = slots, 1 - turn
        return slots[turn]

    def _take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        assert self._memory is not None
        size = dtype.itemsize
        for length in shape:
            size *= length
        end = self._used + size
        if end > len(self._memory):
            raise MemoryError(f"what ranks exchange does not fit into {len(self._memory)} bytes")
        tensor = self._memory[self._used : end].view(dtype).view(shape)
        self._used = -(-end // _ALIGNMENT) * _ALIGNMENT
        return tensor


def _copy(target: torch.Tensor, source: torch.Tensor) -> None:
    size = source.numel() * source.itemsize
    arguments = {"target": target, "source": source, "size": size}
    run(_copy_all(), _COPY, arguments, 1, fixed=-(-size // _COPY_BYTES))


def _copy_of_sequences(target: torch.Tensor, source: torch.Tensor) -> None:
    """As many rows as the launch has sequences."""
    size = source[0].numel() * source.itemsize
    arguments = {"target": target, "target_step": size, "source": source, "source_step": size, "size": size}
    run(_copy_row(), _ROWS_TO, arguments, 1, source.shape[0], per_sequence=1)


def new_exchange(rank: int, size: int, memory: torch.Tensor | None) -> SharedExchange:
    """One rank's end of what ``size`` ranks exchange through ``memory``, uint8 zeros that their processes share."""
    return SharedExchange(rank, size, memory)
