"""A request that is answered into the log of its stream, without a connection of its own.

Either it runs again after its worker has died (failover.py), or nobody waits for it: it runs in the background.
"""

import asyncio
import logging

from ..generation.request_context import request_context
from ..http.connection import Application, Connection, Message
from ..http.errors import OverloadedError, StreamNotFoundError
from .event_log import EventLog
from .journal import KEY_HEADERS, Journal
from .middleware import SCOPE_KEY, ResumeMiddleware, is_stream, run_handler
from .registry import StreamRegistry
from .replay import JournaledContext

logger = logging.getLogger(__name__)


def run_in_background(connection: Connection, body: bytes) -> EventLog:
    """Begin to answer the request of this connection, with another body, as a stream that outlives it.

    Its handler finds the stream's id in the request's context.
    """
    middleware: ResumeMiddleware = connection.scope[SCOPE_KEY]
    streams = middleware.streams
    journal, over = Journal.begin(connection.scope), asyncio.Event()
    journal.request.body = body
    log = streams.open(over, journal, background=True)
    log.restored.clear()  # until its handler is ready to generate
    return DetachedRun(streams, log, journal, over).begin(middleware.app, connection)


def background_id() -> str | None:
    """That of the stream which the request at hand writes in the background, None if it has a connection."""
    return request_context().stream_id


class DetachedRun:
    """One request, answered into the log of its stream."""

    def __init__(self, streams: StreamRegistry, log: EventLog, journal: Journal, over: asyncio.Event) -> None:
        """``over``: set when nobody will read the stream any more."""
        self._streams = streams
        self._journal = journal
        self._over = over
        self._refused = 0  # with this status
        self._body: bytes | None = journal.request.body  # until the handler has it
        self._log = log

    def begin(self, app: Application, connection: Connection) -> EventLog:
        """Returns the log; it is restored when the events of an earlier run are in it.

        Args:
            connection: of a client that has shown the key.
        """
        request = self._journal.request
        key = [(name, value) for name, value in connection.headers.items() if name in KEY_HEADERS]
        scope = {
            "type": "http",
            "method": request.method,
            "path": request.path,
            "root_path": connection.scope.get("root_path", ""),
            "headers": [*request.headers, *key],
            SCOPE_KEY: connection.scope[SCOPE_KEY],
        }
        context = JournaledContext(self._journal, self._log.restored.set, self._log.id)
        handler = run_handler(app(scope, self._receive, self._send), context)
        handler.add_done_callback(self._on_done)
        return self._log

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._refused = 0 if is_stream(message) else message["status"]
        elif not self._refused:
            await self._log.append(message.get("body", b""), not message.get("more_body", False))

    def _on_done(self, handler: "asyncio.Task[None]") -> None:
        if self._log.ended:
            self._streams.trim()
        elif self._over.is_set():
            self._log.failure = StreamNotFoundError()
        elif self._refused == OverloadedError.status:
            self._log.failure = OverloadedError()
            self._streams.give_back(self._log)
        else:
            error = None if handler.cancelled() else handler.exception()
            logger.warning("resumable stream cut: %s", error or f"status {self._refused}")
            self._log.failure = StreamNotFoundError("The stream's worker died, and it can't go on")
            self._streams.drop(self._log)  # its end will never come
        self._log.restored.set()
