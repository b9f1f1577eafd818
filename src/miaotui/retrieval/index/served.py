"""The other end of `remote`: an index that answers as a partition of an index elsewhere.

Owns the two answers, from what has come over the wire. Knows nothing of HTTP. Invariant: partitions
of this index only; an index's own remote partitions are not asked, so that two indexes which name
each other end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from miaotui.retrieval.index.snapshot import Found, Snapshot, rank
from miaotui.retrieval.index.statistics import Statistics, total
from miaotui.retrieval.query.analysis import Analyzer
from miaotui.retrieval.query.compiler import Ranked


class Served:
    """The partitions of an index at one moment."""

    def __init__(self, snapshots: Sequence[Snapshot], analyzer: Analyzer) -> None:
        self._snapshots, self._analyzer = snapshots, analyzer

    def statistics(self, query: str, plain: bool, weights: Mapping[str, float]) -> Statistics:
        """Their share of the statistics for the query's terms. Raises `RequestError`."""
        ranked = Ranked.of(query, plain, self._analyzer, weights)
        return total(snapshot.statistics(ranked) for snapshot in self._snapshots)

    def passages(self, query: str, plain: bool, weights: Mapping[str, float], whole: Any, limit: int) -> list[Found]:
        """Their best passages; ``whole`` is `Statistics` as JSON. Raises `RequestError`."""
        ranked = Ranked.of(query, plain, self._analyzer, weights)
        statistics = Statistics.from_json(whole)
        found = [pair for snapshot in self._snapshots for pair in snapshot.search(ranked, statistics, limit)]
        return sorted(found, key=rank)[:limit]
