"""Where the tokens of one request's sequences come from."""

from typing import Protocol

from ...engine.messages import SamplingParams, Scheduling
from ..engine_client.remote_sequence import RemoteSequence, Waker
from ..engine_client.replicas import Engine


class TokenSource(Protocol):
    """What a request sees of it."""

    def start(self, prompt_ids: list[int], sampling: SamplingParams, scheduling: Scheduling) -> RemoteSequence:
        """A new sequence."""
        ...

    async def receive(self, timeout_s: float) -> bool:
        """Wait until a sequence has something to take, or the time is over. Safe to cancel.

        Returns False if it was generated before this run of the request.
        """
        ...

    def close(self) -> None:
        """Nobody will wait any more."""
        ...


class EngineTokens:
    """The engine generates them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waker = Waker()

    def prepare(self, prompt_ids: list[int], sampling: SamplingParams, scheduling: Scheduling) -> RemoteSequence:
        """A sequence that the engine doesn't know yet."""
        return self._engine.prepare(prompt_ids, sampling, self._waker, scheduling)

    def submit(self, sequence: RemoteSequence) -> None:
        """Let the engine generate what follows the tokens that the sequence has."""
        self._engine.submit(sequence)

    def start(self, prompt_ids: list[int], sampling: SamplingParams, scheduling: Scheduling) -> RemoteSequence:
        """See TokenSource."""
        sequence = self.prepare(prompt_ids, sampling, scheduling)
        self.submit(sequence)
        return sequence

    async def receive(self, timeout_s: float) -> bool:
        """See TokenSource."""
        await self._waker.wait(timeout_s)
        return True

    def close(self) -> None:
        """See TokenSource."""
        self._waker.close()
