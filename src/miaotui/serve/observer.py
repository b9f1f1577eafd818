"""Observers of a model's requests: metrics, accounts, traces.

Owns the seam alone. Observers run in the event loop, between requests, and must return at once. Invariant: each
submitted request is reported twice, when it is taken on and when it is read no more; a refused one once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from miaotui.engine.request import Request
from miaotui.errors import RefusedError


class Observer(Protocol):
    """Observer of one model's requests, in the event loop's thread."""

    def submitted(self, model: str, request: Request) -> None:
        """Note a request that was taken on."""

    def refused(self, model: str, error: RefusedError) -> None:
        """Note a sound request that was not taken on."""

    def left(self, model: str, request: Request) -> None:
        """Note a request that is read no more; unless it is over, it is about to be cancelled."""


class Observers:
    """Tells several watchers, in their order."""

    def __init__(self, watchers: Sequence[Observer] = ()) -> None:
        self._watchers = tuple(watchers)

    def submitted(self, model: str, request: Request) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.submitted(model, request)

    def refused(self, model: str, error: RefusedError) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.refused(model, error)

    def left(self, model: str, request: Request) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.left(model, request)


NO_OBSERVER = Observers()
