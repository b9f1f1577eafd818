"""One engine in one process of its own, held in conversation.

Owns the process and the pipe; knows nothing of workloads. The time from the start of the process to
its first answer is measured here, since that is what a person waits for. Invariant: a session
leaves no process behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.engines import Engine


class EngineError(RuntimeError):
    """An engine ended or refused; says which and shows the end of what it printed."""


class Session:
    """A running engine that has loaded one model."""

    def __init__(self, engine: Engine, gguf: Path, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.engine = engine
        self._log = log
        self._started = time.perf_counter()
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [*engine.command, str(engine.model(gguf))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **engine.environment, **(environment or {})},
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Return when the model is loaded."""
        self._read()

    def age_s(self) -> float:
        """Seconds since the process was started."""
        return time.perf_counter() - self._started

    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[float]]:
        """The moments (seconds since the request) of every new token of every prompt."""
        answer = self._ask({"do": "generate", "prompts": prompts, "new_tokens": new_tokens})
        times: list[list[float]] = answer["times"]
        if [len(moments) for moments in times] != [new_tokens] * len(prompts):
            counts = [len(moments) for moments in times]
            raise EngineError(f"{self.engine.label} gave {counts} tokens; expected {new_tokens} for each prompt")
        return times

    def memory(self) -> dict[str, int]:
        """Bytes: ``peak_rss_bytes``, and what the engine itself accounts for."""
        return self._ask({"do": "memory"})

    def close(self) -> None:
        """End the engine's process."""
        if self._process.poll() is None:
            assert self._process.stdin
            self._process.stdin.close()
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineError(f"{self.engine.label}: {answer['error']}")
        return answer

    def _ended(self) -> EngineError:
        tail = " / ".join(self._log.read_text(errors="replace").strip().splitlines()[-3:])
        return EngineError(f"{self.engine.label} ended early; the end of {self._log}: {tail or 'nothing'}")
