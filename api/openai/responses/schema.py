"""Bodies and events of /v1/responses, fields in the order in which they are written.

Unknown fields are ignored, and so is null for an optional one; what a text server can't do is refused by name
(translate.py).
"""

from typing import Any, Literal

from msgspec import Struct

from ...generation.scheduling import SchedulingFields
from ...http.json_body import U32
from ..schema import TokenLogprob

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class InputPart(Struct):
    """A piece of an item; only text is supported."""

    type: str
    text: str | None = None
    refusal: str | None = None


class InputItem(Struct, kw_only=True):
    """A message, a call, what came of a call, thoughts, or the id of an item of an answer before."""

    type: str | None = None  # message, or item_reference if there is nothing but an id
    id: str | None = None
    role: str | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None
    summary: list[InputPart] | None = None


class TextFormat(Struct, kw_only=True):
    """What an answer without calls has to match."""

    type: str
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextConfig(Struct):
    """How to write text."""

    format: TextFormat | None = None


class ReasoningConfig(Struct):
    """How to think."""

    effort: str | None = None


class ResponsesRequest(SchedulingFields, kw_only=True):
    """Body of POST /v1/responses."""

    input: str | list[InputItem] | None = None
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: U32 | None = None
    temperature: float | None = None  # 0: greedy
    top_p: float | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    stream: bool | None = None
    store: bool | None = None  # default: yes
    previous_response_id: str | None = None
    background: bool | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    seed: int | None = None  # not OpenAI's, like the next
    chat_template_kwargs: dict[str, Any] | None = None
    include: list[str] | None = None
    top_logprobs: U32 | None = None
    # Refused, if they ask for something.
    truncation: str | None = None
    prompt: Any = None
    conversation: Any = None
    context_management: Any = None
    moderation: Any = None


class OutputText(Struct, tag_field="type", tag="output_text"):
    """Text of a message."""

    text: str
    annotations: list[Any] = []
    logprobs: list[TokenLogprob] = []


class ReasoningText(Struct, tag_field="type", tag="reasoning_text"):
    """Text of thoughts."""

    text: str


class MessageItem(Struct, tag_field="type", tag="message"):
    """What is said."""

    id: str
    status: ItemStatus
    content: list[OutputText]
    role: Literal["assistant"] = "assistant"


class ReasoningItem(Struct, tag_field="type", tag="reasoning"):
    """What is thought."""

    id: str
    status: ItemStatus
    content: list[ReasoningText]
    summary: list[Any] = []


class FunctionCallItem(Struct, tag_field="type", tag="function_call"):
    """A call."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str  # JSON as the model wrote it


OutputItem = MessageItem | ReasoningItem | FunctionCallItem


class InputTokensDetails(Struct):
    """Where the prompt's tokens came from."""

    cached_tokens: int  # found in the prefix cache
    cache_write_tokens: int = 0


class OutputTokensDetails(Struct):
    """What the generated tokens are."""

    reasoning_tokens: int  # thoughts, with the marks around them


class Usage(Struct):
    """Tokens of an answer."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(Struct):
    """Why there is no answer, or no more of it."""

    code: str
    message: str


class IncompleteDetails(Struct):
    """Why an answer ends where it does."""

    reason: Literal["max_output_tokens"]


class Response(Struct, tag_field="object", tag="response", kw_only=True):
    """An answer, as far as it is there, with what was asked for."""

    id: str
    created_at: int  # seconds since 1970
    status: Status
    background: bool
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, Any]
    service_tier: Literal["default"] = "default"
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int = 0
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: Usage | None = None
    user: str | None


class DeletedResponse(Struct, tag_field="object", tag="response"):
    """Answer of DELETE /v1/responses/{id}."""

    id: str
    deleted: bool


class _Numbered(Struct, kw_only=True):
    sequence_number: int  # from 0


class ResponseCreated(_Numbered, tag_field="type", tag="response.created"):
    """First event."""

    response: Response


class ResponseQueued(_Numbered, tag_field="type", tag="response.queued"):
    """It runs in the background, and has not begun."""

    response: Response


class ResponseInProgress(_Numbered, tag_field="type", tag="response.in_progress"):
    """It has begun."""

    response: Response


class ResponseCompleted(_Numbered, tag_field="type", tag="response.completed"):
    """Last event, with all of the answer."""

    response: Response


class ResponseIncomplete(_Numbered, tag_field="type", tag="response.incomplete"):
    """Last event of an answer that its limit has cut off."""

    response: Response


class ResponseFailed(_Numbered, tag_field="type", tag="response.failed"):
    """Last event of an answer that can't go on."""

    response: Response


class OutputItemAdded(_Numbered, tag_field="type", tag="response.output_item.added"):
    """An item begins, empty."""

    output_index: int
    item: OutputItem


class OutputItemDone(_Numbered, tag_field="type", tag="response.output_item.done"):
    """An item is whole."""

    output_index: int
    item: OutputItem


class ContentPartAdded(_Numbered, tag_field="type", tag="response.content_part.added"):
    """The text of an item begins, empty."""

    item_id: str
    output_index: int
    content_index: int
    part: OutputText | ReasoningText


class ContentPartDone(_Numbered, tag_field="type", tag="response.content_part.done"):
    """The text of an item is whole."""

    item_id: str
    output_index: int
    content_index: int
    part: OutputText | ReasoningText


class EventTopLogprob(Struct, gc=False):
    """A token that might have been."""

    token: str
    logprob: float | None


class EventLogprob(EventTopLogprob, gc=False):
    """A token of the text."""

    top_logprobs: list[EventTopLogprob]


class OutputTextDelta(_Numbered, tag_field="type", tag="response.output_text.delta", gc=False):
    """More text."""

    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[EventLogprob] = []


class OutputTextDone(_Numbered, tag_field="type", tag="response.output_text.done"):
    """All of it."""

    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[EventLogprob] = []


class ReasoningTextDelta(_Numbered, tag_field="type", tag="response.reasoning_text.delta", gc=False):
    """More thoughts."""

    item_id: str
    output_index: int
    content_index: int
    delta: str


class ReasoningTextDone(_Numbered, tag_field="type", tag="response.reasoning_text.done"):
    """All of them."""

    item_id: str
    output_index: int
    content_index: int
    text: str


class FunctionCallArgumentsDelta(_Numbered, tag_field="type", tag="response.function_call_arguments.delta", gc=False):
    """More of a call's arguments, as the model writes them."""

    item_id: str
    output_index: int
    delta: str


class FunctionCallArgumentsDone(_Numbered, tag_field="type", tag="response.function_call_arguments.done"):
    """All of them."""

    item_id: str
    output_index: int
    name: str
    arguments: str


StreamEvent = (
    ResponseCreated
    | ResponseQueued
    | ResponseInProgress
    | ResponseCompleted
    | ResponseIncomplete
    | ResponseFailed
    | OutputItemAdded
    | OutputItemDone
    | ContentPartAdded
    | ContentPartDone
    | OutputTextDelta
    | OutputTextDone
    | ReasoningTextDelta
    | ReasoningTextDone
    | FunctionCallArgumentsDelta
    | FunctionCallArgumentsDone
)
