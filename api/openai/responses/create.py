"""POST /v1/responses: an answer whole or streamed, or one in the background, which outlives its connection."""

import msgspec

from ...chat.blocks import Describe
from ...chat.constraints import wanted_grammar
from ...chat.errors import InvalidRequestError
from ...chat.request import ChatRequest
from ...chat.start import start_chat
from ...chat.tools.choice import tools_of
from ...generation.request import open_generation
from ...generation.request_context import random_hex, request_context
from ...generation.sender import send_events
from ...generation.service import Service
from ...http.connection import Connection
from ...http.errors import ApiError
from ...resume.detached import background_id, run_in_background
from ...resume.reconnect import follow
from ..logprobs import chat_logprobs
from .answer import Answer, response_of
from .schema import Response, ResponsesRequest
from .store import ResponseStore, StoredResponse
from .translate import chat_request, check_supported, messages_of

_JSON = b"application/json"


async def create_response(service: Service, connection: Connection, request: ResponsesRequest) -> None:
    """POST /v1/responses. Raises ApiError."""
    check_supported(request)
    store = ResponseStore(connection)
    messages = [] if request.previous_response_id is None else store.get(request.previous_response_id).conversation
    messages += messages_of(request.input or [], store.item)
    if not messages:
        raise InvalidRequestError("`input` is missing", "input")
    chat = chat_request(request, messages)
    stream_id = background_id() if request.background else None
    key = random_hex(32) if stream_id is None else stream_id
    created = request_context().created
    stored = StoredResponse(response_of(request, f"resp_{key}", created, service.config.model_id), messages)
    if request.background and stream_id is None:
        await _begin(service, connection, request, chat, stored)
        return

    def keep(response: Response) -> None:
        if request.store is not False or request.background:
            store.put(StoredResponse(response, messages))

    answer = Answer(stored.response, keep)
    if request.background:
        await _run(service, connection, chat, answer)
        return
    with open_generation(service, connection) as generation:
        answer.reads(generation, await start_chat(service, generation, chat), _logprobs(service, chat))
        headers = [(b"x-compute-type", service.compute_type)]
        if request.stream:
            await send_events(
                generation,
                answer.events,
                answer.failed,
                headers,
                answer.ended,
                lambda: answer.created() + answer.begun(),
            )
            return
        (output,) = await generation.finish()
        body = msgspec.json.encode(answer.whole(output))
        await connection.respond(200, body, _JSON, [*headers, *generation.stats.headers()])


async def _begin(
    service: Service, connection: Connection, request: ResponsesRequest, chat: ChatRequest, stored: StoredResponse
) -> None:
    """Let it run in the background, and answer with what it is now, or with its events as they come."""
    store = ResponseStore(connection)
    if not store.keeps:
        raise InvalidRequestError("`background` needs a server that keeps responses", "background")
    # What can be refused now is.
    tools_of(chat)
    wanted_grammar(chat)
    with service.permits.hold():
        pass
    log = run_in_background(connection, msgspec.json.encode(request))
    stored.response.id = f"resp_{log.id}"
    store.put(stored)
    if request.stream:
        connection.watch()
        await follow(connection, log, 0)
    else:
        await connection.respond(200, msgspec.json.encode(stored.response), _JSON)


async def _run(service: Service, connection: Connection, chat: ChatRequest, answer: Answer) -> None:
    """In the background: whatever goes wrong is told by an event, and by the response that is kept."""
    await connection.start_stream([])
    await connection.write(answer.created())
    try:
        with open_generation(service, connection) as generation:
            answer.reads(generation, await start_chat(service, generation, chat), _logprobs(service, chat))
            await send_events(generation, answer.events, answer.failed, [], answer.ended, answer.begun)
    except ApiError as error:
        if not connection.finished:
            await connection.end(answer.failed(error))


def _logprobs(service: Service, chat: ChatRequest) -> Describe | None:
    """Of a token, if they are wanted."""
    if not chat.logprobs:
        return None
    top, tokenizer = chat.top_logprobs or 0, service.tokenizer
    return lambda output, at: chat_logprobs(output, at, at + 1, top, tokenizer)
