"""Clients of a chaos run: those that behave, those that read slowly, go away, or send what is no request."""

import http.client
import json
import random
import re
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from .catalogue import Request

PATIENCE_S = 180.0
_OWN = re.compile(rb'(?m)^:\n\n|"id":"[^"]*"|"created":\d+|"cached_tokens":\d+')
_ERROR = re.compile(rb'(?m)^(?:data: )?\{"error":')
_PAUSE = threading.Event()  # never set: waiting for it is a pause

Kind = Literal["answer", "refused", "cut", "left"]


@dataclass
class Outcome:
    """What became of a request. ``began`` and ``ended`` are time.monotonic()."""

    kind: Kind  # refused: a status that is no success, or an error event; cut: the connection ended; left: by us
    data: bytes
    status: int
    began: float
    ended: float = 0.0
    returns: int = 0  # times that a resumable stream was gone on with

    @property
    def error_type(self) -> str:
        found = re.search(rb'"(?:error_type|type)":"([^"]*)"', self.data)
        return found[1].decode() if found else ""


def send(url: str, request: Request, *, lines: int | None = None, slowly: bool = False) -> Outcome:
    """Send one request and read its answer: ``lines`` of it and then no more, or slowly."""
    outcome = Outcome("answer", b"", 0, time.monotonic())
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
    parts = []
    try:
        connection.request("POST", request.path, json.dumps(request.body), {"content-type": "application/json"})
        if slowly and connection.sock is not None:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        if lines == 0:
            outcome.kind = "left"
            return outcome
        response = connection.getresponse()
        outcome.status = response.status
        # Not by lines: http.client then says nothing of a chunked body that is cut off.
        while part := response.read1(256 if slowly else 1 << 16):
            parts.append(part)
            if lines is not None and sum(each.count(b"\n") for each in parts) >= lines:
                outcome.kind = "left"
                return outcome
            if slowly:
                _PAUSE.wait(0.01)
        if response.length:
            outcome.kind = "cut"
            return outcome
        outcome.data = _OWN.sub(b"", b"".join(parts))
        if response.status != 200 or _ERROR.search(outcome.data):
            outcome.kind = "refused"
    except (http.client.HTTPException, ConnectionError):  # IncompleteRead is one of the first
        outcome.kind = "cut"
    finally:
        connection.close()
        outcome.ended = time.monotonic()
    return outcome


class Resumed:
    """A stream that is read over as many connections as it takes."""

    def __init__(self, url: str, request: Request) -> None:
        self._url = url
        self._request = request
        self._events: list[bytes] = []
        self._rest = b""  # of an event whose end didn't come
        self._id: str | None = None

    def read(self, leave_after: int) -> Outcome:
        """The whole of it, with one loss of the connection of our own making, so many events after its beginning."""
        outcome = Outcome("answer", b"", 0, time.monotonic())
        ended = False
        while time.monotonic() < outcome.began + PATIENCE_S:
            connection = http.client.HTTPConnection(urlsplit(self._url).netloc, timeout=PATIENCE_S)
            with suppress(http.client.HTTPException, ConnectionError):
                ended = self._read_connection(connection, outcome, leave_after if outcome.returns == 0 else None)
            connection.close()
            if ended or self._id is None:
                break
            outcome.returns += 1
            _PAUSE.wait(0.1)
        if not ended:
            outcome.kind = "cut"  # before it had a name
        outcome.data = _OWN.sub(b"", b"".join(self._events) + self._rest)
        if ended and (outcome.status != 200 or _ERROR.search(outcome.data)):
            outcome.kind = "refused"
        outcome.ended = time.monotonic()
        return outcome

    def _read_connection(
        self, connection: http.client.HTTPConnection, outcome: Outcome, leave_after: int | None
    ) -> bool:
        """Whether the stream ended, or can't go on."""
        self._rest = b""
        if self._id is None:
            headers = {"content-type": "application/json", "x-stream-resumable": "1"}
            connection.request("POST", self._request.path, json.dumps(self._request.body), headers)
        else:
            connection.request("GET", f"/streams/{self._id}", headers={"last-event-id": str(len(self._events))})
        response = connection.getresponse()
        outcome.status = response.status
        self._id = response.headers["x-stream-id"]
        while part := response.read1(1 << 16):
            *events, self._rest = (self._rest + part).split(b"\n\n")
            for event in events:
                self._take(event)
            if leave_after is not None and len(self._events) >= leave_after:
                return False
        return not response.length  # what is missing of a body that was cut off

    def _take(self, event: bytes) -> None:
        if event.startswith(b":"):  # a comment
            return
        # A number that is wrong stays, so that the answer is not the undisturbed one.
        self._events.append(event.removeprefix(b"id: %d\n" % (len(self._events) + 1)) + b"\n\n")


def send_garbage(url: str, chance: random.Random) -> None:
    """Something that is no request; whatever comes back."""
    head = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    data = chance.choice(
        [
            chance.randbytes(200),
            b"\r\n" * 50,
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
            head + b'content-length: 5\r\n\r\n{"a"}',
            head + b"content-length: 99999999999\r\n\r\n{}",
            head + b"content-length: -4\r\n\r\n",
            head + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
            head + b"content-length: 60\r\n\r\n" + chance.randbytes(60),
            head + b"content-length: 20000\r\n\r\n" + b"[" * 20_000,
        ]
    )
    host, _, port = urlsplit(url).netloc.partition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=5.0) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1 << 16)


class Flood:
    """Connections that ask for nothing, send a body a byte at a time, or ask and never read."""

    def __init__(self, url: str, count: int) -> None:
        host, _, port = urlsplit(url).netloc.partition(":")
        self._sockets: list[socket.socket] = []
        body = b'{"inputs":"flood","parameters":{"max_new_tokens":2}}'
        head = (
            b"POST /generate_stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        )
        starts = (b"", b"POST /generate HT", head % len(body) + body[:9], b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        for number in range(count):
            with suppress(OSError):
                sock = socket.create_connection((host, int(port)), timeout=10.0)
                self._sockets.append(sock)
                sock.sendall(starts[number % len(starts)])

    @property
    def size(self) -> int:
        return len(self._sockets)

    def trickle(self) -> None:
        """One more byte of each body that has begun."""
        for sock in self._sockets[2::4]:
            with suppress(OSError):
                sock.sendall(b" ")

    def end(self) -> None:
        """All go away, without a word."""
        for sock in self._sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
