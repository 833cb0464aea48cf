"""The routes of OpenAI's Responses API."""

from ..http.error_body import OpenAIErrorResponse
from ..http.routing import Parameter, Route
from ..openai.responses import schema as responses
from ..openai.responses.create import create_response
from ..openai.responses.input_items import InputItemList, input_items
from ..openai.responses.lifecycle import cancel_response, delete_response, get_response
from .shared import GENERATION_ERRORS, RESUMABLE

_TAG = "OpenAI"
_RESPONSE_ID = Parameter(name="id", place="path", description="Of a response that was kept.")

RESPONSES_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/responses",
        handler=create_response,
        request=responses.ResponsesRequest,
        example={"input": "What is Deep Learning?", "max_output_tokens": 20},
        response=responses.Response,
        event=responses.StreamEvent,
        errors=(404, *GENERATION_ERRORS),
        error=OpenAIErrorResponse,
        parameters=(RESUMABLE,),
        tag=_TAG,
        summary="Answer items, after a response before if one is named",
        description="Each event has its type as its name, too, and a number. "
        "A response with `background` goes on without its client, which may come back for it.",
    ),
    Route(
        method="GET",
        path="/v1/responses/{id}",
        handler=get_response,
        response=responses.Response,
        event=responses.StreamEvent,
        errors=(404, 422, 429),
        error=OpenAIErrorResponse,
        parameters=(
            _RESPONSE_ID,
            Parameter(name="stream", place="query", description="`true`: its events; of one with `background`."),
            Parameter(
                name="starting_after",
                place="query",
                pattern=r"^[0-9]{1,18}$",
                description="`sequence_number` of the last event that came; all events without it.",
            ),
        ),
        tag=_TAG,
        summary="A response as it is now, or its events",
    ),
    Route(
        method="GET",
        path="/v1/responses/{id}/input_items",
        handler=input_items,
        response=InputItemList,
        errors=(404, 422),
        error=OpenAIErrorResponse,
        parameters=(
            _RESPONSE_ID,
            Parameter(name="order", place="query", pattern="^(asc|desc)$", description="`desc`: the newest first."),
            Parameter(name="limit", place="query", pattern="^([1-9][0-9]?|100)$", description="Items of a page; 20."),
            Parameter(name="after", place="query", description="Id of the item that the page follows."),
        ),
        tag=_TAG,
        summary="The conversation that a response answers",
    ),
    Route(
        method="DELETE",
        path="/v1/responses/{id}",
        handler=delete_response,
        response=responses.DeletedResponse,
        errors=(404,),
        error=OpenAIErrorResponse,
        parameters=(_RESPONSE_ID,),
        tag=_TAG,
        summary="Forget a response",
    ),
    Route(
        method="POST",
        path="/v1/responses/{id}/cancel",
        handler=cancel_response,
        response=responses.Response,
        errors=(404, 422),
        error=OpenAIErrorResponse,
        parameters=(_RESPONSE_ID,),
        tag=_TAG,
        summary="End a response with `background`",
    ),
)
