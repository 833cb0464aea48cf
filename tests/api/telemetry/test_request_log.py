"""Each request that is refused is one line of the log, on every route, wherever it is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headwater.api.routes import ROUTES

from ..conftest import ApiServer, byte_ids, run_api_server, wait_until

JSON = {"content-type": "application/json"}
LIMIT = 1000
Case = tuple[str, str, bytes, dict[str, str]]  # method, path, body, headers


def refused_bodies(path: str) -> Iterator[tuple[Case, str, int, str]]:
    """Of a route that takes a body: what is sent, its route, status and outcome."""
    yield ("POST", path, b"{}", {"content-type": "text/plain"}), path, 415, "unsupported_media_type"
    yield ("POST", path, b"{}", {}), path, 415, "unsupported_media_type"
    yield ("POST", path, b"{", JSON), path, 400, "malformed_body"
    yield ("POST", path, b"[" + b" " * LIMIT + b"]", JSON), path, 413, "body_too_large"
    yield ("POST", path, b"[1]", JSON), path, 422, "validation"


def cases() -> Iterator[tuple[Case, str, int, str]]:
    for route in ROUTES:
        path = route.path.replace("{id}", "none")
        yield ("PUT", path, b"", {}), route.path, 405, "method_not_allowed"
        if route.request is not None:
            yield from refused_bodies(path)
        elif "{id}" in route.path:
            error_type = "model_not_found" if "models" in path else "not_found"
            yield (route.method, path, b"", {}), route.path, 404, error_type
    yield ("GET", "/nothing", b"", {}), "/nothing", 404, "not_found"
    yield ("POST", "/v1/nothing", b"{}", JSON), "/v1/nothing", 404, "not_found"
    yield ("GET", "/a%0A%20b%22", b"", {}), "/a%0A%20b%22", 404, "not_found"
    yield ("GET", "/" + "a" * 5000, b"", {}), "/" + "a" * 199, 404, "not_found"
    yield ("POST", "/generate", b'{"inputs":""}', JSON), "/generate", 422, "validation"
    yield ("GET", "/streams/none", b"", {"last-event-id": "x"}), "/streams/{id}", 422, "validation"


def lines_of(text: str) -> dict[str, list[dict[str, Any]]]:
    """The lines of requests, by their id."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in map(json.loads, text.splitlines()):
        if line["message"].startswith("request "):
            found.setdefault(line["id"], []).append(line)
    return found


def ask(server: ApiServer, number: int, case: Case, key: str = "k") -> int:
    method, path, body, headers = case
    headers = {"x-request-id": f"n{number}", "authorization": f"Bearer {key}", **headers}
    response, _ = server.request(method, path, body, headers)
    return response.status


def test_what_is_refused_is_logged_as_what_is_answered(
    tmp_path: Path, model_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refused = list(cases())
    with run_api_server(tmp_path, model_dir, json_output=True, payload_limit=LIMIT, api_key="k") as server:
        for number, (case, _, status, _) in enumerate(refused):
            assert ask(server, number, case) == status, case
        assert ask(server, len(refused), ("POST", "/generate", b"{}", JSON), key="no") == 401
        connection = server.connect()
        chunks = (b"a" * 500 for _ in range(3))  # without a length
        headers = JSON | {"x-request-id": "chunks", "authorization": "Bearer k"}
        connection.request("POST", "/generate", chunks, headers, encode_chunked=True)
        assert connection.getresponse().status == 413
        headers = JSON | {"x-request-id": "good", "authorization": "Bearer k"}
        connection = server.connect()
        connection.request("POST", "/generate", b'{"inputs":"x"}', headers)
        server.peer.send(server.peer.submitted().request_id, byte_ids("a"), "length")
        assert connection.getresponse().status == 200
        server.peer.die()
        wait_until(lambda: server.request("GET", "/health")[0].status == 503, "the loss is noticed")
    lines = lines_of(capfd.readouterr().out)
    assert len(lines) == len(refused) + 3
    for number, (case, route, status, outcome) in enumerate(refused):
        (line,) = lines[f"n{number}"]
        assert (line["route"], line["status"], line["outcome"]) == (route, status, outcome), case
    (unauthorized,), (chunked,), (good,) = lines[f"n{len(refused)}"], lines["chunks"], lines["good"]
    assert (unauthorized["status"], unauthorized["outcome"]) == (401, "unauthorized")
    assert (chunked["status"], chunked["outcome"]) == (413, "body_too_large")
    only_answered = {"first_token_ms", "per_token_ms", "sequences"}
    assert {frozenset(line) for each in lines.values() for line in each} == {
        frozenset(good), frozenset(good) - only_answered
    }  # fmt: skip
    assert all(line["total_ms"] >= 0 for (line,) in lines.values())
