"""The servers whose answers in time are counted, each started on the same model file.

Owns commands, readiness and the form in which each takes a request. Knows nothing of loads. All are
given the same token ids and lengths, and none may end early. Ours samples at temperature 1, so that
repetitions of a greedy small model do not flatter its drafts; the peers answer greedily, which is
the least work for them. Invariant: `Server.stop` leaves no process behind.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import engines as catalog
from benchmarks.peers.install import Peers
from benchmarks.places import SUBJECTS

OURS, LLAMA_CPP, OPENVINO = "miaotui", "llama.cpp server", "OpenVINO GenAI"
SLOTS = 8
START_S = 120.0
Ask = tuple[Sequence[int], int]  # prompt token ids, tokens of the answer


@dataclass(frozen=True)
class Kind:
    """One way to serve: how it is started and asked."""

    name: str
    command: Callable[[int], Sequence[str]]  # port -> command
    path: str  # what requests are sent to
    health: str
    body: Callable[[Ask, bool, float | None], Mapping[str, Any]]  # ask, stream, deadline in ms
    environment: Mapping[str, str] = field(default_factory=dict)

    def request(self, ask: Ask, *, stream: bool = False, deadline_ms: float | None = None) -> str:
        """A whole HTTP request, in base64."""
        body = json.dumps(self.body(ask, stream, deadline_ms)).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return base64.b64encode(head.encode() + body).decode()


def ours(gguf: Path, threads: int) -> Kind:
    """``miaotui serve``, as anyone starts it."""

    def body(ask: Ask, stream: bool, deadline_ms: float | None) -> dict[str, Any]:
        prompt, answer = ask
        found = {
            "model": "bench",
            "prompt": list(prompt),
            "max_tokens": answer,
            "ignore_eos": True,
            "temperature": 1.0,
            "stream": stream,
        }
        return found if deadline_ms is None else {**found, "deadline_ms": deadline_ms}

    command = [sys.executable, "-m", "miaotui", "serve", f"bench={gguf}", "--threads", str(threads)]
    return Kind(OURS, lambda port: [*command, "--port", str(port)], "/v1/completions", "/ready", body)


def llama_cpp(peers: Peers, gguf: Path, threads: int) -> Kind | None:
    """llama.cpp's own server with `SLOTS` slots; None if it has not been built."""
    program = peers.build() / "bin" / "llama-server"
    if not program.exists():
        return None
    command = [
        str(program),
        "-m",
        str(gguf),
        "-c",
        str(SLOTS * 1024),
        "-np",
        str(SLOTS),
        "-t",
        str(threads),
        "-tb",
        str(threads),
        "--no-webui",
        "-fa",
        "on",
    ]

    def body(ask: Ask, stream: bool, _deadline_ms: float | None) -> dict[str, Any]:
        prompt, answer = ask
        return {
            "prompt": list(prompt),
            "n_predict": answer,
            "ignore_eos": True,
            "temperature": 0.0,
            "cache_prompt": False,
            "stream": stream,
        }

    return Kind(LLAMA_CPP, lambda port: [*command, "--port", str(port)], "/completion", "/health", body)


def openvino(peers: Peers, gguf: Path, threads: int) -> Kind | None:
    """OpenVINO GenAI's continuous batching; None if it is not installed."""
    if not peers.has_openvino():
        return None
    folder = catalog.convert(peers, gguf)
    script = str(SUBJECTS / "serve_openvino.py")
    command = [str(peers.python), script, str(folder), "--threads", str(threads)]

    def body(ask: Ask, _stream: bool, _deadline_ms: float | None) -> dict[str, Any]:
        return {"prompt": list(ask[0]), "max_tokens": ask[1]}

    return Kind(OPENVINO, lambda port: [*command, "--port", str(port)], "/", "/", body)


class Server:
    """A running server."""

    def __init__(self, kind: Kind, log: Path) -> None:
        self.kind, self.port = kind, _free_port()
        self._log = log.open("w")
        self._process = subprocess.Popen(
            [*kind.command(self.port)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **kind.environment},
        )
        try:
            self._wait_ready(log)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def read(self, path: str) -> str:
        """What the server says at ``path``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read().decode()
            return text if answer.status == 200 else ""
        finally:
            connection.close()

    def stop(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        self._log.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_ready(self, log: Path) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise OSError(f"{self.kind.name} ended: {log.read_text()[-2000:]}")
            try:
                if self.read(self.kind.health):
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise OSError(f"{self.kind.name} was not ready within {START_S:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
