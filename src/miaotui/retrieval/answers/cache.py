"""Cache of answers: exact and near matches in front of the engine.

Owns the order of lookups, and the counts. Knows neither HTTP nor engines: a payload is any bytes that the caller
wants back. Invariants: near matching needs a rule that was calibrated to a bound on false hits
(`retrieval.answers.calibrate`); a failure here is a miss, never an error of the request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from miaotui.errors import RequestError
from miaotui.retrieval.answers.calibrate import NearRule
from miaotui.retrieval.answers.key import AnswerKey, ground_digest, may_keep, namespace_digest
from miaotui.retrieval.answers.similarity import likeness, marks_agree, read
from miaotui.retrieval.answers.store import AnswerEntry, AnswerStore
from miaotui.retrieval.minhash import band_keys
from miaotui.sealing.master_keys import MasterKeys

__all__ = ["AnswerCache", "AnswerKey", "CacheCounts", "CacheOptions", "CacheState", "Found", "may_keep"]

CacheState = Literal["hit", "near", "miss"]
DAY_S = 86_400.0


@dataclass(frozen=True)
class CacheOptions:
    """Options of the operator. Raises `RequestError` for values out of range.

    ``path`` None keeps answers in memory only; ``near`` None switches near matches off.
    """

    path: Path | None = None
    max_bytes: int = 256 << 20
    max_age_s: float = 7 * DAY_S
    near: NearRule | None = None

    def __post_init__(self) -> None:
        if self.max_bytes < 1 << 16:
            raise RequestError(f"max_bytes must be at least 65,536, not {self.max_bytes!r}")
        if not 0 < self.max_age_s <= 3650 * DAY_S:
            raise RequestError(f"max_age_s must be in (0, {3650 * DAY_S:,.0f}], not {self.max_age_s!r}")


@dataclass(frozen=True)
class Found:
    """Answer from the cache: how it was found, how old it is, how long the lookup took."""

    payload: bytes
    how: CacheState
    likeness: float  # 1 for an exact match
    age_s: float
    took_s: float


@dataclass(frozen=True)
class CacheCounts:
    """Counts since the cache was opened, and its contents."""

    hits: int
    near: int
    misses: int
    kept: int
    evicted: int
    failures: int
    rebuilt: int
    entries: int
    size_bytes: int


class AnswerCache:
    """Cache of answers. Look an `AnswerKey` up before the engine is asked, and keep the engine's answer.

    Safe to use from several threads. Raises `CacheError` if the file cannot be made.
    """

    def __init__(self, options: CacheOptions | None = None, clock: Callable[[], float] = time.time) -> None:
        self.options = options or CacheOptions()
        self._clock = clock
        keys = None if self.options.path is None else MasterKeys.from_env()
        self._store = AnswerStore(self.options.path, self.options.max_bytes, self.options.max_age_s, clock, keys)
        self._lock = threading.Lock()
        self._hits = self._near = self._misses = self._kept = 0
        self._gone: set[str] = set()

    def find(self, asking: AnswerKey) -> Found | None:
        """Return the answer to this question or, if a rule allows it, to a similar one."""
        started = time.perf_counter()
        kept, how, alike = self._store.get(asking.key()), "hit", 1.0
        if kept is None and (best := self._most_alike(asking)) is not None:
            key, alike = best
            kept, how = self._store.get_near(key), "near"
        self._note(how if kept is not None else "miss")
        if kept is None:
            return None
        state: CacheState = "hit" if how == "hit" else "near"
        age_s = max(0.0, self._clock() - kept.made_s)
        return Found(kept.payload, state, alike, age_s, time.perf_counter() - started)

    def keep(self, asking: AnswerKey, payload: bytes) -> bool:
        """Keep an answer. Returns whether that succeeded. Call `may_keep` first."""
        if asking.namespace in self._gone:
            return False
        question, bands = None, []
        if self.options.near is not None and asking.question is not None:
            reading = read(asking.question)
            if reading is not None:
                question, bands = asking.question, band_keys(asking.scope(), reading.shingles)
        entry = AnswerEntry(
            key=asking.key(),
            scope=asking.scope(),
            namespace=namespace_digest(asking.namespace),
            grounds=[ground_digest(asking.namespace, name) for name, _ in asking.indexes],
            payload=payload,
            question=question,
            bands=bands,
        )
        kept = self._store.put(entry)
        with self._lock:
            self._kept += kept
        return kept

    def forget_index(self, namespace: str, index: str) -> int:
        """Drop all answers from an index of one owner. Returns how many there were."""
        return self._store.drop_ground(ground_digest(namespace, index))

    def forget(self, asking: AnswerKey) -> bool:
        """Drop one answer. Returns whether there was one."""
        return self._store.drop(asking.key())

    def keep_no_more(self, namespace: str) -> None:
        """Keep no answer of an owner from now on: its answers are about to be deleted."""
        with self._lock:
            self._gone.add(namespace)

    def forget_namespace(self, namespace: str) -> int:
        """Drop all answers of one owner. Returns how many there were."""
        return self._store.drop_namespace(namespace_digest(namespace))

    def counts(self) -> CacheCounts:
        """Return the counts so far."""
        store = self._store
        entries, size_bytes = store.count()
        with self._lock:
            done = (self._hits, self._near, self._misses, self._kept)
        return CacheCounts(*done, store.evicted, store.failures, store.rebuilt, entries, size_bytes)

    def close(self) -> None:
        """Close the file. Every later lookup is a miss."""
        self._store.close()

    def _most_alike(self, asking: AnswerKey) -> tuple[bytes, float] | None:
        """Return (key, likeness) of the most similar question that the rule lets through."""
        rule, question = self.options.near, asking.question
        reading = read(question) if rule is not None and question is not None else None
        if rule is None or reading is None:
            return None
        shingles, best = reading.shingles, None
        for key, other in self._store.near(asking.scope(), band_keys(asking.scope(), shingles)):
            candidate = read(other)
            if candidate is None or not marks_agree(reading, candidate):
                continue
            alike = likeness(shingles, candidate.shingles)
            if alike >= rule.threshold and (best is None or alike > best[1]):
                best = (key, alike)
        return best

    def _note(self, how: str) -> None:
        with self._lock:
            self._hits += how == "hit"
            self._near += how == "near"
            self._misses += how == "miss"
