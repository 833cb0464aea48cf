"""Bodies of /v1/messages: what clients send and get, fields in the order in which they are written.

Unknown fields are ignored, and so is null for an optional one; a type of block or tool that isn't supported is refused
by name (translate.py).
"""

from typing import Any, Literal

from msgspec import Struct

from ..http.json_body import I32, U32

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class RequestBlock(Struct, kw_only=True):
    """A piece of a message: ``text``, ``thinking``, ``tool_use`` or ``tool_result``."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None  # of a call
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None  # of the call that a result is for
    content: "str | list[RequestBlock] | None" = None
    is_error: bool | None = None


class RequestMessage(Struct):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: str | list[RequestBlock]


class Tool(Struct):
    """What the model may call."""

    name: str
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None  # custom, like null: the client runs it
    strict: bool | None = None


class ToolChoice(Struct):
    """Which tools are to be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(Struct):
    """Whether the model shall think; how long is its own affair."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: U32 | None = None


class OutputFormat(Struct):
    """What an answer without calls has to match."""

    type: str
    schema: dict[str, Any] | None = None


class OutputConfig(Struct):
    """How to answer."""

    effort: str | None = None
    format: OutputFormat | None = None


class CountTokensRequest(Struct, kw_only=True):
    """Body of /v1/messages/count_tokens."""

    model: str
    messages: list[RequestMessage]
    system: str | list[RequestBlock] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountTokensRequest, kw_only=True):
    """Body of /v1/messages."""

    max_tokens: U32
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None  # 0: greedy
    top_k: I32 | None = None
    top_p: float | None = None
    metadata: dict[str, Any] | None = None
    # Not Anthropic's: those of generation/scheduling.py, as a Struct has one base.
    priority: I32 | None = None
    cache_salt: str | None = None
    timeout: float | None = None


class TokenCount(Struct):
    """Answer of /v1/messages/count_tokens."""

    input_tokens: int


class TextBlock(Struct, tag_field="type", tag="text"):
    """What is said."""

    text: str


class ThinkingBlock(Struct, tag_field="type", tag="thinking"):
    """What is thought. The signature is empty: a block that comes back is read, not checked."""

    thinking: str
    signature: str = ""


class ToolUseBlock(Struct, tag_field="type", tag="tool_use"):
    """A call; its input is an object in a whole answer, and comes in pieces in a stream."""

    id: str
    name: str
    input: dict[str, Any]


ContentBlock = TextBlock | ThinkingBlock | ToolUseBlock


class OutputTokensDetails(Struct):
    """What the generated tokens are."""

    thinking_tokens: int


class Usage(Struct):
    """Tokens of an answer; those of the prompt that were found in the prefix cache are counted apart."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails


class MessageResponse(Struct, tag_field="type", tag="message"):
    """Answer of /v1/messages."""

    id: str
    model: str
    role: Literal["assistant"]
    content: list[ContentBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: Usage


class MessageStart(Struct, tag_field="type", tag="message_start"):
    """First event: the answer without its content."""

    message: MessageResponse


class ContentBlockStart(Struct, tag_field="type", tag="content_block_start", gc=False):
    """A block begins, empty."""

    index: int
    content_block: ContentBlock


class TextDelta(Struct, tag_field="type", tag="text_delta", gc=False):
    """More text."""

    text: str


class ThinkingDelta(Struct, tag_field="type", tag="thinking_delta", gc=False):
    """More thoughts."""

    thinking: str


class InputJsonDelta(Struct, tag_field="type", tag="input_json_delta", gc=False):
    """More of a call's input, as the model writes it."""

    partial_json: str


class ContentBlockDelta(Struct, tag_field="type", tag="content_block_delta", gc=False):
    """A block grows."""

    index: int
    delta: TextDelta | ThinkingDelta | InputJsonDelta


class ContentBlockStop(Struct, tag_field="type", tag="content_block_stop", gc=False):
    """A block ends."""

    index: int


class StopDelta(Struct):
    """How an answer ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(Struct, tag_field="type", tag="message_delta"):
    """Last event but one."""

    delta: StopDelta
    usage: Usage


class MessageStop(Struct, tag_field="type", tag="message_stop"):
    """Last event."""


class Ping(Struct, tag_field="type", tag="ping"):
    """Nothing has come for a time, or the stream has just begun."""


StreamEvent = (
    MessageStart | Ping | ContentBlockStart | ContentBlockDelta | ContentBlockStop | MessageDelta | MessageStop
)
