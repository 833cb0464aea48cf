"""The threads of the CPU kernels: a pool that works through launches in order, like the streaming processors of a GPU.

A launch is a list of phases, a phase a number of work items. Threads claim items by an atomic counter, and the next
phase begins when the last item is done; nobody waits for a thread, only for work. So a thread whose core was taken by
another process holds up nothing but the item it has in hand, and one that comes late finds everything done.

Threads that wait first spin, then yield, and between launches sleep in ``read`` on a pipe. Measured on 2 cores, one
sequence of the default model, 270 phases a step: 0.5 ms of 9 are between them.
"""

import os
import threading
import time
from functools import cache

import numpy as np
import torch
from numba import njit, types

from .machine import aligned_empty, atomic_add, atomic_exchange, atomic_load, atomic_max, call, pause, ticks

_LINE = 64  # bytes of a cache line: what different threads write lies on different ones
RING = 16  # launches that may be under way
MAX_PHASES = 8192

# int64 fields of a phase
KERNEL, ARGUMENTS, FIXED, PER_ROWS, PER_SEQUENCE, TIMES, ROW_FACTOR, PHASE_WORDS = range(8)

# Lines of the control block: launches published, launches completed, whether somebody waits for that, one line per
# ring slot, one per thread.
_PUBLISHED, _COMPLETED, _WAITING, _SLOTS = (line * _LINE for line in range(4))
# int64 fields of a slot
_PHASES, _COUNT, _ROWS, _SEQUENCES, _LEFT, _END = (field * 8 for field in range(6))
_THREADS = _SLOTS + RING * _LINE

_SPINS = 4000  # about 60 us: longer than the phases of one row, shorter than a time slice
_IDLE_SPINS = 6000

_read = types.ExternalFunction("read", types.intp(types.int32, types.intp, types.intp))
_write = types.ExternalFunction("write", types.intp(types.int32, types.intp, types.intp))
_yield = types.ExternalFunction("sched_yield", types.int32())


@njit
def _items(phase, rows, sequences):
    """TIMES * (FIXED + rows / PER_ROWS, rounded up + sequences * PER_SEQUENCE), of the phase at that address."""
    per_rows = atomic_load(phase + PER_ROWS * 8)
    count = atomic_load(phase + FIXED * 8) + sequences * atomic_load(phase + PER_SEQUENCE * 8)
    if per_rows > 0:
        count += (rows + per_rows - 1) // per_rows
    return count * atomic_load(phase + TIMES * 8)


@njit
def _run_launch(slot, counters, thread):
    """Take part in the launch of a slot until its last phase is done."""
    rows, sequences = atomic_load(slot + _ROWS), atomic_load(slot + _SEQUENCES)
    phases = atomic_load(slot + _PHASES)
    for index in range(atomic_load(slot + _COUNT)):
        phase, counter = phases + index * PHASE_WORDS * 8, counters + index * _LINE
        kernel, arguments = atomic_load(phase + KERNEL * 8), atomic_load(phase + ARGUMENTS * 8)
        phase_rows = rows * atomic_load(phase + ROW_FACTOR * 8)
        items = _items(phase, phase_rows, sequences)
        done = 0
        item = atomic_add(counter, 1)
        if item == 0:
            atomic_exchange(counter + 16, ticks())
        while item < items:
            call(kernel, arguments, item, thread, phase_rows, sequences)
            done += 1
            item = atomic_add(counter, 1)
        if done > 0:
            atomic_add(counter + 8, done)
        spins = 0
        while atomic_load(counter + 8) < items:
            spins += 1
            if spins < _SPINS:
                pause()
            else:
                _yield()


@njit(types.void(types.intp, types.intp, types.intp, types.intp, types.int32, types.int32), nogil=True, cache=True)
def _serve(control, counters, counters_stride, thread, wake_fd, done_fd):
    """A thread's life: launches in order, for ever."""
    flag = control + _THREADS + thread * _LINE
    launch = 0
    while True:
        spins = 0
        while atomic_load(control + _PUBLISHED) <= launch:
            spins += 1
            if spins < _IDLE_SPINS:
                pause()
                continue
            atomic_exchange(flag, 1)
            if atomic_load(control + _PUBLISHED) <= launch:
                _read(wake_fd, flag + 8, 1)
            atomic_exchange(flag, 0)
            spins = 0
        ring = launch % RING
        slot = control + _SLOTS + ring * _LINE
        _run_launch(slot, counters + ring * counters_stride, thread)
        launch += 1
        if atomic_load(control + _COMPLETED) < launch:
            atomic_exchange(slot + _END, ticks())
        atomic_max(control + _COMPLETED, launch)
        if atomic_exchange(control + _WAITING, 0) == 1:
            _write(done_fd, flag + 8, 1)
        atomic_add(slot + _LEFT, 1)


@njit(
    types.intp(*[types.intp] * 4, types.int64[:, ::1], types.intp, types.intp, types.int32[::1]),
    nogil=True, cache=True,
)  # fmt: skip
def _publish(control, counters, counters_stride, launch, phases, rows, sequences, wake_fds):
    """Hand out a launch; waits only if the ring is full."""
    count = phases.shape[0]
    ring = launch % RING
    slot = control + _SLOTS + ring * _LINE
    while launch >= RING and atomic_load(slot + _LEFT) < wake_fds.shape[0]:
        _yield()
    counter = counters + ring * counters_stride
    for index in range(count):
        atomic_exchange(counter + index * _LINE, 0)
        atomic_exchange(counter + index * _LINE + 8, 0)
    atomic_exchange(slot + _PHASES, phases.ctypes.data)
    atomic_exchange(slot + _COUNT, count)
    atomic_exchange(slot + _ROWS, rows)
    atomic_exchange(slot + _SEQUENCES, sequences)
    atomic_exchange(slot + _LEFT, 0)
    atomic_exchange(control + _PUBLISHED, launch + 1)
    for thread in range(wake_fds.shape[0]):
        flag = control + _THREADS + thread * _LINE
        if atomic_exchange(flag, 0) == 1:
            _write(wake_fds[thread], flag + 8, 1)
    return launch + 1


@njit(types.boolean(types.intp, types.intp, types.intp, types.int32), nogil=True, cache=True)
def _wait(control, launches, spare, done_fd):
    """Sleep until so many launches are complete. False if a signal came first: Python wants to see it."""
    while atomic_load(control + _COMPLETED) < launches:
        atomic_exchange(control + _WAITING, 1)
        if atomic_load(control + _COMPLETED) >= launches:
            break
        if _read(done_fd, spare, 1) < 0:
            return False
    return True


@njit(types.void(types.intp, types.intp, types.intp), nogil=True, cache=True)
def _wait_left(control, launch, threads):
    """Wait until no thread looks at a launch any more."""
    slot = control + _SLOTS + (launch % RING) * _LINE
    while atomic_load(slot + _LEFT) < threads:
        _yield()


class ThreadPool:
    """Threads that run launches. There is one in a process."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        lines = _THREADS // _LINE + threads + 1
        self._memory = aligned_empty((lines * _LINE // 8,), torch.int64).zero_()
        self._counters = aligned_empty((RING, MAX_PHASES, _LINE // 8), torch.int64)
        self._control, self._counters_at = self._memory.data_ptr(), self._counters.data_ptr()
        self._spare = self._control + (lines - 1) * _LINE
        self._launches = 0
        self._done_fd, done_end = os.pipe()
        self._wake_fds = np.empty(threads, np.int32)
        for thread in range(threads):
            wake_end, self._wake_fds[thread] = os.pipe()
            life = (self._control, self._counters_at, MAX_PHASES * _LINE, thread, wake_end, done_end)
            threading.Thread(target=_serve, args=life, name=f"kernels {thread}", daemon=True).start()

    def launch(self, phases: np.ndarray, rows: int, sequences: int) -> int:
        """Run the phases, int64 [n, PHASE_WORDS], after all launches before. Returns at once, with a ticket.

        ``phases`` and all they point to must stay until the ticket was waited for, and then as ``wait`` says.
        """
        assert len(phases) <= MAX_PHASES, f"{len(phases)} phases in one launch"
        self._launches = _publish(
            self._control, self._counters_at, MAX_PHASES * _LINE, self._launches, phases, rows, sequences,
            self._wake_fds,
        )  # fmt: skip
        return self._launches

    def phase_seconds(self, ticket: int, count: int) -> np.ndarray:
        """How long each of the ``count`` phases of a launch took, fp64 [count]; it is one of the last few."""
        self.wait(ticket)
        ring = (ticket - 1) % RING
        end = self._memory[(_SLOTS + ring * _LINE + _END) // 8].item()
        return np.diff(self._counters.numpy()[ring, :count, 2], append=end) * _tick_seconds()

    @property
    def last(self) -> int:
        """Ticket of the last launch."""
        return self._launches

    def wait(self, ticket: int) -> None:
        """Sleep until a launch and all before it are complete.

        A thread that was late may still walk through the phases, finding nothing to do; ``release`` waits for it.
        """
        while not _wait(self._control, ticket, self._spare, self._done_fd):
            pass

    def release(self, ticket: int) -> None:
        """Wait until a launch is complete and its phases may be thrown away."""
        self.wait(ticket)
        _wait_left(self._control, ticket - 1, self.threads)


@njit(types.intp(), cache=True)
def _now():
    return ticks()


@cache
def _tick_seconds() -> float:
    """Of the time stamp counter, against Python's clock over 50 ms."""
    begin, begin_s = _now(), time.perf_counter()
    time.sleep(0.05)
    return (time.perf_counter() - begin_s) / (_now() - begin)


_chosen_threads = 0


def choose_threads(threads: int) -> None:
    """Size of the pool, 0: as many as PyTorch uses; to be called before the first kernel runs."""
    global _chosen_threads
    _chosen_threads = threads


@cache
def thread_pool() -> ThreadPool:
    """The process's pool; the first call starts it."""
    return ThreadPool(_chosen_threads or torch.get_num_threads())
