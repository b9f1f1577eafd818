"""Answers kept for their callers, to be read again, continued or cancelled.

Owns the bounds on what is kept, in memory alone. Knows no wire format. Invariant: an answer is found only by its own
caller; the oldest go first, but never one that is still on its way.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from miaotui.errors import OverloadedError
from miaotui.serve.http.errors import ApiError

KEPT = 512  # answers of one caller
KEPT_CHARACTERS = 16 << 20  # of one caller, as JSON
RUNNING = 64  # answers of one caller in the background


@dataclass
class StoredResponse:
    """One answer. ``said`` are the messages that led to it, as its prompt had them."""

    body: dict[str, Any]
    said: Sequence[Any]
    work: asyncio.Task[None] | None = None
    forget: Callable[[], object] = lambda: None  # deletes what a cache keeps of it
    characters: int = 0

    @property
    def runs(self) -> bool:
        """Return whether it is still on its way."""
        return self.work is not None and not self.work.done()


class ResponseStore:
    """The answers of all callers. Used in one event loop."""

    def __init__(self) -> None:
        self._of: dict[str, OrderedDict[str, StoredResponse]] = {}

    def keep(self, owner: str, kept: StoredResponse) -> None:
        """Keep it; drops the oldest if there are too many."""
        own = self._of.setdefault(owner, OrderedDict())
        kept.characters = len(json.dumps([kept.body, kept.said]))
        own[kept.body["id"]] = kept
        total = sum(each.characters for each in own.values())
        for identity, each in list(own.items()):
            if len(own) <= KEPT and total <= KEPT_CHARACTERS:
                return
            if not each.runs:
                total -= own.pop(identity).characters

    def renew(self, owner: str, kept: StoredResponse) -> None:
        """Store what a response has become, unless it was dropped meanwhile."""
        if kept.body["id"] in self._of.get(owner, ()):
            self.keep(owner, kept)

    def find(self, owner: str, identity: str, param: str | None = None) -> StoredResponse:
        """Raises `ApiError` (404)."""
        own = self._of.get(owner)
        kept = None if own is None else own.get(identity)
        if kept is None:
            text = "There is no such response here: it was never kept, was deleted, or is too old"
            raise ApiError(404, text, param=param, code="response_not_found")
        return kept

    def drop(self, owner: str, identity: str) -> StoredResponse:
        """Keep it no more, and return it; work on it ends. Raises `ApiError` (404)."""
        kept = self.find(owner, identity)
        if kept.work is not None:
            kept.work.cancel()
        del self._of[owner][identity]
        return kept

    def drop_all(self, owner: str) -> None:
        """Keep no answer of an owner any more; work on them ends."""
        for kept in self._of.pop(owner, {}).values():
            if kept.work is not None:
                kept.work.cancel()

    def require_room(self, owner: str) -> None:
        """Raises `OverloadedError` if too many of the caller's answers are on their way."""
        own = self._of.get(owner) or OrderedDict()
        running = sum(kept.runs for kept in own.values())
        if running >= RUNNING:
            raise OverloadedError(
                f"{running} answers are on their way in the background, which is as many as one "
                "caller may have: wait for one of them",
                1.0,
            )
