"""Sequences that were in the hands of an engine that died: they run again one at a time, so that a guilty one is found.

One that dies with the next engine did it: all others in that engine were beyond suspicion. A suspect is cleared when it
got past the place at which it was when the engine died, and goes on in the batch as everybody else.
"""

import time
from collections import deque

from .messages import Step, Submit
from .sequence import SequenceKey

# Tokens after which a suspect is cleared: two steps may have been under way when the engine died.
CLEARING_TOKENS = 2


class Trials:
    """The suspect on trial, and those that wait for theirs."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[SequenceKey, Submit, float]] = deque()  # with time.monotonic() of its arrival here
        self._tokens = 0  # that the one on trial got
        self.current: SequenceKey | None = None

    def add(self, key: SequenceKey, submit: Submit) -> None:
        """A suspect came."""
        self._waiting.append((key, submit, time.monotonic()))

    def next(self) -> tuple[SequenceKey, Submit] | None:
        """The suspect whose trial begins now, None if there is none or another is on trial."""
        if self.current is not None or not self._waiting:
            return None
        self.current, submit, arrival = self._waiting.popleft()
        self._tokens = 0
        if submit.timeout_s > 0.0:
            submit.timeout_s = max(submit.timeout_s - (time.monotonic() - arrival), 0.001)  # 0.0 is none
        return self.current, submit

    def observe(self, connection: int, step: Step) -> None:
        """See what became of the one on trial."""
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
        if self.current == key:
            self.current = None
        else:
            self._waiting = deque(item for item in self._waiting if item[0] != key)

    def drop_all(self, connection: int) -> None:
        """A worker has gone."""
        if self.current is not None and self.current.connection == connection:
            self.current = None
        self._waiting = deque(item for item in self._waiting if item[0].connection != connection)
