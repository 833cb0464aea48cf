"""A resumable stream outlives the worker that began it: the next one goes on, and the client sees a pause."""

import http.client
import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from headwater.api.resume.journal import Journal, SequenceTokens, TokensEntry
from headwater.api.resume.replay import JournaledContext
from headwater.engine.frames import encode_frame
from headwater.engine.messages import Submit, Tokens

from ..conftest import ApiServer, EnginePeer, byte_ids, read_event, run_api_server, wait_until

HEADERS = {"content-type": "application/json", "x-stream-resumable": "1"}
NATIVE = {
    "inputs": "x",
    "parameters": {"do_sample": True, "details": True, "top_n_tokens": 2, "stop": ["fg"], "max_new_tokens": 20},
}
TOP = [(65, -0.25), (66, -0.5)]


class Stream:
    """A client that reads events, and comes back for the rest."""

    def __init__(self, server: ApiServer, path: str, body: Any, headers: dict[str, str] | None = None) -> None:
        self._server = server
        self._headers = headers or {}
        self._connection = server.connect()
        self._connection.request("POST", path, json.dumps(body), HEADERS | self._headers)
        self.events: list[bytes] = []

    def open(self) -> None:
        self._response = self._connection.getresponse()
        self.id = self._response.headers["x-stream-id"]

    def read(self, count: int) -> None:
        for _ in range(count):
            number = self._response.readline()
            assert number == b"id: %d\n" % (len(self.events) + 1)
            self.events.append(read_event(self._response))

    def read_rest(self) -> None:
        for event in re.findall(rb"id: \d+\n.*?\n\n", self._response.read(), re.DOTALL):
            number, _, data = event.partition(b"\n")
            assert number == b"id: %d" % (len(self.events) + 1)
            self.events.append(data)
        self._connection.close()

    def come_back(self) -> int:
        """The status."""
        self._connection.close()
        self._connection = self._server.connect()
        headers = {"last-event-id": str(len(self.events))} | self._headers
        self._connection.request("GET", f"/streams/{self.id}", headers=headers)
        self._response = self._connection.getresponse()
        return self._response.status

    @property
    def data(self) -> list[Any]:
        return [json.loads(event[6:]) for event in self.events if event != b"data: [DONE]\n\n"]


def begun(server: ApiServer, headers: dict[str, str] | None = None) -> tuple[Stream, Submit]:
    """A stream whose first event was read."""
    stream = Stream(server, "/generate_stream", {"inputs": "x"}, headers)
    first = server.peer.submitted()
    server.peer.send(first.request_id, byte_ids("a"))
    stream.open()
    stream.read(1)
    return stream, first


def journals(server: ApiServer) -> list[Path]:
    return sorted(server.peer.path.parent.glob("stream-*"))


def kill_worker(server: ApiServer, stream: Stream) -> None:
    """That which has the stream, as soon as another one is there in its place."""
    (journal,) = server.peer.path.parent.glob(f"stream-{stream.id}.*")
    title = f"headwater api {journal.suffix[1:]}".encode()
    (victim,) = [pid for pid in children(server) if title in Path(f"/proc/{pid}/cmdline").read_bytes()]
    connections = len(server.peer.connections)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(server.peer.connections) > connections, "a new worker has found the engine")
    wait_until(lambda: answers(server), "somebody listens")


def answers(server: ApiServer) -> bool:
    with suppress(OSError, http.client.HTTPException):
        return server.request("GET", "/health")[0].status == 200
    return False


def children(server: ApiServer) -> set[int]:
    parent = server.process.pid
    return {int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()}


def continued(peer: EnginePeer, first: Submit) -> Submit:
    """What the next worker submits is the same sequence."""
    again = peer.submitted()
    assert (again.prompt_ids, again.sampling) == (first.prompt_ids, first.sampling)
    return again


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def server(request: pytest.FixtureRequest, tmp_path: Path, model_dir: Path) -> Any:
    """One for each test: a worker that dies twice within seconds is not replaced."""
    with run_api_server(tmp_path, model_dir, api_workers=request.param, max_concurrent_requests=2) as server:
        wait_until(lambda: len(server.peer.connections) > request.param, "all workers have found the engine")
        yield server


def test_a_native_stream_goes_on(server: ApiServer) -> None:
    peer, stream = server.peer, Stream(server, "/generate_stream", NATIVE)
    first = peer.submitted()
    peer.send(first.request_id, byte_ids("ab"), top=TOP)
    stream.open()
    stream.read(2)
    peer.send(first.request_id, byte_ids("cd"), top=TOP)
    stream.read(1)  # of the two that were sent
    kill_worker(server, stream)
    assert stream.come_back() == 200
    again = continued(peer, first)
    assert again.emitted_ids == byte_ids("abcd")
    peer.send(again.request_id, byte_ids("efgh"), top=TOP)
    stream.read_rest()
    assert [event["token"]["text"] for event in stream.data] == list("abcdefg")
    assert [event["index"] for event in stream.data] == list(range(1, 8))
    assert all(len(event["top_tokens"]) == 2 for event in stream.data)
    assert stream.data[-1]["generated_text"] == "abcdefg"
    assert stream.data[-1]["details"] == {
        "finish_reason": "stop_sequence", "generated_tokens": 7, "seed": first.sampling.seed, "input_length": 2,
    }  # fmt: skip
    assert peer.aborted().request_id == again.request_id
    wait_until(lambda: server.metric("headwater_requests") == 0, "no permit is held")


def test_a_completion_with_two_choices_goes_on(server: ApiServer) -> None:
    body = {"prompt": "x", "stream": True, "n": 2, "stream_options": {"include_usage": True}, "max_tokens": 9}
    peer, stream = server.peer, Stream(server, "/v1/completions", body)
    first = [peer.submitted() for _ in range(2)]
    peer.send(first[0].request_id, byte_ids("ab"))
    stream.open()
    stream.read(2)
    peer.send(first[1].request_id, byte_ids("xy"), "length")
    stream.read(2)
    kill_worker(server, stream)
    assert stream.come_back() == 200
    again = continued(peer, first[0])  # the second one is over
    assert again.emitted_ids == byte_ids("ab")
    peer.send(again.request_id, byte_ids("c"), "length")
    stream.read_rest()
    texts = ["", ""]
    for event in stream.data:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == ["abc", "xy"]
    assert stream.data[-1]["usage"]["completion_tokens"] == 5
    assert len({(event["id"], event["created"]) for event in stream.data}) == 1
    assert stream.events[-1] == b"data: [DONE]\n\n"


def test_what_had_ended_is_read_without_the_engine(server: ApiServer) -> None:
    peer, stream = server.peer, Stream(server, "/generate_stream", {"inputs": "x"})
    peer.send(peer.submitted().request_id, byte_ids("abc"), "length")
    stream.open()
    stream.read(1)
    kill_worker(server, stream)
    assert stream.come_back() == 200
    stream.read_rest()
    assert stream.data[-1]["generated_text"] == "abc"
    assert peer.inbox.empty()


def test_a_full_server_says_so_and_the_stream_waits(server: ApiServer) -> None:
    peer = server.peer
    stream, first = begun(server)
    kill_worker(server, stream)
    wait_until(lambda: server.metric("headwater_requests") == 0, "its permit is free")
    others = [server.begin("/generate", {"inputs": "y"}) for _ in range(2)]
    running = [(submit := peer.submitted(), peer.senders[submit.request_id]) for _ in others]
    assert stream.come_back() == 429
    for submit, peer.senders[submit.request_id] in running:  # workers number their sequences alike
        peer.send(submit.request_id, byte_ids("z"), "length")
    for other in others:
        assert other.getresponse().status == 200
        other.close()
    wait_until(lambda: server.metric("headwater_requests") == 0, "there is room")
    assert stream.come_back() == 200
    again = continued(peer, first)
    peer.send(again.request_id, byte_ids("b"), "length")
    stream.read_rest()
    assert stream.data[-1]["generated_text"] == "ab"


def test_events_that_never_were_are_not_waited_for(server: ApiServer) -> None:
    peer = server.peer
    stream, first = begun(server)
    kill_worker(server, stream)
    stream.events *= 3
    assert stream.come_back() == 404
    again = continued(peer, first)
    del stream.events[1:]
    assert stream.come_back() == 200
    peer.send(again.request_id, byte_ids("b"), "length")
    stream.read_rest()
    assert stream.data[-1]["generated_text"] == "ab"


def test_nothing_waits_longer_than_the_grace_period_nor_has_the_key(tmp_path: Path, model_dir: Path) -> None:
    key = {"authorization": "Bearer of-the-door"}
    with run_api_server(tmp_path, model_dir, stream_resume_grace=1.0, api_key="of-the-door") as server:
        (lost, _), (stream, _) = begun(server, key), begun(server, key)
        assert len(journals(server)) == 2
        for journal in journals(server):
            assert journal.stat().st_mode & 0o777 == 0o600
            assert b"of-the-door" not in journal.read_bytes()
        kill_worker(server, stream)
        assert stream.come_back() == 200
        again = server.peer.submitted()
        server.peer.send(again.request_id, byte_ids("b"), "length")
        stream.read_rest()
        wait_until(lambda: not journals(server), "both are forgotten")
        assert lost.come_back() == 404


def test_a_stream_below_a_root_path_goes_on(tmp_path: Path, model_dir: Path) -> None:
    with run_api_server(tmp_path, model_dir, root_path="/llm") as server:
        stream = Stream(server, "/llm/generate_stream", {"inputs": "x"})
        first = server.peer.submitted()
        server.peer.send(first.request_id, byte_ids("a"))
        stream.open()
        stream.read(1)
        kill_worker(server, stream)
        assert stream.come_back() == 200
        server.peer.send(continued(server.peer, first).request_id, byte_ids("b"), "length")
        stream.read_rest()
        assert stream.data[-1]["generated_text"] == "ab"


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_a_write_that_was_cut_off_is_forgotten(tmp_path: Path, cut: int) -> None:
    scope = {"method": "POST", "path": "/", "headers": [(b"x-a", b"b")]}
    journal = Journal.begin(scope)
    entries = [TokensEntry([SequenceTokens(0, Tokens(1, [token_id], [-1.0]))]) for token_id in range(3)]
    journal.append(entries[0].sequences)  # before there is a file
    path = tmp_path / "journal"
    journal.open(path)
    journal.append(entries[1].sequences)
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole + encode_frame(entries[2])[:cut])
    read = Journal.read(path)
    assert (read.request, list(read.earlier)) == (journal.request, entries[:2])
    read.append(entries[2].sequences)
    assert path.read_bytes() == whole + encode_frame(entries[2])


def test_a_request_that_runs_again_draws_what_it_drew() -> None:
    journal = Journal.begin({"method": "POST", "path": "/", "headers": []})
    first, again = JournaledContext(journal), JournaledContext(journal, lambda: None)
    assert [first.random.random() for _ in range(3)] == [again.random.random() for _ in range(3)]
    assert (first.created, first.arrival) == (again.created, again.arrival)


def test_a_disk_that_is_full_costs_nobody_a_stream(tmp_path: Path) -> None:
    journal = Journal.begin({"method": "POST", "path": "/", "headers": []})
    journal.open(tmp_path / "missing" / "journal")
    journal.append([])
    journal.delete()
    with Path("/dev/full").open("wb") as full:
        journal = Journal.begin({"method": "POST", "path": "/", "headers": []})
        journal.open(tmp_path / "journal")
        assert journal._file is not None
        os.dup2(full.fileno(), journal._file)
        journal.append([])
    assert not (tmp_path / "journal").exists()
    journal.append([])
