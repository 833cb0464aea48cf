"""TGI's own generation routes: POST /, /generate and /generate_stream.

What is known to be wrong before the first token is a real HTTP status, on the streaming routes too; after it, it is an
event. If the first token takes longer than a keep-alive interval, the stream begins with a comment instead.
"""

from statistics import fmean

import msgspec
from msgspec import UNSET

from ..generation.request import GenerationRequest, open_generation
from ..generation.sender import send_events
from ..generation.service import Service
from ..http.connection import Connection
from ..http.error_body import native_error
from ..http.errors import OTHER_TASK, ValidationError
from ..http.sse import encode_event, event_of, shortest_float32
from ..text.grammar import request_grammar
from ..text.text_sequence import SequenceOutput, TextSequence
from ..text.token_list import token_list
from . import validation
from .schema import (
    BestOfSequence,
    CompatGenerateRequest,
    Details,
    GenerateParameters,
    GenerateRequest,
    GenerateResponse,
    PrefillToken,
    StreamDetails,
    StreamResponse,
)

_encoder = msgspec.json.Encoder()


async def generate(service: Service, connection: Connection, request: GenerateRequest) -> None:
    """POST /generate. Raises ApiError."""
    await _Generate(service, connection, request).answer()


async def generate_stream(service: Service, connection: Connection, request: GenerateRequest) -> None:
    """POST /generate_stream. Raises ApiError."""
    await _Generate(service, connection, request).stream()


async def compat_generate(service: Service, connection: Connection, request: CompatGenerateRequest) -> None:
    """POST /: the body says whether to stream; an answer without streaming is a list of one. Raises ApiError.

    Differs from TGI: ``return_full_text`` is false unless asked for, whatever the model.
    """
    if _wants_features(connection, request):
        raise ValidationError(OTHER_TASK)
    route = _Generate(service, connection, request)
    if request.stream:
        await route.stream()
    else:
        await route.answer(as_list=True)


async def tokenize(service: Service, connection: Connection, request: GenerateRequest) -> None:
    """POST /tokenize: a list of the tokens of ``inputs``, special ones included; parameters change nothing."""
    tokens = await token_list(service.tokenizer, request.inputs)
    await connection.respond(200, _encoder.encode(tokens), b"application/json")


def _wants_features(connection: Connection, request: CompatGenerateRequest) -> bool:
    """It is huggingface_hub's feature_extraction, which posts here, too. Its text_generation sends parameters."""
    if request.normalize is not None or request.prompt_name is not None or request.dimensions is not None:
        return True
    is_hub = b"hf_hub/" in connection.headers.get(b"user-agent", b"")
    return is_hub and request.parameters is None and request.stream is None


class _Generate:
    """One request of a native route, from its checked body to the last byte of the answer."""

    def __init__(self, service: Service, connection: Connection, request: GenerateRequest) -> None:
        self._service = service
        self._connection = connection
        self._request = request
        self._parameters = request.parameters or GenerateParameters()
        # Asking for the prompt's tokens means asking for details, as in TGI.
        self._details = bool(self._parameters.details or self._parameters.decoder_input_details)

    async def answer(self, as_list: bool = False) -> None:
        """Generate all, then answer. Raises ApiError."""
        limits = self._service.limits()
        count = max(min(self._parameters.best_of or 1, limits.max_best_of), 1)
        with open_generation(self._service, self._connection, count) as generation:
            await self._start(generation, limits, count, stream=False)
            best, *others = _best_first(await generation.finish())
            response = GenerateResponse(self._generated_text(best.sequence))
            if self._details:
                response.details = self._whole_details(best, others)
            body = _encoder.encode([response] if as_list else response)
            headers = [(b"x-compute-type", self._service.compute_type), *generation.stats.headers()]
            await self._connection.respond(200, body, b"application/json", headers)

    async def stream(self) -> None:
        """Send each token as it comes. Raises ApiError; a stream that has begun tells it as its last event."""
        with open_generation(self._service, self._connection) as generation:
            await self._start(generation, self._service.limits(), count=1, stream=True)
            headers = [
                (b"x-compute-type", self._service.compute_type),
                (b"x-compute-characters", b"%d" % generation.stats.input_characters),
            ]
            await send_events(generation, self._events, lambda error: event_of(native_error(error)), headers)

    async def _start(
        self, generation: GenerationRequest, limits: validation.Limits, count: int, *, stream: bool
    ) -> None:
        request, tokenizer = self._request, self._service.tokenizer
        generation.stats.input_characters = len(request.inputs)
        validation.check(request, limits, stream)
        generation.schedule(self._parameters)
        prompt_ids = await tokenizer.encode(request.inputs, self._parameters.truncate)
        grammar = generation.grammar(request_grammar(self._parameters.grammar))
        sampling = validation.resolve(request.parameters, len(prompt_ids), limits, tokenizer.eos_ids, grammar)
        generation.start(prompt_ids, sampling, self._parameters.stops, count=count)

    def _events(self, output: list[SequenceOutput]) -> bytes:
        """The events of tokens that came together; the last of a text says how it ended."""
        (one,) = output
        sequence, top_tokens = one.sequence, one.top_tokens
        first = sequence.generated_tokens - len(one.tokens) + 1
        events = [StreamResponse(index, token) for index, token in enumerate(one.tokens, first)]
        for event, top in zip(events, top_tokens, strict=False):
            event.top_tokens = top
        if sequence.finish_reason is not None:
            events[-1].generated_text = self._generated_text(sequence)
            if self._details:
                events[-1].details = StreamDetails(
                    sequence.finish_reason,
                    sequence.generated_tokens,
                    sequence.shown_seed,
                    len(sequence.remote.prompt_ids),
                )
        return b"".join([encode_event(event) for event in events])

    def _generated_text(self, sequence: TextSequence) -> str:
        return (self._request.inputs if self._parameters.return_full_text else "") + sequence.generated_text

    def _whole_details(self, best: SequenceOutput, others: list[SequenceOutput]) -> Details:
        sequence = best.sequence
        assert sequence.finish_reason is not None
        details = Details(
            sequence.finish_reason, sequence.generated_tokens, sequence.shown_seed, self._prefill(sequence), best.tokens
        )
        if others:
            details.best_of_sequences = [self._other(one) for one in others]
        details.top_tokens = best.top_tokens or UNSET
        return details

    def _other(self, one: SequenceOutput) -> BestOfSequence:
        sequence = one.sequence
        assert sequence.finish_reason is not None
        return BestOfSequence(
            self._generated_text(sequence),
            sequence.finish_reason,
            sequence.generated_tokens,
            sequence.shown_seed,
            self._prefill(sequence),
            one.tokens,
            one.top_tokens or UNSET,
        )

    def _prefill(self, sequence: TextSequence) -> list[PrefillToken]:
        """The prompt's tokens, if asked for; the first has no logprob."""
        if not self._parameters.decoder_input_details:
            return []
        generation, text = sequence.remote, self._service.tokenizer.token_text
        logprobs = [None, *map(shortest_float32, generation.prompt_scores.logprobs)]
        return [PrefillToken(i, text(i), lp) for i, lp in zip(generation.prompt_ids, logprobs, strict=True)]


def _best_first(sequences: list[SequenceOutput]) -> list[SequenceOutput]:
    """That with the highest mean logprob, then the others as they were started."""
    best = max(sequences, key=lambda one: fmean(one.sequence.remote.logprobs[: len(one.tokens)]))
    return [best, *(one for one in sequences if one is not best)]
