"""A greeting, waits and a comparison, for tests of the Python entry."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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


@contextmanager
def held_passes(backend: Any, after: int) -> Iterator[threading.Event]:
    """Let ``after`` passes of a backend run; the others wait until the event that is yielded is set.

    A reader that sets it with its first piece has read that piece before the end, on a machine of any speed.
    """
    go_on, run, passes = threading.Event(), backend.run, itertools.count(1)

    def held(*how: Any, **more: Any) -> Any:
        if next(passes) > after and not go_on.wait(60):
            raise AssertionError(f"nothing was read of {after} passes")
        return run(*how, **more)

    backend.run = held
    try:
        yield go_on
    finally:
        go_on.set()
        backend.run = run
