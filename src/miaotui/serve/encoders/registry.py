"""Encoders of one server, by name: loaded when they are first used, put away when memory is short.

Owns which of them are in memory. Knows neither wire forms nor how a model is opened. Invariants: an encoder is never
put away while a request uses it; of those that nothing uses the least recently used goes first; two requests for one
that is not here load it once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass, field

from miaotui.async_encoder import AsyncEncoder
from miaotui.encoders.runtime import RunningEncoder
from miaotui.engine.encoding.loaded import Ability, lacking_ability
from miaotui.errors import OverloadedError
from miaotui.serve import LOG
from miaotui.serve.http.errors import ApiError, bad_value, model_not_found

BUSY_RETRY_S = 1.0
FIRST_LOAD_S, LOAD_BYTES_PER_S = 2.0, 100e6  # of a load that was not measured yet: kernels and packing
LOAD_MARGIN = 1.5  # beyond what the last load took


@dataclass(eq=False)
class EncoderEntry:
    """An encoder that this server may load. ``size_bytes`` is about what its weights take."""

    name: str
    abilities: tuple[Ability, ...]
    max_tokens: int
    size_bytes: int
    open: Callable[[], RunningEncoder]
    dimensions: int | None = None
    created_s: int = field(default_factory=lambda: int(time.time()))
    running: AsyncEncoder | None = None  # None: not in memory
    load_s: float | None = None  # that it took to load; None: it was not loaded yet
    users: int = 0
    used_s: float = 0.0

    @property
    def kind(self) -> str:
        """Return the word for it in a list of models."""
        return KINDS[self.abilities[0]] if self.abilities else "encoder"

    @property
    def wait_s(self) -> float:
        """Return about how long a request waits until it is in memory; 0 if it is there."""
        if self.running is not None:
            return 0.0
        return FIRST_LOAD_S + self.size_bytes / LOAD_BYTES_PER_S if self.load_s is None else LOAD_MARGIN * self.load_s


KINDS: Mapping[Ability, str] = {
    "embed": "embedding",
    "rerank": "rerank",
    "classify": "classify",
    "tag": "token-classify",
    "fill_mask": "fill-mask",
}


class EncoderRegistry(Mapping[str, EncoderEntry]):
    """The encoders of one server. Used in its event loop alone."""

    def __init__(
        self,
        entries: Iterable[EncoderEntry] = (),
        budget_bytes: int | None = None,
        chat_names: Callable[[], Iterable[str]] = lambda: (),
    ) -> None:
        self._all = self._entries = {entry.name: entry for entry in entries}
        self._budget_bytes = budget_bytes
        self._chat_names = chat_names
        self._preloads: set[asyncio.Task[None]] = set()  # an event loop holds tasks weakly
        self._loading = asyncio.Lock()  # one at a time: each may need the room of others

    def __getitem__(self, name: str) -> EncoderEntry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def loaded(self) -> list[EncoderEntry]:
        """Return those that are in memory."""
        return [entry for entry in self._entries.values() if entry.running is not None]

    def only(self, allows: Callable[[str], bool]) -> EncoderRegistry:
        """Return a registry that shows those whose names are allowed; memory is shared among all."""
        found = copy(self)
        found._entries = {name: entry for name, entry in self._all.items() if allows(name)}
        found._chat_names = lambda: [name for name in self._chat_names() if allows(name)]
        return found

    @property
    def _all_loaded(self) -> list[EncoderEntry]:
        return [entry for entry in self._all.values() if entry.running is not None]

    def find(self, name: str | None, *abilities: Ability) -> EncoderEntry:
        """Return the encoder of that name; for None the only one that has the first of ``abilities``, or the next.

        Raises `ApiError`: 404 if there is none of that name, 400 if it cannot do what is asked for, or if several can
        and none is named.
        """
        if name is not None:
            return self._named(name, abilities)
        for ability in abilities:
            able = self._able((ability,))
            if len(able) == 1:
                return able[0]
            if able:
                raise bad_value("model", f"name one of {', '.join(sorted(entry.name for entry in able))}")
        text = f"no model of this server gives {KINDS[abilities[0]]} results: start it with NAME=MODEL of such a model"
        raise ApiError(404, text, param="model", code="model_not_found")

    def _able(self, abilities: tuple[Ability, ...]) -> list[EncoderEntry]:
        return [entry for entry in self._entries.values() if set(abilities) & set(entry.abilities)]

    def _named(self, name: str, abilities: tuple[Ability, ...]) -> EncoderEntry:
        entry = self._entries.get(name)
        chats = set(self._chat_names())
        if entry is None and name in chats:
            able = sorted(each.name for each in self._able(abilities))
            hint = f"; use {' or '.join(able)}" if able else ""
            raise bad_value("model", f"{name} is a chat model, which gives no {KINDS[abilities[0]]} results here{hint}")
        if entry is None:
            raise model_not_found(name, [*chats, *self._entries])
        if not set(abilities) & set(entry.abilities):
            raise bad_value("model", str(lacking_ability(entry.name, abilities[0], entry.abilities)))
        return entry

    @asynccontextmanager
    async def use(self, entry: EncoderEntry) -> AsyncGenerator[AsyncEncoder, None]:
        """Hold an encoder in memory, loaded first if need be.

        Raises `OverloadedError` where those that answer now leave no room for it, and what opening it raises.
        """
        entry.users += 1
        try:
            if entry.running is None:
                await asyncio.shield(asyncio.ensure_future(self._load(entry)))
            assert entry.running is not None
            yield entry.running
        finally:
            entry.users -= 1
            entry.used_s = time.monotonic()

    async def load(self, entry: EncoderEntry) -> None:
        """Load an encoder for later requests. Raises what `use` raises."""
        async with self.use(entry):
            pass

    async def put_away(self, entry: EncoderEntry) -> None:
        """Free an encoder's memory until it is used again. Raises `ApiError` (409) while a request uses it."""
        if entry.users:
            raise ApiError(409, f"{entry.name} answers now: try again in a moment", code="model_in_use")
        await self._put_away(entry, "an administrator wants it")

    def preload(self, entry: EncoderEntry) -> None:
        """Begin to load an encoder for later requests; what goes wrong is logged."""
        task = asyncio.ensure_future(self._load(entry))
        self._preloads.add(task)
        task.add_done_callback(self._preloads.discard)
        task.add_done_callback(lambda done: _log_failure(entry.name, done))

    async def _load(self, entry: EncoderEntry) -> None:
        entry.users += 1  # also where the request that asked for it has gone meanwhile
        try:
            async with self._loading:
                if entry.running is not None:
                    return
                await self._make_room(entry)
                LOG.info("loading %s", entry.name)
                start_s = time.monotonic()
                entry.running = AsyncEncoder(*await asyncio.to_thread(entry.open))
                entry.load_s = time.monotonic() - start_s
        finally:
            entry.users -= 1

    async def _make_room(self, entry: EncoderEntry) -> None:
        """Put away what nothing uses until ``entry`` fits; alone it may be larger than the budget."""
        budget = self._budget_bytes
        while budget is not None and self._all_loaded and self._held_bytes() + entry.size_bytes > budget:
            idle = [each for each in self._all_loaded if not each.users]
            if not idle:
                busy = [name for name in self._entries if self._all[name].running is not None] or ["other models"]
                raise OverloadedError(
                    f"{', '.join(busy)} answer now and leave no memory for {entry.name}: try again in a moment",
                    BUSY_RETRY_S,
                )
            await self._put_away(min(idle, key=lambda each: each.used_s), "memory is short")

    async def _put_away(self, entry: EncoderEntry, reason: str) -> None:
        running, entry.running = entry.running, None
        LOG.info("putting %s away: %s", entry.name, reason)
        if running is not None:
            await running.close()

    def _held_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self._all_loaded)

    def close(self) -> None:
        """Close all that are in memory, when the server ends."""
        for entry in self._all_loaded:
            running, entry.running = entry.running, None
            if running is not None:
                running.loop.close()


def _log_failure(name: str, done: asyncio.Task[None]) -> None:
    if not done.cancelled() and done.exception() is not None:
        LOG.error("%s could not be loaded", name, exc_info=done.exception())
