"""One HTTP request that generates: its permits, its statistics, its deadline, and the sequences that run for it."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from ...engine.messages import Grammar, SamplingParams
from ..engine_client.remote_sequence import EngineError
from ..http.connection import Connection
from ..http.errors import ApiError, DeadlineError, GenerationError, OverloadedError, ValidationError
from ..http.sse import KEEP_ALIVE_S
from ..telemetry.request_stats import RequestStats
from ..text.grammar import RequestGrammar
from ..text.text_sequence import SequenceOutput, TextSequence
from .limits import derived_seed
from .request_context import request_context
from .scheduling import SchedulingFields, scheduling_of
from .service import Service
from .token_source import EngineTokens


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
        self._context = request_context()
        self._tokens = self._context.token_source(EngineTokens(service.engine))
        self._deadline = math.inf  # of the first that must be over: time.monotonic()
        self.schedule(SchedulingFields())
        assert service.metrics is not None
        stats.on_gap = service.metrics.gap
        self.connection = connection
        self.stats = stats
        self.sequences: list[TextSequence] = []
        self._open = 0  # of them

    @property
    def done(self) -> bool:
        """Every sequence is over and all of it was taken."""
        return self._open == 0

    def grammar(self, wanted: RequestGrammar | None) -> Grammar | None:
        """The engine's form; a header of the answer names what it does not hold. Raises ValidationError."""
        if wanted is None:
            return None
        if not self._service.limits().grammar_support:
            raise ValidationError("grammar is not supported")
        if wanted.loosened:
            self.connection.add_header(b"x-grammar-loosened", ", ".join(wanted.loosened).encode())
        return wanted.grammar

    def schedule(self, fields: SchedulingFields) -> None:
        """What is started from now on runs as the fields of the request say. Raises ValidationError."""
        limit_s = self._service.config.request_timeout
        self._scheduling = scheduling_of(fields, self._context.arrival, limit_s)
        self._deadline = min(self._deadline, self._scheduling.deadline)

    def start(
        self,
        prompt_ids: list[int],
        sampling: SamplingParams,
        stops: Sequence[str] = (),
        *,
        count: int = 1,
        keep_stop: bool = True,
        only_scores: bool = False,
    ) -> list[TextSequence]:
        """Start ``count`` sequences of one prompt; their seeds come from that in ``sampling``, the first keeps it.

        Args:
            keep_stop: a stop string stays in the text.
            only_scores: of the prompt are wanted; what is generated is thrown away.
        """
        sequences = []
        for index in range(count):
            own = sampling if index == 0 else msgspec.structs.replace(sampling, seed=derived_seed(sampling.seed, index))
            remote = self._tokens.start(prompt_ids, own, self._scheduling)
            number = len(self.sequences) + index
            sequences.append(TextSequence(number, remote, self._service.tokenizer, stops, keep_stop, only_scores))
        self.sequences += sequences
        self._open += count
        self.stats.submit(sequences[0].remote)
        assert self._service.metrics is not None
        self._service.metrics.submitted(self.stats, len(prompt_ids), sampling.max_new_tokens)
        return sequences

    async def next(self) -> list[SequenceOutput]:
        """What came since the last call, by index; nothing if it is time for a keep-alive or for the deadline.

        Safe to cancel. Raises ApiError if a sequence failed.
        """
        left_s = max(self._deadline - time.monotonic(), 0.0)
        came_now = await self._tokens.receive(min(KEEP_ALIVE_S, left_s))
        outputs = self._take()
        if outputs and came_now:
            self.stats.received(outputs)
        elif not outputs and self._is_late and not self.done:
            raise self._deadline_error()
        return outputs

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
        self._tokens.close()
        for sequence in self.sequences:
            sequence.remote.abort()

    def _take(self) -> list[SequenceOutput]:
        outputs = []
        for sequence in self.sequences:
            if sequence.finish_reason is None:
                try:
                    output = sequence.take()
                except EngineError as error:
                    raise self._api_error(error) from error
                if output is not None:
                    outputs.append(output)
                    self._open -= sequence.finish_reason is not None
        return outputs

    @property
    def _is_late(self) -> bool:
        return time.monotonic() >= self._deadline

    def _deadline_error(self) -> DeadlineError:
        return DeadlineError(self._deadline - self._context.arrival)

    def _api_error(self, error: EngineError) -> ApiError:
        match error.error_type:
            case "validation":
                return ValidationError(str(error))
            case "overloaded":
                return OverloadedError()
            case "timeout":
                return self._deadline_error()
        if self._is_late:  # it came from waiting for an engine
            return self._deadline_error()
        return GenerationError(str(error))
