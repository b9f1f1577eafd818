"""Prometheus metrics: vLLM's names where the meaning is the same, ``miaotui_`` for what is ours.

Owns what is counted when, as a `Watch` of requests; what is merely true now is read at a scrape
(`gauges`). Knows no HTTP. Invariant: labels hold the server's own words only (model names as it was
started with, route templates, fixed outcomes), so that no client can make their number grow.
Names follow vLLM's page on production metrics.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest

from miaotui.engine.request import Request
from miaotui.errors import DeadlineUnattainableError, RefusedError
from miaotui.serve.middleware.account import PROBING, Account
from miaotui.serve.ops.buckets import STEP_S
from miaotui.serve.ops.gaps import Gaps

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MODEL = "model_name"

# Fine below one second: that is where promises are made.
_SECONDS: tuple[float, ...] = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_SECONDS += (0.9, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
_ENDS = {"stop": "stop", "length": "length", "cancelled": "abort", "failed": "error", None: "abort"}


class Metrics:
    """All that is counted, in a registry of its own; a `Watch`."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series for each, that nobody asks for
        self.registry = CollectorRegistry()
        self._tokens()
        self._times()
        self._ends()

    def submitted(self, model: str, request: Request) -> None:
        """Nothing yet: what it took is known when it is left."""

    def refused(self, model: str, error: RefusedError) -> None:
        """Count it by its reason."""
        if PROBING.get():
            return
        reason = "deadline" if isinstance(error, DeadlineUnattainableError) else "overload"
        self.refusals.labels(model, reason).inc()

    def left(self, model: str, request: Request) -> None:
        """Count what it took and how it ended."""
        if PROBING.get():
            return
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
        self.gaps.add(model, request.gaps)
        if answered > 1 and timing.decode_tokens_per_s > 0:
            self.tpot.labels(model).observe(1 / timing.decode_tokens_per_s)

    def responded(self, account: Account) -> None:
        """Count an HTTP request that is over."""
        status = f"{account.status // 100}xx" if account.status else "none"
        self.http_requests.labels(account.route, account.method, status).inc()
        self.http_seconds.labels(account.route, account.method).observe(account.duration_s)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _tokens(self) -> None:
        self.prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens of requests")
        self.generation_tokens = self._counter("vllm:generation_tokens", "Tokens answered")
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
        self.gaps = Gaps(MODEL, STEP_S, self.registry)
        name, text = "http_request_duration_seconds", "Whole HTTP requests, by route"
        self.http_seconds = self._histogram(name, text, _SECONDS, ("handler", "method"))

    def _ends(self) -> None:
        text = "Requests that ended, by reason"
        self.success = self._counter("vllm:request_success", text, (MODEL, "finished_reason"))
        text = "Sound requests not taken on, by reason"
        self.refusals = self._counter("miaotui_refused", text, (MODEL, "reason"))
        text = "HTTP requests by route, method and class of status"
        self.http_requests = self._counter("http_requests", text, ("handler", "method", "status"))

    def _counter(self, name: str, about: str, labels: tuple[str, ...] = (MODEL,)) -> Counter:
        return Counter(name, about, labels, registry=self.registry)

    def _histogram(
        self, name: str, about: str, buckets: tuple[float, ...], labels: tuple[str, ...] = (MODEL,)
    ) -> Histogram:
        return Histogram(name, about, labels, registry=self.registry, buckets=buckets)
