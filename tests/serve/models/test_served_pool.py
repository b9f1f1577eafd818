"""Routes over a pool of replicas in other processes, beside the same routes over an engine in this one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Serving, serving

from miaotui.backends.options import EngineOptions
from miaotui.cluster.pool_loop import open_pool
from miaotui.cluster.pool_metrics import PoolMetrics
from miaotui.cluster.transport.process_channel import ProcessMembers
from miaotui.serve.models import ObservedModel, ServedModels
from miaotui.serve.ops.operations import Operations
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {"threads": 1, "context": 1024, "max_sequences": 4, "speculate": False}
PROMPT = [5, 6, 7, 8] * 6
SCHEMA = {"type": "array", "items": {"enum": ["red", "green", 3]}, "minItems": 2, "maxItems": 6}
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": PROMPT, "max_tokens": 24, "ignore_eos": True, "temperature": 0}),
    ("/v1/completions", {"prompt": PROMPT, "max_tokens": 40, "temperature": 0.9, "seed": 3, "n": 2}),
    ("/v1/completions", {"prompt": PROMPT, "max_tokens": 20, "logprobs": 2, "temperature": 1, "seed": 8}),
    ("/v1/completions", {"prompt": [PROMPT, [9, 9, 9]], "max_tokens": 12, "logit_bias": {"70": 5}, "seed": 4}),
    ("/v1/completions", {"prompt": "some words", "max_tokens": 60, "temperature": 1, "seed": 5, "stop": ["a", "e"]}),
    ("/v1/completions", {"prompt": PROMPT, "max_tokens": 90, "seed": 2, "structured_outputs": {"json": SCHEMA}}),
    ("/v1/completions", {"prompt": PROMPT, "max_tokens": 30, "presence_penalty": 1, "seed": 6, "deadline_ms": 60_000}),
]
REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"prompt": PROMPT, "max_tokens": 4, "structured_outputs": {"regex": "(("}}, 400, "cannot be used"),
    ({"prompt": PROMPT, "max_tokens": 4, "prompt_logprobs": 1}, 400, "log-probabilities of the prompt"),
    ({"prompt": PROMPT, "max_tokens": 900, "deadline_ms": 1}, 429, "the deadline cannot be kept"),
    ({"prompt": [10**7], "max_tokens": 4}, 400, "this model's ids"),
    ({"prompt": PROMPT * 50, "max_tokens": 4}, 400, "the context holds"),
]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, Serving]]:
    """A server over an engine, and one over a pool of two."""
    tmp_path = tmp_path_factory.mktemp("pool")
    folder = make_tiny_folder(tmp_path, "llama", max_position_embeddings=1024)
    pool, loop = open_pool("tiny", str(folder), ProcessMembers("tiny", str(folder), 2, OPTIONS), 1024)
    assert pool.wait(2, 120), pool.refused

    def parts(served: ServedModels) -> dict[str, Any]:
        models = ServedModels([ObservedModel("tiny", loop)])
        operations = Operations(models)
        PoolMetrics({"tiny": pool}, operations.metrics.registry)
        return {"models": models, "operations": operations}

    engine = EngineOptions(threads=1, context=1024, max_sequences=4)
    settings = settings_in(Path(tmp_path))
    with serving({"tiny": folder}, settings, options=engine) as one, serving({}, settings, parts=parts) as several:
        yield one, several


def told(answer: httpx.Response) -> Any:
    """An answer without what differs from call to call: ids and times."""
    found = answer.json()
    return answer.status_code, found.get("choices"), found.get("usage", {}).get("completion_tokens")


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_answers_are_those_of_one_engine(servers: tuple[Serving, Serving], path: str, body: dict[str, Any]) -> None:
    one, several = (httpx.post(server.url + path, json={"model": "tiny", **body}, timeout=60) for server in servers)
    assert one.status_code == 200
    assert told(one) == told(several)
    streams = [
        httpx.post(server.url + path, json={"model": "tiny", "stream": True, **body}, timeout=60).text
        for server in servers
    ]
    assert all(stream.count("data: [DONE]") == 1 for stream in streams)


@pytest.mark.parametrize(("body", "status", "reason"), REFUSED)
def test_refusals_name_the_reason(
    servers: tuple[Serving, Serving], body: dict[str, Any], status: int, reason: str
) -> None:
    answer = httpx.post(servers[1].url + "/v1/completions", json={"model": "tiny", **body}, timeout=60)
    assert (answer.status_code, reason in answer.text) == (status, True), answer.text
    if status == 429:
        assert answer.json()["error"]["predicted_ms"] > 1


def test_a_pools_loop_has_each_name_that_a_server_reads(servers: tuple[Serving, Serving]) -> None:
    """The loop of a pool stands in for an engine's without a type of its own: so its names are compared here."""
    source = Path(__file__).parents[3] / "src" / "miaotui"
    files = [source / name for name in ("serve/models.py", "engine/quote.py", "engine/reading/readers.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*files, *(source / "serve" / "ops").glob("*.py")])
    loop = servers[1].hosts["tiny"].loop
    for pattern, owner in ((r"\bloop\.(\w+)", loop), (r"\bloop\.engine\.(\w+)", loop.engine)):
        names = set(re.findall(pattern, text)) - {"noun", "py"}  # a job loop's, and a file's
        assert len(names) > 4
        assert not {name for name in names if not hasattr(owner, name)}


def test_health_metrics_and_quotes_are_those_of_the_pool(servers: tuple[Serving, Serving]) -> None:
    _, several = servers
    for path in ("/health", "/ready", "/v1/models"):
        assert httpx.get(several.url + path, timeout=60).status_code == 200, path
    metrics = httpx.get(several.url + "/metrics", timeout=60).text
    assert 'miaotui_healthy{model_name="tiny"} 1.0' in metrics
    assert 'vllm:num_requests_running{model_name="tiny"}' in metrics
    assert metrics.count('miaotui_replica_takes_requests{machine="') == 2
    assert 'miaotui_answers_resumed_total{model_name="tiny"} 0.0' in metrics
    assert 'miaotui_replicas_refused{model_name="tiny"} 0.0' in metrics
    for name in ("miaotui_replica_requests", "miaotui_replica_queue_seconds"):  # nothing runs: nothing is left
        counts = re.findall(rf"^{name}\{{.*\}} (\S+)$", metrics, re.MULTILINE)
        assert [float(count) for count in counts] == [0.0, 0.0]
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    quoted = httpx.post(several.url + "/v1/promise", json=body, timeout=60)
    if quoted.status_code == 200:  # a model with a chat template
        assert quoted.json()["predicted_ms"] > 0
    assert several.hosts["tiny"].loop.in_flight == 0
