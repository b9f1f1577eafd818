"""The indexes of a running server: opened when first asked for, each caller's own apart.

Owns which index a name stands for, for which caller. An index made through a key lies in that key's own folder; those
made at the command line can be searched with every key and changed with none. Knows no HTTP. Invariants: a name from
a request is checked before it becomes part of a path; an index without recent changes is soon free for other
processes to write.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from pathlib import Path

from miaotui.config import Settings
from miaotui.errors import IndexMissingError, MiaotuiError, RequestError
from miaotui.retrieval.index.index import Index
from miaotui.retrieval.index.settings import IndexSettings, checked_name, names_in
from miaotui.serve import LOG

MAX_OPEN = 64
MAX_INDEXES = 1_000  # of one caller
IDLE_S = 3.0  # after a change, until other processes may write


class IndexRegistry:
    """Open indexes by folder; safe to use from several threads. Close it, so that merges end."""

    def __init__(self, root: Path | None = None, idle_s: float = IDLE_S) -> None:
        self._root = root or Settings.from_env().folder("indexes")
        self._open: OrderedDict[Path, Index] = OrderedDict()
        self._lock = threading.Lock()
        self._idle_s = idle_s
        self._written: dict[Index, float] = {}  # may keep others from writing; asked for when
        self._timer: threading.Timer | None = None  # until they are looked through

    def names(self, caller: str) -> list[str]:
        """Return the indexes that a caller may search; the empty caller is anyone, where no keys are."""
        own = names_in(self._own(caller))
        return sorted({*own, *names_in(self._root)})

    def to_search(self, caller: str, name: str) -> Index:
        """Return the index of that name: the caller's own, else the one for all. Raises
        `IndexMissingError`.
        """
        checked_name(name)
        for folder in dict.fromkeys((self._own(caller) / name, self._root / name)):
            if (folder / "index.json").is_file():
                return self._opened(folder)
        raise IndexMissingError(f"there is no index {name!r}. Add a document to make it")

    def to_change(self, caller: str, name: str, make: bool = False) -> Index:
        """Return the caller's own index of that name, made if it is missing and ``make`` is set.

        Raises `IndexMissingError`, and `RequestError` when the caller has too many.
        """
        folder = self._own(caller) / checked_name(name)
        with self._lock:
            if make and not (folder / "index.json").is_file():
                if len(names_in(self._own(caller))) >= MAX_INDEXES:
                    raise RequestError(f"there are {MAX_INDEXES:,} indexes already. Delete some")
                Index.create(folder, IndexSettings()).close()
        if not (folder / "index.json").is_file():
            raise IndexMissingError(f"there is no index {name!r} of yours")
        index = self._opened(folder)
        with self._lock:
            self._written[index] = time.monotonic()
            self._look_later()
        return index

    def close(self) -> None:
        """Close all, so that merges end and other processes may write."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            for index in {*self._written, *self._open.values()}:
                try:
                    index.close()
                except MiaotuiError as error:
                    LOG.error("an index could not be closed: %s", error)
            self._written.clear()
            self._open.clear()

    def _look_later(self) -> None:
        """Look through what was written, after a while. Call it with the lock."""
        if self._timer is None and self._written:
            self._timer = threading.Timer(self._idle_s, self._look)
            self._timer.daemon = True
            self._timer.start()

    def _look(self) -> None:
        """Release what was not changed for a while; waiting for merges holds up no reader."""
        before_s = time.monotonic() - self._idle_s
        with self._lock:
            written = [(each, at_s) for each, at_s in self._written.items() if at_s <= before_s]
        free = [(index, at_s) for index, at_s in written if self._is_free(index)]
        with self._lock:
            for index, at_s in free:
                if self._written.get(index) == at_s:  # not asked for again meanwhile
                    del self._written[index]
            self._timer = None
            self._look_later()

    def _is_free(self, index: Index) -> bool:
        try:
            return index.release(self._idle_s)
        except MiaotuiError as error:
            LOG.error("an index could not be let go: %s", error)
            return False

    def _own(self, caller: str) -> Path:
        """Return the folder of a caller's own indexes; no name of an index begins with @, so it is none."""
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
