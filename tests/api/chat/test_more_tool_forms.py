"""Calls of the further families: each form's own text cut everywhere, the grammar that binds it, its template."""

import json
from typing import Any, get_args

import pytest
from tokenizers import Tokenizer

from headwater.api.chat.conversation import with_short_ids
from headwater.api.chat.part import Part, PartParser
from headwater.api.chat.tools.formats import ToolFormat
from headwater.api.chat.tools.forms import FORMS, tool_format
from headwater.api.chat.tools.grammar import call_grammar
from headwater.api.chat.tools.json_calls import COMMAND, COMMAND_R, GRANITE, HERMES, JSON, MISTRAL, PHI4
from headwater.api.chat.tools.named_calls import DEEPSEEK_V3, DEEPSEEK_V31, GLM4, MISTRAL_ARGS
from headwater.api.chat.tools.pythonic_calls import PYTHONIC
from headwater.api.chat.tools.tagged_calls import GLM, QWEN_CODER
from headwater.api.chat.tools.tool_code import TOOL_CODE
from headwater.api.config import ToolCallParserName

from ..conftest import byte_tokenizer
from .tools import accepts, joined

SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "clock": {"type": "object", "properties": {}, "additionalProperties": False},
}
ARGUMENTS = '{"city": "Zürich \\"x\\"", "days": 3}'
WANT = [("weather", {"city": 'Zürich "x"', "days": 3}), ("clock", {})]
CALL = f'{{"name": "weather", "arguments": {ARGUMENTS}}}'

# Of each form: two calls as its models write them, and what may be a special token in that.
BEGIN, END, SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
CASES: dict[str, tuple[ToolFormat, str, tuple[str, ...]]] = {
    "granite": (GRANITE, f'<|tool_call|>[{CALL}, {{"name": "clock", "arguments": {{}}}}]', ("<|tool_call|>",)),
    "phi4": (PHI4, f'<|tool_call|>[{CALL}, {{"name": "clock", "arguments": {{}}}}]<|/tool_call|>',
             ("<|tool_call|>", "<|/tool_call|>")),
    "command": (COMMAND, f'<|START_ACTION|>[{{"tool_call_id": "0", "tool_name": "weather", "parameters": {ARGUMENTS}}},'
                ' {"tool_call_id": "0", "tool_name": "clock", "parameters": {}}]<|END_ACTION|>',
                ("<|START_ACTION|>", "<|END_ACTION|>")),
    "mistral": (MISTRAL_ARGS, f"[TOOL_CALLS]weather[ARGS]{ARGUMENTS}[TOOL_CALLS]clock[ARGS]{{}}",
                ("[TOOL_CALLS]", "[ARGS]")),
    "deepseek v3": (DEEPSEEK_V3, f"<｜tool▁calls▁begin｜>{BEGIN}function{SEPARATOR}weather\n```json\n{ARGUMENTS}\n```"
                    f"{END}{BEGIN}function{SEPARATOR}clock\n```json\n{{}}\n```{END}<｜tool▁calls▁end｜>",
                    ("<｜tool▁calls▁begin｜>", BEGIN, SEPARATOR, END, "<｜tool▁calls▁end｜>")),
    "deepseek v3.1": (DEEPSEEK_V31, f"<｜tool▁calls▁begin｜>{BEGIN}weather{SEPARATOR}{ARGUMENTS}{END}"
                      f"{BEGIN}clock{SEPARATOR}{{}}{END}<｜tool▁calls▁end｜>",
                      ("<｜tool▁calls▁begin｜>", BEGIN, SEPARATOR, END, "<｜tool▁calls▁end｜>")),
    "qwen coder": (QWEN_CODER, '<tool_call>\n<function=weather>\n<parameter=city>\nZürich "x"\n</parameter>\n'
                   "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>\n"
                   "<tool_call>\n<function=clock>\n</function>\n</tool_call>", ("<tool_call>", "</tool_call>")),
    "glm": (GLM, '<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Zürich "x"</arg_value>\n'
            "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>clock\n</tool_call>",
            ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")),
    "glm-4": (GLM4, f"weather\n{ARGUMENTS}<|assistant|>clock\n{{}}", ("<|assistant|>",)),
    "command r": (COMMAND_R, f'Action: ```json\n[{{"tool_name": "weather", "parameters": {ARGUMENTS}}},'
                  ' {"tool_name": "clock", "parameters": {}}]\n```', ()),
    "tool code": (TOOL_CODE, '```tool_code\nweather(city="Zürich \\"x\\"", days=3)\nclock()\n```', ()),
    "pythonic": (PYTHONIC, '[weather(city="Zürich \\"x\\"", days=3), clock()]', ()),
}  # fmt: skip
WRONG = {name: text.replace("weather", "wetter") for name, (_, text, _) in CASES.items()}

Found = tuple[str, list[tuple[str, Any]]]


def found_in(parts: list[Part]) -> Found:
    _, text, calls = joined(parts)
    return text, [(name, json.loads(arguments)) for name, arguments in calls]


def read(parser: PartParser, cut: list[str]) -> Found:
    return found_in([part for piece in cut for part in parser.feed(piece)] + parser.flush())


def read_special(parser: PartParser, text: str, marks: tuple[str, ...]) -> Found:
    """Every mark as a special token, the rest character by character."""
    found: list[Part] = []
    while text:
        mark = next((mark for mark in marks if text.startswith(mark)), None)
        found += parser.feed(text[0]) if mark is None else parser.feed_special(mark)
        text = text[len(mark or text[0]) :]
    return found_in(found + parser.flush())


def parser_of(name: str, *, parallel: bool = True) -> PartParser:
    return CASES[name][0].parser(SCHEMAS, only_calls=False, parallel=parallel)


@pytest.mark.parametrize("name", CASES)
def test_calls_are_found_however_the_text_is_cut(name: str) -> None:
    _, text, marks = CASES[name]
    for at in range(len(text) + 1):
        assert read(parser_of(name), [text[:at], text[at:]]) == ("", WANT)
    for size in (1, 2, 5):
        assert read(parser_of(name), [text[at : at + size] for at in range(0, len(text), size)]) == ("", WANT)
    assert read_special(parser_of(name), text, marks) == ("", WANT)


@pytest.mark.parametrize("name", CASES)
def test_text_before_calls_is_text_and_plain_text_is_nothing_else(name: str) -> None:
    if name not in ("pythonic", "glm-4"):  # there calls are all of the answer
        assert read(parser_of(name), list("I look. " + CASES[name][1])) == ("I look. ", WANT)
    plain = "Let me [see]: 1 < 2, {x} <tool> ok"
    assert read(parser_of(name), list(plain)) == (plain, [])
    assert read(parser_of(name), [plain]) == (plain, [])


@pytest.mark.parametrize("name", CASES)
def test_one_call_where_more_are_not_wanted(name: str) -> None:
    assert read(parser_of(name, parallel=False), list(CASES[name][1])) == ("", WANT[:1])


@pytest.mark.parametrize("name", CASES)
def test_a_call_of_what_is_not_offered_is_text(name: str) -> None:
    text, calls = read(parser_of(name), list(WRONG[name]))
    assert "wetter" in text
    assert [name for name, _ in calls] in ([], ["clock"])


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("pythonic", "tool code")])
def test_arguments_leave_as_they_are_written(name: str) -> None:
    parser, text = parser_of(name), CASES[name][1]
    begun = text[: text.index("Zür") + 3]
    pieces = [part.arguments for character in begun for part in parser.feed(character)]
    assert "".join(pieces).endswith("Zür")


@pytest.mark.parametrize("as_tokens", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_grammar_takes_these_calls_and_nothing_else(name: str, as_tokens: bool) -> None:
    form, text, marks = CASES[name]
    tokenizer: Tokenizer = byte_tokenizer()
    if as_tokens:
        tokenizer.add_tokens(list(marks))
    several = call_grammar(form, SCHEMAS, tokenizer.token_to_id, parallel=True)
    assert accepts(several, text, tokenizer)
    for wrong in ("", "Sure", WRONG[name], text.replace("3", "x")):
        assert not accepts(several, wrong, tokenizer)
    assert not accepts(call_grammar(form, SCHEMAS, tokenizer.token_to_id, parallel=False), text, tokenizer)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("<tool_call> <function=f>", QWEN_CODER),
        ("<tool_call> <arg_key>", GLM),
        ("<tool_call>", HERMES),
        ("[TOOL_CALLS] [ARGS]", MISTRAL_ARGS),
        ("[TOOL_CALLS]", MISTRAL),
        ("<｜tool▁calls▁begin｜> ```json", DEEPSEEK_V3),
        ("<｜tool▁calls▁begin｜>", DEEPSEEK_V31),
        ("<|START_ACTION|>", COMMAND),
        ("<|tool_call|>", GRANITE),
        ("<|tool|>", PHI4),
        ("在调用上述函数时，请使用 Json 格式表示调用的参数。", GLM4),
        ("Write 'Action:' followed by ... \"tool_name\": title", COMMAND_R),
        ("```tool_code", TOOL_CODE),
        ("[func_name1(params_name1=", PYTHONIC),
        ("<|python_tag|>", JSON),
        ("", JSON),
    ],
)
def test_the_form_is_that_of_the_template(template: str, form: ToolFormat) -> None:
    assert tool_format(template) is form


def test_every_name_of_the_flag_has_a_form_and_overrides_the_template() -> None:
    assert {name for form in FORMS for name in form.names} == set(get_args(ToolCallParserName))
    assert tool_format("<tool_call>", "pythonic") is PYTHONIC
    assert tool_format("[TOOL_CALLS]", "mistral") is MISTRAL
    assert tool_format("[TOOL_CALLS][ARGS]", "mistral") is MISTRAL_ARGS


def test_a_line_is_a_call_only_with_arguments_behind_it_and_does_not_wait_for_its_end() -> None:
    for text in ("weather\nis nice", "weather\n", "clock", "\nHello\nthere"):
        assert read(parser_of("glm-4"), list(text)) == (text, [])
    parser = parser_of("glm-4")
    assert [parser.feed(piece) for piece in ("\nWe", "ll")] == [[Part("\nWe")], [Part("ll")]]


def test_code_may_print_what_it_calls_and_other_code_is_text() -> None:
    block = "So:\n```tool_code\nprint(clock())\n```\nDone."
    assert read(parser_of("tool code"), list(block)) == ("So:\n\nDone.", [("clock", {})])
    for text in (
        "```tool_code\nx = 1\n```",
        "```tool_code\n```",
        "```tool_code\nwetter()\n``` so",
        "```tool_code\nclo",
    ):
        assert read(parser_of("tool code"), list(text)) == (text, [])


def test_a_pretty_list_of_actions() -> None:
    text = 'Action: ```json\n[\n    {\n        "tool_name": "clock",\n        "parameters": {}\n    }\n]\n```'
    assert read(parser_of("command r"), list(text)) == ("", [("clock", {})])


def test_ids_are_such_as_the_template_wants() -> None:
    call = {"id": "call_0123", "function": {"name": "f", "arguments": {}}}
    messages = [
        {"role": "assistant", "tool_calls": [call, call | {"id": "abcdefghi"}]},
        {"role": "tool", "tool_call_id": "call_0123", "content": "x"},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "y"},
    ]
    assert with_short_ids(messages, "{{ bos_token }}") == messages
    first, *results = with_short_ids(messages, "{%- if tool_call.id|length != 9 %}")
    short = first["tool_calls"][0]["id"]
    assert len(short) == 9
    assert short.isalnum()
    assert [result["tool_call_id"] for result in results] == [short, "abcdefghi"]
    assert first["tool_calls"][1]["id"] == "abcdefghi"
