"""A hosted model for the applications, which run in worker threads.

Owns the bridge from a thread to the event loop in which a `ServedModel` lives, and streams from a thread to
a response. Knows no documents. Invariant: whoever stops reading cancels; a thread never waits for an
event loop that has ended.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from miaotui.apps.text_model import NOTHING_YET, TICK_S, prompt_budget
from miaotui.engine.request import Request, RequestOptions
from miaotui.errors import OverloadedError
from miaotui.serve.served_model import ServedModel
from miaotui.types import Delta, SamplingParams

T = TypeVar("T")
_Heard = SimpleQueue["Delta | Exception | None"]


class ServedTextModel:
    """See `miaotui.apps.text_model.Voice`. Made in the event loop, used in threads."""

    def __init__(self, hosted: ServedModel) -> None:
        self._hosted = hosted
        self._loop = asyncio.get_running_loop()

    def tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """A conversation as token ids, ready for the answer."""
        return self._hosted.chat.encode(messages)

    def tokens_of(self, text: str) -> list[int]:
        """A plain text as token ids."""
        return self._hosted.tokenizer.encode(text, special=False)

    def budget(self, deadline_ms: float, answer_tokens: int) -> int:
        """How many tokens a prompt may have for an answer in time."""
        cost = self._hosted.loop.cost
        return min(prompt_budget(cost, deadline_ms, answer_tokens), self._hosted.context // 2)

    def say(
        self, prompt: Sequence[int], params: SamplingParams, asked: RequestOptions
    ) -> tuple[Request, Generator[Delta, None, None]]:
        """A request on its way, and its answer as it comes; closing that cancels it."""
        try:
            starting = self._begin(prompt, params, asked)
            request, heard, task = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        except RuntimeError as error:
            raise _leaving() from error
        return request, self._pieces(heard, task)

    async def _begin(
        self, prompt: Sequence[int], params: SamplingParams, asked: RequestOptions
    ) -> tuple[Request, _Heard, asyncio.Task[None]]:
        request = self._hosted.submit(prompt, params, asked)
        heard: _Heard = SimpleQueue()
        return request, heard, asyncio.create_task(self._listen(request, heard))

    async def _listen(self, request: Request, heard: _Heard) -> None:
        try:
            async with aclosing(self._hosted.pieces(request)) as pieces:
                async for delta in pieces:
                    heard.put(delta)
        except Exception as error:
            heard.put(error)
        finally:
            heard.put(None)

    def _pieces(self, heard: _Heard, task: asyncio.Task[None]) -> Generator[Delta, None, None]:
        try:
            while True:
                try:
                    news = heard.get(timeout=TICK_S)
                except Empty:
                    news = NOTHING_YET
                if news is None:
                    raise _leaving()
                if isinstance(news, Exception):
                    raise news
                yield news
                if news.completion is not None:
                    return
        finally:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(task.cancel)


async def streamed(make: Callable[[], Iterator[T]]) -> AsyncGenerator[T, None]:
    """What an iterator gives, which is made and run in a thread.

    Leaving early closes it after its current item. Raises what it raises.
    """
    loop, coming, left = asyncio.get_running_loop(), asyncio.Queue[Any](), threading.Event()
    end = object()

    def tell(item: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(coming.put_nowait, item)

    def work() -> None:
        try:
            for item in make():
                tell(item)
                if left.is_set():
                    return
        except BaseException as error:
            tell(_Raised(error))
        else:
            tell(end)

    running = asyncio.create_task(asyncio.to_thread(work))
    try:
        while (item := await coming.get()) is not end:
            if isinstance(item, _Raised):
                raise item.error
            yield item
    finally:
        left.set()
        if running.done():
            running.result()


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def _leaving() -> OverloadedError:
    return OverloadedError("the server is leaving: ask again in a moment", 1.0)
