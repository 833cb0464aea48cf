"""A server that computes nothing: it streams at a fixed pace, so that what a client adds can be measured.

Speaks the three protocols. One clock ticks for all streams, as one engine step serves all sequences: at every tick each
stream gets an event. At pace 0 events leave as fast as the client takes them.
"""

import asyncio
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from typing import cast

import httptools
import msgspec
import uvloop
from msgspec import Struct

MODEL_ID = "null"
DEFAULT_TOKENS = 20
_HEAD = b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\n"
_STREAM = _HEAD % (200, b"OK", b"text/event-stream") + b"transfer-encoding: chunked\r\n\r\n"


class Part(Struct):
    """A piece of a message; what isn't text counts as nothing."""

    text: str = ""


class AnyMessage(Struct):
    """A message as the various clients send it."""

    content: str | list[Part] | None = None

    def words(self) -> int:
        parts = self.content if isinstance(self.content, list) else [Part(self.content or "")]
        return sum(len(part.text.split()) for part in parts)


class Parameters(Struct, frozen=True):
    max_new_tokens: int = DEFAULT_TOKENS


class Body(Struct):
    """A request of any of the protocols, as far as it matters here."""

    inputs: str = ""
    parameters: Parameters = Parameters()
    prompt: str = ""
    messages: list[AnyMessage] = []
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


class Stream:
    """The rest of one answer."""

    def __init__(self, transport: asyncio.Transport, events: Iterator[bytes], begin: float) -> None:
        self.transport = transport
        self.begin = begin  # of output, time.monotonic()
        self.paused = False  # the client reads more slowly than this
        self._events = events

    def tick(self) -> bool:
        """Send the next event. Returns whether this was the last."""
        event = next(self._events)
        self.transport.write(event)
        return event.endswith(b"0\r\n\r\n")


def chunked(event: bytes, last: bool = False) -> bytes:
    """An event as a chunk of HTTP/1.1, with the end of the message after the last."""
    chunk = b"%x\r\n%b\r\n" % (len(event) + 8, b"data: " + event + b"\n\n")
    return chunk + b"0\r\n\r\n" if last else chunk


def tgi_events(tokens: int, input_tokens: int) -> Iterator[bytes]:
    """The events of /generate_stream."""
    token = b'"token":{"id":1,"text":" a","logprob":-1.0,"special":false}'
    for index in range(1, tokens):
        yield chunked(b'{"index":%d,%b,"generated_text":null,"details":null}' % (index, token))
    details = b'{"finish_reason":"length","generated_tokens":%d,"seed":null,"input_length":%d}' % (tokens, input_tokens)
    text = msgspec.json.encode(" a" * tokens)
    yield chunked(b'{"index":%d,%b,"generated_text":%b,"details":%b}' % (tokens, token, text, details), last=True)


def openai_events(tokens: int, input_tokens: int, output: bytes, kind: bytes) -> Iterator[bytes]:
    """The chunks of both OpenAI routes: ``output`` is what a choice holds."""
    head = b'{"id":"null","object":"%b","created":0,"model":"null","choices":[' % kind
    choice = b'{"index":0,%b,"finish_reason":%b}]'
    for _ in range(tokens - 1):
        yield chunked(head + choice % (output, b"null") + b"}")
    last = chunked(head + choice % (output, b'"length"') + b"}")
    usage = b'"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}'
    last += chunked(head + b"]," + usage % (input_tokens, tokens, input_tokens + tokens))
    yield last + chunked(b"[DONE]", last=True)


def answer_events(path: str, body: Body) -> Iterator[bytes] | None:
    """What a request gets; None for unknown paths. Input tokens are words."""
    tokens = max(1, body.max_completion_tokens or body.max_tokens or body.parameters.max_new_tokens)
    if path == "/generate_stream":
        return tgi_events(tokens, len(body.inputs.split()))
    if path == "/v1/completions":
        return openai_events(tokens, len(body.prompt.split()), b'"text":" a"', b"text_completion")
    if path == "/v1/chat/completions":
        delta = b'"delta":{"role":"assistant","content":" a"}'
        return openai_events(tokens, sum(message.words() for message in body.messages), delta, b"chat.completion.chunk")
    return None


class NullServer:
    """The clock and the streams it serves."""

    def __init__(self, pace_s: float, first_s: float) -> None:
        self._pace_s = pace_s
        self._first_s = first_s
        self._streams: dict[asyncio.Transport, Stream] = {}
        self._next_tick = 0.0

    def add(self, transport: asyncio.Transport, events: Iterator[bytes]) -> None:
        """Begin a stream: its first event comes at the first tick after ``first_s`` seconds."""
        now = time.monotonic()
        self._streams[transport] = Stream(transport, events, now + self._first_s)
        if len(self._streams) == 1:
            self._next_tick = now
            self._schedule()

    def pause(self, transport: asyncio.Transport, paused: bool) -> None:
        """A client that is slow misses ticks."""
        if transport in self._streams:
            self._streams[transport].paused = paused

    def drop(self, transport: asyncio.Transport) -> None:
        """The client has gone."""
        self._streams.pop(transport, None)

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        self._next_tick += self._pace_s
        loop.call_later(max(0.0, self._next_tick - time.monotonic()), self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        for transport, stream in list(self._streams.items()):
            if now >= stream.begin and not stream.paused and stream.tick():
                del self._streams[transport]
        if self._streams:
            self._schedule()


class Connection(asyncio.Protocol):
    """Reads requests; the server's clock answers them."""

    def __init__(self, server: NullServer) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._path = ""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast: uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def pause_writing(self) -> None:
        self._server.pause(self._transport, True)

    def resume_writing(self) -> None:
        self._server.pause(self._transport, False)

    def connection_lost(self, exception: Exception | None) -> None:  # noqa: ARG002
        self._server.drop(self._transport)

    # httptools

    def on_message_begin(self) -> None:
        self._path, self._body = "", b""

    def on_url(self, url: bytes) -> None:
        self._path += url.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._parser.get_method() == b"GET":
            known: dict[str, object] = {
                "/health": {},
                "/info": {"model_id": MODEL_ID, "version": "null"},
                "/v1/models": {"object": "list", "data": [{"id": MODEL_ID, "object": "model"}]},
            }
            self._respond(200 if self._path in known else 404, known.get(self._path, {}))
            return
        try:
            events = answer_events(self._path, msgspec.json.decode(self._body, type=Body))
        except msgspec.DecodeError as error:
            self._respond(422, {"error": str(error), "error_type": "validation"})
            return
        if events is None:
            self._respond(404, {"error": "no such route", "error_type": "validation"})
            return
        self._transport.write(_STREAM)
        self._server.add(self._transport, events)

    def _respond(self, status: int, body: object) -> None:
        encoded = msgspec.json.encode(body)
        head = _HEAD % (status, b"-", b"application/json") + b"content-length: %d\r\n\r\n" % len(encoded)
        self._transport.write(head + encoded)


async def _serve(host: str, port: int, pace_ms: float, first_ms: float, ready: Callable[[int], None]) -> None:
    server = NullServer(pace_ms / 1e3, first_ms / 1e3)
    listening = await asyncio.get_running_loop().create_server(lambda: Connection(server), host, port)
    ready(listening.sockets[0].getsockname()[1])
    await listening.serve_forever()


def serve_null(host: str, port: int, pace_ms: float, first_ms: float, ready: Callable[[int], None]) -> None:
    """Serve until interrupted. Raises OSError if the port is taken.

    Args:
        port: 0 is a free one.
        pace_ms: between events of a stream; 0: as fast as they are taken.
        first_ms: before the first event of a stream.
        ready: is told the port.
    """
    uvloop.run(_serve(host, port, pace_ms, first_ms, ready))


def _serve_child(pipe: Pipe, pace_ms: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    serve_null("127.0.0.1", 0, pace_ms, 0.0, pipe.send)


@contextmanager
def null_server(pace_ms: float) -> Iterator[str]:
    """A null server in a process of its own; gives its URL."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_child, args=(theirs, pace_ms), daemon=True)
    process.start()
    theirs.close()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()
        process.join()
