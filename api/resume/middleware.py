"""Streams that outlive their connection: the layer between the application and a client that asked for it.

A request with ``X-Stream-Resumable: 1`` is handled by a task of its own, whose receive() and send() are those of a
ResumableResponse here. Its events go into a log; the connection reads from the log, and when it is lost,
``GET /streams/{X-Stream-Id}`` with ``Last-Event-ID`` reads on (reconnect.py). If nobody does within the grace period,
the handler is told that its client has gone, like any other. Each stream has a journal, so that it outlives its
worker, too (failover.py).
"""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from ..generation.request_context import RequestContext, use_context
from ..http.connection import STALL_TIMEOUT_S, Application, Message, Receive, Scope, Send
from ..http.errors import ReaderStalled
from .documents import Documents
from .event_log import EventLog
from .journal import Journal
from .registry import StreamRegistry
from .relay import StreamRelay
from .replay import JournaledContext

REQUEST_HEADER = b"x-stream-resumable"
ID_HEADER = b"x-stream-id"
SCOPE_KEY = "headwater.resume"  # where the scope of every request has the middleware

logger = logging.getLogger(__name__)


class ResumeMiddleware:
    """ASGI application around another one.

    Attributes:
        app: the application.
        streams: the resumable streams of this worker.
        documents: what answers leave for later requests, of all workers.
    """

    def __init__(
        self, app: Application, worker: int, grace_s: float, directory: Path, document_age_s: float = 0
    ) -> None:
        """See StreamRegistry and Documents; a stream in the background is kept as long as a document."""
        self.app = app
        self.streams = StreamRegistry(worker, grace_s, directory, document_age_s)
        self.documents = Documents(directory / "documents", document_age_s)
        self._relay = StreamRelay(self.streams)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        scope[SCOPE_KEY] = self
        if self._is_wanted(scope):
            await ResumableResponse(self.streams, receive, send).run(self.app, scope)
        else:
            await self.app(scope, receive, send)

    def _is_wanted(self, scope: Scope) -> bool:
        """The request asks for a stream that outlives its connection."""
        asked = scope["method"] == "POST" and (REQUEST_HEADER, b"1") in scope["headers"]
        return asked and self.streams.grace_s > 0

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stopping() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                self.streams.close()
                self._relay.stop()
            return message

        async def started(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self._relay.start()
                self.streams.expire_left()
            await send(message)

        await self.app(scope, stopping, started)


class ResumableResponse:
    """The answer to one request, resumable if it is an event stream."""

    def __init__(self, streams: StreamRegistry, receive: Receive, send: Send) -> None:
        self._streams = streams
        self._receive = receive
        self._send = send
        self._log: EventLog | None = None
        self._journal: Journal | None = None
        self._body: list[bytes] = []
        self._opened: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._body_read = asyncio.Event()
        self._over = asyncio.Event()  # nobody waits for an answer any more

    async def run(self, app: Application, scope: Scope) -> None:
        """Let the application answer. Raises ReaderStalled to cut the connection."""
        reader = asyncio.current_task()
        assert reader is not None
        self._journal = Journal.begin(scope)
        handler = run_handler(app(scope, self.receive, self.send), JournaledContext(self._journal))
        handler.add_done_callback(self._on_handler_done)
        gone = asyncio.ensure_future(self._until_gone())
        gone.add_done_callback(lambda _: self._on_gone(reader))
        try:
            first: list[asyncio.Future[Any]] = [handler, self._opened]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if self._log is None:
                await handler
            else:
                await self._send(self._opened.result())
                await self._log.read(self._write)
        except asyncio.CancelledError:
            if not gone.done():
                raise
        finally:
            gone.cancel()

    async def receive(self) -> Message:
        """For the handler: the body, then at the end of the grace period that the client has gone."""
        if self._body_read.is_set():
            await self._over.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        self._body.append(message.get("body", b""))
        if not message.get("more_body", False):
            assert self._journal is not None
            self._journal.request.body = b"".join(self._body)
            self._body_read.set()
        return message

    async def send(self, message: Message) -> None:
        """For the handler: an event stream goes into a log, all else to the client."""
        if self._log is not None:
            await self._log.append(message.get("body", b""), not message.get("more_body", False))
        elif message["type"] == "http.response.start" and is_stream(message):
            assert self._journal is not None
            self._log = self._streams.open(self._over, self._journal)
            self._opened.set_result({**message, "headers": [*message["headers"], *stream_headers(self._log.id)]})
        else:
            await self._send(message)

    async def _write(self, chunk: bytes, last: bool) -> None:
        try:
            async with asyncio.timeout(STALL_TIMEOUT_S):
                await self._send({"type": "http.response.body", "body": chunk, "more_body": not last})
        except TimeoutError:
            raise ReaderStalled(f"nothing read for {STALL_TIMEOUT_S:.0f} s") from None

    async def _until_gone(self) -> None:
        await self._body_read.wait()
        await self._receive()

    def _on_gone(self, reader: "asyncio.Task[None]") -> None:
        if self._log is None:
            self._over.set()  # there is no id yet to come back with
        elif not self._log.ended:  # after the last event the client seems to go, too
            reader.cancel()

    def _on_handler_done(self, handler: "asyncio.Future[None]") -> None:
        error = None if handler.cancelled() else handler.exception()
        if self._log is None:
            return
        if error is not None:
            logger.warning("resumable stream cut: %s", error)
        if self._log.ended:
            self._streams.trim()
        else:
            self._streams.drop(self._log)  # its end will never come


def run_handler(answer: Awaitable[None], context: RequestContext) -> "asyncio.Task[None]":
    """A task that answers a request which has this context."""
    variables = contextvars.copy_context()
    variables.run(use_context, context)
    return asyncio.get_running_loop().create_task(_finish(answer), context=variables)


async def _finish(answer: Awaitable[None]) -> None:
    await answer


def is_stream(message: Message) -> bool:
    """A response starts that is an event stream."""
    return (b"content-type", b"text/event-stream") in message["headers"]


def stream_headers(stream_id: str) -> list[tuple[bytes, bytes]]:
    """Of every response that carries a resumable stream; scripts of other origins may read its id."""
    return [(ID_HEADER, stream_id.encode()), (b"access-control-expose-headers", ID_HEADER)]
