"""The low-rank adapters of a running model, by name: loaded, used by requests, unloaded.

Owns names and numbers, and how long an adapter stays. A number is never used twice, so that nothing stored under one
(prefixes, past answers) is met under another. Knows no products (`backends`) and no HTTP. Invariants: an adapter is
there whole or not at all; one that was unloaded stays until the requests that use it have ended.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from miaotui.backends.backend import Backend, probe_chunk, require, require_room
from miaotui.errors import RequestError
from miaotui.kernels.platform.host import read_host
from miaotui.model.adapters.adapter import LowRankAdapter, require_per_request
from miaotui.model.config import ModelConfig
from miaotui.schedule.plan import NO_ADAPTER, Plan

if TYPE_CHECKING:  # a loop without deadlines needs none
    from miaotui.schedule.promises.cost import CostModel

MOST_ADAPTERS = 256
MOST_NAME = 200  # characters
_EXPANSION = 4  # float32 bytes of a stored byte, at most

PROBED_ROWS, PROBES = 4, 3  # of passes that measure what a row's adapter costs
BetweenSteps = Callable[[Callable[[], None]], None]


class LoadedAdapter(NamedTuple):
    """One adapter that requests may name."""

    name: str
    number: int
    path: Path
    rank: int  # the largest of its pairs
    digest: str  # of all its numbers: equal for equal adapters
    loaded_s: int  # seconds since 1970


class Adapters(Mapping[str, LoadedAdapter]):
    """The adapters of one model by name, be its engine here or elsewhere."""

    @abstractmethod
    def load(self, name: str, path: Path) -> LoadedAdapter:
        """Load the adapter at ``path``. Raises `RequestError`."""

    @abstractmethod
    def unload(self, name: str) -> None:
        """Take an adapter's name away. Raises `RequestError` for an unknown one."""

    @abstractmethod
    def number_of(self, adapter: LoadedAdapter | str | None) -> int:
        """Return an adapter's number, `NO_ADAPTER` for None. Raises `RequestError` for an unknown name."""


class AdapterRegistry(Adapters):
    """The adapters of one loop. `load`, `unload` and `number_of` may be called from any thread.

    ``between_steps`` runs work in the engine's thread; ``in_use`` yields the adapter's number of each request that has
    not ended; ``cost`` returns the model of what passes cost, None before there is one.
    """

    def __init__(
        self,
        backend: Backend,
        config: ModelConfig,
        between_steps: BetweenSteps,
        in_use: Callable[[], Iterable[int]],
        cost: Callable[[], CostModel | None],
    ) -> None:
        self._backend, self._config, self._cost = backend, config, cost
        self._between_steps, self._in_use = between_steps, in_use
        self._by_name: dict[str, LoadedAdapter] = {}
        self._held: set[int] = {NO_ADAPTER}  # numbers that the backend knows
        self.leaving: set[int] = set()  # those of them that have no name any more
        self._numbers = itertools.count(NO_ADAPTER + 1)
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> LoadedAdapter:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._by_name))

    def __len__(self) -> int:
        return len(self._by_name)

    def load(self, name: str, path: Path) -> LoadedAdapter:
        """Load the adapter at ``path``: a folder of PEFT's, or a GGUF file.

        Raises `RequestError` for a name in use and where there is no room, and what `read_adapter` raises.
        """
        from miaotui.model.adapters.reading import read_adapter  # noqa: PLC0415  (few processes load one)

        require(self._backend, "adapters")
        if not isinstance(name, str) or not 0 < len(name) <= MOST_NAME or not name.isprintable():
            raise RequestError(f"an adapter's name must be 1 to {MOST_NAME} printable characters, not {name!r:.80}")
        with self._lock:
            if name in self._by_name:
                raise RequestError(f"an adapter {name!r} is loaded already: unload it, or choose another name")
            if len(self._by_name) >= MOST_ADAPTERS:
                raise RequestError(f"{MOST_ADAPTERS} adapters are loaded, the most there may be: unload one")
            require_room(0, _EXPANSION * stored_bytes(path), read_host().memory_bytes)
            adapter = read_adapter(path, self._config)
            require_per_request(adapter)
            number = next(self._numbers)
            self._between_steps(lambda: self._add(number, adapter))
            loaded = LoadedAdapter(name, number, path, adapter.rank, digest_of(adapter), int(time.time()))
            self._by_name[name] = loaded
        cost = self._cost()
        if cost is not None:
            self._between_steps(lambda: self.price(cost))
        return loaded

    def unload(self, name: str) -> None:
        """Take an adapter's name away, and its memory once the requests that use it have ended.

        Raises `RequestError` for an unknown name.
        """
        with self._lock:
            loaded = self.find(name)
            del self._by_name[name]
            self.leaving.add(loaded.number)
        self._between_steps(self.release)

    def find(self, name: str) -> LoadedAdapter:
        """Return the adapter of that name. Raises `RequestError` if there is none."""
        loaded = self._by_name.get(name)
        if loaded is None:
            known = ", ".join(sorted(self._by_name)[:20]) or "none is loaded; load it first"
            raise RequestError(f"there is no adapter {name!r:.220}; adapters here: {known}")
        return loaded

    def number_of(self, adapter: LoadedAdapter | str | None) -> int:
        """Return an adapter's number, `NO_ADAPTER` for None. Raises `RequestError` for an unknown name."""
        if isinstance(adapter, LoadedAdapter):
            return adapter.number
        return NO_ADAPTER if adapter is None else self.find(adapter).number

    def require_held(self, number: int) -> None:
        """Raise `RequestError` if the adapter was unloaded before its request began. Call it in the engine's thread."""
        if number not in self._held:
            raise RequestError("the adapter was unloaded before the request began: load it again, or name another one")

    def release(self) -> None:
        """Give back the memory of unloaded adapters that no request uses. Call it in the engine's thread."""
        for number in self.leaving - set(self._in_use()):
            self._backend.remove_adapter(number)
            self._held.discard(number)
            self.leaving.discard(number)

    def price(self, cost: CostModel) -> None:
        """Let a cost model know what the adapter of the highest rank costs. Call it in the engine's thread."""
        largest = max(tuple(self._by_name.values()), key=lambda adapter: adapter.rank, default=None)
        if largest is not None:
            cost.price_adapter(adapter_row_s(self._backend, largest.number))

    def _add(self, number: int, adapter: LowRankAdapter) -> None:
        self._backend.add_adapter(number, adapter)
        self._held.add(number)


def adapter_row_s(backend: Backend, number: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Measure the seconds that a row's adapter takes beside the model's own products; the best of some passes counts.

    Call it in the engine's thread.
    """
    best: dict[int, float] = {}
    for _ in range(PROBES):
        for adapter in (NO_ADAPTER, number):
            chunk = probe_chunk(backend.limits, (0,))._replace(adapter=adapter)
            begun_s = clock()
            backend.run(Plan((chunk,) * min(PROBED_ROWS, backend.limits.rows)))
            best[adapter] = min(clock() - begun_s, best.get(adapter, math.inf))
    return max(best[number] - best[NO_ADAPTER], 0.0) / min(PROBED_ROWS, backend.limits.rows)


def stored_bytes(path: Path) -> int:
    """Return the bytes of an adapter's files; 0 for a path that is not there."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return path.stat().st_size if path.is_file() else 0


def digest_of(adapter: LowRankAdapter) -> str:
    """Return a digest of an adapter's names and numbers."""
    digest = hashlib.sha256()
    for name in sorted(adapter):
        digest.update(f"{name} {adapter[name].down.shape} {adapter[name].up.shape}".encode())
        digest.update(adapter[name].down.tobytes())
        digest.update(adapter[name].up.tobytes())
    return digest.hexdigest()
