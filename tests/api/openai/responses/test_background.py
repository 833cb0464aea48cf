"""Responses in the background: they need no client, and one that comes back gets what it lacks."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import msgspec

from ...conftest import ApiServer, EnginePeer, run_api_server, wait_until
from ..wire import answer, ids, refused
from .test_responses import RESPONSES, body, events_in, valid

BACKGROUND = body(background=True)


def begun(server: ApiServer) -> tuple[dict[str, Any], Any]:
    """A response, and what the engine was asked."""
    response, data = server.request("POST", RESPONSES, BACKGROUND)
    assert response.status == 200, data
    return valid(data), server.peer.submitted()


def state(server: ApiServer, response_id: str) -> dict[str, Any]:
    response, data = server.request("GET", f"{RESPONSES}/{response_id}")
    assert response.status == 200, data
    return valid(data)


def ended(server: ApiServer, response_id: str) -> dict[str, Any]:
    def over() -> dict[str, Any] | None:
        now = state(server, response_id)
        return None if now["status"] in ("queued", "in_progress") else now

    return wait_until(over, "the response has ended")


def events_after(server: ApiServer, response_id: str, after: int | None = None) -> list[dict[str, Any]]:
    more = "" if after is None else f"&starting_after={after}"
    response, data = server.request("GET", f"{RESPONSES}/{response_id}?stream=true{more}")
    assert response.status == 200, data
    return events_in(data.decode())


def test_it_is_queued_then_runs_then_has_ended(chat: ApiServer) -> None:
    queued, submit = begun(chat)
    assert (queued["status"], queued["background"], queued["output"]) == ("queued", True, [])
    assert state(chat, queued["id"])["status"] == "queued"
    chat.peer.send(submit.request_id, ids("He"))
    wait_until(lambda: state(chat, queued["id"])["status"] == "in_progress", "the first token is there")
    answer(chat, submit, "llo.")
    got = ended(chat, queued["id"])
    assert (got["status"], got["output"][0]["content"][0]["text"]) == ("completed", "Hello.")
    _, data = chat.request("POST", RESPONSES, BACKGROUND | {"input": "?", "previous_response_id": queued["id"]})
    assert json.loads(data)["previous_response_id"] == queued["id"]
    answer(chat, chat.peer.submitted(), "x")
    ended(chat, json.loads(data)["id"])


def test_its_events_can_be_had_again_from_any_on(chat: ApiServer) -> None:
    queued, submit = begun(chat)
    answer(chat, submit, "Hello.")
    ended(chat, queued["id"])
    events = events_after(chat, queued["id"])
    assert [event["type"] for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"
    for after in (0, 3, len(events) - 2):
        assert events_after(chat, queued["id"], after) == events[after + 1 :]
    response, _ = chat.request("GET", f"{RESPONSES}/{queued['id']}?stream=true&starting_after=999")
    assert response.status == 404


def test_a_stream_goes_on_without_its_client(chat: ApiServer) -> None:
    pending = chat.begin(RESPONSES, BACKGROUND | {"stream": True})
    submit = chat.peer.submitted()
    chat.peer.send(submit.request_id, ids("He"))
    response = pending.getresponse()
    first = [response.readline() for _ in range(4)]
    assert first[1] == b"event: response.created\n"
    created = json.loads(first[2].removeprefix(b"data: "))["response"]
    pending.close()
    response.close()
    answer(chat, submit, "llo.")
    assert ended(chat, created["id"])["output"][0]["content"][0]["text"] == "Hello."
    assert events_after(chat, created["id"], 0)[0]["type"] == "response.queued"


def test_it_can_be_cancelled_and_deleted(chat: ApiServer) -> None:
    queued, submit = begun(chat)
    chat.peer.send(submit.request_id, ids("He"))
    response, data = chat.request("POST", f"{RESPONSES}/{queued['id']}/cancel")
    assert (response.status, valid(data)["status"]) == (200, "cancelled")
    assert chat.peer.aborted().request_id == submit.request_id
    assert state(chat, queued["id"])["status"] == "cancelled"
    again, submit = begun(chat)
    response, _ = chat.request("DELETE", f"{RESPONSES}/{again['id']}")
    assert response.status == 200
    assert chat.peer.aborted().request_id == submit.request_id
    response, _ = chat.request("GET", f"{RESPONSES}/{again['id']}")
    assert response.status == 404


def test_what_fails_is_told_by_the_response(chat: ApiServer) -> None:
    queued, submit = begun(chat)
    chat.peer.fail(submit.request_id, "no memory", "generation")
    got = ended(chat, queued["id"])
    assert (got["status"], got["error"]["code"]) == ("failed", "server_error")
    assert events_after(chat, queued["id"])[-1]["type"] == "response.failed"
    _, data = chat.request("POST", RESPONSES, BACKGROUND | {"input": "x" * 3000})
    too_long = ended(chat, json.loads(data)["id"])
    assert (too_long["status"], too_long["error"]["code"]) == ("failed", "invalid_prompt")


def test_what_can_be_refused_is_refused_at_once(chat: ApiServer) -> None:
    for fields in ({"tool_choice": "required"}, {"input": []}, {"text": {"format": {"type": "grammar"}}}):
        assert refused(chat, RESPONSES, BACKGROUND | fields)[0] == 422


def test_only_one_in_the_background_is_streamed_again_or_cancelled(chat: ApiServer) -> None:
    pending = chat.begin(RESPONSES, body())
    answer(chat, chat.peer.submitted(), "Hello.")
    response_id = json.loads(pending.getresponse().read())["id"]
    for method, path in (("GET", "?stream=true"), ("POST", "/cancel")):
        response, _ = chat.request(method, f"{RESPONSES}/{response_id}{path}")
        assert response.status == 422


def test_a_server_that_keeps_nothing(tmp_path: Path, chat_dir: Path) -> None:
    with run_api_server(tmp_path, chat_dir, stored_response_age=0) as server:
        assert refused(server, RESPONSES, BACKGROUND)[1]["param"] == "background"
        pending = server.begin(RESPONSES, body())
        answer(server, server.peer.submitted(), "Hello.")
        response_id = json.loads(pending.getresponse().read())["id"]
        response, _ = server.request("GET", f"{RESPONSES}/{response_id}")
        assert response.status == 404


def test_it_survives_its_worker(tmp_path: Path, chat_dir: Path) -> None:
    hello = msgspec.structs.replace(EnginePeer.hello, max_total_tokens=2048)
    with run_api_server(tmp_path, chat_dir, hello) as server:
        queued, submit = begun(server)
        server.peer.send(submit.request_id, ids("He"))
        wait_until(lambda: state(server, queued["id"])["status"] == "in_progress", "the first token is there")
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        for child in children:
            if b"headwater api" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)

        def taken_over() -> Any:
            try:
                state(server, queued["id"])
            except (AssertionError, OSError):
                return None
            return None if server.peer.inbox.empty() else server.peer.submitted()

        again = wait_until(taken_over, "another worker goes on with it")
        assert again.emitted_ids == ids("He")
        answer(server, again, "llo.")
        got = ended(server, queued["id"])
        assert got["output"][0]["content"][0]["text"] == "Hello."
        events = events_after(server, queued["id"])
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
