"""OpenTelemetry: one span per HTTP request, sent to a collector when one is configured.

Owns the way from an account to a span; the names are those of OpenTelemetry's conventions for HTTP
servers and generative AI. The libraries (extra ``otel``) are imported only when
``OTEL_EXPORTER_OTLP_ENDPOINT`` is set, and send from a thread of their own. Knows no text.
Invariant: a collector that is slow or gone costs spans, never answers.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.types import Scope

from miaotui.errors import RequestError
from miaotui.serve.middleware.access import Account

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_CARRIED = (b"traceparent", b"tracestate")
_MOST_BYTES = 1024
LAST_SPANS_S = 2.0


def open_traces(env: Mapping[str, str] | None = None) -> Traces | None:
    """Open a sender of spans if the environment names a collector. Raises `RequestError`."""
    env = os.environ if env is None else env
    disabled = env.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if disabled or not any(env.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  (an extra)
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  (an extra)
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  (an extra)
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise RequestError(
            f"{ENDPOINTS[0]} is set, but OpenTelemetry is not installed: pip install 'miaotui[otel]', or unset it"
        ) from error
    resource = Resource.create({"service.name": env.get("OTEL_SERVICE_NAME", "miaotui")})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)


class Traces:
    """Makes a span of each account."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415  (extra)

        self._provider = provider
        self._tracer = provider.get_tracer("miaotui")
        self._propagator = TraceContextTextMapPropagator()

    def note(self, account: Account, scope: Scope) -> None:
        """Send a span for a request that is over, within the trace that its client named, if any."""
        from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415  (an extra)

        carrier = {
            name.decode(): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in _CARRIED and len(value) <= _MOST_BYTES
        }
        end_ns = time.time_ns()
        span = self._tracer.start_span(
            f"{account.method} {account.route}",
            self._propagator.extract(carrier),
            SpanKind.SERVER,
            attributes=_attributes(account),
            start_time=end_ns - int(account.duration_s * 1e9),
        )
        if account.status >= 500 or not account.status:
            span.set_status(StatusCode.ERROR)
        span.end(end_ns)

    def close(self) -> None:
        """Send what is left; a collector that does not answer is given up after a moment."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(LAST_SPANS_S)


def _attributes(account: Account) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {
        "http.request.method": account.method,
        "http.route": account.route,
        "http.response.status_code": account.status,
        "miaotui.request_id": account.request_id,
        "gen_ai.usage.input_tokens": account.prompt_tokens,
        "gen_ai.usage.output_tokens": account.answer_tokens,
    }
    if account.model is not None:
        found["gen_ai.request.model"] = account.model
    if account.ttft_s is not None:
        found["gen_ai.server.time_to_first_token"] = account.ttft_s
    return found
