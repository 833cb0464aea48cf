"""Events of the prefix cache over ZeroMQ, as vLLM sends them. Needs the package of the extra ``kv-events``.

A batch is a message of three parts: topic, number (8 bytes, big-endian, one more each time), and in msgpack
``[time, events, rank]``. It is sent by a thread of its own, so that no subscriber holds up a step. A batch for which
there is no room takes its number with it: whoever sees a gap can ask for what is missing at the replay endpoint, a
ROUTER: who sends it a number gets ``[number, batch]`` for all from there on that are kept, then number -1 without a
batch.
"""

import logging
import queue
import threading
import time
from collections import deque
from typing import Any, NamedTuple

import msgspec
import zmq

from .checkpoint.errors import ModelError
from .config import KVEventsConfig
from .kv_events import KVEvent

_REPLAY_POLL_S = 0.05
_CLOSE_S = 1.0
_END = (-1).to_bytes(8, "big", signed=True)

logger = logging.getLogger(__name__)


class _Batch(NamedTuple):
    number: int
    time: float  # time.time()
    events: list[KVEvent]


class ZmqPublisher:
    """Binds, or connects where the endpoint names a host, and sends until it is closed.

    Attributes:
        endpoint: where it is bound, with the port that was free if 0 was asked for; ``replay_endpoint``: likewise.
        published: batches that have a number; ``dropped``: those of them for which the queue had no room.
    """

    def __init__(self, config: KVEventsConfig, index: int = 0) -> None:
        """``index``: of the engine, which is added to ports, and told as rank. Raises ModelError."""
        self._topic = config.topic.encode()
        self._index = index
        self._maps = config.event_format == "map"
        self.published = 0
        self._queue: queue.Queue[_Batch | None] = queue.Queue(config.max_queue_size)
        self._sent: deque[tuple[int, bytes]] = deque(maxlen=config.buffer_steps if config.replay_endpoint else 0)
        self.dropped = 0
        self._context = zmq.Context()
        self._pub = self._context.socket(zmq.PUB)
        self._pub.set_hwm(config.hwm)
        self._replay: zmq.Socket[bytes] | None = None
        try:
            self.endpoint = _open(self._pub, config.endpoint, index)
            if config.replay_endpoint is not None:
                self._replay = self._context.socket(zmq.ROUTER)
                self.replay_endpoint = _open(self._replay, config.replay_endpoint, index)
        except (zmq.ZMQError, ValueError) as error:
            self._context.destroy(linger=0)
            raise ModelError(f"--kv-events-config: {config.endpoint}, {config.replay_endpoint}: {error}") from error
        self._thread = threading.Thread(target=self._run, name="kv events", daemon=True)
        self._thread.start()

    def publish(self, events: list[KVEvent]) -> None:
        """Send them as one batch, later; dropped if too many wait. For the engine's thread: never waits."""
        number = self.published
        self.published += 1
        try:
            self._queue.put_nowait(_Batch(number, time.time(), events))
        except queue.Full:
            if not self.dropped:
                logger.warning("kv events: too many wait to be sent, number %d is the first that is dropped", number)
            self.dropped += 1

    def close(self) -> None:
        """Send what is left, for a second at most."""
        try:
            self._queue.put(None, timeout=_CLOSE_S)
        except queue.Full:
            logger.warning("kv events: not all were sent")
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        timeout = _REPLAY_POLL_S if self._replay is not None else None
        while True:
            try:
                batch = self._queue.get(timeout=timeout)
            except queue.Empty:
                pass
            else:
                if batch is None:
                    break
                self._send(batch)
            if self._replay is not None and self._replay.poll(0):
                self._answer(self._replay)
        self._context.destroy(linger=int(_CLOSE_S * 500))

    def _send(self, batch: _Batch) -> None:
        events: list[Any] = [_as_map(event) for event in batch.events] if self._maps else list(batch.events)
        payload = msgspec.msgpack.encode((batch.time, events, self._index))
        self._sent.append((batch.number, payload))
        try:
            self._pub.send_multipart([self._topic, batch.number.to_bytes(8, "big"), payload], zmq.DONTWAIT)
        except zmq.ZMQError as error:
            logger.warning("kv events: number %d was not sent: %s", batch.number, error)

    def _answer(self, replay: "zmq.Socket[bytes]") -> None:
        """Give one subscriber what it has missed. A subscriber that takes nothing loses it: a ROUTER never waits."""
        client, *_, first = replay.recv_multipart()
        wanted = int.from_bytes(first, "big")
        for number, payload in self._sent:
            if number >= wanted:
                replay.send_multipart([client, b"", number.to_bytes(8, "big"), payload])
        replay.send_multipart([client, b"", _END, b""])


def _as_map(event: KVEvent) -> dict[str, Any]:
    return {"type": type(event).__name__, **msgspec.structs.asdict(event)}


def _open(socket: "zmq.Socket[bytes]", endpoint: str, index: int) -> str:
    """Bind where any address is meant, connect where one is named, as vLLM does. Returns what it came to."""
    endpoint = _at(endpoint, index)
    if socket.type == zmq.PUB and not any(part in endpoint for part in ("*", "::", "ipc://", "inproc://")):
        socket.connect(endpoint)
    else:
        socket.bind(endpoint)
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def _at(endpoint: str, index: int) -> str:
    """The endpoint of the engine of that index: each has its own."""
    if not index:
        return endpoint
    if endpoint.startswith("tcp://"):
        address, _, port = endpoint.rpartition(":")
        return f"{address}:{int(port) + index}"
    return f"{endpoint}_dp{index}"
