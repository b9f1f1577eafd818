"""A cluster on three raylets whose replicas are killed in the middle of answers."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from raylets import cluster_of, in_flight, is_ready, kill_busiest, leave_early, raylets, stream, wait_until, whole

from adapter_files import write_adapter
from miaotui.errors import RequestError
from tiny_models import make_tiny_folder

pytest.importorskip("ray", reason="Ray is not installed: pip install 'miaotui[cluster]'")
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

KILLS = int(os.environ.get("MIAOTUI_KILLS", "10"))
REQUESTS = int(os.environ.get("MIAOTUI_REQUESTS", "100"))
BODY = {"prompt": [5, 6, 7, 8] * 6, "max_tokens": 1900, "ignore_eos": True, "temperature": 0.9}


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
            assert answers < 10 * KILLS + 20, "too few kills fell into answers"
        state = run.state(address)
        print(json.dumps({"kills": kills, "answers": answers, "resumed": state["pools"]["tiny"]["resumed"]}))
        assert state["pools"]["tiny"]["resumed"] >= kills // 2
        assert state["running"] == 0
        os.kill(state["process"], signal.SIGKILL)  # the ingress: it comes back with its settings
        end_s = time.monotonic() + 90
        while not is_ready(cluster.port) and time.monotonic() < end_s:
            time.sleep(0.2)
        assert stream(cluster.port, {**BODY, "seed": 0})["text"] == wanted[0]
        back = run.state(address)
        assert back["process"] != state["process"]
        assert back["cluster"] == state["cluster"]
        assert run.down(address) == 0


def test_nothing_is_lost_while_replicas_come_and_go(tmp_path: Path) -> None:
    """Mixed requests of several clients while the cluster scales from one replica to three and back."""
    from miaotui.cluster.on_ray import run  # noqa: PLC0415  (imports Ray)

    folder = make_tiny_folder(tmp_path, "llama", max_position_embeddings=2048)
    bodies = [{**BODY, "max_tokens": 20 * (seed + 1), "seed": seed} for seed in range(8)]
    with raylets() as address, ThreadPoolExecutor(8) as clients:
        cluster = cluster_of(folder, address, replicas=1)
        run.up(cluster)
        wanted = [stream(cluster.port, body) for body in bodies]

        def ask(number: int) -> bool:
            body = bodies[number % len(bodies)]
            if number % 3 == 0:
                return whole(cluster.port, body) == wanted[number % len(bodies)]["text"]
            found = stream(cluster.port, body)
            return found == wanted[number % len(bodies)]

        seen = set()
        pending = [clients.submit(ask, number) for number in range(REQUESTS // 4)]
        for count in (3, 1):
            run.scale(address, {"tiny": count})
            pending += [clients.submit(ask, number) for number in range(REQUESTS // 4)]
            end_s = time.monotonic() + 60
            while len(run.state(address)["pools"]["tiny"]["replicas"]) != count and time.monotonic() < end_s:
                pending.append(clients.submit(ask, len(pending)))
                time.sleep(0.2)
            seen.add(len(run.state(address)["pools"]["tiny"]["replicas"]))
        pending += [clients.submit(ask, number) for number in range(max(REQUESTS - len(pending), 0))]
        right = [each.result(timeout=300) for each in pending]
        print(json.dumps({"requests": len(right), "right": sum(right), "replicas_seen": sorted(seen)}))
        assert all(right)
        assert seen == {1, 3}
        for seed in range(8):
            leave_early(cluster.port, {**BODY, "seed": seed})
        end_s = time.monotonic() + 20
        while (left := in_flight(run.state(address))) and time.monotonic() < end_s:
            time.sleep(0.2)
        assert left == 0
        assert run.state(address)["running"] == 0
        run.down(address)


@pytest.mark.parametrize("with_adapter", [False, True])
def test_the_last_replica_ends_when_idle_and_a_request_starts_one(tmp_path: Path, with_adapter: bool) -> None:
    from miaotui.cluster.on_ray import run  # noqa: PLC0415  (imports Ray)

    folder = make_tiny_folder(tmp_path, "llama", max_position_embeddings=2048)
    adapters = {"law": str(write_adapter(tmp_path, 1))} if with_adapter else {}
    body = {**BODY, "max_tokens": 40, "seed": 1, "model": "law" if with_adapter else "tiny"}
    scale = {"least": 0, "most": 1, "calm_s": 1, "idle_s": 2}
    with raylets(1) as address:
        cluster = cluster_of(folder, address, replicas=1, autoscale=scale, adapters=adapters)
        run.up(cluster)
        wanted = stream(cluster.port, body)
        assert wanted["reasons"] == ["length"]
        with pytest.raises(RequestError, match="has `autoscale`"):
            run.scale(address, {"tiny": 1})
        assert wait_until(lambda: not run.state(address)["pools"]["tiny"]["replicas"])
        assert is_ready(cluster.port)
        assert stream(cluster.port, body) == wanted
        assert len(run.state(address)["pools"]["tiny"]["replicas"]) == 1
        assert wait_until(lambda: not run.state(address)["pools"]["tiny"]["deployed"])
        os.kill(run.state(address)["process"], signal.SIGKILL)  # the ingress: it finds a model that sleeps
        assert wait_until(lambda: not is_ready(cluster.port))
        assert wait_until(lambda: is_ready(cluster.port))
        assert stream(cluster.port, body) == wanted
        run.down(address)
