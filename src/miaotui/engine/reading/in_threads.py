"""Reading answers in threads: whole ones, and streams of pieces.

Owns how a thread waits for the engine's, and that leaving early, also by Ctrl-C, cancels at once. Knows no prompts.
Invariant: when `whole` or `DeltaStream.close` returns or raises, its requests have ended and their pages are free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from miaotui.closing import Closing
from miaotui.engine.loop import EngineLoop
from miaotui.engine.reading.readers import Wakeup
from miaotui.engine.reading.sigint import DeferredSigint
from miaotui.engine.request import Request
from miaotui.types import Completion, Delta

TICK_S = 0.25  # between looks for Ctrl-C where waiting hides it (Windows), and for a loop that has ended
NOTHING_YET = Delta("", ())


class ThreadReader:
    """A thread as a `Reader`."""

    event_loop = None

    def __init__(self, *, patient: bool = False) -> None:
        self.patient, self.has_begun = patient, False
        self._wakeup = Wakeup()
        self.wake = self._wakeup.call

    def wait(self, timeout_s: float = TICK_S) -> None:
        """Wait to be woken, at most ``timeout_s``."""
        self._wakeup.wait(timeout_s)


def whole(loop: EngineLoop, submit: Callable[[], Iterator[Request]]) -> list[Completion]:
    """Submit requests, which run together, and wait for their whole answers.

    Raises what submitting raises, or what one of them failed with; then the others are cancelled.
    """
    requests: list[Request] = []
    reader = ThreadReader(patient=True)
    try:
        pending = submit()
        while True:
            with DeferredSigint():  # what is submitted is known here, and will be left
                request = next(pending, None)
                if request is None:
                    break
                requests.append(request)
                loop.readers.add([request], reader)
        for request in requests:
            while not request.is_over:
                reader.wait()
            if request.error is not None:
                break
        return [completion for request in requests if (completion := request.read().completion) is not None]
    finally:
        leave(loop, requests, reader)


def leave(loop: EngineLoop, requests: Sequence[Request], reader: ThreadReader) -> None:
    """Leave requests and wait until they have ended, so that their pages are free."""
    unfinished = [request for request in requests if not request.is_over]
    for request in unfinished:
        loop.cancel(request)
    for request in unfinished:
        while not request.is_over:
            reader.wait()
    for request in requests:
        loop.leave(request)


class DeltaStream(Closing, Iterator[Delta]):
    """One answer, piece by piece; the last piece carries the completion.

    Dropping or closing it cancels the request. Use it from one thread at a time. ``owner`` stays alive with it;
    ``shape`` changes each piece before it is given out.
    """

    def __init__(
        self,
        loop: EngineLoop,
        submit: Callable[[], Request],
        owner: object = None,
        shape: Callable[[Delta], Delta] | None = None,
    ) -> None:
        self._shape = shape
        self._loop, self._owner, self._reader = loop, owner, ThreadReader()
        self._is_read = False
        with DeferredSigint():
            self.request = submit()
            loop.readers.add([self.request], self._reader)

    def __iter__(self) -> DeltaStream:
        return self

    def __next__(self) -> Delta:
        """Wait for the next piece. Raises what the request failed with."""
        while True:
            delta = self.next_within(TICK_S)
            if delta is not NOTHING_YET:
                return delta

    def next_within(self, timeout_s: float) -> Delta:
        """Wait for the next piece, at most ``timeout_s``; `NOTHING_YET` if none has come."""
        if self._is_read:
            raise StopIteration
        try:
            if not self.request.has_news:
                self._reader.wait(timeout_s)
            if not self.request.has_news:
                return NOTHING_YET
            delta = self.request.read()
        except BaseException:
            self.close()
            raise
        if delta.completion is not None:
            self.close()
        return delta if self._shape is None else self._shape(delta)

    def close(self) -> None:
        """Cancel the request unless it has ended, and wait until its pages are free."""
        self._is_read = True
        leave(self._loop, [self.request], self._reader)

    def __del__(self) -> None:
        """Cancel without waiting: Python may call this at any moment, in the engine's thread too."""
        request = getattr(self, "request", None)
        if request is not None:
            self._loop.leave(request)
