"""A thread that steps one engine, for callers that must not wait: the server's event loop.

Owns the thread and the two boxes through which requests come in and go. Knows nothing of HTTP.
Invariant: every submitted request ends exactly once, also when the loop stops or the engine fails.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from miaotui.engine.engine import Engine
from miaotui.engine.request import Asked, Request
from miaotui.errors import EngineError, MiaotuiError, OverloadedError
from miaotui.types import SamplingParams

News = Callable[[Sequence[Request]], None]
_NOTHING_ASKED = Asked()


class EngineLoop:
    """`submit` and `cancel` may be called from any thread and return at once.

    ``on_news`` is called in the loop's thread, once after each step, with the requests that have
    something to `Request.read`; it must not wait.
    """

    def __init__(self, engine: Engine, on_news: News) -> None:
        self.engine = engine
        self._on_news = on_news
        self._coming: deque[Request] = deque()
        self._leaving: deque[Request] = deque()
        self._active: dict[int, Request] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="miaotui-engine", daemon=True)
        self._thread.start()

    def submit(
        self, prompt: Sequence[int], params: SamplingParams, asked: Asked = _NOTHING_ASKED
    ) -> Request:
        """A request on its way. Raises what `Engine.prepare` raises, and `OverloadedError`."""
        if self._stopping:
            raise OverloadedError("the engine is stopping: ask again in a moment", 1.0)
        request = self.engine.prepare(prompt, params, asked.namespace, asked.constraint)
        self._coming.append(request)
        self._wake.set()
        return request

    def cancel(self, request: Request) -> None:
        """Nobody waits for it any more: its pages are free before the next step."""
        self._leaving.append(request)
        self._wake.set()

    def close(self) -> None:
        """Cancel what is running and end the thread. Closing twice does nothing."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            self._take_in()
            if not self._step():
                self._wake.wait()
        self._take_in()
        self.engine.cancel_all()
        self._tell()

    def _step(self) -> bool:
        """One step, and its news; False when there was nothing to do."""
        try:
            busy = self.engine.step()
        except Exception as error:
            self._fail_all(error)
            busy = True
        self._tell()
        return busy

    def _take_in(self) -> None:
        while self._coming:
            request = self._coming.popleft()
            self._active[request.number] = request
            try:
                self.engine.enter(request)
            except MiaotuiError as error:
                request.end("failed", error)
        while self._leaving:
            self.engine.cancel(self._leaving.popleft())

    def _tell(self) -> None:
        news = [request for request in self._active.values() if request.has_news]
        for request in news:
            if request.is_over:
                del self._active[request.number]
        if news:
            self._on_news(news)

    def _fail_all(self, error: Exception) -> None:
        fault = EngineError(f"the engine failed: {type(error).__name__}: {error}. Ask again")
        for request in self._active.values():
            request.end("failed", fault)
            self.engine.cancel(request)
