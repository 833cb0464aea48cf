"""A checkpoint's own response_template: read as transformers reads it, whole and cut at every position."""

import json
from typing import Any

import pytest
from transformers.utils.chat_parsing import parse_response

from headwater.api.chat.part import Part
from headwater.api.chat.response_parser import ResponseParser
from headwater.api.text.response_template import read_response_template

from .tools import ARGUMENTS, CALL, MAP, SCHEMAS, TOOLS, M, W, joined, tagged

THOUGHTS = {"open": "<think>", "close": "</think>"}
QWEN: dict[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": THOUGHTS,
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"\s*(?:<\|im_end\|>|<\|endoftext\|>)"},
    },
}
CODER: dict[str, Any] = {
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": THOUGHTS,
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>\s*<function=(?P<name>[^>\n]+)>",
            "close_pattern": r"</function>\s*</tool_call>",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>"},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close": "<|im_end|>"},
    },
}
GEMMA: dict[str, Any] = {
    "start_anchor": ["<|turn>model\n", "<tool_response|>"],
    "fields": {
        "thinking": {"open": "<|channel>thought\n", "close": "<channel|>"},
        "tool_calls": {
            "open_pattern": r"<\|tool_call>call:(?P<name>\w+)",
            "close": "<tool_call|>",
            "repeats": True,
            "content": "json",
            "content_args": {"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close": ["<turn|>", "<|tool_response>"]},
    },
}
NAMED: dict[str, Any] = {
    "start_anchor_pattern": "[AI]:",
    "fields": {
        "tool_calls": {
            "open_pattern": r"\[CALL (?P<f>\w+)\]",
            "close_pattern": r"\[/CALL\]|$",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": {"name": "{f}", "arguments": "{content}"}},
        },
        "reasoning": {"open": "(", "close": ")", "repeats": True, "join": " | "},
        "confidence": {"open": "%", "close": "%", "content": "float"},
        "content": {"content_args": {"strip": False}},
    },
}
LISTED: dict[str, Any] = {
    "start_anchor": "A:",
    "fields": {
        "tool_calls": {
            "open": ["<calls>", "<calls>!"],
            "close": "</calls>",
            "content": "json",
            "transform_each": True,
            "transform": {"function": {"name": "{tool.name}", "arguments": "{tool.with}"}},
        },
        "content": {"open": "<say>", "close": "</say>", "content": "json", "transform": "{content.text}"},
    },
}
LINES: dict[str, Any] = {
    "start_anchor": "A:",
    "fields": {
        "tool_calls": {
            "open_pattern": r"CALL (?P<name>\w+)\n",
            "close": "END",
            "content": "kv-lines",
            "content_args": {"kv_sep": "=", "value_parser": {"name": "json", "args": {"allow_non_json": True}}},
            "transform": [{"function": {"name": "{name}", "arguments": "{content}"}}],
        },
        "content": {},
    },
}
TAGS = "<tool_call>\n<function=weather>\n<parameter=city>\nZürich\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
CASES = [
    (QWEN, "<|im_start|>assistant\n", "<think>\nhm, 1 < 2\n</think>\n\nTen. <b>\n<|im_end|>\n<|endoftext|>"),
    (QWEN, "<|im_start|>assistant\n", f"Look: {tagged(CALL, MAP)}<|im_end|>"),
    (QWEN, "<|im_start|>assistant\n<think>\n", "hm</think>\n\nTen.<|im_end|>"),
    (QWEN, "Hi <think><|im_start|>assistant\n<think>\n\n</think>\n\n", f"<tool_call>{CALL}</tool_call>"),
    (QWEN, "no sign of a beginning<think>", "hm</think>Ten."),
    (CODER, "<|im_start|>assistant\n", f"So.\n{TAGS}</function>\n</tool_call><|im_end|>"),
    (GEMMA, "<|turn>model\n", "<|channel>thought\nhm<channel|>"
     '<|tool_call>call:weather{city:<|"|>Zürich<|"|>,days:3}<tool_call|><turn|>'),
    (NAMED, "AI:", f"(one) said(two)[CALL weather]{ARGUMENTS}[/CALL]%0.5%"),
    (NAMED, "AI:", f"[CALL weather] {ARGUMENTS} "),
    (LISTED, "A:", '<say>{"text": "Ten."}</say><calls>![{"tool": {"name": "weather_map", "with": {}}}]</calls>'),
    (LINES, "A:", "CALL weather\ncity = Oslo\ndays=3\nEND"),
]  # fmt: skip


def read(template: dict[str, Any], prompt: str, cut: list[str], **how: Any) -> dict[str, Any]:
    """The message that a parser finds, as transformers has it."""
    parser = ResponseParser(read_response_template(template), prompt, SCHEMAS, **{"parallel": True, **how})
    parts = [part for piece in cut for part in parser.feed(piece)] + parser.flush()
    return message_of(parts)


def message_of(parts: list[Part]) -> dict[str, Any]:
    thoughts, text, calls = joined(parts)
    message = {"content": text, "thoughts": thoughts, "calls": [(name, json.loads(said)) for name, said in calls]}
    return {key: value for key, value in message.items() if value}


def expected(template: dict[str, Any], prompt: str, text: str) -> dict[str, Any]:
    message = parse_response(text, template, prefix=prompt, tools=TOOLS)
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", [])]
    thoughts = [message[name] for name in ("reasoning_content", "reasoning", "thinking") if name in message]
    found = {"content": message.get("content"), "thoughts": "".join(thoughts), "calls": calls}
    return {key: value for key, value in found.items() if value}


@pytest.mark.parametrize(("template", "prompt", "text"), CASES)
def test_a_message_is_what_transformers_reads_however_it_is_cut(
    template: dict[str, Any], prompt: str, text: str
) -> None:
    want = expected(template, prompt, text)
    assert want
    for at in range(len(text) + 1):
        assert read(template, prompt, [text[:at], text[at:]]) == want, at
    for size in (1, 2, 5):
        assert read(template, prompt, [text[at : at + size] for at in range(0, len(text), size)]) == want


def parts_of(template: dict[str, Any], pieces: list[str]) -> list[list[Part]]:
    parser = ResponseParser(read_response_template(template), "", SCHEMAS, parallel=True)
    return [parser.feed(piece) for piece in pieces]


def test_what_is_certain_leaves_at_once() -> None:
    said = parts_of(QWEN, ["<think>", "hm", ", so", "</think>", "Ten", ". <", "b>"])
    assert said == [
        [],
        [Part(reasoning="hm")],
        [Part(reasoning=", so")],
        [],
        [Part("Ten")],
        [Part(".")],
        [Part(" <b>")],
    ]
    call = parts_of(QWEN, ["<tool_call>", CALL[:-3], "3"])
    assert call[1] == [Part(name="weather"), Part(arguments=ARGUMENTS[:-2])]
    named = parts_of(NAMED, ["[CALL weather]", "x", ARGUMENTS[:9], ARGUMENTS[9:]])
    assert named[2] == [Part(arguments=ARGUMENTS[:9].rstrip())]


def test_special_tokens_are_marks_or_nothing() -> None:
    parser = ResponseParser(read_response_template(GEMMA), "", SCHEMAS, parallel=True)
    parts = parser.feed("Ten")
    for token, text in (("<unused>", "."), ("<|tool_call>", "call:weather{city:"), ('<|"|>', "Oslo"), ('<|"|>', "}"),
                        ("<tool_call|>", ""), ("<eos>", "")):  # fmt: skip
        parts += parser.feed_special(token) + parser.feed(text)
    assert message_of(parts + parser.flush()) == {"content": "Ten.", "calls": [("weather", {"city": "Oslo"})]}


def test_what_is_no_call_is_the_text_that_was_written() -> None:
    for template, text in (
        (QWEN, '<tool_call>{"name": "other", "arguments": {}}</tool_call>'),
        (QWEN, "<tool_call>{bad}</tool_call>"),
        (QWEN, '<tool_call>{"na'),
        (CODER, "<tool_call>\n<function=other>\n</function>\n</tool_call>"),
        (GEMMA, "<|tool_call>call:weather{city:}<tool_call|>"),
    ):
        assert read(template, "", list(text)) == {"content": text}


def test_without_tools_a_call_is_text_and_one_is_all_where_more_are_not_wanted() -> None:
    text = f"<tool_call>{CALL}</tool_call><tool_call>{MAP}</tool_call>"
    assert read(QWEN, "", [text], parallel=False) == {"calls": [(W[0], json.loads(W[1]))]}
    parser = ResponseParser(read_response_template(QWEN), "", None, parallel=True)
    assert message_of(parser.feed(text) + parser.flush()) == {"content": text}


def test_text_around_a_call_stays() -> None:
    """Where transformers keeps the last region of a field, which no stream can do."""
    text = f"One.<tool_call>{MAP}</tool_call>Two."
    assert read(QWEN, "", list(text)) == {"content": "One.Two.", "calls": [(M[0], {})]}


def test_values_are_of_the_types_that_the_schema_has() -> None:
    numbers = CODER | {"fields": CODER["fields"] | {"content": {}}}
    text = TAGS.replace("3", "3.0") + "</function></tool_call>"
    want = {"calls": [("weather", {"city": "Zürich", "days": 3})]}
    assert expected(numbers, "", text) == read(numbers, "", [text]) == want


def test_a_pattern_that_takes_too_long_makes_the_rest_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.api.chat.response_parser.TIMEOUT_S", 0.01)
    slow = {"start_anchor": "A", "fields": {"reasoning": {"open_pattern": "(x+x+)+y"}, "content": {}}}
    assert read(slow, "", ["x" * 40, "!"]) == {"content": "x" * 40 + "!"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "version 2"),
        ({"fields": {}}, "no fields"),
        ({"start_anchor": None}, "start_anchor"),
        ({"surprise": 1}, "surprise"),
        ({"fields": {"content": {"close_pattern": "("}}}, "content: close"),
        ({"fields": {"content": {"content": "yaml"}}}, "yaml"),
        ({"fields": {"content": {}, "thinking": {}}}, "only one field"),
        ({"fields": {"content": {"open": "a", "open_pattern": "b"}}}, "twice"),
        ({"fields": {"content": {"join": " "}}}, "repeats"),
        ({"fields": {"content": {"transform": "{content}!"}}}, "placeholder"),
    ],
)
def test_what_is_no_template_says_why(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_response_template(QWEN | change)
