"""An ensemble behind HTTP: many streams as alone, cancelled ones leave nothing, deadlines, adapters refused by name."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Serving, serving

from miaotui.config import Settings
from miaotui.serve.models import ServedModels
from miaotui.serve.ops.operations import Operations
from miaotui.serve.settings import ServeSettings
from miaotui.serve.tiers import TierGroup
from tiny_models import make_tiny_folder


def _parts(models: ServedModels) -> Mapping[str, Any]:
    models.add_groups([TierGroup("tiers", [models["both"], models["one"]])])
    operations = Operations(models)
    for model in models.values():
        model.observe(operations.running)  # type: ignore[attr-defined]
    return {"models": models, "operations": operations}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """An ensemble of two models, and one of them alone."""
    folder = tmp_path_factory.mktemp("ensemble")
    one, _ = make_tiny_folder(folder, "llama"), make_tiny_folder(folder, "qwen3", seed=1)
    both = folder / "both.ensemble.json"
    both.write_text(json.dumps({"members": [{"model": f"./{one.name}", "weight": 2}, {"model": "./qwen3-1"}]}))
    with serving(
        {"both": both, "one": one}, Settings.from_env(), parts=_parts, serve=ServeSettings(allow_adapters=True)
    ) as running:
        yield running


def _ask(server: Serving, **more: Any) -> httpx.Response:
    body = {"model": "both", "prompt": "hello", "max_tokens": 12, "ignore_eos": True, "temperature": 0, **more}
    return httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)


def _text(answer: httpx.Response) -> str:
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    return "".join(choice["text"] for event in events for choice in json.loads(event)["choices"])


def test_many_streams_say_what_each_says_alone(server: Serving) -> None:
    asked = [
        {"prompt": prompt, **more}
        for prompt in ("hello", "one two three", "the river and the hill")
        for more in ({}, {"temperature": 0.9, "seed": 3})
    ]
    alone = [_ask(server, **each).json()["choices"][0]["text"] for each in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda each: _text(_ask(server, stream=True, **each)), asked))
    assert together == alone
    assert _ask(server, model="one").json()["choices"][0]["text"] != alone[0], "the other member has its say"


def test_a_stream_that_is_left_leaves_nothing(server: Serving) -> None:
    body = {"model": "both", "prompt": "hello", "max_tokens": 200, "ignore_eos": True, "stream": True}
    for _ in range(3):
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as answer:
            next(answer.iter_lines())
    while server.call(server.in_flight):
        time.sleep(0.005)
    assert server.hosts["both"].loop.engine.scheduler.stats().pages_used == 0


def test_deadlines_count_all_members_and_tiers_take_an_ensemble(server: Serving) -> None:
    assert _ask(server, deadline_ms=0.001).status_code == 429
    kept = _ask(server, deadline_ms=50_000).json()["deadline"]
    assert kept["met"] is True
    assert kept["predicted_ms"] > 0
    assert _ask(server, model="tiers").json()["deadline"]["tier"] == "both"
    assert _ask(server, model="tiers", deadline_ms=0.001, quality="exact").status_code == 429


def test_an_adapter_over_an_ensemble_is_refused_by_name(server: Serving, tmp_path: Path) -> None:
    body = {"lora_name": "tuned", "lora_path": str(tmp_path), "base_model_name": "both"}
    refused = httpx.post(f"{server.url}/v1/load_lora_adapter", json=body)
    assert refused.status_code == 400
    assert "merge" in refused.text
