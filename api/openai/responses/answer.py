"""One answer of the Responses API: its body at any time, and its events in their order."""

from collections.abc import Callable, Iterator

import msgspec
from msgspec import Struct

from ...chat.answer import AnswerReader
from ...chat.blocks import Block, BlockChange, BlockReader, Describe
from ...generation.request import GenerationRequest
from ...http.errors import ApiError
from ...http.sse import encode_named_event
from ...text.text_sequence import SequenceOutput
from ..schema import TokenLogprob
from .schema import (
    ContentPartAdded,
    ContentPartDone,
    EventLogprob,
    EventTopLogprob,
    FunctionCallArgumentsDelta,
    FunctionCallArgumentsDone,
    FunctionCallItem,
    IncompleteDetails,
    InputTokensDetails,
    ItemStatus,
    MessageItem,
    OutputItem,
    OutputItemAdded,
    OutputItemDone,
    OutputText,
    OutputTextDelta,
    OutputTextDone,
    OutputTokensDetails,
    ReasoningItem,
    ReasoningText,
    ReasoningTextDelta,
    ReasoningTextDone,
    Response,
    ResponseCompleted,
    ResponseCreated,
    ResponseError,
    ResponseFailed,
    ResponseIncomplete,
    ResponseInProgress,
    ResponseQueued,
    ResponsesRequest,
    Usage,
)

_PREFIXES = {"text": "msg", "reasoning": "rs", "call": "fc"}
_ERROR_CODES = {422: "invalid_prompt", 429: "rate_limit_exceeded"}


def response_of(request: ResponsesRequest, response_id: str, created_at: int, model: str) -> Response:
    """The body before there is an answer: what was asked for."""
    effort = None if request.reasoning is None else request.reasoning.effort
    form = {"type": "text"}
    if request.text is not None and request.text.format is not None:
        form = {key: value for key, value in msgspec.to_builtins(request.text.format).items() if value is not None}
    return Response(
        id=response_id,
        created_at=created_at,
        status="queued" if request.background else "in_progress",
        background=bool(request.background),
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        metadata=request.metadata or {},
        model=request.model or model,
        output=[],
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        reasoning={"effort": effort, "summary": None},
        store=request.store is not False,
        temperature=1.0 if request.temperature is None else request.temperature,
        text={"format": form},
        tool_choice=request.tool_choice or "auto",
        tools=request.tools or [],
        top_logprobs=request.top_logprobs or 0,
        top_p=1.0 if request.top_p is None else request.top_p,
        user=request.user,
    )


class Answer:
    """What becomes of a response.

    Attributes:
        response: as it is now.
    """

    def __init__(self, response: Response, keep: Callable[[Response], None]) -> None:
        """``keep``: called with the response when its status has changed, before that is told."""
        self.response = response
        self._key = response.id.partition("_")[2]
        self._keep = keep
        self._number = 0  # of the next event
        self._generation: GenerationRequest | None = None
        self._reader: AnswerReader | None = None
        self._blocks: BlockReader | None = None

    def reads(self, generation: GenerationRequest, reader: AnswerReader, logprobs: Describe | None) -> None:
        """From now on it is made of what this generates; ``logprobs``: of a token, if they are wanted."""
        self._generation, self._reader, self._blocks = generation, reader, BlockReader(reader, logprobs)

    def created(self) -> bytes:
        """The events of a response that has been taken."""
        events: list[Struct] = [ResponseCreated(response=self.response, sequence_number=self._next())]
        if self.response.background:
            events.append(ResponseQueued(response=self.response, sequence_number=self._next()))
        return b"".join(map(encode_named_event, events))

    def begun(self) -> bytes:
        """That of one whose first token is there."""
        self.response.status = "in_progress"
        if self.response.background:
            self._keep(self.response)
        return encode_named_event(ResponseInProgress(response=self.response, sequence_number=self._next()))

    def events(self, output: list[SequenceOutput]) -> bytes:
        """Those of what came together."""
        assert self._blocks is not None
        changes = [change for one in output for change in self._blocks.read(one)]
        return b"".join([encode_named_event(event) for change in changes for event in self._events(change)])

    def ended(self) -> bytes:
        """The last event."""
        response = self.end()
        last = ResponseCompleted if response.status == "completed" else ResponseIncomplete
        return encode_named_event(last(response=response, sequence_number=self._next()))

    def failed(self, error: ApiError) -> bytes:
        """The last event of one that can't go on."""
        self.response.status = "failed"
        self.response.error = ResponseError(_ERROR_CODES.get(error.status, "server_error"), error.error)
        self._keep(self.response)
        return encode_named_event(ResponseFailed(response=self.response, sequence_number=self._next()))

    def whole(self, output: SequenceOutput) -> Response:
        """All of it at once."""
        assert self._blocks is not None
        self._blocks.read(output)
        return self.end()

    def end(self) -> Response:
        """All tokens were read."""
        response = self.response
        assert self._blocks is not None
        response.output = [self._item(block, self._status(block)) for block in self._blocks.blocks]
        response.usage = self._usage()
        cut = self._is_cut_off
        response.status = "incomplete" if cut else "completed"
        response.incomplete_details = IncompleteDetails("max_output_tokens") if cut else None
        self._keep(response)
        return response

    def _next(self) -> int:
        self._number += 1
        return self._number - 1

    @property
    def _is_cut_off(self) -> bool:
        assert self._generation is not None
        assert self._reader is not None
        return self._reader.finish_reason(self._generation.sequences[0]) == "length"

    def _status(self, block: Block) -> ItemStatus:
        assert self._blocks is not None
        return "incomplete" if self._is_cut_off and block is self._blocks.blocks[-1] else "completed"

    def _usage(self) -> Usage:
        assert self._generation is not None
        assert self._reader is not None
        stats, (sequence,) = self._generation.stats, self._generation.sequences
        return Usage(
            stats.prompt_tokens,
            InputTokensDetails(stats.cached_tokens),
            sequence.generated_tokens,
            OutputTokensDetails(self._reader.reasoning_tokens),
            stats.prompt_tokens + sequence.generated_tokens,
        )

    def _item(self, block: Block, status: ItemStatus) -> OutputItem:
        """Its content as far as it is there; of one that has just begun, none."""
        item_id = f"{_PREFIXES[block.kind]}_{self._key}_{block.index}"
        match block.kind:
            case "call":
                return FunctionCallItem(item_id, status, block.id, block.name, block.text)
            case "reasoning":
                return ReasoningItem(item_id, status, [ReasoningText(block.text)] if block.text else [])
        return MessageItem(item_id, status, [OutputText(block.text, logprobs=block.tokens)] if block.text else [])

    def _events(self, change: BlockChange) -> Iterator[Struct]:
        block, piece = change.block, change.piece
        item_id, index = f"{_PREFIXES[block.kind]}_{self._key}_{block.index}", block.index
        is_call = block.kind == "call"
        is_thought = block.kind == "reasoning"
        place = (item_id, index, 0)
        if change.opens:
            item = self._item(block, "in_progress")
            yield OutputItemAdded(index, item, sequence_number=self._next())
            if not is_call:
                yield ContentPartAdded(
                    *place, ReasoningText("") if is_thought else OutputText(""), sequence_number=self._next()
                )
        elif not change.closes:
            if is_call:
                yield FunctionCallArgumentsDelta(item_id, index, piece, sequence_number=self._next())
            elif is_thought:
                yield ReasoningTextDelta(*place, piece, sequence_number=self._next())
            else:
                yield OutputTextDelta(*place, piece, _of_event(change.tokens), sequence_number=self._next())
        else:
            if is_call:
                yield FunctionCallArgumentsDone(item_id, index, block.name, block.text, sequence_number=self._next())
            elif is_thought:
                yield ReasoningTextDone(*place, block.text, sequence_number=self._next())
                yield ContentPartDone(*place, ReasoningText(block.text), sequence_number=self._next())
            else:
                yield OutputTextDone(*place, block.text, _of_event(block.tokens), sequence_number=self._next())
                whole = OutputText(block.text, logprobs=block.tokens)
                yield ContentPartDone(*place, whole, sequence_number=self._next())
            item = self._item(block, self._status(block))
            yield OutputItemDone(index, item, sequence_number=self._next())


def _of_event(logprobs: list[TokenLogprob]) -> list[EventLogprob]:
    """The same without bytes, which events don't have."""
    return [
        EventLogprob(one.token, one.logprob, [EventTopLogprob(best.token, best.logprob) for best in one.top_logprobs])
        for one in logprobs
    ]
