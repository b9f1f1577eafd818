"""Shares of a hit's score: of each word of the query, and of the meaning.

Owns the split. Knows hits, and statistics by their numbers. The words' part is split in proportion to BM25 (Robertson
and Zaragoza 2009) with the passage's exact lengths, of which the index keeps rounded ones. Invariant: the shares sum
to the hit's score, unless none of the query's words stands in the passage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from miaotui.retrieval.document import Hit
from miaotui.retrieval.index.schema import TITLE_TIMES, row_of
from miaotui.retrieval.index.statistics import Statistics
from miaotui.retrieval.query.compiler import Ranked, leaves
from miaotui.retrieval.query.parser import Words

_K1, _B = 1.2, 0.75


class HitShares(NamedTuple):
    """Parts of a score. ``meaning`` is the cosine of the best sentence; None where words alone were searched.

    ``terms`` are stems of the query's words with their parts, the largest first.
    """

    meaning: float | None
    words: float
    terms: tuple[tuple[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        terms = [{"term": term, "share": share} for term, share in self.terms]
        return {"meaning": self.meaning, "words": self.words, "terms": terms}


def shares_of(hit: Hit, whole: Statistics) -> HitShares:
    """Return the parts of a hit's score under the statistics of the collection."""
    words = hit.score - (hit.cosine or 0.0)
    scores = term_scores(hit, whole)
    total = sum(scores.values())
    parts = {term: words * score / total for term, score in scores.items()} if total > 0 else {}
    return HitShares(hit.cosine, words, tuple(sorted(parts.items(), key=lambda each: (-each[1], each[0]))))


def term_scores(hit: Hit, whole: Statistics) -> dict[str, float]:
    """Return BM25 of each term of the query's words in the passage, over all fields; terms that are not there are left
    out.
    """
    ranked: Ranked = hit.ranked
    row = row_of(hit.passage, ranked.analyzer)
    counts = {
        "title": Counter(row.title),
        "body": Counter([*row.title * TITLE_TIMES, *row.body]),
        "phrase": Counter([*row.phrase[0], *row.phrase[1]]),
    }
    found: dict[str, float] = {}
    for (name, term), weight in _weighted(ranked):
        count = counts[name][term] if name in counts else 0
        if count:
            mean = whole.mean_length(name) or 1.0
            length = counts[name].total()
            saturated = count / (count + _K1 * (1 - _B + _B * length / mean))
            found[term] = found.get(term, 0.0) + weight * whole.idf((name, term)) * (_K1 + 1) * saturated
    return found


def _weighted(ranked: Ranked) -> Iterable[tuple[tuple[str, str], float]]:
    for clause in leaves(ranked.tree):
        if isinstance(clause, Words):
            yield from ranked.weighted(clause)
