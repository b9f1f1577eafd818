"""The conversation between the benchmark and an engine under test: JSON lines over a pipe.

Owns the requests (``generate``, ``memory``, ``quit``), their answers and the clock. Knows no
engine: each subject hands `serve` one function. Runs in whatever environment the engine needs, so
it imports the standard library alone. Invariant: all engines answer the same prompts (token ids),
greedily, to the same number of tokens, on one clock.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

TokenTimes = list[list[float]]
"""For every prompt the moments (seconds since the request) at which its new tokens became known."""

Generate = Callable[[Sequence[Sequence[int]], int], TokenTimes]
"""(prompts as token ids, new tokens of each) -> `TokenTimes`."""

Memory = Callable[[], dict[str, int]]
"""Bytes, ``peak_rss_bytes`` at least."""


def claim_stdout() -> IO[str]:
    """Take standard output for the protocol and send whatever libraries print to standard error."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return pipe


def serve(pipe: IO[str], generate: Generate, memory: Memory | None = None) -> None:
    """Say that the engine is ready, then answer requests until ``quit`` or the end of input."""
    _send(pipe, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            break
        try:
            _send(pipe, _answer(request, generate, memory))
        except Exception as error:
            _send(pipe, {"error": f"{type(error).__name__}: {error}"})


def _answer(request: dict[str, Any], generate: Generate, memory: Memory | None) -> dict[str, Any]:
    if request["do"] == "generate":
        return {"times": generate(request["prompts"], request["new_tokens"])}
    if request["do"] == "memory":
        return memory() if memory else {"peak_rss_bytes": peak_rss_bytes()}
    raise ValueError(f"unknown request {request['do']!r}; expected generate, memory or quit")


def _send(pipe: IO[str], message: dict[str, Any]) -> None:
    pipe.write(json.dumps(message) + "\n")
    pipe.flush()


def peak_rss_bytes() -> int:
    """The largest resident set of this process so far (mapped files included)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM; the benchmark measures memory on Linux only")


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._start
