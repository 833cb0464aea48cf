"""Resumable streams of one worker, read by the others: a request to go on may reach any of them.

Each worker listens on a Unix socket beside the engine's. Who connects sends ``id last-event-number`` and a newline; the
answer is a line, ``ok``, ``unknown`` or why else not, then frames of 4 bytes length (big-endian) and events. An empty
frame ends the stream; the connection's end without one means that it is lost. ``id look``
and ``id drop`` see whether the stream is there, and forget it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

from ..http.errors import ApiError, ReaderReplaced, StreamNotFoundError
from .registry import StreamRegistry

_LENGTH_BYTES = 4
_UNKNOWN = "unknown"


class OwnerGoneError(StreamNotFoundError):
    """The worker that should have the stream doesn't: it has died."""


def relay_path(directory: Path, worker: int) -> Path:
    """The socket of a worker."""
    return directory / f"streams-{worker}.sock"


class StreamRelay:
    """This worker's socket."""

    def __init__(self, streams: StreamRegistry) -> None:
        self._streams = streams
        self._path = relay_path(streams.directory, streams.worker)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, in the place of a worker that had the same number."""
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            try:
                await self._answer(reader, writer)
            finally:
                writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream_id, _, after = (await reader.readline()).decode().rstrip("\n").partition(" ")
        if (log := self._streams.find(stream_id)) is None:
            writer.write(_UNKNOWN.encode() + b"\n")
            return
        if after in ("look", "drop"):
            if after == "drop":
                self._streams.drop(log)
            writer.write(b"ok\n")
            return
        try:
            await log.rewind(int(after))
        except StreamNotFoundError as error:
            writer.write(error.error.encode() + b"\n")
            return
        except ApiError:  # it could not be taken over here
            writer.write(_UNKNOWN.encode() + b"\n")
            return
        writer.write(b"ok\n")

        async def write(chunk: bytes, last: bool) -> None:
            if chunk:
                writer.write(len(chunk).to_bytes(_LENGTH_BYTES, "big") + chunk)
            if last:
                writer.write(bytes(_LENGTH_BYTES))
            await writer.drain()

        reading = asyncio.ensure_future(log.read(write))
        closed = asyncio.ensure_future(reader.read())
        closed.add_done_callback(lambda _: reading.cancel())
        with contextlib.suppress(asyncio.CancelledError, ReaderReplaced):
            await reading
        closed.cancel()


@contextlib.asynccontextmanager
async def relayed(path: Path, stream_id: str, after: int) -> AsyncIterator[AsyncIterator[bytes]]:
    """What another worker's stream goes on with; the iterator raises ReaderReplaced if that ends before its end.

    Raises:
        OwnerGoneError: the worker or the stream is not there.
        StreamNotFoundError: the events are not there.
    """
    async with _asked(path, f"{stream_id} {after}") as reader:
        yield _chunks(reader)


@contextlib.asynccontextmanager
async def _asked(path: Path, question: str) -> AsyncIterator[asyncio.StreamReader]:
    """What follows the ``ok`` to a question."""
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except (FileNotFoundError, ConnectionRefusedError):
        raise OwnerGoneError from None
    except OSError:
        raise StreamNotFoundError from None
    try:
        writer.write(f"{question}\n".encode())
        answer = (await reader.readline()).decode().rstrip("\n")
        if answer in ("", _UNKNOWN):
            raise OwnerGoneError
        if answer != "ok":
            raise StreamNotFoundError(answer)
        yield reader
    finally:
        writer.close()


async def ask_relayed(path: Path, stream_id: str, what: Literal["look", "drop"]) -> None:
    """See whether another worker has a stream, or let it forget that. Raises OwnerGoneError, StreamNotFoundError."""
    async with _asked(path, f"{stream_id} {what}"):
        pass


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    try:
        while length := int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big"):
            yield await reader.readexactly(length)
    except (asyncio.IncompleteReadError, OSError):
        raise ReaderReplaced("another connection goes on with this stream, or it is lost") from None
