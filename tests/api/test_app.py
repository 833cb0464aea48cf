"""The application without HTTP in between: what it says to the server, and when."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from headwater.api import exchange, routes_native
from headwater.api.app import App
from headwater.api.config import ApiConfig
from headwater.api.errors import ReaderStalled
from headwater.api.permits import Permits, create_permits
from headwater.api.service import Service

from .conftest import DEADLINE_S, EnginePeer, byte_ids

SCOPE = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}


@asynccontextmanager
async def running(model_dir: Path, peer: EnginePeer) -> AsyncIterator[App]:
    permits = peer.path.with_name("permits")
    create_permits(permits)
    config = ApiConfig(model_dir=model_dir, model_id="tiny", engine_socket=peer.path, max_concurrent_requests=1)
    service = Service(config, Permits(permits, 1))
    await service.start()
    try:
        yield App(service, parent_pid=0)
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


def test_silence_is_filled_with_comments(model_dir: Path, peer: EnginePeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_native, "KEEP_ALIVE_S", 0.01)

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
    monkeypatch.setattr(exchange, "STALL_TIMEOUT_S", 0.05)

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
                while app._service.engine.is_healthy():
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
