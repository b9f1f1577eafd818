"""Snapshots of indexes on one machine, which answer searches.

Owns the folder of snapshots, which goes with the process, and the checks of what comes. Knows no writer. Invariants: a
snapshot is opened when all its files are here and have the digests that were announced; names never lead out of its
folder; a search is answered from the version that it names, or refused.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaotui.cluster.jobs.reports import description, report
from miaotui.cluster.messages import VERSION, Message, error_piece
from miaotui.config import Settings
from miaotui.errors import MiaotuiError, OverloadedError, RequestError
from miaotui.hub.lock import try_lock
from miaotui.retrieval.index.index import Index

PREFIX, LOCK = "replica-", "lock"
DIGEST = "indexes"  # in place of a model's: all replicas hold what they are sent
MOST_FILES, MOST_BYTES = 20_000, 1 << 40  # of one snapshot
FIRST_SEARCH_S, WEIGHT = 2e-3, 0.1  # of a search, before any; of the newest one in the mean
_NAME = re.compile(r"index\.json|partition-\d{1,4}/[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_KEY = re.compile(r"[0-9a-f]{16,64}")


@dataclass
class _Coming:
    """A snapshot that is being sent: sizes and digests of files by name."""

    digest: str
    folder: Path
    files: dict[str, tuple[int, str]]


class IndexReplica:
    """Snapshots by key (see `ServedReplica`). ``root`` is where their folders are made; None: miaotui's own place.

    Folders of processes that were killed are removed at the start.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.digest = DIGEST
        root = Settings.from_env().folder("index-snapshots") if root is None else root
        _remove_left_ones(root)
        self._root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        self._held = os.open(self._root / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try_lock(self._held)  # until this process ends, however that is
        self._indexes: dict[str, tuple[str, Index]] = {}  # digest and snapshot
        self._before: dict[str, Index] = {}  # the snapshots before those
        self._coming: dict[str, _Coming] = {}
        self._search_s, self._running = FIRST_SEARCH_S, 0

    @property
    def root(self) -> Path:
        """Return the folder of all snapshots."""
        return self._root

    @property
    def healthy(self) -> bool:
        """Return True: nothing runs between searches."""
        return True

    @property
    def in_flight(self) -> int:
        """Return the searches that run."""
        return self._running

    def describe(self) -> Message:
        """Return what decides if this replica may join a pool, and its place."""
        return description(DIGEST, [], promises=False, context=0)

    def report(self) -> Message:
        """Return what a search costs, and how many run."""
        return report(self._search_s, self._running, self._running)

    async def adapt(self, message: Mapping[str, Any]) -> Message:
        """Return the error of something that takes no adapters."""
        return error_piece(RequestError("indexes take no adapters"))

    async def answer(self, message: Mapping[str, Any]) -> AsyncGenerator[Message, None]:
        """Yield the one reply to a search, or to a step of a snapshot's way here."""
        steps = {"search": self._search, "offer": self._offer, "put": self._put, "use": self._use, "drop": self._drop}
        try:
            step = steps.get(str(message.get("do")))
            if step is None or message.get("version") != VERSION:
                raise RequestError("the message of an index is damaged, or of another version of miaotui")
            self._running += 1
            try:
                found = await asyncio.to_thread(step, message)
            finally:
                self._running -= 1
        except MiaotuiError as error:
            yield error_piece(error)
        except (KeyError, TypeError, ValueError, OSError) as error:
            yield error_piece(RequestError(f"the message of an index cannot be used: {type(error).__name__}: {error}"))
        else:
            yield {**found, "end": "stop"}

    def close(self) -> None:
        """Close all snapshots and remove them."""
        for index in (*(each for _, each in self._indexes.values()), *self._before.values()):
            index.close()
        self._indexes.clear()
        self._before.clear()
        shutil.rmtree(self._root, ignore_errors=True)
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def _search(self, message: Mapping[str, Any]) -> Message:
        known = self._indexes.get(str(message["key"]))
        if known is None or known[1].version != message["wanted"]:
            raise OverloadedError("this replica has another version of the index", 0.1)
        start_s = time.perf_counter()
        limit, offset = int(message["limit"]), int(message["offset"])
        found = known[1].search(str(message["query"]), limit, offset=offset, plain=bool(message["plain"]))
        self._search_s += WEIGHT * (time.perf_counter() - start_s - self._search_s)
        return {
            "found": [{"hits": [[hit.score, hit.passage.to_json()] for hit in found], "warnings": list(found.warnings)}]
        }

    def _offer(self, message: Mapping[str, Any]) -> Message:
        """Begin to take a snapshot; returns the names of files that are not here."""
        key, digest = str(message["key"]), str(message["digest"])
        if not _KEY.fullmatch(key) or not _KEY.fullmatch(digest):
            raise RequestError("the message of an index is damaged: its key or digest is none")
        if key in self._indexes and self._indexes[key][0] == digest:
            return {"wanted": [], "here": True}
        files = {str(name): (int(size), str(sha256)) for name, size, sha256 in message["files"]}
        if len(files) > MOST_FILES or not all(map(_NAME.fullmatch, files)):
            raise RequestError("the message of an index is damaged: a file of that name is of no index")
        sizes = [size for size, _ in files.values()]
        if min(sizes, default=0) < 0 or sum(sizes) > min(MOST_BYTES, shutil.disk_usage(self._root).free):
            raise RequestError(f"{sum(sizes):,} bytes of a snapshot do not fit the disk of this replica")
        before = self._coming.pop(key, None)
        if before is not None:
            shutil.rmtree(before.folder, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=self._root))
        wanted = [name for name, (_, sha256) in files.items() if not self._take_over(key, folder, name, sha256)]
        self._coming[key] = _Coming(digest, folder, files)
        return {"wanted": wanted, "here": False}

    def _take_over(self, key: str, folder: Path, name: str, sha256: str) -> bool:
        """Share a file with the snapshot before; returns whether it was there with this digest."""
        known = self._indexes.get(key)
        if known is None:
            return False
        old, new = known[1].folder / name, folder / name
        if not old.is_file() or _sha256(old) != sha256:
            return False
        new.parent.mkdir(exist_ok=True)
        os.link(old, new)
        return True

    def _put(self, message: Mapping[str, Any]) -> Message:
        """Write one piece of a file, behind the pieces before it."""
        coming = self._expected(message)
        name = str(message["name"])
        size, _ = coming.files[name]
        data = base64.b64decode(message["data"], validate=True)
        place = coming.folder / name
        place.parent.mkdir(exist_ok=True)
        with place.open("ab") as file:
            if file.tell() != int(message["at"]) or file.tell() + len(data) > size:
                raise RequestError("the message of an index is damaged: a piece of a file is not the next one")
            file.write(data)
        return {}

    def _use(self, message: Mapping[str, Any]) -> Message:
        """Check a snapshot that is here whole, and search it from now on."""
        coming, key = self._expected(message), str(message["key"])
        for name, (size, sha256) in coming.files.items():
            place = coming.folder / name
            if not size:
                place.parent.mkdir(exist_ok=True)
                place.touch()
            if place.stat().st_size != size or _sha256(place) != sha256:
                raise RequestError(f"the file {name} of a snapshot did not come whole")
        index = Index.open(coming.folder)
        del self._coming[key]
        before = self._indexes.get(key)
        self._indexes[key] = (coming.digest, index)
        oldest = self._before.pop(key, None)
        if oldest is not None:
            oldest.close()
            shutil.rmtree(oldest.folder, ignore_errors=True)
        if before is not None:
            self._before[key] = before[1]  # it may be searched at this moment
        return {"found": [index.version]}

    def _drop(self, message: Mapping[str, Any]) -> Message:
        """Delete all snapshots of an index; searches that run go on with open files."""
        key = str(message["key"])
        coming = self._coming.pop(key, None)
        held = [each for _, each in filter(None, [self._indexes.pop(key, None)])]
        before = self._before.pop(key, None)
        for index in filter(None, (*held, before)):
            index.close()
            shutil.rmtree(index.folder, ignore_errors=True)
        if coming is not None:
            shutil.rmtree(coming.folder, ignore_errors=True)
        return {"found": []}

    def _expected(self, message: Mapping[str, Any]) -> _Coming:
        coming = self._coming.get(str(message["key"]))
        if coming is None or coming.digest != message["digest"]:
            raise RequestError("the message of an index is damaged: this snapshot was not offered")
        return coming


def _remove_left_ones(root: Path) -> None:
    """Remove the folders whose processes have ended without doing so."""
    for folder in root.glob(f"{PREFIX}*"):
        try:
            held = os.open(folder / LOCK, os.O_RDWR)
        except OSError:
            continue  # it begins or ends at this moment
        try:
            if try_lock(held):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(held)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
