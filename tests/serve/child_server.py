"""``python -m miaotui serve`` as a process of its own: real sockets, real signals."""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_S = 300  # a first start compiles, perhaps beside other tests


@dataclass
class Child:
    """A server process and what it said on standard error."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)
    url: str = ""
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.said.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, pattern: str, within_s: float = START_S) -> re.Match[str]:
        """The first match in what it said; fails when it ends without."""
        end_s = time.monotonic() + within_s
        with self._changed:
            while True:
                found = re.search(pattern, "".join(self.said))
                if found:
                    return found
                left = end_s - time.monotonic()
                assert left > 0, f"{pattern!r} not in {self.said}"
                assert self.process.poll() is None or left > within_s - 1, self.said
                self._changed.wait(min(left, 0.5))

    def connect(self, timeout: float = 60) -> http.client.HTTPConnection:
        host, port = self.url.partition("://")[2].rsplit(":", 1)
        if self.url.startswith("https"):
            context = ssl._create_unverified_context()
            return http.client.HTTPSConnection(host, int(port), timeout=timeout, context=context)
        return http.client.HTTPConnection(host, int(port), timeout=timeout)

    def ask(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Status, and the body as JSON if it is that."""
        connection = self.connect()
        try:
            content = None if body is None else json.dumps(body)
            asked = {"Content-Type": "application/json", **(headers or {})}
            connection.request("GET" if body is None else "POST", path, content, asked)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text


@contextmanager
def child_server(*words: str, home: Path | None = None, env: Mapping[str, str] | None = None) -> Iterator[Child]:
    """A ready server; it is killed if the block leaves it running."""
    chosen = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    if home is not None:
        chosen["MIAOTUI_HOME"] = str(home)
    command = [sys.executable, "-m", "miaotui", "serve", "--port", "0", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=chosen)
    child = Child(process)
    listener = threading.Thread(target=child.listen, daemon=True)
    listener.start()
    try:
        child.url = child.wait_for(r"ready at (\S+)")[1]
        yield child
    finally:
        process.kill()
        process.wait()
        listener.join(10)
