"""Fields that constrain an answer: OpenAI's and vLLM's reach the engine, or are refused by name; none is dropped."""

import json
from pathlib import Path
from typing import Any

import pytest

from headwater.engine.messages import Grammar

from ..conftest import ApiServer, run_api_server
from .wire import CHAT, COMPLETIONS, EOS, HI, connection, refused

SCHEMA = {"properties": {"a": {"type": "integer"}}}
CLOSED = Grammar("json_schema", '{"properties":{"a":{"type":"integer"}},"type":"object","additionalProperties":false}')
REGEX = {"type": "regex", "value": "a"}
ROUTES = pytest.mark.parametrize("route", [CHAT, COMPLETIONS])


def body(route: str, **fields: Any) -> dict[str, Any]:
    return ({"messages": HI} if route == CHAT else {"prompt": "Hi"}) | fields


@ROUTES
@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, CLOSED),
        ({"guided_json": SCHEMA}, CLOSED),
        ({"guided_json": '{"properties": {"a": {"type": "integer"}}}'}, CLOSED),
        ({"guided_regex": "a+"}, Grammar("regex", "a+")),
        ({"guided_choice": ["yes", 'a "b"\n']}, Grammar("lark", r'start: "yes" | "a \"b\"\n"')),
        ({"structured_outputs": {"json": SCHEMA, "whitespace_pattern": None}}, CLOSED),
        ({"structured_outputs": {"regex": "a+", "json": None}}, Grammar("regex", "a+")),
        ({"structured_outputs": {"choice": ["a"]}}, Grammar("lark", 'start: "a"')),
        ({"structured_outputs": {"json_object": True}}, Grammar("json_schema", '{"type":"object"}')),
        (
            {"structured_outputs": {"json": SCHEMA, "disable_fallback": True, "disable_additional_properties": True}},
            CLOSED,
        ),
        (
            {"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}},
            Grammar("json_schema", '{"x-guidance":{"whitespace_pattern":""},' + CLOSED.text[1:]),
        ),
        ({"structured_outputs": {}}, None),
        ({"structured_outputs": None, "guided_json": None, "guided_grammar": None}, None),
    ],
)
def test_constraints_reach_the_engine(chat: ApiServer, route: str, fields: dict[str, Any], grammar: Any) -> None:
    (submit,), response = connection(chat, route, body(route, **fields), "x")
    assert response.status == 200
    assert submit.sampling.grammar == grammar
    response.read()


@ROUTES
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"guided_grammar": "root ::= x"}, "`guided_grammar` is not supported"),
        ({"guided_whitespace_pattern": " *"}, "`guided_whitespace_pattern` is not supported"),
        (
            {"structured_outputs": {"whitespace_pattern": " *"}},
            "`structured_outputs.whitespace_pattern` is not supported",
        ),
        ({"structural_tag": {"x": 1}}, "`structural_tag` is not supported"),
        ({"structured_outputs": {"grammar": "root ::= x"}}, "`structured_outputs.grammar` is not supported"),
        ({"structured_outputs": {"choice": "a"}}, "`structured_outputs.choice` is not supported, or not in this form"),
        ({"guided_choice": []}, "a choice needs texts"),
        ({"guided_choice": ["a"], "guided_regex": "a"}, "only one of guided_regex, guided_choice can hold"),
        ({"guided_json": SCHEMA, "response_format": {"type": "json_object"}}, "only one of response_format, guided_j"),
        ({"stop_token_ids": [1, 258]}, "`stop_token_ids` must be < 258"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"strict": True, "schema": {"uniqueItems": True}},
                }
            },
            "`uniqueItems` at # cannot be held with `strict`",
        ),
    ],
)
def test_what_cannot_be_held_is_refused_by_name(
    chat: ApiServer, route: str, fields: dict[str, Any], message: str
) -> None:
    status, error = refused(chat, route, body(route, **fields))
    assert (status, error["code"]) == (422, "validation")
    assert message in error["message"]


@ROUTES
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_schema_loses_is_said_in_a_header(chat: ApiServer, route: str, stream: bool) -> None:
    fields = {"guided_json": {"items": {"not": {}}, "uniqueItems": True}, "stream": stream}
    _, response = connection(chat, route, body(route, **fields), "x")
    assert response.getheader("x-grammar-loosened") == "not, uniqueItems"
    response.read()
    _, response = connection(chat, route, body(route, guided_json=SCHEMA, stream=stream), "x")
    assert response.getheader("x-grammar-loosened") is None
    response.read()


def test_grammars_can_be_switched_off(tmp_path: Path, chat_dir: Path) -> None:
    with run_api_server(tmp_path, chat_dir, disable_grammar_support=True) as server:
        for route in (CHAT, COMPLETIONS):
            status, error = refused(server, route, body(route, guided_regex="a"))
            assert (status, error["message"]) == (422, "Input validation error: grammar is not supported")
        response, data = server.request("POST", "/generate", {"inputs": "a", "parameters": {"grammar": REGEX}})
        assert (response.status, json.loads(data)["error"]) == (422, "Input validation error: grammar is not supported")


def test_on_native_routes_too(chat: ApiServer) -> None:
    grammar = {"type": "json", "value": {"items": {}, "uniqueItems": True}}
    for route in ("/generate", "/generate_stream"):
        fields = {"inputs": "Hi", "parameters": {"grammar": grammar, "max_new_tokens": 5}}
        (submit,), response = connection(chat, route, fields, "x")
        assert response.getheader("x-grammar-loosened") == "uniqueItems"
        assert submit.sampling.grammar == Grammar("json_schema", '{"items":{},"type":"array"}')
        response.read()


@ROUTES
def test_more_tokens_that_end_a_text(chat: ApiServer, route: str) -> None:
    (submit,), response = connection(chat, route, body(route, stop_token_ids=[7, 9]), "x")
    assert submit.sampling.stop_token_ids == (EOS, 7, 9)
    response.read()
    (submit,), response = connection(chat, route, body(route, stop_token_ids=[7], ignore_eos=True), "x")
    assert submit.sampling.stop_token_ids == (7,)
    response.read()
