"""GET /streams/{id}: go on with a resumable stream after its connection was lost."""

from .errors import StreamNotFoundError, TransportError, ValidationError
from .exchange import Exchange
from .resumable import stream_headers
from .service import Service
from .stream_relay import OwnerGoneError, relay_path, relayed
from .takeover import claim, take_over

STREAMS_PREFIX = "/streams/"


async def resume(service: Service, exchange: Exchange) -> None:
    """Send what follows the event named by ``Last-Event-ID``, all without one. Raises ApiError."""
    stream_id = exchange.path.removeprefix(STREAMS_PREFIX)
    after = _last_event_id(exchange)
    await exchange.skip_body()
    exchange.watch()
    if exchange.method == "HEAD":
        raise TransportError(405, "", ((b"allow", b"GET"),))
    streams = service.streams
    for _ in range(2):  # the second time, another worker may have been faster to claim it
        if (owner := streams.owner(stream_id)) == streams.worker:
            break
        try:
            await _relay(service, exchange, owner, stream_id, after)
            return
        except OwnerGoneError:
            claim(streams, stream_id, owner)
    log = streams.find(stream_id) or take_over(streams, stream_id, exchange)
    if log is None:
        raise StreamNotFoundError
    await log.rewind(after)
    await _start(exchange, stream_id)
    await log.read(lambda chunk, last: exchange.end(chunk) if last else exchange.write(chunk))


async def _relay(service: Service, exchange: Exchange, owner: int, stream_id: str, after: int) -> None:
    async with relayed(relay_path(service.config.engine_socket, owner), stream_id, after) as chunks:
        await _start(exchange, stream_id)
        async for chunk in chunks:
            await exchange.write(chunk)
        await exchange.end()


async def _start(exchange: Exchange, stream_id: str) -> None:
    await exchange.start_stream(stream_headers(stream_id))


def _last_event_id(exchange: Exchange) -> int:
    given = exchange.headers.get(b"last-event-id", b"0")
    if not given.isdigit() or len(given) > 18:
        raise ValidationError("`Last-Event-ID` must be the number in an `id:` line")
    return int(given)
