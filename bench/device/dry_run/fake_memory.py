"""Memory of the device that is not there: what is free, and an error where tensors do not fit.

A simple allocator: blocks that were freed stay with it until its cache is emptied, those of graphs as long as there is
one; which blocks fit into which is not modelled.
"""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.multiprocessing.reductions import StorageWeakRef

_ALIGNMENT_BYTES = 512
CONTEXT_BYTES = 600 << 20  # of the driver, its modules and the vendor's library, whatever is done
GRAPH_LAUNCH_BYTES = 8 << 10  # of a recorded graph, for each launch


class _Pool:
    """Live tensors of one kind, and the most that they ever were."""

    def __init__(self) -> None:
        self._tensors: dict[int, tuple[StorageWeakRef, int]] = {}
        self._live = 0
        self.reserved = 0

    def take(self, storage: torch.UntypedStorage) -> None:
        known = self._tensors.get(storage._cdata)
        if known is not None and not known[0].expired():
            return  # a view
        self._drop(storage._cdata)
        nbytes = -(-storage.nbytes() // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        self._tensors[storage._cdata] = (StorageWeakRef(storage), nbytes)
        self._live += nbytes
        if self._live > self.reserved:
            self.settle()
            self.reserved = max(self.reserved, self._live)

    def settle(self) -> int:
        """Forget tensors that are gone. Returns the bytes of the others."""
        for key in [key for key, (storage, _) in self._tensors.items() if storage.expired()]:
            self._drop(key)
        return self._live

    def _drop(self, key: int) -> None:
        if (dropped := self._tensors.pop(key, None)) is not None:
            self._live -= dropped[1]


class Memory:
    """What a card of ``total_bytes`` has left. Tensors are counted where they are made."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._tensors, self._of_graphs = _Pool(), _Pool()
        self._graphs = 0
        self._graph_bytes = 0
        self._is_capturing = False

    @property
    def free_bytes(self) -> int:
        """What the driver would say."""
        reserved = self._tensors.reserved + self._of_graphs.reserved + self._graph_bytes
        return self.total_bytes - CONTEXT_BYTES - reserved

    def take(self, tensors: Iterable[torch.Tensor]) -> None:
        """Tensors were made. Raises torch.OutOfMemoryError."""
        pool = self._of_graphs if self._is_capturing else self._tensors
        for tensor in tensors:
            if tensor.is_cuda:
                pool.take(tensor.untyped_storage())
        if self.free_bytes < 0:
            self._empty_cache()
            if self.free_bytes < 0:
                raise torch.OutOfMemoryError(f"CUDA out of memory. {-self.free_bytes} bytes too many")

    def begin_capture(self) -> None:
        self._is_capturing = True

    def end_capture(self, graph: Any, launches: int) -> None:
        """``graph`` has recorded so many."""
        self._is_capturing = False
        nbytes = launches * GRAPH_LAUNCH_BYTES
        self._graphs += 1
        self._graph_bytes += nbytes
        weakref.finalize(graph, self._forget_graph, nbytes)

    @contextmanager
    def patched(self) -> Iterator[None]:
        """torch.cuda tells of this memory."""
        names: dict[str, Any] = {
            "mem_get_info": lambda _=None: (self.free_bytes, self.total_bytes),
            "empty_cache": self._empty_cache,
        }
        with mock.patch.multiple(torch.cuda, **names):
            yield

    def _empty_cache(self) -> None:
        self._tensors.reserved = self._tensors.settle()
        if not self._graphs:
            self._of_graphs.reserved = self._of_graphs.settle()

    def _forget_graph(self, nbytes: int) -> None:
        self._graphs -= 1
        self._graph_bytes -= nbytes
