"""The routes of Anthropic's Messages API."""

from ..anthropic.messages import count_tokens, messages
from ..anthropic.schema import CountTokensRequest, MessageResponse, MessagesRequest, StreamEvent, TokenCount
from ..http.error_body import AnthropicErrorResponse
from ..http.routing import Route
from .shared import CHAT, GENERATION_ERRORS, RESUMABLE

_TAG = "Anthropic"
_MESSAGES = {"model": "default", "messages": CHAT["messages"]}

ANTHROPIC_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/messages",
        handler=messages,
        request=MessagesRequest,
        example=_MESSAGES | {"max_tokens": 20},
        response=MessageResponse,
        event=StreamEvent,
        errors=GENERATION_ERRORS,
        error=AnthropicErrorResponse,
        parameters=(RESUMABLE,),
        tag=_TAG,
        summary="Go on with a conversation",
        description="Each event has its type as its name, too. What fails after the first token is an event `error`.",
    ),
    Route(
        method="POST",
        path="/v1/messages/count_tokens",
        handler=count_tokens,
        request=CountTokensRequest,
        example=_MESSAGES,
        response=TokenCount,
        errors=(422,),
        error=AnthropicErrorResponse,
        tag=_TAG,
        summary="How many tokens the prompt of a conversation has",
    ),
)
