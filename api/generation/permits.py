"""How many requests may be in progress at once, counted over all worker processes.

A file of (process id, count) slots is mapped by every worker; each writes only its own slot and reads all. A request
adds to its worker's slot first and looks at the sum afterwards: two workers that reach for the last permit at the same
moment may both be refused, but the limit is never exceeded. No lock is held, so a worker that dies blocks nobody, and
the worker that replaces it takes its slot over.
"""

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..http.errors import OverloadedError

_SLOTS = 256  # twice as many workers as anybody runs: old and new ones overlap when they are replaced
_SLOT_INTS = 2  # process id (0: never used), permits held
_INT_BYTES = 8


def create_permits(path: Path) -> None:
    """Make the file that workers share."""
    path.write_bytes(bytes(_SLOTS * _SLOT_INTS * _INT_BYTES))


class Permits:
    """This worker's view of the permits.

    Attributes:
        index: number of the worker's slot, from 0.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._limit = limit
        with path.open("r+b") as file:
            self._slots = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
            fcntl.lockf(file, fcntl.LOCK_EX)  # until the file is closed
            self.index = next(i for i in range(_SLOTS) if not _is_alive(self._slots[i * _SLOT_INTS]))
            self._slots[self.index * _SLOT_INTS] = os.getpid()
        self._count = self.index * _SLOT_INTS + 1
        self._slots[self._count] = 0

    @property
    def used(self) -> int:
        """Permits held by all workers."""
        return sum(self._slots[1::_SLOT_INTS])

    @property
    def _used_by_living(self) -> int:
        """Without those of a worker that died and was not replaced yet. A system call for each worker."""
        slots = zip(self._slots[0::_SLOT_INTS], self._slots[1::_SLOT_INTS], strict=True)
        return sum(count for pid, count in slots if count and _is_alive(pid))

    @contextmanager
    def hold(self, count: int = 1) -> Iterator[None]:
        """Hold permits, all that there are if more are wanted. Raises OverloadedError if they are not free."""
        count = min(count, self._limit)
        self._slots[self._count] += count
        try:
            if self.used > self._limit and self._used_by_living > self._limit:
                raise OverloadedError
            yield
        finally:
            self._slots[self._count] -= count


def _is_alive(pid: int) -> bool:
    if pid == 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
