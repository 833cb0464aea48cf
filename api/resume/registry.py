"""Which resumable streams a worker has, and where each one's journal lies."""

import asyncio
import re
import secrets
from pathlib import Path
from typing import NamedTuple

from ..http.errors import StreamNotFoundError
from .event_log import EventLog
from .journal import Journal

# Of all streams of a worker that have ended and wait for a client that may come back; the oldest go first.
MAX_ENDED_BYTES = 64 << 20

# The number of the worker that began it, and 128 random bits; one more letter marks a stream in the background.
_ID = re.compile(r"[0-9]{1,3}-[A-Za-z0-9_-]{22}b?")


class _Stream(NamedTuple):
    log: EventLog
    over: asyncio.Event  # set when nobody will read it any more
    journal: Journal


class StreamRegistry:
    """The resumable streams of one worker."""

    def __init__(self, worker: int, grace_s: float, directory: Path, background_grace_s: float = 0) -> None:
        """Of the worker with that number.

        Args:
            grace_s: how long a stream waits for a reader; 0: none is resumable. background_grace_s: one in the
                background.
            directory: a private one, that all workers share; journals lie there.
        """
        self.worker = worker
        self.grace_s = grace_s
        self._background_grace_s = background_grace_s
        self.directory = directory
        self._streams: dict[str, _Stream] = {}  # oldest first

    def find(self, stream_id: str) -> EventLog | None:
        """The stream, if it is one of this worker's."""
        stream = self._streams.get(stream_id)
        return None if stream is None else stream.log

    def open(self, over: asyncio.Event, journal: Journal, *, background: bool = False) -> EventLog:
        """A new stream; ``over`` is set when nobody will read it any more."""
        log = self._new_log(f"{self.worker}-{secrets.token_urlsafe(16)}{'b' if background else ''}")
        journal.open(self.journal_path(log.id, self.worker))
        self._streams[log.id] = _Stream(log, over, journal)
        return log

    def adopt(self, stream_id: str, over: asyncio.Event, journal: Journal) -> EventLog:
        """A stream that another worker began; its log is to be restored."""
        log = self._new_log(stream_id)
        log.restored.clear()
        self._streams[log.id] = _Stream(log, over, journal)
        return log

    def _new_log(self, stream_id: str) -> EventLog:
        return EventLog(stream_id, self._grace_of(stream_id), self.drop, background=_is_background(stream_id))

    def _grace_of(self, stream_id: str) -> float:
        return self._background_grace_s if _is_background(stream_id) else self.grace_s

    def owner(self, stream_id: str) -> int:
        """Number of the worker that has the stream, or had it. Raises StreamNotFoundError for what is no id."""
        if _ID.fullmatch(stream_id) is None:
            raise StreamNotFoundError
        journal = next(self.directory.glob(f"stream-{stream_id}.*"), None)
        return int(stream_id.partition("-")[0] if journal is None else journal.suffix[1:])

    def journal_path(self, stream_id: str, worker: int) -> Path:
        """The journal of a stream that this worker has. Its name changes with the owner."""
        return self.directory / f"stream-{stream_id}.{worker}"

    def expire_left(self) -> None:
        """What an earlier worker of this number left waits for the grace period, too."""
        for path in self.directory.glob(f"stream-*.{self.worker}"):
            self._expire(path)

    def drop(self, log: EventLog) -> None:
        """Forget a stream, and end what generates it."""
        if (stream := self._streams.pop(log.id, None)) is not None:
            log.close()
            stream.over.set()
            stream.journal.delete()

    def give_back(self, log: EventLog) -> None:
        """A stream that can't go on here and now: another worker may, or this one later."""
        stream = self._streams.pop(log.id)
        log.close()
        stream.journal.close()
        self._expire(self.journal_path(log.id, self.worker))

    def trim(self) -> None:
        """Keep what ended streams hold within the bound."""
        ended = [log for log, *_ in self._streams.values() if log.ended and not log.has_reader]
        size = sum(log.size for log in ended)
        for log in ended:
            if size <= MAX_ENDED_BYTES:
                break
            size -= log.size
            self.drop(log)

    def close(self) -> None:
        """Forget all."""
        for log, *_ in list(self._streams.values()):
            self.drop(log)

    def _expire(self, path: Path) -> None:
        """Forget a journal whose stream nobody takes over in time."""
        grace_s = self._grace_of(path.stem.partition("-")[2])
        asyncio.get_running_loop().call_later(grace_s, self._delete_left, path)

    def _delete_left(self, path: Path) -> None:
        if path.stem.partition("-")[2] not in self._streams:
            path.unlink(missing_ok=True)


def _is_background(stream_id: str) -> bool:
    return len(stream_id.partition("-")[2]) > 22
