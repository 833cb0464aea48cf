"""The engine as an API worker sees it: one Unix socket, and a handle for each generation.

The connection is also the engine's pulse. When it ends, every live generation fails at once, and the client tries to
connect again until somebody listens. Each handle keeps its prompt, its resolved parameters and the tokens it got:
all that is needed to submit it again to another engine.
"""

import asyncio
import itertools
import logging
import time
from pathlib import Path
from typing import Literal, cast

from ..engine.frames import FrameError, FrameReader, encode_frame
from ..engine.messages import Abort, FinishReason, FromEngine, Hello, SamplingParams, Stats, Step, Submit

RECONNECT_DELAY_S = 0.1
ENGINE_WAIT_S = 60.0  # how long a request waits for an engine that is away: a restart with a warm-up takes less
# An engine that neither ends a step nor beats its heart for this long makes no progress. Far above the longest step.
PROGRESS_TIMEOUT_S = 30.0

logger = logging.getLogger(__name__)


class EngineError(Exception):
    """The engine did not do what was asked; ``error_type`` says whether the request or the engine was at fault."""

    def __init__(self, error: str, error_type: Literal["validation", "generation"] = "generation") -> None:
        super().__init__(error)
        self.error_type = error_type


class Generation:
    """One sequence in the engine.

    Attributes:
        prompt_ids, sampling: as submitted.
        token_ids: all tokens received so far; logprobs: theirs.
        finish_reason: None until the last token was received.
        queue_s: seconds until its first step; None until then.
    """

    def __init__(
        self, client: "EngineClient", request_id: int, prompt_ids: list[int], sampling: SamplingParams
    ) -> None:
        self._client = client
        self._waiter: asyncio.Future[None] | None = None
        self._error: EngineError | None = None
        self._taken = 0
        self.request_id = request_id
        self.prompt_ids = prompt_ids
        self.sampling = sampling
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.finish_reason: FinishReason | None = None
        self.queue_s: float | None = None

    async def next(self, timeout_s: float) -> tuple[list[int], list[float]]:
        """Tokens and logprobs that came since the last call; none if the sequence is over or the time is.

        Safe to cancel: what came is still there for the next call. Raises EngineError, after the tokens before it.
        """
        if self._taken == len(self.token_ids) and self._error is None and self.finish_reason is None:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(timeout_s, self._wake)  # a tenth of the cost of asyncio.timeout
            try:
                await self._waiter
            finally:
                timer.cancel()
        if self._taken == len(self.token_ids) and self._error is not None:
            raise self._error
        taken, self._taken = self._taken, len(self.token_ids)
        return self.token_ids[taken:], self.logprobs[taken:]

    def abort(self) -> None:
        """Drop the sequence, if it still runs: nobody wants its tokens."""
        self._client._abort(self)

    def _extend(self, token_ids: list[int], logprobs: list[float], finish_reason: FinishReason | None) -> None:
        self.token_ids += token_ids
        self.logprobs += logprobs
        self.finish_reason = finish_reason
        self._wake()

    def _fail(self, error: EngineError) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class EngineClient:
    """Connection of this worker to its engine.

    Attributes:
        hello: what the engine said it is, the last one if it is away; None before the first connection.
        stats: of the last frame.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
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

    async def submit(self, prompt_ids: list[int], sampling: SamplingParams) -> Generation:
        """Start a sequence, waiting for the engine if it is away. Raises EngineError."""
        await self.wait_ready()
        assert self._transport is not None
        generation = Generation(self, next(self._request_ids), prompt_ids, sampling)
        self._live[generation.request_id] = generation
        self._transport.write(encode_frame(Submit(generation.request_id, prompt_ids, sampling)))
        return generation

    def is_healthy(self) -> bool:
        """The engine is connected and makes progress."""
        return self._connected.is_set() and time.monotonic() - self._last_frame < PROGRESS_TIMEOUT_S

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
        for started in step.started:
            if (generation := self._live.get(started.request_id)) is not None:
                generation.queue_s = started.queue_s
        for tokens in step.tokens:
            if (generation := self._live.get(tokens.request_id)) is not None:
                if tokens.finish_reason is not None:
                    del self._live[tokens.request_id]
                generation._extend(tokens.token_ids, tokens.logprobs, tokens.finish_reason)
        for failed in step.failed:
            if (generation := self._live.pop(failed.request_id, None)) is not None:
                generation._fail(EngineError(failed.error, failed.error_type))

    def _on_lost(self) -> None:
        if self._transport is None:
            return
        self._transport = None
        self._connected.clear()
        live, self._live = self._live, {}
        logger.warning("engine: connection lost, %d requests failed", len(live))
        for generation in live.values():
            generation._fail(EngineError("the engine died"))


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
