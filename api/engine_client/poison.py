"""Which request crashes engines (a poison request): found from the flight record of each, by running suspects alone.

A crash (an exception, a segmentation fault, a step without end) makes every sequence that was in flight a suspect. A
kill while the kernel ended processes for their memory may be a step's fault, or not: it weighs half. From a first
threshold on a sequence is a suspect, and the next engine runs it in quarantine, as the only one; what happens then can
only be its own fault. At a second threshold it is given up.

    crash, crash             the usual poison: suspected with its batch, then convicted in quarantine
    kill, kill, kill, kill   the same where memory runs out: two before quarantine, two in it

Any other end of an engine says nothing about its sequences. One that gets past the place where the engine ended is no
suspect any more.
"""

from collections.abc import Iterable

from ...engine.flight_recorder import FlightRecord, Key
from ...engine.messages import Hello
from ..launch.exits import Cause
from .remote_sequence import RemoteSequence

_KILLED, _CRASHED = 1, 2  # weights of an engine's end
SUSPECT = 2
POISON = 4


class EngineExit:
    """What is known of an engine that is gone."""

    def __init__(self, hello: Hello, record: FlightRecord | None) -> None:
        """``record`` is read now."""
        self.pid = hello.pid
        self._connection = hello.connection
        self._in_flight: set[Key] = record.in_flight() if record is not None else set()
        quarantined = record.quarantined if record is not None else None
        self._was_alone = quarantined is not None and quarantined in self._in_flight
        if quarantined is not None and self._was_alone:
            self._in_flight = {quarantined}

    def cause_by(self, successor: Hello) -> Cause:
        """Why it ended, as far as the next engine on its socket was told."""
        if successor.pid == self.pid:  # the connection was lost, not the engine
            return "ended"
        if self.pid in successor.crashed:
            return "crashed"
        return "killed" if self.pid in successor.killed else "ended"

    def find_poison(self, live: Iterable[RemoteSequence], cause: Cause) -> list[RemoteSequence]:
        """Add to the suspicion of the sequences of this worker that were in flight. Returns those that are poison."""
        if cause == "ended":
            return []
        weight = _CRASHED if cause == "crashed" else _KILLED
        poison = []
        for sequence in live:
            if (self._connection, sequence.request_id) in self._in_flight:
                sequence.suspicion += weight
                if self._was_alone and sequence.suspicion >= POISON:
                    poison.append(sequence)
        return poison
