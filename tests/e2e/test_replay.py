"""The engine dies or hangs under the real server: what clients get is what they would have got, and nothing stays."""

import json
import os
import re
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from .serving import PATIENCE_S, SMALL, Serving, descendants, post, running, serving, status_of, wait_until

CRASH, HANG = 1_000_001, 1_000_002  # seeds of requests that the engine dies of
FAULTS = ("--inject-faults", f"{CRASH}:abort:3", "--inject-faults", f"{HANG}:hang:3", "--heartbeat-timeout", "2")

N = 60
NATIVE: list[tuple[str, dict[str, Any]]] = [
    ("/generate_stream", {"inputs": "Once upon a time", "parameters": {"max_new_tokens": N, "ignore_eos": True}}),
    (
        "/generate_stream",
        {
            "inputs": "The sea is",
            "parameters": {
                "max_new_tokens": N,
                "do_sample": True,
                "seed": 7,
                "top_n_tokens": 3,
                "details": True,
                "repetition_penalty": 1.2,
                "frequency_penalty": 0.5,
                "stop": ["qqqq"],
                "ignore_eos": True,
            },
        },
    ),
    (
        "/generate_stream",
        {
            "inputs": "A list of words:",
            "parameters": {
                "max_new_tokens": N,
                "do_sample": True,
                "seed": 8,
                "details": True,
                "grammar": {"type": "regex", "value": "([a-z]{3,9} ){40}"},
            },
        },
    ),
    (
        "/generate",
        {
            "inputs": "My name is",
            "parameters": {
                "max_new_tokens": N,
                "do_sample": True,
                "seed": 9,
                "details": True,
                "decoder_input_details": True,
                "ignore_eos": True,
            },
        },
    ),
]
CHAT = {
    "messages": [{"role": "user", "content": "Tell me about rivers."}],
    "max_tokens": N, "stream": True, "seed": 4, "logprobs": True, "top_logprobs": 2, "temperature": 0.8,
}  # fmt: skip
REQUESTS = [*NATIVE, ("/v1/chat/completions", CHAT)]


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    sizes = ("--max-batch-prefill-tokens", "32", "--max-batch-size", "8", "--max-total-tokens", "1024")
    with serving(*sizes, *FAULTS, "--max-engine-restarts", "9") as server:
        server.wait_ready()
        yield server


def answer(server: Serving, path: str, body: dict[str, Any], on_line: Callable[[], object] = lambda: None) -> bytes:
    """All bytes of an answer, but for what each answer has of its own: its name, its time, and comments in a pause."""
    lines = []
    with post(server.url + path, body) as response:
        for line in response:
            lines.append(line)
            on_line()
    return re.sub(rb'(?m)^:\n\n|"id":"[^"]*"|"created":\d+', b"", b"".join(lines))


def together(server: Serving, after: int, fault: Callable[[], object]) -> list[bytes]:
    """All answers at once; the fault comes when so many lines were read."""
    lines = threading.Semaphore(0)
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        answers = [pool.submit(answer, server, path, body, lines.release) for path, body in REQUESTS]
        for _ in range(after):
            assert lines.acquire(timeout=PATIENCE_S)
        fault()
        return [each.result() for each in answers]


@pytest.fixture(scope="module")
def undisturbed(server: Serving) -> list[bytes]:
    return [answer(server, path, body) for path, body in REQUESTS]


def engine_pid(server: Serving) -> int:
    with urllib.request.urlopen(f"{server.url}/health/live", timeout=PATIENCE_S) as response:
        return int(json.load(response)["engine"]["process"]["pid"])


def poison(server: Serving, seed: int) -> tuple[int, Any]:
    parameters = {"max_new_tokens": 20, "do_sample": True, "seed": seed, "ignore_eos": True}
    try:
        post(f"{server.url}/generate", {"inputs": "Poison", "parameters": parameters}).close()
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
    return 200, None


def test_answers_alone_and_together_are_the_same(server: Serving, undisturbed: list[bytes]) -> None:
    assert together(server, 1, lambda: None) == undisturbed


@pytest.mark.parametrize("after", [1, 100])
def test_a_killed_engine_is_a_pause(server: Serving, undisturbed: list[bytes], after: int) -> None:
    pid = engine_pid(server)
    assert together(server, after, lambda: os.kill(pid, signal.SIGKILL)) == undisturbed
    assert engine_pid(server) != pid


def test_a_request_that_the_engine_dies_of_fails_alone_the_second_time(
    server: Serving, undisturbed: list[bytes]
) -> None:
    before = server.output.count("the engine died")
    failed: list[tuple[int, Any]] = []
    assert together(server, 40, lambda: failed.append(poison(server, CRASH))) == undisturbed
    error = "Request failed during generation: Server error: the engine died of this request, twice"
    assert failed == [(424, {"error": error, "error_type": "generation"})]
    assert server.output.count("the engine died (SIGABRT)") == 2
    assert server.output.count("the engine died") == before + 2


def test_a_step_that_hangs_is_a_death(server: Serving, undisturbed: list[bytes]) -> None:
    failed: list[tuple[int, Any]] = []
    assert together(server, 40, lambda: failed.append(poison(server, HANG))) == undisturbed
    assert failed[0][0] == 424
    assert len(re.findall(r"the engine died \(no sign of life for \d+\.\d s\)", server.output)) == 2
    assert status_of(f"{server.url}/health") == 200


def test_an_engine_that_stands_still_a_moment_is_left_alone(server: Serving, undisturbed: list[bytes]) -> None:
    pid = engine_pid(server)
    stopped = threading.Event()

    def stop() -> None:
        os.kill(pid, signal.SIGSTOP)
        stopped.set()

    def go_on() -> None:
        stopped.wait(PATIENCE_S)
        with urllib.request.urlopen(f"{server.url}/health/live", timeout=PATIENCE_S) as response:
            response.read()  # the server answers meanwhile
        os.kill(pid, signal.SIGCONT)

    helper = threading.Thread(target=go_on)
    helper.start()
    assert together(server, 20, stop) == undisturbed
    helper.join()
    assert engine_pid(server) == pid


def test_nothing_outlives_a_killed_supervisor_whose_engine_hangs(tmp_path: Path) -> None:
    with serving(*SMALL, *FAULTS[:4], environment={"TMPDIR": str(tmp_path)}) as server:
        server.wait_ready()
        pids = descendants(server.process.pid)
        client = threading.Thread(target=poison_in_vain, args=(server,))
        client.start()
        wait_until(lambda: _step_s(server) > 0.5, "a step that does not end")
        server.process.kill()
        wait_until(lambda: not any(map(running, pids)), f"the end of {pids}")
        client.join()
    assert list(tmp_path.iterdir()) == []


def poison_in_vain(server: Serving) -> None:
    with suppress(OSError):
        poison(server, HANG)


def _step_s(server: Serving) -> float:
    with urllib.request.urlopen(f"{server.url}/health/live", timeout=PATIENCE_S) as response:
        return json.load(response)["engine"]["device"]["step_s"] or 0.0
