"""The one loop that sends a stream of events, whatever protocol they are written in."""

from collections.abc import Callable

from .errors import ApiError
from .exchange import Headers
from .job import Job
from .sse import KEEP_ALIVE
from .text_stream import News


async def send_events(
    job: Job,
    encode: Callable[[list[News]], bytes],
    encode_error: Callable[[ApiError], bytes],
    headers: Headers,
    closing: Callable[[], bytes] | None = None,
    opening: bytes = b"",
) -> None:
    """Send what a job generates, to its end; what is there together leaves in one send.

    Nothing is sent before the first token, so that an error until then is a real HTTP status; silence longer than a
    keep-alive interval is filled with comments, and begins the stream.

    Args:
        encode: events for what came together; nothing is fine.
        encode_error: last events of a stream that has begun.
        closing: what follows the last token.
        opening: sent in front of the first event.

    Raises:
        ApiError: also after it was sent as an event.
    """
    exchange = job.exchange
    while not job.done:
        try:
            news = await job.next()
        except ApiError as error:
            if exchange.started:
                await exchange.end(encode_error(error))
            raise
        chunk = encode(news) if news else KEEP_ALIVE
        if news and opening:
            chunk, opening = opening + chunk, b""
        if not exchange.started:
            await exchange.start_stream(headers)
        if job.done:
            job.record.finish()
            await exchange.end(chunk if closing is None else chunk + closing())
        elif chunk:
            await exchange.write(chunk)
