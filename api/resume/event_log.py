"""The events of one resumable stream, numbered, and the one connection that reads them."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from ..http.errors import ApiError, ReaderReplaced, StreamNotFoundError
from ..http.sse import KEEP_ALIVE, KEEP_ALIVE_S

# Of one stream. A client that lost its connection asks again for what lay in its socket: kilobytes, as a second of text
# has few.
MAX_BYTES = 1 << 20
# Of one in the background, which nobody need read while it grows.
MAX_BACKGROUND_BYTES = 8 << 20

Write = Callable[[bytes, bool], Awaitable[None]]  # a part of the stream; whether it is the last


class EventLog:
    """Buffer between what generates and whoever reads: a reader may go, another goes on where it was.

    What a reader got is kept too, up to the bound. What none got is never dropped: ``append`` waits, but for a stream
    in the background that nobody reads.

    Attributes:
        id: what a client asks for; whoever knows it may read.
        ended: no more events will come.
        restored: all that the stream's earlier worker sent is there; ``failure``: why it can't be.
        size: bytes held.
    """

    def __init__(
        self, stream_id: str, grace_s: float, expire: Callable[["EventLog"], None], *, background: bool = False
    ) -> None:
        """``expire``: called when there was no reader for ``grace_s`` seconds."""
        self._grace_s = grace_s
        self._background = background
        self._max_bytes = MAX_BACKGROUND_BYTES if background else MAX_BYTES
        self._expire = expire
        self._events: deque[bytes] = deque()
        self._first = 1  # number of the first event held
        self._sent = 0  # number of the last event that a reader got
        self._reader: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()  # something new to read
        self._room = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.id = stream_id
        self.ended = False
        self.size = 0
        self.restored = asyncio.Event()
        self.restored.set()
        self.failure: ApiError | None = None
        self._start_timer()

    @property
    def has_reader(self) -> bool:
        return self._reader is not None

    @property
    def _last(self) -> int:
        return self._first + len(self._events) - 1

    async def append(self, chunk: bytes, ended: bool) -> None:
        """Number and keep the events in ``chunk``, but no comments; waits while too much is unread."""
        for event in chunk.split(b"\n\n"):
            if event and not event.startswith(b":"):
                numbered = b"id: %d\n%b\n\n" % (self._last + 1, event)
                self._events.append(numbered)
                self.size += len(numbered)
        self.ended = ended
        self._changed.set()
        self._drop_read()
        while self.size > self._max_bytes and not ended and self.restored.is_set():
            self._room.clear()
            await self._room.wait()

    async def rewind(self, after: int) -> None:
        """Dismiss who reads, and keep what follows event number ``after`` for the next one.

        Raises:
            StreamNotFoundError: it isn't here.
            ApiError: the stream's earlier worker died, and this one can't go on with it.
        """
        await self.restored.wait()
        if self.failure is not None:
            raise self.failure
        if not self._first - 1 <= after <= self._last:
            raise StreamNotFoundError(f"What follows event {after} is not there any more, or never was")
        self._dismiss()
        self._stop_timer()
        self._start_timer()
        self._sent = after

    async def read(self, write: Write) -> None:
        """Write every event from the beginning, or from where it was rewound to, until the stream ends.

        Raises:
            ReaderReplaced: somebody else reads now, or the log was closed.
        """
        task = asyncio.current_task()
        self._dismiss()
        self._reader = task
        self._stop_timer()
        try:
            await self._read_on(write)
        except asyncio.CancelledError:
            if self._reader is not task:
                raise ReaderReplaced("another connection goes on with this stream, or it is lost") from None
            raise
        finally:
            if self._reader is task:
                self._reader = None
                self._start_timer()
                self._drop_read()

    def close(self) -> None:
        """Nobody will read it again."""
        self._dismiss()
        self._stop_timer()

    async def _read_on(self, write: Write) -> None:
        while True:
            self._changed.clear()
            ended, last = self.ended, self._last
            chunk = b"".join([self._events[i - self._first] for i in range(self._sent + 1, last + 1)])
            if chunk or ended:
                await write(chunk, ended)
            self._sent = last
            self._drop_read()
            if ended:
                return
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    await self._changed.wait()
            except TimeoutError:
                await write(KEEP_ALIVE, False)

    def _drop_read(self) -> None:
        unread_too = self._background and self._reader is None
        while self.size > self._max_bytes and (unread_too or self._first <= self._sent):
            self.size -= len(self._events.popleft())
            self._first += 1
        self._room.set()

    def _dismiss(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _start_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._grace_s, self._expire, self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
