"""Prometheus metrics under TGI's names (contract.md section 6), and the engine's own counters.

Every worker process writes its values into files of one directory (prometheus_client's multiprocess mode, which is
chosen by PROMETHEUS_MULTIPROC_DIR before the first import), and whichever worker is asked adds them up. The engine's
numbers are not added up: each worker has them from the engine.
"""

import os
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from ..engine.messages import Hello, Stats
from .record import Record

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_DURATION_BUCKETS_S = [0.0001 * 1.5**k for k in range(1, 36)]
_LINEAR_BUCKETS = 100


class Metrics:
    """Counts and times of this worker's requests; ``render`` shows those of all workers."""

    def __init__(self, max_input_tokens: int, max_total_tokens: int) -> None:
        """Raises RuntimeError if PROMETHEUS_MULTIPROC_DIR was not set in time."""
        if values.ValueClass is values.MutexValue:
            raise RuntimeError("PROMETHEUS_MULTIPROC_DIR must be set before prometheus_client is imported")
        self._directory = os.environ["PROMETHEUS_MULTIPROC_DIR"]
        registry = CollectorRegistry()
        self._count = Counter("tgi_request_count", "Requests", registry=registry)
        self._success = Counter("tgi_request_success", "Requests answered in full", registry=registry)
        self._failure = Counter("tgi_request_failure", "Requests that failed", ["err"], registry=registry)
        self._durations = {
            name: Histogram(f"tgi_request_{name}", text, registry=registry, buckets=_DURATION_BUCKETS_S)
            for name, text in {
                "duration": "Seconds from request to end",
                "validation_duration": "Seconds from request to the engine's queue",
                "queue_duration": "Seconds in the engine's queue",
                "inference_duration": "Seconds from the first step to the end",
                "mean_time_per_token_duration": "Seconds of inference per generated token",
            }.items()
        }
        self._lengths = {
            name: Histogram(f"tgi_request_{name}", text, registry=registry, buckets=_linear(largest))
            for name, text, largest in (
                ("input_length", "Prompt tokens", max_input_tokens),
                ("generated_tokens", "Generated tokens", max_total_tokens),
                ("max_new_tokens", "Tokens asked for", max_total_tokens),
            )
        }

    def begin(self) -> None:
        """A generation was asked for."""
        self._count.inc()

    def submitted(self, record: Record, max_new_tokens: int) -> None:
        """A request reached the engine."""
        self._durations["validation_duration"].observe(record.validation_s)
        self._lengths["input_length"].observe(record.prompt_tokens)
        self._lengths["max_new_tokens"].observe(max_new_tokens)

    def success(self, record: Record) -> None:
        """A request was answered in full."""
        self._success.inc()
        self._durations["duration"].observe(record.total_s)
        self._durations["queue_duration"].observe(record.queue_s)
        self._durations["inference_duration"].observe(record.inference_s)
        self._durations["mean_time_per_token_duration"].observe(record.time_per_token_s)
        self._lengths["generated_tokens"].observe(record.generated_tokens)

    def failure(self, err: str) -> None:
        """A request failed."""
        self._failure.labels(err).inc()

    def render(self, hello: Hello | None, stats: Stats | None) -> bytes:
        """The exposition text; the engine's part is as of its last frame and absent before the first."""
        collector = MultiProcessCollector(CollectorRegistry(), self._directory)
        families = [*collector.collect(), *_engine_families(hello, stats)]
        return "".join(line for family in families for line in _exposition(family)).encode()


def _linear(largest: int) -> list[float]:
    return [largest * (i + 1) / _LINEAR_BUCKETS for i in range(_LINEAR_BUCKETS)]


def _engine_families(hello: Hello | None, stats: Stats | None) -> Iterator[Metric]:
    if hello is None or stats is None:
        return
    yield GaugeMetricFamily("tgi_queue_size", "Requests that wait for their first step", stats.waiting)
    yield GaugeMetricFamily("tgi_batch_current_size", "Sequences in the batch", stats.running)
    yield GaugeMetricFamily("headwater_engine_pages", "Pages of the KV cache", hello.num_pages)
    yield GaugeMetricFamily("headwater_engine_free_pages", "Free pages of the KV cache", stats.free_pages)
    yield GaugeMetricFamily("headwater_engine_step_seconds", "Duration of the last step", stats.step_s)
    yield CounterMetricFamily("headwater_engine_steps", "Steps", stats.steps)
    yield CounterMetricFamily("headwater_engine_prompt_tokens", "Prompt tokens computed", stats.prompt_tokens)
    yield CounterMetricFamily("headwater_engine_generated_tokens", "Tokens generated", stats.generated_tokens)
    yield CounterMetricFamily("headwater_engine_preemptions", "Sequences preempted", stats.preemptions)
    yield CounterMetricFamily("headwater_engine_aborted", "Sequences dropped before their end", stats.aborted)


def _exposition(family: Metric) -> Iterator[str]:
    """Prometheus text format, but counters keep the name they were given: TGI's have no ``_total``."""
    yield f"# HELP {family.name} {family.documentation}\n# TYPE {family.name} {family.type}\n"
    for sample in family.samples:
        name = sample.name.removesuffix("_total") if family.type == "counter" else sample.name
        yield f"{name}{_labels(sample.labels.items())} {sample.value}\n"


def _labels(labels: Iterable[tuple[str, str]]) -> str:
    text = ",".join(f'{name}="{value}"' for name, value in labels)
    return f"{{{text}}}" if text else ""
