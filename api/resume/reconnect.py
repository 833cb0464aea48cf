"""Going on with a resumable stream after its connection was lost, whichever worker has it: GET /streams/{id}."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from ..generation.service import Service
from ..http.connection import Connection
from ..http.errors import StreamNotFoundError, TransportError, ValidationError
from .event_log import EventLog
from .failover import claim, take_over
from .middleware import SCOPE_KEY, ResumeMiddleware, stream_headers
from .registry import StreamRegistry
from .relay import OwnerGoneError, ask_relayed, relay_path, relayed


async def resume(_service: Service, connection: Connection) -> None:
    """Send what follows the event named by ``Last-Event-ID``, all without one. Raises ApiError."""
    await send_on(connection, connection.path_params["id"], _last_event_id(connection))


async def send_on(connection: Connection, stream_id: str, after: int) -> None:
    """Send what follows event number ``after`` of a stream, whichever worker has it. Raises ApiError."""
    await connection.skip_body()
    connection.watch()
    if connection.method == "HEAD":
        raise TransportError(405, "", ((b"allow", b"GET"),))
    log = await _here(connection, stream_id, lambda path: _relay(path, connection, stream_id, after))
    if log is not None:
        await follow(connection, log, after)


async def look_after(connection: Connection, stream_id: str) -> None:
    """See that some worker goes on with a stream. Raises StreamNotFoundError if none can."""
    await _here(connection, stream_id, lambda path: ask_relayed(path, stream_id, "look"))


async def drop(connection: Connection, stream_id: str) -> None:
    """Forget a stream, and end what generates it. Raises StreamNotFoundError."""
    log = await _here(connection, stream_id, lambda path: ask_relayed(path, stream_id, "drop"))
    if log is not None:
        _streams(connection).drop(log)


async def _here(connection: Connection, stream_id: str, ask: Callable[[Path], Awaitable[None]]) -> EventLog | None:
    """The stream's log, if this worker has it or can take it over; None: ``ask`` had what it wants from its worker.

    Raises StreamNotFoundError.
    """
    streams = _streams(connection)
    for _ in range(2):  # the second time, another worker may have been faster to claim it
        if (owner := streams.owner(stream_id)) == streams.worker:
            break
        try:
            await ask(relay_path(streams.directory, owner))
            return None
        except OwnerGoneError:
            claim(streams, stream_id, owner)
    log = streams.find(stream_id) or take_over(streams, stream_id, connection, connection.scope[SCOPE_KEY].app)
    if log is None:
        raise StreamNotFoundError
    return log


def _streams(connection: Connection) -> StreamRegistry:
    middleware: ResumeMiddleware = connection.scope[SCOPE_KEY]
    return middleware.streams


async def follow(connection: Connection, log: EventLog, after: int) -> None:
    """Send what follows event number ``after`` of a stream of this worker. Raises ApiError."""
    await log.rewind(after)
    await _start(connection, log.id)
    await log.read(lambda chunk, last: connection.end(chunk) if last else connection.write(chunk))


async def _relay(path: Path, connection: Connection, stream_id: str, after: int) -> None:
    async with relayed(path, stream_id, after) as chunks:
        await _start(connection, stream_id)
        async for chunk in chunks:
            await connection.write(chunk)
        await connection.end()


async def _start(connection: Connection, stream_id: str) -> None:
    await connection.start_stream(stream_headers(stream_id))


def _last_event_id(connection: Connection) -> int:
    given = connection.headers.get(b"last-event-id", b"0")
    if not given.isdigit() or len(given) > 18:
        raise ValidationError("`Last-Event-ID` must be the number in an `id:` line")
    return int(given)
