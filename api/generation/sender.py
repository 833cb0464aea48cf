"""The one loop that sends a stream of events, whatever protocol they are written in."""

from collections.abc import Callable

from ..http.connection import Headers
from ..http.errors import ApiError
from ..http.sse import KEEP_ALIVE
from ..text.text_sequence import SequenceOutput
from .request import GenerationRequest


async def send_events(
    generation: GenerationRequest,
    encode: Callable[[list[SequenceOutput]], bytes],
    encode_error: Callable[[ApiError], bytes],
    headers: Headers,
    closing: Callable[[], bytes] | None = None,
    opening: Callable[[], bytes] | None = None,
    keep_alive: bytes = KEEP_ALIVE,
) -> None:
    """Send what a generation generates, to its end; what is there together leaves in one send.

    Nothing is sent before the first token, so that an error until then is a real HTTP status; silence longer than a
    keep-alive interval is filled with comments, and begins the sequence.

    Args:
        encode: events for what came together; nothing is fine.
        encode_error: last events of a stream that has begun.
        closing: what follows the last token.
        opening: sent in front of the first event.
        keep_alive: sent when nothing else was for a time.

    Raises:
        ApiError: also after it was sent as an event.
    """
    connection = generation.connection
    while not generation.done:
        try:
            output = await generation.next()
        except ApiError as error:
            if connection.started:
                await connection.end(encode_error(error))
            raise
        first = b""
        if output and opening is not None:
            first, opening = opening(), None
        chunk = first + encode(output) if output else keep_alive
        if not connection.started:
            await connection.start_stream(headers)
        if generation.done:
            generation.stats.finish()
            await connection.end(chunk if closing is None else chunk + closing())
        elif chunk:
            await connection.write(chunk)
