"""Sequences that were in flight when an engine crashed: each runs alone for a moment, so that a poison one is found.

An engine that crashes then does so because of that one sequence: nothing else was under way. A suspect is cleared when
it is past the place at which it was at the crash. Until the last suspect is through all others wait, cleared ones too;
what was computed for them is in the prefix cache.
"""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from .messages import Step, Submit
from .sequence import SequenceKey

# Tokens after which a suspect is cleared: two steps may have been under way when the engine died.
CLEARING_TOKENS = 2


class _Waiting(NamedTuple):
    key: SequenceKey
    submit: Submit


class Quarantine:
    """The suspect that runs alone, those that wait for their turn, and everybody else."""

    def __init__(self) -> None:
        self._suspects: deque[_Waiting] = deque()
        self._others: list[_Waiting] = []
        self._tokens = 0  # of the one that runs alone
        self.current: SequenceKey | None = None

    @property
    def active(self) -> bool:
        """Nobody but ``current`` may run."""
        return self.current is not None or bool(self._suspects)

    def __contains__(self, key: SequenceKey) -> bool:
        return any(waiting.key == key for waiting in (*self._suspects, *self._others))

    def add(self, key: SequenceKey, submit: Submit) -> None:
        """A suspect came."""
        self._suspects.append(_Waiting(key, submit))

    def hold(self, key: SequenceKey, submit: Submit) -> None:
        """Somebody else came, or was taken out of the engine."""
        self._others.append(_Waiting(key, submit))

    def begin(self) -> tuple[SequenceKey, Submit]:
        """The suspect that runs alone from now on. There is one, and no other runs."""
        assert self.current is None
        suspect = self._suspects.popleft()
        self.current = suspect.key
        self._tokens = 0
        return suspect.key, suspect.submit

    def release(self) -> list[tuple[SequenceKey, Submit]]:
        """Everybody else, as all suspects are through."""
        others, self._others = self._others, []
        return [(waiting.key, waiting.submit) for waiting in others]

    def observe(self, connection: int, step: Step) -> None:
        """See what becomes of the one that runs alone."""
        if self.current is None or self.current.connection != connection:
            return
        request_id = self.current.request_id
        for tokens in step.tokens:
            if tokens.request_id == request_id:
                self._tokens += len(tokens.token_ids)
                if self._tokens >= CLEARING_TOKENS or tokens.finish_reason is not None:
                    self.current = None
        if any(failed.request_id == request_id for failed in step.failed):
            self.current = None

    def drop(self, key: SequenceKey) -> None:
        """Nobody wants it any more."""
        self._keep(lambda waiting: waiting != key)

    def drop_all(self, connection: int) -> None:
        """A worker has gone."""
        self._keep(lambda waiting: waiting.connection != connection)

    def _keep(self, wanted: Callable[[SequenceKey], bool]) -> None:
        if self.current is not None and not wanted(self.current):
            self.current = None
        self._suspects = deque(waiting for waiting in self._suspects if wanted(waiting.key))
        self._others = [waiting for waiting in self._others if wanted(waiting.key)]
