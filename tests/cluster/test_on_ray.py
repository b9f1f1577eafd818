"""A cluster on three raylets whose replicas are killed in the middle of answers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from raylets import cluster_of, kill_busiest, raylets, stream
from tiny_models import make_tiny_folder

pytest.importorskip("ray", reason="Ray is not installed: pip install 'miaotui[cluster]'")
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

KILLS = int(os.environ.get("MIAOTUI_KILLS", "10"))
BODY = {"prompt": [5, 6, 7, 8] * 6, "max_tokens": 900, "ignore_eos": True, "temperature": 0.9}


def test_answers_are_whole_and_equal_whatever_is_killed(tmp_path: Path) -> None:
    from miaotui.cluster.on_ray import run  # noqa: PLC0415  (imports Ray)

    folder = make_tiny_folder(tmp_path, "llama", max_position_embeddings=2048)
    with raylets() as address:
        cluster = cluster_of(folder, address)
        run.up(cluster)
        wanted: dict[int, str] = {}
        for seed in range(2):
            found = stream(cluster.port, {**BODY, "seed": seed})
            assert (found["status"], found["done"], found["reasons"]) == (200, 1, ["length"])
            wanted[seed] = found["text"]
        kills = answers = 0
        while kills < KILLS:
            killed = []

            def kill_once(text: str, killed: list[bool] = killed) -> None:
                if not any(killed) and len(killed) < 40 and len(text) > 100:
                    killed.append(kill_busiest(run.state(address)))

            seed = answers % 2
            found = stream(cluster.port, {**BODY, "seed": seed}, kill_once)
            answers += 1
            assert (found["status"], found["errors"], found["done"], found["reasons"]) == (200, [], 1, ["length"])
            assert found["text"] == wanted[seed]
            kills += any(killed)
            assert answers < 4 * KILLS + 20, "too few kills fell into answers"
        state = run.state(address)
        print(json.dumps({"kills": kills, "answers": answers, "resumed": state["pools"]["tiny"]["resumed"]}))
        assert state["pools"]["tiny"]["resumed"] >= kills // 2
        assert state["running"] == 0
        assert run.down(address) == 0
