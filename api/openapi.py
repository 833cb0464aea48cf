"""The OpenAPI 3.1 document, made from the table of routes and the Structs that they decode and encode."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from .http.error_body import ErrorResponse
from .http.routing import Parameter, Route

_BODY_ERRORS = (400, 408, 413, 415, 422)  # of every route with a body: it could not be read


def document(routes: Sequence[Route], version: str, root_path: str = "") -> bytes:
    """The document as JSON; routes without a tag are left out, ``root_path`` stands before all others."""
    listed = [route for route in routes if route.tag]
    types: dict[Any, Any] = {}  # in order, each once
    for route in listed:
        for kind in (*_requests(route), route.response, route.event, route.error or ErrorResponse):
            if kind is not None:
                types[kind] = None
    schemas, components = msgspec.json.schema_components(list(types), ref_template="#/components/schemas/{name}")
    types = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in listed:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, types)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "headwater",
                "description": "Streams text from a transformer, token by token.",
                "version": version,
                "license": {"name": "Apache 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            },
            **({"servers": [{"url": root_path}]} if root_path else {}),
            "paths": paths,
            "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        }
    )


def _requests(route: Route) -> tuple[Any, ...]:
    return route.request if isinstance(route.request, tuple) else (route.request,)


def _operation(route: Route, types: dict[Any, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    if route.response is not None:
        answer["application/json"] = {"schema": types[route.response]}
    if route.event is not None:
        answer["text/event-stream"] = {"schema": _event(types[route.event])}
    answer |= {media_type: {"schema": {"type": "string"}} for media_type in route.media_types}
    described: dict[str, Any] = {
        "tags": [route.tag],
        "summary": route.summary,
        "responses": {
            "200": {"description": "OK", **({"content": answer} if answer else {})},
            **_errors(route, types),
        },
    }
    if route.description:
        described["description"] = route.description
    if route.parameters:
        described["parameters"] = [_parameter(parameter) for parameter in route.parameters]
    if route.request is not None:
        schemas = [types[kind] for kind in _requests(route)]
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        content = {"application/json": {"schema": schema, "example": route.example}}
        described["requestBody"] = {"required": True, "content": content}
    if route.protected:
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


def _errors(route: Route, types: dict[Any, Any]) -> dict[str, Any]:
    """An error is JSON; where the request could not be read, TGI's routes answer with plain text instead."""
    statuses = {
        *route.errors,
        *(_BODY_ERRORS if route.request is not None else ()),
        *((401,) if route.protected else ()),
    }
    as_json = {"application/json": {"schema": types[route.error or ErrorResponse]}}
    as_text = {"text/plain": {"schema": {"type": "string"}}}
    found = {}
    for status in sorted(statuses):
        content: dict[str, Any] = {}
        if route.error is not None or status in route.errors:
            content |= as_json
        if route.error is None and status in _BODY_ERRORS:
            content |= as_text
        found[str(status)] = {"description": HTTPStatus(status).phrase, **({"content": content} if content else {})}
    return found
