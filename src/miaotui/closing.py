"""The end of a ``with`` block, of tasks too, for everything with a ``close``, and the loop that a loaded model holds.

Knows nothing of what is closed. Invariant: leaving the block closes, also after an exception, which goes on.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from miaotui.errors import EngineError

_Entered = TypeVar("_Entered", bound="Closing")
_EnteredByTask = TypeVar("_EnteredByTask", bound="AsyncClosing")


class _Closable(Protocol):
    def close(self) -> None: ...


_Loop = TypeVar("_Loop", bound=_Closable)


class Closing(ABC):
    """A context manager that is itself the value, and is closed at the end of its block."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is held; a second call does nothing."""

    def __enter__(self: _Entered) -> _Entered:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class AsyncClosing(ABC):
    """A context manager of tasks that is itself the value, and is closed at the end of its block."""

    @abstractmethod
    def _close(self) -> None: ...

    async def close(self) -> None:
        """End what runs or waits, and give the memory back. Closing twice does nothing."""
        import asyncio  # noqa: PLC0415  (programs without tasks start sooner)

        await asyncio.to_thread(self._close)

    async def __aenter__(self: _EnteredByTask) -> _EnteredByTask:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


class LoopHolder(Generic[_Loop]):
    """Holder of the loop that runs a model. With ``owns_loop`` the loop is closed when this object is dropped."""

    def __init__(self, loop: _Loop, *, owns_loop: bool = False) -> None:
        self._open: _Loop | None = loop
        self._closing = weakref.finalize(self, loop.close) if owns_loop else None

    @property
    def loop(self) -> _Loop:
        """Return the loop that runs the model. Raises `EngineError` when the model is closed."""
        if self._open is None:
            raise EngineError("this model is closed: load it again")
        return self._open

    def _close(self) -> None:
        loop, self._open = self._open, None
        if self._closing is not None:
            self._closing.detach()
        if loop is not None:
            loop.close()
