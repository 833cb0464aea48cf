"""Faults on demand, for tests of what happens then. Nothing here runs unless EngineConfig.faults says so.

A fault is written SEED:KIND:AFTER. It strikes when a sequence with that seed is about to get its next token after
``AFTER`` generated ones, every time it comes to that point.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable
from typing import Literal, get_args

from msgspec import Struct

from .chunk import Chunk

FaultKind = Literal["raise", "abort", "exit", "kill", "hang"]


class InjectedFaultError(Exception):
    """The fault ``raise``."""


class Fault(Struct, frozen=True):
    """What happens to which sequences."""

    seed: int
    kind: FaultKind
    after: int  # generated tokens

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """From SEED:KIND:AFTER. Raises ValueError."""
        seed, kind, after = text.split(":")
        if kind not in get_args(FaultKind):
            raise ValueError(f"{kind!r} is no fault: {', '.join(get_args(FaultKind))}")
        return cls(int(seed), kind, int(after))  # type: ignore[arg-type] # checked above


class Faults:
    """Looks at every step before it begins."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._by_seed = {fault.seed: fault for fault in map(Fault.parse, texts)}

    def strike(self, chunks: Iterable[Chunk]) -> None:
        """Do to this process what is due."""
        for chunk in chunks:
            sequence = chunk.sequence
            fault = self._by_seed.get(sequence.sampling.seed)
            if fault is not None and chunk.samples and sequence.generated + sequence.in_flight >= fault.after:
                _STRIKES[fault.kind]()


def _raise() -> None:
    raise InjectedFaultError("as asked for")


def _hang() -> None:
    threading.Event().wait()


_STRIKES: dict[FaultKind, Callable[[], object]] = {
    "raise": _raise,
    "abort": os.abort,
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),  # as the kernel does when memory is out
    "hang": _hang,
}
