"""Processor time of a request through a cluster of one replica, beside the same request to one server.

Both serve the same model with one thread; requests come one after the other over one connection. The processor time is
that of all processes of each side (Linux: /proc), less what the same processes take in as much time without requests.
The last line is JSON.

    python benchmarks/cluster_cost.py --model smollm2-135m --requests 200
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

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
ANSWER = 16  # tokens


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


def cpu_s(root: int) -> float:
    """Processor seconds of a process and all below it, those that have ended included."""
    total = 0
    for pid in descendants(root):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))
    return total * TICK_S


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


def measured(words: list[str], ready: str, port: int, requests: int) -> dict[str, float]:
    with started(words, ready) as process:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for number in range(20):
            ask(connection, number, False)
        found = {}
        for name, stream in (("whole", False), ("stream", True)):
            before_s, start_s = cpu_s(process.pid), time.perf_counter()
            for number in range(requests):
                ask(connection, 1000 + number + 5000 * stream, stream)
            took_s, spent_s = time.perf_counter() - start_s, cpu_s(process.pid) - before_s
            time.sleep(1.0)
            before_s = cpu_s(process.pid)
            time.sleep(took_s)
            idle_s = cpu_s(process.pid) - before_s
            found[f"{name}_ms"] = round(1e3 * took_s / requests, 2)
            found[f"{name}_cpu_ms"] = round(1e3 * (spent_s - idle_s) / requests, 2)
            found[f"{name}_idle_cpu_share"] = round(idle_s / took_s, 3)
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
    more = {name: round(several[name] - one[name], 2) for name in one if not name.endswith("share")}
    row = {"benchmark": "cluster_cost", "model": parsed.model, "requests": parsed.requests, "answer_tokens": ANSWER}
    print(json.dumps({**row, "server": one, "cluster": several, "more": more}))


if __name__ == "__main__":
    main()
