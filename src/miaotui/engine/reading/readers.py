"""Readers of requests, in threads or in event loops, and their wake-ups.

Owns the table from request to reader and the economy of wake-ups: first pieces and ends are reported at once, further
pieces less often the more streams there are, so that events never take much of the machine. Does not know how a
reader waits. Invariant: a piece that is not reported now is reported after a later step, because it is still unread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from miaotui.engine.request import Request

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

EVENT_S = 4e-3  # between wake-ups, for each stream: an event takes about a seventieth of that


class Reader(Protocol):
    """Waits for some requests. ``patient``: only their ends matter."""

    patient: bool
    has_begun: bool  # was woken for a first piece

    @property
    def event_loop(self) -> AbstractEventLoop | None:
        """Return the event loop in which `wake` must be called; None: it may be called in any thread."""

    def wake(self) -> None:
        """Let it look at its requests; returns at once."""


class Wakeup:
    """A wake-up that is remembered until one thread has waited for it.

    `call` may be used in any thread, and in a finalizer or a signal handler that interrupts `call` or `wait` itself:
    unlike `threading.Event` it holds no lock of its own meanwhile.
    """

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._gate.acquire()

    def call(self) -> None:
        """Wake the thread that waits, or the next one that will."""
        if self._gate.locked():
            with suppress(RuntimeError):  # another call was faster
                self._gate.release()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for a call and forget it; False after ``timeout_s`` without one."""
        return self._gate.acquire(timeout=-1 if timeout_s is None else timeout_s)


class Readers:
    """The readers of one `EngineLoop`. `add` and `remove` may be called from any thread."""

    def __init__(self) -> None:
        self._readers: dict[int, Reader] = {}
        self._next_s = 0.0  # when streams are told of their next pieces
        self._has_new = False  # whether a reader may wait for a first piece

    def add(self, requests: Iterable[Request], reader: Reader) -> None:
        """Wake ``reader`` for these requests from now on. It must look once by itself: pieces may be there."""
        for request in requests:
            self._readers[request.number] = reader
        self._has_new = True

    def remove(self, request: Request) -> None:
        """Wake no reader for this request any more."""
        self._readers.pop(request.number, None)

    # in the engine's thread ----------------------------------------------------------------------

    def is_due(self) -> bool:
        """Return whether a reader is to be woken for what a step has brought."""
        return self._has_new or time.perf_counter() >= self._next_s

    def tell(self, requests: Sequence[Request]) -> None:
        """Wake the readers of what cannot wait, and now and then all. ``requests`` have something to read."""
        self._has_new = False  # before a look at the readers: `add` sets it after a change
        now_s, readers = time.perf_counter(), self._readers
        woken: dict[int, Reader] = {}
        streams, is_due = 0, now_s >= self._next_s
        for request in requests:
            reader = readers.get(request.number)  # None: it is not read yet, or no longer
            if reader is None:
                continue
            is_over = request.finish_reason is not None
            if is_over or not reader.patient:
                streams += 1
                if is_due or is_over or not reader.has_begun:
                    reader.has_begun = True
                    woken[id(reader)] = reader
        if is_due:
            self._next_s = now_s + EVENT_S * streams
        if not all(reader.has_begun or reader.patient for reader in tuple(readers.values())):
            self._has_new = True
        if woken:
            _wake(woken.values())


def _wake(readers: Iterable[Reader]) -> None:
    """Wake readers in threads directly, those in an event loop by one call for all of them."""
    by_loop: dict[AbstractEventLoop, list[Reader]] = {}
    for reader in readers:
        if reader.event_loop is None:
            reader.wake()
        else:
            by_loop.setdefault(reader.event_loop, []).append(reader)
    for event_loop, some in by_loop.items():
        with suppress(RuntimeError):  # the event loop has ended: nothing in it reads any more
            event_loop.call_soon_threadsafe(_wake_all, some)


def _wake_all(readers: Sequence[Reader]) -> None:
    for reader in readers:
        reader.wake()
