"""Server side of `remote`: an index in the role of a partition of an index elsewhere.

Owns the two answers, from values that came over the wire. Knows nothing of HTTP. Invariant: only local partitions
answer, so two indexes that name each other do not loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from miaotui.retrieval.index.snapshot import Found, Snapshot, rank
from miaotui.retrieval.index.statistics import Statistics, total
from miaotui.retrieval.query.analysis import Analyzer
from miaotui.retrieval.query.compiler import Ranked


class Served:
    """Partitions of an index at one moment."""

    def __init__(self, snapshots: Sequence[Snapshot], analyzer: Analyzer) -> None:
        self._snapshots, self._analyzer = snapshots, analyzer

    def statistics(self, query: str, plain: bool, weights: Mapping[str, float]) -> Statistics:
        """Return their share of the statistics for the query's terms. Raises `RequestError`."""
        ranked = Ranked.of(query, plain, self._analyzer, weights)
        return total(snapshot.statistics(ranked) for snapshot in self._snapshots)

    def passages(self, query: str, plain: bool, weights: Mapping[str, float], whole: Any, limit: int) -> list[Found]:
        """Return their best passages; ``whole`` is `Statistics` as JSON. Raises `RequestError`."""
        ranked = Ranked.of(query, plain, self._analyzer, weights)
        statistics = Statistics.from_json(whole)
        found = [pair for snapshot in self._snapshots for pair in snapshot.search(ranked, statistics, limit)]
        return sorted(found, key=rank)[:limit]
