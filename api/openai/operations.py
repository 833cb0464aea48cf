"""The OpenAI routes in the OpenAPI document."""

from typing import Any

from ..http.error_body import OpenAIErrorResponse
from ..operation import Operation
from .schema import (
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    ChatTokenizeResponse,
    Completion,
    CompletionRequest,
    ModelList,
    VertexRequest,
    VertexResponse,
)

_ERRORS = (422, 424, 429, 504)
_TAG = "OpenAI"
_STREAM = (
    "Each event is `data: ` and one line of JSON; `data: [DONE]` is the last. "
    "What fails after the first token is an event with an `error`."
)

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="post",
        path="/v1/chat/completions",
        tag=_TAG,
        summary="Go on with a conversation",
        description=_STREAM,
        request=ChatRequest,
        response=ChatCompletion,
        event=ChatChunk,
        errors=_ERRORS,
        error=OpenAIErrorResponse,
    ),
    Operation(
        method="post",
        path="/v1/completions",
        tag=_TAG,
        summary="Go on with a text",
        description=_STREAM,
        request=CompletionRequest,
        response=Completion,
        event=Completion,
        errors=_ERRORS,
        error=OpenAIErrorResponse,
    ),
    Operation(
        method="get",
        path="/v1/models",
        tag=_TAG,
        summary="The model that is served",
        response=ModelList,
        error=OpenAIErrorResponse,
    ),
    Operation(
        method="post",
        path="/chat_tokenize",
        tag=_TAG,
        summary="The prompt of a conversation, and its tokens",
        description="`start` and `stop` count bytes of UTF-8.",
        request=ChatRequest,
        response=ChatTokenizeResponse,
        errors=(422,),
    ),
    Operation(
        method="post",
        path="/invocations",
        tag="Platforms",
        summary="SageMaker: a body of POST /, /v1/chat/completions or /v1/completions, answered as there",
        request=dict[str, Any],  # a schema of msgspec has no union of bodies that bear no tag
        response=dict[str, Any] | list[Any],
        event=dict[str, Any],
        errors=_ERRORS,
    ),
    Operation(
        method="post",
        path="/vertex",
        tag="Platforms",
        summary="Vertex: several prompts or conversations at a time",
        request=VertexRequest,
        response=VertexResponse,
        errors=_ERRORS,
    ),
)
