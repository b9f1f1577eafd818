"""A deadline for code that may hang outside the interpreter, where no exception can reach it."""

from __future__ import annotations

import faulthandler
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")
TICK_S = 0.1


def within(seconds: float, action: Callable[[], T]) -> T:
    """What ``action`` returns; fails, with every thread's stack, if it takes too long.

    It runs in a thread of its own, which is left behind if it hangs.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(action())
        except BaseException as error:  # handed on below
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    for _ in range(round(seconds / TICK_S)):  # not at once: a machine may stand still for a while
        thread.join(TICK_S)
        if not thread.is_alive():
            break
    if thread.is_alive():
        faulthandler.dump_traceback(sys.__stderr__)
        pytest.fail(f"no end after {seconds} s", pytrace=False)
    if errors:
        raise errors[0]
    return results[0]
