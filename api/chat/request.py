"""A conversation to go on with, as every dialect is translated into it: the body of OpenAI's chat completions.

Every optional field takes null; unknown fields are ignored. Ranges here are those of the integer types; what a value
may mean is checked in sampling.py and conversation.py.
"""

from typing import Any, Literal

from msgspec import Struct

from ..generation.scheduling import SchedulingFields
from ..http.json_body import I32, U32
from ..text.grammar import AnyGrammar


class StreamOptions(Struct):
    """What a stream says beside the text."""

    include_usage: bool | None = None  # one more chunk, without choices, at the end
    continuous_usage_stats: bool | None = None  # usage so far in every chunk; only with include_usage


class SamplingFields(SchedulingFields, kw_only=True):
    """What chat and completions have in common; null or absent: OpenAI's default."""

    model: str | None = None
    max_tokens: U32 | None = None
    max_completion_tokens: U32 | None = None
    temperature: float | None = None  # 0: greedy
    top_p: float | None = None
    top_k: I32 | None = None  # 0 or -1: off
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[int, float] | list[float] | None = (
        None  # by token id; as a list, which TGI takes and ignores, it must be empty
    )
    n: U32 | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    ignore_eos: bool | None = None
    min_tokens: U32 | None = None
    min_new_tokens: U32 | None = None
    # What the text has to match: OpenAI's field, and vLLM's.
    response_format: AnyGrammar | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    structural_tag: Any = None
    structured_outputs: dict[str, Any] | None = None  # json, regex, choice or json_object
    stop_token_ids: list[U32] | None = None  # vLLM's: these end the text, too


class ContentPart(Struct):
    """A piece of a message; only text is supported."""

    type: str
    text: str | None = None


class Message(Struct):
    """One message of a conversation."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None  # as ToolCall
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class FunctionDefinition(Struct):
    """What a model may call; ``arguments`` is TGI's name of ``parameters``."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None  # JSON schema
    arguments: Any = None
    strict: bool | None = None


class Tool(Struct):
    """An entry of ``tools``."""

    function: FunctionDefinition
    type: str = "function"


class FunctionName(Struct):
    """Names a function."""

    name: str


class AllowedTools(Struct):
    """Only these of the tools may be called."""

    tools: list[dict[str, Any]]  # as Tool, with a name only
    mode: Literal["auto", "required"] = "auto"


class ToolChoice(Struct):
    """Call this function, or one of those."""

    type: str = "function"
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None


class ChatRequest(SamplingFields, kw_only=True):
    """Body of /v1/chat/completions and /chat_tokenize."""

    messages: list[Message]
    logprobs: bool | None = None
    top_logprobs: U32 | None = None
    tools: list[dict[str, Any]] | None = None  # as Tool; the template gets them as they are
    tool_choice: str | ToolChoice | None = None
    functions: Any = None  # OpenAI's before tools; refused
    function_call: Any = None
    tool_prompt: str | None = None
    parallel_tool_calls: bool | None = None
    documents: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None  # none: no thoughts; else as the template knows it
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None  # default: if the last message is an assistant's
