"""Partition: a tantivy index in a folder, written by one process and read by many.

Owns the folder, the writer and the current snapshot. Knows nothing of other partitions; a passage's id decides
elsewhere where it goes. Invariant: a state for which `commit` returned survives a killed process, because the library
writes new files, flushes them and then replaces the one that names them.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaotui.config import cache_error, make_folder
from miaotui.errors import DocumentIndexError, IndexBusyError
from miaotui.libraries import need
from miaotui.retrieval.document import Document
from miaotui.retrieval.index import schema
from miaotui.retrieval.index.snapshot import SegmentCounts, Snapshot

if TYPE_CHECKING:
    import tantivy

# Room to gather passages before they become a segment; it is taken as it is used. A million passages
# of 500 bytes become five segments instead of ten, and are searched the faster.
_HEAP_BYTES = 1_000_000_000
_FULL = ("No space left", "File too large", "os error 28", "os error 27", "Quota exceeded")
SEGMENT_FILE = re.compile(r"[0-9a-f]{32}\.")
_DIED = "writer was killed"  # how the library says that a write failed in one of its threads


class Partition:
    """Partition that exists on disk. Raises `DocumentIndexError` when it cannot be opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._writer: tantivy.IndexWriter | None = None
        self._schema = schema.build()
        self._meta = str(folder / "meta.json")
        with _translated(folder):
            if not (folder / "meta.json").is_file():
                raise DocumentIndexError(f"{folder} holds no index; it is damaged. Create it anew")
            self._index = need("tantivy").Index.open(str(folder))
            self._index.config_reader("manual")
        self._seen: tuple[int, int] | None = None
        self._snapshot = self._read()

    @classmethod
    def create(cls, folder: Path) -> Partition:
        """Create an empty partition in ``folder``."""
        make_folder(folder)
        with _translated(folder):
            need("tantivy").Index(schema.build(), path=str(folder))
        return cls(folder)

    def snapshot(self) -> Snapshot:
        """Return the newest committed state, also one that another process committed."""
        if self._stamp() != self._seen:
            with self._lock:
                if self._stamp() != self._seen:
                    self._snapshot = self._read()
        return self._snapshot

    def add(self, row: schema.Row) -> None:
        """Add a passage to the next commit."""
        with _translated(self.folder):
            self._open_writer().add_document(row.to_tantivy())

    def delete(self, key: str) -> None:
        """Delete every passage with this id, or of this document, that was added before."""
        with _translated(self.folder):
            self._open_writer().delete_documents_by_term("key", key)

    def has_dead(self) -> bool:
        """Return whether files hold passages that were deleted or replaced."""
        return self.snapshot().has_dead

    def rewrite(self, rows: Callable[[Document], schema.Row]) -> int:
        """Write the live passages of all segments with dead ones anew, so that no file holds a dead one any more.

        ``rows`` analyses a passage. Passages are read one after the other, so memory holds no more of them than when a
        segment is written. Nothing changes until the commit. Returns how many were written. Raises like `commit`.
        """
        self.close()  # merges end first: they might take dead passages along
        state = self.snapshot()
        if not state.has_dead:
            self._drop_unused()
            return 0
        if state.tells_dead_apart():
            kept = state.beside_dead
            for passage in kept():
                self.delete(passage.id)
        else:
            kept = state.passages
            with _translated(self.folder):
                self._open_writer().delete_all_documents()
        written = 0
        for written, passage in enumerate(kept(), 1):  # noqa: B007  (the last one counts)
            self.add(rows(passage))
        self.commit()
        self.close()
        self.snapshot()
        self._drop_unused()
        return written

    def _drop_unused(self) -> None:
        """Unlink the files of segments that the committed state does not name; readers of them go on undisturbed."""
        with _translated(self.folder):
            meta = json.loads((self.folder / "meta.json").read_bytes())
            used = {segment["segment_id"].replace("-", "") for segment in meta["segments"]}
            for path in self.folder.iterdir():
                if SEGMENT_FILE.match(path.name) and path.name[:32] not in used:
                    with suppress(PermissionError):  # Windows keeps what is read; the next commit removes it
                        path.unlink(missing_ok=True)

    def commit(self) -> None:
        """Make all changes durable and visible, or raise and leave the last commit as it was."""
        if self._writer is None:
            return
        try:
            with _translated(self.folder):
                self._writer.commit()
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Drop changes that were not committed."""
        self._writer = None  # dropping it ends its threads and its lock

    def close(self) -> None:
        """Wait for merges and let others write. Drops changes that were not committed."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with _translated(self.folder):
                writer.wait_merging_threads()

    def size_bytes(self) -> dict[str, int]:
        """Return bytes on disk by kind of file: ``store`` is the compressed text, the rest is index."""
        sizes: dict[str, int] = {}
        for entry in os.scandir(self.folder):
            kind = entry.name.rpartition(".")[2]
            sizes[kind] = sizes.get(kind, 0) + entry.stat().st_size
        return sizes

    def _open_writer(self) -> tantivy.IndexWriter:
        if self._writer is None:
            self._forget_killed()
            self._writer = self._index.writer(_HEAP_BYTES, 1)
        return self._writer

    def _forget_killed(self) -> None:
        """Remove deletions that a killed writer wrote and did not commit.

        The next commit would write files of the same names, and the library does not replace any.
        """
        committed = int(json.loads((self.folder / "meta.json").read_bytes())["opstamp"])
        for path in self.folder.glob("*.*.del"):
            if int(path.name.split(".")[1]) > committed:
                path.unlink(missing_ok=True)

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._meta)
        except OSError:
            return None  # being replaced, or the folder is gone: the old state stays readable
        return status.st_mtime_ns, status.st_ino

    def _read(self) -> Snapshot:
        with _translated(self.folder):
            while True:
                stamp = self._stamp()
                meta = json.loads((self.folder / "meta.json").read_bytes())
                try:
                    self._index.reload()
                except ValueError:  # files of an earlier state, which another process has just replaced
                    if self._stamp() == stamp:
                        raise
                    continue
                searcher = self._index.searcher()
                if self._stamp() == stamp:
                    break
            self._seen = stamp
            return Snapshot(searcher, self._schema, int(meta["opstamp"]), list(map(_segment, meta["segments"])))


def _segment(described: Mapping[str, Any]) -> SegmentCounts:
    dead = (described.get("deletes") or {}).get("num_deleted_docs", 0)
    return SegmentCounts(int(described["max_doc"]) - int(dead), int(dead))


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    """Translate the library's errors into this package's."""
    try:
        yield
    except OSError as error:
        raise cache_error(error, folder) from error
    except (ValueError, KeyError) as error:
        text = str(error)
        if any(sign in text for sign in (*_FULL, _DIED)):
            reason = "most likely for lack of room" if _DIED in text else "there is no room"
            raise DocumentIndexError(
                f"cannot write the index in {folder}, {reason}: {text}. Free space there; the last commit is intact"
            ) from error
        if "LockBusy" in text or "lock" in text.lower():
            raise IndexBusyError(
                f"the index in {folder} is being written by another process. "
                "Wait until it has ended, or send the documents to it"
            ) from error
        raise DocumentIndexError(
            f"the index in {folder} cannot be used: {text}. If it is damaged, create it anew from its documents"
        ) from error
