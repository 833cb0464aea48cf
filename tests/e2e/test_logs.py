"""`headwater serve --json-output`: what a collector of logs reads, of all processes and their deaths."""

import http.client
import json
import os
import re
import signal
from typing import Any
from urllib.parse import urlsplit

import pytest

from .serving import HEADWATER, SMALL, descendants, post, serving, status_of, wait_until

KEYS = ["timestamp", "level", "message", "target", "pid"]
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def send(url: str, method: str, path: str, body: bytes, headers: dict[str, str]) -> int:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    connection.request(method, path, body, headers)
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], str]:
    """All lines of a server that was used, hurt and stopped, and what it wrote to standard error."""
    errors = tmp_path_factory.mktemp("logs") / "stderr"
    command = ("sh", "-c", f'exec "$@" 2>{errors}', "sh", *HEADWATER)
    with serving(*SMALL, "--json-output", "--api-workers", "2", command=command) as server:
        server.wait_ready()
        parameters = {"max_new_tokens": 3}
        for path in ("/generate", "/generate_stream"):
            with post(f"{server.url}{path}", {"inputs": "Hi", "parameters": parameters}) as response:
                assert response.read()
        kind = {"content-type": "application/json"}
        assert send(server.url, "POST", "/generate", b'{"inputs":""}', kind) == 422
        assert send(server.url, "POST", "/generate", b"{", kind) == 400
        pids = descendants(server.process.pid)
        os.kill(next(pid for pid, name in pids.items() if name == "headwater api 0"), signal.SIGKILL)
        server.wait_for("Unexpected exit from worker")
        os.kill(next(pid for pid, name in pids.items() if name == "headwater engine 0"), signal.SIGKILL)
        server.wait_for(r"the engine died \(SIGKILL\); starting it again, 1 of 5")
        wait_until(lambda: status_of(f"{server.url}/health") == 200, "a healthy engine")
        assert server.stop() == 0
    return [json.loads(line) for line in server.output.splitlines()], errors.read_text()


def test_every_line_is_json_with_the_same_keys_on_one_stream(logged: tuple[list[dict[str, Any]], str]) -> None:
    lines, errors = logged
    assert errors == ""
    assert all(list(line)[: len(KEYS)] == KEYS for line in lines)
    assert all(TIMESTAMP.fullmatch(line["timestamp"]) for line in lines)
    assert {line["level"] for line in lines} == {"INFO", "WARNING", "ERROR"}


def test_every_process_is_heard(logged: tuple[list[dict[str, Any]], str]) -> None:
    lines, _ = logged
    targets = {line["target"]: line["pid"] for line in lines}
    assert {"headwater.api", "headwater.api.launch.supervisor", "headwater.engine.start", "_granian"} <= set(targets)
    assert len(set(targets.values())) >= 4


def test_requests_and_settings_have_fields(logged: tuple[list[dict[str, Any]], str]) -> None:
    lines, _ = logged
    requests = [line for line in lines if line["message"].startswith("request ")]
    assert [line["status"] for line in requests] == [200, 200, 422, 400]
    assert requests[0].keys() == requests[1].keys() > requests[2].keys() == requests[3].keys()
    (settings,) = (line for line in lines if line["message"] == "settings")
    assert settings["address"].startswith("http://127.0.0.1:")
