"""Which sequence makes engines die: found by what an engine wrote down before its end, and by running suspects alone.

An engine's death accuses every sequence that it was at work on, if it ended of itself (an exception, a segmentation
fault, a step without end). One that was killed while the kernel ended processes for their memory may have run a step
that took all of it, or may have had no part in it: that weighs half. Above a first threshold a sequence runs as the
engine's only suspect, and then only that one is accused; above a second it is given up.

    crash, crash         the usual poison: the first death accuses its batch, the second happens at its trial
    kill, kill, kill, kill   the same where memory runs out: two deaths until there is a trial, two in it

Whoever else ends an engine, as often as he likes, accuses nobody. A sequence that gets past the place where the engine
died is beyond suspicion again.
"""

from collections.abc import Iterable

from ...engine.flight_recorder import FlightRecord, Key
from ...engine.messages import Hello
from .remote_sequence import RemoteSequence

_KILLED, _CRASHED = 1, 2  # weights of a death
SUSPECT = 2
GUILTY = 4


class Death:
    """What is known of an engine that is gone."""

    def __init__(self, hello: Hello, record: FlightRecord | None) -> None:
        """``record`` is read now."""
        self.pid = hello.pid
        self._connection = hello.connection
        in_hand: set[Key] = record.in_hand() if record is not None else set()
        trial = record.trial if record is not None else None
        self._on_trial = trial if trial in in_hand else None
        self._in_hand = in_hand if self._on_trial is None else {self._on_trial}

    def accuse(self, live: Iterable[RemoteSequence], successor: Hello) -> list[RemoteSequence]:
        """Add to the suspicion of those that it may have been. Returns those that it was.

        Args:
            live: of this worker.
            successor: what the next engine said.
        """
        if successor.pid == self.pid:  # the connection was lost, not the engine
            return []
        if self.pid in successor.crashed:
            weight = _CRASHED
        elif self.pid in successor.killed:
            weight = _KILLED
        else:
            return []
        guilty = []
        for remote in live:
            if (self._connection, remote.request_id) in self._in_hand:
                remote.suspicion += weight
                if self._on_trial is not None and remote.suspicion >= GUILTY:
                    guilty.append(remote)
        return guilty
