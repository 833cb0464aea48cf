"""@huggingface/inference under node: the current release and a 2.x as in the streaming guide."""

from typing import Any

import pytest
from huggingface_hub import InferenceClient

from . import javascript
from .serving import Serving, gauge, wait_until


@pytest.fixture(scope="module")
def got(shared_server: Serving) -> dict[str, Any]:
    """What the clients got, after the one that gave up."""
    return javascript.run("clients.mjs", shared_server.url)


@pytest.fixture(scope="module")
def text(shared_server: Serving) -> str:
    """What another client gets for the same prompt."""
    return InferenceClient(shared_server.url).text_generation("What is Deep Learning?", max_new_tokens=12)


def chat_text(chunks: list[dict[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def test_text_generation_of_the_current_release(got: dict[str, Any], text: str) -> None:
    assert got["current"]["text"] == text
    chunks = got["current"]["stream"]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text
    assert len(chunks) == 12
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_text_generation_of_2_x(got: dict[str, Any], text: str) -> None:
    assert got["old"]["text"] == text
    assert "".join(got["old"]["guide"]) == text
    events = got["old"]["stream"]
    assert [event["token"]["text"] for event in events] == got["old"]["guide"]
    assert (events[-1]["generated_text"], events[-1]["details"]["generated_tokens"]) == (text, 12)


def test_chats(got: dict[str, Any]) -> None:
    whole = got["current"]["chat"]["choices"][0]
    assert whole["message"]["content"]
    assert chat_text(got["current"]["chatStream"]) == chat_text(got["old"]["chatStream"]) == whole["message"]["content"]
    assert got["current"]["chatStream"][-1]["choices"][0]["finish_reason"] == whole["finish_reason"] == "length"


def test_refusals_have_the_servers_words(got: dict[str, Any]) -> None:
    assert "top_p" in got["current"]["refusedStream"]["message"]
    assert "top_p" in got["old"]["refused"]["message"]
    assert got["current"]["refused"]["status"] == 422  # this client shows no message of an error in OpenAI's form


@pytest.mark.usefixtures("got")
def test_who_gave_up_left_nothing_behind(shared_server: Serving) -> None:
    wait_until(lambda: gauge(shared_server, "tgi_batch_current_size") == 0, "the sequence has left the batch")
    assert gauge(shared_server, "headwater_requests") == 0
