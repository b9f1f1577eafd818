"""Asynchronous stream of values that a thread makes, piece by piece.

Owns that bridge alone. Knows no documents. Invariant: leaving the stream early closes the iterator in its thread,
after its current item.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


async def streamed(make: Callable[[], Iterator[T]]) -> AsyncGenerator[T, None]:
    """Yield the items of an iterator that is made and run in a thread.

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
