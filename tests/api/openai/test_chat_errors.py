"""/v1/chat/completions when something is wrong: each has its status or its event, and harms nobody else."""

import json
from typing import Any

import pytest

from ..conftest import ApiServer, read_event
from .wire import CHAT, HI, answer, ids, refused


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"temperature": -1}, "temperature", "`temperature` must be >= 0"),
        ({"top_p": 1.5}, "top_p", "`top_p` must be >= 0.0 and <= 1"),
        ({"frequency_penalty": 3}, "frequency_penalty", ">= -2.0 and <= 2"),
        ({"repetition_penalty": 0}, "repetition_penalty", "strictly positive"),
        ({"top_k": -2}, "top_k", "0 or -1"),
        ({"n": 0}, "n", "`n` must be >= 1"),
        ({"top_logprobs": 21, "logprobs": True}, None, "at most 20"),
        ({"top_logprobs": 2}, "top_logprobs", "`top_logprobs` needs `logprobs: true`"),
        ({"stop": list("abcde")}, None, "supports up to 4 stop sequences"),
        ({"stop": ""}, None, "cannot be empty"),
        ({"logit_bias": [1.0]}, "logit_bias", "must be an object"),
        ({"logit_bias": {"258": 1}}, None, "`logit_bias` token ids"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "differ"),
        ({"max_tokens": 0}, "max_tokens", "Input validation error: `max_tokens` must be strictly positive"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "`max_completion_tokens` must be strictly positive"),
        ({"max_tokens": 1, "min_tokens": 2}, "min_tokens", "`min_tokens` must be <="),
        (
            {"messages": [{"role": "user", "content": "a" * 1200}], "max_tokens": 1024},
            None,
            "`inputs` tokens + `max_new_tokens` must be <= 2048",
        ),
        ({"messages": []}, "messages", "cannot be empty"),
        ({"messages": [{"role": "user"}]}, "messages", "messages[0]: content is missing"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages",
            "`image_url` is not supported",
        ),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "cannot set messages"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "messages", "exclude each other"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals(chat: ApiServer, body: dict[str, Any], param: str | None, message: str, stream: bool) -> None:
    status, error = refused(chat, CHAT, {"messages": HI, "stream": stream} | body)
    assert (status, error["type"], error["param"], error["code"]) == (422, "invalid_request_error", param, "validation")
    assert message in error["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b'{"messages":"x"}', 422), (b'{"messages":[],"n":NaN}', 400), (b'{"messages":[{"role":1}]}', 422)],
)
def test_bodies_that_are_none(chat: ApiServer, body: bytes, status: int) -> None:
    response, data = chat.request("POST", CHAT, body, {"content-type": "application/json"})
    error = json.loads(data)["error"]
    assert (response.status, error["type"]) == (status, "invalid_request_error")
    assert error["message"].startswith("Failed to ")


def test_too_many_at_once(chat: ApiServer) -> None:
    connection = chat.begin(CHAT, {"messages": HI})
    submit = chat.peer.submitted()
    status, error = refused(chat, CHAT, {"messages": HI, "n": 8})  # one of eight is taken
    assert (status, error["type"], error["message"]) == (429, "rate_limit_error", "Model is overloaded")
    answer(chat, submit, "x")
    assert connection.getresponse().status == 200


def test_an_engines_refusal_is_a_status(chat: ApiServer) -> None:
    connection = chat.begin(CHAT, {"messages": HI, "stream": True})
    submit = chat.peer.submitted()
    chat.peer.fail(submit.request_id, "grammar is not valid: no", "validation")
    response = connection.getresponse()
    assert response.status == 422
    assert "grammar is not valid" in json.loads(response.read())["error"]["message"]


def test_an_error_after_the_first_token_is_an_event(chat: ApiServer) -> None:
    connection = chat.begin(CHAT, {"messages": HI, "stream": True})
    submit = chat.peer.submitted()
    chat.peer.send(submit.request_id, ids("a"))
    response = connection.getresponse()
    assert read_event(response)
    assert read_event(response)
    chat.peer.fail(submit.request_id, "boom", "generation")
    event, done, end = response.read().decode().split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    error = json.loads(event.removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("server_error", "generation")
    assert "boom" in error["message"]


def test_a_client_that_leaves_frees_every_sequence(chat: ApiServer) -> None:
    connection = chat.begin(CHAT, {"messages": HI, "n": 2, "stream": True})
    submits = [chat.peer.submitted() for _ in range(2)]
    chat.peer.send(submits[0].request_id, ids("a"))
    response = connection.getresponse()
    assert read_event(response)
    response.close()
    connection.close()
    assert {chat.peer.aborted().request_id for _ in range(2)} == {submit.request_id for submit in submits}


def test_a_model_without_a_template(plain: ApiServer) -> None:
    status, error = refused(plain, CHAT, {"messages": HI})
    assert (status, error["code"], error["message"]) == (
        422,
        "template_error",
        "Template error: template not found",
    )
