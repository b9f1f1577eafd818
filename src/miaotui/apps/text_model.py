"""A model that answers several at once, each in its time, for callers without an event loop.

Owns the thread-safe bridge to `EngineLoop` and the budget of a prompt: how many tokens can be read so
that an answer is still in time. Knows no documents. Invariant: leaving an answer early cancels it.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Protocol

from miaotui.engine.engine import Engine
from miaotui.engine.loaded import Loaded
from miaotui.engine.loop import EngineLoop
from miaotui.engine.request import Request, RequestOptions
from miaotui.schedule.promises.cost import CostModel
from miaotui.types import Delta, SamplingParams

CHUNK = 128  # rows of a step that reads a prompt
TICK_S = 0.02  # so often a reader hears of an answer that does not come
NOTHING_YET = Delta("", ())
SPARE = 0.8  # of a deadline is planned with; the rest is for whoever else is asking


class TextModel(Protocol):
    """What the applications need of a model. For all threads."""

    def tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """A conversation as token ids, ready for the answer."""

    def tokens_of(self, text: str) -> list[int]:
        """A plain text as token ids."""

    def budget(self, deadline_ms: float, answer_tokens: int) -> int:
        """How many tokens a prompt may have for an answer in time."""

    def say(
        self, prompt: Sequence[int], params: SamplingParams, asked: RequestOptions
    ) -> tuple[Request, Generator[Delta, None, None]]:
        """A request on its way, and its answer as it comes; closing that cancels it.

        While nothing comes an empty piece does, every few milliseconds.
        """


class LocalTextModel:
    """A loaded model; close it, or use it in a ``with`` block. For all threads."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._news: dict[int, threading.Event] = {}
        self._loop = EngineLoop(Engine(loaded.parts, loaded.tokenizer), self._tell)

    def tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """A conversation as token ids, ready for the answer."""
        return self.loaded.chat.encode(messages)

    def tokens_of(self, text: str) -> list[int]:
        """A plain text as token ids."""
        return self.loaded.tokenizer.encode(text, special=False)

    def budget(self, deadline_ms: float, answer_tokens: int) -> int:
        """How many tokens a prompt may have for an answer in time."""
        context = self.loaded.parts.backend.limits.context
        return min(prompt_budget(self._loop.cost, deadline_ms, answer_tokens), context // 2)

    def say(
        self, prompt: Sequence[int], params: SamplingParams, asked: RequestOptions
    ) -> tuple[Request, Generator[Delta, None, None]]:
        """A request on its way, and its answer as it comes; closing the iterator cancels it.

        Raises what `EngineLoop.submit` raises.
        """
        request = self._loop.submit(prompt, params, asked)
        news = self._news.setdefault(request.number, threading.Event())
        return request, self._pieces(request, news)

    def _pieces(self, request: Request, news: threading.Event) -> Generator[Delta, None, None]:
        try:
            while True:
                if not request.has_news:
                    news.wait(TICK_S)
                    news.clear()
                delta = request.read() if request.has_news else NOTHING_YET
                yield delta
                if delta.completion is not None:
                    return
        finally:
            self._news.pop(request.number, None)
            if not request.is_over:
                self._loop.cancel(request)

    def _tell(self, requests: Sequence[Request]) -> None:
        for request in requests:
            news = self._news.get(request.number)
            if news is not None:
                news.set()

    def close(self) -> None:
        """Cancel everything and give the memory back."""
        self._loop.close()
        self.loaded.parts.backend.close()

    def __enter__(self) -> LocalTextModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prompt_budget(cost: CostModel, deadline_ms: float, answer_tokens: int) -> int:
    """Tokens of a prompt that can be read with time left for an answer, by the model of costs."""
    left_s = SPARE * deadline_ms / 1e3 / cost.margin
    left_s -= answer_tokens * cost.seconds(1, 1, 2 * CHUNK)
    step_s = cost.seconds(CHUNK, 0, CHUNK * CHUNK)
    return max(0, int(left_s / step_s * CHUNK))
