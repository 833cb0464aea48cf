"""The events of a chat sequence."""

from ..chat.answer import AnswerReader, finish_reason_of
from ..chat.part import Part
from ..chat.request import ChatRequest
from ..generation.request import GenerationRequest
from ..generation.sender import send_events
from ..generation.service import Service
from ..http.error_body import openai_error
from ..http.errors import ApiError
from ..http.sse import event_of
from ..text.text_sequence import SequenceOutput, TextSequence
from ..text.tokenizer import Tokenizer
from .chunks import DONE, Chunks, ResponseInfo, encode
from .logprobs import chat_logprobs
from .schema import ChatLogprobs, Delta, FunctionCall, ToolCallDelta

_NULL = b"null"


async def stream_chat(
    service: Service,
    generation: GenerationRequest,
    request: ChatRequest,
    info: ResponseInfo,
    reader: AnswerReader,
) -> None:
    """Send each token as it comes. Raises ApiError; a stream that has begun tells it in an event."""
    head = info.head("chat.completion.chunk")
    chunks = Chunks(generation, head, request.stream_options, b'"delta":{"content":', b"}", reader)
    events = _Events(generation, chunks, request, reader, service.tokenizer)
    headers = [
        (b"x-compute-type", service.compute_type),
        (b"x-compute-characters", b"%d" % generation.stats.input_characters),
    ]
    await send_events(generation, events.encode, error_event, headers, chunks.closing, events.roles)


def error_event(error: ApiError) -> bytes:
    """What ends a stream that has begun and cannot go on."""
    return event_of(openai_error(error)) + DONE


class _Events:
    """Encodes what comes. The finish reason goes with the last piece of text: a client of TGI looks for it there."""

    def __init__(
        self,
        generation: GenerationRequest,
        chunks: Chunks,
        request: ChatRequest,
        reader: AnswerReader,
        tokenizer: Tokenizer,
    ) -> None:
        self._generation = generation
        self._chunks = chunks
        self._tokenizer = tokenizer
        self._reader = reader
        self._logprobs = bool(request.logprobs)
        self._top = request.top_logprobs or 0
        self._calls: dict[int, int] = {}  # begun so far, by choice

    def roles(self) -> bytes:
        """The first event of each choice says who speaks, and no other does."""
        role = b'"delta":' + encode(Delta(role="assistant", content=""))
        return b"".join([self._chunks.choice(sequence.index, role) for sequence in self._generation.sequences])

    def encode(self, output: list[SequenceOutput]) -> bytes:
        plain = self._reader.plain and not self._logprobs
        return b"".join([self._plain(one) if plain else self._any(one) for one in output])

    def _plain(self, output: SequenceOutput) -> bytes:
        """Nothing but text."""
        chunks, sequence, texts = self._chunks, output.sequence, output.texts
        if sequence.finish_reason is None:
            return b"".join([chunks.text(sequence.index, text) for text in texts if text])
        events = [chunks.text(sequence.index, text) for text in texts[:-1] if text]
        last = chunks.text_field(texts[-1]) if texts[-1] else b'"delta":{}'
        events.append(chunks.choice(sequence.index, last, finish_reason=finish_reason_of(sequence)))
        return b"".join(events)

    def _any(self, output: SequenceOutput) -> bytes:
        """With thoughts or calls, or with logprobs, which go with the first event that their token gives."""
        sequence = output.sequence
        deltas: list[tuple[Delta, bytes]] = []
        for position, part in enumerate(self._reader.read(output)):
            logprobs = _NULL
            if self._logprobs and (token := chat_logprobs(output, position, position + 1, self._top, self._tokenizer)):
                logprobs = encode(ChatLogprobs(token))
                part = part or [Part()]
            for found in part:
                deltas.append((self._delta(sequence, found), logprobs))
                logprobs = _NULL
        finish_reason = self._reader.finish_reason(sequence)
        if finish_reason is not None and (not deltas or finish_reason == "tool_calls"):
            deltas.append((Delta(), _NULL))
        last = len(deltas) - 1
        return b"".join(
            [
                self._chunks.choice(
                    sequence.index, b'"delta":' + encode(delta), logprobs, finish_reason if i == last else None
                )
                for i, (delta, logprobs) in enumerate(deltas)
            ]
        )

    def _delta(self, sequence: TextSequence, found: Part) -> Delta:
        begun = self._calls.get(sequence.index, 0)
        if found.name is not None:
            self._calls[sequence.index] = begun + 1
            call = ToolCallDelta(begun, FunctionCall(found.name, ""), self._reader.new_id(), "function")
            return Delta(tool_calls=[call])
        if found.arguments:
            return Delta(tool_calls=[ToolCallDelta(begun - 1, FunctionCall(arguments=found.arguments))])
        if found.reasoning:
            return Delta(reasoning_content=found.reasoning, reasoning=found.reasoning)
        return Delta(content=found.text)
