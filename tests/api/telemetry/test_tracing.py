"""Traces, as a collector gets them from the real server."""

import itertools
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from typer.testing import CliRunner

from headwater.api import cli
from headwater.engine.install_hints import install_extra

from ..conftest import ApiServer, byte_ids, run_api_server, wait_until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
JSON = {"content-type": "application/json"}


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP and keeps the spans, by trace id."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Span] = []
        self.service: dict[str, str] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def request_span(self, request_id: str) -> Span:
        """The span of one request, once it and those below it are there."""
        (span,) = wait_until(
            lambda: [span for span in self.spans if attributes(span).get("headwater.request_id") == request_id],
            "its span came",
        )
        return span

    def below(self, parent: Span) -> list[Span]:
        return sorted(
            (s for s in self.spans if s.parent_span_id == parent.span_id), key=lambda s: s.start_time_unix_nano
        )


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        for resource in request.resource_spans:
            self.server.service = {item.key: item.value.string_value for item in resource.resource.attributes}
            # A request's span ends last.
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None: ...


def attributes(span: Span) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector
        collector.shutdown()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, model_dir: Path, collector: Collector) -> Iterator[ApiServer]:
    with run_api_server(
        tmp_path_factory.mktemp("traced"), model_dir, otlp_endpoint=collector.url, otlp_service_name="mine"
    ) as server:
        yield server


def test_a_request_is_a_span_with_its_phases_below(traced: ApiServer, collector: Collector) -> None:
    headers = {**JSON, "x-request-id": "one", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    connection = traced.connect()
    connection.request("POST", "/generate_stream", json.dumps({"inputs": "xy"}), headers)
    sequence = traced.peer.submitted().request_id
    traced.peer.send(sequence, byte_ids("a"))
    response = connection.getresponse()
    response.readline()
    traced.peer.send(sequence, byte_ids("bc"), "length")
    response.read()
    connection.close()

    span = collector.request_span("one")
    assert collector.service["service.name"] == "mine"
    assert (span.name, span.kind) == ("POST /generate_stream", Span.SPAN_KIND_SERVER)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    found = attributes(span)
    assert found["gen_ai.usage.input_tokens"] == 3  # with the one that begins a text
    assert found["gen_ai.usage.output_tokens"] == 3
    assert found["gen_ai.usage.cache_read.input_tokens"] == 1
    assert (found["queue_time"], found["headwater.outcome"], found["http.response.status_code"]) == (
        0.25,
        "length",
        200,
    )

    phases = collector.below(span)
    assert [phase.name for phase in phases] == ["validation", "queue", "prefill", "decode"]
    seconds = {phase.name: (phase.end_time_unix_nano - phase.start_time_unix_nano) / 1e9 for phase in phases}
    assert seconds["queue"] == pytest.approx(0.25)  # what the engine said
    assert phases[0].start_time_unix_nano == span.start_time_unix_nano
    for one, following in itertools.pairwise(phases):
        assert one.end_time_unix_nano == following.start_time_unix_nano


def test_a_refused_request_is_an_error_of_its_own_trace(traced: ApiServer, collector: Collector) -> None:
    headers = {**JSON, "x-request-id": "two", "traceparent": "00-nonsense"}
    assert traced.request("POST", "/generate", {"inputs": ""}, headers)[0].status == 422
    span = collector.request_span("two")
    assert span.trace_id.hex() != TRACE
    assert not span.parent_span_id
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "validation")
    assert [phase.name for phase in collector.below(span)] == ["validation"]


def test_a_trace_that_is_not_sampled_is_not_sent(traced: ApiServer, collector: Collector) -> None:
    for request_id, flags in (("three", "00"), ("four", "01")):
        headers = {**JSON, "x-request-id": request_id, "traceparent": f"00-{TRACE}-{PARENT}-{flags}"}
        traced.request("POST", "/generate", {"inputs": ""}, headers)
    collector.request_span("four")
    assert "three" not in [attributes(span).get("headwater.request_id") for span in collector.spans]


def test_without_the_packages_the_flag_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    ended = CliRunner().invoke(cli.app, ["serve", "--otlp-endpoint", "http://127.0.0.1:4318"])
    assert ended.exit_code == 2
    assert install_extra("otlp") in ended.output
