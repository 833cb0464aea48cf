"""Resumable streams: nothing is missing or comes twice, whoever reads, wherever, and nothing stays behind."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from headwater.api.app import App
from headwater.api.config import ApiConfig
from headwater.api.generation.permits import Permits, create_permits
from headwater.api.generation.service import Service
from headwater.api.http import connection
from headwater.api.http.connection import Application
from headwater.api.http.errors import ReaderReplaced
from headwater.api.resume import event_log, registry
from headwater.api.resume.middleware import ResumeMiddleware

from ..conftest import ApiServer, EnginePeer, byte_ids, read_event, run_api_server, wait_until

GRACE_S = 30.0
HEADERS = {"content-type": "application/json", "x-stream-resumable": "1"}
TEXT = "abcdefghij"


@asynccontextmanager
async def workers(
    model_dir: Path, peer: EnginePeer, count: int = 1, **settings: Any
) -> AsyncIterator[list[ResumeMiddleware]]:
    """Applications of several workers, in one process."""
    permits = peer.path.with_name("permits")
    create_permits(permits)
    config = ApiConfig(model_dir=model_dir, model_id="tiny", engine_socket=peer.path, **settings)
    grace_s, directory = config.stream_resume_grace, peer.path.parent
    async with AsyncExitStack() as running:
        apps = []
        for _ in range(count):
            service = Service(config, Permits(permits, config.max_concurrent_requests))
            app = App(service)
            apps.append(ResumeMiddleware(app, service.permits.index, grace_s, directory))
            await running.enter_async_context(lifespan(apps[-1]))
        yield apps


@asynccontextmanager
async def lifespan(app: Application) -> AsyncIterator[None]:
    """What Granian tells an application, from its start to its end."""
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    task = asyncio.ensure_future(app({"type": "lifespan"}, told.get, answers.put))
    for phase in ("startup", "shutdown"):
        await told.put({"type": f"lifespan.{phase}"})
        assert await answers.get() == {"type": f"lifespan.{phase}.complete"}
        if phase == "startup":
            yield
    await task


class Request:
    """One request as Granian would hand it over."""

    def __init__(self, app: Application, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> None:
        self.gone = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self._parts: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": method, "path": path, "headers": pairs}
        self.task = asyncio.ensure_future(app(scope, self.receive, self.send))

    async def receive(self) -> dict[str, Any]:
        if self._parts:
            return self._parts.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def head(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    @property
    def ended(self) -> bool:
        return len(self.sent) > 1 and not self.sent[-1].get("more_body", False)

    async def until(self, wanted: str) -> None:
        while wanted not in self.text:
            assert not self.task.done(), self.text
            await asyncio.sleep(0.005)


def post(app: Application) -> Request:
    return Request(app, "POST", "/generate_stream", HEADERS, json.dumps({"inputs": "x"}).encode())


def get(app: Application, stream_id: str, after: str | None = None) -> Request:
    headers = {} if after is None else {"last-event-id": after}
    return Request(app, "GET", f"/streams/{stream_id}", headers)


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"^id: (\d+)$", text, re.MULTILINE)]


@pytest.fixture
def peer(tmp_path: Path) -> Any:
    peer = EnginePeer(tmp_path / "engine.sock")
    yield peer
    peer.die()


@pytest.mark.parametrize("other", [0, 1])
def test_a_lost_connection_is_continued_on_any_worker(model_dir: Path, peer: EnginePeer, other: int) -> None:
    async def run() -> None:
        async with workers(model_dir, peer, 2) as apps:
            lost = post(apps[0])
            sequence = (await asyncio.to_thread(peer.submitted)).request_id
            peer.send(sequence, byte_ids(TEXT[:3]))
            await lost.until('"c"')
            assert lost.head["access-control-expose-headers"] == "x-stream-id"
            stream_id = lost.head["x-stream-id"]
            lost.gone.set()
            await lost.task
            peer.send(sequence, byte_ids(TEXT[3:6]))  # it goes on generating
            after = get(apps[other], stream_id, after="2")
            await after.until('"f"')
            peer.send(sequence, byte_ids(TEXT[6:]), "length")
            await after.task
            assert (after.sent[0]["status"], after.head["x-stream-id"], after.ended) == (200, stream_id, True)
            assert numbers(after.text) == list(range(3, 11))
            # Once more, from the start: what has ended waits for the grace period, too.
            again = get(apps[1 - other], stream_id)
            await again.task
            events = [json.loads(line[6:]) for line in again.text.splitlines() if line.startswith("data: ")]
            assert "".join(item["token"]["text"] for item in events) == events[-1]["generated_text"] == TEXT
            assert peer.inbox.empty()  # no abort

    asyncio.run(run())


@pytest.mark.parametrize("other", [0, 1])
def test_the_newest_connection_gets_the_stream(model_dir: Path, peer: EnginePeer, other: int) -> None:
    async def run() -> None:
        async with workers(model_dir, peer, 2) as apps:
            first = post(apps[0])
            sequence = (await asyncio.to_thread(peer.submitted)).request_id
            peer.send(sequence, byte_ids("a"))
            await first.until('"a"')
            second = get(apps[other], first.head["x-stream-id"], after="1")
            with pytest.raises(ReaderReplaced):  # a network that is gone doesn't say so
                await first.task
            third = get(apps[1 - other], first.head["x-stream-id"], after="1")
            with pytest.raises(ReaderReplaced):
                await second.task
            peer.send(sequence, byte_ids("b"), "length")
            await third.task
            assert (numbers(second.text), numbers(third.text)) == ([], [2])
            assert not first.ended
            assert not second.ended

    asyncio.run(run())


def test_after_the_grace_period_the_sequence_is_dropped(model_dir: Path, peer: EnginePeer) -> None:
    async def run() -> None:
        async with workers(model_dir, peer, stream_resume_grace=0.1) as (app,):
            lost = post(app)
            sequence = (await asyncio.to_thread(peer.submitted)).request_id
            peer.send(sequence, byte_ids("a"))
            await lost.until('"a"')
            lost.gone.set()
            await lost.task
            assert (await asyncio.to_thread(peer.aborted)).request_id == sequence
            late = get(app, lost.head["x-stream-id"], after="1")
            await late.task
            assert late.sent[0]["status"] == 404
            assert json.loads(late.text)["error_type"] == "not_found"

    asyncio.run(run())


def test_a_client_that_goes_before_it_has_an_id_frees_its_sequence_at_once(model_dir: Path, peer: EnginePeer) -> None:
    async def run() -> None:
        async with workers(model_dir, peer) as (app,):
            lost = post(app)
            sequence = (await asyncio.to_thread(peer.submitted)).request_id
            lost.gone.set()
            await lost.task
            assert (await asyncio.to_thread(peer.aborted)).request_id == sequence

    asyncio.run(run())


def test_a_stream_that_nobody_reads_for_too_long_ends(
    model_dir: Path, peer: EnginePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "MAX_BYTES", 100)
    monkeypatch.setattr(connection, "STALL_TIMEOUT_S", 0.05)

    async def run() -> None:
        async with workers(model_dir, peer) as (app,):
            lost = post(app)
            sequence = (await asyncio.to_thread(peer.submitted)).request_id
            peer.send(sequence, byte_ids("a"))
            await lost.until('"a"')
            lost.gone.set()
            await lost.task
            peer.send(sequence, byte_ids("b"))
            assert (await asyncio.to_thread(peer.aborted)).request_id == sequence

    asyncio.run(run())


def test_what_ended_streams_hold_is_bounded(model_dir: Path, peer: EnginePeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_ENDED_BYTES", 400)

    async def run() -> None:
        async with workers(model_dir, peer) as (app,):
            ids = []
            for _ in range(4):  # of some 150 bytes each
                client = post(app)
                peer.send((await asyncio.to_thread(peer.submitted)).request_id, byte_ids("a"), "length")
                await client.task
                ids.append(client.head["x-stream-id"])
            statuses = []
            for stream_id in ids:
                request = get(app, stream_id)
                await request.task
                statuses.append(request.sent[0]["status"])
            assert statuses == sorted(statuses, reverse=True)
            assert set(statuses) == {404, 200}

    asyncio.run(run())


@pytest.mark.parametrize(
    ("stream_id", "after", "status"),
    [("0-wrong", None, 404), ("7-wrong", None, 404), ("x", None, 404), ("1-\n0-a", None, 404), ("0-a", "-1", 422)],
)
def test_ids_that_are_none(model_dir: Path, peer: EnginePeer, stream_id: str, after: str | None, status: int) -> None:
    async def run() -> None:
        async with workers(model_dir, peer, 2) as (app, _):
            request = get(app, stream_id, after)
            await request.task
            assert (request.sent[0]["status"], set(json.loads(request.text))) == (status, {"error", "error_type"})

    asyncio.run(run())


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Any:
    with run_api_server(tmp_path_factory.mktemp("resume"), model_dir, api_workers=2) as server:
        yield server


def test_a_real_server_with_two_workers(two_workers: ApiServer) -> None:
    connection = two_workers.connect()
    connection.request("POST", "/generate_stream", json.dumps({"inputs": "x"}), HEADERS)
    sequence = two_workers.peer.submitted().request_id
    two_workers.peer.send(sequence, byte_ids("a"))
    response = connection.getresponse()
    stream_id = response.getheader("x-stream-id")
    assert response.readline() == b"id: 1\n"
    got = b"id: 1\n" + read_event(response)
    for number, letter in enumerate("bcdefghi", 2):  # each on a new connection, which any worker may take
        connection.close()
        two_workers.peer.send(sequence, byte_ids(letter), "length" if letter == "i" else None)
        connection = two_workers.connect()
        connection.request("GET", f"/streams/{stream_id}", headers={"last-event-id": str(number - 1)})
        response = connection.getresponse()
        got += response.readline() + read_event(response)
    assert response.read() == b""
    connection.close()
    assert numbers(got.decode()) == list(range(1, 10))
    assert json.loads(got.decode().splitlines()[-2][6:])["generated_text"] == "abcdefghi"
    wait_until(lambda: two_workers.metric("headwater_requests") == 0, "no permit is held")


@pytest.mark.parametrize("value", [None, "0"])
def test_without_the_header_nothing_changes(two_workers: ApiServer, value: str | None) -> None:
    headers = {"content-type": "application/json"} | ({} if value is None else {"x-stream-resumable": value})
    connection = two_workers.connect()
    connection.request("POST", "/generate_stream", json.dumps({"inputs": "x"}), headers)
    sequence = two_workers.peer.submitted().request_id
    two_workers.peer.send(sequence, byte_ids("a"))
    response = connection.getresponse()
    assert response.getheader("x-stream-id") is None
    assert read_event(response).startswith(b"data: ")
    response.close()
    connection.close()
    assert two_workers.peer.aborted().request_id == sequence


def test_an_answer_that_is_no_stream_is_as_ever(two_workers: ApiServer) -> None:
    connection = two_workers.connect()
    connection.request("POST", "/generate", json.dumps({"inputs": "x"}), HEADERS)
    two_workers.peer.send(two_workers.peer.submitted().request_id, byte_ids("a"), "length")
    response = connection.getresponse()
    assert (response.status, response.getheader("x-stream-id")) == (200, None)
    assert json.loads(response.read()) == {"generated_text": "a"}
    connection.request("POST", "/generate_stream", b"{}", HEADERS)
    assert connection.getresponse().status == 422
    connection.close()
