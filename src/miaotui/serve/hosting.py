"""One model behind the server: its engine's thread, and answers as asynchronous streams.

Owns the bridge between the engine's thread and the event loop: one wake-up for each step, however
many requests it served. Knows nothing of HTTP. Invariant: leaving an answer early, for whatever
reason, cancels its request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from miaotui.engine.engine import Engine
from miaotui.engine.loaded import Loaded
from miaotui.engine.loop import EngineLoop
from miaotui.engine.request import Asked, Request
from miaotui.types import Delta, SamplingParams


class Hosted:
    """A model that serves many at once. Made and used in one running event loop."""

    def __init__(self, name: str, loaded: Loaded) -> None:
        self.name, self.loaded = name, loaded
        self.created_s = int(time.time())
        self.tokenizer, self.template = loaded.tokenizer, loaded.template
        self.context = loaded.parts.context
        self._event_loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Event] = {}
        self.loop = EngineLoop(Engine(loaded.parts, loaded.tokenizer), self._on_news)

    def submit(self, prompt: Sequence[int], params: SamplingParams, asked: Asked) -> Request:
        """A request on its way, to be read with `pieces`. Raises what `EngineLoop.submit` raises."""
        request = self.loop.submit(prompt, params, asked)
        self._waiting[request.number] = asyncio.Event()
        return request

    async def pieces(self, request: Request) -> AsyncIterator[Delta]:
        """The answer as it comes, once per step at most; the last piece carries the completion.

        Use it in ``contextlib.aclosing``, so that leaving early cancels at once. Raises what the
        request failed with.
        """
        news = self._waiting[request.number]
        try:
            while True:
                await news.wait()
                news.clear()
                delta = request.read()
                yield delta
                if delta.completion is not None:
                    return
        finally:
            self.leave(request)

    def leave(self, request: Request) -> None:
        """Nobody reads this request any more; it is cancelled if it has not ended."""
        self._waiting.pop(request.number, None)
        if not request.is_over:
            self.loop.cancel(request)

    def close(self) -> None:
        """Cancel everything and give the memory back."""
        self.loop.close()
        self.loaded.parts.weights.close()

    def _on_news(self, requests: Sequence[Request]) -> None:
        self._event_loop.call_soon_threadsafe(self._spread, tuple(requests))

    def _spread(self, requests: Sequence[Request]) -> None:
        for request in requests:
            news = self._waiting.get(request.number)
            if news is not None:
                news.set()
