"""The end of a ``with`` block for everything that has a ``close``.

Owns that one class. Knows nothing of what is closed. Invariant: leaving the block closes, also after an exception,
which goes on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

_Entered = TypeVar("_Entered", bound="Closing")


class Closing(ABC):
    """A context manager that is itself the value, and is closed at the end of its block."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is held; a second call does nothing."""

    def __enter__(self: _Entered) -> _Entered:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
