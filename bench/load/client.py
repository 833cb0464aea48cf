"""Sends requests to one server and turns whatever happens into an Answer; nothing raises, nothing hangs."""

import asyncio
import ssl
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from .answer import Answer
from .connection import Connection, RunningRequest, StreamRequest
from .protocols import PROTOCOLS, Message, ProtocolName, RequestOptions


class Patience(msgspec.Struct, frozen=True):
    """How long to wait, seconds."""

    connect_s: float = 10.0
    stall_s: float = 120.0  # for the next bytes
    timeout_s: float = 600.0  # for the whole answer


class Client:
    """Keeps connections open between requests, as many as requests run at a time."""

    def __init__(
        self, url: str, protocol: ProtocolName, options: RequestOptions, headers: Mapping[str, str], patience: Patience
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._base = parts.path.rstrip("/")
        fixed = {
            "Host": parts.netloc.rpartition("@")[2],
            "Content-Type": "application/json",
            "Accept": "*/*",
            **headers,
        }
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in fixed.items())
        self._protocol = PROTOCOLS[protocol]()
        self._request_options = options
        self._patience = patience
        self._idle: list[Connection] = []
        self._running: dict[RunningRequest, Connection] = {}
        self._events = 0  # of answers that have ended
        self._cancelled = False
        self._watchdog: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """Requests under way."""
        return len(self._running)

    @property
    def events(self) -> int:
        """Events with output that came so far."""
        return self._events + sum(len(running.answer.times) for running in self._running)

    def set_model(self, model: str) -> None:
        """The name that requests carry."""
        self._request_options = msgspec.structs.replace(self._request_options, model=model)

    async def stream(self, messages: list[Message], new_tokens: int, due: float | None = None) -> Answer:
        """Send one request and read its stream to the end.

        Args:
            due: when it should have left, perf_counter seconds; None: now.
        """
        body = msgspec.json.encode(self._protocol.body(self._request_options, messages, new_tokens))
        request = self._request("POST", self._protocol.path, body)
        reused = True
        while reused:
            start = time.perf_counter()
            answer = Answer(new_tokens, due if due is not None else start, start)
            running = StreamRequest(answer, request, self._protocol)
            reused = await self._carry(running)
            # A server may close an idle connection in the moment in which it is used again: that is no refusal.
            reused = reused and running.status == 0 and answer.error == "refused"
        if answer.output_tokens is not None:
            answer.counted = True
        elif answer.ok:
            answer.output_tokens = len(answer.times)
        return answer

    async def get_json(self, path: str) -> Any:
        """The JSON at a path, None if there is none."""
        reused = True
        while reused:
            running = RunningRequest(Answer(0, 0.0, time.perf_counter()), self._request("GET", path, b""))
            reused = await self._carry(running) and running.status == 0
        if running.status != 200:
            return None
        try:
            return msgspec.json.decode(running.body)
        except msgspec.DecodeError:
            return None

    def cancel(self) -> None:
        """End what is running; its answers are marked, and those of all later requests."""
        self._cancelled = True
        for running, connection in list(self._running.items()):
            running.answer.cancelled = True
            connection.close()

    def close(self) -> None:
        """Close what is open."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        self.cancel()
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        head = f"{method} {self._base}{path} HTTP/1.1\r\n{self._headers}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    async def _carry(self, running: RunningRequest) -> bool:
        """Send a request and wait for the end of its response. Returns whether the connection had been used before."""
        try:
            connection, reused = await self._connection()
        except (OSError, TimeoutError) as error:
            running.answer.fail("refused", str(error) or f"no connection within {self._patience.connect_s:g} s")
            return False
        if self._cancelled:
            running.answer.cancelled = True
            connection.close()
            return False
        self._running[running] = connection
        connection.send(running)
        self._watch()
        await running.finished.wait()
        del self._running[running]
        self._events += len(running.answer.times)
        if connection.usable:
            self._idle.append(connection)
        return reused

    async def _connection(self) -> tuple[Connection, bool]:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection, True
        connect = asyncio.get_running_loop().create_connection(Connection, self._host, self._port, ssl=self._ssl)
        async with asyncio.timeout(self._patience.connect_s):
            return (await connect)[1], False

    def _watch(self) -> None:
        """One timer for all requests: a timer per event would cost more than reading it."""
        if self._watchdog is None:
            interval_s = min(self._patience.stall_s, self._patience.timeout_s) / 10
            self._watchdog = asyncio.get_running_loop().call_later(interval_s, self._bark)

    def _bark(self) -> None:
        self._watchdog = None
        now = time.perf_counter()
        for running, connection in list(self._running.items()):
            if now - running.answer.start > self._patience.timeout_s:
                running.answer.fail("timeout", f"not finished after {self._patience.timeout_s:g} s")
                connection.close()
            elif now - running.last_sign > self._patience.stall_s:
                running.answer.fail("stalled", f"nothing came for {self._patience.stall_s:g} s")
                connection.close()
        if self._running:
            self._watch()
