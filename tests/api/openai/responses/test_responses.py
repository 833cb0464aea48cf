"""/v1/responses over HTTP; every answer and event is one that the openai package's own types hold."""

import http.client
import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from pydantic import TypeAdapter

from headwater.engine.messages import Submit

from ...chat.tools import ARGUMENTS, CALL, MAP, SCHEMA, tagged
from ...conftest import ApiServer, byte_ids
from ..wire import answer, connection, ids, refused

RESPONSES = "/v1/responses"
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOLS = [
    {"type": "function", "name": "weather", "description": "of a city", "parameters": SCHEMA},
    {"type": "function", "name": "weather_map", "parameters": {"type": "object", "properties": {}}, "strict": False},
]


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "input": "Hi"} | fields


def valid(data: bytes) -> dict[str, Any]:
    Response.model_validate_json(data, strict=True)
    return json.loads(data)


def whole(server: ApiServer, sent: dict[str, Any], text: str, finish: str = "eos_token") -> dict[str, Any]:
    _, response = connection(server, RESPONSES, sent, text, finish=finish)
    data = response.read()
    assert response.status == 200, data
    return valid(data)


def events_of(response: http.client.HTTPResponse) -> list[dict[str, Any]]:
    """All events of a stream; with ``id`` lines, they are one more than the numbers."""
    assert (response.status, response.getheader("content-type")) == (200, "text/event-stream")
    return events_in(response.read().decode())


def events_in(text: str) -> list[dict[str, Any]]:
    *events, end = text.split("\n\n")
    assert end == ""
    found = []
    for event in events:
        *number, name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        EVENT.validate_json(data.removeprefix("data: "), strict=True)
        assert name == f"event: {found[-1]['type']}"
        assert not number or number == [f"id: {found[-1]['sequence_number'] + 1}"]
    return found


def streamed(server: ApiServer, sent: dict[str, Any], text: str, finish: str = "eos_token") -> list[dict[str, Any]]:
    events = events_of(connection(server, RESPONSES, sent | {"stream": True}, text, finish=finish)[1])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def submitted(server: ApiServer, sent: dict[str, Any]) -> Submit:
    return connection(server, RESPONSES, sent, "x")[0][0]


def shown(submit: Submit) -> str:
    """The prompt's text."""
    by_id = {byte_ids(bytes([byte]))[0]: byte for byte in range(256)}
    return bytes(by_id[token] for token in submit.prompt_ids).decode()


def names_of(events: list[dict[str, Any]]) -> list[str]:
    """Types of events, each once in a row."""
    names = [event["type"].removeprefix("response.") for event in events]
    return [name for index, name in enumerate(names) if index == 0 or name != names[index - 1]]


TEXT_EVENTS = [
    "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done",
    "output_item.done",
]  # fmt: skip


def test_a_whole_answer(chat: ApiServer) -> None:
    got = whole(chat, body(instructions="Be brief", metadata={"a": "b"}, user="me"), "Hello.")
    (item,) = got["output"]
    assert item == {
        "type": "message", "id": f"msg_{got['id'].removeprefix('resp_')}_0", "status": "completed", "role": "assistant",
        "content": [{"type": "output_text", "text": "Hello.", "annotations": [], "logprobs": []}],
    }  # fmt: skip
    assert (got["status"], got["error"], got["incomplete_details"]) == ("completed", None, None)
    assert (got["instructions"], got["metadata"], got["user"], got["model"]) == ("Be brief", {"a": "b"}, "me", "m")
    assert got["usage"] == {
        "input_tokens": 34, "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0}, "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 41,
    }  # fmt: skip


def test_events_come_in_their_order(chat: ApiServer) -> None:
    events = streamed(chat, body(), "Hello.")
    assert names_of(events) == ["created", "in_progress", *TEXT_EVENTS, "completed"]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "Hello."
    assert len(deltas) > 3
    last = events[-1]["response"]
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == last["output"]
    again = whole(chat, body(), "Hello.")
    for key in ("status", "usage", "tools", "text"):
        assert last[key] == again[key]


def test_an_answer_that_is_cut_off(chat: ApiServer) -> None:
    events = streamed(chat, body(max_output_tokens=4), "Hell", finish="length")
    got = events[-1]["response"]
    assert (events[-1]["type"], got["status"]) == ("response.incomplete", "incomplete")
    assert got["incomplete_details"] == {"reason": "max_output_tokens"}
    assert got["output"][0]["status"] == "incomplete"


def test_thoughts_text_and_calls_are_items(thinker: ApiServer) -> None:
    text = f"<think>\nhm\n</think>\n\nI look. {tagged(CALL, MAP)}"
    got = whole(thinker, body(tools=TOOLS), text)
    assert [item["type"] for item in got["output"]] == ["reasoning", "message", "function_call", "function_call"]
    thoughts, _, call, _ = got["output"]
    assert (thoughts["content"], thoughts["summary"]) == ([{"type": "reasoning_text", "text": "hm"}], [])
    assert (call["name"], call["arguments"], call["status"]) == ("weather", ARGUMENTS, "completed")
    assert got["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    events = streamed(thinker, body(tools=TOOLS), text)
    call_events = [
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"
    ]  # fmt: skip
    thought_events = [name.replace("output_text", "reasoning_text") for name in TEXT_EVENTS]
    assert names_of(events) == [
        "created", "in_progress", *thought_events, *TEXT_EVENTS, *call_events, *call_events, "completed"
    ]  # fmt: skip


HISTORY = [
    {"role": "developer", "content": [{"type": "input_text", "text": "Be brief"}]},
    {"role": "user", "content": "Hi"},
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
    {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Oslo"}'},
    {"type": "function_call", "call_id": "call_2", "name": "weather", "arguments": '{"city": "Rome"}'},
    {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
    {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "rain"}]},
]


def test_items_are_a_conversation(chat: ApiServer, thinker: ApiServer) -> None:
    text = shown(submitted(chat, body(input=HISTORY, tools=TOOLS)))
    assert text.endswith("Hi;assistant:I look.weather=Oslo;tool:sunny;assistant:weather=Rome;tool:rain;assistant:") or (
        text.endswith("Hi;assistant:I look.weather=Osloweather=Rome;tool:sunny;tool:rain;assistant:")
    )
    assert "user:Hi;assistant:<think>hm</think>I look." in shown(submitted(thinker, body(input=HISTORY[1:4])))
    refused_before = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "no"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I won't."}]},
        {"role": "user", "content": "Why?"},
    ]
    assert shown(submitted(thinker, body(input=refused_before))).startswith("assistant:<think>no</think>I won't.;user:")


def test_parameters_reach_the_engine(chat: ApiServer) -> None:
    sampling = submitted(chat, body(max_output_tokens=9, temperature=0.5, top_p=0.9, seed=7)).sampling
    assert (sampling.max_new_tokens, sampling.temperature, sampling.top_p, sampling.seed) == (9, 0.5, 0.9, 7)


def test_the_template_is_told_how_to_think(thinker: ApiServer) -> None:
    assert shown(submitted(thinker, body(reasoning={"effort": "high"}))) == "user:Hi;highassistant:"
    opened = submitted(thinker, body(chat_template_kwargs={"open": True}))
    assert shown(opened) == "user:Hi;assistant:<think>\n"


@pytest.mark.parametrize(
    ("choice", "bound"),
    [
        ("auto", False),
        ("none", False),
        ("required", True),
        ({"type": "function", "name": "weather_map"}, True),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather_map"}]}, True),
    ],
)
def test_the_choice_of_tools(chat: ApiServer, choice: Any, bound: bool) -> None:
    grammar = submitted(chat, body(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)).sampling.grammar
    assert (grammar is not None) == bound
    if grammar is not None:
        assert ('weather\\"' in grammar.text) == (choice == "required")
        assert "{0,15}" not in grammar.text


def test_an_answer_of_a_given_form(chat: ApiServer) -> None:
    form = {"type": "json_schema", "name": "report", "schema": SCHEMA, "strict": True}
    got = whole(chat, body(text={"format": form}), '{"city": "Oslo"}')
    assert got["text"] == {"format": form}
    grammar = submitted(chat, body(text={"format": form})).sampling.grammar
    assert grammar is not None
    assert (grammar.kind, json.loads(grammar.text)["required"]) == ("json_schema", ["city"])
    assert submitted(chat, body(text={"format": {"type": "json_object"}})).sampling.grammar is not None
    assert submitted(chat, body(text={"format": {"type": "text"}})).sampling.grammar is None


def test_a_response_is_gone_on_from(chat: ApiServer) -> None:
    first = whole(chat, body(instructions="Be brief"), "Hello.")
    submit = submitted(chat, body(input="And now?", previous_response_id=first["id"]))
    assert shown(submit) == "user:Hi;assistant:Hello.;user:And now?;assistant:"
    referenced = [{"role": "user", "content": "Hi"}, {"type": "item_reference", "id": first["output"][0]["id"]}]
    assert shown(submitted(chat, body(input=[*referenced, {"role": "user", "content": "?"}]))) == (
        "user:Hi;assistant:Hello.;user:?;assistant:"
    )


def test_a_response_is_kept_unless_it_must_not_be(chat: ApiServer) -> None:
    kept = whole(chat, body(), "Hello.")
    response, data = chat.request("GET", f"{RESPONSES}/{kept['id']}")
    assert (response.status, valid(data)) == (200, kept)
    response, data = chat.request("DELETE", f"{RESPONSES}/{kept['id']}")
    assert json.loads(data) == {"object": "response", "id": kept["id"], "deleted": True}
    gone = whole(chat, body(store=False), "Hello.")
    for response_id in (kept["id"], gone["id"], "resp_../../permits"):
        response, data = chat.request("GET", f"{RESPONSES}/{response_id}")
        assert (response.status, json.loads(data)["error"]["code"]) == (404, "not_found")
        status, error = refused(chat, RESPONSES, body(previous_response_id=response_id))
        assert (status, error["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "web_search_call"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input_image"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input_file"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "call_id"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "mcp"),
        ({"tools": TOOLS, "tool_choice": {"type": "file_search"}}, "file_search"),
        ({"text": {"format": {"type": "grammar"}}}, "grammar"),
        ({"include": ["file_search_call.results"]}, "file_search_call.results"),
        ({"top_logprobs": 3}, "message.output_text.logprobs"),
        ({"truncation": "auto"}, "truncation"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"conversation": "x"}, "conversation"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"moderation": {"model": "x"}}, "moderation"),
        ({"reasoning": {"effort": "huge"}}, "reasoning_effort"),
        ({"temperature": -1}, "temperature"),
    ],
)
def test_refusals(chat: ApiServer, fields: dict[str, Any], named: str) -> None:
    for more in ({}, {"stream": True}):
        status, error = refused(chat, RESPONSES, body(**fields, **more))
        assert status == 422
        assert named in error["message"]


def test_logprobs_are_those_of_the_text(thinker: ApiServer) -> None:
    sent = body(include=["message.output_text.logprobs"], top_logprobs=1)
    text = "<think>hm</think>\n\nHé."

    def run(**fields: Any) -> http.client.HTTPResponse:
        pending = thinker.begin(RESPONSES, sent | fields)
        submit = thinker.peer.submitted()
        assert (submit.sampling.top_n, submit.sampling.raw_logprobs) == (1, True)
        thinker.peer.send(submit.request_id, ids(text), "length", top=[(ids("x")[0], -0.25)])
        return pending.getresponse()

    (_, message) = valid(run().read())["output"]
    logprobs = message["content"][0]["logprobs"]
    assert "".join(one["token"] for one in logprobs) == "Hé."
    assert [byte for one in logprobs for byte in one["bytes"]] == list("Hé.".encode())
    assert logprobs[0]["top_logprobs"] == [{"token": "x", "logprob": -0.25, "bytes": [120]}]
    events = events_of(run(stream=True))
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    without_bytes = [
        {"token": one["token"], "logprob": one["logprob"], "top_logprobs": [{"token": "x", "logprob": -0.25}]}
        for one in logprobs
    ]
    assert [one for delta in deltas for one in delta["logprobs"]] == without_bytes
    assert events[-1]["response"]["output"][1]["content"] == message["content"]
    assert events[-1]["response"]["top_logprobs"] == 1


def test_the_input_is_listed_item_by_item(chat: ApiServer) -> None:
    given = [
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
    ]
    kept = whole(chat, body(input=given), "Sunny.")
    after = whole(chat, body(input="And now?", previous_response_id=kept["id"]), "Rain.")

    def page(response_id: str, query: str = "") -> dict[str, Any]:
        response, data = chat.request("GET", f"{RESPONSES}/{response_id}/input_items{query}")
        assert response.status == 200, data
        ResponseItemList.model_validate_json(data, strict=True)
        return json.loads(data)

    listed = page(kept["id"], "?order=asc")
    kinds = ["message", "reasoning", "function_call", "function_call_output"]
    assert [item["type"] for item in listed["data"]] == kinds
    assert listed["data"][0]["content"] == [{"type": "input_text", "text": "Weather?"}]
    assert (listed["data"][2]["call_id"], listed["data"][3]["output"]) == ("c1", "sunny")
    newest = page(after["id"], "?limit=2")
    assert [item["content"][0]["text"] for item in newest["data"]] == ["And now?", "Sunny."]
    assert (newest["has_more"], newest["last_id"]) == (True, newest["data"][1]["id"])
    rest = page(after["id"], f"?after={newest['last_id']}")
    assert ([item["type"] for item in rest["data"]], rest["has_more"]) == (kinds[::-1], False)
    assert page(after["id"], f"?after={rest['last_id']}") == {
        "object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False
    }  # fmt: skip
    for query, status in (("?limit=0", 422), ("?order=up", 422), ("?after=x", 422)):
        assert chat.request("GET", f"{RESPONSES}/{kept['id']}/input_items{query}")[0].status == status
    assert chat.request("GET", f"{RESPONSES}/resp_0/input_items")[0].status == 404


def test_what_fails_after_the_first_token_is_the_last_event(chat: ApiServer) -> None:
    pending = chat.begin(RESPONSES, body(stream=True))
    submit = chat.peer.submitted()
    chat.peer.send(submit.request_id, ids("He"))
    response = pending.getresponse()
    chat.peer.fail(submit.request_id, "no memory", "generation")
    *_, last = events_of(response)
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert "no memory" in last["response"]["error"]["message"]


def test_a_stream_that_survives_its_connection_has_the_same_events(chat: ApiServer) -> None:
    pending = chat.connect()
    headers = {"content-type": "application/json", "x-stream-resumable": "1"}
    pending.request("POST", RESPONSES, json.dumps(body(stream=True)), headers)
    answer(chat, chat.peer.submitted(), "Hello.")
    response = pending.getresponse()
    events = events_of(response)
    again, data = chat.request("GET", f"/streams/{response.getheader('x-stream-id')}")
    assert again.status == 200
    assert events_in(data.decode()) == events
