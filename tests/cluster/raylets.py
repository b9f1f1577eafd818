"""Three raylets on this machine, and a cluster over them; streams read as a client reads them."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from miaotui.cluster.cluster_file import ClusterFile

# Ray reads these when it is imported, so this module comes first; one token for all clusters of this process.
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED="0")
OPTIONS = {"threads": 1, "context": 2048, "max_sequences": 8, "speculate": False}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def raylets(count: int = 3) -> Iterator[str]:
    """The address of a Ray of so many raylets with one processor each, which ends with the block."""
    with nodes_of(count) as nodes:
        yield nodes.address


@contextmanager
def nodes_of(count: int, **head: Any) -> Iterator[Any]:
    """A Ray of so many raylets with one processor each, which ends with the block; ``head``: arguments of its head."""
    import ray  # noqa: PLC0415  (an extra)
    from ray.cluster_utils import Cluster  # noqa: PLC0415  (an extra)

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **head})
    try:
        for _ in range(count - 1):
            nodes.add_node(num_cpus=1)
        ray.init(address=nodes.address, namespace="miaotui", log_to_driver=False, logging_level="ERROR")
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


def cluster_of(folder: Path, address: str | None, replicas: int = 3, **more: Any) -> ClusterFile:
    """A cluster file's values over a tiny model, read as they would be from a file; ``more`` of the model."""
    model = {"model": str(folder), "replicas": replicas, "cpus": 1, **OPTIONS, **more}
    return ClusterFile.of({"address": address, "port": free_port(), "models": {"tiny": model}})


def stream(port: int, body: dict[str, Any], on_piece: Any = lambda text: None) -> dict[str, Any]:
    """One streamed completion: its text, its finish reasons and how it ended."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    asked = json.dumps({"model": "tiny", "stream": True, **body})
    connection.request("POST", "/v1/completions", asked, {"Content-Type": "application/json"})
    response = connection.getresponse()
    found: dict[str, Any] = {"status": response.status, "text": "", "reasons": [], "done": 0, "errors": []}
    for line in response:
        text = line.decode().strip()
        if text == "data: [DONE]":
            found["done"] += 1
        elif text.startswith("data: "):
            event = json.loads(text[6:])
            if "error" in event:
                found["errors"].append(event["error"])
            for choice in event.get("choices", ()):
                found["text"] += choice["text"]
                if choice["finish_reason"] is not None:
                    found["reasons"].append(choice["finish_reason"])
            on_piece(found["text"])
    connection.close()
    return found


def whole(port: int, body: dict[str, Any]) -> str:
    """The text of one completion that comes as a whole; what was answered instead if it failed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request(
        "POST", "/v1/completions", json.dumps({"model": "tiny", **body}), {"Content-Type": "application/json"}
    )
    response = connection.getresponse()
    answer = response.read().decode()
    connection.close()
    return str(json.loads(answer)["choices"][0]["text"]) if response.status == 200 else answer


def kill_busiest(state: dict[str, Any]) -> bool:
    """Kill the replica with the most requests by signal 9; whether there was one with any."""
    replicas = state["pools"]["tiny"]["replicas"].values()
    busiest = max(replicas, key=lambda each: each["in_flight"], default=None)
    if busiest is None or not busiest["in_flight"]:
        return False
    os.kill(busiest["process"], signal.SIGKILL)
    return True


def leave_early(port: int, body: dict[str, Any]) -> None:
    """Begin to read a stream, and hang up."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    asked = json.dumps({"model": "tiny", "stream": True, **body})
    connection.request("POST", "/v1/completions", asked, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.readline()
    assert connection.sock is not None
    connection.sock.close()
    response.close()
    connection.close()


def in_flight(state: dict[str, Any]) -> int:
    """Requests that any replica still has, as the router counts them and as replicas report them."""
    return sum(each["in_flight"] for each in state["pools"]["tiny"]["replicas"].values())


def is_ready(port: int) -> bool:
    """Whether the ingress answers that it takes requests."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def wait_until(holds: Callable[[], bool]) -> bool:
    """Whether something comes to hold; the bound is for faults, and no machine is as slow."""
    end_s = time.monotonic() + 240
    while not holds():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.1)
    return True


def parent_of(process: int) -> int:
    """The process that started another one."""
    stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    return int(stat.rpartition(")")[2].split()[1])


def child_with(process: int, word: str) -> int:
    """The child of a process whose command has ``word`` in it."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and parent_of(int(entry.name)) == process:
                command = (entry / "cmdline").read_bytes().split(b"\0")[0]
                if word in command.decode(errors="replace"):
                    return int(entry.name)
        except OSError:  # it has ended meanwhile
            continue
    raise AssertionError(f"no child of {process} is {word}")
