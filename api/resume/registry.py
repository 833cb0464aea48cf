"""Which resumable streams a worker has, and where each one's journal lies."""

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from ..http.connection import Receive, Scope, Send
from ..http.errors import StreamNotFoundError
from .event_log import EventLog
from .journal import Journal

REQUEST_HEADER = b"x-stream-resumable"

# Of all streams of a worker that have ended and wait for a client that may come back; the oldest go first.
MAX_ENDED_BYTES = 64 << 20

_ID = re.compile(r"[0-9]{1,3}-[A-Za-z0-9_-]{22}")  # the number of the worker that began it, and 128 random bits

Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class _Open(NamedTuple):
    log: EventLog
    over: asyncio.Event  # set when nobody will read it any more
    journal: Journal


class StreamRegistry:
    """The resumable streams of one worker.

    Attributes:
        application: answers a request; set by whoever does.
    """

    def __init__(self, worker: int, grace_s: float, directory: Path) -> None:
        """Of the worker with that number.

        Args:
            grace_s: how long a stream waits for a reader; 0: none is resumable.
            directory: a private one, that all workers share; journals lie there.
        """
        self.worker = worker
        self.application: Application | None = None
        self._grace_s = grace_s
        self._directory = directory
        self._open: dict[str, _Open] = {}  # oldest first

    def wanted(self, scope: Scope) -> bool:
        """The request asks for a stream that outlives its connection."""
        return self._grace_s > 0 and scope["method"] == "POST" and (REQUEST_HEADER, b"1") in scope["headers"]

    def find(self, stream_id: str) -> EventLog | None:
        """The stream, if it is one of this worker's."""
        found = self._open.get(stream_id)
        return None if found is None else found.log

    def open(self, over: asyncio.Event, journal: Journal) -> EventLog:
        """A new stream; ``over`` is set when nobody will read it any more."""
        log = EventLog(f"{self.worker}-{secrets.token_urlsafe(16)}", self._grace_s, self.drop)
        journal.open(self.journal_path(log.id, self.worker))
        self._open[log.id] = _Open(log, over, journal)
        return log

    def adopt(self, stream_id: str, over: asyncio.Event, journal: Journal) -> EventLog:
        """A stream that another worker began; its log is to be restored."""
        log = EventLog(stream_id, self._grace_s, self.drop)
        log.restored.clear()
        self._open[log.id] = _Open(log, over, journal)
        return log

    def owner(self, stream_id: str) -> int:
        """Number of the worker that has the stream, or had it. Raises StreamNotFoundError for what is no id."""
        if _ID.fullmatch(stream_id) is None:
            raise StreamNotFoundError
        journal = next(self._directory.glob(f"stream-{stream_id}.*"), None)
        return int(stream_id.partition("-")[0] if journal is None else journal.suffix[1:])

    def journal_path(self, stream_id: str, worker: int) -> Path:
        """The journal of a stream that this worker has. Its name changes with the owner."""
        return self._directory / f"stream-{stream_id}.{worker}"

    def expire_left(self) -> None:
        """What an earlier worker of this number left waits for the grace period, too."""
        for path in self._directory.glob(f"stream-*.{self.worker}"):
            self.expire(path)

    def expire(self, path: Path) -> None:
        """Forget a journal whose stream nobody takes over in time."""
        asyncio.get_running_loop().call_later(self._grace_s, self._delete_left, path)

    def _delete_left(self, path: Path) -> None:
        if path.stem.partition("-")[2] not in self._open:
            path.unlink(missing_ok=True)

    def drop(self, log: EventLog) -> None:
        """Forget a stream, and end what generates it."""
        if (found := self._open.pop(log.id, None)) is not None:
            log.close()
            found.over.set()
            found.journal.delete()

    def give_back(self, log: EventLog) -> None:
        """A stream that can't go on here and now: another worker may, or this one later."""
        found = self._open.pop(log.id)
        log.close()
        found.journal.close()
        self.expire(self.journal_path(log.id, self.worker))

    def trim(self) -> None:
        """Keep what ended streams hold within the bound."""
        ended = [log for log, *_ in self._open.values() if log.ended and not log.has_reader]
        size = sum(log.size for log in ended)
        for log in ended:
            if size <= MAX_ENDED_BYTES:
                break
            size -= log.size
            self.drop(log)

    def close(self) -> None:
        """Forget all."""
        for log, *_ in list(self._open.values()):
            self.drop(log)
