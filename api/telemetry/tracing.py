"""OpenTelemetry spans of requests that generate, sent as OTLP over HTTP. Needs the packages of the extra ``otlp``.

A request is one span with the fields of TGI's, and below it what its time went into: validation, queue, prefill (until
the first token), decode. It is written when the request is over: nothing of this lies on a token's way.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .request_stats import RequestStats

_SIGNAL_PATH = "/v1/traces"
_EXPORT_DELAY_MS = 1000.0
_EXPORT_TIMEOUT_S = 5.0  # also how long a collector that is away may delay the end of the process
_PROPAGATED = ("traceparent", "tracestate")


class Tracer:
    """Sends the spans of this process, from a thread of its own."""

    def __init__(self, endpoint: str, service_name: str, version: str, model: str) -> None:
        """``endpoint``: a collector's address; without a path, OTLP's own is added."""
        if urlsplit(endpoint).path in ("", "/"):
            endpoint = endpoint.rstrip("/") + _SIGNAL_PATH
        resource = Resource.create({"service.name": service_name, "service.version": version})
        exporter = OTLPSpanExporter(endpoint, timeout=_EXPORT_TIMEOUT_S)
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_EXPORT_DELAY_MS))
        self._tracer = self._provider.get_tracer("headwater", version)
        self._propagator = TraceContextTextMapPropagator()
        self._model = model

    def trace(self, stats: RequestStats, headers: Mapping[bytes, bytes]) -> None:
        """Write down a request that is over; ``traceparent`` among its headers says what it is part of."""
        given = {name: headers.get(name.encode(), b"").decode("latin-1") for name in _PROPAGATED}
        parent = self._propagator.extract({name: value for name, value in given.items() if value})
        # Times are kept by a clock that never jumps; spans want that of the wall.
        offset_ns = time.time_ns() - round(time.monotonic() * 1e9)
        start_ns = round(stats.start * 1e9) + offset_ns
        span = self._tracer.start_span(
            f"POST {stats.route}", parent, SpanKind.SERVER, self._attributes(stats), start_time=start_ns
        )
        if stats.failed:
            span.set_status(Status(StatusCode.ERROR, stats.outcome))
        self._add_phases(stats, set_span_in_context(span), start_ns)
        span.end(start_ns + round(stats.total_s * 1e9))

    async def close(self) -> None:
        """Send what is left."""
        await asyncio.to_thread(self._provider.shutdown)

    def _add_phases(self, stats: RequestStats, parent: Context, start_ns: int) -> None:
        for name, seconds in _phases(stats):
            end_ns = start_ns + round(seconds * 1e9)
            self._tracer.start_span(name, parent, start_time=start_ns).end(end_ns)
            start_ns = end_ns

    def _attributes(self, stats: RequestStats) -> dict[str, str | int | float]:
        return {
            "http.request.method": "POST",
            "http.route": stats.route,
            "http.response.status_code": stats.status,
            "headwater.request_id": stats.request_id,
            "headwater.outcome": stats.outcome,
            "gen_ai.request.model": self._model,
            "gen_ai.usage.input_tokens": stats.prompt_tokens,
            "gen_ai.usage.output_tokens": stats.generated_tokens,
            "gen_ai.usage.cache_read.input_tokens": stats.cached_tokens,
            # TGI's names; seconds.
            "total_time": stats.total_s,
            "validation_time": stats.validation_s,
            "queue_time": stats.queue_s,
            "inference_time": stats.inference_s,
            "time_per_token": stats.time_per_token_s,
        }


def _phases(stats: RequestStats) -> Iterator[tuple[str, float]]:
    """Names and seconds of what was reached, in order."""
    if not stats.validation_s:
        yield "validation", stats.total_s
        return
    yield "validation", stats.validation_s
    yield "queue", stats.queue_s
    if stats.first_token_s is None:
        yield "prefill", stats.inference_s
        return
    prefill_s = max(stats.first_token_s - stats.validation_s - stats.queue_s, 0.0)
    yield "prefill", prefill_s
    yield "decode", max(stats.inference_s - prefill_s, 0.0)
