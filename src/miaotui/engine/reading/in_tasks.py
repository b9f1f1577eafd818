"""Reading answers in an event loop: whole ones, and streams of pieces.

Owns the bridge from the engine's thread to tasks: at most one wake-up of an event loop for each step (see
`Readers`). Knows no prompts. Invariants: leaving an answer early, for whatever reason, cancels its request; when an
answer was read to its end its pages are free.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence

from miaotui.engine.loop import EngineLoop
from miaotui.engine.request import Request
from miaotui.types import Completion, Delta


class TaskReader:
    """A task of the running event loop as a `Reader`."""

    def __init__(self, *, patient: bool = False) -> None:
        self.patient, self.has_begun = patient, False
        self.event_loop = asyncio.get_running_loop()
        self.news = asyncio.Event()
        self.wake = self.news.set
        self._tick: asyncio.TimerHandle | None = None

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


def together(loop: EngineLoop, submitted: Iterable[Request]) -> list[Request]:
    """Return requests that are submitted one by one and belong together: all are on their way, or none is."""
    requests: list[Request] = []
    try:
        requests += submitted
    except BaseException:
        leave_all(loop, requests)
        raise
    return requests


def leave_all(loop: EngineLoop, requests: Iterable[Request]) -> None:
    """Stop reading requests; those that have not ended are cancelled."""
    for request in requests:
        loop.leave(request)


async def pieces_of(
    loop: EngineLoop, requests: Sequence[Request], silence_s: float | None = None
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


async def whole(loop: EngineLoop, requests: Sequence[Request]) -> list[Completion]:
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
