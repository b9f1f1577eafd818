"""What monitors ask for: ``/health``, ``/ready`` and ``/metrics``.

Owns these three routes. Knows no engine. Invariant: ``/health`` and ``/ready`` answer without a key
and say nothing that helps a stranger; ``/metrics`` needs a key like everything else.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.serve.http.errors import json_response
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.ops.metrics import CONTENT_TYPE
from miaotui.serve.services import services_of


async def health(request: HttpRequest) -> Response:
    """200 if every engine just generated a token, 503 with the reason if not."""
    report = await services_of(request).operations.health.report()
    body = {"status": "ok" if report.is_well else "failing"}
    if report.reason is not None:
        body["reason"] = report.reason
    return json_response(body, 200 if report.is_well else 503, {"cache-control": "no-store"})


async def ready(request: HttpRequest) -> Response:
    """200 if new requests are welcome, 503 with the reason if not."""
    services = services_of(request)
    reason = None
    if services.operations.is_draining:
        reason = "shutting down"
    elif not services.models:
        reason = "no model is loaded yet"
    elif not all(model.loop.healthy for model in services.models.values()):
        reason = "an engine is restarting after a fault"
    body = {"status": "ready"} if reason is None else {"status": "not ready", "reason": reason}
    return json_response(body, 200 if reason is None else 503, {"cache-control": "no-store"})


async def metrics(request: HttpRequest) -> Response:
    """Everything that is counted, for Prometheus."""
    text = await run_in_threadpool(services_of(request).operations.metrics.text)
    return Response(text, media_type=CONTENT_TYPE)


def routes() -> Sequence[Endpoint]:
    """The monitors' routes."""
    return (
        Endpoint("/health", "GET", health, "Whether the engines answer", open=True),
        Endpoint("/ready", "GET", ready, "Whether new requests are welcome", open=True),
        Endpoint("/metrics", "GET", metrics, "Metrics for Prometheus", media_type="text/plain"),
    )
