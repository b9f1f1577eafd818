"""Processor time of a request through a cluster of one replica, beside the same request to one server.

Both serve the same model with one thread; requests come one after the other over one connection. The processor time is
that of all processes of each side (Linux: /proc), less what the same processes take in as much time without requests.
The last line is JSON.

    python -m benchmarks.serving.cluster_cost --model smollm2-135m --requests 200
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
ANSWER = 16  # tokens
ROLES = {  # by a mark in the command line
    "ProxyActor": "proxy",
    "ServeReplica:miaotui:ingress": "ingress",
    "ServeReplica:miaotui:model": "replica",
    "ServeController": "controller",
    "raylet": "raylet",
    "gcs_server": "gcs",
    "miaotui serve": "server",
}


def descendants(root: int) -> set[int]:
    """A process and all below it."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(folder.name)] = int(fields[1])
    found = {root}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def cpu_s(root: int) -> dict[str, float]:
    """Processor seconds of a process and all below it by role, those that have ended included."""
    total: dict[str, float] = {}
    for pid in descendants(root):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        role = next((role for mark, role in ROLES.items() if mark in words), "other")
        total[role] = total.get(role, 0.0) + sum(map(int, fields[11:15])) * TICK_S
    return total


def spent(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {role: seconds - before.get(role, 0.0) for role, seconds in after.items()}


def ask(connection: http.client.HTTPConnection, number: int, stream: bool) -> None:
    prompt = [1 + (number * 7919 + i * 31) % 40000 for i in range(32)]
    body = {"prompt": prompt, "max_tokens": ANSWER, "ignore_eos": True, "temperature": 0, "stream": stream}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    assert response.status == 200, content


@contextmanager
def started(words: list[str], ready: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-m", "miaotui", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if ready in line:
                break
        yield process
    finally:
        process.terminate()
        process.wait(60)


def measured(words: list[str], ready: str, port: int, requests: int) -> dict[str, Any]:
    with started(words, ready) as process:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for number in range(20):
            ask(connection, number, False)
        found: dict[str, Any] = {}
        for name, stream in (("whole", False), ("stream", True)):
            before, start_s = cpu_s(process.pid), time.perf_counter()
            for number in range(requests):
                ask(connection, 1000 + number + 5000 * stream, stream)
            took_s, busy = time.perf_counter() - start_s, spent(before, cpu_s(process.pid))
            time.sleep(1.0)
            before = cpu_s(process.pid)
            time.sleep(took_s)
            idle = spent(before, cpu_s(process.pid))
            each = {role: round(1e3 * (busy[role] - idle.get(role, 0.0)) / requests, 2) for role in busy}
            found[f"{name}_ms"] = round(1e3 * took_s / requests, 2)
            found[f"{name}_cpu_ms"] = round(sum(each.values()), 2)
            found[f"{name}_cpu_ms_by_process"] = {role: ms for role, ms in each.items() if ms}
            found[f"{name}_idle_cpu_share"] = round(sum(idle.values()) / took_s, 3)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--requests", type=int, default=200)
    parsed = parser.parse_args()
    one = measured(["serve", parsed.model, "--port", "8711", "--threads", "1"], "ready at", 8711, parsed.requests)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "cluster.yaml")
        file.write_text(f"port: 8712\nmodels: {{m: {{model: {parsed.model}, threads: 1}}}}\n", encoding="utf-8")
        several = measured(["cluster", "up", str(file)], "cluster ready", 8712, parsed.requests)
    more = {name: round(several[name] - one[name], 2) for name in one if name.endswith("_ms")}
    row = {"benchmark": "cluster_cost", "model": parsed.model, "requests": parsed.requests, "answer_tokens": ANSWER}
    print(json.dumps({**row, "server": one, "cluster": several, "more": more}))


if __name__ == "__main__":
    main()
