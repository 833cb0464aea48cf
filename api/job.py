"""One HTTP request that generates: its permits, its record, its deadline, and the sequences that run for it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from ..engine.messages import SamplingParams
from .errors import ApiError, DeadlineError, GenerationError, OverloadedError, ValidationError
from .exchange import Exchange
from .generation import EngineError, Waker
from .journal import Part, part_of, restore
from .record import Record
from .service import Service
from .sse import KEEP_ALIVE_S
from .text_stream import News, TextStream

_SEED_BITS = 53  # of a derived seed, which may be shown: JavaScript clients could not send a larger one back unchanged
_MASK = 2**64 - 1


@contextmanager
def open_job(service: Service, exchange: Exchange, sequences: int = 1) -> Iterator["Job"]:
    """Begin to generate for a request whose body was read; count, time and log it, however it ends.

    Args:
        sequences: how many will run; each takes a permit.

    Raises:
        OverloadedError: there are not enough permits.
    """
    with service.record(exchange) as record, service.permits.hold(sequences):
        exchange.watch()
        job = Job(service, exchange, record)
        try:
            yield job
        finally:
            job.abort()
            record.end(job.streams)


class Job:
    """The sequences of one request, in the order in which they were started."""

    def __init__(self, service: Service, exchange: Exchange, record: Record) -> None:
        self._service = service
        self._waker = Waker()
        timeout_s = service.config.request_timeout
        assert service.metrics is not None
        record.on_gap = service.metrics.gap
        self._journal = exchange.journal
        arrival = time.monotonic() if self._journal is None else self._journal.asked.arrival
        self._deadline = arrival + timeout_s if timeout_s else None
        self.exchange = exchange
        self.record = record
        self.streams: list[TextStream] = []
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
    ) -> list[TextStream]:
        """Start ``count`` sequences of one prompt; their seeds come from that in ``sampling``, the first keeps it.

        Args:
            keep_stop: a stop string stays in the text.
        """
        service, streams = self._service, []
        for index in range(count):
            own = sampling if index == 0 else msgspec.structs.replace(sampling, seed=derived_seed(sampling.seed, index))
            generation = service.engine.prepare(prompt_ids, own, self._waker, self._left_s())
            if self._journal is None or not self._journal.replaying:
                service.engine.go_on(generation)
            streams.append(TextStream(len(self.streams), generation, service.tokenizer, stops, keep_stop))
            self.streams.append(streams[-1])
            self._open += 1
        self.record.submit(streams[0].generation)
        assert service.metrics is not None
        service.metrics.submitted(self.record, len(prompt_ids), sampling.max_new_tokens)
        return streams

    async def next(self, timeout_s: float | None = None) -> list[News]:
        """What came since the last call, by index; nothing if the time (default: until a keep-alive) is over.

        Safe to cancel. Raises ApiError if a sequence failed.
        """
        if self._journal is not None and self._journal.replaying:
            if (parts := self._journal.again()) is not None:
                return self._take_again(parts)
            for stream in self.streams:
                if stream.finish_reason is None:
                    self._service.engine.go_on(stream.generation)
        await self._waker.wait(self._wait_s(KEEP_ALIVE_S if timeout_s is None else timeout_s))
        return self._take()

    async def finish(self) -> list[News]:
        """Wait for the end of every sequence: all of its tokens, by index. Raises ApiError."""
        whole = [News(stream, [], [], []) for stream in self.streams]
        while not self.done:
            for news in await self.next():
                all_of_it = whole[news.stream.index]
                all_of_it.tokens += news.tokens
                all_of_it.texts += news.texts
                all_of_it.top_tokens += news.top_tokens
        self.record.finish()
        self.record.end(self.streams)
        return whole

    def abort(self) -> None:
        """Drop every sequence that still runs."""
        self._waker.close()
        for stream in self.streams:
            stream.generation.abort()

    def _take(self) -> list[News]:
        found = []
        parts = []
        journal = self._journal
        for stream in self.streams:
            if stream.finish_reason is None:
                begin = 0 if journal is None else stream.generation.taken
                try:
                    news = stream.take()
                except EngineError as error:
                    raise self._api_error(error) from error
                if news is not None:
                    found.append(news)
                    self._open -= stream.finish_reason is not None
                    if journal is not None:
                        parts.append(part_of(stream.index, stream.generation, begin))
        if found:
            if journal is not None:
                journal.add(parts)
            self.record.received(found)
        elif self._deadline is not None and time.monotonic() >= self._deadline and not self.done:
            raise DeadlineError(self._service.config.request_timeout)
        return found

    def _take_again(self, parts: list[Part]) -> list[News]:
        """What an earlier run of this request took at a time."""
        for part in parts:
            restore(self.streams[part.index].generation, part)
        found = [news for part in parts if (news := self.streams[part.index].take()) is not None]
        self._open -= sum(news.stream.finish_reason is not None for news in found)
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
