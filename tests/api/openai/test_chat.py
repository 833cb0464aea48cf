"""/v1/chat/completions over HTTP: the real server process, the engine played by the test."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headwater.api.chat.request import ChatRequest

from ..conftest import ApiServer, read_event, run_api_server
from .wire import CHAT, EOS, HI, answer, connection, events_of, ids, joined, streamed, whole


def test_a_whole_answer(chat: ApiServer) -> None:
    body = {"messages": HI, "model": "any/model", "max_tokens": 8, "user": "someone", "unknown": 1}
    (submit,), response = connection(chat, CHAT, body, "Hé!")
    assert submit.prompt_ids == ids("user:Hi;assistant:")  # nothing around it: the template has written all
    data = response.read()
    completion = json.loads(data)
    assert completion.pop("id").startswith("chatcmpl-")
    assert abs(completion.pop("created") - time.time()) < 100
    assert completion == {
        "object": "chat.completion",
        "model": "any/model",
        "system_fingerprint": "0-native",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hé!"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 18,
            "completion_tokens": 5,
            "total_tokens": 23,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    }
    assert response.getheader("x-prompt-tokens") == "18"
    assert response.getheader("x-compute-characters") == "18"


def test_a_stream_to_the_byte(chat: ApiServer) -> None:
    connection = chat.begin(CHAT, {"messages": HI, "stream": True, "stream_options": {"include_usage": True}})
    submit = chat.peer.submitted()
    a, b, c = ids("abc")
    chat.peer.send(submit.request_id, [a])
    response = connection.getresponse()
    first = read_event(response)
    head = first[: first.index(b'"choices":[') + len(b'"choices":[')]
    frame = json.loads(head.removeprefix(b"data: ") + b"]}")
    assert list(frame) == ["id", "object", "created", "model", "system_fingerprint", "choices"]
    assert (frame["object"], frame["model"]) == ("chat.completion.chunk", "tiny")
    end = b'],"usage":null}\n\n'
    role = b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
    assert first == head + role + end
    # The first token is there before the second exists.
    text = b'{"index":0,"delta":{"content":"%s"},"logprobs":null,"finish_reason":%s}'
    assert read_event(response) == head + text % (b"a", b"null") + end
    chat.peer.send(submit.request_id, [b, c], "length")
    usage = (
        b'],"usage":{"prompt_tokens":18,"completion_tokens":3,"total_tokens":21,'
        b'"prompt_tokens_details":{"cached_tokens":1}}}\n\n'
    )
    assert response.read() == (
        head
        + text % (b"b", b"null")
        + end
        + head
        + text % (b"c", b'"length"')
        + end
        + head
        + usage
        + b"data: [DONE]\n\n"
    )


def test_a_stream_says_what_a_whole_answer_says(chat: ApiServer) -> None:
    text = "Ünïcode 🕰️\u2028 and \u0085 lines"
    body = {"messages": HI, "max_tokens": 99}
    choice = whole(chat, CHAT, body, text)["choices"][0]
    events = streamed(chat, CHAT, body, text)
    assert joined(events) == choice["message"]["content"] == text
    assert [e["choices"][0]["finish_reason"] for e in events[-2:]] == [None, "stop"]
    assert [event["choices"][0]["delta"].get("role") for event in events].count("assistant") == 1
    assert all("usage" not in event for event in events)


def test_lines_are_never_cut_inside_an_event(chat: ApiServer) -> None:
    _, response = connection(chat, CHAT, {"messages": HI, "stream": True, "model": "\u2028"}, "\u2028\u2029\u0085")
    lines = [line for line in response.read().decode().splitlines() if line]
    assert all(line == "data: [DONE]" or json.loads(line.removeprefix("data: ")) for line in lines)


def test_an_end_tokens_text_is_never_shown(chat: ApiServer) -> None:
    assert whole(chat, CHAT, {"messages": HI}, "")["choices"][0]["message"]["content"] == ""
    events = streamed(chat, CHAT, {"messages": HI}, "")
    assert [event["choices"][0]["delta"] for event in events] == [{"role": "assistant", "content": ""}, {}]
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_an_end_token_on_the_last_place_is_an_end(chat: ApiServer) -> None:
    connection = chat.begin(CHAT, {"messages": HI, "max_tokens": 2})
    chat.peer.send(chat.peer.submitted().request_id, [*ids("a"), EOS], "length")
    assert json.loads(connection.getresponse().read())["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stop", ["STOP", ["never", "STOP"]])
def test_a_stop_string_is_not_in_the_text(chat: ApiServer, stop: Any) -> None:
    body = {"messages": HI, "stop": stop}
    for stream in (False, True):
        connection = chat.begin(CHAT, body | {"stream": stream})
        submit = chat.peer.submitted()
        answer(chat, submit, "one ST two STOP three", "length")
        response = connection.getresponse()
        if stream:
            events = events_of(response)
            text, finish_reason = joined(events), events[-1]["choices"][0]["finish_reason"]
        else:
            choice = json.loads(response.read())["choices"][0]
            text, finish_reason = choice["message"]["content"], choice["finish_reason"]
        assert (text, finish_reason) == ("one ST two ", "stop")
        while not chat.peer.inbox.empty():
            chat.peer.aborted()


def test_every_sampling_field(chat: ApiServer) -> None:
    body = {
        "messages": HI,
        "max_completion_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 9,
        "min_p": 0.125,
        "typical_p": 0.75,
        "repetition_penalty": 1.5,
        "frequency_penalty": -0.5,
        "presence_penalty": 2,
        "logit_bias": {"7": -100, "3": 1.5},
        "seed": -1,
        "min_tokens": 2,
        "logprobs": True,
        "top_logprobs": 3,
    }
    (submit,), response = connection(chat, CHAT, body, "x")
    assert response.status == 200
    sampling = submit.sampling
    assert (sampling.max_new_tokens, sampling.min_new_tokens, sampling.greedy) == (7, 2, False)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.25, 9)
    assert (sampling.min_p, sampling.typical_p, sampling.repetition_penalty) == (0.125, 0.75, 1.5)
    assert (sampling.output_frequency_penalty, sampling.presence_penalty) == (-0.5, 2)
    assert sampling.frequency_penalty == 0  # TGI's, which means something else
    assert sampling.logit_bias == ((3, 1.5), (7, -100))
    assert (sampling.seed, sampling.top_n, sampling.raw_logprobs) == (2**64 - 1, 3, True)
    assert sampling.stop_token_ids == (EOS,)


def test_the_least_number_of_tokens_under_tgis_name(chat: ApiServer) -> None:
    (submit,), _ = connection(chat, CHAT, {"messages": HI, "min_new_tokens": 2, "max_tokens": 7}, "x")
    assert (submit.sampling.min_new_tokens, submit.sampling.max_new_tokens) == (2, 7)


def test_more_of_a_message_and_more_variables_are_the_templates(tmp_path: Path, chat_dir: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(chat_dir, model)
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }},{{ m.name }},{{ m.reasoning_content }},{{ m.tool_call_id }};"
        "{% endfor %}{{ (documents or [{}])[0].text }},{{ thinking }}"
    )
    messages = [
        {"role": "user", "content": "a", "name": "Ann"},
        {"role": "assistant", "content": "b", "reasoning": "r"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d", "reasoning_content": "s"},
        {"role": "tool", "content": "e", "tool_call_id": "t"},
    ]
    more = {"documents": [{"text": "x"}], "chat_template_kwargs": {"thinking": False}, "user": "changes nothing"}
    with run_api_server(tmp_path, model) as server:
        (submit,), _ = connection(server, CHAT, {"messages": messages} | more, "x")
    assert submit.prompt_ids == ids("a,Ann,,;b,,r,;c,,,;d,,s,;e,,,t;x,False")


@pytest.mark.parametrize(
    ("given", "greedy"),
    [
        ({}, False),
        ({"temperature": 0}, True),
        ({"temperature": 1}, False),
        ({"top_p": 0}, True),
        ({"top_p": 1, "top_k": -1, "min_p": 0, "typical_p": 1}, False),
    ],
)
def test_the_ends_of_ranges_mean_something(chat: ApiServer, given: dict[str, Any], greedy: bool) -> None:
    (submit,), _ = connection(chat, CHAT, {"messages": HI} | given, "x")
    sampling = submit.sampling
    assert sampling.greedy == greedy
    assert (sampling.temperature, sampling.top_k, sampling.min_p, sampling.typical_p) == (
        1e-6 if given.get("temperature") == 0 else 1.0,
        0,
        0,
        1,
    )
    assert sampling.max_new_tokens == 2048 - 18


def test_ignore_eos(chat: ApiServer) -> None:
    (submit,), _ = connection(chat, CHAT, {"messages": HI, "ignore_eos": True, "max_tokens": 1}, "x", finish="length")
    assert submit.sampling.stop_token_ids == ()


def test_several_choices_come_in_their_order(chat: ApiServer) -> None:
    body = {"messages": HI, "n": 3, "seed": 5}
    completion = whole(chat, CHAT, body, "first", "second", "third")
    assert [choice["message"]["content"] for choice in completion["choices"]] == ["first", "second", "third"]
    assert [choice["index"] for choice in completion["choices"]] == [0, 1, 2]
    assert completion["usage"]["prompt_tokens"] == 18
    assert completion["usage"]["completion_tokens"] == 6 + 7 + 6
    events = streamed(chat, CHAT, body, "first", "second", "third")
    assert [joined(events, index) for index in range(3)] == ["first", "second", "third"]
    assert [event["choices"][0]["index"] for event in events[:3]] == [0, 1, 2]
    submits, _ = connection(chat, CHAT, body, "", "", "")
    seeds = [submit.sampling.seed for submit in submits]
    assert seeds[0] == 5
    assert len(set(seeds)) == 3


def test_logprobs(chat: ApiServer) -> None:
    def run(stream: bool) -> Any:
        body = {"messages": HI, "logprobs": True, "top_logprobs": 2, "stream": stream}
        connection = chat.begin(CHAT, body)
        submit = chat.peer.submitted()
        a, b, half = *ids("ab"), ids("é")[0]
        chat.peer.send(submit.request_id, [a], logprob=-0.25, top=[(a, -0.25), (b, -1.5), (half, -1.5)])
        chat.peer.send(submit.request_id, [half, ids("é")[1], EOS], "eos_token", top=[(half, -0.5), (EOS, -2)])
        return connection.getresponse()

    content = json.loads(run(stream=False).read())["choices"][0]["logprobs"]["content"]
    assert content[0] == {
        "token": "a",
        "logprob": -0.25,
        "bytes": [97],
        "top_logprobs": [
            {"token": "a", "logprob": -0.25, "bytes": [97]},
            {"token": "b", "logprob": -1.5, "bytes": [98]},
        ],
    }
    assert [(token["token"], token["bytes"]) for token in content[1:]] == [("", [0xC3]), ("é", [0xA9])]
    events = events_of(run(stream=True))
    pieces = [token for event in events if (found := event["choices"][0]["logprobs"]) for token in found["content"]]
    assert pieces == content
    assert joined(events) == "aé"


def test_usage_in_every_chunk(chat: ApiServer) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = streamed(chat, CHAT, {"messages": HI, "stream_options": options}, "abcdefg")
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert counts[-1] == 8
    assert events[-1]["choices"] == []


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        ({"type": "text"}, None, ""),
        ({"type": "json_object"}, "json_schema", '{"type":"object"}'),
        ({"type": "json_object", "value": {"type": "integer"}}, "json_schema", '{"type":"integer"}'),
        ({"type": "json", "value": '{"type": "integer"}'}, "json_schema", '{"type":"integer"}'),
        ({"type": "regex", "value": "a+"}, "regex", "a+"),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"type": "array"}}},
            "json_schema",
            '{"type":"array"}',
        ),
        ({"type": "json_schema", "value": {"schema": {"type": "array"}}}, "json_schema", '{"type":"array"}'),
    ],
)
def test_response_formats(chat: ApiServer, given: dict[str, Any], kind: str | None, text: str) -> None:
    (submit,), _ = connection(chat, CHAT, {"messages": HI, "response_format": given}, "x")
    grammar = submit.sampling.grammar
    assert (None if grammar is None else (grammar.kind, grammar.text)) == (kind and (kind, text))


def test_messages(chat: ApiServer) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "system", "content": "s", "name": None},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "c"},
    ]
    (submit,), _ = connection(chat, CHAT, {"messages": messages}, "x")
    assert submit.prompt_ids == ids("system:s;user:ab;assistant:;user:c;assistant:")


def test_an_assistants_last_message_is_gone_on_with(chat: ApiServer) -> None:
    messages = [*HI, {"role": "assistant", "content": "It is "}]
    (submit,), _ = connection(chat, CHAT, {"messages": messages}, "x")
    assert submit.prompt_ids == ids("user:Hi;assistant:It is ")
    (submit,), _ = connection(chat, CHAT, {"messages": messages, "continue_final_message": False}, "x")
    assert submit.prompt_ids == ids("user:Hi;assistant:It is ;assistant:")
    (submit,), _ = connection(chat, CHAT, {"messages": HI, "add_generation_prompt": False}, "x")
    assert submit.prompt_ids == ids("user:Hi;")


def test_nulls_mean_nothing(chat: ApiServer) -> None:
    fields = [field.name for field in msgspec.structs.fields(ChatRequest) if field.name != "messages"]
    message = HI[0] | dict.fromkeys(["name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning"])
    body = {"messages": [message]} | dict.fromkeys(fields)
    (submit,), response = connection(chat, CHAT, body, "x")
    assert response.status == 200
    assert submit.prompt_ids == ids("user:Hi;assistant:")


def test_chat_tokenize(chat: ApiServer) -> None:
    response, data = chat.request("POST", "/chat_tokenize", {"messages": [{"role": "user", "content": "é"}]})
    assert response.status == 200
    answer = json.loads(data)
    assert answer["templated_text"] == "user:é;assistant:"
    tokens = answer["tokenize_response"]
    assert [token["id"] for token in tokens] == ids("user:é;assistant:")
    assert tokens[0] == {"id": ids("u")[0], "text": "u", "start": 0, "stop": 1}
    assert tokens[-1]["stop"] == len("user:é;assistant:".encode())


def test_models(chat: ApiServer) -> None:
    response, data = chat.request("GET", "/v1/models")
    models = json.loads(data)
    assert response.status == 200
    assert models == {"object": "list", "data": [{"id": "tiny", "object": "model", "created": 0, "owned_by": "tiny"}]}
    response, data = chat.request("GET", "/v1/models/tiny")
    assert json.loads(data) == models["data"][0]
    response, data = chat.request("GET", "/v1/models/not%2Fhere")
    error = json.loads(data)["error"]
    assert (response.status, error["code"]) == (404, "model_not_found")
    assert "'not/here'" in error["message"]
