"""Search over several partitions: gather statistics, search with their sum, merge.

Owns the two rounds, and the case that a partition does not answer. Knows partitions only by the protocol below, so a
local folder and a remote host look alike. Invariant: a slow or dead partition costs its own passages and one warning,
never the query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Protocol, TypeVar

from miaotui.errors import MiaotuiError, RequestError
from miaotui.retrieval.index.snapshot import Found, Snapshot, rank
from miaotui.retrieval.index.statistics import Statistics, total
from miaotui.retrieval.query.compiler import Ranked

T = TypeVar("T")


class IndexPart(Protocol):
    """Searchable partition, local or remote."""

    def statistics(self, ranked: Ranked) -> Statistics:
        """Return the partition's share of the collection's statistics for the query's terms."""

    def search(self, ranked: Ranked, whole: Statistics | None, limit: int) -> list[Found]:
        """Return its best passages, scored with the statistics of the whole collection."""


@dataclass(frozen=True)
class Pools:
    """Threads for local partitions and for remote ones. A slow host must not occupy the threads of local searches."""

    here: Executor
    elsewhere: Executor

    @classmethod
    def of_size(cls, count: int) -> Pools:
        """Return threads for ``count`` partitions."""
        return cls(ThreadPoolExecutor(2 * count, "miaotui-search"), ThreadPoolExecutor(4 * count, "miaotui-remote"))

    def of(self, part: IndexPart) -> Executor:
        """Return the threads that a partition is asked in."""
        return self.here if isinstance(part, Snapshot) else self.elsewhere

    def close(self) -> None:
        """Let the threads end when they are done."""
        for pool in (self.here, self.elsewhere):
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class Gathered:
    """Best passages of all partitions that answered, and the names of those that did not."""

    found: tuple[Found, ...]
    version: str
    warnings: tuple[str, ...]


def gather(
    parts: Sequence[tuple[str, IndexPart]], ranked: Ranked, limit: int, pools: Pools, timeout_s: float
) -> Gathered:
    """Search ``parts`` (name, partition) at once; each of the two rounds may take ``timeout_s``.

    Raises `RequestError` when the query itself is wrong.
    """
    warnings: list[str] = []
    shares = _ask(parts, lambda part: part.statistics(ranked), pools, timeout_s, warnings)
    whole = total(share for share in shares if share is not None)
    present = [part for part, share in zip(parts, shares, strict=True) if share is not None]
    lists = _ask(present, lambda part: part.search(ranked, whole, limit), pools, timeout_s, warnings)
    found = [pair for part_found in lists if part_found is not None for pair in part_found]
    found.sort(key=rank)
    return Gathered(tuple(found[:limit]), whole.version, tuple(warnings))


def _ask(
    parts: Sequence[tuple[str, IndexPart]],
    question: Callable[[IndexPart], T],
    pools: Pools,
    timeout_s: float,
    warnings: list[str],
) -> list[T | None]:
    futures: list[Future[T]] = [pools.of(part).submit(question, part) for _, part in parts]
    answers: list[T | None] = []
    for (name, _), future in zip(parts, futures, strict=True):
        answers.append(None)
        try:
            answers[-1] = future.result(timeout_s)
        except RequestError:
            raise  # the query's fault, the same everywhere
        except FutureTimeoutError:
            future.cancel()
            warnings.append(f"{name} did not answer within {timeout_s:g} s; its passages are missing")
        except MiaotuiError as error:
            warnings.append(f"{name}: {error}; its passages are missing")
    return answers
