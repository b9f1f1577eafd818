"""Search by words and by meaning together.

Owns the fusion of both rankings. Knows the index and the vectors by their calls. A passage's score is the cosine of its
best sentence plus a small part of its BM25 score, as a share of the highest score that the query's words could give
(convex combination with theoretical bounds; Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid
Retrieval", 2023). Invariant: without vectors, and for queries with syntax, the result is that of the words alone.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from typing import NamedTuple

from miaotui.retrieval.document import Document, Hit, Results
from miaotui.retrieval.index.index import MAX_LIMIT, Index, check_page
from miaotui.retrieval.meaning.bilingual import MeaningVectors, QueryVectors
from miaotui.retrieval.meaning.vectors import SentenceMatch
from miaotui.retrieval.query.compiler import Ranked
from miaotui.retrieval.query.parser import Words

WORDS_WEIGHT = 0.1  # of the share of the highest BM25 score (benchmarks/retrieval/meaning.py)
_DEPTH = 50  # passages of each ranking that are fused, at least
_K1 = 1.2
_CACHED_QUERIES = 256


class MeaningResults(NamedTuple):
    """Results of a search, for each hit its sentences with their cosines (none: no vectors), how many sentences have
    vectors, and whether the question and the first hit were compared in the space of English.
    """

    results: Results
    sentences: tuple[tuple[SentenceMatch, ...], ...]
    searched: int
    in_english: bool = False


class HybridIndex:
    """Index that is searched by words and by meaning. Safe to use from several threads."""

    def __init__(self, vectors: MeaningVectors) -> None:
        self.vectors = vectors
        self.index: Index = vectors.index
        self._queries: OrderedDict[str, QueryVectors] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        """Return the name of the state that searches see: of the index and of its vectors."""
        return f"{self.index.version}~{self.vectors.state}"

    def search(self, query: str, limit: int = 10, *, offset: int = 0, plain: bool = False) -> Results:
        """Return the best passages, as `Index.search` does; scores are cosines plus a part of the words' score."""
        check_page(limit, offset)
        ranked = self.index.read(query, plain)
        vector = self._vector(query) if _is_text(ranked) else None
        if vector is None:
            by_words = self.index.search(query, limit, offset=offset, plain=plain)
            return replace(by_words, version=self.version)
        return self._fused(ranked, vector, limit, offset)

    def search_sentences(self, question: str, limit: int) -> MeaningResults:
        """Return the best passages for a question in plain text, with the cosines of their sentences."""
        results = self.search(question, limit, plain=True)
        vector = self._vector(question)
        if vector is None:
            return MeaningResults(results, tuple(() for _ in results), 0)
        sentences = tuple(tuple(self.vectors.sentences(vector, hit.passage)) for hit in results)
        in_english = len(results) > 0 and self.vectors.is_in_english(vector, results[0].passage)
        return MeaningResults(results, sentences, len(self.vectors), in_english)

    def _vector(self, query: str) -> QueryVectors | None:
        """Return the vector of a query; None for one without words, or while there are no vectors."""
        if not query.strip() or len(self.vectors) == 0:
            return None
        with self._lock:
            found = self._queries.get(query)
        if found is None:
            found = self.vectors.embed_query(query)
            with self._lock:
                self._queries[query] = found
                while len(self._queries) > _CACHED_QUERIES:
                    self._queries.popitem(last=False)
        return found

    def _fused(self, ranked: Ranked, vector: QueryVectors, limit: int, offset: int) -> Results:
        depth = min(MAX_LIMIT, max(limit + offset, _DEPTH))
        version = self.version
        by_words = self.index.search(ranked.text, depth, plain=ranked.plain)
        cosines = self.vectors.nearest(vector, depth)
        cosines |= self.vectors.best(vector, (hit.id for hit in by_words if hit.id not in cosines))
        passages = {hit.id: hit.passage for hit in by_words}
        highest = self._highest(ranked)
        shares = {hit.id: min(1.0, hit.score / highest) for hit in by_words}
        middle = _middle([cosines[name] for name in passages if name in cosines] or list(cosines.values()))
        scores = {
            name: cosines.get(name, middle) + WORDS_WEIGHT * shares.get(name, 0.0)
            for name in dict.fromkeys((*passages, *cosines))
        }
        best = sorted(scores, key=lambda name: (-scores[name], name))
        hits: list[Hit] = []
        for name in best:
            passage = passages.get(name) or self._passage(name)
            if passage is not None:  # it may have been deleted meanwhile
                hits.append(Hit(passage, scores[name], ranked, cosines.get(name, middle)))
            if len(hits) == offset + limit:
                break
        return Results(tuple(hits[offset:]), version, by_words.warnings)

    def _highest(self, ranked: Ranked) -> float:
        """Return the bound of BM25 scores for these words in the partitions here."""
        if not isinstance(ranked.tree, Words):
            return 1.0
        whole = self.index.statistics(ranked)
        bound = sum(weight * whole.idf(term) for term, weight in ranked.weighted(ranked.tree)) * (_K1 + 1)
        return bound or 1.0

    def _passage(self, name: str) -> Document | None:
        return next((one for one in self.index.get(name) if one.id == name), None)


def _is_text(ranked: Ranked) -> bool:
    """Return whether a query is text alone: no field, weight, sign or filter."""
    if ranked.plain:
        return True
    words = ranked.tree
    return isinstance(words, Words) and (words.field, words.boost) == ("", 1.0) and ranked.text.lstrip()[:1] != "+"


def _middle(values: list[float]) -> float:
    """Return the median, which stands for the cosine of a passage that has no vectors yet."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0.0
