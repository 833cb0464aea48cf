"""One HTTP/1.1 connection that reads a stream of events with little work per event.

asyncio's Protocol gets the bytes as the socket is read, httptools takes the framing off, lines are split here. A
general client costs several times as much per event and would be what is measured at a few thousand events a second.
"""

import asyncio
import time
from contextlib import suppress
from typing import cast

import httptools
import msgspec

from .answer import Answer
from .protocols import StreamProtocol

_ERROR_BODY_BYTES = 4096


class RunningRequest:
    """One request under way on a connection; collects the body of its response."""

    def __init__(self, answer: Answer, request: bytes) -> None:
        self.answer = answer
        self.request = request
        self.status = 0  # HTTP; 0: nothing came
        self.body = b""
        self.last_sign = answer.start  # of life: request sent or bytes read, perf_counter seconds
        self.finished = asyncio.Event()

    def feed(self, body: bytes, now: float) -> None:  # noqa: ARG002
        """Take a piece of the body, read at ``now``."""
        self.body += body

    def finish(self, now: float) -> None:  # noqa: ARG002
        """Nothing more will come."""
        self.finished.set()


class StreamRequest(RunningRequest):
    """The same for a stream of events, which go into the answer as they come."""

    def __init__(self, answer: Answer, request: bytes, protocol: StreamProtocol) -> None:
        super().__init__(answer, request)
        self._protocol = protocol
        self._rest = b""  # of a line that has not ended yet

    def feed(self, body: bytes, now: float) -> None:
        """Read the lines that are complete."""
        if self.status != 200:
            self.body = (self.body + body)[:_ERROR_BODY_BYTES]
            return
        lines = (self._rest + body).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._read_line(line, now)

    def finish(self, now: float) -> None:
        """Judge what came."""
        answer = self.answer
        if self._rest.startswith(b"data:") and answer.error is None:
            with suppress(msgspec.DecodeError):  # half an event: the stream was cut
                self._protocol.read(self._rest[5:], answer, now)
        if self.status == 0:
            answer.fail("refused", "closed before an answer")
        elif self.status == 429:
            answer.fail("overloaded", self.body.decode(errors="replace"))
        elif self.status != 200:
            answer.fail("http", f"{self.status} {self.body.decode(errors='replace')}")
        elif not answer.ended:
            answer.fail("cut", f"ended after {len(answer.times)} events")
        elif not answer.times:
            answer.fail("bad_event", "a stream without output")
        super().finish(now)

    def _read_line(self, line: bytes, now: float) -> None:
        if line.startswith(b"data:") and self.answer.error is None:
            try:
                self._protocol.read(line[5:], self.answer, now)
            except msgspec.DecodeError as error:
                self.answer.fail("bad_event", f"{error}: {line[:80].decode(errors='replace')}")


class Connection(asyncio.Protocol):
    """Carries one request at a time; closed after any error."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._running: RunningRequest | None = None
        self._now = 0.0

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing() and self._running is None

    def send(self, running: RunningRequest) -> None:
        assert self._transport is not None
        assert self._running is None
        self._running = running
        self._transport.write(running.request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast: uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter()
        running = self._running
        if running is not None:
            running.last_sign = self._now
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if running is not None:
                running.answer.fail("bad_event", f"not HTTP: {error}")
            self.close()
            return
        if running is not None and running.answer.error is not None:
            self.close()

    def connection_lost(self, exception: Exception | None) -> None:  # noqa: ARG002
        running, self._running = self._running, None
        if running is not None:
            running.finish(time.perf_counter())

    # httptools

    def on_headers_complete(self) -> None:
        if self._running is not None:
            self._running.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self._running is not None:
            self._running.feed(body, self._now)

    def on_message_complete(self) -> None:
        running, self._running = self._running, None
        if not self._parser.should_keep_alive():
            self.close()
        if running is not None:
            running.finish(self._now)
