"""Forms of tool calls: found in what a model writes, bound by grammars."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.api.chat.tools.formats import ToolFormat
from headwater.api.chat.tools.forms import tool_format
from headwater.api.chat.tools.grammar import call_grammar
from headwater.api.chat.tools.json_calls import HERMES, JSON, MISTRAL

from ..conftest import byte_tokenizer
from .tools import ARGUMENTS, CALL, MAP, SCHEMAS, WRONG, M, W, accepts, joined, tagged


def read(text: str, form: ToolFormat, sizes: list[int], **how: Any) -> tuple[str, list[tuple[str, str]]]:
    """Text and calls of an answer that comes in pieces of these sizes, over and over."""
    parser = form.parser(SCHEMAS, **{"only_calls": False, "parallel": True, **how})
    found = []
    position = turn = 0
    while position < len(text):
        size = sizes[turn % len(sizes)]
        found += parser.feed(text[position : position + size])
        position, turn = position + size, turn + 1
    found += parser.flush()
    _, said, calls = joined(found)
    assert parser.calls == len(calls)
    return said, calls


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
        parser = form.parser(SCHEMAS, only_calls=only_calls, parallel=True)
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
