"""The layer around the tokens of a resumable request: they are written into its journal, and taken from it first.

A worker that takes a stream over runs its request again. The same code makes the same events of the same tokens, drawn
names and times; when the journal has no more, the engine goes on behind the last token, as it does after a restart.
"""

import random
from collections.abc import Callable

from ...engine.messages import SamplingParams, Scheduling, Tokens
from ..engine_client.remote_sequence import RemoteSequence
from ..generation.request_context import RequestContext
from ..generation.token_source import EngineTokens, TokenSource
from .journal import Journal, SequenceTokens


class JournaledContext(RequestContext):
    """That of a request with a journal: the same in each of its runs."""

    def __init__(
        self, journal: Journal, on_replayed: Callable[[], None] | None = None, stream_id: str | None = None
    ) -> None:
        """``on_replayed``: called when all events of an earlier run were sent again; None: there was none."""
        request = journal.request
        super().__init__(request.arrival, request.created, random.Random(int.from_bytes(request.seed, "big")))
        self._journal = journal
        self._on_replayed = on_replayed
        self.stream_id = stream_id

    def token_source(self, engine: EngineTokens) -> TokenSource:
        """See RequestContext."""
        return _JournaledTokens(engine, self._journal, self._on_replayed)


class _JournaledTokens:
    """Tokens of an earlier run, then the engine's."""

    def __init__(self, engine: EngineTokens, journal: Journal, on_replayed: Callable[[], None] | None) -> None:
        self._engine = engine
        self._journal = journal
        self._on_replayed = on_replayed
        self._sequences: list[RemoteSequence] = []
        self._written: list[int] = []  # tokens of each

    def start(self, prompt_ids: list[int], sampling: SamplingParams, scheduling: Scheduling) -> RemoteSequence:
        """See TokenSource."""
        sequence = self._engine.prepare(prompt_ids, sampling, scheduling)
        if self._on_replayed is None:
            self._engine.submit(sequence)
        self._sequences.append(sequence)
        self._written.append(0)
        return sequence

    async def receive(self, timeout_s: float) -> bool:
        """See TokenSource."""
        if self._journal.earlier:
            for tokens in self._journal.earlier.popleft().sequences:
                self._replay(tokens)
            return False
        if self._on_replayed is not None:
            self._on_replayed()
            self._on_replayed = None
            for sequence in self._sequences:
                if sequence.finish_reason is None and not sequence.dropped:
                    self._engine.submit(sequence)
        await self._engine.receive(timeout_s)
        if new := [i for i, sequence in enumerate(self._sequences) if len(sequence.token_ids) > self._written[i]]:
            self._journal.append([self._tokens_of(index) for index in new])
        return True

    def close(self) -> None:
        """See TokenSource."""
        self._engine.close()

    def _tokens_of(self, index: int) -> SequenceTokens:
        sequence, begin = self._sequences[index], self._written[index]
        self._written[index] = len(sequence.token_ids)
        tokens = Tokens(
            sequence.request_id, sequence.token_ids[begin:], sequence.logprobs[begin:], sequence.finish_reason,
            sequence.top_ids[begin:], sequence.top_logprobs[begin:],
        )  # fmt: skip
        prompt_scores = sequence.prompt_scores if begin == 0 else None
        return SequenceTokens(index, tokens, sequence.queue_s, sequence.cached_tokens, prompt_scores)

    def _replay(self, received: SequenceTokens) -> None:
        sequence = self._sequences[received.index]
        sequence.queue_s, sequence.cached_tokens = received.queue_s, received.cached_tokens
        sequence.prompt_scores = received.prompt_scores or sequence.prompt_scores
        sequence.extend(received.tokens)
        self._written[received.index] = len(sequence.token_ids)
