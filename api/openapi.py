"""The OpenAPI 3.1 document, made from the Structs that the routes really decode and encode."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec

from .generation.engine_health import Liveness
from .openai.operations import OPERATIONS as OPENAI_OPERATIONS
from .operation import RESUMABLE, Operation, Parameter
from .tgi.schema import (
    CompatGenerateRequest,
    ErrorResponse,
    GenerateRequest,
    GenerateResponse,
    Info,
    SimpleToken,
    StreamResponse,
)

_GENERATION_ERRORS = (422, 424, 429, 504)
_BODY_ERRORS = (400, 408, 413, 415, 422)  # of every route with a body: it could not be read
_TGI, _SERVER = "Text generation", "Server"
_STREAM = (
    "Each event is `data: ` and one line of JSON; the last has `generated_text`. "
    "What fails after the first token is an event, too."
)

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="post",
        path="/",
        tag=_TGI,
        summary="Generate; `stream` in the body says how to answer",
        description=_STREAM,
        request=CompatGenerateRequest,
        response=list[GenerateResponse],
        event=StreamResponse,
        errors=_GENERATION_ERRORS,
    ),
    Operation(
        method="post",
        path="/generate",
        tag=_TGI,
        summary="Generate, then answer",
        request=GenerateRequest,
        response=GenerateResponse,
        errors=_GENERATION_ERRORS,
    ),
    Operation(
        method="post",
        path="/generate_stream",
        tag=_TGI,
        summary="Generate, and send each token as it comes",
        description=_STREAM,
        request=GenerateRequest,
        event=StreamResponse,
        errors=_GENERATION_ERRORS,
    ),
    Operation(
        method="post",
        path="/tokenize",
        tag=_TGI,
        summary="The tokens of a text",
        description="`start` and `stop` count bytes of UTF-8.",
        request=GenerateRequest,
        response=list[SimpleToken],
    ),
    Operation(method="get", path="/info", tag=_SERVER, summary="What is served, and its limits", response=Info),
    *(
        Operation(
            method="get",
            path=path,
            tag=_SERVER,
            summary="Whether requests can be served",
            errors=(503,),
            protected=False,
        )
        for path in ("/", "/health", "/ping")
    ),
    Operation(
        method="get",
        path="/health/live",
        tag=_SERVER,
        summary="Whether the server lives, and how its engine is",
        description="200 while the engine is away, too: it is started again.",
        response=Liveness,
        protected=False,
    ),
    Operation(
        method="get",
        path="/streams/{id}",
        tag=_SERVER,
        summary="Go on with a stream whose connection was lost",
        description="What follows the event in `Last-Event-ID`, all that is kept without it; "
        "an id is forgotten when nobody has read for some time. Who reads before is cut off. "
        "429: the process that had the stream died, and there is no room to go on now; come back.",
        event=dict[str, Any],
        errors=(404, 422, 429),
        parameters=(
            Parameter(name="id", place="path", description="`X-Stream-Id` of the answer that the stream began with."),
            Parameter(
                name="Last-Event-ID",
                place="header",
                pattern=r"^[0-9]{1,18}$",
                description="Number in the last `id:` line that came.",
            ),
        ),
    ),
    Operation(method="get", path="/metrics", tag=_SERVER, summary="Prometheus metrics", media_type="text/plain"),
)


def document(version: str) -> bytes:
    """The document as JSON."""
    operations = [*OPERATIONS, *OPENAI_OPERATIONS]
    types: dict[Any, Any] = {}  # in order, each once
    for operation in operations:
        for kind in (operation.request, operation.response, operation.event, operation.error or ErrorResponse):
            if kind is not None:
                types[kind] = None
    schemas, components = msgspec.json.schema_components(list(types), ref_template="#/components/schemas/{name}")
    types = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, types)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "headwater",
                "description": "StreamRegistry text from a transformer, token by token.",
                "version": version,
                "license": {"name": "Apache 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            },
            "paths": paths,
            "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        }
    )


def _operation(operation: Operation, types: dict[Any, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    if operation.response is not None:
        answer["application/json"] = {"schema": types[operation.response]}
    if operation.event is not None:
        answer["text/event-stream"] = {"schema": _event(types[operation.event])}
    if operation.media_type is not None:
        answer[operation.media_type] = {"schema": {"type": "string"}}
    described: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": {
            "200": {"description": "OK", **({"content": answer} if answer else {})},
            **_errors(operation, types),
        },
    }
    if operation.description:
        described["description"] = operation.description
    if parameters := [*operation.parameters, *((RESUMABLE,) if operation.method == "post" and operation.event else ())]:
        described["parameters"] = [_parameter(parameter) for parameter in parameters]
    if operation.request is not None:
        content = {"application/json": {"schema": types[operation.request]}}
        described["requestBody"] = {"required": True, "content": content}
    if operation.protected:
        described["security"] = [{"key": []}, {}]  # only if the server was given a key
    return described


def _event(schema: dict[str, Any]) -> dict[str, Any]:
    """Of one event; OpenAPI before 3.2 has no word for a stream of them."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    return {"type": "object", "required": ["data"], "properties": {"data": data, "id": {"type": "string"}}}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema = {"type": "string", **({"pattern": parameter.pattern} if parameter.pattern else {})}
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": schema,
    }


def _errors(operation: Operation, types: dict[Any, Any]) -> dict[str, Any]:
    """An error is JSON; where the request could not be read, TGI's routes answer with plain text instead."""
    statuses: Iterable[int] = {
        *operation.errors,
        *(_BODY_ERRORS if operation.request is not None else ()),
        *((401,) if operation.protected else ()),
    }
    as_json = {"application/json": {"schema": types[operation.error or ErrorResponse]}}
    as_text = {"text/plain": {"schema": {"type": "string"}}}
    found = {}
    for status in sorted(statuses):
        content: dict[str, Any] = {}
        if operation.error is not None or status in operation.errors:
            content |= as_json
        if operation.error is None and status in _BODY_ERRORS:
            content |= as_text
        found[str(status)] = {"description": HTTPStatus(status).phrase, **({"content": content} if content else {})}
    return found
