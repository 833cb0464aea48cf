"""Tools: what the model is told and bound to, and the calls found in what it writes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer

from headwater.api.openai.tools.formats import (
    HERMES,
    JSON,
    MISTRAL,
    ToolFormat,
    call_grammar,
    text_or_call_grammar,
    tool_format,
)
from headwater.api.openai.tools.parser import ToolParser
from headwater.engine.messages import Grammar

from ..conftest import ApiServer, byte_tokenizer
from .wire import CHAT, HI, connection, ids, joined, refused, streamed, whole

SCHEMA = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer"}},
    "required": ["city"],
    "$defs": {"city": {"type": "string", "enum": ["Zürich", "Oslo"]}},
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "weather_map"}},
]
NAMES = frozenset(["weather", "weather_map"])
ARGUMENTS = '{"city": "Zürich", "days": 3}'
CALL = '{"name": "weather", "arguments": ' + ARGUMENTS + "}"
MAP = '{"name": "weather_map", "arguments": {}}'


def tagged(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


def read(text: str, form: ToolFormat, sizes: list[int], **how: Any) -> tuple[str, list[tuple[str, str]]]:
    """Text and calls of an answer that comes in pieces of these sizes, over and over."""
    parser = ToolParser(form, NAMES, **{"only_calls": False, "parallel": True, **how})
    found = []
    position = turn = 0
    while position < len(text):
        size = sizes[turn % len(sizes)]
        found += parser.feed(text[position : position + size])
        position, turn = position + size, turn + 1
    found += parser.flush()
    calls: list[list[str]] = []
    for one in found:
        if one.name is not None:
            calls.append([one.name, ""])
        elif one.arguments:
            calls[-1][1] += one.arguments
    assert parser.calls == len(calls)
    return "".join(one.text for one in found), [(name, arguments) for name, arguments in calls]


W, M = ("weather", ARGUMENTS), ("weather_map", "{}")


@pytest.mark.parametrize(
    ("form", "text", "want"),
    [
        (HERMES, "Let me <look>. " + tagged(CALL, MAP), ("Let me <look>. ", [W, M])),
        (HERMES, tagged(CALL) + "\nDone.", ("Done.", [W])),
        (HERMES, tagged('{"arguments": {"days": 3}, "name": "weather"}'), ("", [("weather", '{"days":3}')])),
        (HERMES, tagged('{"function": {"name": "weather_map", "arguments": "{}"}}'), ("", [M])),
        (HERMES, tagged('{"name": "weather", "arguments": {"a": "}\\"{", "b": [{}]}}'),
         ("", [("weather", '{"a": "}\\"{", "b": [{}]}')])),
        (HERMES, "x <tool_call>\n" + CALL[:50], ("x ", [("weather", ARGUMENTS[:17])])),
        # Not calls: the text is as it was written.
        (HERMES, "a <tool_cal", ("a <tool_cal", [])),
        (HERMES, "a <tool_call>\n{\"na", ("a <tool_call>\n{\"na", [])),
        (HERMES, tagged('{"name": "unknown", "arguments": {}}') + "!",
         (tagged('{"name": "unknown", "arguments": {}}') + "!", [])),
        (HERMES, tagged("[1, 2]"), (tagged("[1, 2]"), [])),
        (HERMES, tagged("{bad}"), (tagged("{bad}"), [])),
        (HERMES, "Plain { text }", ("Plain { text }", [])),
        (JSON, CALL.replace("arguments", "parameters"), ("", [W])),
        (JSON, "\n" + CALL + "\n" + MAP, ("", [W, M])),
        (JSON, '{"type": "function", "name": "weather_map", "parameters": {}}', ("", [M])),
        (JSON, '{"city": "Oslo"} as JSON', ('{"city": "Oslo"} as JSON', [])),
        (JSON, " [1, 2]", (" [1, 2]", [])),
        (JSON, "A call: " + CALL, ("A call: " + CALL, [])),
        (MISTRAL, f"[TOOL_CALLS] [{CALL}, {MAP}]", ("", [W, M])),
        (MISTRAL, "[TOOL", ("[TOOL", [])),
        (MISTRAL, f"[{CALL}] [TOOL_CALLS]", (f"[{CALL}] [TOOL_CALLS]", [])),
        (MISTRAL, f" \n[TOOL_CALLS][{CALL}][TOOL_CALLS] [{MAP}]", (" \n", [W, M])),
    ],
)  # fmt: skip
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_calls_are_found_however_the_text_is_cut(
    form: ToolFormat, text: str, want: tuple[str, list[tuple[str, str]]], sizes: list[int]
) -> None:
    assert read(text, form, sizes) == want


def test_one_call_where_more_are_not_wanted() -> None:
    assert read(tagged(CALL, MAP), HERMES, [4], parallel=False) == ("", [W])


LLAMA = CALL.replace("arguments", "parameters")


@pytest.mark.parametrize("only_calls", [False, True])
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(
    ("form", "opening", "rest"),
    [
        (HERMES, "<tool_call>", f"\n{CALL}\n</tool_call>"),
        (MISTRAL, "[TOOL_CALLS]", f" [{CALL}]"),
        (MISTRAL, "[TOOL_CALLS]", f"[{CALL}]"),
        (JSON, "<|python_tag|>", LLAMA),
        (JSON, "", LLAMA),
    ],
)
def test_a_call_is_found_whatever_its_opening_is_made_of(
    form: ToolFormat, opening: str, rest: str, special: bool, only_calls: bool
) -> None:
    """The opening as a special token and as plain text, in one piece and cut at every character."""
    written = rest if special else opening + rest
    for cut in range(len(written)):
        parser = ToolParser(form, NAMES, only_calls=only_calls, parallel=True)
        found = parser.feed_special(opening) if special and opening else []
        found += [*parser.feed(written[:cut]), *parser.feed(written[cut:]), *parser.flush()]
        assert "".join(one.text for one in found) == ""
        assert [one.name for one in found if one.name is not None] == ["weather"]
        assert "".join(one.arguments for one in found) == ARGUMENTS


def test_an_answer_of_nothing_but_calls() -> None:
    assert read(f"[{CALL}, {MAP}]", MISTRAL, [5], only_calls=True) == ("", [W, M])
    assert read(CALL + "\n" + MAP, JSON, [5], only_calls=True) == ("", [W, M])


@pytest.mark.parametrize(
    ("source", "form"),
    [("{{ '<tool_call>' }}", HERMES), ("[TOOL_CALLS]", MISTRAL), ("<|python_tag|>", JSON), ("nothing", JSON)],
)
def test_the_form_is_that_of_the_template(source: str, form: ToolFormat) -> None:
    assert tool_format(source) is form


def accepts(grammar: str, text: str, tokenizer: Tokenizer) -> bool:
    """Whether the grammar takes the text, and allows it to end there."""
    guide = LLTokenizer(tokenizer.to_str(), eos_token=257)
    assert not LLMatcher.validate_grammar(grammar, guide)
    matcher = LLMatcher(guide, grammar)
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


SCHEMAS: dict[str, dict[str, object]] = {"weather": SCHEMA, "weather_map": {"type": "object", "properties": {}}}
WRONG = [
    '{"name": "weather", "arguments": {"city": "Rome"}}',
    '{"name": "other", "arguments": {}}',
    '{"name": "weather"}',
]


@pytest.mark.parametrize(("form", "key"), [(HERMES, "arguments"), (MISTRAL, "arguments"), (JSON, "parameters")])
@pytest.mark.parametrize("as_tokens", [False, True])
def test_a_grammar_takes_calls_and_nothing_else(form: ToolFormat, key: str, as_tokens: bool) -> None:
    def written(*calls: str) -> str:
        texts = [call.replace("arguments", key) for call in calls]
        if form is HERMES:
            return tagged(*texts)
        return f"[TOOL_CALLS] [{', '.join(texts)}]" if form is MISTRAL else "\n".join(texts)

    tokenizer = byte_tokenizer()
    if as_tokens:
        tokenizer.add_special_tokens(["<tool_call>", "[TOOL_CALLS]"])
        tokenizer.add_tokens(["</tool_call>"])
    several = call_grammar(form, SCHEMAS, tokenizer.token_to_id, parallel=True)
    one = call_grammar(form, SCHEMAS, tokenizer.token_to_id, parallel=False)
    for call in (CALL, MAP):
        assert accepts(several, written(call), tokenizer)
        assert accepts(one, written(call), tokenizer)
    assert accepts(several, written(CALL, MAP, CALL), tokenizer)
    assert not accepts(one, written(CALL, MAP), tokenizer)
    for text in ("", "Sure", *map(written, WRONG)):
        assert not accepts(several, text, tokenizer)


def test_a_grammar_that_binds_only_once_a_call_has_begun() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<tool_call>", "</tool_call>"])
    grammar = call_grammar(HERMES, SCHEMAS, tokenizer.token_to_id, parallel=True, text_first=True)
    for text in ("", "Grüezi! {", "First: " + tagged(CALL, MAP) + " so."):
        assert accepts(grammar, text, tokenizer)
    for wrong in WRONG:
        assert not accepts(grammar, "First: " + tagged(wrong), tokenizer)


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
