"""Recommenders and graphs of a running server: files opened when they are first asked for.

Owns which file a name stands for, and when it is read again. Knows no HTTP and not what a file holds. Invariants: a
name from a request is checked before it becomes part of a path; a changed file is read again at its next use.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Generic, TypeVar

from miaotui.config import Settings
from miaotui.errors import RequestError
from miaotui.retrieval.index.settings import checked_name

MAX_SAVED = 16  # that are open at once
Saved = TypeVar("Saved")


class SavedFiles(Generic[Saved]):
    """Values read from the files of one folder of miaotui, by name; safe to use from several threads."""

    def __init__(self, folder: str, ending: str, read: Callable[[Path], Saved]) -> None:
        self._folder, self._ending, self._read = folder, ending, read
        self._open: OrderedDict[str, tuple[int, Saved]] = OrderedDict()
        self._lock = threading.Lock()
        self._names: frozenset[str] | None = None  # those that may be found; None: all

    def only(self, names: frozenset[str] | None) -> SavedFiles[Saved]:
        """Return the files of these names, of which those that are open are shared; None: all."""
        found = copy(self)
        found._names = names
        return found

    def find(self, name: str) -> Saved:
        """Return the value of a name. Raises `RequestError` where there is none, and what reading raises."""
        path = Settings.from_env().folder(self._folder) / f"{checked_name(name)}{self._ending}"
        with self._lock:
            try:
                if self._names is not None and name not in self._names:
                    raise FileNotFoundError
                stamp = path.stat().st_mtime_ns
            except OSError as error:
                raise RequestError(f"there is no {name!r} in {self._folder}: make it with the command line") from error
            known = self._open.get(name)
            if known is None or known[0] != stamp:
                known = self._open[name] = stamp, self._read(path)
            self._open.move_to_end(name)
            while len(self._open) > MAX_SAVED:
                self._open.popitem(last=False)
            return known[1]
