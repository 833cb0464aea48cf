"""A barrier between processes, as a phase: the point at which what each rank wrote before is seen by all of them.

Who waits spins, then yields, then sleeps in a futex: ranks may be more than there are cores.
"""

import platform
import sys

import torch
from numba import njit, types

from .machine import aligned_empty, array_at, atomic_add, atomic_load, pause
from .op_graph import keep, run, struct_dtype, work_item

LINE = 64  # bytes of a cache line; a barrier has two: arrivals since the start, and how many ranks sleep
BARRIER_BYTES = 2 * LINE
_SPINS = 2000  # about 30 us
_YIELDS = 32
_SLEEP_NS = 20_000_000  # at most at a time: a wake-up that is missed costs no more
_NUMBERS = {"x86_64": 202, "AMD64": 202, "aarch64": 98}  # of futex among the system calls
_FUTEX = _NUMBERS.get(platform.machine(), 0) if sys.platform == "linux" else 0
_WAIT, _WAKE = 0, 1
_ALL = 1 << 30

_syscall = types.ExternalFunction("syscall", types.intp(*[types.intp] * 7))
_yield = types.ExternalFunction("sched_yield", types.int32())
_BARRIER = struct_dtype(arrived=int, passed=int, timeout=int, size=int)


@njit
def _sleep(arrived, target, timeout):
    """Until somebody arrives, or a while."""
    atomic_add(arrived + LINE, 1)
    seen = atomic_load(arrived)
    if seen < target:
        # The kernel compares the counter's low half with what was seen: an arrival in between is not slept through.
        _syscall(_FUTEX, arrived, _WAIT, seen & 0xFFFFFFFF, timeout, 0, 0)
    atomic_add(arrived + LINE, -1)


@work_item
def _barrier():
    sleeps = _FUTEX > 0

    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _BARRIER)[0]
        target = (atomic_add(a.passed, 1) + 1) * a.size
        if atomic_add(a.arrived, 1) + 1 == target and sleeps and atomic_load(a.arrived + LINE) > 0:
            _syscall(_FUTEX, a.arrived, _WAKE, _ALL, 0, 0, 0)
        waited = 0
        while atomic_load(a.arrived) < target:
            waited += 1
            if waited < _SPINS:
                pause()
            elif waited < _SPINS + _YIELDS or not sleeps:
                _yield()
            else:
                _sleep(a.arrived, target, a.timeout)

    return kernel


class Barrier:
    """One rank's side of a barrier that lies in shared memory, BARRIER_BYTES of zeros."""

    def __init__(self, memory: torch.Tensor, size: int) -> None:
        self._memory, self._size = memory, size
        self._passed = aligned_empty((LINE // 8,), torch.int64).zero_()
        self._timeout = torch.tensor([0, _SLEEP_NS], dtype=torch.int64)  # a timespec

    def wait(self) -> None:
        """A phase that is over once all ranks have come to it."""
        arguments = {
            "arrived": self._memory, "passed": self._passed, "timeout": self._timeout, "size": self._size
        }  # fmt: skip
        keep(self)
        run(_barrier(), _BARRIER, arguments, 1, fixed=1)
