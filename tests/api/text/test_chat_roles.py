"""No message vanishes: each kind of it, with a mark of its own, is found once in the prompt of every template."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from headwater.api.chat.conversation import prompt_of
from headwater.api.chat.request import ChatRequest, Message
from headwater.api.chat.tools.choice import tools_of
from headwater.api.http.errors import ApiError
from headwater.api.text.chat_template import ChatTemplate
from headwater.api.text.chat_template_files import ChatTemplates

FILES = sorted((Path(__file__).parent / "templates").glob("*.jinja"))
TOOLS = [{"type": "function", "function": {"name": "look", "description": "d", "parameters": {"type": "object"}}}]
CALLS = [{"id": "abcdefghi", "type": "function", "function": {"name": "look", "arguments": "{}"}}]

CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "system": [{"role": "system"}, {"role": "user"}],
    "system alone": [{"role": "system"}],
    "developer": [{"role": "developer"}, {"role": "user"}],
    "system and developer": [{"role": "system"}, {"role": "developer"}, {"role": "user"}],
    "turns": [{"role": "user"}, {"role": "assistant"}, {"role": "user"}],
    "system in between": [
        {"role": "system"}, {"role": "user"}, {"role": "assistant"}, {"role": "system"}, {"role": "user"},
    ],
    "system at the end": [{"role": "user"}, {"role": "assistant"}, {"role": "user"}, {"role": "system"}],
    "developer later": [{"role": "user"}, {"role": "assistant"}, {"role": "developer"}, {"role": "user"}],
    "result": [{"role": "user"}, {"role": "assistant", "tool_calls": CALLS}, {"role": "tool"}],
    "function": [{"role": "user"}, {"role": "assistant", "tool_calls": CALLS}, {"role": "function", "name": "look"}],
    "results": [
        {"role": "user"},
        {"role": "assistant", "tool_calls": [CALLS[0], CALLS[0] | {"id": "123456789"}]},
        {"role": "tool"},
        {"role": "tool", "tool_call_id": "123456789"},
        {"role": "assistant"},
        {"role": "user"},
    ],
    "a user after a result": [
        {"role": "user"}, {"role": "assistant", "tool_calls": CALLS}, {"role": "tool"}, {"role": "user"},
    ],
}  # fmt: skip


def marked(conversation: list[dict[str, Any]]) -> tuple[list[Message], list[str]]:
    """The conversation with a text of its own in each message and call, and these texts."""
    messages, marks = [], []

    def mark() -> str:
        marks.append(f"qx{len(marks)}xq")
        return marks[-1]

    for given in conversation:
        message = Message(**{"content": None, **given})
        if message.tool_calls:
            message.tool_calls = [
                call | {"function": {"name": "look", "arguments": f'{{"at": "{mark()}"}}'}}
                for call in message.tool_calls
            ]
        else:
            message.content = mark()
        if message.role == "tool":
            message.tool_call_id = message.tool_call_id or "abcdefghi"
        messages.append(message)
    return messages, marks


def prompt(path: Path, request: ChatRequest) -> str:
    source = path.read_text("utf-8")
    template = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
    return asyncio.run(prompt_of(request, tools_of(request), ChatTemplates({"default": template}))).text


@pytest.mark.parametrize("with_tools", [False, True])
@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_message_is_in_the_prompt_once(path: Path, name: str, with_tools: bool) -> None:
    messages, marks = marked(CONVERSATIONS[name])
    request = ChatRequest(messages=messages, tools=TOOLS if with_tools else None)
    if (path.stem, name) == ("mistral", "a user after a result"):  # whose users and assistants alternate
        with pytest.raises(ApiError, match="roles must alternate"):
            prompt(path, request)
        return
    text = prompt(path, request)
    assert [text.count(mark) for mark in marks] == [1] * len(marks), text
    if "later" not in name and name not in ("system at the end", "system in between", "results"):
        places = [text.index(mark) for mark in marks]
        assert places == sorted(places), text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_tool_prompt_is_not_written_into_a_tools_output(path: Path) -> None:
    messages, marks = marked(CONVERSATIONS["result"])
    text = prompt(path, ChatRequest(messages=messages, tools=TOOLS, tool_prompt="USE THEM"))
    assert text.count("USE THEM") == 1
    assert text.index(marks[0]) < text.index("USE THEM") < text.index(marks[1])


def test_a_role_that_the_template_does_not_show_is_refused() -> None:
    path = next(path for path in FILES if path.stem == "qwen3")
    with pytest.raises(ApiError, match="knows no role 'critic'"):
        prompt(path, ChatRequest(messages=[Message("critic", "a"), Message("user", "b")]))
