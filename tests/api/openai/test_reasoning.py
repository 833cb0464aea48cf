"""Thoughts over HTTP: apart from the text, whole and streamed, counted, and never bound."""

import json
from pathlib import Path
from typing import Any

import msgspec

from ..chat.tools import ARGUMENTS, CALL, TOOLS, tagged
from ..conftest import ApiServer, EnginePeer, run_api_server
from .wire import CHAT, HI, connection, ids, joined, streamed, whole

THOUGHT = "<think>\nhm\n</think>\n\nTen."


def body(**fields: Any) -> dict[str, Any]:
    return {"messages": HI} | fields


def test_a_whole_answer(thinker: ApiServer) -> None:
    answer = whole(thinker, CHAT, body(), THOUGHT)
    (choice,) = answer["choices"]
    assert choice["message"] == {
        "role": "assistant", "content": "Ten.", "reasoning_content": "hm", "reasoning": "hm"
    }  # fmt: skip
    assert choice["finish_reason"] == "stop"
    # Its tokens are bytes: those up to the closing mark, and whatever made it sure that thoughts had begun.
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": len("<think>\nhm\n</think>") - 6}


def test_a_stream_says_what_a_whole_answer_says(thinker: ApiServer) -> None:
    events = streamed(thinker, CHAT, body(stream_options={"include_usage": True}), THOUGHT)
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm"
    assert [delta.get("reasoning") for delta in deltas] == [delta.get("reasoning_content") for delta in deltas]
    assert joined(events) == "Ten."
    assert events[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"] == 13


def test_an_answer_that_is_cut_off_in_its_thoughts(thinker: ApiServer) -> None:
    (choice,) = whole(thinker, CHAT, body(), "<think>\nhm, so", finish="length")["choices"]
    assert (choice["message"]["content"], choice["message"]["reasoning"]) == (None, "hm, so")
    assert choice["finish_reason"] == "length"


def test_a_prompt_that_opens_the_thoughts_or_closes_them(thinker: ApiServer) -> None:
    opened = whole(thinker, CHAT, body(chat_template_kwargs={"open": True}), "hm</think>Ten.")["choices"][0]
    assert (opened["message"]["reasoning"], opened["message"]["content"]) == ("hm", "Ten.")
    closed = whole(thinker, CHAT, body(chat_template_kwargs={"enable_thinking": False}), "Ten.")
    assert closed["choices"][0]["message"] == {"role": "assistant", "content": "Ten."}
    assert "completion_tokens_details" not in closed["usage"]


def test_an_effort_is_the_templates(thinker: ApiServer) -> None:
    (high,), _ = connection(thinker, CHAT, body(reasoning_effort="high"), "x")
    assert high.prompt_ids == ids("user:Hi;highassistant:")
    (none,), _ = connection(thinker, CHAT, body(reasoning_effort="none"), "x")
    assert none.prompt_ids == ids("user:Hi;noneassistant:<think></think>")
    response, data = thinker.request("POST", CHAT, body(reasoning_effort="huge"))
    assert (response.status, json.loads(data)["error"]["param"]) == (422, "reasoning_effort")


def test_calls_follow_thoughts(thinker: ApiServer) -> None:
    text = f"<think>I could {tagged(CALL)}</think>\n{tagged(CALL)}"
    (choice,) = whole(thinker, CHAT, body(tools=TOOLS), text)["choices"]
    assert choice["message"]["reasoning"] == f"I could {tagged(CALL)}"
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["weather"]
    assert choice["finish_reason"] == "tool_calls"


def test_a_grammar_binds_only_what_follows(thinker: ApiServer) -> None:
    wanted = body(guided_choice=["yes", "no"])
    (free,), _ = connection(thinker, CHAT, wanted, "x")
    assert free.sampling.grammar is not None
    assert 'start: (("<think>") thoughts)? gap bound' in free.sampling.grammar.text
    assert 'bound: "yes" | "no"' in free.sampling.grammar.text
    (closed,), _ = connection(thinker, CHAT, wanted | {"reasoning_effort": "none"}, "x")
    assert closed.sampling.grammar is not None
    assert closed.sampling.grammar.text == 'start: "yes" | "no"'


def test_a_flag_names_the_form(tmp_path: Path, chat_dir: Path) -> None:
    hello = msgspec.structs.replace(EnginePeer.hello, max_total_tokens=2048)
    with run_api_server(tmp_path, chat_dir, hello, reasoning_parser="mistral") as server:
        (choice,) = whole(server, CHAT, body(), "[THINK]hm[/THINK]Ten.")["choices"]
        assert (choice["message"]["reasoning"], choice["message"]["content"]) == ("hm", "Ten.")


OWN = {
    "start_anchor": "assistant:",
    "fields": {
        "reasoning_content": {"open": "<hm>", "close": "</hm>"},
        "tool_calls": {
            "open_pattern": r"@(?P<name>\w+)",
            "close": ";",
            "content": "json",
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {},
    },
}


def served(tmp_path: Path, chat_dir: Path, response_template: object) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    for file in chat_dir.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps(config | {"response_template": response_template}))
    return path


def test_a_checkpoint_says_itself_how_its_answers_are_read(tmp_path: Path, chat_dir: Path) -> None:
    hello = msgspec.structs.replace(EnginePeer.hello, max_total_tokens=2048)
    with run_api_server(tmp_path, served(tmp_path, chat_dir, OWN), hello) as server:
        text = f"<hm>so</hm> Ten. @weather {ARGUMENTS};"
        answer = whole(server, CHAT, body(tools=TOOLS), text)
        (choice,) = answer["choices"]
        assert (choice["message"]["content"], choice["message"]["reasoning"]) == ("Ten.", "so")
        assert [call["function"]["arguments"] for call in choice["message"]["tool_calls"]] == [ARGUMENTS]
        assert choice["finish_reason"] == "tool_calls"
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
        events = streamed(server, CHAT, body(tools=TOOLS), text)
        assert joined(events) == "Ten."
        # What a grammar makes the model write has the form that the grammar knows.
        (choice,) = whole(server, CHAT, body(tools=TOOLS, tool_choice="required"), tagged(CALL))["choices"]
        assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["weather"]


def test_a_flag_overrides_what_a_checkpoint_says(tmp_path: Path, chat_dir: Path) -> None:
    with run_api_server(tmp_path, served(tmp_path, chat_dir, OWN), reasoning_parser="qwen3") as server:
        (choice,) = whole(server, CHAT, body(), "<think>so</think>Ten. <hm>")["choices"]
        assert (choice["message"]["content"], choice["message"]["reasoning"]) == ("Ten. <hm>", "so")
