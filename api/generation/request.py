"""One HTTP request that generates: its permits, its statistics, its deadline, and the sequences that run for it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from ...engine.messages import SamplingParams
from ..http.connection import Connection
from ..http.errors import ApiError, DeadlineError, GenerationError, OverloadedError, ValidationError
from ..http.sse import KEEP_ALIVE_S
from ..resume.journal import Part, part_of, restore
from ..service import Service
from .remote_sequence import EngineError, Waker
from .request_stats import RequestStats
from .text_sequence import SequenceOutput, TextSequence

_SEED_BITS = 53  # of a derived seed, which may be shown: JavaScript clients could not send a larger one back unchanged
_MASK = 2**64 - 1


@contextmanager
def open_generation(service: Service, connection: Connection, sequences: int = 1) -> Iterator["GenerationRequest"]:
    """Begin to generate for a request whose body was read; count, time and log it, however it ends.

    Args:
        sequences: how many will run; each takes a permit.

    Raises:
        OverloadedError: there are not enough permits.
    """
    with service.record(connection) as stats, service.permits.hold(sequences):
        connection.watch()
        generation = GenerationRequest(service, connection, stats)
        try:
            yield generation
        finally:
            generation.abort()
            stats.end(generation.sequences)


class GenerationRequest:
    """The sequences of one request, in the order in which they were started."""

    def __init__(self, service: Service, connection: Connection, stats: RequestStats) -> None:
        self._service = service
        self._waker = Waker()
        timeout_s = service.config.request_timeout
        assert service.metrics is not None
        stats.on_gap = service.metrics.gap
        self._journal = connection.journal
        arrival = time.monotonic() if self._journal is None else self._journal.asked.arrival
        self._deadline = arrival + timeout_s if timeout_s else None
        self.connection = connection
        self.stats = stats
        self.sequences: list[TextSequence] = []
        self._open = 0  # of them

    @property
    def done(self) -> bool:
        """Every sequence is over and all of it was taken."""
        return self._open == 0

    def start(
        self,
        prompt_ids: list[int],
        sampling: SamplingParams,
        stops: Sequence[str] = (),
        *,
        count: int = 1,
        keep_stop: bool = True,
    ) -> list[TextSequence]:
        """Start ``count`` sequences of one prompt; their seeds come from that in ``sampling``, the first keeps it.

        Args:
            keep_stop: a stop string stays in the text.
        """
        service, sequences = self._service, []
        for index in range(count):
            own = sampling if index == 0 else msgspec.structs.replace(sampling, seed=derived_seed(sampling.seed, index))
            remote = service.engine.prepare(prompt_ids, own, self._waker, self._left_s())
            if self._journal is None or not self._journal.replaying:
                service.engine.go_on(remote)
            sequences.append(TextSequence(len(self.sequences), remote, service.tokenizer, stops, keep_stop))
            self.sequences.append(sequences[-1])
            self._open += 1
        self.stats.submit(sequences[0].remote)
        assert service.metrics is not None
        service.metrics.submitted(self.stats, len(prompt_ids), sampling.max_new_tokens)
        return sequences

    async def next(self, timeout_s: float | None = None) -> list[SequenceOutput]:
        """What came since the last call, by index; nothing if the time (default: until a keep-alive) is over.

        Safe to cancel. Raises ApiError if a sequence failed.
        """
        if self._journal is not None and self._journal.replaying:
            if (parts := self._journal.again()) is not None:
                return self._take_again(parts)
            for sequence in self.sequences:
                if sequence.finish_reason is None:
                    self._service.engine.go_on(sequence.remote)
        await self._waker.wait(self._wait_s(KEEP_ALIVE_S if timeout_s is None else timeout_s))
        return self._take()

    async def finish(self) -> list[SequenceOutput]:
        """Wait for the end of every sequence: all of its tokens, by index. Raises ApiError."""
        whole = [SequenceOutput(sequence, [], [], []) for sequence in self.sequences]
        while not self.done:
            for output in await self.next():
                all_of_it = whole[output.sequence.index]
                all_of_it.tokens += output.tokens
                all_of_it.texts += output.texts
                all_of_it.top_tokens += output.top_tokens
        self.stats.finish()
        self.stats.end(self.sequences)
        return whole

    def abort(self) -> None:
        """Drop every sequence that still runs."""
        self._waker.close()
        for sequence in self.sequences:
            sequence.remote.abort()

    def _take(self) -> list[SequenceOutput]:
        found = []
        parts = []
        journal = self._journal
        for sequence in self.sequences:
            if sequence.finish_reason is None:
                begin = 0 if journal is None else sequence.remote.taken
                try:
                    output = sequence.take()
                except EngineError as error:
                    raise self._api_error(error) from error
                if output is not None:
                    found.append(output)
                    self._open -= sequence.finish_reason is not None
                    if journal is not None:
                        parts.append(part_of(sequence.index, sequence.remote, begin))
        if found:
            if journal is not None:
                journal.add(parts)
            self.stats.received(found)
        elif self._deadline is not None and time.monotonic() >= self._deadline and not self.done:
            raise DeadlineError(self._service.config.request_timeout)
        return found

    def _take_again(self, parts: list[Part]) -> list[SequenceOutput]:
        """What an earlier run of this request took at a time."""
        for part in parts:
            restore(self.sequences[part.index].remote, part)
        found = [output for part in parts if (output := self.sequences[part.index].take()) is not None]
        self._open -= sum(output.sequence.finish_reason is not None for output in found)
        return found

    def _left_s(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def _wait_s(self, timeout_s: float) -> float:
        left = self._left_s()
        return timeout_s if left is None else min(timeout_s, left)

    def _api_error(self, error: EngineError) -> ApiError:
        match error.error_type:
            case "validation":
                return ValidationError(str(error))
            case "overloaded":
                return OverloadedError()
            case "timeout":
                return DeadlineError(self._service.config.request_timeout)
        if self._deadline is not None and time.monotonic() >= self._deadline:  # it came from waiting for an engine
            return DeadlineError(self._service.config.request_timeout)
        return GenerationError(str(error))


def derived_seed(seed: int, index: int) -> int:
    """The seed of a request's ``index``-th sequence: SplitMix64 (Steele, Lea & Flood 2014), shortened."""
    z = (seed + index * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) >> (64 - _SEED_BITS)
