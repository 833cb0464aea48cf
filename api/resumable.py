"""Streams that outlive their connection: what stands between a handler and a client that asked for it.

A request with ``X-Stream-Resumable: 1`` is handled by a task of its own, whose receive() and send() are those of a
Response here. Its events go into a log; the connection reads from the log, and when it is lost,
``GET /streams/{X-Stream-Id}`` with ``Last-Event-ID`` reads on. If nobody does within the grace period, the handler is
told that its client has gone, like any other.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from .errors import ReaderStalled
from .event_log import EventLog
from .exchange import STALL_TIMEOUT_S, Message, Receive, Scope, Send

REQUEST_HEADER = b"x-stream-resumable"
ID_HEADER = b"x-stream-id"

# Of all streams of a worker that have ended and wait for a client that may come back; the oldest go first.
MAX_ENDED_BYTES = 64 << 20

Application = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)


class Streams:
    """The resumable streams of one worker."""

    def __init__(self, worker: int, grace_s: float) -> None:
        """Of the worker with that number.

        Args:
            grace_s: how long a stream waits for a reader; 0: none is resumable.
        """
        self._worker = worker
        self._grace_s = grace_s
        self._open: dict[str, tuple[EventLog, asyncio.Event]] = {}  # oldest first

    def wanted(self, scope: Scope) -> bool:
        """The request asks for a stream that outlives its connection."""
        return self._grace_s > 0 and scope["method"] == "POST" and (REQUEST_HEADER, b"1") in scope["headers"]

    def find(self, stream_id: str) -> EventLog | None:
        """The stream, if it is one of this worker's."""
        found = self._open.get(stream_id)
        return None if found is None else found[0]

    def open(self, over: asyncio.Event) -> EventLog:
        """A new stream; ``over`` is set when nobody will read it any more."""
        # 128 random bits cannot be guessed. The number in front says whom to ask.
        log = EventLog(f"{self._worker}-{secrets.token_urlsafe(16)}", self._grace_s, self.drop)
        self._open[log.id] = log, over
        return log

    def drop(self, log: EventLog) -> None:
        """Forget a stream, and end what generates it."""
        if (found := self._open.pop(log.id, None)) is not None:
            log.close()
            found[1].set()

    def trim(self) -> None:
        """Keep what ended streams hold within the bound."""
        ended = [log for log, _ in self._open.values() if log.ended and not log.has_reader]
        size = sum(log.size for log in ended)
        for log in ended:
            if size <= MAX_ENDED_BYTES:
                break
            size -= log.size
            self.drop(log)

    def close(self) -> None:
        """Forget all."""
        for log, _ in list(self._open.values()):
            self.drop(log)


class Response:
    """The answer to one request, resumable if it is an event stream."""

    def __init__(self, streams: Streams, receive: Receive, send: Send) -> None:
        self._streams = streams
        self._receive = receive
        self._send = send
        self._log: EventLog | None = None
        self._opened: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._body_read = asyncio.Event()
        self._over = asyncio.Event()  # nobody waits for an answer any more

    async def run(self, application: Application, scope: Scope) -> None:
        """Let the application answer. Raises ReaderStalled to cut the connection."""
        reader = asyncio.current_task()
        assert reader is not None
        handler = asyncio.ensure_future(application(scope, self.receive, self.send))
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
        if not message.get("more_body", False):
            self._body_read.set()
        return message

    async def send(self, message: Message) -> None:
        """For the handler: an event stream goes into a log, all else to the client."""
        if self._log is not None:
            await self._log.append(message.get("body", b""), not message.get("more_body", False))
        elif message["type"] == "http.response.start" and _is_stream(message):
            self._log = self._streams.open(self._over)
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


def stream_headers(stream_id: str) -> list[tuple[bytes, bytes]]:
    """Of every response that carries a resumable stream; scripts of other origins may read its id."""
    return [(ID_HEADER, stream_id.encode()), (b"access-control-expose-headers", ID_HEADER)]


def _is_stream(message: Message) -> bool:
    return (b"content-type", b"text/event-stream") in message["headers"]
