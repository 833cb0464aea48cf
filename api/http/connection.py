"""One HTTP request and its response, on top of ASGI as Granian implements it.

Granian's rules (measured): send() never tells that the client has gone, a pending receive() does, at once, but only
after the body was read to its end; and when the response ends the pending receive() says the same. So a route that
generates calls ``watch`` after reading the body, and the handler's task is cancelled when the client goes.
"""

import asyncio
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from .errors import ClientDisconnect, ReaderStalled, TransportError
from .json_body import json_error

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

# A reader that takes nothing for this long is gone for all practical purposes (a JavaScript client that leaves its
# loop keeps the connection open); until then only its own stream waits.
STALL_TIMEOUT_S = 30.0
# Between two parts of a request's body.
BODY_TIMEOUT_S = 30.0
# The whole of it: a client may trickle.
BODY_LIMIT_S = 120.0

_VARY = (b"vary", b"origin, access-control-request-method, access-control-request-headers")
_MAX_REQUEST_ID_BYTES = 128
_JSON = b"application/json"
_MAX_NAMED_BYTES = 32  # of a header's value that an error shows
_NO_CODING = ((b"accept-encoding", b"identity"),)  # RFC 9110, 15.5.16: what could be read instead
_CLOSE = ((b"connection", b"close"),)

T = TypeVar("T")


class Connection:
    """Request and response.

    Attributes:
        scope: of ASGI.
        headers: of the request, names in lower case; of repeated ones the last.
        route: path of the route as the table has it; path_params: what stands in the place of its parameters.
        request_id: the client's x-request-id or x-amzn-trace-id, or a new one.
        arrival: by time.monotonic().
        logged: the request's line is in the log.
        started, finished: of the response.
        gone: the client closed the connection before the response was finished.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, cors_allow_origin: tuple[str, ...]) -> None:
        self._receive = receive
        self._send = send
        self._watcher: asyncio.Task[Message] | None = None
        self._handler: asyncio.Task[Any] | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._stalled = False
        self._write_began = math.inf  # loop.time() of the write in progress
        self._loop = asyncio.get_running_loop()
        self.scope = scope
        self.method: str = scope["method"]
        # Some clients join a base URL that ends in a slash with a path that begins with one.
        self.path: str = "/" + scope["path"].lstrip("/")
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.route = ""
        self.arrival = time.monotonic()
        self.logged = False
        self.path_params: dict[str, str] = {}
        self.started = False
        self.finished = False
        self.gone = False
        # huggingface_hub names its requests in the second one, and looks for the name in x-request-id.
        wanted = self.headers.get(b"x-request-id") or self.headers.get(b"x-amzn-trace-id", b"")
        self._request_id = wanted if 0 < len(wanted) <= _MAX_REQUEST_ID_BYTES else secrets.token_hex(8).encode()
        self._common_headers = [_VARY, (b"x-request-id", self._request_id)]
        origin = self.headers.get(b"origin", b"")
        if not cors_allow_origin:
            self._common_headers.append((b"access-control-allow-origin", b"*"))
        elif origin.decode("latin-1") in cors_allow_origin:
            self._common_headers.append((b"access-control-allow-origin", origin))

    @property
    def request_id(self) -> str:
        return self._request_id.decode("latin-1")

    @property
    def query(self) -> dict[str, str]:
        """What stands behind the path; of repeated names the last."""
        return dict(parse_qsl(self.scope.get("query_string", b"").decode("latin-1")))

    def add_header(self, name: bytes, value: bytes) -> None:
        """Of the response, whatever it will be."""
        self._common_headers.append((name, value))

    async def read_json(self, decoder: msgspec.json.Decoder[T], limit_bytes: int) -> T:
        """The request's body. Raises TransportError, with TGI's status and text, and ClientDisconnect."""
        content_type = self.headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if content_type != _JSON and not (content_type.startswith(b"application/") and content_type.endswith(b"+json")):
            raise TransportError(415, "Expected request with `Content-Type: application/json`")
        coding = self.headers.get(b"content-encoding", b"").strip().lower()
        if coding not in (b"", b"identity"):
            named = coding[:_MAX_NAMED_BYTES].decode("latin-1")
            raise TransportError(
                415, f"A body with `Content-Encoding: {named}` cannot be read: send it uncompressed", _NO_CODING
            )
        body = await self._read_body(limit_bytes)
        try:
            return decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise json_error(error, body) from None

    async def _read_body(self, limit_bytes: int) -> bytes:
        too_long = TransportError(413, "Failed to buffer the request body: length limit exceeded")
        length = self.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit_bytes:
            raise too_long
        chunks: list[bytes] = []
        size = 0
        deadline = self._loop.time() + BODY_LIMIT_S
        while True:
            try:
                async with asyncio.timeout(min(BODY_TIMEOUT_S, deadline - self._loop.time())):
                    message = await self._receive()
            except TimeoutError:
                raise TransportError(408, "The request's body did not come in time", _CLOSE) from None
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit_bytes:
                raise too_long
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def skip_body(self) -> None:
        """For a route that takes none, before ``watch``. Raises TransportError if there is one."""
        await self._read_body(0)

    def watch(self) -> None:
        """From now on, cancel the current task when the client goes. The body must have been read to its end."""
        handler = self._handler = asyncio.current_task()
        assert handler is not None

        def on_message(_: asyncio.Task[Message]) -> None:
            if not self.finished:
                self.gone = True
                handler.cancel()

        self._watcher = asyncio.ensure_future(self._receive_one())
        self._watcher.add_done_callback(on_message)

    async def _receive_one(self) -> Message:
        return await self._receive()

    async def respond(self, status: int, body: bytes = b"", content_type: bytes = b"", headers: Headers = ()) -> None:
        """Send a whole response; of an answer to HEAD only its head."""
        fields = [*self._common_headers, *headers]
        if status != 304:  # there it would say how long the body is that is not sent
            fields.append((b"content-length", b"%d" % len(body)))
        if content_type:
            fields.append((b"content-type", content_type))
        self.started = self.finished = True
        await self._send({"type": "http.response.start", "status": status, "headers": fields})
        await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def start_stream(self, headers: Headers) -> None:
        """Begin an event stream, with what keeps proxies from collecting it."""
        fields = [
            *self._common_headers,
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *headers,
        ]
        self.started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": fields})

    async def end(self, chunk: bytes = b"") -> None:
        """Send the last part of the stream."""
        self.finished = True
        await self.write(chunk, more=False)

    async def write(self, chunk: bytes, *, more: bool = True) -> None:
        """Send a part of the stream; waits for a slow reader. Raises ReaderStalled."""
        # By hand, one timer for all writes: making a timer costs as much as all the rest of an event.
        self._write_began = self._loop.time()
        if self._stall_timer is None:
            self._stall_timer = self._loop.call_later(STALL_TIMEOUT_S, self._check_stall)
        try:
            await self._send({"type": "http.response.body", "body": chunk, "more_body": more})
        except asyncio.CancelledError:
            if self._stalled:
                raise ReaderStalled(f"nothing read for {STALL_TIMEOUT_S:.0f} s") from None
            raise
        self._write_began = math.inf

    def _check_stall(self) -> None:
        """Cut the connection if a write takes too long, else look again when that could be so."""
        left_s = STALL_TIMEOUT_S - max(self._loop.time() - self._write_began, 0.0)
        if left_s > 0:
            self._stall_timer = self._loop.call_later(left_s, self._check_stall)
        else:
            assert self._handler is not None, "a stream is watched"
            self._stalled = True
            self._handler.cancel()

    def close(self) -> None:
        """Stop watching; the response is over."""
        self.finished = True
        if self._watcher is not None:
            self._watcher.cancel()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
