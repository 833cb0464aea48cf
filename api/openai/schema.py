"""Bodies of the OpenAI routes, beside the request of a chat (chat/request.py); fields in the order of writing."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType, field

from ..chat.answer import FinishReason
from ..chat.request import SamplingFields
from ..http.json_body import U32
from ..text.token_list import SimpleToken


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


class CompletionTokensDetails(Struct):
    """What the generated tokens are."""

    reasoning_tokens: int  # thoughts, with the marks around them


class Usage(Struct):
    """Tokens of a request, all its choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET  # of models that reason


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
    reasoning_content: str | UnsetType = UNSET  # thoughts
    reasoning: str | UnsetType = UNSET  # the same, under vLLM's newer name


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
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET


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
