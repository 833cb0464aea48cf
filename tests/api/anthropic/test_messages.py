"""/v1/messages over HTTP; every answer and event is one that the anthropic package's own types hold."""

import http.client
import json
from typing import Any

import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from pydantic import TypeAdapter

from headwater.engine.messages import Submit

from ..chat.tools import ARGUMENTS, CALL, MAP, SCHEMA, tagged
from ..conftest import ApiServer, byte_ids, run_api_server
from ..openai.wire import connection, ids

MESSAGES = "/v1/messages"
HI = [{"role": "user", "content": "Hi"}]
TOOLS = [{"name": "weather", "description": "of a city", "input_schema": SCHEMA}, {"name": "weather_map"}]
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
STOPS = {"stop_reason": "end_turn", "stop_sequence": None}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 500, "messages": HI} | fields


def whole(server: ApiServer, sent: dict[str, Any], text: str, finish: str = "eos_token") -> dict[str, Any]:
    _, response = connection(server, MESSAGES, sent, text, finish=finish)
    data = response.read()
    assert response.status == 200, data
    Message.model_validate_json(data, strict=True)
    return json.loads(data)


def streamed(server: ApiServer, sent: dict[str, Any], text: str, finish: str = "eos_token") -> list[dict[str, Any]]:
    """The events, but for the first ping."""
    _, response = connection(server, MESSAGES, sent | {"stream": True}, text, finish=finish)
    events = events_of(response)
    assert events.pop(1) == {"type": "ping"}
    for event in events:
        EVENT.validate_json(json.dumps(event), strict=True)
    return events


def events_of(response: http.client.HTTPResponse) -> list[dict[str, Any]]:
    assert (response.status, response.getheader("content-type")) == (200, "text/event-stream")
    *events, end = response.read().decode().split("\n\n")
    assert end == ""
    found = []
    for event in events:
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def joined(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks that a stream's events make up, as a whole answer has them."""
    blocks: list[dict[str, Any]] = []
    closed = -1
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks) == closed + 1
            blocks.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            assert event["index"] == len(blocks) - 1 > closed
            for key, piece in event["delta"].items():
                if key != "type":
                    blocks[-1][key] = blocks[-1].get(key, "") + piece
        elif event["type"] == "content_block_stop":
            closed = event["index"]
    assert closed == len(blocks) - 1
    for block in blocks:
        if "partial_json" in block:
            block["input"] = json.loads(block.pop("partial_json"))
    return blocks


def submitted(server: ApiServer, sent: dict[str, Any]) -> Submit:
    return connection(server, MESSAGES, sent, "x")[0][0]


def refused(server: ApiServer, sent: Any) -> tuple[int, str, str]:
    response, data = server.request("POST", MESSAGES, sent)
    answer = json.loads(data)
    assert (set(answer), answer["type"], set(answer["error"])) == ({"type", "error"}, "error", {"type", "message"})
    return response.status, answer["error"]["type"], answer["error"]["message"]


def test_a_whole_answer(chat: ApiServer) -> None:
    answer = whole(chat, body(), "Hello.")
    assert answer.pop("id").startswith("msg_")
    usage = {
        "input_tokens": len("user:Hi;assistant:") - 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 1,
        "output_tokens": 7, "output_tokens_details": {"thinking_tokens": 0},
    }  # fmt: skip
    content = [{"type": "text", "text": "Hello."}]
    assert answer == {"type": "message", "model": "m", "role": "assistant", "content": content, "usage": usage} | STOPS


def test_a_stream_says_what_a_whole_answer_says(chat: ApiServer) -> None:
    events = streamed(chat, body(), "Hello.")
    names = [event["type"] for event in events]
    deltas = ["content_block_delta"] * names.count("content_block_delta")
    assert names == [
        "message_start", "content_block_start", *deltas, "content_block_stop", "message_delta", "message_stop"
    ]  # fmt: skip
    start = events[0]["message"]
    assert (start["content"], start["stop_reason"], start["usage"]["input_tokens"]) == ([], None, 17)
    assert joined(events) == [{"type": "text", "text": "Hello."}]
    assert (events[-2]["delta"], events[-2]["usage"]["output_tokens"]) == (STOPS, 7)


def test_thoughts_are_blocks_of_their_own(thinker: ApiServer) -> None:
    text = "<think>\nhm\n</think>\n\nTen."
    answer = whole(thinker, body(), text)
    want = [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "Ten."}]
    assert answer["content"] == want
    assert answer["usage"]["output_tokens_details"]["thinking_tokens"] > 0
    assert joined(streamed(thinker, body(), text)) == want
    back = [*HI, {"role": "assistant", "content": want}, {"role": "user", "content": "Why?"}]
    submit = submitted(thinker, body(messages=back))
    assert submit.prompt_ids == ids("user:Hi;assistant:<think>hm</think>Ten.;user:Why?;assistant:")


@pytest.mark.parametrize(("kind", "shown"), [("disabled", "<think></think>"), ("enabled", ""), ("adaptive", "")])
def test_the_template_is_told_whether_to_think(thinker: ApiServer, kind: str, shown: str) -> None:
    submit = submitted(thinker, body(thinking={"type": kind, "budget_tokens": 1024}))
    assert submit.prompt_ids == ids(f"user:Hi;assistant:{shown}")
    effort = submitted(thinker, body(output_config={"effort": "max"}))
    assert effort.prompt_ids == ids("user:Hi;xhighassistant:")


def test_calls(chat: ApiServer) -> None:
    text = "I look. " + tagged(CALL, MAP)
    answer = whole(chat, body(tools=TOOLS), text)
    said, *calls = answer["content"]
    assert said == {"type": "text", "text": "I look. "}
    assert [(call["type"], call["name"], call["input"]) for call in calls] == [
        ("tool_use", "weather", json.loads(ARGUMENTS)), ("tool_use", "weather_map", {})
    ]  # fmt: skip
    assert answer["stop_reason"] == "tool_use"
    events = streamed(chat, body(tools=TOOLS), text)
    for block, want in zip(joined(events), answer["content"], strict=True):
        assert block | {"id": want.get("id")} == want | {"id": want.get("id")}
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert sum(event["type"] == "content_block_delta" for event in events) > 8  # input comes as it is written


def test_a_call_that_is_cut_off_has_no_input(chat: ApiServer) -> None:
    answer = whole(chat, body(tools=TOOLS), tagged(CALL)[:60], finish="length")
    assert (answer["content"][0]["input"], answer["stop_reason"]) == ({}, "max_tokens")


def test_calls_and_results_are_part_of_a_conversation(chat: ApiServer) -> None:
    history = [
        *HI,
        {"role": "assistant", "content": [
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "sunny"}]},
            {"type": "text", "text": "So?"},
        ]},
    ]  # fmt: skip
    submit = submitted(chat, body(messages=history, tools=TOOLS))
    shown = "user:Hi;assistant:I look.weather=Oslo;tool:sunny;user:So?;assistant:"
    assert bytes_of(submit).endswith(shown)


def test_tools_reach_the_template(chat: ApiServer) -> None:
    submit = submitted(chat, body(tools=[TOOLS[0] | {"strict": True}]))
    function = {"name": "weather", "description": "of a city", "parameters": SCHEMA, "strict": True}
    assert json.loads(bytes_of(submit).splitlines()[0]) == {"type": "function", "function": function}


def bytes_of(submit: Submit) -> str:
    by_id = {byte_ids(bytes([byte]))[0]: byte for byte in range(256)}
    return bytes(by_id[token] for token in submit.prompt_ids).decode()


def test_the_systems_text_and_a_beginning_of_the_answer(chat: ApiServer) -> None:
    begun = [*HI, {"role": "assistant", "content": "The best answer is ("}]
    submit = submitted(chat, body(system=[{"type": "text", "text": "Be brief"}], messages=begun))
    assert submit.prompt_ids == ids("system:Be brief;user:Hi;assistant:The best answer is (")
    assert submitted(chat, body(system="Be brief")).prompt_ids == ids("system:Be brief;user:Hi;assistant:")


def test_parameters_reach_the_engine(chat: ApiServer) -> None:
    sampling = submitted(chat, body(max_tokens=9, temperature=0.5, top_k=3, top_p=0.9)).sampling
    assert (sampling.max_new_tokens, sampling.temperature, sampling.top_k, sampling.top_p) == (9, 0.5, 3, 0.9)


def test_the_stop_sequence_is_told(chat: ApiServer) -> None:
    answer = whole(chat, body(stop_sequences=["\n\n", "END"]), "Hello. END of it")
    assert answer["content"] == [{"type": "text", "text": "Hello. "}]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "END")
    while not chat.peer.inbox.empty():
        chat.peer.aborted()


@pytest.mark.parametrize(
    ("choice", "bound", "called"),
    [
        ({"type": "auto"}, False, True),
        ({"type": "none"}, False, False),
        ({"type": "any"}, True, True),
        ({"type": "any", "disable_parallel_tool_use": True}, True, True),
        ({"type": "tool", "name": "weather_map"}, True, True),
    ],
)
def test_the_choice_of_tools(chat: ApiServer, choice: dict[str, Any], bound: bool, called: bool) -> None:
    sent = body(tools=TOOLS, tool_choice=choice)
    grammar = submitted(chat, sent).sampling.grammar
    assert (grammar is not None) == bound
    if grammar is not None and choice["type"] == "tool":
        assert "weather_map" in grammar.text
        assert '"weather\\"' not in grammar.text
    answer = whole(chat, sent, tagged(MAP))
    assert any(block["type"] == "tool_use" for block in answer["content"]) == called


def test_an_answer_of_a_given_form(chat: ApiServer) -> None:
    wanted = {"format": {"type": "json_schema", "schema": SCHEMA}}
    grammar = submitted(chat, body(output_config=wanted)).sampling.grammar
    assert grammar is not None
    assert (grammar.kind, json.loads(grammar.text)["required"]) == ("json_schema", ["city"])


def test_tokens_are_counted_without_generating(chat: ApiServer) -> None:
    sent = {"model": "m", "messages": HI, "system": "Be brief"}
    response, data = chat.request("POST", f"{MESSAGES}/count_tokens", sent)
    assert response.status == 200
    counted = MessageTokensCount.model_validate_json(data, strict=True)
    assert counted.input_tokens == len("system:Be brief;user:Hi;assistant:")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "`image` is not supported"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x",
                                                     "content": [{"type": "image"}]}]}]}, "`image`"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "`text` is missing"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        ({"tool_choice": {"type": "tool"}, "tools": TOOLS}, "`name`"),
        ({"tool_choice": {"type": "any"}}, "tools"),
        ({"output_config": {"format": {"type": "grammar"}}}, "output_config.format"),
        ({"output_config": {"effort": "huge"}}, "reasoning_effort"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)  # fmt: skip
def test_refusals(chat: ApiServer, fields: dict[str, Any], named: str) -> None:
    status, kind, message = refused(chat, body(**fields))
    assert (status, kind) == (422, "invalid_request_error")
    assert named in message


def test_a_body_that_cannot_be_read_is_refused_in_its_form(chat: ApiServer) -> None:
    assert refused(chat, b"{")[:2] == (400, "invalid_request_error")
    status, kind, message = refused(chat, {"model": "m", "messages": HI})
    assert (status, kind) == (422, "invalid_request_error")
    assert "max_tokens" in message


def test_what_fails_after_the_first_token_is_an_event(chat: ApiServer) -> None:
    pending = chat.begin(MESSAGES, body(stream=True))
    submit = chat.peer.submitted()
    chat.peer.send(submit.request_id, ids("He"))
    response = pending.getresponse()
    chat.peer.fail(submit.request_id, "no memory", "generation")
    *_, error = events_of(response)
    assert (error["type"], error["error"]["type"]) == ("error", "api_error")
    assert "no memory" in error["error"]["message"]


def test_the_key_may_come_in_anthropics_header(tmp_path: Any, chat_dir: Any) -> None:
    with run_api_server(tmp_path, chat_dir, api_key="secret") as server:
        json_type = {"content-type": "application/json"}
        for headers, status in (({"x-api-key": "secret"}, 200), ({"x-api-key": "wrong"}, 401), ({}, 401)):
            sent = {"model": "m", "messages": HI}
            response, data = server.request("POST", f"{MESSAGES}/count_tokens", sent, json_type | headers)
            assert response.status == status, data
        assert json.loads(data)["error"]["type"] == "authentication_error"
