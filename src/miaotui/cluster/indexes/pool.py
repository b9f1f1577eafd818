"""Indexes that this process writes, and replicas that hold snapshots of them and search.

Owns which states are sent where, and the searches that replicas answer. Knows no HTTP. Invariants: a change is
committed here before it is answered, so no replica's death takes it away; a search sees the newest version: where no
replica has it yet, it is searched here.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import aclosing
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from miaotui.apps.qa_pipeline import Searchable
from miaotui.cluster.cluster_file import INDEXES
from miaotui.cluster.indexes.replica import DIGEST
from miaotui.cluster.jobs.pool import JobPool
from miaotui.cluster.messages import VERSION, Message, error_of
from miaotui.cluster.transport.channel import Channel, Members
from miaotui.engine.jobs.job import PromisedJob
from miaotui.errors import EngineError, MiaotuiError, OverloadedError, ReplicaLostError
from miaotui.retrieval.document import Document, Hit, Results
from miaotui.retrieval.index.committed import CommittedState, open_state
from miaotui.retrieval.index.index import Index, check_page
from miaotui.retrieval.index.settings import INDEX_FILE

LOG = logging.getLogger("miaotui.cluster")
PIECE_BYTES = 4 << 20
LOOK_S = 2.0  # between looks for indexes that are gone
SEARCH_S = 30.0  # that a replica may take; then the index is searched here


class IndexPool:
    """Replicas of all indexes of one process."""

    def __init__(self, members: Members) -> None:
        expected: Message = {"protocol": VERSION, "miaotui": version("miaotui"), "digest": DIGEST}
        self.searched_here = 0  # since no replica had the version
        self._indexes: dict[str, Index] = {}  # those that were searched or changed, by key
        self._lock = threading.Lock()
        self._sending: dict[str, asyncio.Lock] = {}
        self.pool = JobPool(INDEXES, members, expected, lambda piece: piece.get("found", ()), self._bring)
        self.pool.keep_up(self._look_after)

    def searchable(self, index: Index) -> Searchable:
        """Return an index whose searches go to replicas; itself where it has partitions elsewhere, or is encrypted."""
        if _stays(index):
            return index
        self._note(index)
        return _ReplicatedIndex(index, self)

    def changed(self, index: Index) -> None:
        """Send the newest state of an index to all replicas, soon."""
        if not _stays(index):
            self._note(index, is_changed=True)

    def drop(self, folder: Path) -> None:
        """Delete all snapshots of the index in ``folder``, or of the indexes in it; wait until they are gone.

        A replica that cannot be reached deletes its own when it ends, or when one starts in its place.
        """
        self._drop_all(lambda index: folder in (index.folder, index.folder.parent))

    def forget_removed(self) -> None:
        """Delete all snapshots of indexes that are not here any more; wait until they are gone."""
        self._drop_all(lambda index: not (index.folder / INDEX_FILE).is_file())

    def search(self, index: Index, query: str, limit: int, offset: int, plain: bool) -> Results:
        """Search at a replica that has the newest version; here where none has. Raises as `Index.search`."""
        check_page(limit, offset)
        ranked, wanted = index.read(query, plain), index.version
        content = {"do": "search", "key": _key(index), "wanted": wanted, "query": query, "plain": plain}
        job = PromisedJob(1, 1, None, time.perf_counter())
        try:
            asked = {**content, "limit": limit, "offset": offset}
            self.pool.dispatch(job, asked, lambda _, value: job.keep(0, value))
            (found,) = job.future.result(SEARCH_S)
        except (OverloadedError, EngineError, FutureTimeoutError, CancelledError):
            self.searched_here += 1
            return index.search(query, limit, offset=offset, plain=plain)
        finally:
            job.cancel()
        hits = (Hit(Document.from_mapping(passage), float(score), ranked) for score, passage in found["hits"])
        return Results(tuple(hits), wanted, tuple(map(str, found["warnings"])))

    def wait(self, index: Index, replicas: int, timeout_s: float) -> bool:
        """Wait until so many replicas have the newest version; False after ``timeout_s``."""
        end_s = time.monotonic() + timeout_s
        while True:
            holders = self.pool.on_channels(lambda channel: _has(channel, index))
            if sum(holders) >= replicas:
                return True
            if time.monotonic() > end_s:
                return False
            time.sleep(0.02)

    def close(self) -> None:
        """Give the replicas up. Closing twice does nothing."""
        self.pool.close()

    def _note(self, index: Index, *, is_changed: bool = False) -> None:
        key = _key(index)
        with self._lock:
            is_new = self._indexes.get(key) is not index
            self._indexes[key] = index
        if is_new or is_changed:
            self.pool.spread(lambda channel: self._send_logged(channel, key))

    def _drop_all(self, is_gone: Callable[[Index], bool]) -> None:
        with self._lock:
            keys = [key for key, index in self._indexes.items() if is_gone(index)]
            for key in keys:
                del self._indexes[key]
        for key in keys:
            self.pool.on_channels(partial(self._drop, key=key))

    async def _look_after(self) -> None:
        """Look from time to time for indexes that others have removed."""
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(self.forget_removed)

    async def _bring(self, channel: Channel) -> str | None:
        """Send all states to a replica that joins."""
        with self._lock:
            keys = list(self._indexes)
        for key in keys:
            await self._send_logged(channel, key)
        return None

    async def _send_logged(self, channel: Channel, key: str) -> None:
        try:
            async with self._sending.setdefault(f"{id(channel)}:{key}", asyncio.Lock()):
                await self._send(channel, key)
        except (MiaotuiError, OSError) as error:
            LOG.warning("a snapshot could not be sent to a replica, which is not asked for it: %s", error)

    async def _drop(self, channel: Channel, *, key: str) -> bool:
        try:
            async with self._sending.setdefault(f"{id(channel)}:{key}", asyncio.Lock()):
                await _ask(channel, {"do": "drop", "key": key, "version": VERSION})
        except MiaotuiError as error:
            LOG.warning("a replica did not delete a snapshot: %s", error)
            return False
        return True

    async def _send(self, channel: Channel, key: str) -> None:
        """Send the newest state of an index, as far as the replica does not have it. Raises a `MiaotuiError`."""
        with self._lock:
            index = self._indexes.get(key)
        if index is None:  # deleted meanwhile
            return
        with await asyncio.to_thread(open_state, index.folder) as state:
            head = {"key": key, "digest": state.digest, "version": VERSION}
            files = [[each.name, each.size, each.sha256] for each in state.files]
            reply = await _ask(channel, {**head, "do": "offer", "files": files})
            if reply["here"]:
                return
            for name in reply["wanted"]:
                await _put(channel, head, state, name)
            await _ask(channel, {**head, "do": "use"})


class _ReplicatedIndex:
    """An index that replicas search (see `Searchable`)."""

    def __init__(self, index: Index, pool: IndexPool) -> None:
        self._index, self._pool = index, pool

    @property
    def version(self) -> str:
        """Return the name of the state that searches see."""
        return self._index.version

    def search(self, query: str, limit: int = 10, *, offset: int = 0, plain: bool = False) -> Results:
        """Return the best passages."""
        return self._pool.search(self._index, query, limit, offset, plain)


async def _put(channel: Channel, head: Message, state: CommittedState, name: str) -> None:
    """Send one file in pieces."""
    file = next(each.file for each in state.files if each.name == name)
    file.seek(0)
    at = 0
    while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
        data = base64.b64encode(piece).decode()
        await _ask(channel, {**head, "do": "put", "name": name, "at": at, "data": data})
        at += len(piece)


async def _ask(channel: Channel, message: Message) -> Message:
    """Return the reply to one step. Raises the error that it carries, and `ReplicaLostError`."""
    async with aclosing(channel.answer(message)) as pieces:
        async for piece in pieces:
            if "error" in piece:
                raise error_of(piece)
            return piece
    raise ReplicaLostError("a replica stopped in the middle of a snapshot")


async def _has(channel: Channel, index: Index) -> bool:
    """Return whether a replica has the newest version of an index."""
    message: dict[str, Any] = {"do": "search", "key": _key(index), "wanted": index.version, "query": "a"}
    try:
        await _ask(channel, {**message, "plain": True, "limit": 1, "offset": 0, "version": VERSION})
    except MiaotuiError:
        return False
    return True


def _stays(index: Index) -> bool:
    """Return whether an index is searched in this process alone: snapshots of an encrypted one would be plain."""
    return bool(index.plan.remotes) or index.plan.sealed


def _key(index: Index) -> str:
    """Return the name under which replicas hold an index: of its identity and its folder."""
    return hashlib.sha256(f"{index.plan.uid}:{index.folder}".encode()).hexdigest()[:32]
