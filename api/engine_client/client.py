"""An engine as an API worker sees it: one Unix socket, and a handle for each remote.

Each handle keeps its prompt, its resolved parameters and the tokens it got. When the connection ends, the client tries
to connect again until somebody listens, and then submits again whatever is not over, in the order of arrival: tokens
depend on nothing else, so that what follows is what would have followed. A reader of a remote notices a pause. Where
there are other engines (replicas.py) they are given it, and the pause is that of its prefill.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from ...engine.flight_recorder import FlightRecord, flight_path
from ...engine.frames import FrameError, FrameReader, encode_frame
from ...engine.messages import (
    USUAL,
    Abort,
    AdapterList,
    FromEngine,
    Hello,
    SamplingParams,
    Scheduling,
    Stats,
    Step,
    ToEngine,
)
from ..launch.exits import Cause, told_exit
from .adapter_changes import AdapterChanges
from .health import DeviceHealth, EngineHealth, LoopHealth, ProcessHealth
from .poison import SUSPECT, EngineExit
from .remote_sequence import EngineError, RemoteSequence, Waker

RECONNECT_DELAY_S = 0.1
ENGINE_WAIT_S = 300.0  # how long a request waits for an engine that is away: a restart with a warm-up takes less
_AWAY_CHECK_S = 1.0
# The supervisor sees an engine's end when the workers do, and says why: what it was doing may be to blame.
_EXIT_WAIT_S, _EXIT_POLL_S = 1.0, 0.005

logger = logging.getLogger(__name__)


class EngineClient:
    """Connection of this worker to its engine.

    Attributes:
        hello: what the engine said it is, the last one if it is away; None before the first connection.
        stats: of the last frame.
        adapters: those that sequences may name, and how to change them.
        on_step: called for each frame, before what it holds reaches the sequences.
        on_up: called when an engine has said hello.
        on_orphans: called when it is known why the engine died, and ``release`` gives what it left; None: that waits
            for the next engine.
    """

    def __init__(self, socket: Path, heartbeat_timeout_s: float, request_ids: Iterator[int] | None = None) -> None:
        """``heartbeat_timeout_s``: an engine that gives no sign of life for so long makes no progress;
        ``request_ids``: shared with the clients of other engines.
        """
        self._socket = socket
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self.on_step: Callable[[Hello, Stats], None] | None = None
        self.on_up: Callable[[], None] | None = None
        self.on_orphans: Callable[[], None] | None = None
        self._request_ids = request_ids or itertools.count(1)
        self._live: dict[int, RemoteSequence] = {}
        self._transport: asyncio.Transport | None = None  # None: not connected, or no Hello yet
        self._connected = asyncio.Event()
        self._last_frame = 0.0
        self._task: asyncio.Task[None] | None = None
        self._handing_over: asyncio.Task[None] | None = None
        self._flight: FlightRecord | None = None  # of the engine that is or was connected last
        self._exit: EngineExit | None = None  # of that engine, while no other has said hello
        self._lost_at = 0.0  # time.monotonic()
        self._away_check: asyncio.TimerHandle | None = None
        self.hello: Hello | None = None
        self.stats: Stats | None = None
        self.adapters = AdapterChanges(self._request_ids, self._send)

    @property
    def live(self) -> int:
        """Generations that are not over."""
        return len(self._live)

    @property
    def is_up(self) -> bool:
        """Whether an engine is there."""
        return self._transport is not None

    @property
    def up(self) -> list[bool]:
        """The same, of each engine."""
        return [self.is_up]

    def start(self) -> None:
        """Begin to connect, and keep connecting."""
        self._watch_absence()
        self._task = asyncio.get_running_loop().create_task(self._stay_connected())

    async def stop(self) -> None:
        """Close the connection for good."""
        self._transport = None  # its end is no loss
        if self._away_check is not None:
            self._away_check.cancel()
        tasks = [task for task in (self._task, self._handing_over) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wait_ready(self, timeout_s: float = ENGINE_WAIT_S) -> Hello:
        """Wait until the engine is there. Raises EngineError if it isn't in time."""
        if self._transport is None:
            try:
                async with asyncio.timeout(timeout_s):
                    while self._transport is None:  # it may be gone again before this task has its turn
                        await self._connected.wait()
            except TimeoutError:
                raise EngineError("the engine is not available") from None
        assert self.hello is not None
        return self.hello

    def prepare(
        self, prompt_ids: list[int], sampling: SamplingParams, waker: Waker, scheduling: Scheduling = USUAL
    ) -> RemoteSequence:
        """A sequence that the engine doesn't know yet; ``waker`` is woken whenever something came for it."""
        return RemoteSequence(next(self._request_ids), prompt_ids, sampling, waker, self.abort, scheduling)

    def submit(self, remote: RemoteSequence) -> None:
        """Let the engine, as soon as it is there, generate what follows the tokens that the sequence has.

        The sequence fails if that takes too long.
        """
        self._live[remote.request_id] = remote
        if self._transport is not None:
            self._transport.write(encode_frame(remote.as_submit()))

    def take_over(self, remote: RemoteSequence) -> None:
        """Go on with a sequence that another engine had."""
        self._live[remote.request_id] = remote
        if self._transport is not None:
            self._resubmit(remote, self._transport)

    def release(self) -> list[RemoteSequence]:
        """What waits here for an engine, for others to take over; nothing while its engine's end may be its fault."""
        if self._transport is not None or self._exit is not None:
            return []
        released = list(self._live.values())
        self._live.clear()
        return released

    def abort(self, remote: RemoteSequence) -> None:
        """Drop a sequence, if it is here."""
        if self._live.pop(remote.request_id, None) is not None and self._transport is not None:
            self._transport.write(encode_frame(Abort(remote.request_id)))

    def unhealthy_reason(self) -> str | None:
        """What is wrong with the engine, None if nothing is."""
        facts = self.facts()
        if not facts.process.connected:
            return "the engine is away: it is starting again"
        if facts.loop.silent_s >= self._heartbeat_timeout_s:
            return f"the engine makes no progress: no sign of life for {facts.loop.silent_s:.0f} s"
        return None

    def facts(self) -> EngineHealth:
        """Process, loop and device, each by itself."""
        flight = self._flight
        pid = self.hello.pid if self.hello is not None else None
        if flight is None:
            loop = LoopHealth(time.monotonic() - self._last_frame)
            return EngineHealth(ProcessHealth(self._connected.is_set(), pid), loop, DeviceHealth())
        device = DeviceHealth(flight.steps, flight.step_age_s, flight.idle_s)
        return EngineHealth(ProcessHealth(self._connected.is_set(), pid), LoopHealth(flight.loop_age_s), device)

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                _, connection = await loop.create_unix_connection(lambda: _Connection(self), str(self._socket))
            except OSError:
                await asyncio.sleep(RECONNECT_DELAY_S)
                continue
            try:
                await connection.closed
            finally:
                connection.close()

    def _send(self, message: ToEngine) -> None:
        """Raises EngineError while there is no engine."""
        if self._transport is None:
            raise EngineError("the engine is not available")
        self._transport.write(encode_frame(message))

    def _on_message(self, message: FromEngine, transport: asyncio.Transport) -> None:
        self._last_frame = time.monotonic()
        match message:
            case Hello():
                self._on_hello(message, transport)
            case Step():
                self._on_step(message)
            case AdapterList():
                self.adapters.listed = message
            case _:
                self.adapters.on_answer(message)

    def _on_hello(self, hello: Hello, transport: asyncio.Transport) -> None:
        logger.info("engine: %s on %s, %s", hello.model_id, hello.device, hello.dtype)
        if self._exit is not None:
            self._judge(self._exit, self._exit.cause_by(hello))
            self._exit = None
        self.hello = hello
        self._flight = _flight_record(self._socket, hello.pid)
        self._transport = transport
        self._connected.set()
        for remote in self._live.values():
            self._resubmit(remote, transport)
        if self._live:
            logger.info("engine: %d sequences go on", len(self._live))
        if self.on_up is not None:
            self.on_up()

    def _resubmit(self, remote: RemoteSequence, transport: asyncio.Transport) -> None:
        message = remote.as_submit(suspect=remote.suspicion >= SUSPECT)
        message.replayed = True
        transport.write(encode_frame(message))

    def _judge(self, ended: EngineExit, cause: Cause) -> None:
        for remote in ended.find_poison(self._live.values(), cause):
            del self._live[remote.request_id]
            remote.fail(EngineError("the engine died of this request, twice"))
            logger.error("engine: it died of sequence %d, which is given up", remote.request_id)

    def _on_step(self, step: Step) -> None:
        self.stats = step.stats
        if self.on_step is not None and self.hello is not None:
            self.on_step(self.hello, step.stats)
        for started in step.started:
            remote = self._live.get(started.request_id)
            if remote is not None and remote.queue_s is None:  # else it goes on after a restart
                remote.queue_s = started.queue_s
                remote.cached_tokens = started.cached_tokens
        for prompt in step.prompts:
            if (remote := self._live.get(prompt.request_id)) is not None:
                remote.prompt_scores = prompt.scores
        for tokens in step.tokens:
            if (remote := self._live.get(tokens.request_id)) is not None:
                if tokens.finish_reason is not None:
                    del self._live[tokens.request_id]
                remote.extend(tokens)
        for failed in step.failed:
            if (remote := self._live.pop(failed.request_id, None)) is not None:
                remote.fail(EngineError(failed.error, failed.error_type))

    def _on_lost(self) -> None:
        if self._transport is None:
            return
        assert self.hello is not None
        self._transport = None
        self._connected.clear()
        self._exit = EngineExit(self.hello, self._flight)
        self.adapters.on_lost()
        self._lost_at = time.monotonic()
        self._watch_absence()
        if self.on_orphans is None:
            logger.warning("engine: connection lost, %d sequences wait for the next one", len(self._live))
        else:
            logger.warning("engine: connection lost, %d sequences go on elsewhere", len(self._live))
            self._handing_over = asyncio.get_running_loop().create_task(self._hand_over(self._exit))

    async def _hand_over(self, ended: EngineExit) -> None:
        """Let others have what the engine left, once it is known how it ended."""
        deadline = time.monotonic() + _EXIT_WAIT_S
        cause = told_exit(self._socket, ended.pid)
        while cause is None and time.monotonic() < deadline:
            await asyncio.sleep(_EXIT_POLL_S)
            if self._exit is not ended:  # there is an engine again
                return
            cause = told_exit(self._socket, ended.pid)
        self._judge(ended, cause or "crashed")
        self._exit = None
        assert self.on_orphans is not None
        self.on_orphans()

    def _watch_absence(self) -> None:
        """Give up what waits too long for an engine; look again soon, until there is one."""
        if self._away_check is not None:
            self._away_check.cancel()
        if self._transport is not None:
            return
        now = time.monotonic()
        for remote in list(self._live.values()):
            if now - max(remote.arrival, self._lost_at) >= ENGINE_WAIT_S:
                del self._live[remote.request_id]
                remote.fail(EngineError("the engine is not available"))
        self._away_check = asyncio.get_running_loop().call_later(_AWAY_CHECK_S, self._watch_absence)


def _flight_record(socket: Path, pid: int) -> FlightRecord | None:
    """That of the engine with this pid; another one may have taken its place meanwhile."""
    try:
        record = FlightRecord(flight_path(socket))
    except (OSError, ValueError):
        return None
    return record if record.pid == pid else None


class _Connection(asyncio.Protocol):
    """One connection to one engine, from its Hello to its end."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._reader: FrameReader[FromEngine] = FrameReader(FromEngine)
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            for message in self._reader.feed(data):
                self._client._on_message(message, self._transport)
        except FrameError as error:
            logger.error("engine: not a frame of ours, connection closed: %s", error)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason changes nothing
        self._client._on_lost()
        if not self.closed.done():
            self.closed.set_result(None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
