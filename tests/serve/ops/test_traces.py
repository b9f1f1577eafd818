"""Spans to a collector on loopback: what arrives, within which trace, and what never does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from miaotui.serve.middleware.access import Account
from miaotui.serve.ops import traces as traces_module
from miaotui.serve.ops.traces import open_traces

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(ThreadingHTTPServer):
    """Understands OTLP over HTTP as far as traces go."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        export = ExportTraceServiceRequest.FromString(body)
        for resource in export.resource_spans:
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        yield server
        server.shutdown()
        thread.join()


def test_a_request_becomes_a_span_of_its_clients_trace(collector: Collector) -> None:
    traces = open_traces()
    assert traces is not None
    account = Account("POST", route="/v1/completions", status=200, duration_s=0.25, model="tiny")
    account.use(prompt=7, answer=3)
    headers = [(b"traceparent", f"00-{TRACE}-{PARENT}-01".encode()), (b"authorization", b"Bearer secret")]
    traces.note(account, {"headers": headers})
    traces.note(Account("GET", status=503), {"headers": [(b"traceparent", b"nonsense \xff" * 20)]})
    traces.close()
    span, failed = collector.spans
    assert span.name == "POST /v1/completions"
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == PARENT
    assert span.end_time_unix_nano - span.start_time_unix_nano == 250_000_000
    found = {item.key: item.value for item in span.attributes}
    assert found["gen_ai.usage.input_tokens"].int_value == 7
    assert found["gen_ai.usage.output_tokens"].int_value == 3
    assert found["gen_ai.request.model"].string_value == "tiny"
    assert failed.status.code == 2
    assert not failed.parent_span_id
    assert "secret" not in str(collector.spans)


def test_without_a_collector_there_are_none() -> None:
    assert open_traces({}) is None
    assert open_traces({"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_SERVICE_NAME": "x"}) is None
    off = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}
    assert open_traces(off) is None


def test_a_collector_that_is_gone_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(traces_module, "LAST_SPANS_S", 0.3)
    traces = open_traces()
    assert traces is not None
    for _ in range(5000):
        traces.note(Account("GET", status=200), {"headers": []})
    start_s = time.monotonic()
    traces.close()
    assert time.monotonic() - start_s < 0.3 + 1
