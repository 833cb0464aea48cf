"""Tools over HTTP: what the model is told and bound to, and the calls in its answers."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headwater.api.chat.tools.formats import ToolFormat
from headwater.api.chat.tools.grammar import text_or_call_grammar
from headwater.api.chat.tools.json_calls import HERMES, JSON, MISTRAL
from headwater.engine.messages import Grammar

from ..chat.tools import ARGUMENTS, CALL, MAP, SCHEMA, SCHEMAS, TOOLS, WRONG, M, W, accepts, tagged
from ..conftest import ApiServer, EnginePeer, byte_tokenizer, run_api_server
from .wire import CHAT, HI, connection, ids, joined, refused, streamed, whole


def body(**fields: Any) -> dict[str, Any]:
    return {"messages": HI, "tools": TOOLS} | fields


def calls_of(message: dict[str, Any]) -> list[tuple[str, str]]:
    return [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]


def test_a_call_in_an_answer(chat: ApiServer) -> None:
    choice = whole(chat, CHAT, body(), "I look. " + tagged(CALL, MAP))["choices"][0]
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert (message["role"], message["content"]) == ("assistant", "I look. ")
    assert calls_of(message) == [W, M]
    assert all(call["type"] == "function" and call["id"].startswith("call_") for call in message["tool_calls"])
    assert len({call["id"] for call in message["tool_calls"]}) == 2


def test_an_answer_without_a_call(chat: ApiServer) -> None:
    choice = whole(chat, CHAT, body(), "No need.")["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "No need."}
    assert choice["finish_reason"] == "stop"
    assert joined(streamed(chat, CHAT, body(), "No need.")) == "No need."


def test_calls_in_a_stream(chat: ApiServer) -> None:
    events = streamed(chat, CHAT, body(), "I look. " + tagged(CALL, MAP))
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert joined(events) == "I look. "
    pieces = [call for delta in deltas for call in delta.get("tool_calls", ())]
    first = [piece for piece in pieces if "id" in piece]
    assert [(piece["index"], piece["type"], piece["function"]) for piece in first] == [
        (0, "function", {"name": "weather", "arguments": ""}),
        (1, "function", {"name": "weather_map", "arguments": ""}),
    ]
    rest = [piece for piece in pieces if "id" not in piece]
    assert all(list(piece["function"]) == ["arguments"] for piece in rest)
    for index, arguments in enumerate([ARGUMENTS, "{}"]):
        assert "".join(piece["function"]["arguments"] for piece in rest if piece["index"] == index) == arguments
    assert len(rest) > 5  # they come as they are written
    reasons = [event["choices"][0]["finish_reason"] for event in events]
    assert reasons == [None] * (len(events) - 1) + ["tool_calls"]


def test_a_call_that_is_cut_off_ends_by_length(chat: ApiServer) -> None:
    choice = whole(chat, CHAT, body(), tagged(CALL)[:60], finish="length")["choices"][0]
    assert choice["finish_reason"] == "length"
    assert calls_of(choice["message"])[0][0] == "weather"


def test_the_template_gets_the_tools(chat: ApiServer) -> None:
    (submit,), _ = connection(chat, CHAT, body(), "x")
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in TOOLS)
    assert submit.prompt_ids == ids(f"{listed}\nUse <tool_call>.\nuser:Hi;assistant:")


def test_calls_and_results_are_part_of_a_conversation(chat: ApiServer) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
    messages = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    (submit,), _ = connection(chat, CHAT, body(messages=messages), "x")
    # A template that shows one of the arguments got an object, not its text.
    assert bytes_of(submit.prompt_ids).endswith("user:Hi;assistant:weather=Zürich;tool:rain;assistant:")
    # A template that knows nothing of calls shows them all the same.
    (submit,), _ = connection(chat, CHAT, {"messages": messages}, "x")
    assert bytes_of(submit.prompt_ids) == (
        'user:Hi;assistant:{"name":"weather","arguments":{"city":"Zürich","days":3}};tool:rain;assistant:'
    )


def bytes_of(token_ids: list[int]) -> str:
    return byte_tokenizer().decode(token_ids)


@pytest.mark.parametrize(
    ("choice", "names", "several"),
    [
        ("required", ["weather", "weather_map"], True),
        ({"type": "function", "function": {"name": "weather_map"}}, ["weather_map"], False),
        ("weather", ["weather"], False),  # TGI's short form
    ],
)
def test_a_wanted_call_is_bound_by_a_grammar(chat: ApiServer, choice: Any, names: list[str], several: bool) -> None:
    (submit,), response = connection(chat, CHAT, body(tool_choice=choice), tagged(CALL if "weather" in names else MAP))
    grammar = submit.sampling.grammar
    assert grammar is not None
    assert grammar.kind == "lark"
    for name, call in (("weather", CALL), ("weather_map", MAP)):
        assert accepts(grammar.text, tagged(call), byte_tokenizer()) == (name in names)
    assert accepts(grammar.text, tagged(CALL, MAP), byte_tokenizer()) == several
    choice = json.loads(response.read())["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")


def test_one_call_at_a_time(chat: ApiServer) -> None:
    (submit,), _ = connection(chat, CHAT, body(tool_choice="required", parallel_tool_calls=False), tagged(CALL))
    assert submit.sampling.grammar is not None
    assert not accepts(submit.sampling.grammar.text, tagged(CALL, MAP), byte_tokenizer())


@pytest.mark.parametrize("mode", ["auto", "required"])
@pytest.mark.parametrize("tool", [{"type": "function", "function": {"name": "weather"}}, {"name": "weather"}])
def test_allowed_tools_are_the_only_ones(chat: ApiServer, mode: str, tool: dict[str, Any]) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [tool]}}
    (submit,), response = connection(chat, CHAT, body(tool_choice=choice), tagged(CALL, MAP))
    message = json.loads(response.read())["choices"][0]["message"]
    assert calls_of(message) == [W]
    assert (submit.sampling.grammar is not None) == (mode == "required")
    if submit.sampling.grammar is not None:
        assert not accepts(submit.sampling.grammar.text, tagged(MAP), byte_tokenizer())


@pytest.mark.parametrize(
    "function",
    [{}, {"parameters": None}, {"parameters": {}}, {"parameters": {"type": "object", "properties": {}}},
     {"parameters": {"properties": {}}, "strict": True}],
)  # fmt: skip
def test_a_function_without_parameters_is_called_with_none(chat: ApiServer, function: dict[str, Any]) -> None:
    tools = [{"type": "function", "function": {"name": "weather_map", **function}}]
    (submit,), _ = connection(chat, CHAT, body(tools=tools, tool_choice="required"), tagged(MAP))
    assert submit.sampling.grammar is not None
    grammar = submit.sampling.grammar.text
    assert accepts(grammar, tagged(MAP), byte_tokenizer())
    assert not accepts(grammar, tagged(MAP.replace("{}", '{"a": 1}')), byte_tokenizer())


@pytest.mark.parametrize("strict", [None, False, True])
def test_arguments_are_those_that_are_listed(chat: ApiServer, strict: bool | None) -> None:
    schema = {name: value for name, value in SCHEMA.items() if name != "additionalProperties"}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": schema, "strict": strict}}]
    (submit,), _ = connection(chat, CHAT, body(tools=tools, tool_choice="required"), tagged(CALL))
    assert submit.sampling.grammar is not None
    grammar = submit.sampling.grammar.text
    assert accepts(grammar, tagged(CALL), byte_tokenizer())
    assert not accepts(grammar, tagged(CALL.replace('"days"', '"hours"')), byte_tokenizer())


def test_what_a_functions_schema_does_not_hold_is_named(chat: ApiServer) -> None:
    parameters = {"properties": {"cities": {"items": {}, "uniqueItems": True}}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    _, response = connection(chat, CHAT, body(tools=tools, tool_choice="required"), tagged(CALL))
    assert response.getheader("x-grammar-loosened") == "uniqueItems"
    tools[0]["function"]["strict"] = True  # type: ignore[index]
    status, error = refused(chat, CHAT, body(tools=tools, tool_choice="required"))
    assert (status, error["code"]) == (422, "validation")
    assert "`uniqueItems` at #/properties/cities" in error["message"]


ANSWER = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"properties": {"rain": {"type": "boolean"}},
                                                                        "required": ["rain"]}}}  # fmt: skip


@pytest.mark.parametrize(("form", "key"), [(HERMES, "arguments"), (MISTRAL, "arguments"), (JSON, "parameters")])
@pytest.mark.parametrize("as_tokens", [False, True])
@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        (Grammar("json_schema", json.dumps({"type": "object", "properties": {"rain": {"$ref": "#/$defs/b"}},
                                            "required": ["rain"], "$defs": {"b": {"type": "boolean"}}})),
         '{"rain": true}', '{"rain": 1}'),
        (Grammar("regex", "a/[0-9]+"), "a/12", "a/"),
        (Grammar("lark", 'start: "yes" | "no"'), "no", "nope"),
    ],
)  # fmt: skip
def test_an_answer_is_bound_text_or_calls(
    form: ToolFormat, key: str, as_tokens: bool, text: Grammar, right: str, wrong: str
) -> None:
    tokenizer = byte_tokenizer()
    if as_tokens:
        tokenizer.add_special_tokens(["<tool_call>", "[TOOL_CALLS]"])
        tokenizer.add_tokens(["</tool_call>"])
    grammar = text_or_call_grammar(form, SCHEMAS, tokenizer.token_to_id, text, parallel=True)
    call, other = (written.replace("arguments", key) for written in (CALL, WRONG[0]))
    if form is not JSON:
        call, other = (tagged(one) if form is HERMES else f"[TOOL_CALLS] [{one}]" for one in (call, other))
    assert accepts(grammar, right, tokenizer)
    assert accepts(grammar, call, tokenizer)
    for refused_text in (wrong, other, right + call, "Sure", ""):
        assert not accepts(grammar, refused_text, tokenizer)


def test_tools_beside_a_response_format(chat: ApiServer) -> None:
    for answer, call in (('{"rain": true}', False), (tagged(CALL), True)):
        (submit,), response = connection(chat, CHAT, body(response_format=ANSWER), answer)
        assert submit.sampling.grammar is not None
        for text in ('{"rain": true}', tagged(CALL, MAP)):
            assert accepts(submit.sampling.grammar.text, text, byte_tokenizer())
        assert not accepts(submit.sampling.grammar.text, '{"snow": true}', byte_tokenizer())
        message = json.loads(response.read())["choices"][0]["message"]
        assert (calls_of(message) if call else message["content"]) == ([W] if call else answer)
    (submit,), _ = connection(chat, CHAT, body(response_format=ANSWER, tool_choice="required"), tagged(CALL))
    assert submit.sampling.grammar is not None
    assert not accepts(submit.sampling.grammar.text, '{"rain": true}', byte_tokenizer())


def test_no_tools_wanted(chat: ApiServer) -> None:
    for fields in ({"tool_choice": "none"}, {"tools": []}, {"tools": None}):
        (submit,), response = connection(chat, CHAT, body(**fields), tagged(CALL))
        assert submit.prompt_ids == ids("user:Hi;assistant:")
        assert json.loads(response.read())["choices"][0]["message"]["content"] == tagged(CALL)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tool_choice": "other"}, "Tool error: Tool with name other not found"),
        ({"tools": [{"type": "function"}]}, "Tool error: tools[0]: Object missing required field `function`"),
        ({"tools": [{"type": "web", "function": {"name": "x"}}]}, "tools[0]: type 'web' is not supported"),
        ({"tools": [*TOOLS, {"type": "custom", "custom": {"name": "x"}}]}, "tools[2]: type 'custom' is not supported"),
        ({"tools": [], "tool_choice": "required"}, "`tool_choice` is only allowed when `tools` are specified"),
        ({"tools": None, "tool_choice": {"type": "function", "function": {"name": "weather"}}}, "is only allowed when"),
        ({"functions": [{"name": "weather"}]}, "send `tools` and `tool_choice`"),
        ({"function_call": {"name": "weather"}}, "send `tools` and `tool_choice`"),
        (
            {"tool_choice": {"type": "custom", "custom": {"name": "x"}}},
            "`tool_choice` of type 'custom' is not supported",
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"name": "other"}]}}},
            "Tool with name other not found",
        ),
    ],
)
def test_refusals(chat: ApiServer, fields: dict[str, Any], message: str) -> None:
    status, error = refused(chat, CHAT, body(**fields))
    assert (status, error["code"], error["param"]) == (422, "tool_error", "tools")
    assert message in error["message"]


def test_a_flag_names_the_form_of_calls(tmp_path: Path, chat_dir: Path) -> None:
    hello = msgspec.structs.replace(EnginePeer.hello, max_total_tokens=2048)
    with run_api_server(tmp_path, chat_dir, hello, tool_call_parser="pythonic") as server:
        (choice,) = whole(server, CHAT, body(), '[weather(city="Oslo"), weather_map()]')["choices"]
        assert calls_of(choice["message"]) == [("weather", '{"city":"Oslo"}'), ("weather_map", "{}")]
        (submit,), _ = connection(server, CHAT, body(tool_choice="required"), "[]")
        assert submit.sampling.grammar is not None
        assert '"weather("' in submit.sampling.grammar.text
