"""Priority, salt and deadline of a request: on every route that generates they reach the engine, or are refused."""

import json
import time
from typing import Any

import pytest

from headwater.engine.messages import Submit

from ..chat.servers import chat, chat_dir
from ..conftest import DEADLINE_S, ApiServer, byte_ids

__all__ = ["chat", "chat_dir"]

HI = [{"role": "user", "content": "Hi"}]
FIELDS = {"priority": -7, "cache_salt": "tenant", "timeout": 12.5}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"model": "tiny", "max_tokens": 5, "messages": HI},
    "/generate": {"inputs": "Hi"},
}
ROUTES = pytest.mark.parametrize("route", BODIES)


def body(route: str, fields: dict[str, Any]) -> dict[str, Any]:
    return BODIES[route] | ({"parameters": fields} if route == "/generate" else fields)


def submitted(server: ApiServer, route: str, fields: dict[str, Any]) -> Submit:
    connection = server.begin(route, body(route, fields))
    submit = server.peer.submitted()
    server.peer.send(submit.request_id, byte_ids("a"), "length")
    response = connection.getresponse()
    response.read()
    assert response.status == 200
    connection.close()
    return submit


@ROUTES
def test_the_fields_reach_the_engine(chat: ApiServer, route: str) -> None:
    before = time.monotonic()
    scheduling = submitted(chat, route, FIELDS).scheduling
    assert (scheduling.priority, scheduling.cache_salt) == (-7, "tenant")
    assert scheduling.arrival is not None
    assert before <= scheduling.arrival <= time.monotonic()
    assert scheduling.deadline - scheduling.arrival == pytest.approx(12.5)


@ROUTES
@pytest.mark.parametrize(
    ("field", "value"), [("priority", 2**40), ("priority", "high"), ("cache_salt", ""), ("timeout", 0), ("timeout", -1)]
)
def test_what_makes_no_sense_is_refused_by_name(chat: ApiServer, route: str, field: str, value: Any) -> None:
    response, data = chat.request("POST", route, body(route, {field: value}))
    assert response.status == 422
    assert field in data.decode()
    if route in ("/v1/chat/completions", "/v1/completions", "/v1/responses") and field in ("cache_salt", "timeout"):
        assert json.loads(data)["error"]["param"] == field


@pytest.mark.parametrize(("stream", "timeout"), [(False, 0.05), (True, 0.8)])
def test_a_request_ends_with_its_own_time(chat: ApiServer, stream: bool, timeout: float) -> None:
    """Before the first token it is a status, after it an event."""
    connection = chat.begin("/v1/chat/completions", {"messages": HI, "stream": stream, "timeout": timeout})
    submit = chat.peer.submitted()
    if stream:
        chat.peer.send(submit.request_id, byte_ids("a"))
    response = connection.getresponse()
    data = response.read()
    assert response.status == (200 if stream else 504)
    told = data.decode().strip().removesuffix("data: [DONE]").strip().split("\n\n")[-1].removeprefix("data: ")
    assert json.loads(told)["error"]["code"] == "timeout"
    assert f"not finished within {timeout:g} s" in told
    assert chat.peer.inbox.get(timeout=DEADLINE_S)[1].request_id == submit.request_id, "aborted"
    connection.close()
