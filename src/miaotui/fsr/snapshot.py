"""One committed state of one partition: its counts and its best passages for a query.

Owns exactness: passages are ranked by BM25 with the statistics of the whole collection over live
passages, although the library knows only its own index and counts deleted passages until a merge
removes them. Candidates come from the library with idf corrected by boosts; then each is rescored,
and more are fetched until no other passage can reach the k-th score. Knows nothing of writing.
Invariant: the result depends on passages and statistics, not on segments or partitions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from miaotui.errors import RequestError
from miaotui.fsr.compile_query import Compiler, Ranked
from miaotui.fsr.document import Document
from miaotui.fsr.extras import need
from miaotui.fsr.rescore import mean_length, rescored
from miaotui.fsr.schema import LENGTHS
from miaotui.fsr.statistics import Statistics, Term

if TYPE_CHECKING:
    import tantivy

_SPARE = 6  # candidates beyond those asked for: ties, and means that differ a little
_MOST = 4_096  # candidates looked at when very many passages score alike
_SAME = 1e-6  # relative difference of means that single precision does not show
_CACHED_FREQUENCIES = 200_000
FIELDS = (
    *("key", "title", "body", "phrase", "source", "language", "tags", "time"),
    *LENGTHS.values(),
    "record",
)

Found = tuple[float, Document]


@dataclass
class _Candidate:
    score: float
    address: tantivy.DocAddress


class Snapshot:
    """A state of a partition. Safe to use from several threads at once."""

    def __init__(
        self, searcher: tantivy.Searcher, schema: tantivy.Schema, version: int, with_deleted: int
    ) -> None:
        self._searcher, self._schema = searcher, schema
        self.version = version
        self.documents: int = searcher.num_docs
        self._with_deleted = with_deleted  # as the library counts
        self._frequencies: dict[Term, int] = {}
        self._means: dict[str, float] = {}

    @cached_property
    def tokens(self) -> dict[str, int]:
        """Tokens per field over live passages."""
        question = {name: {"sum": {"field": column}} for name, column in LENGTHS.items()}
        answer = self._searcher.aggregate(need("tantivy").Query.all_query(), question)
        return {name: int(answer[name]["value"] or 0) for name in LENGTHS}

    def statistics(self, ranked: Ranked) -> Statistics:
        """This partition's share of the whole collection's statistics, for one query's terms."""
        frequencies = {term: self._frequency(term) for term in ranked.terms}
        return Statistics(self.documents, self.tokens, frequencies, str(self.version))

    def search(self, ranked: Ranked, whole: Statistics | None, limit: int) -> list[Found]:
        """The best ``limit`` passages by (score, id); ``whole`` None: this partition is all there
        is. Raises `RequestError` for queries that the library refuses.
        """
        try:
            return self._search(ranked, whole, limit)
        except ValueError as error:
            raise RequestError(f"the query cannot be run: {error}. Correct it") from error

    def get(self, key: str) -> list[Document]:
        """The passages of that id, or of that document, in order of their ids."""
        query = need("tantivy").Query.term_query(self._schema, "key", key, "basic")
        hits = self._searcher.search(query, max(1, self.count(key)), count=False).hits
        return [self._document(address) for _, address in hits]

    def count(self, key: str) -> int:
        """How many live passages have that id or belong to that document."""
        if not self._searcher.doc_freq("key", key):
            return 0
        return self._matches(("key", key))

    def _search(self, ranked: Ranked, whole: Statistics | None, limit: int) -> list[Found]:
        if not self.documents:
            return []
        needs_whole = whole is not None or self._with_deleted != self.documents
        if whole is None and needs_whole:
            whole = self.statistics(ranked)
        if whole is None:
            whole = Statistics(self.documents, self.tokens)
            local = whole
        else:
            local = self._local(ranked.terms)
        query = Compiler(self._schema, ranked, local, whole).query()
        means = self._corrected_means(ranked, whole)
        exact = means is None
        chosen = self._untied(query, limit) if exact else self._rescored(query, limit, means or {})
        found = [(one.score, self._document(one.address)) for one in chosen]
        found.sort(key=lambda pair: (-pair[0], pair[1].id))
        return found[:limit]

    def _untied(self, query: tantivy.Query, limit: int) -> list[_Candidate]:
        """The library's ranking, long enough that the last score is not tied with the k-th."""
        count = limit + _SPARE
        while True:
            hits = self._searcher.search(query, count, count=False).hits
            scores = [_rounded(score) for score, _ in hits]
            if len(hits) < count or scores[-1] < scores[limit - 1] or count >= _MOST:
                break
            count *= 4
        least = scores[min(limit, len(scores)) - 1] if scores else 0.0
        kept = zip(scores, hits, strict=True)
        return [_Candidate(score, hit[1]) for score, hit in kept if score >= least]

    def _rescored(
        self, query: tantivy.Query, limit: int, means: dict[str, float]
    ) -> list[_Candidate]:
        """Candidates with exact scores, enough that nothing unseen can be among the best."""
        most = max([1.0, *(means[name] / self._means[name] for name in means)])
        count, known = limit + _SPARE, list[_Candidate]()
        while True:
            hits = self._searcher.search(query, count, count=False).hits
            known += [
                _Candidate(_rounded(self._exact(query, address, means)), address)
                for _, address in hits[len(known) :]
            ]
            scores = sorted((one.score for one in known), reverse=True)
            if len(hits) < count or count >= _MOST:
                break
            if scores[limit - 1] > _rounded(hits[-1][0] * most * (1 + _SAME)):
                break
            count *= 2
        least = scores[min(limit, len(scores)) - 1] if scores else 0.0
        return [one for one in known if one.score >= least]

    def _exact(
        self, query: tantivy.Query, address: tantivy.DocAddress, means: dict[str, float]
    ) -> float:
        return rescored(query.explain(self._searcher, address).to_json(), means, FIELDS)

    def _corrected_means(self, ranked: Ranked, whole: Statistics) -> dict[str, float] | None:
        """The mean lengths scores must follow, or None when they are the library's own."""
        means, differ = dict[str, float](), False
        for name, term in sorted(ranked.terms):
            if name in means or not self._library_frequency((name, term)):
                continue
            if name not in self._means:
                self._means[name] = self._library_mean((name, term))
            means[name] = whole.mean_length(name)
            differ |= abs(means[name] - self._means[name]) > _SAME * self._means[name]
        return means if differ else None

    def _local(self, terms: Iterable[Term]) -> Statistics:
        """What the library counts here, deleted passages and all."""
        frequencies = {term: self._library_frequency(term) for term in terms}
        return Statistics(self._with_deleted, {}, frequencies)

    def _library_frequency(self, term: Term) -> int:
        return self._searcher.doc_freq(*term)

    def _library_mean(self, term: Term) -> float:
        query = need("tantivy").Query.term_query(self._schema, *term, "freq")
        hits = self._searcher.search(query, 1, count=False).hits
        if not hits:
            return 1.0
        return mean_length(query.explain(self._searcher, hits[0][1]).to_json())

    def _frequency(self, term: Term) -> int:
        """Live passages with the term; counted one by one only where some are deleted."""
        if self._with_deleted == self.documents:
            return self._library_frequency(term)
        count = self._frequencies.get(term)
        if count is None:
            count = self._matches(term)
            if len(self._frequencies) >= _CACHED_FREQUENCIES:
                self._frequencies.clear()
            self._frequencies[term] = count
        return count

    def _matches(self, term: Term) -> int:
        query = need("tantivy").Query.term_query(self._schema, *term, "basic")
        answer = self._searcher.search(query, 1, count=True)
        return int(getattr(answer, "count", 0) or 0)

    def _document(self, address: tantivy.DocAddress) -> Document:
        return Document.restored(self._searcher.doc(address)["record"][0])


def _rounded(score: float) -> float:
    """Six digits: what different orders of adding up in single precision agree on."""
    return float(f"{score:.6g}")
