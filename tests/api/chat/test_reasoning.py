"""Thoughts in what a model writes, in each form and cut everywhere; grammars that bind what follows them."""

from typing import get_args

import pytest
from tokenizers import Tokenizer

from headwater.api.chat.conversation import Prompt
from headwater.api.chat.harmony import HARMONY_CALLS, HarmonyParser, harmony_grammar, in_final_channel
from headwater.api.chat.part import Part, PartParser, TextParser
from headwater.api.chat.reasoning import (
    FORMATS,
    GRANITE,
    HARMONY,
    MISTRAL,
    SEED,
    THINK,
    THINK_BEGUN,
    ReasoningFormat,
    ReasoningParser,
    Thinking,
    thinking_of,
)
from headwater.api.chat.tools.grammar import text_or_call_grammar
from headwater.api.chat.tools.json_calls import HERMES
from headwater.api.chat.tools.json_calls import MISTRAL as MISTRAL_CALLS
from headwater.api.config import ReasoningParserName
from headwater.api.text.grammar import (
    LARK_HEAD,
    RegexGrammar,
    choice_grammar,
    grammar_rule,
    request_grammar,
    schema_grammar,
)
from headwater.engine.messages import Grammar

from ..conftest import byte_tokenizer
from .tools import ARGUMENTS, CALL, NAMES, SCHEMAS, Found, W, accepts, joined, tagged

MARKS = ("<think>", "</think>", "[THINK]", "[/THINK]", "[TOOL_CALLS]")
HARMONY_MARKS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>")


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def read(parser: PartParser, cut: list[str]) -> Found:
    found = [part for piece in cut for part in parser.feed(piece)]
    return joined(found + parser.flush())


def read_with_special(parser: PartParser, text: str, marks: tuple[str, ...]) -> Found:
    """The same with every mark as a special token, the rest character by character."""
    found: list[Part] = []
    while text:
        mark = next((mark for mark in marks if text.startswith(mark)), None)
        found += parser.feed(text[0]) if mark is None else parser.feed_special(mark)
        text = text[len(mark or text[0]) :]
    return joined(found + parser.flush())


CASES: list[tuple[ReasoningFormat, bool, str, Found]] = [
    (THINK, False, "<think>\nhm, 1 < 2\n</think>\n\nTen.", ("hm, 1 < 2", "Ten.", [])),
    (THINK, False, "\n<think>a\n\nb </think>Ten. ", ("a\n\nb", "Ten. ", [])),
    (THINK, True, "hm\n</think>\n\nTen.", ("hm", "Ten.", [])),
    (THINK, True, "<think>\nhm</think>Ten.", ("hm", "Ten.", [])),  # the model opens them once more
    (THINK, True, "</think>\n\nTen.", ("", "Ten.", [])),
    (THINK, False, "<think>\n\n</think>\n\nTen.", ("", "Ten.", [])),
    (THINK, False, "Ten.", ("", "Ten.", [])),
    (THINK, False, "  <thi", ("", "  <thi", [])),
    (THINK, False, "Ten <think> is a tag</think>.", ("", "Ten <think> is a tag</think>.", [])),
    (THINK, False, "<think>\nnever said </thin", ("never said </thin", "", [])),
    (THINK, False, "", ("", "", [])),
    (THINK_BEGUN, True, "hm</think>Ten.", ("hm", "Ten.", [])),
    (MISTRAL, False, "[THINK]hm [1][/THINK]Ten.", ("hm [1]", "Ten.", [])),
    (SEED, False, "<seed:think>hm</seed:think>Ten.", ("hm", "Ten.", [])),
    (GRANITE, False, "Here is my thought process:\nhm\n\nHere is my response:\nTen.", ("hm", "Ten.", [])),
    (GRANITE, False, "Here's my thought process: hm. Here's my response: Ten.", ("hm.", "Ten.", [])),
    (GRANITE, False, "Here is my answer.", ("", "Here is my answer.", [])),
]  # fmt: skip


@pytest.mark.parametrize(("form", "begun", "text", "want"), CASES)
def test_thoughts_are_found_however_the_text_is_cut(form: ReasoningFormat, begun: bool, text: str, want: Found) -> None:
    def parser() -> PartParser:
        return ReasoningParser(Thinking(form, begun), TextParser())

    for at in range(len(text) + 1):
        assert read(parser(), [text[:at], text[at:]]) == want
    for size in (1, 2, 3, 7):
        assert read(parser(), pieces(text, size)) == want
    if "<think> is a tag" not in text:  # a special token opens thoughts wherever it stands
        assert read_with_special(parser(), text, MARKS) == want


def test_calls_behind_thoughts_are_calls_and_those_inside_are_thoughts() -> None:
    text = f"<think>\nI could {tagged(CALL)}\n</think>\n\n{tagged(CALL)}"
    for size in (1, 2, 5, len(text)):
        tools = HERMES.parser(SCHEMAS, only_calls=True, parallel=True)
        parser = ReasoningParser(Thinking(THINK, begun=False), tools)
        assert read(parser, pieces(text, size)) == (f"I could {tagged(CALL)}", "", [W])
        assert parser.calls == 1


def test_the_token_of_a_call_ends_thoughts_that_nobody_closed() -> None:
    tools = MISTRAL_CALLS.parser(SCHEMAS, only_calls=False, parallel=True)
    parser = ReasoningParser(Thinking(MISTRAL, begun=False), tools)
    assert read_with_special(parser, f"[THINK]hm[TOOL_CALLS][{CALL}]", MARKS) == ("hm", "", [W])


def test_what_is_thought_is_known_token_by_token() -> None:
    parser = ReasoningParser(Thinking(THINK, begun=False), TextParser())
    states = []
    for piece in ("<think>", "hm", "</think>", "Ten."):
        parser.feed(piece)
        states.append(parser.thinking)
    assert states == [True, True, False, False]


HARMONY_CASES: list[tuple[str, Found]] = [
    ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Ten.<|return|>",
     ("hm", "Ten.", [])),
    ("<|channel|>final<|message|>Ten < 11.", ("", "Ten < 11.", [])),
    ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.weather "
     '<|constrain|>json<|message|>{"city": "Oslo"}<|call|>', ("hm", "", [("weather", '{"city": "Oslo"}')])),
    ("<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>{}<|call|>",
     ("", "", [("weather", "{}")])),
    ("<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.weather_map"
     "<|message|>{}<|call|>", ("", "I look.", [("weather_map", "{}")])),
    ("<|channel|>commentary to=functions.other<|message|>{}<|call|>", ("", "{}", [])),
    ("<|channel|>analysis<|message|>cut o", ("cut o", "", [])),
    ("Ten.", ("", "Ten.", [])),
]  # fmt: skip


@pytest.mark.parametrize(("text", "want"), HARMONY_CASES)
def test_channels_are_told_apart_however_the_text_is_cut(text: str, want: Found) -> None:
    for at in range(len(text) + 1):
        assert read(HarmonyParser(NAMES, parallel=True), [text[:at], text[at:]]) == want
    assert read(HarmonyParser(NAMES, parallel=True), list(text)) == want
    assert read_with_special(HarmonyParser(NAMES, parallel=True), text, HARMONY_MARKS) == want


def test_one_call_in_a_channel_where_more_are_not_wanted() -> None:
    call = "<|channel|>commentary to=functions.weather<|message|>{}<|call|><|start|>assistant"
    assert read(HarmonyParser(NAMES, parallel=False), [call, call]) == ("", "", [("weather", "{}")])


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ '<|channel|>' }} {{ '<|message|>' }} </think>", HARMONY),
        ("[THINK] [/THINK]", MISTRAL),
        ("<think> </think>", THINK),
        ("content.split('</think>')", THINK),
        ("<seed:think></seed:think>", SEED),
        ("Here is my thought process: Here is my response:", GRANITE),
        ("<|im_start|>", None),
    ],
)
def test_the_form_is_that_of_the_template(template: str, form: ReasoningFormat | None) -> None:
    found = thinking_of(Prompt("Hi", template))
    assert (found and found.form) is form


@pytest.mark.parametrize(
    ("prompt", "continued", "begun"),
    [
        ("Hi\nassistant\n", "", False),
        ("Hi\nassistant\n<think>\n", "", True),
        ("Hi\nassistant\n<think>\nhm, so", "<think>\nhm, so", True),
        ("Hi\nassistant\n<think>\nhm</think>\nSo", "<think>\nhm</think>\nSo", None),
        ("Hi\nassistant\nSo", "So", False),
        ("Is <think> a tag?\nassistant\n", "", False),
        ("Hi\nassistant\n<think>\n\n</think>\n\n", "", None),
    ],
)
def test_the_prompt_says_whether_thoughts_have_begun_or_are_over(
    prompt: str, continued: str, begun: bool | None
) -> None:
    found = thinking_of(Prompt(prompt, "<think></think>", continued))
    assert (found and found.begun) == begun


def test_every_name_of_the_flag_has_one_form_and_overrides_the_template() -> None:
    names = [name for form in FORMATS for name in form.names]
    assert sorted(names) == sorted(get_args(ReasoningParserName))
    assert thinking_of(Prompt("Hi", "[THINK][/THINK]"), "qwen3") == Thinking(THINK, begun=False)
    assert thinking_of(Prompt("Hi", ""), "deepseek_r1") == Thinking(THINK_BEGUN, begun=True)


OBJECT = '{"a": 1}'
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize("as_tokens", [False, True])
@pytest.mark.parametrize("form", [THINK, GRANITE], ids=["think", "granite"])
def test_a_grammar_binds_what_follows_the_thoughts(form: ReasoningFormat, as_tokens: bool) -> None:
    tokenizer = byte_tokenizer()
    opening, closing = form.openings[0], form.closings[0]
    if as_tokens:
        tokenizer.add_tokens([opening, closing])
    bound = grammar_rule(schema_grammar(SCHEMA).grammar, "bound")
    begun, free = (
        LARK_HEAD + Thinking(form, begun=begun).grammar(tokenizer.token_to_id, "bound") + bound
        for begun in (True, False)
    )
    thoughts = f'\nhm, {{"b": <tags> {closing[:4]}\n{closing}'
    for lark, before in ((begun, thoughts), (free, opening + thoughts), (free, "")):
        for gap in ("", "\n\n") if before else ("",):
            assert accepts(lark, before + gap + OBJECT, tokenizer)
        assert not accepts(lark, before + '{"b": 1}', tokenizer)
    assert not accepts(begun, OBJECT, tokenizer)
    assert not accepts(begun, thoughts + "\n\n\n" + OBJECT, tokenizer)


def harmony_tokenizer() -> Tokenizer:
    """There <|end|> ends a message, not the text."""
    tokenizer = Tokenizer.from_str(byte_tokenizer().to_str().replace("<|end|>", "<|eos|>"))
    tokenizer.add_special_tokens(list(HARMONY_MARKS))
    return tokenizer


HARMONY_THOUGHTS = "<|channel|>analysis<|message|>hm {<|end|><|start|>assistant"


def test_a_grammar_binds_the_final_channel() -> None:
    tokenizer = harmony_tokenizer()
    said = in_final_channel(schema_grammar(SCHEMA).grammar, tokenizer.token_to_id)
    lark = LARK_HEAD + harmony_grammar(tokenizer.token_to_id, "bound") + grammar_rule(said, "bound")
    for before in ("", HARMONY_THOUGHTS, HARMONY_THOUGHTS * 2):
        assert accepts(lark, f"{before}<|channel|>final<|message|>{OBJECT}", tokenizer)
        assert not accepts(lark, f'{before}<|channel|>final<|message|>{{"b": 1}}', tokenizer)
    assert not accepts(lark, OBJECT, tokenizer)


def test_a_grammar_binds_a_call_in_a_channel_or_what_is_said() -> None:
    tokenizer = harmony_tokenizer()
    said = in_final_channel(schema_grammar(SCHEMA).grammar, tokenizer.token_to_id)
    either = text_or_call_grammar(HARMONY_CALLS, SCHEMAS, tokenizer.token_to_id, said, parallel=True)
    rule = grammar_rule(Grammar("lark", either), "bound")
    lark = LARK_HEAD + harmony_grammar(tokenizer.token_to_id, "bound") + rule
    call = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
    for before in ("", HARMONY_THOUGHTS):
        assert accepts(lark, f"{before}<|channel|>final<|message|>{OBJECT}", tokenizer)
        assert accepts(lark, f"{before}{call}{ARGUMENTS}", tokenizer)
        assert not accepts(lark, before + call + '{"city": "Rome"}', tokenizer)


def test_every_kind_of_grammar_can_be_a_rule() -> None:
    tokenizer = byte_tokenizer()
    regex = request_grammar(RegexGrammar("a/b+"))
    assert regex is not None
    for wanted, text, wrong in ((regex, "a/bb", "a/"), (choice_grammar(["yes", "no"]), "no", "nope")):
        lark = f"{LARK_HEAD}start: bound\n{grammar_rule(wanted.grammar, 'bound')}"
        assert accepts(lark, text, tokenizer)
        assert not accepts(lark, wrong, tokenizer)
