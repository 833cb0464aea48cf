"""POST /v1/messages, whole or streamed, and /v1/messages/count_tokens, which stops where the model would begin."""

import msgspec
from msgspec import Struct

from ..chat.answer import AnswerReader
from ..chat.blocks import Block, BlockChange, BlockReader, blocks_of
from ..chat.conversation import prompt_of
from ..chat.start import start_chat
from ..chat.tools.choice import tools_of
from ..generation.request import GenerationRequest, open_generation
from ..generation.request_context import random_hex
from ..generation.sender import send_events
from ..generation.service import Service
from ..http.connection import Connection
from ..http.error_body import anthropic_error
from ..http.errors import ApiError
from ..http.sse import encode_named_event, named_event
from ..text.text_sequence import SequenceOutput, TextSequence
from .schema import (
    ContentBlock,
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    CountTokensRequest,
    InputJsonDelta,
    MessageDelta,
    MessageResponse,
    MessagesRequest,
    MessageStart,
    MessageStop,
    OutputTokensDetails,
    Ping,
    StopDelta,
    StopReason,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    TokenCount,
    ToolUseBlock,
    Usage,
)
from .translate import chat_request

_STOP_REASONS: dict[str, StopReason] = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_PING = encode_named_event(Ping())
_JSON = b"application/json"


async def messages(service: Service, connection: Connection, request: MessagesRequest) -> None:
    """POST /v1/messages: answer or stream, as the request says. Raises ApiError."""
    connection.add_header(b"request-id", connection.request_id.encode("latin-1"))
    chat = chat_request(request)
    with open_generation(service, connection) as generation:
        reader = await start_chat(service, generation, chat)
        answer = _Answer(generation, reader, f"msg_{random_hex(24)}", request.model)
        if request.stream:
            headers = [(b"x-compute-type", service.compute_type)]
            await send_events(
                generation, answer.events, _error_event, headers, answer.closing, answer.opening, keep_alive=_PING
            )
            return
        (output,) = await generation.finish()
        body = msgspec.json.encode(answer.whole(output))
        headers = [(b"x-compute-type", service.compute_type), *generation.stats.headers()]
        await connection.respond(200, body, _JSON, headers)


async def count_tokens(service: Service, connection: Connection, request: CountTokensRequest) -> None:
    """POST /v1/messages/count_tokens: how many tokens the prompt has. Raises ApiError."""
    chat = chat_request(request)
    prompt = await prompt_of(chat, tools_of(chat), service.chat_templates)
    ids = await service.tokenizer.encode(prompt.text, add_special_tokens=False)
    await connection.respond(200, msgspec.json.encode(TokenCount(len(ids))), _JSON)


def _error_event(error: ApiError) -> bytes:
    """What ends a stream that has begun and cannot go on."""
    return named_event(b"error", anthropic_error(error))


class _Answer:
    """One message, whole or as events."""

    def __init__(self, generation: GenerationRequest, reader: AnswerReader, message_id: str, model: str) -> None:
        self._generation = generation
        self._reader = reader
        self._blocks = BlockReader(reader)
        self._id = message_id
        self._model = model

    def whole(self, output: SequenceOutput) -> MessageResponse:
        """All of it."""
        content = [_content(block) for block in blocks_of(self._reader, output)]
        stop = self._stop(output.sequence)
        return self._message(content, stop.stop_reason, stop.stop_sequence)

    def opening(self) -> bytes:
        """The first events."""
        return encode_named_event(MessageStart(self._message([], None, None))) + _PING

    def events(self, output: list[SequenceOutput]) -> bytes:
        """Those of what came together."""
        return b"".join([encode_named_event(_event(change)) for one in output for change in self._blocks.read(one)])

    def closing(self) -> bytes:
        """The last events."""
        (sequence,) = self._generation.sequences
        return encode_named_event(MessageDelta(self._stop(sequence), self._usage())) + encode_named_event(MessageStop())

    def _message(
        self, content: list[ContentBlock], stop_reason: StopReason | None, stop_sequence: str | None
    ) -> MessageResponse:
        return MessageResponse(self._id, self._model, "assistant", content, stop_reason, stop_sequence, self._usage())

    def _stop(self, sequence: TextSequence) -> StopDelta:
        reason = self._reader.finish_reason(sequence)
        assert reason is not None, "the generation is done"
        if reason == "stop" and sequence.stop_string is not None:
            return StopDelta("stop_sequence", sequence.stop_string)
        return StopDelta(_STOP_REASONS[reason], None)

    def _usage(self) -> Usage:
        stats, (sequence,) = self._generation.stats, self._generation.sequences
        return Usage(
            stats.prompt_tokens - stats.cached_tokens,
            0,
            stats.cached_tokens,
            sequence.generated_tokens,
            OutputTokensDetails(self._reader.reasoning_tokens),
        )


def _content(block: Block) -> ContentBlock:
    match block.kind:
        case "reasoning":
            return ThinkingBlock(block.text)
        case "call":
            return ToolUseBlock(block.id, block.name, _input(block.text))
    return TextBlock(block.text)


def _input(arguments: str) -> dict[str, object]:
    """An object whatever the model wrote: what was cut off, or is no object, has nothing in it."""
    try:
        return msgspec.json.decode(arguments, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        return {}


def _event(change: BlockChange) -> Struct:
    block = change.block
    if change.closes:
        return ContentBlockStop(block.index)
    if change.opens:
        return ContentBlockStart(block.index, _content(Block(block.kind, block.index, id=block.id, name=block.name)))
    match block.kind:
        case "reasoning":
            return ContentBlockDelta(block.index, ThinkingDelta(change.piece))
        case "call":
            return ContentBlockDelta(block.index, InputJsonDelta(change.piece))
    return ContentBlockDelta(block.index, TextDelta(change.piece))
