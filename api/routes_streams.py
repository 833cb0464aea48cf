"""GET /streams/{id}: go on with a resumable stream after its connection was lost."""

from .errors import StreamNotFoundError, TransportError, ValidationError
from .exchange import Exchange
from .resumable import stream_headers
from .service import Service
from .stream_relay import relay_path, relayed

STREAMS_PREFIX = "/streams/"


async def resume(service: Service, exchange: Exchange) -> None:
    """Send what follows the event named by ``Last-Event-ID``, all without one. Raises ApiError."""
    stream_id = exchange.path.removeprefix(STREAMS_PREFIX)
    after = _last_event_id(exchange)
    await exchange.skip_body()
    exchange.watch()
    worker, _, secret = stream_id.partition("-")
    if exchange.method == "HEAD":
        raise TransportError(405, "", ((b"allow", b"GET"),))
    log = service.streams.find(stream_id)
    if log is not None:
        log.rewind(after)
        await _start(exchange, stream_id)
        await log.read(lambda chunk, last: exchange.end(chunk) if last else exchange.write(chunk))
    elif secret.isascii() and secret.isprintable() and worker.isdecimal() and int(worker) != service.permits.index:
        async with relayed(relay_path(service.config.engine_socket, worker), stream_id, after) as chunks:
            await _start(exchange, stream_id)
            async for chunk in chunks:
                await exchange.write(chunk)
            await exchange.end()
    else:
        raise StreamNotFoundError


async def _start(exchange: Exchange, stream_id: str) -> None:
    await exchange.start_stream(stream_headers(stream_id))


def _last_event_id(exchange: Exchange) -> int:
    given = exchange.headers.get(b"last-event-id", b"0")
    if not given.isdigit() or len(given) > 18:
        raise ValidationError("`Last-Event-ID` must be the number in an `id:` line")
    return int(given)
