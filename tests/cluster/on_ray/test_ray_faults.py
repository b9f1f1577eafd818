"""Faults of Ray itself: a node that vanishes, a head that dies, an object store without room."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from raylets import OPTIONS, child_with, cluster_of, free_port, nodes_of, parent_of, stream

from miaotui.cli import main
from tiny_models import make_tiny_folder

pytest.importorskip("ray", reason="Ray is not installed: pip install 'miaotui[cluster]'")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

BODY = {"prompt": [5, 6, 7, 8] * 6, "max_tokens": 1900, "ignore_eos": True, "temperature": 0.9, "seed": 1}
STARTED_S = 300.0  # that a cluster may take to come, or to come back


class OnceIn:
    """Calls ``act`` once, in the middle of a stream."""

    def __init__(self, act: Any) -> None:
        self._act, self.is_done = act, False

    def __call__(self, text: str) -> None:
        if not self.is_done and len(text) > 100:
            self.is_done = self._act() is not False


def test_answers_go_on_when_a_node_vanishes(tmp_path: Path) -> None:
    """A raylet is killed by signal 9: its replica's answers go on elsewhere, and a new node gets a replica."""
    from miaotui.cluster.on_ray import run  # noqa: PLC0415  (imports Ray)

    folder = make_tiny_folder(tmp_path, "llama", max_position_embeddings=2048)
    with nodes_of(3, num_cpus=0) as nodes:
        cluster = cluster_of(folder, nodes.address, replicas=2)
        run.up(cluster)
        wanted = stream(cluster.port, BODY)
        assert (wanted["status"], wanted["reasons"]) == (200, ["length"])

        def kill_node() -> bool:
            replicas = run.state(nodes.address)["pools"]["tiny"]["replicas"].values()
            busy = max(replicas, key=lambda each: each["in_flight"], default=None)
            if busy is None or not busy["in_flight"]:
                return False
            os.kill(parent_of(busy["process"]), signal.SIGKILL)
            return True

        kill = OnceIn(kill_node)
        assert stream(cluster.port, BODY, kill) == wanted
        assert kill.is_done
        assert stream(cluster.port, BODY) == wanted
        nodes.add_node(num_cpus=1)
        end_s = time.monotonic() + STARTED_S
        while len(run.state(nodes.address)["pools"]["tiny"]["replicas"]) < 2:
            assert time.monotonic() < end_s, run.state(nodes.address)
            time.sleep(0.5)
        assert stream(cluster.port, BODY) == wanted
        run.down(nodes.address)


class Up:
    """``miaotui cluster up`` as a process of its own, with a Ray that it starts."""

    def __init__(self, file: Path, port: int) -> None:
        self._log = file.with_suffix(".log")
        command = [sys.executable, "-m", "miaotui", "cluster", "up", str(file)]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end_s = time.monotonic() + STARTED_S
        while f"http://127.0.0.1:{port}" not in self.log:
            assert time.monotonic() < end_s, self.log
            assert self.process.poll() is None, self.log
            time.sleep(0.2)

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(STARTED_S)


def test_a_head_that_dies_ends_up_with_one_error_and_up_brings_all_back(tmp_path: Path) -> None:
    """The answer under way is whole; `miaotui cluster up` with the same file then gives the same answers."""
    folder = make_tiny_folder(tmp_path, "llama", max_position_embeddings=2048)
    port, file = free_port(), tmp_path / "cluster.yaml"
    model = {"model": str(folder), "replicas": 2, "cpus": 1, **OPTIONS}
    file.write_text(yaml.safe_dump({"port": port, "ingress": {"drain_timeout_s": 5}, "models": {"tiny": model}}))
    first = Up(file, port)
    try:
        wanted = stream(port, BODY)
        assert (wanted["status"], wanted["reasons"]) == (200, ["length"])
        kill = OnceIn(lambda: os.kill(child_with(first.process.pid, "gcs_server"), signal.SIGKILL))
        assert stream(port, BODY, kill) == wanted
        assert kill.is_done
        assert first.process.wait(STARTED_S) != 0
        assert "Ray's head has ended" in first.log
        assert "Traceback" not in first.log
    finally:
        first.close()
    second = Up(file, port)
    try:
        assert stream(port, BODY) == wanted
    finally:
        second.close()
    assert second.process.returncode == 0


def test_a_full_object_store_is_no_obstacle_to_answers_and_one_error_of_a_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Requests do not pass the store. A batch does: its error says so, and nothing that was answered is lost."""
    import ray  # noqa: PLC0415  (an extra)

    from miaotui.cluster.on_ray import run  # noqa: PLC0415  (imports Ray)

    folder = make_tiny_folder(tmp_path, "llama", max_position_embeddings=2048)
    path, place = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    body = {"model": "tiny", "max_tokens": 8, "seed": 1, "padding": "x" * 100_000}
    lines = [
        {"custom_id": f"c{n}", "url": "/v1/completions", "body": {**body, "prompt": [5, 6, 7, n]}} for n in range(40)
    ]
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    no_room = {"automatic_object_spilling_enabled": False, "local_fs_capacity_threshold": 0.0}
    with nodes_of(2, object_store_memory=80 << 20, _system_config=no_room) as nodes:
        cluster = cluster_of(folder, nodes.address, replicas=1)
        kept = filled(ray)
        run.up(cluster)
        wanted = stream(cluster.port, BODY)
        assert (wanted["status"], wanted["reasons"]) == (200, ["length"])
        run.scale(nodes.address, {"tiny": 2})
        end_s = time.monotonic() + STARTED_S
        while len(run.state(nodes.address)["pools"]["tiny"]["replicas"]) < 2 and time.monotonic() < end_s:
            time.sleep(0.5)
        assert stream(cluster.port, BODY) == wanted
        run.down(nodes.address)
        words = ["batch", str(path), f"tiny={folder}", "--cluster", nodes.address, "--output", str(place)]
        capsys.readouterr()
        assert main(words) == 1
        assert "object store" in capsys.readouterr().err
        kept.clear()
        assert main(words) == 0
        answers = [json.loads(line) for line in place.read_text().splitlines()]
        assert sorted(each["custom_id"] for each in answers) == sorted(each["custom_id"] for each in lines)


def filled(ray: Any) -> list[Any]:
    """Objects that leave the store without room."""
    kept: list[Any] = []
    while True:
        assert len(kept) < 200, "the store takes more than it should"
        try:
            kept.append(ray.put(np.zeros(1 << 20, np.uint8)))
        except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError):
            return kept
