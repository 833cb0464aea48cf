"""Prometheus metrics under TGI's names, what those lack, and the engine's own counters.

Every worker process writes its values into files of one directory (prometheus_client's multiprocess mode, which is
chosen by PROMETHEUS_MULTIPROC_DIR before the first import), and whichever worker is asked adds them up. The engine's
numbers are not added up: each worker has them from the engine.
"""

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from ...engine.messages import Hello, Stats
from .request_stats import RequestStats

_DURATION_BUCKETS_S = [0.0001 * 1.5**k for k in range(1, 36)]
_GAP_BUCKETS_S = [0.001 * 1.5**k for k in range(20)]  # 1 ms to 2.2 s
_GAPS_KEPT = 256  # counted here before they are added to the histogram
_LINEAR_BUCKETS = 100
_BATCH_BUCKETS = [2**k for k in range(11)]  # 1 to 1024, as TGI's
_FAILURES = ("overloaded", "validation", "generation", "timeout", "dropped")
_USAGE_BUCKETS = [i / 20 for i in range(1, 21)]


class Metrics:
    """Counts and times of this worker's requests; ``render`` shows those of all workers."""

    def __init__(self, max_input_tokens: int, max_total_tokens: int, observes_engine: bool) -> None:
        """``observes_engine``: the one worker that counts steps. Raises RuntimeError if PROMETHEUS_MULTIPROC_DIR was
        not set in time."""
        if values.ValueClass is values.MutexValue:
            raise RuntimeError("PROMETHEUS_MULTIPROC_DIR must be set before prometheus_client is imported")
        self._directory = os.environ["PROMETHEUS_MULTIPROC_DIR"]
        registry = CollectorRegistry()

        def histogram(name: str, text: str, buckets: list[float], labels: tuple[str, ...] = ()) -> Histogram:
            return Histogram(name, text, labels, registry=registry, buckets=buckets)

        self._count = Counter("tgi_request_count", "Requests", registry=registry)
        self._success = Counter("tgi_request_success", "Requests answered in full", registry=registry)
        self._failure = Counter("tgi_request_failure", "Requests that failed", ["err"], registry=registry)
        for err in _FAILURES:  # an alert on what never happened yet needs a zero
            self._failure.labels(err)
        self._durations = {
            name: histogram(name, text, _DURATION_BUCKETS_S)
            for name, text in {
                "tgi_request_duration": "Seconds from request to end",
                "tgi_request_validation_duration": "Seconds from request to the engine's queue",
                "tgi_request_queue_duration": "Seconds in the engine's queue",
                "tgi_request_inference_duration": "Seconds from the first step to the end",
                "tgi_request_mean_time_per_token_duration": "Seconds of inference per generated token",
                "headwater_time_to_first_token_seconds": "Seconds from request to first token",
            }.items()
        }
        self._lengths = {
            name: histogram(name, text, _linear(largest))
            for name, text, largest in (
                ("tgi_request_input_length", "Prompt tokens", max_input_tokens),
                ("tgi_request_generated_tokens", "Generated tokens", max_total_tokens),
                ("tgi_request_max_new_tokens", "Tokens asked for", max_total_tokens),
            )
        }
        self._gap = histogram(
            "headwater_inter_token_gap_seconds", "Seconds between a sequence's tokens", _GAP_BUCKETS_S
        )
        self._gaps = [0] * (len(_GAP_BUCKETS_S) + 1)
        self._gaps_sum_s, self._gaps_kept = 0.0, 0
        self._cached_share = histogram(
            "headwater_request_cached_share", "Share of a prompt found in the prefix cache", _USAGE_BUCKETS
        )
        self._observes_engine = observes_engine
        self._steps = self._prompt_tokens = 0  # of the last frame
        self._batch_size = histogram("tgi_batch_next_size", "Sequences in a step", _BATCH_BUCKETS)
        self._step_s = histogram(
            "tgi_batch_inference_duration", "Seconds of a step", _DURATION_BUCKETS_S, labels=("method",)
        )
        for method in ("prefill", "decode"):
            self._step_s.labels(method)
        self._page_usage = histogram("headwater_kv_cache_usage", "Share of the KV cache's pages in use", _USAGE_BUCKETS)

    def begin(self) -> None:
        """A generation was asked for."""
        self._count.inc()

    def submitted(self, request: RequestStats, input_tokens: int, max_new_tokens: int) -> None:
        """A prompt reached the engine."""
        self._durations["tgi_request_validation_duration"].observe(request.validation_s)
        self._lengths["tgi_request_input_length"].observe(input_tokens)
        self._lengths["tgi_request_max_new_tokens"].observe(max_new_tokens)

    def gap(self, gap_s: float) -> None:
        """Tokens came for a sequence, so long after those before them."""
        self._gaps[bisect_left(_GAP_BUCKETS_S, gap_s)] += 1
        self._gaps_sum_s += gap_s
        self._gaps_kept += 1
        if self._gaps_kept == _GAPS_KEPT:
            self._flush_gaps()

    def _flush_gaps(self) -> None:
        """Into the histogram's own values: it has no way to observe many at a time, and one at a time costs 3 us."""
        for bucket, count in zip(self._gap._buckets, self._gaps, strict=True):
            if count:
                bucket.inc(count)
        self._gap._sum.inc(self._gaps_sum_s)
        self._gaps, self._gaps_sum_s, self._gaps_kept = [0] * (len(_GAP_BUCKETS_S) + 1), 0.0, 0

    def success(self, request: RequestStats) -> None:
        """A request was answered in full."""
        self._success.inc()
        self._flush_gaps()
        durations = self._durations
        durations["tgi_request_duration"].observe(request.total_s)
        durations["tgi_request_queue_duration"].observe(request.queue_s)
        durations["tgi_request_inference_duration"].observe(request.inference_s)
        durations["tgi_request_mean_time_per_token_duration"].observe(request.time_per_token_s)
        durations["headwater_time_to_first_token_seconds"].observe(request.first_token_s or 0.0)
        self._lengths["tgi_request_generated_tokens"].observe(request.generated_tokens)
        self._cached_share.observe(request.cached_tokens / max(request.prompt_tokens, 1))

    def failure(self, err: str) -> None:
        """A request failed."""
        self._flush_gaps()
        self._failure.labels(err).inc()

    def step(self, hello: Hello, stats: Stats) -> None:
        """A frame came from the engine. One worker counts, and only the steps that it hears of: a sample."""
        if not self._observes_engine or stats.steps == self._steps:
            return
        method = "decode" if stats.prompt_tokens == self._prompt_tokens else "prefill"
        self._steps, self._prompt_tokens = stats.steps, stats.prompt_tokens
        self._batch_size.observe(stats.running)
        self._step_s.labels(method).observe(stats.step_s)
        self._page_usage.observe(_page_usage(hello, stats))

    def collect(self, hello: Hello | None, stats: Stats | None, requests: int, up: Sequence[bool] = ()) -> list[Metric]:
        """All families; the engine's part is as of its last frame and absent before the first.

        Args:
            requests: in progress, over all workers.
            up: whether each engine is there.
        """
        collector = MultiProcessCollector(CollectorRegistry(), self._directory)
        own = GaugeMetricFamily("headwater_requests", "Permits in use: requests in progress", requests)
        engines = GaugeMetricFamily("headwater_engine_up", "Whether an engine is there", labels=["replica"])
        for index, is_up in enumerate(up):
            engines.add_metric([str(index)], is_up)
        return [*collector.collect(), own, engines, *_engine_families(hello, stats)]


def _linear(largest: int) -> list[float]:
    return [largest * (i + 1) / _LINEAR_BUCKETS for i in range(_LINEAR_BUCKETS)]


def _page_usage(hello: Hello, stats: Stats) -> float:
    return 1 - stats.free_pages / max(hello.num_pages, 1)


def _engine_families(hello: Hello | None, stats: Stats | None) -> Iterator[Metric]:
    if hello is None or stats is None:
        return
    gauge, counter = GaugeMetricFamily, CounterMetricFamily
    yield gauge("tgi_queue_size", "Requests that wait for their first step", stats.waiting)
    yield gauge("tgi_batch_current_size", "Sequences in the batch", stats.running)
    yield gauge("tgi_batch_current_max_tokens", "Tokens to which the batch may grow", stats.max_tokens)
    yield gauge("tgi_batch_max_total_tokens", "Tokens the KV cache has room for", hello.num_pages * hello.page_size)
    yield gauge("headwater_engine_pages", "Pages of the KV cache", hello.num_pages)
    yield gauge("headwater_engine_free_pages", "Free pages of the KV cache, cached ones too", stats.free_pages)
    yield gauge("headwater_engine_cached_pages", "Free pages that hold a known prefix", stats.cached_pages)
    yield gauge("headwater_engine_page_usage", "Share of the KV cache's pages in use", _page_usage(hello, stats))
    yield gauge("headwater_engine_step_seconds", "Duration of the last step", stats.step_s)
    begun, done = stats.prompt_steps, stats.prompt_steps_done
    yield _by_method("tgi_batch_inference_count", "Steps", begun, stats.steps - begun)
    yield _by_method("tgi_batch_inference_success", "Steps whose tokens came", done, stats.steps_done - done)
    yield SummaryMetricFamily(
        "tgi_request_skipped_tokens",
        "Tokens that speculation saved a sequence in a step",
        # Each time that a sequence gets tokens, all but one of them are guesses that were right.
        count_value=stats.generated_tokens - stats.accepted_tokens,
        sum_value=stats.accepted_tokens,
    )
    yield counter("headwater_engine_steps", "Steps", stats.steps)
    yield counter("headwater_engine_prompt_tokens", "Prompt tokens computed", stats.prompt_tokens)
    yield counter("headwater_engine_cached_tokens", "Prompt tokens found in the prefix cache", stats.cached_tokens)
    yield counter("headwater_engine_generated_tokens", "Tokens generated", stats.generated_tokens)
    yield counter("headwater_engine_drafted_tokens", "Tokens guessed by speculation", stats.drafted_tokens)
    yield counter("headwater_engine_accepted_tokens", "Guesses that were right", stats.accepted_tokens)
    yield counter("headwater_engine_preemptions", "Sequences preempted", stats.preemptions)
    expired = counter("headwater_engine_expired", "Sequences not over by their deadline", labels=["place"])
    expired.add_metric(["queue"], stats.expired_waiting)
    expired.add_metric(["batch"], stats.expired_running)
    yield expired
    pages = counter("headwater_engine_disk_pages", "Pages of the prefix cache on disk", labels=["outcome"])
    for outcome in stats.disk.__struct_fields__:
        pages.add_metric([outcome], getattr(stats.disk, outcome))
    yield pages
    dropped = stats.kv_events_dropped
    yield counter("headwater_engine_kv_events_dropped", "Batches of the prefix cache's events not sent", dropped)
    yield counter("headwater_engine_aborted", "Sequences dropped before their end", stats.aborted)


def _by_method(name: str, text: str, prefill: int, decode: int) -> Metric:
    family = CounterMetricFamily(name, text, labels=["method"])
    family.add_metric(["prefill"], prefill)
    family.add_metric(["decode"], decode)
    return family
