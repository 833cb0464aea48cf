"""OpenAI's routes, but for responses."""

from ..chat.request import ChatRequest
from ..http.error_body import OpenAIErrorResponse
from ..http.routing import Parameter, Route
from ..openai.chat import chat_completions
from ..openai.completions import completions
from ..openai.models import model, models
from ..openai.schema import ChatChunk, ChatCompletion, Completion, CompletionRequest, Model, ModelList
from .shared import CHAT, GENERATION_ERRORS, RESUMABLE

_TAG = "OpenAI"
_OPENAI_STREAM = (
    "Each event is `data: ` and one line of JSON; `data: [DONE]` is the last. "
    "What fails after the first token is an event with an `error`."
)

OPENAI_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/chat/completions",
        handler=chat_completions,
        request=ChatRequest,
        example=CHAT,
        response=ChatCompletion,
        event=ChatChunk,
        errors=GENERATION_ERRORS,
        error=OpenAIErrorResponse,
        parameters=(RESUMABLE,),
        tag=_TAG,
        summary="Go on with a conversation",
        description=_OPENAI_STREAM,
    ),
    Route(
        method="POST",
        path="/v1/completions",
        handler=completions,
        request=CompletionRequest,
        example={"prompt": "What is Deep Learning?", "max_tokens": 20},
        response=Completion,
        event=Completion,
        errors=GENERATION_ERRORS,
        error=OpenAIErrorResponse,
        parameters=(RESUMABLE,),
        tag=_TAG,
        summary="Go on with a text",
        description=_OPENAI_STREAM,
    ),
    Route(
        method="GET",
        path="/v1/models",
        handler=models,
        response=ModelList,
        error=OpenAIErrorResponse,
        tag=_TAG,
        summary="The model that is served, and its adapters",
    ),
    Route(
        method="GET",
        path="/v1/models/{id}",
        handler=model,
        response=Model,
        errors=(404,),
        error=OpenAIErrorResponse,
        parameters=(Parameter(name="id", place="path", description="Of the model; it may have slashes."),),
        tag=_TAG,
        summary="The model or adapter of that name, if it is served",
    ),
)
