"""Engines of one server die, crash and are replaced: what clients get is what they would have got, from the others."""

import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from .serving import PATIENCE_S, Serving, descendants, serving, status_of, wait_until
from .test_replay import CRASH, FAULTS, REQUESTS, answer, poison, together

SIZES = ("--max-batch-prefill-tokens", "32", "--max-batch-size", "8", "--max-total-tokens", "1024")
ENDED = "the engine died"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving("--replicas", "2", *SIZES, *FAULTS, "--max-engine-restarts", "9") as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def undisturbed(server: Serving) -> list[bytes]:
    return [answer(server, path, body) for path, body in REQUESTS]


def engines(server: Serving) -> dict[str, int]:
    """Process ids by the engines' titles."""
    return {
        name: pid for pid, name in descendants(server.process.pid).items() if re.fullmatch(r"headwater engine \d", name)
    }


def up(server: Serving) -> list[float]:
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=PATIENCE_S) as response:
        text = response.read().decode()
    return [float(value) for value in re.findall(r'(?m)^headwater_engine_up\{replica="\d"\} (\S+)$', text)]


def both_are_up(server: Serving) -> bool:
    return up(server) == [1.0, 1.0]


@pytest.mark.parametrize("which", [0, 1])
def test_the_other_engine_goes_on_with_what_a_killed_one_had(
    server: Serving, undisturbed: list[bytes], which: int
) -> None:
    wait_until(lambda: both_are_up(server), "both engines")
    pid = engines(server)[f"headwater engine {which}"]
    assert together(server, 20, lambda: os.kill(pid, signal.SIGKILL)) == undisturbed
    assert status_of(f"{server.url}/health") == 200
    wait_until(lambda: both_are_up(server), "the engine's successor")
    assert engines(server)[f"headwater engine {which}"] != pid


def test_it_does_not_wait_for_the_successor(server: Serving, undisturbed: list[bytes]) -> None:
    wait_until(lambda: both_are_up(server), "both engines")
    stopped: list[int] = []

    def kill_and_hold_up_its_successor() -> None:
        title, pid = next(iter(engines(server).items()))
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: engines(server).get(title, pid) != pid, "a successor")
        stopped.append(engines(server)[title])
        os.kill(stopped[0], signal.SIGSTOP)

    try:
        assert together(server, 20, kill_and_hold_up_its_successor) == undisturbed
        assert up(server).count(1.0) == 1
    finally:
        os.kill(stopped[0], signal.SIGCONT)


def test_a_request_kills_two_engines_at_most(server: Serving, undisturbed: list[bytes]) -> None:
    wait_until(lambda: both_are_up(server), "both engines")
    before = server.output.count(ENDED)
    failed: list[tuple[int, Any]] = []
    assert together(server, 20, lambda: failed.append(poison(server, CRASH))) == undisturbed
    error = "Request failed during generation: Server error: the engine died of this request, twice"
    assert failed == [(424, {"error": error, "error_type": "generation"})]
    assert server.output.count(ENDED) == before + 2


def test_engines_are_replaced_one_after_another_without_a_lost_token(server: Serving, undisturbed: list[bytes]) -> None:
    wait_until(lambda: both_are_up(server), "both engines")
    before, deaths = engines(server), server.output.count(ENDED)
    assert together(server, 20, lambda: server.process.send_signal(signal.SIGUSR1)) == undisturbed

    def replaced() -> bool:
        assert any(up(server)), "one is always there"
        now = engines(server)
        return all(now.get(title, pid) != pid for title, pid in before.items()) and both_are_up(server)

    wait_until(replaced, "successors of both engines")
    assert server.output.count(ENDED) == deaths
    assert answer(server, *REQUESTS[0]) == undisturbed[0]


def test_what_engines_hold_is_counted_together(server: Serving) -> None:
    wait_until(lambda: both_are_up(server), "both engines")
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=PATIENCE_S) as response:
        text = response.read().decode()
    found = re.search(r"(?m)^tgi_batch_max_total_tokens (\S+)$", text)
    first, second, *_ = re.findall(r"KV cache: \d+ MiB, (\d+) tokens", server.output)
    assert found
    assert float(found[1]) == int(first) + int(second)
