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
from miaotui.serve.ops.operations import KEY, Operations
from miaotui.serve.services import state_of


async def health(request: HttpRequest) -> Response:
    """200 if every engine just generated a token, 503 with the reason if not."""
    report = await operations_of(request).health.report()
    body = {"status": "ok" if report.is_well else "failing"}
    if report.reason is not None:
        body["reason"] = report.reason
    return json_response(body, 200 if report.is_well else 503, {"cache-control": "no-store"})


async def ready(request: HttpRequest) -> Response:
    """200 if new requests are welcome, 503 with the reason if not."""
    operations = operations_of(request)
    hosts = state_of(request).hosts
    reason = None
    if operations.is_draining:
        reason = "shutting down"
    elif not hosts:
        reason = "no model is loaded yet"
    elif not all(hosted.loop.healthy for hosted in hosts.values()):
        reason = "an engine is restarting after a fault"
    body = {"status": "ready"} if reason is None else {"status": "not ready", "reason": reason}
    return json_response(body, 200 if reason is None else 503, {"cache-control": "no-store"})


async def metrics(request: HttpRequest) -> Response:
    """Everything that is counted, for Prometheus."""
    text = await run_in_threadpool(operations_of(request).metrics.text)
    return Response(text, media_type=CONTENT_TYPE)


def operations_of(request: HttpRequest) -> Operations:
    """The server's; made on first use for an application that was given none."""
    state = state_of(request)
    found = state.extras.get(KEY)
    if not isinstance(found, Operations):
        found = state.extras[KEY] = Operations(state.hosts)
    return found


def routes() -> Sequence[Endpoint]:
    """The monitors' routes."""
    return (
        Endpoint("/health", "GET", health, "Whether the engines answer", open=True),
        Endpoint("/ready", "GET", ready, "Whether new requests are welcome", open=True),
        Endpoint("/metrics", "GET", metrics, "Metrics for Prometheus", media_type="text/plain"),
    )
