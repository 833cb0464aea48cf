"""What the engine is doing, written down where it outlives the engine: a small file that other processes map.

The supervisor's watchdog reads when the loop last went round, and takes an engine whose loop stands still for dead.
After a crash an API worker reads which of its sequences were in flight: if a request caused it, it is one of those. No
lock: a reader looks at one time stamp, or after the writer's end.

    header     pid, loop, steps, step_begin, step_end, the one in quarantine (connection, request id)
    section    count, then (connection, request id) for each sequence; 0 and 1: steps under way, 2: being admitted,
               3: waiting for their grammar to be compiled
"""

import contextlib
import mmap
import os
import struct
import time
from collections.abc import Collection, Iterable
from pathlib import Path

Key = tuple[int, int]  # a worker's connection, and its request id there

_HEADER = struct.Struct("=qdqddqq")
_PID, _LOOP, _STEPS, _STEP_BEGIN, _STEP_END, _QUARANTINED = 0, 8, 16, 24, 32, 40
_COUNT, _KEY, _TIME = struct.Struct("=q"), struct.Struct("=qq"), struct.Struct("=d")
_CAPACITY = 4096  # sequences of a section; those beyond are not noted
_SECTION_BYTES = _COUNT.size + _CAPACITY * _KEY.size
_SIZE = _HEADER.size + 4 * _SECTION_BYTES
_ADMITTING, _COMPILING = 2, 3
_NOBODY: Key = (-1, -1)


def flight_path(socket: Path) -> Path:
    """Where the engine that listens on ``socket`` keeps its record."""
    return socket.with_suffix(".flight")


def remove_engine_files(socket: Path) -> None:
    """Leave nothing behind of an engine that ends; of the directory neither, if nobody else uses it."""
    socket.unlink(missing_ok=True)
    flight_path(socket).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        socket.parent.rmdir()


class FlightRecorder:
    """The engine's side. Every call is a few stores to memory."""

    def __init__(self, path: Path) -> None:
        """A new file, mode 0600: who has mapped an earlier engine's keeps that."""
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.truncate(descriptor, _SIZE)
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        now = time.monotonic()
        _HEADER.pack_into(self._map, 0, os.getpid(), now, 0, 0.0, now, *_NOBODY)
        self._begun = self._ended = 0  # steps
        self._begin_s = [0.0, 0.0]  # of the steps under way
        self._compiling = 0

    def beat(self) -> None:
        """The loop goes round."""
        _TIME.pack_into(self._map, _LOOP, time.monotonic())

    def begin_step(self, keys: Iterable[Key]) -> None:
        """A step is about to begin for these sequences; at most one other is under way."""
        section = self._begun & 1
        self._begun += 1
        self._write(section, keys)
        self._begin_s[section] = time.monotonic()
        _COUNT.pack_into(self._map, _STEPS, self._begun)
        self._note_begin()

    def end_step(self) -> None:
        """The older step under way is over and its tokens were handed out."""
        section = self._ended & 1
        self._ended += 1
        self._write(section, ())
        _TIME.pack_into(self._map, _STEP_END, time.monotonic())
        self._note_begin()

    def admit(self, key: Key | None) -> None:
        """A sequence is looked at for the first time; None: that went well."""
        self._write(_ADMITTING, () if key is None else (key,))

    def compile(self, keys: Collection[Key]) -> None:
        """These wait for their grammars."""
        if keys or self._compiling:
            self._write(_COMPILING, keys)
        self._compiling = len(keys)

    def quarantine(self, key: Key | None) -> None:
        """The one sequence that is in quarantine; None: there is none."""
        _KEY.pack_into(self._map, _QUARANTINED, *(key or _NOBODY))

    def _note_begin(self) -> None:
        under_way = self._begun > self._ended
        _TIME.pack_into(self._map, _STEP_BEGIN, self._begin_s[self._ended & 1] if under_way else 0.0)

    def _write(self, section: int, keys: Iterable[Key]) -> None:
        """The count comes last: an engine that dies meanwhile leaves a section that is empty, not one that is wrong."""
        offset = _HEADER.size + section * _SECTION_BYTES
        _COUNT.pack_into(self._map, offset, 0)
        numbers = [number for key in keys for number in key][: 2 * _CAPACITY]
        if numbers:
            struct.pack_into(f"={len(numbers)}q", self._map, offset + _COUNT.size, *numbers)
            _COUNT.pack_into(self._map, offset, len(numbers) // 2)


class FlightRecord:
    """A reader's side, of one engine. Stays readable when that engine and its file are gone."""

    def __init__(self, path: Path) -> None:
        """Raises OSError or ValueError if there is none."""
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE, prot=mmap.PROT_READ)
        self.pid: int = _COUNT.unpack_from(self._map, _PID)[0]

    @property
    def loop_age_s(self) -> float:
        """Seconds since the engine's loop last went round."""
        return time.monotonic() - float(_TIME.unpack_from(self._map, _LOOP)[0])

    @property
    def steps(self) -> int:
        """That were begun, since the engine's start."""
        return int(_COUNT.unpack_from(self._map, _STEPS)[0])

    @property
    def step_age_s(self) -> float | None:
        """Seconds since the oldest step under way began; None: there is none."""
        begin = float(_TIME.unpack_from(self._map, _STEP_BEGIN)[0])
        return time.monotonic() - begin if begin else None

    @property
    def idle_s(self) -> float:
        """Seconds since the last step ended."""
        return time.monotonic() - float(_TIME.unpack_from(self._map, _STEP_END)[0])

    @property
    def quarantined(self) -> Key | None:
        """The sequence that was in quarantine."""
        key = _KEY.unpack_from(self._map, _QUARANTINED)
        return None if key == _NOBODY else key

    def in_flight(self) -> set[Key]:
        """The sequences that the engine was at work on."""
        keys: set[Key] = set()
        for section in range(4):
            offset = _HEADER.size + section * _SECTION_BYTES
            (count,) = _COUNT.unpack_from(self._map, offset)
            start = offset + _COUNT.size
            keys.update(_KEY.iter_unpack(self._map[start : start + count * _KEY.size]))
        return keys
