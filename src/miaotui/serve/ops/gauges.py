"""Gauges read at the moment of a scrape: queues, pages, promises, steps, processor, memory.

Owns the reading of snapshots; nothing here waits for a step or delays one. Knows no HTTP. Invariant: reading twice
without work in between gives the same counters. Processor and memory are Linux's ``/proc``, as far as there is one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from miaotui.engine.jobs.loop import JobLoop
from miaotui.retrieval.answers.cache import AnswerCache, CacheCounts
from miaotui.schedule.promises.cost import CostModel, StepTime
from miaotui.serve.ops.machine import memory_limit_bytes, resident_bytes, team_seconds
from miaotui.serve.ops.metrics import MODEL_LABEL, STEP_S
from miaotui.served_model import ServedModel

Hosts = Callable[[], Sequence[ServedModel]]
JobLoops = Mapping[str, JobLoop[Any]]  # of models that do jobs (encoders, encoder-decoders, speech), by name
_RATIO: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.35, 1.5, 2.0, 3.0, 5.0)

_SCHEDULE = (
    ("vllm:num_requests_running", "Requests that a step computes for"),
    ("vllm:num_requests_waiting", "Requests in line"),
    ("miaotui_requests_paused", "Requests that gave their pages back for now"),
    ("vllm:kv_cache_usage_perc", "Share of pages of keys and values held by requests, 0 to 1"),
    ("miaotui_kv_pages_stored", "Pages of stored prefixes that no request uses now"),
    ("miaotui_pace", "How many times slower than calibrated the machine runs"),
    ("miaotui_promise_margin", "What promises allow for, as a factor of the predicted time"),
    ("miaotui_batch_width", "Requests that may run at once for now"),
    ("miaotui_chunk_rows", "Prompt rows that a step may read for now"),
    ("miaotui_healthy", "1 while the engine runs, 0 while it restarts"),
)
_DRAFTS = (
    ("spec_decode_num_drafts", "passes", "Passes that verified a draft"),
    ("spec_decode_num_draft_tokens", "proposed_tokens", "Tokens that were drafted"),
    ("spec_decode_num_accepted_tokens", "accepted_tokens", "Drafted tokens that were right"),
)
_PROMISES = ("met", "missed", "refused", "shortened")


class Gauges(Collector):
    """Snapshots of all models and of the machine; registers itself."""

    def __init__(self, hosts: Hosts, registry: CollectorRegistry, job_loops: Callable[[], JobLoops] = dict) -> None:
        self._hosts, self._job_loops = hosts, job_loops
        self.answers: AnswerCache | None = None  # of the server, if it has one
        self.read_limit_bytes_per_s: float | None = None  # of this machine's memory, where it was measured
        registry.register(self)  # first, so that a scrape takes the steps before it shows them
        self.steps = StepTimes(registry)

    def describe(self) -> list[Metric]:
        """Return nothing: the registry must not collect to find names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read everything now."""
        hosts, loops = self._hosts(), self._job_loops()
        self.take_steps()
        yield from _schedules(hosts, loops)
        yield _preemptions(hosts)
        yield from _promises(hosts, loops)
        yield from _drafts(hosts)
        yield from _machine(hosts)
        yield from _reading(_promising(hosts), self.read_limit_bytes_per_s)
        yield from _work({**{model.name: model.loop.cost for model in _promising(hosts)}, **_costs(loops)})
        if self.answers is not None:
            yield from _answers(self.answers.counts())

    def take_steps(self) -> None:
        """Count the steps of all models since the last call."""
        for model in _promising(self._hosts()):
            self.steps.take(model.name, model.loop.cost)
        for name, cost in _costs(self._job_loops()).items():
            self.steps.take(name, cost)


class StepTimes:
    """Histograms of steps as predicted and as they were, fed from the cost model's recent ones."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, about: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, about, (MODEL_LABEL,), registry=registry, buckets=buckets)

        self._took = histogram("miaotui_step_seconds", "Steps as they were", STEP_S)
        self._predicted = histogram("miaotui_step_predicted_seconds", "Steps as predicted", STEP_S)
        self._ratio = histogram("miaotui_step_ratio", "Real over predicted time of steps", _RATIO)
        self._rows = histogram("vllm:iteration_tokens_total", "Rows of a step", (1, 2, 4, 8, 16, 32, 64, 128, 256, 512))
        self._last: dict[str, StepTime] = {}
        self._lock = threading.Lock()

    def take(self, name: str, cost: CostModel) -> None:
        """Count the steps since the last call; call it once a second, or some are not seen."""
        with self._lock:
            for step in self._new(name, cost):
                self._took.labels(name).observe(step.took_s)
                self._predicted.labels(name).observe(step.predicted_s)
                self._rows.labels(name).observe(step.rows)
                if step.predicted_s > 0:
                    self._ratio.labels(name).observe(step.took_s / step.predicted_s)

    def _new(self, name: str, cost: CostModel) -> list[StepTime]:
        recent: list[StepTime] = []
        with suppress(RuntimeError):  # a step ended while it was copied: next time
            recent = list(cost.recent)
        last = self._last.get(name)
        found: list[StepTime] = []
        for step in reversed(recent):
            if step is last:
                break
            found.append(step)
        if found:
            self._last[name] = found[0]
        return found


def _promising(hosts: Sequence[ServedModel]) -> list[ServedModel]:
    """Return the models that promise times, and so know what their steps cost."""
    return [model for model in hosts if model.loop.can_promise]


def _costs(loops: JobLoops) -> dict[str, CostModel]:
    return {name: loop.cost for name, loop in loops.items()}


def _schedules(hosts: Sequence[ServedModel], loops: JobLoops) -> Iterator[Metric]:
    families = [GaugeMetricFamily(name, about, labels=[MODEL_LABEL]) for name, about in _SCHEDULE]
    for model in hosts:
        stats, can_promise = model.loop.engine.scheduler.stats(), model.loop.can_promise
        speeds = (model.loop.cost.pace, model.loop.cost.margin) if can_promise else (1.0, 1.0)
        n_pages = model.loop.engine.scheduler.config.n_pages
        values = (
            stats.running,
            stats.waiting,
            stats.paused,
            stats.pages_used / n_pages,
            stats.pages_evictable,
            *speeds,
            *_bounds(model),
            model.loop.healthy,
        )
        for family, value in zip(families, values, strict=True):
            family.add_metric([model.name], float(value))
    for name, loop in loops.items():
        families[0].add_metric([name], float(loop.in_flight))
    yield from families


def _bounds(model: ServedModel) -> tuple[int, int]:
    """Return how many may run at once and how many prompt rows a step may read, as the load has it."""
    engine = model.loop.engine
    limits, most = engine.limits, engine.scheduler.config
    width = most.max_sequences if limits.width is None else limits.width
    return width, most.chunk_size if limits.prompt_rows is None else limits.prompt_rows


def _preemptions(hosts: Sequence[ServedModel]) -> Metric:
    about = "How often a request lost its pages to another"
    family = CounterMetricFamily("vllm:num_preemptions", about, labels=[MODEL_LABEL])
    for model in hosts:
        family.add_metric([model.name], model.loop.engine.scheduler.stats().pauses)
    return family


def _answers(counts: CacheCounts) -> Iterator[Metric]:
    """Yield what the cache of answers does; it serves all models."""
    about = "Questions looked up among kept answers, by result"
    lookups = CounterMetricFamily("miaotui_answer_cache_lookups", about, labels=["result"])
    results = {"hit": counts.hits, "near": counts.near, "miss": counts.misses}
    for result, number in results.items():
        lookups.add_metric([result], number)
    yield lookups
    name, about = "miaotui_answer_cache_failures", "Look-ups and answers that its file failed"
    yield CounterMetricFamily(name, about, value=counts.failures)
    name, about = "miaotui_answer_cache_entries", "Answers that are kept"
    yield GaugeMetricFamily(name, about, value=counts.entries)
    name, about = "miaotui_answer_cache_bytes", "Bytes of the answers that are kept"
    yield GaugeMetricFamily(name, about, value=counts.size_bytes)


def _promises(hosts: Sequence[ServedModel], loops: JobLoops) -> Iterator[Metric]:
    counts = {model.name: model.loop.admission.counts for model in _promising(hosts)}
    counts |= {name: loop.admission.counts for name, loop in loops.items()}
    for outcome in _PROMISES:
        about = f"Requests with a deadline that were {outcome}"
        family = CounterMetricFamily(f"miaotui_deadline_{outcome}", about, labels=[MODEL_LABEL])
        for name, each in counts.items():
            family.add_metric([name], getattr(each, outcome))
        yield family


def _drafts(hosts: Sequence[ServedModel]) -> Iterator[Metric]:
    """Yield what speculation brought: in all under vLLM's names, and by source."""
    every = [CounterMetricFamily(f"vllm:{n}", t, labels=[MODEL_LABEL]) for n, _, t in _DRAFTS]
    each = [
        CounterMetricFamily(f"miaotui_draft_{n}", f"{t}, by source", labels=[MODEL_LABEL, "source"])
        for _, n, t in _DRAFTS
    ]
    about = "Passes that drafts made unnecessary, less what their rows cost, by source"
    saved = GaugeMetricFamily("miaotui_draft_saved_seconds", about, labels=[MODEL_LABEL, "source"])
    for model in hosts:
        speculation = model.loop.engine.speculation
        reports = () if speculation is None else speculation.report()
        values = [(one.drafts, one.proposed, one.accepted) for one in reports]
        for index, family in enumerate(every):
            family.add_metric([model.name], sum(value[index] for value in values))
        for one, value in zip(reports, values, strict=True):
            for family, number in zip(each, value, strict=True):
                family.add_metric([model.name, one.name], number)
            saved.add_metric([model.name, one.name], one.saved_s)
    yield from (*every, *each, saved)


def _machine(hosts: Sequence[ServedModel]) -> Iterator[Metric]:
    yield CounterMetricFamily("process_cpu_seconds", "Processor time", value=time.process_time())
    resident, limit = resident_bytes(), memory_limit_bytes()
    if resident is not None:
        name, about = "process_resident_memory_bytes", "Memory that this process holds"
        yield GaugeMetricFamily(name, about, value=resident)
    if limit is not None:
        name, about = "miaotui_memory_limit_bytes", "What this process may hold at most"
        yield GaugeMetricFamily(name, about, value=limit)
    with suppress(OSError):
        count = sum(1 for _ in Path("/proc/self/fd").iterdir())
        yield GaugeMetricFamily("process_open_fds", "Open files and connections", value=count)
    stats = [model.loop.engine.backend.stats() for model in hosts]
    size = max((each.threads for each in stats), default=0)
    yield GaugeMetricFamily("miaotui_team_threads", "Threads that compute", value=size)
    live = max((each.threads_live for each in stats), default=0)
    about = "Threads that compute now; 1 while other work keeps a core busy"
    yield GaugeMetricFamily("miaotui_team_threads_live", about, value=live)
    busy = team_seconds()
    if busy is not None:
        about = "Processor time of the threads that compute"
        yield CounterMetricFamily("miaotui_team_cpu_seconds", about, value=busy)


def _reading(hosts: Sequence[ServedModel], limit_bytes_per_s: float | None) -> Iterator[Metric]:
    """Yield what chat models' passes read and wrote so far, their time, and what memory would allow."""
    about = "Bytes of weights that passes read, as far as every pass needs them"
    read = CounterMetricFamily("miaotui_weights_read_bytes", about, labels=[MODEL_LABEL])
    spent = CounterMetricFamily("miaotui_weights_read_seconds", "Time in these passes", labels=[MODEL_LABEL])
    about = "Tokens of answers, counted as they are written; first tokens are not among them"
    written = CounterMetricFamily("miaotui_written_tokens", about, labels=[MODEL_LABEL])
    best_bytes_per_s = 0.0
    for model in hosts:
        cost = model.loop.cost
        size = cost.passes * model.loop.engine.backend.stats().weight_bytes
        read.add_metric([model.name], size)
        spent.add_metric([model.name], cost.pass_s)
        written.add_metric([model.name], cost.tokens)
        best_bytes_per_s = max(best_bytes_per_s, size / cost.pass_s if cost.pass_s else 0.0)
    yield read
    yield spent
    yield written
    if limit_bytes_per_s is not None:
        about = "Bytes per second that this machine's memory gives all threads"
        limit = max(limit_bytes_per_s, best_bytes_per_s)  # a busy machine measures too low a figure
        yield GaugeMetricFamily("miaotui_read_limit_bytes_per_second", about, value=limit)


def _work(costs: Mapping[str, CostModel]) -> Iterator[Metric]:
    """Yield the seconds of steps, and of the arithmetic in them; the rest is Python and HTTP."""
    steps = CounterMetricFamily("miaotui_step_busy_seconds", "Time in steps", labels=[MODEL_LABEL])
    passes = CounterMetricFamily("miaotui_pass_seconds", "Time in passes", labels=[MODEL_LABEL])
    for name, cost in costs.items():
        steps.add_metric([name], cost.busy_s)
        passes.add_metric([name], cost.pass_s)
    yield steps
    yield passes
