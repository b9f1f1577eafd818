"""Prometheus metrics: counters and histograms of requests, and the route ``/metrics``.

Owns what is counted of requests that are over, some seconds after they are, so that no answer waits for it. What holds
at the moment of a scrape is read by `gauges`. Names follow vLLM's page on production metrics where the meaning is the
same, and begin with ``miaotui_`` elsewhere. Invariant: labels hold the server's own words only (model names as it was
started with, route templates, fixed outcomes), so that no client can make their number grow.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.engine.jobs.job import PromisedJob
from miaotui.engine.request import Request
from miaotui.errors import DeadlineUnattainableError, RefusedError
from miaotui.serve.http.errors import ApiError
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import OUTCOMES, PROBING, Account, caller_of, services_of

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MODEL_LABEL = "model_name"

# Seconds of a step, or of one token of an answer: fine enough that a change of a millisecond shows.
STEP_S: tuple[float, ...] = (0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05)
STEP_S += (0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
# Seconds of a request: fine below one second, where promises are made.
_SECONDS: tuple[float, ...] = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_SECONDS += (0.9, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
MOST_TENANT_LABELS = 200  # series are for ever, and each scrape carries all
TOKEN_KINDS = ("prompt", "answer")
OTHER_TENANTS = "(others)"  # no tenant can have this name
_ENDS = {"stop": "stop", "length": "length", "cancelled": "abort", "failed": "error", None: "abort"}
_GAP_NAMES = (
    ("vllm:inter_token_latency_seconds", "Between what one step brought and the next"),
    ("vllm:time_per_output_token_seconds", "The same, under its earlier name"),
)


class Metrics:
    """Counters and histograms in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series for each, which is never asked for
        self.registry = CollectorRegistry()
        self._tokens()
        self._times()
        self._ends()
        self._tenants: set[str] = set()  # that have series

    def count(self, ended: Iterable[tuple[str, Request | RefusedError]], closed: Iterable[Account]) -> None:
        """Count requests that were left or refused, with their models, and HTTP requests that are over."""
        for model, what in ended:
            if isinstance(what, RefusedError):
                self.refused(model, what)
            else:
                self.left(model, what)
        for account in closed:
            self.responded(account)

    def refused(self, model: str, error: RefusedError) -> None:
        """Count a refusal by its reason."""
        if PROBING.get():
            return
        reason = "deadline" if isinstance(error, DeadlineUnattainableError) else "overload"
        self.refusals.labels(model, reason).inc()

    def left(self, model: str, request: Request) -> None:
        """Count what a request took and how it ended."""
        answered = len(request.token_ids)
        self.prompt_tokens.labels(model).inc(request.prompt_tokens)
        self.generation_tokens.labels(model).inc(answered)
        self.prefix_queries.labels(model).inc(request.prompt_tokens)
        self.prefix_hits.labels(model).inc(request.cached_tokens)
        self.success.labels(model, _ENDS[request.finish_reason]).inc()
        if request.finish_reason not in ("stop", "length"):
            return
        timing = request.completion().timing
        self.request_prompt_tokens.labels(model).observe(request.prompt_tokens)
        self.request_generation_tokens.labels(model).observe(answered)
        self.ttft.labels(model).observe(timing.ttft_s)
        self.e2e.labels(model).observe(timing.total_s)
        self.queue.labels(model).observe(timing.queue_s)
        self.prefill.labels(model).observe(timing.ttft_s - timing.queue_s)
        self.decode.labels(model).observe(timing.total_s - timing.ttft_s)
        self.gaps.add(model, request.timeline.gaps)
        if answered > 1 and timing.decode_tokens_per_s > 0:
            self.tpot.labels(model).observe(1 / timing.decode_tokens_per_s)

    def encoded(self, model: str, job: PromisedJob) -> None:
        """Count a job of an encoder, or of an encoder-decoder, that is over."""
        self.prompt_tokens.labels(model).inc(job.n_tokens)
        self.texts.labels(model).inc(job.n_results)
        self.generation_tokens.labels(model).inc(job.written_tokens)
        self.success.labels(model, _ENDS[job.finish_reason]).inc()
        if job.finish_reason == "stop" and job.ended_s is not None and job.began_s is not None:
            self.request_prompt_tokens.labels(model).observe(job.n_tokens)
            self.e2e.labels(model).observe(job.ended_s - job.arrived_s)
            self.queue.labels(model).observe(job.began_s - job.arrived_s)

    def responded(self, account: Account) -> None:
        """Count an HTTP request that is over."""
        status = f"{account.status // 100}xx" if account.status else "none"
        self.http_requests.labels(account.route, account.method, status).inc()
        self.http_seconds.labels(account.route, account.method).observe(account.duration_s)
        if account.caller.name:
            self._count_tenant(account)

    def _count_tenant(self, account: Account) -> None:
        """Count a request of a caller with a name; beyond `MOST_TENANT_LABELS` of them under one name for all."""
        name = account.caller.name
        if name not in self._tenants and len(self._tenants) >= MOST_TENANT_LABELS:
            name = OTHER_TENANTS
        self._tenants.add(name)
        self.tenant_requests.labels(name, account.outcome).inc()
        for kind, tokens in zip(TOKEN_KINDS, (account.prompt_tokens, account.answer_tokens), strict=True):
            if tokens:
                self.tenant_tokens.labels(name, kind).inc(tokens)

    def forget(self, tenant: str) -> None:
        """Take the series of a tenant that is gone out."""
        self._tenants.discard(tenant)
        for counter, values in ((self.tenant_requests, OUTCOMES), (self.tenant_tokens, TOKEN_KINDS)):
            for value in values:
                with suppress(KeyError):
                    counter.remove(tenant, value)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _tokens(self) -> None:
        self.prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens of requests")
        self.generation_tokens = self._counter("vllm:generation_tokens", "Tokens answered")
        self.texts = self._counter("miaotui_encoded_texts", "Texts and pairs that encoders were asked for")
        text = "Prompt tokens looked up among stored prefixes"
        self.prefix_queries = self._counter("vllm:prefix_cache_queries", text)
        text = "Prompt tokens whose keys and values were reused"
        self.prefix_hits = self._counter("vllm:prefix_cache_hits", text)
        name, text = "vllm:request_prompt_tokens", "Prompt tokens of one request"
        self.request_prompt_tokens = self._histogram(name, text, _TOKENS)
        name, text = "vllm:request_generation_tokens", "Answered tokens of one request"
        self.request_generation_tokens = self._histogram(name, text, _TOKENS)

    def _times(self) -> None:
        text = "From submission to the first token"
        self.ttft = self._histogram("vllm:time_to_first_token_seconds", text, _SECONDS)
        name, text = ("vllm:request_time_per_output_token_seconds", "Mean time of a token but the first")
        self.tpot = self._histogram(name, text, STEP_S)
        text = "From submission to the last token"
        self.e2e = self._histogram("vllm:e2e_request_latency_seconds", text, _SECONDS)
        name, text = "vllm:request_queue_time_seconds", "From submission to the first step for it"
        self.queue = self._histogram(name, text, (0.001, 0.003, *_SECONDS))
        name, text = "vllm:request_prefill_time_seconds", "From that step to the first token"
        self.prefill = self._histogram(name, text, _SECONDS)
        name, text = "vllm:request_decode_time_seconds", "From the first token to the last"
        self.decode = self._histogram(name, text, _SECONDS)
        self.gaps = TokenGaps(STEP_S, self.registry)
        name, text = "http_request_duration_seconds", "Whole HTTP requests, by route"
        self.http_seconds = self._histogram(name, text, _SECONDS, ("handler", "method"))

    def _ends(self) -> None:
        text = "Requests that ended, by reason"
        self.success = self._counter("vllm:request_success", text, (MODEL_LABEL, "finished_reason"))
        text = "Sound requests not taken on, by reason"
        self.refusals = self._counter("miaotui_refused", text, (MODEL_LABEL, "reason"))
        text = "HTTP requests by route, method and class of status"
        self.http_requests = self._counter("http_requests", text, ("handler", "method", "status"))
        text = "Requests by tenant, or key, and end"
        self.tenant_requests = self._counter("miaotui_tenant_requests", text, ("tenant", "outcome"))
        text = "Tokens read and answered by tenant, or key"
        self.tenant_tokens = self._counter("miaotui_tenant_tokens", text, ("tenant", "kind"))

    def _counter(self, name: str, about: str, labels: tuple[str, ...] = (MODEL_LABEL,)) -> Counter:
        return Counter(name, about, labels, registry=self.registry)

    def _histogram(
        self, name: str, about: str, buckets: tuple[float, ...], labels: tuple[str, ...] = (MODEL_LABEL,)
    ) -> Histogram:
        return Histogram(name, about, labels, registry=self.registry, buckets=buckets)


class TokenGaps(Collector):
    """Histogram of the seconds between tokens, which takes a whole answer's at once; registers itself.

    Adding costs a few microseconds however long the answer is. Safe to use from several threads.
    """

    def __init__(self, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        self._bounds = np.array(bounds)
        self._counts: dict[str, NDArray[np.int64]] = {}
        self._sums: dict[str, float] = {}
        self._lock = threading.Lock()
        registry.register(self)

    def add(self, model: str, gaps: Sequence[float]) -> None:
        """Count the gaps of one answer, in seconds."""
        seconds = np.asarray(gaps, np.float64)
        size = len(self._bounds) + 1
        new = np.bincount(np.searchsorted(self._bounds, seconds), minlength=size)
        with self._lock:
            self._counts[model] = self._counts.get(model, np.zeros(size, np.int64)) + new
            self._sums[model] = self._sums.get(model, 0.0) + float(seconds.sum())

    def describe(self) -> list[Metric]:
        """Return nothing: the registry must not collect to find names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the histograms as they are now."""
        with self._lock:
            found = [(model, self._counts[model], self._sums[model]) for model in self._counts]
        bounds = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        for name, about in _GAP_NAMES:
            family = HistogramMetricFamily(name, about, labels=[MODEL_LABEL])
            for model, counts, total_s in found:
                totals = np.cumsum(counts).tolist()
                family.add_metric([model], list(zip(bounds, totals, strict=True)), total_s)
            yield family


def routes() -> Sequence[Endpoint]:
    """Return the route of this module."""
    return (Endpoint("/metrics", "GET", show_metrics, "Metrics for Prometheus", media_type="text/plain"),)


async def show_metrics(http: HttpRequest) -> Response:
    """Answer with everything that is counted, for Prometheus. Raises `ApiError` (403) for a tenant's ordinary key."""
    caller = caller_of(http)
    if caller.allowance.is_tenant and not caller.is_admin:
        reason = "The metrics of all tenants need an administrator's key: see `miaotui tenant key`"
        raise ApiError(403, reason, kind="permission_error", code="admin_required")
    operations = services_of(http).operations
    operations.count()
    text = await run_in_threadpool(operations.metrics.text)
    return Response(text, media_type=CONTENT_TYPE)
