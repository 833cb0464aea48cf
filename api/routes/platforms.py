"""What platforms post to a model."""

from typing import Any

from ..chat.request import ChatRequest
from ..http.routing import Route
from ..openai.schema import CompletionRequest
from ..platforms.sagemaker import invocations
from ..platforms.vertex import VertexRequest, VertexResponse, vertex
from ..tgi.schema import CompatGenerateRequest
from .shared import CHAT, GENERATION_ERRORS, PROMPT, RESUMABLE

_TAG = "Platforms"
PLATFORM_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/invocations",
        handler=invocations,
        request=(CompatGenerateRequest, ChatRequest, CompletionRequest),
        example=PROMPT,
        response=dict[str, Any] | list[Any],
        event=dict[str, Any],
        errors=GENERATION_ERRORS,
        parameters=(RESUMABLE,),
        tag=_TAG,
        summary="SageMaker: a body of POST /, /v1/chat/completions or /v1/completions, answered as there",
    ),
    Route(
        method="POST",
        path="/vertex",
        handler=vertex,
        request=VertexRequest,
        example={"instances": [PROMPT, CHAT]},
        response=VertexResponse,
        errors=GENERATION_ERRORS,
        tag=_TAG,
        summary="Vertex: several prompts or conversations at a time",
    ),
)
