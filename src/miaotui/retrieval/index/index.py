"""Index over documents: a folder of partitions, written by one process and read by many.

    index = Index.create("notes")
    index.add([Document("1", "Cats sleep sixteen hours a day.", title="Cats")])
    for hit in index.search("sleeping cats"):
        print(hit.score, hit.title, hit.snippet)

Owns names and folders, the lock of the one writer, the partition of each document, and the cache of results. Knows
neither files to read nor HTTP. Invariant: a call that changed something returns when the change is durable and
visible; a change that fails leaves the last state.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from miaotui.closing import Closing
from miaotui.config import cache_error
from miaotui.errors import IndexBusyError, RequestError
from miaotui.hub.lock import try_lock
from miaotui.retrieval.document import Document, Hit, Results
from miaotui.retrieval.index.gather import Gathered, IndexPart, Pools, gather
from miaotui.retrieval.index.partition import Partition
from miaotui.retrieval.index.schema import Row, row_of
from miaotui.retrieval.index.sealed_partition import SealedPartition
from miaotui.retrieval.index.served import Served
from miaotui.retrieval.index.settings import IndexSettings, place, raise_format, read_plan, write_plan
from miaotui.retrieval.index.snapshot import Snapshot
from miaotui.retrieval.index.statistics import Statistics, total
from miaotui.retrieval.ingest.passages import split
from miaotui.retrieval.query.analysis import Analyzer
from miaotui.retrieval.query.compiler import Ranked
from miaotui.sealing.master_keys import MasterKeys
from miaotui.sealing.seal import Seal

MAX_LIMIT = 1_000
_CACHED_RESULTS = 1_024
# Passages; a longer load is acknowledged in such steps. The library merges eight segments of a like
# size, so a million passages end as one, which is searched faster than several.
_COMMIT_EVERY = 125_000
_PURGE_FILE = "purge.due"  # is there from a deletion's commit on until no file holds its text


class Index(Closing):
    """Open index. Safe to use from several threads; close it, or use it in ``with``."""

    def __init__(self, folder: Path, plan: IndexSettings, seal: Seal | None = None) -> None:
        self.folder, self.plan = folder, plan
        self.analyzer = Analyzer(plan.language)
        self.seal = seal if seal is not None or not plan.sealed else seal_of(folder, plan)
        self._partitions = [open_partition(path, self.seal) for path in plan.folders(folder)]
        self._writing = threading.RLock()
        self._held: int | None = None  # the open lock file, while this process writes
        self._changed_s = 0.0  # when the last change ended, in `time.monotonic` seconds
        self._cache: OrderedDict[tuple[Any, ...], Gathered] = OrderedDict()
        self._cache_lock = threading.Lock()
        self._pools: Pools | None = None
        self._remotes: list[tuple[str, IndexPart]] = []
        if plan.remotes:
            from miaotui.retrieval.index.remote import RemotePart  # noqa: PLC0415  (few indexes have any)

            self._remotes = [(url, RemotePart(url, plan.timeout_s)) for url in plan.remotes]

    @classmethod
    def create(cls, name: str | Path, plan: IndexSettings | None = None) -> Index:
        """Create an empty index of that name in miaotui's folder, or in the folder of that path.

        It is encrypted where the environment names a master key. Raises `RequestError` when there is one already or
        the name is not allowed.
        """
        folder, plan = place(name), plan or IndexSettings()
        keys = MasterKeys.from_env()
        if keys is not None:
            plan = replace(plan, sealed=True)
        seal = seal_of(folder, plan) if plan.sealed else None
        write_plan(folder, plan, lambda path: create_partition(path, seal))
        return cls(folder, plan, seal)

    @classmethod
    def open(cls, name: str | Path) -> Index:
        """Open the index of that name or path. Raises `IndexMissingError` when there is none."""
        folder = place(name)
        return cls(folder, read_plan(folder))

    def __len__(self) -> int:
        return sum(partition.snapshot().documents for partition in self._partitions)

    @property
    def version(self) -> str:
        """Return the name of the visible state. It changes with every commit and is never reused."""
        return self._version(self.parts())

    # ---- changes ---------------------------------------------------------------------------------

    def add(self, documents: Iterable[Document]) -> int:
        """Add documents, replacing those of the same ids; return how many passages they became.

        Raises `IndexBusyError` while another process writes.
        """
        rows = (row for document in documents for row in self.rows_of(document))
        return self.add_rows(rows)

    def update(self, documents: Iterable[Document]) -> int:
        """Replace documents that exist; raises `RequestError` for an id that does not."""
        given = list(documents)
        for document in given:
            if not self._partition_of(document.whole).snapshot().count(document.whole):
                raise RequestError(f"there is no document {document.id!r} to update. Add it")
        return self.add(given)

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents, or single passages, by id; return how many passages are gone.

        They are gone from the files too when this returns, see `purge`. If the process is killed before, the next
        change does what is left.
        """
        gone = 0
        with self._changing():
            for key in ids:
                partition = self._partition_of(key.partition("#")[0])
                others = [other for other in self._partitions if other is not partition]
                for one in (partition, *others):  # an id may itself contain "#"
                    count = one.snapshot().count(key)
                    gone += count
                    if count:
                        one.delete(key)
            if gone:
                self._note_purge()
        return gone

    @property
    def purge_is_due(self) -> bool:
        """Return whether a deletion was begun whose text may still be in files."""
        return (self.folder / _PURGE_FILE).exists()

    def _note_purge(self) -> None:
        try:
            (self.folder / _PURGE_FILE).touch()
        except OSError as error:
            raise cache_error(error, self.folder) from error

    def purge(self) -> int:
        """Remove deleted and replaced passages from the files; return how many others were written anew for that.

        Takes time in proportion to the segments that hold any: up to that of indexing the partition.
        """
        with self._writing:
            self._take_lock()
            try:
                written = sum(each.rewrite(lambda passage: row_of(passage, self.analyzer)) for each in self._partitions)
            except BaseException:
                for partition in self._partitions:
                    partition.abandon()
                raise
            finally:
                self._changed_s = time.monotonic()
            (self.folder / _PURGE_FILE).unlink(missing_ok=True)
        with self._cache_lock:
            self._cache.clear()
        return written

    def rows_of(self, document: Document) -> list[Row]:
        """Return the analysed passages of a document; needs no lock and may run anywhere."""
        return [row_of(passage, self.analyzer) for passage in split(document, self.plan)]

    def add_rows(self, rows: Iterable[Row]) -> int:
        """Add analysed passages, replacing those of the same documents; return how many."""
        added = 0
        with self._changing():
            fresh: set[str] = set()  # documents of which this load has written passages
            last = ""
            for row in rows:
                partition = self._partition_of(row.whole)
                if row.whole != last:
                    self._make_room(partition, row.whole, fresh)
                    last = row.whole
                partition.add(row)
                added += 1
                if added % _COMMIT_EVERY == 0:
                    self._commit()
        return added

    @staticmethod
    def _make_room(partition: Partition, whole: str, fresh: set[str]) -> None:
        if whole in fresh or partition.snapshot().count(whole):
            partition.delete(whole)
        fresh.add(whole)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the writer's lock: commit at the end, or roll back; then do what a deletion has left to do."""
        with self._writing:
            self._take_lock()
            try:
                yield
                self._commit()
                if self.purge_is_due:
                    self.purge()
            except BaseException:
                for partition in self._partitions:
                    partition.abandon()
                raise
            finally:
                self._changed_s = time.monotonic()

    def _commit(self) -> None:
        for partition in self._partitions:
            partition.commit()
        for partition in self._partitions:
            partition.snapshot()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other processes, and threads, from changing the index; merges have ended."""
        with self._writing:
            self._take_lock()
            for partition in self._partitions:
                partition.close()
            yield

    def _take_lock(self) -> None:
        if self._held is not None:
            return
        path = self.folder / "writer.lock"
        try:
            held = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise cache_error(error, self.folder) from error
        if not try_lock(held):
            os.close(held)
            raise IndexBusyError(
                f"the index in {self.folder} is being written by another process. "
                "Wait until it has ended, or send the documents to it"
            )
        self._held = held

    def close(self) -> None:
        """Wait for merges, and let other processes write."""
        with self._writing:
            self._let_go()
        if self._pools is not None:
            self._pools.close()
            self._pools = None

    def raise_format(self, wanted: int) -> None:
        """Upgrade this index to a format in place, so that versions of miaotui that do not know it refuse it."""
        raise_format(self.folder, wanted)

    def release(self, idle_s: float = 0.0) -> bool:
        """Let other processes write, if nothing was changed for ``idle_s``.

        Returns whether others may write now. The next change takes the lock again.
        """
        if not self._writing.acquire(blocking=False):
            return False
        try:
            if self._held is not None and time.monotonic() - self._changed_s >= idle_s:
                self._let_go()
            return self._held is None
        finally:
            self._writing.release()

    def _let_go(self) -> None:
        for partition in self._partitions:
            partition.close()
        if self._held is not None:
            os.close(self._held)
            self._held = None

    # ---- questions -------------------------------------------------------------------------------

    def search(self, query: str, limit: int = 10, *, offset: int = 0, plain: bool = False) -> Results:
        """Return the best passages from ``offset`` on, at most ``limit``; with ``plain`` the query is text without
        syntax.

        Raises `RequestError` for a query that cannot be read, or a limit out of bounds.
        """
        check_page(limit, offset)
        parts = self.parts()
        version = self._version(parts)
        key = (version, query, plain, limit + offset)
        with self._cache_lock:
            gathered = self._cache.get(key)
            if gathered is not None:
                self._cache.move_to_end(key)
        ranked = self.read(query, plain)
        if gathered is None:
            gathered = self._gather(ranked, limit + offset, version, parts)
            self._remember(key, gathered)
        hits = (Hit(passage, score, ranked) for score, passage in gathered.found[offset:])
        return Results(tuple(hits), gathered.version, gathered.warnings)

    def read(self, query: str, plain: bool = False) -> Ranked:
        """Return the query as this index reads it; raises `RequestError`."""
        return Ranked.of(query, plain, self.analyzer, self.plan.weights)

    def statistics(self, ranked: Ranked) -> Statistics:
        """Return the statistics of a query's terms over the partitions here."""
        return total(part.snapshot().statistics(ranked) for part in self._partitions)

    def passages(self) -> Iterator[Document]:
        """Return every passage of the partitions here, in no order."""
        for partition in self._partitions:
            yield from partition.snapshot().passages()

    def get(self, key: str) -> list[Document]:
        """Return the passages of that id or document, in the order of the document."""
        found = [one for part in self._partitions for one in part.snapshot().get(key)]
        return sorted(found, key=lambda one: (len(one.id), one.id))

    def parts(self) -> Sequence[tuple[str, IndexPart]]:
        """Return the partitions that a search asks, named; those here as they are at this moment."""
        here = [(f"partition {number}", partition.snapshot()) for number, partition in enumerate(self._partitions)]
        return [*here, *self._remotes]

    def as_partition(self) -> Served:
        """Return this index in the role of a partition of another one."""
        return Served([part.snapshot() for part in self._partitions], self.analyzer)

    def stats(self) -> dict[str, Any]:
        """Return counts and sizes, as plain values."""
        snapshots = [partition.snapshot() for partition in self._partitions]
        sizes = [partition.size_bytes() for partition in self._partitions]
        stored = sum(size.get("store", 0) for size in sizes)
        return {
            "passages": sum(snapshot.documents for snapshot in snapshots),
            "tokens": sum(snapshot.tokens["body"] for snapshot in snapshots),
            "partitions": len(snapshots) + len(self._remotes),
            "language": self.plan.language,
            "stored_bytes": stored,
            "index_bytes": sum(sum(size.values()) for size in sizes) - stored,
            "version": self.version,
        }

    def _version(self, parts: Sequence[tuple[str, IndexPart]]) -> str:
        here = (part for _, part in parts if isinstance(part, Snapshot))
        return f"{self.plan.uid}.{'+'.join(str(part.version) for part in here)}"

    def _gather(self, ranked: Ranked, limit: int, version: str, parts: Sequence[tuple[str, IndexPart]]) -> Gathered:
        if len(parts) == 1:
            found = parts[0][1].search(ranked, None, limit)
            return Gathered(tuple(found), version, ())
        if self._pools is None:
            self._pools = Pools.of_size(len(parts))
        gathered = gather(parts, ranked, limit, self._pools, self.plan.timeout_s)
        return Gathered(gathered.found, f"{self.plan.uid}.{gathered.version}", gathered.warnings)

    def _remember(self, key: tuple[Any, ...], gathered: Gathered) -> None:
        """Cache results for one version of an index that is local and complete."""
        if self._remotes or gathered.warnings or gathered.version != key[0]:
            return
        with self._cache_lock:
            if self._cache and next(reversed(self._cache))[0] != key[0]:
                self._cache.clear()
            self._cache[key] = gathered
            while len(self._cache) > _CACHED_RESULTS:
                self._cache.popitem(last=False)

    def _partition_of(self, whole: str) -> Partition:
        digest = blake2b(whole.encode(), digest_size=8).digest()
        return self._partitions[int.from_bytes(digest, "little") % len(self._partitions)]


def seal_of(folder: Path, plan: IndexSettings) -> Seal:
    """Return the seal of an encrypted index. Raises `EncryptionKeyError` where the environment names no key."""
    return Seal(folder, plan.uid, MasterKeys.required(f"the index in {folder}"))


def open_partition(path: Path, seal: Seal | None) -> Partition:
    """Open a partition; ``seal`` None: its files are plain."""
    return Partition(path) if seal is None else SealedPartition(path, seal)


def create_partition(path: Path, seal: Seal | None) -> None:
    """Create an empty partition."""
    (Partition.create(path) if seal is None else SealedPartition.create_sealed(path, seal)).close()


def check_page(limit: int, offset: int) -> None:
    """Raise `RequestError` for a page of results that is out of bounds."""
    if not 1 <= limit <= MAX_LIMIT or not 0 <= offset <= MAX_LIMIT:
        raise RequestError(f"limit must be 1 to {MAX_LIMIT} and offset 0 to {MAX_LIMIT}, not {limit} and {offset}")
