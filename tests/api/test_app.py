"""The application without HTTP in between: what it says to the server, and when."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from headwater.api.app import App
from headwater.api.config import ApiConfig
from headwater.api.engine_client import remote_sequence
from headwater.api.generation import request
from headwater.api.generation.permits import Permits, create_permits
from headwater.api.generation.service import Service
from headwater.api.http import connection
from headwater.api.http.errors import ReaderStalled
from headwater.api.tgi import generate as routes_native

from .conftest import DEADLINE_S, EnginePeer, byte_ids

SCOPE = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}


@asynccontextmanager
async def running(model_dir: Path, peer: EnginePeer, **settings: Any) -> AsyncIterator[App]:
    permits = peer.path.with_name("permits")
    create_permits(permits)
    settings = {"max_concurrent_requests": 1, **settings}
    config = ApiConfig(model_dir=model_dir, model_id="tiny", engine_socket=peer.path, **settings)
    service = Service(config, Permits(permits, config.max_concurrent_requests))
    await service.start()
    try:
        yield App(service)
        assert service.permits.used == 0
        assert service.engine.live == 0
    finally:
        await service.stop()


class Client:
    """One request, as Granian would hand it over; what the application sends is collected."""

    def __init__(self, path: str = "/generate_stream", body: Any = None) -> None:
        self.scope = {**SCOPE, "path": path}
        self.body = json.dumps(body or {"inputs": "x"}).encode()
        self.gone = asyncio.Event()
        self.reads = asyncio.Event()  # cleared: the client reads nothing
        self.reads.set()
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._parts: list[dict[str, Any]] = [{"type": "http.request", "body": self.body, "more_body": False}]

    async def receive(self) -> dict[str, Any]:
        if self._parts:
            return self._parts.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        await self.reads.wait()
        self.sent.put_nowait(message)

    def start(self, app: App) -> "asyncio.Task[None]":
        return asyncio.create_task(app(self.scope, self.receive, self.send))

    async def next(self) -> dict[str, Any]:
        return await asyncio.wait_for(self.sent.get(), DEADLINE_S)


def last_body(client: Client) -> bytes:
    """The last that was sent, of all that nobody looked at yet."""
    messages = [client.sent.get_nowait() for _ in range(client.sent.qsize())]
    body: bytes = messages[-1]["body"]
    return body


def test_silence_is_filled_with_comments(model_dir: Path, peer: EnginePeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "KEEP_ALIVE_S", 0.01)

    async def run() -> None:
        async with running(model_dir, peer) as app:
            client = Client()
            task = client.start(app)
            submit = await asyncio.to_thread(peer.submitted)
            assert (await client.next())["status"] == 200  # the stream begins though there is no token yet
            for _ in range(2):
                assert await client.next() == {"type": "http.response.body", "body": b":\n\n", "more_body": True}
            peer.fail(submit.request_id, "no", "generation")
            while (message := await client.next())["body"] == b":\n\n":
                pass
            error = {"error": "Request failed during generation: Server error: no", "error_type": "generation"}
            assert message == {
                "type": "http.response.body",
                "body": b"data: " + json.dumps(error, separators=(",", ":")).encode() + b"\n\n",
                "more_body": False,
            }
            await task

    asyncio.run(run())


def test_tokens_that_are_there_together_leave_together(model_dir: Path, peer: EnginePeer) -> None:
    async def run() -> None:
        async with running(model_dir, peer) as app:
            client = Client()
            task = client.start(app)
            submit = await asyncio.to_thread(peer.submitted)
            peer.send(submit.request_id, byte_ids("abc"), "length")
            await task
            assert (await client.next())["type"] == "http.response.start"
            (message,) = [client.sent.get_nowait() for _ in range(client.sent.qsize())]
            assert message["body"].count(b"data: ") == 3
            assert not message.get("more_body")

    asyncio.run(run())


def test_a_reader_that_takes_nothing_is_cut_off_and_its_sequence_dropped(
    model_dir: Path, peer: EnginePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALL_TIMEOUT_S", 0.05)

    async def run() -> None:
        async with running(model_dir, peer) as app:
            client = Client()
            task = client.start(app)
            submit = await asyncio.to_thread(peer.submitted)
            peer.send(submit.request_id, byte_ids("a"))
            await client.next()
            await client.next()
            client.reads.clear()
            peer.send(submit.request_id, byte_ids("b"))
            assert (await asyncio.to_thread(peer.aborted)).request_id == submit.request_id
            with pytest.raises(ReaderStalled):  # how the server learns to cut the connection
                await asyncio.wait_for(task, DEADLINE_S)

    asyncio.run(run())


@pytest.mark.parametrize("moment", ["waiting for a token", "sending", "waiting for an engine"])
def test_a_client_may_go_at_any_moment(model_dir: Path, peer: EnginePeer, moment: str) -> None:
    async def run() -> None:
        async with running(model_dir, peer) as app:
            client = Client()
            if moment == "waiting for an engine":
                peer.die()
                while app._service.engine.unhealthy_reason() is None:
                    await asyncio.sleep(0)
            task = client.start(app)
            if moment == "waiting for an engine":
                while app._service.permits.used == 0:
                    await asyncio.sleep(0)
            else:
                submit = await asyncio.to_thread(peer.submitted)
            if moment == "sending":
                client.reads.clear()
                peer.send(submit.request_id, byte_ids("a"))
                while app._service.engine._live[submit.request_id].token_ids == []:
                    await asyncio.sleep(0)
            client.gone.set()
            await asyncio.wait_for(task, DEADLINE_S)
            if moment != "waiting for an engine":
                assert (await asyncio.to_thread(peer.aborted)).request_id == submit.request_id
            assert client.sent.empty()

    asyncio.run(run())


def test_a_client_may_go_while_it_sends_its_body(model_dir: Path, peer: EnginePeer) -> None:
    async def run() -> None:
        async with running(model_dir, peer) as app:
            client = Client()
            client._parts = [{"type": "http.request", "body": b'{"inputs":', "more_body": True}]
            client.gone.set()
            await asyncio.wait_for(client.start(app), DEADLINE_S)
            assert client.sent.empty()

    asyncio.run(run())


def test_a_fault_of_ours_is_a_plain_500(
    model_dir: Path, peer: EnginePeer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("internals")

    monkeypatch.setattr(routes_native.validation, "check", broken)

    async def run() -> None:
        async with running(model_dir, peer) as app:
            client = Client("/generate")
            await client.start(app)
            assert (await client.next())["status"] == 500
            assert (await client.next())["body"] == b'{"error":"Internal server error","error_type":"internal"}'

    asyncio.run(run())
    assert "internals" in caplog.text  # for us, not for the client


def test_a_body_that_does_not_come_is_not_waited_for(
    model_dir: Path, peer: EnginePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BODY_TIMEOUT_S", 0.01)

    async def run() -> None:
        async with running(model_dir, peer) as app:
            client = Client()
            client._parts = [{"type": "http.request", "body": b'{"inputs":', "more_body": True}]
            await client.start(app)
            start = await client.next()
            assert (start["status"], (b"connection", b"close") in start["headers"]) == (408, True)

    asyncio.run(run())


TIMED_OUT = {"error": "Request timed out: not finished within 0.05 s", "error_type": "timeout"}


def test_a_request_has_only_its_time(model_dir: Path, peer: EnginePeer) -> None:
    async def run() -> None:
        async with running(model_dir, peer, request_timeout=0.05) as app:
            silent = Client("/generate")
            task = silent.start(app)
            submit = await asyncio.to_thread(peer.submitted)
            assert submit.scheduling.deadline - (submit.scheduling.arrival or 0.0) == pytest.approx(0.05)
            await task  # the engine says nothing, so the worker itself looks at the clock
            assert (await silent.next())["status"] == 504
            assert json.loads((await silent.next())["body"]) == TIMED_OUT
            assert (await asyncio.to_thread(peer.aborted)).request_id == submit.request_id

            begun = Client()
            task = begun.start(app)
            submit = await asyncio.to_thread(peer.submitted)
            peer.send(submit.request_id, byte_ids("a"))
            assert (await begun.next())["status"] == 200
            await begun.next()
            await task
            assert json.loads((await begun.next())["body"].removeprefix(b"data: ")) == TIMED_OUT
            assert (await asyncio.to_thread(peer.aborted)).request_id == submit.request_id

            peer.die()
            while app._service.engine.unhealthy_reason() is None:
                await asyncio.sleep(0)
            waiting = Client("/generate")
            await waiting.start(app)
            assert (await waiting.next())["status"] == 504

    asyncio.run(run())


def test_a_reader_that_lags_too_far_behind_gets_an_error_at_the_end(
    model_dir: Path, peer: EnginePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_sequence, "MAX_UNREAD_TOKENS", 9)

    async def run() -> None:
        async with running(model_dir, peer, max_concurrent_requests=2) as app:
            slow, quick = Client(), Client()
            tasks = [client.start(app) for client in (slow, quick)]
            first, second = [await asyncio.to_thread(peer.submitted) for _ in tasks]
            peer.send(first.request_id, byte_ids("a"))
            await slow.next()
            await slow.next()
            slow.reads.clear()
            for _ in range(6):
                peer.send(first.request_id, byte_ids("bb"))
                peer.send(second.request_id, byte_ids("c"))
            peer.send(second.request_id, byte_ids("c"), "length")
            assert (await asyncio.to_thread(peer.aborted)).request_id == first.request_id
            await tasks[1]  # the other one had no reason to wait
            assert (
                b'"generated_text":"ccccccc"'
                in [quick.sent.get_nowait() for _ in range(quick.sent.qsize())][-1]["body"]
            )
            slow.reads.set()
            await tasks[0]
            assert b"the client reads too slowly" in last_body(slow)

    asyncio.run(run())
