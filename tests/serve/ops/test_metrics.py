"""Metrics, health and audit of a server as monitors see them; none of it holds a client's words."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from serving import Serving, serving

from miaotui.retrieval.answers.cache import AnswerCache
from miaotui.serve.models import ObservedModel, ServedModels
from miaotui.serve.ops import health
from miaotui.serve.ops.audit import AuditLog
from miaotui.serve.ops.metrics import TokenGaps
from miaotui.serve.ops.operations import Operations
from miaotui.serve.settings import ServeSettings
from miaotui.serve.start import layers_for
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

DASHBOARD = Path(__file__).parents[3] / "deploy" / "grafana" / "miaotui.json"


@dataclass
class Watched:
    server: Serving
    operations: Operations
    audit: Path

    def ask(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """Status and body."""
        content = None if body is None else json.dumps(body).encode()
        asked = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.server.url + path, content, asked)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def sample(self, name: str, /, **labels: str) -> float:
        """One number of what a scrape says now."""
        found = [
            sample.value
            for family in text_string_to_metric_families(self.ask("/metrics")[1])
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(found) == 1, (name, labels, found)
        return found[0]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    models = {"tiny": make_tiny_folder(folder, "llama")}
    models_served = ServedModels()
    audit = folder / "audit.jsonl"
    operations = Operations(models_served, audit=AuditLog(audit))
    operations.gauges.answers = cache = AnswerCache()

    def attach(made: ServedModels) -> dict[str, Any]:
        for hosted in made.values():
            models_served.add(hosted)
            assert isinstance(hosted, ObservedModel)
            hosted.observe(operations.running)
        return {"operations": operations, "response_cache": cache}

    layers = layers_for(ServeSettings(models=("tiny",)), operations)
    with serving(models, settings_in(folder), layers=layers, parts=attach) as server:
        yield Watched(server, operations, audit)
    operations.close()


def complete(watched: Watched, **more: Any) -> dict[str, Any]:
    body = {"prompt": "hello there", "max_tokens": 6, "ignore_eos": True, **more}
    status, text = watched.ask("/v1/completions", body)
    assert status == 200, text
    answer: dict[str, Any] = json.loads(text)
    return answer


def test_tokens_and_ends_are_counted(watched: Watched) -> None:
    def counts() -> list[float]:
        ended = watched.sample("vllm:request_success_total", finished_reason="length")
        return [
            watched.sample("vllm:prompt_tokens_total"),
            watched.sample("vllm:generation_tokens_total"),
            watched.sample("vllm:time_to_first_token_seconds_count"),
            watched.sample("vllm:e2e_request_latency_seconds_count"),
            ended,
        ]

    complete(watched)
    before = counts()
    usage = complete(watched, n=2)["usage"]
    after = counts()
    more = [b - a for a, b in zip(before, after, strict=True)]
    assert more == [2 * usage["prompt_tokens"], usage["completion_tokens"], 2, 2, 2]


def test_the_stages_of_an_answer_add_up_to_it(watched: Watched) -> None:
    names = [f"vllm:request_{stage}_time_seconds" for stage in ("queue", "prefill", "decode")]
    whole = "vllm:e2e_request_latency_seconds"

    def sums() -> list[float]:
        return [watched.sample(f"{name}_sum") for name in (*names, whole)]

    complete(watched)
    before = sums()
    complete(watched, n=3)
    *stages, total = [b - a for a, b in zip(before, sums(), strict=True)]
    assert min(stages) > 0
    assert sum(stages) == pytest.approx(total)
    assert watched.sample(f"{names[0]}_count") == watched.sample(f"{whole}_count")


def test_waits_between_tokens_are_counted(watched: Watched) -> None:
    new, old = "vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"
    complete(watched)
    before, decode_s = watched.sample(f"{new}_count"), "vllm:request_decode_time_seconds_sum"
    spent_s = watched.sample(f"{new}_sum") - watched.sample(decode_s)
    complete(watched, prompt="once upon a time", n=2)
    assert 2 <= watched.sample(f"{new}_count") - before <= 10, "fewer where drafts were accepted"
    assert watched.sample(f"{new}_sum") - watched.sample(decode_s) == pytest.approx(spent_s, abs=1e-6)
    for ending in ("_sum", "_count"):
        assert watched.sample(old + ending) == watched.sample(new + ending)
    assert watched.sample(f"{new}_bucket", le="+Inf") == watched.sample(f"{new}_count")


def test_the_weights_that_passes_read_are_counted(watched: Watched) -> None:
    read, spent = "miaotui_weights_read_bytes_total", "miaotui_weights_read_seconds_total"
    before = watched.sample(read), watched.sample(spent)
    complete(watched, max_tokens=8)
    after = watched.sample(read), watched.sample(spent)
    (model,) = watched.server.hosts.values()
    passes = (after[0] - before[0]) / model.loop.engine.backend.stats().weight_bytes
    assert passes == round(passes)
    assert 1 <= passes <= 9, "one for the prompt, and one for each token but the first; fewer with drafts"
    assert after[1] > before[1]
    written = watched.sample("miaotui_written_tokens_total")
    complete(watched, max_tokens=8)
    assert 1 <= watched.sample("miaotui_written_tokens_total") - written <= 8
    watched.operations.gauges.read_limit_bytes_per_s = 5e10
    assert watched.sample("miaotui_read_limit_bytes_per_second") == 5e10


def test_gaps_are_counted_in_their_buckets() -> None:
    registry = CollectorRegistry()
    gaps = TokenGaps((0.01, 0.1), registry)
    gaps.add("a", [0.005, 0.01, 0.05])
    gaps.add("a", [3.0])
    gaps.add("b", [])
    name, counts = "vllm:inter_token_latency_seconds", list[float | None]()
    for bound in ("0.01", "0.1", "+Inf"):
        counts.append(registry.get_sample_value(f"{name}_bucket", {"model_name": "a", "le": bound}))
    assert counts == [2, 3, 4]
    assert registry.get_sample_value(f"{name}_sum", {"model_name": "a"}) == pytest.approx(3.065)
    assert registry.get_sample_value(f"{name}_count", {"model_name": "b"}) == 0


def test_what_follows_the_load_can_be_seen(watched: Watched) -> None:
    most = watched.server.hosts["tiny"].loop.engine.scheduler.config
    complete(watched)
    assert watched.sample("miaotui_batch_width") == most.max_sequences
    assert 1 <= watched.sample("miaotui_chunk_rows") <= most.chunk_size
    threads = watched.sample("miaotui_team_threads")
    assert 1 <= watched.sample("miaotui_team_threads_live") <= threads
    assert watched.sample("vllm:num_preemptions_total") == 0


def test_look_ups_of_kept_answers_are_counted(watched: Watched) -> None:
    def result(name: str) -> float:
        return watched.sample("miaotui_answer_cache_lookups_total", result=name)

    body = {"prompt": "kept answers", "max_tokens": 3, "temperature": 0, "ignore_eos": True}
    hits, misses = result("hit"), result("miss")
    assert watched.ask("/v1/completions", body)[0] == 200
    assert (result("hit"), result("miss")) == (hits, misses + 1)
    deadline_s = time.monotonic() + 10
    while not watched.sample("miaotui_answer_cache_entries"):
        assert time.monotonic() < deadline_s
    assert watched.ask("/v1/completions", body)[0] == 200
    assert (result("hit"), result("miss")) == (hits + 1, misses + 1)
    assert watched.sample("miaotui_answer_cache_bytes") > 0
    assert watched.sample("miaotui_answer_cache_failures_total") == 0


def test_stored_prefixes_are_counted(watched: Watched) -> None:
    prompt = "a prompt that is long enough to fill some pages of keys and values " * 2
    complete(watched, prompt=prompt)
    before = watched.sample("vllm:prefix_cache_hits_total")
    answer = complete(watched, prompt=prompt)
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached > 0
    assert watched.sample("vllm:prefix_cache_hits_total") == before + cached


def test_promises_are_counted(watched: Watched) -> None:
    complete(watched, deadline_ms=60_000)
    met = watched.sample("miaotui_deadline_met_total")
    refused = watched.sample("miaotui_deadline_refused_total")
    assert met >= 1
    body = {"prompt": "hello", "max_tokens": 200, "ignore_eos": True, "deadline_ms": 0.01}
    assert watched.ask("/v1/completions", body)[0] == 429
    assert watched.sample("miaotui_deadline_refused_total") == refused + 1
    assert watched.sample("miaotui_refused_total", reason="deadline") >= 1


def test_steps_are_counted_once_each(watched: Watched) -> None:
    complete(watched)
    first = watched.sample("miaotui_step_seconds_count")
    assert first >= 1
    assert watched.sample("miaotui_step_seconds_count") == first
    complete(watched)
    more = watched.sample("miaotui_step_seconds_count") - first
    assert 1 <= more <= 6, "one for each token, fewer where drafts were accepted"
    assert watched.sample("miaotui_step_ratio_count") == watched.sample("miaotui_step_predicted_seconds_count")


def test_the_machine_is_seen(watched: Watched) -> None:
    assert watched.sample("process_cpu_seconds_total") > 0
    assert watched.sample("miaotui_team_threads") >= 1
    assert watched.sample("miaotui_healthy") == 1
    assert watched.sample("vllm:num_requests_running") == 0
    assert 0 <= watched.sample("vllm:kv_cache_usage_perc") <= 1


def test_labels_do_not_grow_with_what_clients_send(watched: Watched) -> None:
    def series() -> set[str]:
        text = watched.ask("/metrics")[1]
        return {line.rpartition(" ")[0] for line in text.splitlines() if line[:1] != "#"}

    def visit(number: int) -> None:
        watched.ask(f"/nowhere/{number}?x={number}", None, {"User-Agent": f"agent-{number}"})
        watched.ask(f"/v1/models/model-{number}")
        body = {"prompt": "x", "max_tokens": 1, "model": f"model-{number}", "user": f"u-{number}"}
        watched.ask("/v1/completions", body)

    visit(0)
    before = series()
    for number in range(1, 6):
        visit(number)
    assert series() == before
    assert not re.search(r"nowhere|model-|agent-|u-0", "\n".join(before))


def test_health_generates_and_is_asked_once_a_second(watched: Watched) -> None:
    hosted = watched.server.hosts["tiny"]
    time.sleep(1.1)
    before = watched.sample("miaotui_step_seconds_count")
    asked = watched.sample("vllm:request_success_total", finished_reason="length")
    for _ in range(20):
        status, text = watched.ask("/health")
        assert (status, json.loads(text)) == (200, {"status": "ok"})
    steps = watched.sample("miaotui_step_seconds_count") - before
    assert 1 <= steps <= 3, "one probe a second at most"
    assert watched.sample("vllm:request_success_total", finished_reason="length") == asked
    assert hosted.loop.engine.in_flight == 0


@pytest.fixture
def soon_stale(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds after which health is found out anew, fewer than usual."""
    monkeypatch.setattr(health, "FRESH_S", 0.1)
    return 0.15


def test_a_failing_engine_turns_health_red_and_ready_off(watched: Watched, soon_stale: float) -> None:
    hosted = watched.server.hosts["tiny"]
    time.sleep(soon_stale)
    hosted.loop.healthy = False
    try:
        status, text = watched.ask("/health")
        assert (status, json.loads(text)["status"]) == (503, "failing")
        assert "restarting" in text
        status, text = watched.ask("/ready")
        assert status == 503
        assert watched.sample("miaotui_healthy") == 0
    finally:
        hosted.loop.healthy = True
    time.sleep(soon_stale)
    assert watched.ask("/health")[0] == 200


def test_an_engine_that_fails_is_red_until_it_runs_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, soon_stale: float
) -> None:
    engine = watched.server.hosts["tiny"].loop.engine
    reset, run, faults = engine.reset, engine.step, iter("ab")

    def failing_step(*given: Any, **named: Any) -> bool:
        if engine.in_flight and next(faults, None):
            raise MemoryError("secret address 0xdeadbeef")
        return run(*given, **named)

    def failing_reset() -> None:
        if next(faults, None):
            raise MemoryError("still broken")
        time.sleep(0.5)
        reset()

    monkeypatch.setattr(engine, "step", failing_step)
    monkeypatch.setattr(engine, "reset", failing_reset)
    time.sleep(soon_stale)  # what /health said before is no longer news
    body = {"prompt": "hello", "max_tokens": 5}
    status, text = watched.ask("/v1/completions", body)
    assert status >= 500
    assert "deadbeef" not in text
    status, text = watched.ask("/health")
    assert (status, json.loads(text)["reason"]) == (503, "an engine is restarting after a fault")
    assert watched.ask("/ready")[0] == 503
    assert watched.ask("/v1/completions", body)[0] == 503
    deadline_s = time.monotonic() + 10
    while watched.ask("/ready")[0] != 200:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    complete(watched)
    time.sleep(soon_stale)
    assert watched.ask("/health")[0] == 200


def test_every_request_is_audited_without_its_text(watched: Watched) -> None:
    complete(watched, prompt="xyzzy", user="mallory")
    watched.ask("/nowhere/xyzzy")
    deadline_s, lines = time.monotonic() + 5, list[dict[str, Any]]()
    while time.monotonic() < deadline_s and not any(li["status"] == 404 for li in lines):
        lines = [json.loads(line) for line in watched.audit.read_text().splitlines()]
    done = next(line for line in reversed(lines) if line["route"] == "/v1/completions")
    assert done["status"] == 200
    assert done["answer_tokens"] == 6
    assert done["whole"] is True
    assert done["model"] == "tiny"
    lost = next(line for line in lines if line["status"] == 404)
    assert lost["route"] == "(unknown)"
    assert not re.search("xyzzy|mallory|nowhere", watched.audit.read_text())


# ---- the dashboard -------------------------------------------------------------------------------


def test_the_dashboard_asks_only_for_what_there_is(watched: Watched) -> None:
    complete(watched, deadline_ms=60_000)
    exported = set[str]()
    for family in text_string_to_metric_families(watched.ask("/metrics")[1]):
        exported |= {sample.name for sample in family.samples}
        if family.type == "counter":  # one with labels has no samples before its first event
            exported.add(f"{family.name}_total")
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert board["title"]
    assert board["schemaVersion"] >= 36
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    asked = set[str]()
    for panel in board["panels"]:
        assert panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            found = re.findall(r"\b(?:vllm:|miaotui_|process_|http_)[a-z0-9_]+", target["expr"])
            assert found, target["expr"]
            asked |= set(found)
    assert asked <= exported, asked - exported
