"""Bodies of the OpenAI routes: what clients send and get, fields in the order in which they are written.

Every optional field takes null; unknown fields are ignored. Ranges here are those of the integer types; what a value
may mean is checked in sampling.py and conversation.py.
"""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, field

from ..http.json_body import I32, U32
from ..text.grammar import AnyGrammar
from ..text.token_list import SimpleToken

FinishReason = Literal["stop", "length", "tool_calls"]


class StreamOptions(Struct):
    """What a stream says beside the text."""

    include_usage: bool | None = None  # one more chunk, without choices, at the end
    continuous_usage_stats: bool | None = None  # usage so far in every chunk; only with include_usage


class SamplingFields(Struct, kw_only=True):
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
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None  # default: if the last message is an assistant's


class CompletionRequest(SamplingFields, kw_only=True):
    """Body of /v1/completions."""

    prompt: str | list[str | U32 | list[U32]]  # a list holds texts, or the ids of one prompt, or the ids of each
    suffix: str | None = None
    best_of: U32 | None = None
    logprobs: U32 | None = None
    echo: bool | None = None


class PromptTokensDetails(Struct):
    """Where the prompt's tokens came from."""

    cached_tokens: int  # found in the prefix cache


class Usage(Struct):
    """Tokens of a request, all its choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(Struct, gc=False):
    """A token that might have been."""

    token: str
    logprob: float | None
    bytes: list[int]  # of the token alone, which may be part of a character


class TokenLogprob(TopLogprob, gc=False):
    """A token of the answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
    """Of each token of the answer."""

    content: list[TokenLogprob]


class FunctionCall(Struct, omit_defaults=True):
    """A call, or a piece of it."""

    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET  # JSON as the model wrote it


class ToolCall(Struct):
    """One call of an answer."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class ToolCallDelta(Struct, omit_defaults=True):
    """A piece of a call; id, type and name in the first only."""

    index: int
    function: FunctionCall
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatMessage(Struct):
    """The answer."""

    role: Literal["assistant"]
    content: str | None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(Struct):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Struct):
    """Answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int  # seconds since 1970
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(Struct, omit_defaults=True):
    """What is new in an answer."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChatChunkChoice(Struct):
    """SequenceOutput of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(Struct):
    """One event of a chat stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET


class CompletionLogprobs(Struct):
    """Parallel lists, one entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None] | None] | None  # null: none were asked for
    text_offset: list[int]  # characters in front of the token


class CompletionChoice(Struct):
    """One completion, or what is new in it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(Struct):
    """Answer of /v1/completions, and one event of its stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET


class Model(Struct):
    """What ``model`` may name: the model that is served, or one of its adapters."""

    id: str
    created: int
    owned_by: str
    object: Literal["model"] = field(default="model")
    parent: str | UnsetType = UNSET  # of an adapter: the model


class ModelList(Struct):
    """Answer of GET /v1/models."""

    data: list[Model]
    object: Literal["list"] = field(default="list")


class ChatTokenizeResponse(Struct):
    """Answer of /chat_tokenize."""

    tokenize_response: list[SimpleToken]
    templated_text: str
