"""Going on with a resumable stream whose worker has died.

Its journal has the request and the tokens that were sent. The request runs again here: it takes those tokens first,
which gives the same events, and then the engine goes on behind them. A reader notices a pause.
"""

import asyncio
import logging
from contextlib import suppress

from ...engine.frames import FrameError
from ..http.connection import Application, Connection, Message
from ..http.errors import OverloadedError, StreamNotFoundError
from .event_log import EventLog
from .journal import KEY_HEADERS, Journal
from .middleware import is_stream, run_handler
from .registry import StreamRegistry
from .replay import JournaledContext

logger = logging.getLogger(__name__)


def claim(streams: StreamRegistry, stream_id: str, owner: int) -> None:
    """Make a stream this worker's own whose worker doesn't have it, unless another worker was faster."""
    with suppress(FileNotFoundError):
        streams.journal_path(stream_id, owner).rename(streams.journal_path(stream_id, streams.worker))


def take_over(streams: StreamRegistry, stream_id: str, connection: Connection, app: Application) -> EventLog | None:
    """Run the request of a stream again that has a journal of this worker's; None if it has none.

    Args:
        connection: of the client that came back; it has shown the key.
        app: answers requests.
    """
    path = streams.journal_path(stream_id, streams.worker)
    try:
        journal = Journal.read(path)
    except FileNotFoundError:
        return None
    except (OSError, FrameError) as error:
        logger.warning("resumable stream: its journal can't be read: %s", error)
        path.unlink(missing_ok=True)
        return None
    logger.info("resumable stream: taken over from a worker that has died")
    return _Rerun(streams, stream_id, journal).begin(app, connection)


class _Rerun:
    """One request, answered again into the log of its stream."""

    def __init__(self, streams: StreamRegistry, stream_id: str, journal: Journal) -> None:
        self._streams = streams
        self._journal = journal
        self._over = asyncio.Event()
        self._refused = 0  # with this status
        self._body: bytes | None = journal.request.body  # until the handler has it
        self._log = streams.adopt(stream_id, self._over, journal)

    def begin(self, app: Application, connection: Connection) -> EventLog:
        """Returns the log; it is restored when the events of the earlier run are in it."""
        request = self._journal.request
        key = [(name, value) for name, value in connection.headers.items() if name in KEY_HEADERS]
        scope = {
            "type": "http",
            "method": request.method,
            "path": request.path,
            "root_path": connection.scope.get("root_path", ""),
            "headers": [*request.headers, *key],
        }
        context = JournaledContext(self._journal, self._log.restored.set)
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
        elif self._refused == OverloadedError.status:
            self._log.failure = OverloadedError()
            self._streams.give_back(self._log)
        else:
            error = None if handler.cancelled() else handler.exception()
            logger.warning("resumable stream cut: %s", error or f"status {self._refused}")
            self._log.failure = StreamNotFoundError("The stream's worker died, and it can't go on")
            self._streams.drop(self._log)  # its end will never come
        self._log.restored.set()
