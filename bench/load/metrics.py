"""Figures of a run, from its answers. Definitions and names are those of `vllm bench serve` (docs/bench.md).

Only answers that ended well count; of the others, only how many there are of each kind.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from .answer import Answer

PERCENTILES = (50, 90, 95, 99)
METRICS = ("ttft", "tpot", "itl", "e2el")


class Spread(Struct, frozen=True):
    """Distribution of one metric, milliseconds; percentiles are interpolated linearly."""

    mean: float
    median: float
    std: float
    p50: float
    p90: float
    p95: float
    p99: float


class Figures(Struct, frozen=True, kw_only=True):
    """What one run showed. A metric of which there is no sample is None."""

    duration: float  # seconds, from the first request to the last event
    completed: int
    failed: int
    overloaded: int  # of the failed: HTTP 429
    cancelled: int  # by Ctrl-C
    errors_by_kind: dict[str, int]
    first_messages: dict[str, str]  # one example of each kind
    total_input_tokens: int
    total_output_tokens: int
    total_events: int
    other_length: int  # completed ones with another number of output tokens than asked for
    uncounted: int  # completed ones of which the server didn't tell the number of output tokens: events are counted
    request_throughput: float  # requests/s
    output_throughput: float  # tokens/s
    total_token_throughput: float  # tokens/s
    request_goodput: float | None  # requests/s that meet every objective; None: no objective was given
    good_share: float | None  # of all requests that completed or failed
    ttft: Spread | None
    tpot: Spread | None
    itl: Spread | None
    e2el: Spread | None


class Objectives(Struct, frozen=True):
    """The most that a good request may have, milliseconds; None: anything."""

    ttft: float | None = None
    tpot: float | None = None
    itl: float | None = None
    e2el: float | None = None

    @property
    def given(self) -> bool:
        return any(limit is not None for limit in (self.ttft, self.tpot, self.itl, self.e2el))


def ttft_s(answer: Answer) -> float:
    """Time to first token: from the request's start to its first event with output."""
    return answer.times[0] - answer.start


def e2el_s(answer: Answer) -> float:
    """End-to-end latency: from the request's start to its last event with output."""
    return answer.times[-1] - answer.start


def tpot_s(answer: Answer) -> float | None:
    """Time per output token after the first; None for a single token."""
    tokens = answer.output_tokens or 0
    return (answer.times[-1] - answer.times[0]) / (tokens - 1) if tokens > 1 else None


def itls_s(answer: Answer) -> list[float]:
    """Inter-token latencies: gaps between events. Events that were read together are 0 apart."""
    return np.diff(answer.times).tolist()


def is_good(answer: Answer, objectives: Objectives) -> bool:
    """Whether a request meets every objective; that for ITL is on the mean of its gaps."""
    gaps = itls_s(answer)
    found = {
        "ttft": ttft_s(answer),
        "tpot": tpot_s(answer),
        "itl": sum(gaps) / len(gaps) if gaps else None,
        "e2el": e2el_s(answer),
    }
    for name, seconds in found.items():
        limit = getattr(objectives, name)
        if limit is not None and seconds is not None and seconds * 1e3 > limit:
            return False
    return True


def spread_ms(seconds: Sequence[float]) -> Spread | None:
    """None without samples: there is no mean of nothing."""
    if not seconds:
        return None
    values = np.asarray(seconds) * 1e3
    p50, p90, p95, p99 = np.percentile(values, PERCENTILES).tolist()
    return Spread(float(values.mean()), p50, float(values.std()), p50, p90, p95, p99)


def summarize(answers: Sequence[Answer], duration_s: float, objectives: Objectives) -> Figures:
    """All figures of one run."""
    good = [answer for answer in answers if answer.ok]
    failed = [answer for answer in answers if answer.error is not None and not answer.cancelled]
    kinds = Counter(str(answer.error) for answer in failed)
    inputs = sum(answer.input_tokens or 0 for answer in good)
    outputs = sum(answer.output_tokens or 0 for answer in good)
    met = sum(is_good(answer, objectives) for answer in good) if objectives.given else None
    seconds = max(duration_s, 1e-9)
    return Figures(
        duration=duration_s,
        completed=len(good),
        failed=len(failed),
        overloaded=kinds["overloaded"],
        cancelled=sum(answer.cancelled for answer in answers),
        errors_by_kind=dict(kinds),
        first_messages={str(answer.error): answer.message for answer in reversed(failed)},
        total_input_tokens=inputs,
        total_output_tokens=outputs,
        total_events=sum(len(answer.times) for answer in good),
        other_length=sum(answer.output_tokens != answer.wanted_tokens for answer in good),
        uncounted=sum(not answer.counted for answer in good),
        request_throughput=len(good) / seconds,
        output_throughput=outputs / seconds,
        total_token_throughput=(inputs + outputs) / seconds,
        request_goodput=None if met is None else met / seconds,
        good_share=None if met is None or not (good or failed) else met / (len(good) + len(failed)),
        ttft=spread_ms([ttft_s(answer) for answer in good]),
        tpot=spread_ms([tpot for answer in good if (tpot := tpot_s(answer)) is not None]),
        itl=spread_ms([gap for answer in good for gap in itls_s(answer)]),
        e2el=spread_ms([e2el_s(answer) for answer in good]),
    )


def parse_objectives(text: str) -> Objectives:
    """``ttft:500,itl:50``, milliseconds. Raises ValueError."""
    limits: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, colon, limit = part.strip().partition(":")
        name = {"e2e": "e2el"}.get(name, name)
        if not colon or name not in METRICS:
            raise ValueError(f"{part!r}: objectives are METRIC:MILLISECONDS, metrics are {', '.join(METRICS)}")
        limits[name] = float(limit)
    return Objectives(**limits)
