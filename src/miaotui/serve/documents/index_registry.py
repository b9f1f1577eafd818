"""The indexes of a running server: opened when first asked for, each caller's own apart.

Owns which index a name stands for, for which caller, and how much a caller may keep. An index made through a key lies
in that caller's own folder; those made at the command line can be searched by the callers whose allowance has them, and
changed by none. Knows no HTTP. Invariants: a name from a request is checked before it becomes part of a path; an index
without recent changes is soon free for other processes to write; nothing is made for a caller that is gone.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from miaotui.config import Settings, format_size
from miaotui.errors import IndexMissingError, MiaotuiError, QuotaError
from miaotui.retrieval.index.index import Index
from miaotui.retrieval.index.settings import INDEX_FILE, IndexSettings, checked_name, names_in, remove_index
from miaotui.serve import LOG
from miaotui.serve.middleware.keys import Caller

MAX_OPEN = 64
MAX_INDEXES = 1_000  # of one caller
IDLE_S = 3.0  # after a change, until other processes may write


def own_folder(root: Path, name: str) -> Path:
    """Return the folder of the indexes of the caller called ``name``; no index's name begins with @, so it is none."""
    return root / f"@{checked_name(name)}" if name else root


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files in a folder; files that vanish meanwhile count for nothing."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


class IndexRegistry:
    """Open indexes by folder; safe to use from several threads. Close it, so that merges end."""

    def __init__(self, root: Path | None = None, idle_s: float = IDLE_S) -> None:
        self._root = root or Settings.from_env().folder("indexes")
        self._open: OrderedDict[Path, Index] = OrderedDict()
        self._lock = threading.Lock()
        self._idle_s = idle_s
        self._written: dict[Index, float] = {}  # may keep others from writing; asked for when
        self._timer: threading.Timer | None = None  # until they are looked through
        self._gone: set[str] = set()  # owners whose data is about to be deleted

    def names(self, caller: Caller) -> list[str]:
        """Return the indexes that a caller may search."""
        shared = filter(caller.allowance.allows_index, names_in(self._root))
        return sorted({*names_in(self._own(caller)), *shared})

    def to_search(self, caller: Caller, name: str) -> Index:
        """Return the index of that name: the caller's own, else the shared one. Raises `IndexMissingError`."""
        checked_name(name)
        folders = [self._own(caller) / name, *([self._root / name] if caller.allowance.allows_index(name) else ())]
        for folder in dict.fromkeys(folders):
            if (folder / INDEX_FILE).is_file():
                return self._opened(folder)
        raise IndexMissingError(f"there is no index {name!r}. Add a document to make it")

    def to_change(self, caller: Caller, name: str, make: bool = False, more_bytes: int = 0) -> Index:
        """Return the caller's own index of that name, made if it is missing and ``make`` is set.

        ``more_bytes`` are about to be added. Raises `IndexMissingError`, and `QuotaError` when the caller keeps too
        much or has too many.
        """
        folder = self._own(caller) / checked_name(name)
        with self._lock:
            if caller.owner in self._gone:
                raise IndexMissingError(f"there is no index {name!r} of yours")
            self._check_room(caller, more_bytes)
            if make and not (folder / INDEX_FILE).is_file():
                most = min(caller.allowance.index_count or MAX_INDEXES, MAX_INDEXES)
                if len(names_in(self._own(caller))) >= most:
                    raise QuotaError(f"there are {most:,} indexes already, as many as you may have. Delete some")
                Index.create(folder, IndexSettings()).close()
        if not (folder / INDEX_FILE).is_file():
            raise IndexMissingError(f"there is no index {name!r} of yours")
        index = self._opened(folder)
        with self._lock:
            self._written[index] = time.monotonic()
            self._look_later()
        return index

    def remove(self, caller: Caller, name: str) -> Path:
        """Delete the caller's own index of that name with its files; return its folder, which is gone.

        Raises `IndexMissingError`.
        """
        folder = self._own(caller) / checked_name(name)
        with self._lock:
            if not (folder / INDEX_FILE).is_file():
                raise IndexMissingError(f"there is no index {name!r} of yours")
            self._forget(folder)
            remove_index(folder)
        return folder

    def forget(self, caller: Caller) -> None:
        """Close the indexes of a caller that is gone, and make none for it any more."""
        own = self._own(caller)
        with self._lock:
            self._gone.add(caller.owner)
            for folder in [each for each in self._open if each.parent == own]:
                self._forget(folder)

    def _forget(self, folder: Path) -> None:
        """Close an index that is open. Call it with the lock."""
        index = self._open.pop(folder, None)
        for each in {*([index] if index else []), *(one for one in self._written if one.folder == folder)}:
            self._written.pop(each, None)
            try:
                each.close()
            except MiaotuiError as error:
                LOG.error("an index could not be closed: %s", error)

    def _check_room(self, caller: Caller, more_bytes: int) -> None:
        """Raise `QuotaError` for documents that a caller has no room for; what others add meanwhile is not seen."""
        most = caller.allowance.index_bytes
        if most is None or not more_bytes:
            return
        held = folder_bytes(self._own(caller))
        if held + more_bytes > most:
            raise QuotaError(
                f"your indexes take {format_size(held)} of the {format_size(most)} that you may keep, and "
                f"{format_size(more_bytes)} more do not fit. Delete documents or indexes"
            )

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

    def _own(self, caller: Caller) -> Path:
        """Return the folder of a caller's own indexes."""
        return own_folder(self._root, caller.name)

    def _opened(self, folder: Path) -> Index:
        with self._lock:
            index = self._open.get(folder)
            if index is None:
                index = self._open[folder] = Index.open(folder)
            self._open.move_to_end(folder)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)[1].close()
            return index
