"""TGI's own generation routes: POST /, /generate and /generate_stream (contract.md 1.1 to 1.3 and section 3).

What is known to be wrong before the first token is a real HTTP status, on the streaming routes too; after it, it is an
event. If the first token takes longer than a keep-alive interval, the stream begins with a comment instead.
"""

from collections.abc import Iterable

import msgspec

from . import validation
from .engine_client import EngineError
from .errors import ApiError, GenerationError
from .exchange import Exchange
from .record import Record
from .schema import (
    CompatGenerateRequest,
    Details,
    ErrorResponse,
    GenerateParameters,
    GenerateRequest,
    GenerateResponse,
    StreamDetails,
    StreamResponse,
    Token,
)
from .service import Service
from .sse import KEEP_ALIVE, encode_event
from .text_stream import TextStream

KEEP_ALIVE_S = 15.0

_decode_generate = msgspec.json.Decoder(GenerateRequest)
_decode_compat = msgspec.json.Decoder(CompatGenerateRequest)
_encoder = msgspec.json.Encoder()


async def generate(service: Service, exchange: Exchange) -> None:
    """POST /generate."""
    request = await exchange.read_json(_decode_generate, service.config.payload_limit)
    await _Generate(service, exchange, request, stream=False).run()


async def generate_stream(service: Service, exchange: Exchange) -> None:
    """POST /generate_stream."""
    request = await exchange.read_json(_decode_generate, service.config.payload_limit)
    await _Generate(service, exchange, request, stream=True).run()


async def compat_generate(service: Service, exchange: Exchange) -> None:
    """POST /: the body says whether to stream; an answer without streaming is a list of one.

    Differs from TGI: ``return_full_text`` is false unless asked for, whatever the model.
    """
    request = await exchange.read_json(_decode_compat, service.config.payload_limit)
    await _Generate(service, exchange, request, stream=bool(request.stream), as_list=True).run()


class _Generate:
    """One request of a native route, from its checked body to the last byte of the answer."""

    def __init__(
        self, service: Service, exchange: Exchange, request: GenerateRequest, *, stream: bool, as_list: bool = False
    ) -> None:
        self._service = service
        self._exchange = exchange
        self._request = request
        self._parameters = request.parameters or GenerateParameters()
        self._stream = stream
        self._as_list = as_list
        self._details = bool(self._parameters.details)

    async def run(self) -> None:
        """Raises ApiError if nothing was sent yet; a stream that has begun tells it as its last event."""
        with self._service.record(self._exchange) as record, self._service.permits.hold():
            self._exchange.watch()
            text = await self._submit(record)
            try:
                if self._stream:
                    await self._send_stream(text, record)
                else:
                    await self._send_whole(text, record)
            finally:
                record.generated_tokens = text.generated_tokens
                text.generation.abort()

    async def _submit(self, record: Record) -> TextStream:
        service, request = self._service, self._request
        limits = service.limits()
        record.input_characters = len(request.inputs)
        validation.check(request, limits, self._stream)
        prompt_ids = await service.tokenizer.encode(request.inputs, self._parameters.truncate)
        sampling = validation.resolve(request.parameters, len(prompt_ids), limits, service.tokenizer.eos_ids)
        try:
            generation = await service.engine.submit(prompt_ids, sampling)
        except EngineError as error:
            raise GenerationError(str(error)) from error
        record.submit(generation)
        assert service.metrics is not None
        service.metrics.submitted(record, sampling.max_new_tokens)
        return TextStream(generation, service.tokenizer, self._parameters.stop or ())

    async def _send_whole(self, text: TextStream, record: Record) -> None:
        tokens: list[Token] = []
        while text.finish_reason is None:
            tokens += await text.next(KEEP_ALIVE_S)
        record.finish(text.generated_tokens, text.finish_reason)
        response = GenerateResponse(self._generated_text(text))
        if self._details:
            response.details = Details(text.finish_reason, text.generated_tokens, _shown_seed(text), [], tokens)
        body = _encoder.encode([response] if self._as_list else response)
        headers = [(b"x-compute-type", self._service.compute_type), *record.headers()]
        await self._exchange.respond(200, body, b"application/json", headers)

    async def _send_stream(self, text: TextStream, record: Record) -> None:
        exchange = self._exchange
        index = 0
        while text.finish_reason is None:
            try:
                tokens = await text.next(KEEP_ALIVE_S)
            except ApiError as error:
                if exchange.started:
                    await exchange.end(encode_event(ErrorResponse(error.error, error.error_type)))
                raise
            chunk = self._events(tokens, index, text) if tokens else KEEP_ALIVE
            index += len(tokens)
            if not exchange.started:
                await exchange.start_stream(self._stream_headers(record))
            if text.finish_reason is None:
                await exchange.write(chunk)
            else:
                record.finish(text.generated_tokens, text.finish_reason)
                await exchange.end(chunk)

    def _events(self, tokens: Iterable[Token], index: int, text: TextStream) -> bytes:
        """The events of tokens that came together, for one send; the last of a text says how it ended."""
        events = [StreamResponse(i, token) for i, token in enumerate(tokens, start=index + 1)]
        if text.finish_reason is not None:
            events[-1].generated_text = self._generated_text(text)
            if self._details:
                input_length = len(text.generation.prompt_ids)
                events[-1].details = StreamDetails(
                    text.finish_reason, text.generated_tokens, _shown_seed(text), input_length
                )
        return b"".join([encode_event(event) for event in events])

    def _generated_text(self, text: TextStream) -> str:
        return (self._request.inputs if self._parameters.return_full_text else "") + text.generated_text

    def _stream_headers(self, record: Record) -> list[tuple[bytes, bytes]]:
        return [
            (b"x-compute-type", self._service.compute_type),
            (b"x-compute-characters", b"%d" % record.input_characters),
        ]


def _shown_seed(text: TextStream) -> int | None:
    sampling = text.generation.sampling
    return None if sampling.greedy else sampling.seed
