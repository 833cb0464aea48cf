"""One sequence in the engine, as an API worker sees it: what was asked, what came, and who waits for it."""

import asyncio
import time
from collections.abc import Callable

import msgspec

from ...engine.messages import USUAL, ErrorType, FinishReason, PromptScores, SamplingParams, Scheduling, Submit, Tokens
from ...engine.quarantine import CLEARING_TOKENS

# Tokens that a stream's reader may leave behind (each is a few hundred bytes of memory here) before it is given up.
MAX_UNREAD_TOKENS = 4096


class EngineError(Exception):
    """The engine did not do what was asked; ``error_type`` says what was at fault."""

    def __init__(self, error: str, error_type: ErrorType = "generation") -> None:
        super().__init__(error)
        self.error_type = error_type


class Waker:
    """Lets one task wait until there is something new in any of its remotes."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._woken = False
        self._future: asyncio.Future[None] | None = None
        # One timer outlives many waits, as most end long before their time: making one costs as much as a wait.
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when the wait in progress is over, loop.time()

    async def wait(self, timeout_s: float) -> None:
        """Return as soon as there was a ``wake`` since the last wait, or when the time is over. Safe to cancel."""
        if not self._woken:
            self._due = self._loop.time() + timeout_s
            if self._timer is None or self._timer.when() > self._due:
                self._set_timer()
            self._future = self._loop.create_future()
            await self._future
        self._woken = False

    def wake(self) -> None:
        """There is something new."""
        self._woken = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def close(self) -> None:
        """Nobody will wait any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        self.close()
        self._timer = self._loop.call_at(self._due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._loop.time() < self._due:
            self._set_timer()
        elif self._future is not None and not self._future.done():
            self._future.set_result(None)


class RemoteSequence:
    """One sequence in the engine.

    Attributes:
        prompt_ids, sampling, scheduling: as submitted.
        token_ids: all tokens received so far; logprobs: theirs; top_ids, top_logprobs: the best tokens beside each of
            them, empty if none were asked for.
        prompt_scores: of its prompt; empty if they were not asked for or are not there yet.
        finish_reason: None until the last token was received.
        dropped: nobody wants its tokens any more.
        queue_s: seconds until its first step; None until then.
        cached_tokens: tokens of its prompt that were not computed.
        arrival: time.monotonic().
        suspicion: how much speaks for its being what engines die of (poison.py).
    """

    def __init__(
        self,
        request_id: int,
        prompt_ids: list[int],
        sampling: SamplingParams,
        waker: Waker,
        drop: Callable[["RemoteSequence"], None],
        scheduling: Scheduling = USUAL,
    ) -> None:
        """``drop`` tells the engine that nobody wants its tokens any more."""
        self._waker = waker
        self._drop = drop
        self._error: EngineError | None = None
        self._taken = 0
        self._known_at_submit = 0  # tokens
        self.arrival = time.monotonic()
        self.suspicion = 0
        self.request_id = request_id
        self.prompt_ids = prompt_ids
        self.sampling = sampling
        self.scheduling = scheduling
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.top_ids: list[list[int]] = []
        self.top_logprobs: list[list[float]] = []
        self.prompt_scores = PromptScores()
        self.finish_reason: FinishReason | None = None
        self.dropped = False
        self.queue_s: float | None = None
        self.cached_tokens = 0

    def as_submit(self, *, suspect: bool = False) -> Submit:
        """What starts it in an engine, or goes on with it in the next one."""
        known = self._known_at_submit = len(self.token_ids)
        sampling = self.sampling
        if sampling.prompt_logprobs and known:  # they came with the first token
            sampling = msgspec.structs.replace(sampling, prompt_logprobs=False)
        return Submit(self.request_id, self.prompt_ids, sampling, self.token_ids, self.scheduling, suspect=suspect)

    def take(self) -> slice:
        """Where the tokens are that came since the last call. Raises EngineError, after the tokens before it."""
        if self._taken == len(self.token_ids) and self._error is not None:
            raise self._error
        taken, self._taken = self._taken, len(self.token_ids)
        if self._error is not None:
            self._waker.wake()  # the error behind these tokens is news, too
        return slice(taken, self._taken)

    def abort(self) -> None:
        """Drop the sequence, if it still runs: nobody wants its tokens."""
        self.dropped = True
        self._drop(self)

    def extend(self, tokens: Tokens) -> None:
        """Tokens came."""
        self.token_ids += tokens.token_ids
        self.logprobs += tokens.logprobs
        if tokens.top_ids:
            self.top_ids += tokens.top_ids
            self.top_logprobs += tokens.top_logprobs
        self.finish_reason = tokens.finish_reason
        if self.suspicion and len(self.token_ids) - self._known_at_submit >= CLEARING_TOKENS:
            self.suspicion = 0
        if len(self.token_ids) - self._taken > MAX_UNREAD_TOKENS and self.finish_reason is None:
            self.abort()
            self._error = EngineError("the client reads too slowly")
        self._waker.wake()

    def fail(self, error: EngineError) -> None:
        """No more tokens will come."""
        self._error = error
        self._waker.wake()
