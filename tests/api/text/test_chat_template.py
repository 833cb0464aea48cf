"""The oracle is transformers' apply_chat_template, on templates of popular families and one of all that is left."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from headwater.api.text import chat_template
from headwater.api.text.chat_template import ChatTemplate, TemplateError
from headwater.api.text.chat_template_files import load_chat_templates
from headwater.engine.checkpoint.errors import ModelError

FILES = sorted((Path(__file__).parent / "templates").glob("*.jinja"))
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

USER = {"role": "user", "content": "  Wie spät ist es in <Zürich> & 東京 🕰️?\n"}
SYSTEM = {"role": "system", "content": "Be “brief”. "}
ANSWER = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nTen o'clock."}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "abcdefghi",
            "type": "function",
            "function": {"name": "time_in", "arguments": {"city": "Zürich", "n": [1, None, True, 0.5]}},
        }
    ],
}
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "name": "time_in", "content": "10:00 <ok>"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "time_in",
            "description": "Time in a city – as a 'text'",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Zürich", "<b>"]}, "n": {"type": "array"}},
                "required": ["city"],
            },
            "strict": True,
        },
    }
]
DOCUMENTS = [{"title": "One", "text": "a\nb"}, {"title": "Two", "text": "c", "skip": True}]

CONVERSATIONS: dict[str, dict[str, Any]] = {
    "one": {"messages": [USER]},
    "system": {"messages": [SYSTEM, USER]},
    "turns": {"messages": [USER, ANSWER, {"role": "user", "content": "And now?"}]},
    "long": {"messages": [USER, ANSWER] * 30 + [USER]},
    "no generation prompt": {"messages": [SYSTEM, USER, ANSWER], "add_generation_prompt": False},
    "reasoning": {"messages": [USER, {**ANSWER, "reasoning": "I think"}, USER]},
    "tools": {"messages": [SYSTEM, USER], "tools": TOOLS},
    "call": {"messages": [USER, CALL, RESULT], "tools": TOOLS},
    "called": {"messages": [SYSTEM, USER, CALL, RESULT, ANSWER, USER], "tools": TOOLS},
    "documents": {"messages": [USER], "documents": DOCUMENTS},
    "variables": {"messages": [USER], "enable_thinking": False, "date_string": "1 Jan 2030", "eos_token": "<hidden>"},
    "continued": {
        "messages": [USER, {"role": "assistant", "content": "It is ten"}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    },
    "continued with a space": {
        "messages": [USER, {"role": "assistant", "content": "It is ten "}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    },
}


def render(template: ChatTemplate, **conversation: Any) -> str:
    return asyncio.run(template.render(**conversation))


@pytest.fixture(scope="module")
def oracle() -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **SPECIAL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_familys_template_gives_what_transformers_gives(path: Path, oracle: Any) -> None:
    source = path.read_text("utf-8")
    template = ChatTemplate(source, SPECIAL)
    refused = []
    for name, conversation in CONVERSATIONS.items():
        given = {"add_generation_prompt": True, **conversation}
        messages = given.pop("messages")
        try:
            want = oracle.apply_chat_template(messages, chat_template=source, tokenize=False, **given)
        except Exception:
            refused.append(name)
            with pytest.raises(TemplateError):
                render(template, messages=messages, **given)
        else:
            assert render(template, messages=messages, **given) == want, name
    assert len(refused) < 6, refused  # no system role, no tools: but the rest was compared
    assert not {"one", "turns", "long", "continued"} & set(refused)


def test_a_templates_refusal_is_its_reason() -> None:
    template = ChatTemplate("{{ raise_exception('only Latin') }}", {})
    with pytest.raises(TemplateError, match=r"^Template error: only Latin$"):
        render(template, messages=[USER])


@pytest.mark.parametrize(
    "source",
    [
        "{% set r = range(100000) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ g() }}{{ g() }}{% endmacro %}{% macro g() %}{% for i in range(99999) %}{% endfor %}"
        "{% endmacro %}{% for i in range(99999) %}{{ f() }}{% endfor %}",
    ],
)
def test_a_template_that_never_ends_is_ended(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "LIMIT_S", 0.2)
    template = ChatTemplate(source, {})

    async def run() -> int:
        """Turns of the loop while the template is being rendered: it must not hold the others up."""
        turns = 0
        rendering = asyncio.ensure_future(template.render([USER]))
        while not rendering.done():
            await asyncio.sleep(0)
            turns += 1
        with pytest.raises(TemplateError, match=r"not rendered within 0\.2 s"):
            rendering.result()
        return turns

    assert asyncio.run(run()) > 1


def test_a_template_that_calls_itself_for_ever() -> None:
    with pytest.raises(TemplateError, match="recursion limit"):
        render(ChatTemplate("{% for a in [1] recursive %}{{ loop([a]) }}{% endfor %}", {}), messages=[USER])


@pytest.mark.parametrize(
    "expression",
    [
        "'x' * 10**9",
        "[1] * 99999999",
        "9**9999999",
        "range(10**9)|list",
        "''.__class__.__mro__",
        "messages.append(1)",
        "namespace(_x=1)",
        "cycler.__init__.__globals__",
        "messages[0].content.format.__self__.__class__",
    ],
)
def test_what_a_template_must_not_do(expression: str) -> None:
    try:
        text = render(ChatTemplate(f"{{{{ {expression} }}}}", {}), messages=[USER])
    except TemplateError:
        return
    assert text == ""  # the sandbox gives nothing for it


def test_a_broken_template_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{% for %}")
    templates = load_chat_templates(tmp_path)
    assert "chat_template.jinja: not a chat template: " in templates.broken["default"]
    for with_tools in (False, True):
        with pytest.raises(TemplateError, match=r"^Template error: chat_template\.jinja: not a chat template: "):
            templates.choose(with_tools=with_tools)


def test_a_response_template_that_is_none_costs_itself_only(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x", "response_template": {"a": 1}}))
    templates = load_chat_templates(tmp_path)
    assert (templates.response, templates.broken) == (None, {})
    assert templates.response_fault.startswith("response_template: Object ")


@pytest.mark.parametrize("source", [b"\xff", b"{% if %}", b"{{ 1 ", b"{% for x in y %}" * 30 + b"{% endfor %}" * 30])
def test_whatever_is_wrong_with_a_template_costs_that_template_only(tmp_path: Path, source: bytes) -> None:
    (tmp_path / "chat_template.jinja").write_text("plain")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_bytes(source)
    assert chosen(tmp_path) == "plain"
    with pytest.raises(TemplateError, match=r"tool_use\.jinja: "):
        chosen(tmp_path, with_tools=True)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "chat_template.json"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [(b"{", "Expecting property name"), (b"[]", "Expected `object`, got `array`"), (b'{"a": "\xff"}', "codec")],
)
def test_a_file_that_is_no_json_is_named(tmp_path: Path, name: str, text: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ModelError, match=re.escape(f"{tmp_path / name}: this is no JSON that can be used: ")) as raised:
        load_chat_templates(tmp_path)
    assert reason in str(raised.value)


def test_a_list_of_templates_without_names_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": [{"template": "t"}]}))
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: chat_template: .*missing required field `name`"):
        load_chat_templates(tmp_path)


def test_byte_order_marks_are_no_part_of_a_template(model_dir: Path) -> None:
    path = model_dir / "tokenizer_config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert chosen(model_dir) == "config <b>"
    (model_dir / "chat_template.jinja").write_bytes(b"\xef\xbb\xbffile")
    assert chosen(model_dir) == "file"


def test_what_cannot_be_continued() -> None:
    with pytest.raises(TemplateError, match="does not show the final message"):
        render(
            ChatTemplate("{{ messages|length }}", {}),
            messages=[USER],
            add_generation_prompt=False,
            continue_final_message=True,
        )


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    config = {"bos_token": {"content": "<b>", "lstrip": False}, "eos_token": "<e>", "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "config {{ bos_token }}"}))
    return tmp_path


def chosen(model_dir: Path, *, with_tools: bool = False) -> str:
    template = load_chat_templates(model_dir).choose(with_tools=with_tools)
    return "none" if template is None else render(template.template, messages=[USER])


def test_the_template_of_the_tokenizers_config(model_dir: Path) -> None:
    assert chosen(model_dir) == chosen(model_dir, with_tools=True) == "config <b>"


def test_files_come_before_the_config(model_dir: Path) -> None:
    (model_dir / "chat_template.json").write_text(json.dumps({"chat_template": "json {{ eos_token }}"}))
    assert chosen(model_dir) == "json <e>"
    (model_dir / "processor_config.json").write_text(json.dumps({"processor_class": "P", "chat_template": "processor"}))
    assert chosen(model_dir) == "processor"
    (model_dir / "chat_template.jinja").write_text("jinja {{ pad_token }}")
    assert chosen(model_dir) == "jinja "


def test_named_templates(model_dir: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with tools"}]
    (model_dir / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert (chosen(model_dir), chosen(model_dir, with_tools=True)) == ("plain", "with tools")
    (model_dir / "chat_template.jinja").write_text("file")
    (model_dir / "additional_chat_templates").mkdir()
    (model_dir / "additional_chat_templates" / "tool_use.jinja").write_text("tool file")
    assert (chosen(model_dir), chosen(model_dir, with_tools=True)) == ("file", "tool file")


def test_a_model_without_a_template(tmp_path: Path) -> None:
    assert chosen(tmp_path) == "none"
