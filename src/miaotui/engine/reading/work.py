"""Calls that other threads leave to the engine's thread: done between two steps, waited for by the one that asked.

Owns how a result or an error comes back. Knows no engine. Invariant: a caller waits until its call is done, or until
the engine's thread has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from miaotui.engine.reading.readers import Wakeup
from miaotui.errors import EngineError

Result = TypeVar("Result")
_LOOK_S = 0.1  # between looks whether the thread is alive


class ThreadWork(Generic[Result]):
    """A call that waits for the engine's thread."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._done, self._result = Wakeup(), list[Result]()
        self._error: BaseException | None = None

    def do(self) -> None:
        """Call it, and wake the thread that waits."""
        try:
            self._result.append(self._work())
        except BaseException as error:
            self._error = error
        self._done.call()

    def wait(self, is_alive: Callable[[], bool]) -> Result:
        """Return the result or raise the call's error. Raises `EngineError` if the thread has ended without it."""
        while not self._done.wait(_LOOK_S):
            if not is_alive() and not self._done.wait(0):
                raise EngineError("this model is closed: load it again")
        if self._error is not None:
            raise self._error
        return self._result[0]
