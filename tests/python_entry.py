"""A greeting, waits and a comparison, for tests of the Python entry."""

from __future__ import annotations

import time
from collections.abc import Callable

from miaotui.llm import LLM
from miaotui.types import Completion

GREETING = [{"role": "user", "content": "Hello there"}]


def in_flight(llm: LLM) -> int:
    return llm.loop.in_flight


def wait_until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.001)


def but_times(like: Completion, done: Completion) -> Completion:
    import dataclasses  # noqa: PLC0415

    return dataclasses.replace(done, timing=like.timing, cached_tokens=like.cached_tokens)
