"""Ctrl-C that waits for the end of a short piece of work.

Owns one delay. Python raises `KeyboardInterrupt` between any two instructions of the main thread; while a request is
submitted that would leave it running with no reader. Knows nothing of engines. Invariant: an interrupt is late, never
lost.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_MAIN = threading.main_thread().ident


class DeferredSigint:
    """While this context lasts an interrupt is only noted; it comes when the context ends.

    Does nothing outside the main thread, where interrupts never come, or where SIGINT has no
    handler in Python. Costs about two microseconds.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: Callable[[int, FrameType | None], Any] | None = None

    def __enter__(self) -> DeferredSigint:
        if threading.get_ident() == _MAIN:
            before = signal.getsignal(signal.SIGINT)
            if callable(before):
                with contextlib.suppress(ValueError):  # a sub-interpreter has no say in signals
                    signal.signal(signal.SIGINT, self._note)
                    self._before = before
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._before is None:
            return
        signal.signal(signal.SIGINT, self._before)
        if self._asked:
            self._before(signal.SIGINT, None)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
