"""GET /streams/{id}: go on with a resumable stream after its connection was lost."""

from pathlib import Path

from ..generation.service import Service
from ..http.connection import Connection
from ..http.errors import StreamNotFoundError, TransportError, ValidationError
from .failover import claim, take_over
from .middleware import SCOPE_KEY, ResumeMiddleware, stream_headers
from .relay import OwnerGoneError, relay_path, relayed


async def resume(_service: Service, connection: Connection) -> None:
    """Send what follows the event named by ``Last-Event-ID``, all without one. Raises ApiError."""
    middleware: ResumeMiddleware = connection.scope[SCOPE_KEY]
    streams, stream_id = middleware.streams, connection.path_params["id"]
    after = _last_event_id(connection)
    await connection.skip_body()
    connection.watch()
    if connection.method == "HEAD":
        raise TransportError(405, "", ((b"allow", b"GET"),))
    for _ in range(2):  # the second time, another worker may have been faster to claim it
        if (owner := streams.owner(stream_id)) == streams.worker:
            break
        try:
            await _relay(relay_path(streams.directory, owner), connection, stream_id, after)
            return
        except OwnerGoneError:
            claim(streams, stream_id, owner)
    log = streams.find(stream_id) or take_over(streams, stream_id, connection, middleware.app)
    if log is None:
        raise StreamNotFoundError
    await log.rewind(after)
    await _start(connection, stream_id)
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
