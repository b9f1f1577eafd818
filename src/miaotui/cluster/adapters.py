"""The low-rank adapters of a pool: loaded by every replica from its own machine's files, equal by digest.

Owns their names, and that a replica has all of them before it is sent anything. Knows no files. Invariants: an adapter
is there in all replicas or in none; a replica whose adapter has other numbers is not let in.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from miaotui.cluster.messages import Message, error_of
from miaotui.cluster.transport.channel import Channel
from miaotui.engine.adapters import Adapters, LoadedAdapter
from miaotui.errors import MiaotuiError, OverloadedError, RequestError
from miaotui.schedule.plan import NO_ADAPTER

LOADED_S = 120.0  # that all replicas may take to load one


class PoolAdapters(Adapters):
    """Adapters of all replicas of a pool. `load` and `unload` may be called from any thread but the pool's.

    ``channels`` returns the ways to the replicas; ``events`` is the pool's event loop.
    """

    def __init__(self, events: asyncio.AbstractEventLoop, channels: Callable[[], Mapping[str, Channel]]) -> None:
        self._events, self._channels = events, channels
        self._by_name: dict[str, LoadedAdapter] = {}
        self._numbers = itertools.count(NO_ADAPTER + 1)
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> LoadedAdapter:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._by_name))

    def __len__(self) -> int:
        return len(self._by_name)

    def load(self, name: str, path: Path) -> LoadedAdapter:
        """Have every replica load the adapter at ``path`` of its machine.

        Raises `RequestError` for a name in use, for files that differ, and what a replica raises; then none has it.
        """
        with self._lock:
            if name in self._by_name:
                raise RequestError(f"an adapter {name!r} is loaded already: unload it, or choose another name")
            found = self._run(self._load_everywhere(name, path))
            rank, digest, loaded_s = next(iter(found.values()))
            loaded = LoadedAdapter(name, next(self._numbers), path, rank, digest, loaded_s)
            self._by_name[name] = loaded
            self._run(self._catch_up(loaded, found.keys()))
        return loaded

    def unload(self, name: str) -> None:
        """Take an adapter's name away; replicas keep it until the requests that use it have ended."""
        with self._lock:
            self._find(name)
            del self._by_name[name]
            self._run(self._unload_everywhere(name, tuple(self._channels().values())))

    def number_of(self, adapter: LoadedAdapter | str | None) -> int:
        """Return an adapter's number, `NO_ADAPTER` for None. Raises `RequestError` for an unknown name."""
        if adapter is None:
            return NO_ADAPTER
        return adapter.number if isinstance(adapter, LoadedAdapter) else self._find(adapter).number

    def named(self, adapter: LoadedAdapter | str | None) -> tuple[str, str] | None:
        """Return an adapter's name and digest, by which replicas know it. Raises `RequestError` for an unknown name."""
        if adapter is None:
            return None
        found = adapter if isinstance(adapter, LoadedAdapter) else self._find(adapter)
        return found.name, found.digest

    async def bring(self, channel: Channel) -> str | None:
        """Have a new replica load all adapters; return why it may not join, None if it may."""
        brought: set[int] = set()
        while missing := [each for each in self._by_name.values() if each.number not in brought]:  # more may have come
            for adapter in missing:
                brought.add(adapter.number)
                try:
                    _, digest, _ = await _loaded(channel, adapter.name, adapter.path)
                except MiaotuiError as error:
                    return f"it could not load the adapter {adapter.name!r}: {error}"
                if digest != adapter.digest:
                    return (
                        f"its adapter {adapter.name!r} is another one ({digest:.12}… instead of {adapter.digest:.12}…)"
                    )
        return None

    def _find(self, name: str) -> LoadedAdapter:
        found = self._by_name.get(name)
        if found is None:
            known = ", ".join(sorted(self._by_name)[:20]) or "none is loaded; load it first"
            raise RequestError(f"there is no adapter {name!r:.220}; adapters here: {known}")
        return found

    def _run(self, work: Any) -> Any:
        task = asyncio.run_coroutine_threadsafe(work, self._events)
        try:
            return task.result(LOADED_S)
        except concurrent.futures.TimeoutError as error:
            task.cancel()
            raise OverloadedError(f"replicas did not answer within {LOADED_S:g} s: ask again", LOADED_S) from error

    async def _catch_up(self, adapter: LoadedAdapter, loaded: Collection[str]) -> None:
        """Have replicas that joined while others loaded an adapter load it too; give up those that cannot."""
        for replica, channel in tuple(self._channels().items()):
            if replica in loaded:
                continue
            try:
                _, digest, _ = await _loaded(channel, adapter.name, adapter.path)
            except MiaotuiError:
                digest = ""
            if digest != adapter.digest:
                channel.abandon()  # when it comes back, `bring` says why it may not join

    async def _load_everywhere(self, name: str, path: Path) -> dict[str, tuple[int, str, int]]:
        channels = dict(self._channels())
        if not channels:
            raise OverloadedError(
                "no replica of this model is there to load an adapter: ask again in a moment. Where the model sleeps, "
                "a request starts one",
                1.0,
            )
        tasks = {replica: asyncio.create_task(_loaded(channel, name, path)) for replica, channel in channels.items()}
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        failed = next((task.exception() for task in tasks.values() if task.exception() is not None), None)
        digests = {task.result()[1] for task in tasks.values() if task.exception() is None}
        if failed is None and len(digests) == 1:
            return {replica: task.result() for replica, task in tasks.items()}
        with_it = [channels[replica] for replica, task in tasks.items() if task.exception() is None]
        await self._unload_everywhere(name, with_it)
        raise failed or RequestError(
            f"the adapter at {path} is not the same on all machines: copy the same files to each of them"
        )

    async def _unload_everywhere(self, name: str, channels: Any) -> None:
        await asyncio.gather(*(channel.adapt({"unload": name}) for channel in channels), return_exceptions=True)


async def _loaded(channel: Channel, name: str, path: Path) -> tuple[int, str, int]:
    """Have one replica load an adapter; return its rank, its digest and when. Raises the replica's error."""
    reply: Message = await channel.adapt({"load": name, "path": str(path)})
    if "error" in reply:
        raise error_of(reply)
    rank, digest, loaded_s = reply["adapter"]
    return int(rank), str(digest), int(loaded_s)
