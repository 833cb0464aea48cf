"""What a stream promises, on the real engine: whole characters, pages that come free, errors in time."""

import json
import os
import signal
import subprocess
import urllib.request
from typing import Any

import pytest

from .serving import Serving, descendants, post, status_of, wait_until

REPLACEMENT = "\ufffd"


def stream(server: Serving, inputs: str, **parameters: Any) -> list[dict[str, Any]]:
    with post(f"{server.url}/generate_stream", {"inputs": inputs, "parameters": parameters}) as response:
        return [json.loads(line.removeprefix(b"data: ")) for line in response if line.startswith(b"data: ")]


def whole(server: Serving, inputs: str, **parameters: Any) -> dict[str, Any]:
    with post(f"{server.url}/generate", {"inputs": inputs, "parameters": parameters}) as response:
        return json.load(response)


def metric(server: Serving, name: str) -> float:
    with urllib.request.urlopen(f"{server.url}/metrics") as response:
        for line in response.read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
    return 0.0


@pytest.mark.parametrize("prompt", ["🙂🙃🙂🙃🙂🙃🙂🙃", "日本語の文章: 私は学生です。私は"])
@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "temperature": 1.5, "seed": 3}])
def test_characters_are_whole_whatever_the_tokens(
    shared_server: Serving, prompt: str, sampling: dict[str, Any]
) -> None:
    parameters = {"max_new_tokens": 16, "details": True, **sampling}
    events = stream(shared_server, prompt, **parameters)
    texts = [event["token"]["text"] for event in events]
    assert all(REPLACEMENT not in text for text in texts)
    assert "".join(e["token"]["text"] for e in events if not e["token"]["special"]) == events[-1]["generated_text"]
    answer = whole(shared_server, prompt, **parameters)
    assert answer["generated_text"] == events[-1]["generated_text"]
    assert [token["id"] for token in answer["details"]["tokens"]] == [event["token"]["id"] for event in events]
    if prompt.startswith("🙂") and not sampling:
        assert "" in texts, "an emoji takes several tokens of this model: some have no text yet"
        assert "🙃" in events[-1]["generated_text"]


def test_a_stop_string_ends_the_text(shared_server: Serving) -> None:
    parameters = {"max_new_tokens": 12, "details": True}
    text = whole(shared_server, "Count: one, two, three,", **parameters)["generated_text"]
    stop = text[7:11]
    events = stream(shared_server, "Count: one, two, three,", stop=[stop], **parameters)
    assert events[-1]["generated_text"] == text[: text.index(stop) + len(stop)]
    assert events[-1]["details"]["finish_reason"] == "stop_sequence"
    wait_until(lambda: metric(shared_server, "tgi_batch_current_size") == 0, "the sequence has left the batch")


def test_a_client_that_is_killed_leaves_nothing_in_the_engine(shared_server: Serving) -> None:
    wait_until(lambda: metric(shared_server, "tgi_batch_current_size") == 0, "an idle engine")
    free = metric(shared_server, "headwater_engine_free_pages")
    aborted = metric(shared_server, "headwater_engine_aborted_total")
    body = json.dumps({"inputs": "Once upon a time", "parameters": {"max_new_tokens": 1000, "stop": ["no such text"]}})
    command = [
        "curl",
        "-sN",
        f"{shared_server.url}/generate_stream",
        "-d",
        body,
        "-H",
        "content-type: application/json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline().startswith(b"data: ")
        assert metric(shared_server, "tgi_batch_current_size") == 1
        assert metric(shared_server, "headwater_engine_free_pages") < free
        client.kill()
    wait_until(
        lambda: metric(shared_server, "headwater_engine_aborted_total") == aborted + 1, "the sequence was dropped"
    )
    assert metric(shared_server, "tgi_batch_current_size") == 0
    assert metric(shared_server, "headwater_engine_free_pages") == free
    assert metric(shared_server, "headwater_engine_generated_tokens_total") > 0


def test_health_tells_of_a_killed_engine_and_requests_wait_for_the_next(shared_server: Serving) -> None:
    prompt = "The capital of France is"
    before = whole(shared_server, prompt, max_new_tokens=5)
    (engine,) = (pid for pid, title in descendants(shared_server.process.pid).items() if title == "headwater engine 0")
    os.kill(engine, signal.SIGKILL)
    wait_until(lambda: status_of(f"{shared_server.url}/health") == 503, "the death was noticed")
    assert whole(shared_server, prompt, max_new_tokens=5) == before
    assert status_of(f"{shared_server.url}/health") == 200
