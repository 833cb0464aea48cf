"""/v1/completions over HTTP: the real server process, the engine played by the test."""

import json
from pathlib import Path
from typing import Any

import pytest

from ..conftest import ApiServer, run_api_server
from .wire import BOS, COMPLETIONS, EOS, answer, connection, events_of, ids, joined, refused, streamed, whole


def test_a_whole_answer(chat: ApiServer) -> None:
    (submit,), response = connection(chat, COMPLETIONS, {"prompt": "Hé", "model": "m", "max_tokens": 9}, "llo")
    assert submit.prompt_ids == [BOS, *ids("Hé")]
    completion = json.loads(response.read())
    assert completion.pop("id").startswith("cmpl-")
    assert completion.pop("created") > 0
    assert completion == {
        "object": "text_completion",
        "model": "m",
        "system_fingerprint": "0-native",
        "choices": [{"index": 0, "text": "llo", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 4,
            "completion_tokens": 4,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    }


def test_a_stream_says_what_a_whole_answer_says(chat: ApiServer) -> None:
    body = {"prompt": "x", "stream_options": {"include_usage": True}}
    events = streamed(chat, COMPLETIONS, body, "a 🕰️ b")
    assert joined(events) == "a 🕰️ b"
    *texts, usage = events
    assert [event["choices"][0]["finish_reason"] for event in texts][-2:] == [None, "stop"]
    assert all(event["object"] == "text_completion" and event["usage"] is None for event in texts)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len("a 🕰️ b".encode()) + 1


@pytest.mark.parametrize(
    ("prompt", "want"),
    [
        (["a", "b"], [[BOS, *ids("a")], [BOS, *ids("b")]]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1], [2, 257]], [[1], [2, 257]]),
    ],
)
def test_prompts(chat: ApiServer, prompt: Any, want: list[list[int]]) -> None:
    texts = [f"text {i}" for i in range(len(want))]
    submits, response = connection(chat, COMPLETIONS, {"prompt": prompt}, *texts)
    assert [submit.prompt_ids for submit in submits] == want
    completion = json.loads(response.read())
    assert [(choice["index"], choice["text"]) for choice in completion["choices"]] == list(enumerate(texts))
    assert completion["usage"]["prompt_tokens"] == sum(map(len, want))


def test_several_prompts_and_choices_in_their_order(chat: ApiServer) -> None:
    body = {"prompt": ["a", "b"], "n": 2}
    completion = whole(chat, COMPLETIONS, body, "a0", "a1", "b0", "b1")
    assert [choice["text"] for choice in completion["choices"]] == ["a0", "a1", "b0", "b1"]
    assert completion["usage"]["prompt_tokens"] == 4
    events = streamed(chat, COMPLETIONS, body, "a0", "a1", "b0", "b1")
    assert [joined(events, index) for index in range(4)] == ["a0", "a1", "b0", "b1"]


def test_the_best_of_some(chat: ApiServer) -> None:
    connection = chat.begin(COMPLETIONS, {"prompt": "x", "best_of": 2})
    submits = [chat.peer.submitted() for _ in range(2)]
    for submit, text, logprob in zip(submits, ["likely", "a"], [-0.5, -0.75], strict=True):
        chat.peer.send(submit.request_id, ids(text), "length", logprob=logprob)
    completion = json.loads(connection.getresponse().read())
    assert [(choice["index"], choice["text"]) for choice in completion["choices"]] == [(0, "likely")]
    assert completion["usage"]["completion_tokens"] == 7


def test_echo(chat: ApiServer) -> None:
    body = {"prompt": "Hé", "echo": True}
    assert whole(chat, COMPLETIONS, body, "llo")["choices"][0]["text"] == "Héllo"
    assert joined(streamed(chat, COMPLETIONS, body, "llo")) == "Héllo"
    assert whole(chat, COMPLETIONS, {"prompt": ids("ab"), "echo": True}, "c")["choices"][0]["text"] == "abc"


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_prompt_and_answer(chat: ApiServer, stream: bool) -> None:
    body = {"prompt": "ab", "echo": True, "logprobs": 1, "stream": stream}
    connection = chat.begin(COMPLETIONS, body)
    submit = chat.peer.submitted()
    assert (submit.sampling.prompt_logprobs, submit.sampling.top_n, submit.sampling.raw_logprobs) == (True, 1, True)
    assert submit.sampling.prompt_top_n == 1
    c, d = ids("cd")
    chat.peer.send(
        submit.request_id, [c], top=[(d, -0.25), (c, -0.5)], prompt_logprobs=[-3, -1], prompt_top=[(d, -0.75)]
    )
    chat.peer.send(submit.request_id, [d, EOS], "eos_token", top=[(d, -0.5), (c, -2)])
    response = connection.getresponse()
    keys = ["tokens", "token_logprobs", "top_logprobs", "text_offset"]
    if stream:
        parts = [event["choices"][0]["logprobs"] for event in events_of(response)]
        logprobs = {key: [value for part in parts for value in part[key]] for key in keys}
    else:
        choice = json.loads(response.read())["choices"][0]
        assert choice["text"] == "abcd"
        logprobs = choice["logprobs"]
    assert list(logprobs) == keys
    assert logprobs == {
        "tokens": ["<|begin|>", "a", "b", "c", "d"],
        "token_logprobs": [None, -3, -1, -0.5, -0.5],
        # The best one, and the one that stands there.
        "top_logprobs": [None, {"d": -0.75, "a": -3}, {"d": -0.75, "b": -1}, {"d": -0.25, "c": -0.5}, {"d": -0.5}],
        "text_offset": [0, 0, 1, 2, 3],
    }


def test_different_tokens_with_the_same_text_do_not_swallow_each_other(chat: ApiServer) -> None:
    """Parts of characters, which all look alike: the bytes of "é" and "è" begin and end differently."""
    (first, second), (_, other) = ids("é"), ids("è")
    connection = chat.begin(COMPLETIONS, {"prompt": "x", "logprobs": 3})
    submit = chat.peer.submitted()
    chat.peer.send(submit.request_id, [first], top=[(first, -0.5), (second, -1.5), (other, -2.5)])
    chat.peer.send(submit.request_id, [second], "length", top=[(other, -0.25), (EOS, -1.5)])
    logprobs = json.loads(connection.getresponse().read())["choices"][0]["logprobs"]
    assert "".join(logprobs["tokens"]) == "é"
    assert logprobs["top_logprobs"] == [
        {"bytes:\\xc3": -0.5, "bytes:\\xa9": -1.5, "bytes:\\xa8": -2.5},
        {"bytes:\\xa8": -0.25, "é": -0.5, "<|end|>": -1.5},
    ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_prompt_is_scored_and_nothing_is_generated(chat: ApiServer, name: str, stream: bool) -> None:
    body = {"prompt": ids("ab"), "echo": True, "logprobs": 1, name: 0, "stop": "c", "stream": stream}
    connection = chat.begin(COMPLETIONS, body | {"stream_options": {"include_usage": True}})
    submit = chat.peer.submitted()
    assert (submit.sampling.max_new_tokens, submit.sampling.stop_token_ids) == (1, ())
    (c,) = ids("c")
    chat.peer.send(submit.request_id, [c], "length", top=[(c, -0.5)], prompt_logprobs=[-3], prompt_top=[(c, -0.75)])
    response = connection.getresponse()
    if stream:
        *events, last = events_of(response)
        usage = last["usage"]
        text = joined(events)
        finish_reason = events[-1]["choices"][0]["finish_reason"]
        tokens = [token for event in events for token in event["choices"][0]["logprobs"]["tokens"]]
    else:
        answer = json.loads(response.read())
        usage, choice = answer["usage"], answer["choices"][0]
        text, finish_reason, tokens = choice["text"], choice["finish_reason"], choice["logprobs"]["tokens"]
    assert (text, finish_reason, tokens) == ("ab", "length", ["a", "b"])
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (2, 0)


def test_as_many_prompts_as_may_run(chat: ApiServer) -> None:
    connection = chat.begin(COMPLETIONS, {"prompt": ["x"] * 6})
    for _ in range(6):
        chat.peer.send(chat.peer.submitted().request_id, [*ids("a"), EOS], "eos_token")
    assert [choice["text"] for choice in json.loads(connection.getresponse().read())["choices"]] == ["a"] * 6


def test_fewer_prompts_where_the_flag_says_so(tmp_path: Path, chat_dir: Path) -> None:
    with run_api_server(tmp_path, chat_dir, max_client_batch_size=2) as server:
        status, error = refused(server, COMPLETIONS, {"prompt": list("abc")})
    assert (status, error["param"]) == (422, "prompt")
    assert "maximum allowed batch size of 2" in error["message"]


def test_no_top_logprobs(chat: ApiServer) -> None:
    logprobs = whole(chat, COMPLETIONS, {"prompt": "x", "logprobs": 0}, "a")["choices"][0]["logprobs"]
    assert logprobs == {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": None, "text_offset": [0]}


def test_what_the_javascript_client_sends(chat: ApiServer) -> None:
    body = {"model": "http://host:1", "prompt": "x", "max_tokens": 2, "do_sample": True, "details": True, "stop": ["y"]}
    assert whole(chat, COMPLETIONS, body, "ab", finish="length")["choices"][0] == {
        "index": 0,
        "text": "ab",
        "logprobs": None,
        "finish_reason": "length",
    }


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"prompt": "x", "suffix": "y"}, "suffix not supported", "Suffix is not supported"),
        ({"prompt": list("abcdefghi")}, "batch size exceeded", "maximum allowed batch size of 8"),
        ({"prompt": []}, "validation", "empty array"),
        ({"prompt": ""}, "validation", "cannot be empty"),
        ({"prompt": [[]]}, "validation", "cannot be empty"),
        ({"prompt": ["a", 1]}, "validation", "mixes"),
        ({"prompt": [258]}, "validation", "must be < 258"),
        ({"prompt": "x", "best_of": 3}, "validation", "`best_of` must be <= 2"),
        ({"prompt": "x", "best_of": 2, "stream": True}, "validation", "cannot be streamed"),
        (
            {"prompt": "x", "max_tokens": 0},
            "validation",
            "Input validation error: `max_tokens` must be strictly positive",
        ),
        ({"prompt": "x", "logprobs": 21}, "validation", "at most 20"),
        ({}, None, "missing required field `prompt`"),
    ],
)
def test_refusals(chat: ApiServer, body: dict[str, Any], code: str | None, message: str) -> None:
    status, error = refused(chat, COMPLETIONS, body)
    assert (status, error["type"], error["code"]) == (422, "invalid_request_error", code)
    assert message in error["message"]


def test_all_prompts_are_checked_before_any_is_started(chat: ApiServer) -> None:
    status, _ = refused(chat, COMPLETIONS, {"prompt": ["a", "b" * 1500], "max_tokens": 1000})
    assert status == 422


def test_invocations_answers_as_the_route_of_its_body(chat: ApiServer) -> None:
    hi = [{"role": "user", "content": "Hi"}]
    assert whole(chat, "/invocations", {"prompt": "x"}, "a")["object"] == "text_completion"
    assert whole(chat, "/invocations", {"messages": hi}, "a")["object"] == "chat.completion"
    assert joined(streamed(chat, "/invocations", {"messages": hi}, "abc")) == "abc"
    connection = chat.begin("/invocations", {"inputs": "x", "parameters": {"max_new_tokens": 1}})
    answer(chat, chat.peer.submitted(), "a", "length")
    assert json.loads(connection.getresponse().read()) == [{"generated_text": "a"}]


@pytest.mark.parametrize("body", [{}, {"prompt": 1}, {"messages": "x"}, [1]])
def test_invocations_of_nothing(chat: ApiServer, body: Any) -> None:
    response, data = chat.request("POST", "/invocations", body)
    assert response.status == 422
    assert data == b"data did not match any variant of untagged enum SagemakerRequest"


def test_vertex(chat: ApiServer) -> None:
    instances = [
        {"inputs": "x", "parameters": {"max_new_tokens": 3, "seed": 9}},
        {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4},
    ]
    submits, response = connection(chat, "/vertex", {"instances": instances}, "one", "two")
    assert json.loads(response.read()) == {"predictions": ["one", "two"]}
    sampling = submits[0].sampling
    assert (sampling.max_new_tokens, sampling.seed, sampling.greedy) == (3, 9, False)
    assert submits[1].prompt_ids == ids("user:Hi;assistant:")


def test_vertex_shows_the_prompt_if_asked_for(chat: ApiServer) -> None:
    instances = [{"inputs": "x ", "parameters": {"return_full_text": full}} for full in (True, False)]
    _, response = connection(chat, "/vertex", {"instances": instances}, "one", "two")
    assert json.loads(response.read()) == {"predictions": ["x one", "two"]}


@pytest.mark.parametrize(
    "instances",
    [
        [],
        [{}],
        [{"inputs": 1}],
        [{"inputs": "x", "parameters": {"best_of": 2}}],
        [{"messages": [{"role": "user", "content": "x"}], "n": 2}],
    ],
)
def test_vertex_refusals(chat: ApiServer, instances: Any) -> None:
    response, data = chat.request("POST", "/vertex", {"instances": instances})
    assert (response.status, json.loads(data)["error_type"]) == (422, "validation")
