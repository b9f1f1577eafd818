"""The servers whose answers in time are counted, each started on the same model file.

Owns commands, readiness and what differs in asking: temperature and patience. Knows nothing of loads; all speak
OpenAI's completions. Ours samples at temperature 1, so that repetitions of a greedy small model do not flatter its
drafts; the peers answer greedily, which is the least work for them. Invariant: `Server.stop` leaves no process behind.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import engines as catalog
from benchmarks.peers.install import Peers
from benchmarks.places import SUBJECTS

OURS, LLAMA_CPP, OPENVINO = "miaotui", "llama.cpp server", "OpenVINO GenAI"
SLOTS = 8
START_S = 120.0


@dataclass(frozen=True)
class Kind:
    """One way to serve: how it is started and asked."""

    name: str
    command: Callable[[int], Sequence[str]]  # port -> command
    health: str  # what answers 200 once it is ready
    temperature: float = 0.0


def ours(gguf: Path, threads: int) -> Kind:
    """``miaotui serve``, as anyone starts it."""
    command = [sys.executable, "-m", "miaotui", "serve", f"bench={gguf}", "--threads", str(threads)]
    return Kind(OURS, lambda port: [*command, "--port", str(port)], "/ready", temperature=1.0)


def llama_cpp(peers: Peers, gguf: Path, threads: int) -> Kind | None:
    """llama.cpp's own server with `SLOTS` slots; None if it has not been built."""
    program = peers.build() / "bin" / "llama-server"
    if not program.exists():
        return None
    sizes = ["-c", str(SLOTS * 1024), "-np", str(SLOTS), "-t", str(threads), "-tb", str(threads)]
    command = [str(program), "-m", str(gguf), *sizes, "--no-webui", "-fa", "on"]
    return Kind(LLAMA_CPP, lambda port: [*command, "--port", str(port)], "/health")


def openvino(peers: Peers, gguf: Path, threads: int) -> Kind | None:
    """OpenVINO GenAI's continuous batching; None if it is not installed."""
    if not peers.has_openvino():
        return None
    folder = catalog.convert(peers, gguf)
    command = [str(peers.python), str(SUBJECTS / "serve_openvino.py"), str(folder), "--threads", str(threads)]
    return Kind(OPENVINO, lambda port: [*command, "--port", str(port)], "/")


class Server:
    """A running server."""

    def __init__(self, kind: Kind, log: Path) -> None:
        self.kind, self.port = kind, _free_port()
        self._log = log.open("w")
        self._process = subprocess.Popen([*kind.command(self.port)], stdout=self._log, stderr=subprocess.STDOUT)
        try:
            self._wait_ready(log)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

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
