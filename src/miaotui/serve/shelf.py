"""The indexes of a running server: opened when first asked for, each caller's own apart.

Owns which index a name means for whom. An index made through a key lies in that key's own folder;
those made at the command line can be searched with every key and changed with none. Knows no HTTP.
Invariant: a name from a request is checked before it becomes part of a path.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from miaotui.config import Settings
from miaotui.errors import IndexMissingError, RequestError
from miaotui.fsr.index import Index
from miaotui.fsr.plan import Plan, checked_name, names_in

KEY = "indexes"  # among the state's extras
MAX_OPEN = 64
MAX_INDEXES = 1_000  # of one caller


class Shelf:
    """Open indexes by folder; safe to use from several threads."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root or Settings.from_env().folder("indexes")
        self._open: OrderedDict[Path, Index] = OrderedDict()
        self._lock = threading.Lock()

    def names(self, caller: str) -> list[str]:
        """The indexes that a caller may search; the empty caller is anyone, where no keys are."""
        own = names_in(self._own(caller))
        return sorted({*own, *names_in(self._root)})

    def to_search(self, caller: str, name: str) -> Index:
        """The index of that name: the caller's own, else the one for all. Raises
        `IndexMissingError`.
        """
        checked_name(name)
        for folder in dict.fromkeys((self._own(caller) / name, self._root / name)):
            if (folder / "index.json").is_file():
                return self._opened(folder)
        raise IndexMissingError(f"there is no index {name!r}. Add a document to make it")

    def to_change(self, caller: str, name: str, make: bool = False) -> Index:
        """The caller's own index of that name, made if it is missing and ``make`` is said.

        Raises `IndexMissingError`, and `RequestError` when the caller has too many.
        """
        folder = self._own(caller) / checked_name(name)
        with self._lock:
            if make and not (folder / "index.json").is_file():
                if len(names_in(self._own(caller))) >= MAX_INDEXES:
                    raise RequestError(f"there are {MAX_INDEXES:,} indexes already. Delete some")
                Index.create(folder, Plan()).close()
        if not (folder / "index.json").is_file():
            raise IndexMissingError(f"there is no index {name!r} of yours")
        return self._opened(folder)

    def close(self) -> None:
        """Close all, so that other processes may write."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _own(self, caller: str) -> Path:
        """No name of an index begins with @, so a key's folder is none."""
        return self._root / f"@{checked_name(caller)}" if caller else self._root

    def _opened(self, folder: Path) -> Index:
        with self._lock:
            index = self._open.get(folder)
            if index is None:
                index = self._open[folder] = Index.open(folder)
            self._open.move_to_end(folder)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)[1].close()
            return index
