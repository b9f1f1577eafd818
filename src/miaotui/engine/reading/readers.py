"""Reading answers: how readers are woken, and reading in threads and in tasks, whole or piece by piece.

Owns the table from request to reader, the economy of wake-ups (first pieces and ends are reported at once, further
pieces less often the more streams there are, so that events never take much of the machine), how a thread or a task
waits, and that leaving early, also by Ctrl-C, cancels at once. Knows no prompts. Invariants: a piece that is not
reported now is reported after a later step, because it is still unread; when `whole` or `DeltaStream.close` returns or
raises, its requests have ended and their pages are free; so it is when a task has read an answer to its end.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from miaotui.closing import Closing
from miaotui.engine.reading.sigint import DeferredSigint
from miaotui.engine.request import Request
from miaotui.errors import RefusedError
from miaotui.types import Completion, Delta

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, TimerHandle

    from miaotui.engine.model_loop import ModelLoop

EVENT_S = 4e-3  # between wake-ups, for each stream: an event takes about a seventieth of that
TICK_S = 0.25  # between looks for Ctrl-C where waiting hides it (Windows), and for a loop that has ended
NOTHING_YET = Delta("", ())


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
        self._next_s = 0.0  # when streams are notified of their next pieces
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


class RequestObserver(Protocol):
    """Observer of one loop's requests, in the thread that submits or leaves them; must return at once."""

    def submitted(self, request: Request) -> None:
        """Note a request that was taken on."""

    def refused(self, error: RefusedError) -> None:
        """Note a sound request that was not taken on."""

    def left(self, request: Request) -> None:
        """Note a request that is not read any more; unless it is over, it is about to be cancelled."""


class ReadLoop(ABC):
    """A loop whose requests are read: the end of it that faces readers, be the engine here or elsewhere."""

    def __init__(self, readers: Readers) -> None:
        self.readers = readers
        self.observer: RequestObserver | None = None
        self._unleft: set[int] = set()  # numbers of requests that were submitted and not left

    @abstractmethod
    def cancel(self, request: Request) -> None:
        """End a request early. Safe in a finalizer."""

    @abstractmethod
    def holds(self, request: Request) -> bool:
        """Return whether something is still kept for a request; its reader is woken when that ends."""

    @property
    def unread(self) -> int:
        """Requests that were submitted and not left."""
        return len(self._unleft)

    def expect_reader(self, request: Request) -> None:
        """Note a request that was taken on, which will be left once."""
        self._unleft.add(request.number)
        if self.observer is not None:
            self.observer.submitted(request)

    def leave(self, request: Request) -> None:
        """Stop reading a request, and cancel it if it has not ended. Twice does nothing more. Safe in a finalizer."""
        if request.number not in self._unleft:
            return
        self._unleft.discard(request.number)
        self.readers.remove(request)
        if self.observer is not None:
            self.observer.left(request)
        if not request.is_over:
            self.cancel(request)


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


def whole(loop: ModelLoop, submit: Callable[[], Iterator[Request]]) -> list[Completion]:
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


def leave(loop: ModelLoop, requests: Sequence[Request], reader: ThreadReader) -> None:
    """Leave requests and wait until they have ended and the loop holds nothing for them: their pages are free."""
    for request in requests:
        if not request.is_over:
            loop.cancel(request)
    for request in requests:
        while not request.is_over or loop.holds(request):
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
        loop: ModelLoop,
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


# in tasks of an event loop ---------------------------------------------------------------------------


class TaskReader:
    """A task of the running event loop as a `Reader`."""

    def __init__(self, *, patient: bool = False) -> None:
        self.patient, self.has_begun = patient, False
        import asyncio  # noqa: PLC0415  (a caller in threads need not wait for it)

        self.event_loop = asyncio.get_running_loop()
        self.news = asyncio.Event()
        self.wake = self.news.set
        self._tick: TimerHandle | None = None

    async def wait(self) -> None:
        """Wait to be woken."""
        await self.news.wait()
        self.news.clear()

    def tick(self, every_s: float) -> None:
        """Wake up every ``every_s`` too, from now until `stop`, at no cost between ticks."""
        self._tick = self.event_loop.call_later(every_s, self._ticked, every_s)

    def _ticked(self, every_s: float) -> None:
        self.news.set()
        self.tick(every_s)

    def stop(self) -> None:
        """End the ticks."""
        if self._tick is not None:
            self._tick.cancel()


def together(loop: ModelLoop, submitted: Iterable[Request]) -> list[Request]:
    """Return requests that are submitted one by one and belong together: all are on their way, or none is."""
    requests: list[Request] = []
    try:
        requests += submitted
    except BaseException:
        leave_all(loop, requests)
        raise
    return requests


def leave_all(loop: ModelLoop, requests: Iterable[Request]) -> None:
    """Stop reading requests; those that have not ended are cancelled."""
    for request in requests:
        loop.leave(request)


async def pieces_of(
    loop: ModelLoop, requests: Sequence[Request], silence_s: float | None = None
) -> AsyncGenerator[list[tuple[int, Delta]], None]:
    """Yield what comes: (index in ``requests``, piece), all that a step brought at once.

    An empty list says that nothing came for about ``silence_s``. Use it in ``contextlib.aclosing``, so that leaving
    early cancels at once. Raises what a request failed with.
    """
    reader = TaskReader()
    loop.readers.add(requests, reader)
    reader.wake()  # pieces may be there
    if silence_s is not None:
        reader.tick(silence_s)
    open_ = dict(enumerate(requests))
    try:
        while open_:
            await reader.wait()
            news = [(index, request.read()) for index, request in open_.items() if request.has_news]
            for index, delta in news:
                if delta.completion is not None:
                    del open_[index]
            if news or silence_s is not None:
                yield news
        while any(map(loop.holds, requests)):
            await reader.wait()
    finally:
        reader.stop()
        leave_all(loop, requests)


async def await_whole(loop: ModelLoop, requests: Sequence[Request]) -> list[Completion]:
    """Wait for whole answers. Raises what one of them failed with; then the others are cancelled."""
    reader = TaskReader(patient=True)
    loop.readers.add(requests, reader)
    reader.wake()
    try:
        open_ = list(requests)
        while open_:
            await reader.wait()
            for request in open_:
                if request.error is not None:
                    raise request.error
            open_ = [request for request in open_ if not request.is_over or loop.holds(request)]
        return [completion for request in requests if (completion := request.read().completion) is not None]
    finally:
        leave_all(loop, requests)
