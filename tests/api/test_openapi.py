"""The OpenAPI document says what the server does."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from headwater.api.openapi import document
from headwater.api.routes import ROUTES

from .conftest import ApiServer

DOCUMENT: dict[str, Any] = json.loads(document(ROUTES, "1.2.3"))


def values_of(node: Any, key: str) -> Iterator[Any]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from values_of(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from values_of(value, key)


def test_every_reference_has_its_schema() -> None:
    references = {reference for reference in values_of(DOCUMENT, "$ref") if isinstance(reference, str)}
    assert {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]} >= references
    assert len(references) > 10


def test_every_route_that_has_a_tag_is_in_it_and_nothing_else() -> None:
    documented = {(path, method.upper()) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert documented == {(route.path, route.method) for route in ROUTES if route.tag}
    for_browsers = {"/docs", "/docs/", "/openapi.json", "/api-doc/openapi.json"}
    assert all(route.path in for_browsers or route.path.startswith("/page/") for route in ROUTES if not route.tag)


@pytest.mark.parametrize("path", ["/openapi.json", "/api-doc/openapi.json"])
def test_it_is_served(server: ApiServer, path: str) -> None:
    response, data = server.request("GET", path)
    assert (response.status, response.getheader("content-type")) == (200, "application/json")
    served = json.loads(data)
    assert served["openapi"] == "3.1.0"
    assert served["paths"] == DOCUMENT["paths"]


def test_parameters_are_what_can_be_sent() -> None:
    parameters = DOCUMENT["components"]["schemas"]["GenerateParameters"]["properties"]
    assert parameters["max_new_tokens"]["anyOf"][0] == {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
    assert {"typical_p", "grammar", "logit_bias", "min_p", "top_n_tokens"} < set(parameters)
    stream = DOCUMENT["components"]["schemas"]["StreamResponse"]
    assert stream["required"] == ["index", "token"]


def test_documented_errors_of_get_routes_are_what_they_answer(server: ApiServer) -> None:
    for path, methods in DOCUMENT["paths"].items():
        if "get" in methods:
            response, _ = server.request("GET", path)
            assert str(response.status) in methods["get"]["responses"], path


def test_every_body_has_an_example_that_is_one() -> None:
    for route in ROUTES:
        if route.request is not None:
            sent = DOCUMENT["paths"][route.path]["post"]["requestBody"]["content"]["application/json"]["example"]
            kinds = route.request if isinstance(route.request, tuple) else (route.request,)
            msgspec.convert(sent, kinds[0])
            assert "What is Deep Learning?" in json.dumps(sent) or next(iter(sent)) in ("tokens", "lora_name")


def test_who_leaves_the_slash_out_is_shown_the_way(server: ApiServer) -> None:
    response, _ = server.request("GET", "/docs")
    assert (response.status, response.getheader("location")) == (303, "docs/")
