"""Is the client itself fast enough? Measured against the null server, whose pace is known."""

import asyncio
import time

import numpy as np
from msgspec import Struct

from .answer import Answer
from .client import Client, Patience
from .null_server import null_server
from .protocols import Message, RequestOptions

STREAMS = 64
PACE_MS = 20.0
PACED_EVENTS = 60  # of each stream
FLAT_OUT_EVENTS = 800  # of each stream
MOST_PACE_ERROR = 0.02
LEAST_EVENTS_PER_S = 20_000


class ClientCheck(Struct, frozen=True):
    """What the client showed of a server that adds nothing."""

    streams: int
    pace_ms: float
    measured_mean_ms: float  # mean gap between events
    measured_median_ms: float
    pace_error: float  # the worse of the two, as a share of the pace
    events_per_s: float  # as fast as they come, in one process
    cpu_us_per_event: float  # CPU time of this process

    @property
    def passes(self) -> bool:
        return self.pace_error <= MOST_PACE_ERROR and self.events_per_s >= LEAST_EVENTS_PER_S

    def __str__(self) -> str:
        return (
            f"client: {self.streams} streams of one event per {self.pace_ms:g} ms are seen at "
            f"{self.measured_mean_ms:.2f} ms (median {self.measured_median_ms:.2f}, {self.pace_error:.1%} off); "
            f"{self.events_per_s:,.0f} events/s at most, {self.cpu_us_per_event:.1f} us CPU each"
        )


async def check_client() -> ClientCheck:
    """Takes about three seconds, most of them to start the servers."""
    with null_server(PACE_MS) as url:
        answers, *_ = await _streams(url, PACED_EVENTS)
    gaps = np.concatenate([np.diff(answer.times) for answer in answers]) * 1e3
    with null_server(0.0) as url:
        flat_out, wall_s, cpu_s = await _streams(url, FLAT_OUT_EVENTS)
    return judge(gaps, sum(len(answer.times) for answer in flat_out), wall_s, cpu_s)


def judge(gaps_ms: np.ndarray, events: int, wall_s: float, cpu_s: float) -> ClientCheck:
    """The check's figures.

    Args:
        gaps_ms: between the events of the paced streams.
        events: of the streams that were as fast as could be, which took ``wall_s`` and ``cpu_s`` seconds.
    """
    mean, median = float(gaps_ms.mean()), float(np.median(gaps_ms))
    error = max(abs(mean - PACE_MS), abs(median - PACE_MS)) / PACE_MS
    return ClientCheck(STREAMS, PACE_MS, mean, median, error, events / wall_s, cpu_s / events * 1e6)


async def _streams(url: str, events: int) -> tuple[list[Answer], float, float]:
    """Answers, wall time and CPU time of STREAMS streams at a time, connections made before."""
    client = Client(url, "tgi", RequestOptions(), {}, Patience())

    async def all_of(events: int) -> list[Answer]:
        return await asyncio.gather(*(client.stream([Message("user", "a")], events) for _ in range(STREAMS)))

    await all_of(2)
    wall, cpu = time.perf_counter(), time.process_time()
    answers = await all_of(events)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    client.close()
    return answers, wall, cpu
