"""One run: a list of sessions against one server, in a closed or an open loop."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from msgspec import Struct

from .answer import Answer
from .arrivals import Arrivals, arrival_times_s
from .client import Client
from .protocols import Message
from .workload import Session


class Load(Struct, frozen=True):
    """How hard: either so many sessions at a time, or so many new ones per second."""

    concurrency: int | None = None
    rate: float | None = None
    arrivals: Arrivals = "poisson"

    @property
    def label(self) -> str:
        if self.concurrency is not None:
            return f"{self.concurrency} at a time"
        return f"{self.rate:g} per second"


class Outcome(Struct):
    """What a run left behind."""

    begin: float  # time.perf_counter() seconds
    answers: list[Answer]
    duration_s: float  # from begin to the last sign of the last answer
    client_cpu_s: float  # CPU time of this process meanwhile
    interrupted: bool


class LiveRun:
    """A run under way; ``answers`` can be looked at meanwhile."""

    def __init__(self, client: Client, stop: asyncio.Event) -> None:
        self.answers: list[Answer] = []  # in the order in which they ended
        self._client = client
        self._stop = stop  # set by Ctrl-C: nothing new begins

    async def run(self, sessions: Sequence[Session], load: Load, seed: int, last_start_s: float | None) -> Outcome:
        """Ask everything, or what Ctrl-C leaves of it.

        Args:
            seed: of arrival times.
            last_start_s: seconds after which no session begins; those that run end normally. None: all begin.
        """
        cpu = time.process_time()
        begin = time.perf_counter()
        deadline = begin + last_start_s if last_start_s is not None else float("inf")
        if load.concurrency is not None:
            await self._closed_loop(sessions, load.concurrency, deadline)
        else:
            assert load.rate is not None
            times = arrival_times_s(len(sessions), load.rate, load.arrivals, seed)
            await self._open_loop(sessions, [begin + at for at in times], deadline)
        return Outcome(begin, self.answers, time.perf_counter() - begin, time.process_time() - cpu, self._stop.is_set())

    async def _closed_loop(self, sessions: Sequence[Session], concurrency: int, deadline: float) -> None:
        waiting = iter(sessions)

        async def worker() -> None:
            for session in waiting:
                if self._stop.is_set() or time.perf_counter() > deadline:
                    return
                await self._hold(session, None)

        await asyncio.gather(*(worker() for _ in range(concurrency)))

    async def _open_loop(self, sessions: Sequence[Session], due: Sequence[float], deadline: float) -> None:
        tasks = []
        for session, at in zip(sessions, due, strict=True):
            if at > deadline:
                break
            with suppress(TimeoutError):
                # Until the session is due, or Ctrl-C.
                await asyncio.wait_for(self._stop.wait(), max(0.0, at - time.perf_counter()))
            if self._stop.is_set():
                break
            tasks.append(asyncio.create_task(self._hold(session, at)))
        await asyncio.gather(*tasks)

    async def _hold(self, session: Session, due: float | None) -> None:
        """One session: each turn follows the answer to the one before."""
        messages: list[Message] = []
        known_tokens = 0
        for turn in session.turns:
            messages.append(Message("user", turn.text))
            answer = await self._client.stream(messages, turn.output_tokens, due)
            known_tokens += turn.input_tokens
            if answer.input_tokens is None:
                answer.input_tokens = known_tokens
            self.answers.append(answer)
            if not answer.ok or self._stop.is_set():
                return
            known_tokens += answer.output_tokens or 0
            messages.append(Message("assistant", "".join(answer.text)))
            due = None


async def watch(run: Awaitable[Outcome], look: Callable[[], None], interval_s: float) -> Outcome:
    """Await a run and look at it now and then."""
    task = asyncio.ensure_future(run)
    while not task.done():
        await asyncio.wait([task], timeout=interval_s)
        look()
    return task.result()
