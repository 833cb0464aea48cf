"""The engine as an API worker sees it: one Unix socket, and a handle for each generation.

The connection is also the engine's pulse. When it ends, every live generation fails at once, and the client tries to
connect again until somebody listens. Each handle keeps its prompt, its resolved parameters and the tokens it got:
all that is needed to submit it again to another engine.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from ..engine.frames import FrameError, FrameReader, encode_frame
from ..engine.messages import Abort, FromEngine, Hello, SamplingParams, Stats, Step, Submit
from .generation import EngineError, Generation, Waker

RECONNECT_DELAY_S = 0.1
ENGINE_WAIT_S = 60.0  # how long a request waits for an engine that is away: a restart with a warm-up takes less
# An engine that neither ends a step nor beats its heart for this long makes no progress. Far above the longest step.
PROGRESS_TIMEOUT_S = 30.0

logger = logging.getLogger(__name__)


class EngineClient:
    """Connection of this worker to its engine.

    Attributes:
        hello: what the engine said it is, the last one if it is away; None before the first connection.
        stats: of the last frame.
        on_step: called for each frame, before what it holds reaches the generations.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self.on_step: Callable[[Hello, Stats], None] | None = None
        self._request_ids = itertools.count(1)
        self._live: dict[int, Generation] = {}
        self._transport: asyncio.Transport | None = None  # None: not connected, or no Hello yet
        self._connected = asyncio.Event()
        self._last_frame = 0.0
        self._task: asyncio.Task[None] | None = None
        self.hello: Hello | None = None
        self.stats: Stats | None = None

    @property
    def live(self) -> int:
        """Generations that are not over."""
        return len(self._live)

    def start(self) -> None:
        """Begin to connect, and keep connecting."""
        self._task = asyncio.get_running_loop().create_task(self._stay_connected())

    async def stop(self) -> None:
        """Close the connection for good."""
        self._transport = None  # its end is no loss
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

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

    async def submit(
        self, prompt_ids: list[int], sampling: SamplingParams, waker: Waker, timeout_s: float | None = None
    ) -> Generation:
        """Start a sequence, waiting for the engine if it is away.

        Args:
            waker: woken whenever something came for the sequence.
            timeout_s: until it must be over; None: no limit.

        Raises:
            EngineError: the engine did not come back in time.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        await self.wait_ready(ENGINE_WAIT_S if timeout_s is None else min(timeout_s, ENGINE_WAIT_S))
        assert self._transport is not None
        generation = Generation(next(self._request_ids), prompt_ids, sampling, waker, self._abort)
        self._live[generation.request_id] = generation
        left = 0.0 if deadline is None else max(deadline - time.monotonic(), 0.001)  # 0.0 is none
        self._transport.write(encode_frame(Submit(generation.request_id, prompt_ids, sampling, timeout_s=left)))
        return generation

    def is_healthy(self) -> bool:
        """The engine is connected and makes progress."""
        return self.unhealthy_reason() is None

    def unhealthy_reason(self) -> str | None:
        """What is wrong with the engine, None if nothing is."""
        if not self._connected.is_set():
            return "the engine is away: it is starting again"
        silence_s = time.monotonic() - self._last_frame
        if silence_s < PROGRESS_TIMEOUT_S:
            return None
        return f"the engine makes no progress: nothing heard for {silence_s:.0f} s"

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

    def _abort(self, generation: Generation) -> None:
        if self._live.pop(generation.request_id, None) is not None and self._transport is not None:
            self._transport.write(encode_frame(Abort(generation.request_id)))

    def _on_message(self, message: FromEngine, transport: asyncio.Transport) -> None:
        self._last_frame = time.monotonic()
        if isinstance(message, Hello):
            self.hello = message
            self._transport = transport
            self._connected.set()
            logger.info("engine: %s on %s, %s", message.model_id, message.device, message.dtype)
            return
        self._on_step(message)

    def _on_step(self, step: Step) -> None:
        self.stats = step.stats
        if self.on_step is not None and self.hello is not None:
            self.on_step(self.hello, step.stats)
        for started in step.started:
            if (generation := self._live.get(started.request_id)) is not None:
                generation.queue_s = started.queue_s
                generation.cached_tokens = started.cached_tokens
        for prompt in step.prompts:
            if (generation := self._live.get(prompt.request_id)) is not None:
                generation.prompt_logprobs = prompt.logprobs
        for tokens in step.tokens:
            if (generation := self._live.get(tokens.request_id)) is not None:
                if tokens.finish_reason is not None:
                    del self._live[tokens.request_id]
                generation.extend(tokens)
        for failed in step.failed:
            if (generation := self._live.pop(failed.request_id, None)) is not None:
                generation.fail(EngineError(failed.error, failed.error_type))

    def _on_lost(self) -> None:
        if self._transport is None:
            return
        self._transport = None
        self._connected.clear()
        live, self._live = self._live, {}
        logger.warning("engine: connection lost, %d requests failed", len(live))
        for generation in live.values():
            generation.fail(EngineError("the engine died"))


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
