"""Snapshot: one committed state of one partition, its counts and its best passages for a query.

Owns exactness: passages are ranked by BM25 with the statistics of the whole collection over live passages, although
the library knows only its own index and counts deleted passages until a merge removes them. Candidates come from the
library with idf corrected by boosts; each is rescored, and more are fetched until no other passage can reach the k-th
score. Knows nothing of writing. Invariant: the result depends on passages and statistics, not on segments or
partitions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from miaotui.errors import RequestError
from miaotui.libraries import need
from miaotui.retrieval.document import Document, order_of
from miaotui.retrieval.index.rescore import ScoreExplanation, mean_length
from miaotui.retrieval.index.schema import LENGTHS
from miaotui.retrieval.index.statistics import Statistics, Term
from miaotui.retrieval.query.compiler import Compiler, Ranked

if TYPE_CHECKING:
    import tantivy

_SPARE = 1  # candidates beyond those asked for: ties, and means that differ a little
_MOST = 4_096  # candidates looked at when very many passages score alike
_CLOSE = 256  # of those, reckoned again when single precision does not tell them apart
_SAME = 2e-6  # relative difference that single precision may not show
_CACHED_FREQUENCIES = 200_000
_AT_ONCE = 50_000  # passages of a whole segment whose places are held in memory
FIELDS = (
    *("key", "title", "body", "phrase", "source", "language", "tags", "time"),
    *LENGTHS.values(),
    "order",
    "record",
)

Found = tuple[float, Document]


@dataclass
class _Candidate:
    score: float
    address: tantivy.DocAddress


class SegmentCounts(NamedTuple):
    """Passages of one segment that can be found, and those that were deleted or replaced."""

    alive: int
    dead: int


class Snapshot:
    """State of a partition. Safe to use from several threads."""

    def __init__(
        self, searcher: tantivy.Searcher, schema: tantivy.Schema, version: int, segments: Sequence[SegmentCounts]
    ) -> None:
        self._searcher, self._schema = searcher, schema
        self.version = version
        self.documents: int = searcher.num_docs
        self.segments = segments
        self._with_deleted = sum(each.alive + each.dead for each in segments)  # as the library counts
        self._frequencies: dict[Term, int] = {}
        self.means: dict[str, float] = {}  # lengths of fields, as the library counts

    @cached_property
    def tokens(self) -> dict[str, int]:
        """Return the tokens per field over live passages."""
        question = {name: {"sum": {"field": column}} for name, column in LENGTHS.items()}
        answer = self._searcher.aggregate(need("tantivy").Query.all_query(), question)
        return {name: int(answer[name]["value"] or 0) for name in LENGTHS}

    def statistics(self, ranked: Ranked) -> Statistics:
        """Return this partition's share of the collection's statistics, for one query's terms."""
        frequencies = {term: self._frequency(term) for term in ranked.terms}
        return Statistics(self.documents, self.tokens, frequencies, str(self.version))

    def search(self, ranked: Ranked, whole: Statistics | None, limit: int) -> list[Found]:
        """Return the best ``limit`` passages by (score, id); ``whole`` None: this partition is all there is. Raises
        `RequestError` for queries that the library refuses.
        """
        try:
            return self._search(ranked, whole, limit)
        except ValueError as error:
            raise RequestError(f"the query cannot be run: {error}. Correct it") from error

    def get(self, key: str) -> list[Document]:
        """Return the passages of that id, or of that document, in order of their ids."""
        query = need("tantivy").Query.term_query(self._schema, "key", key, "basic")
        hits = self._searcher.search(query, max(1, self.count(key)), count=False).hits
        return [self._document(address) for _, address in hits]

    def passages(self) -> Iterator[Document]:
        """Return every live passage, in no order."""
        return map(self._document, self._addresses())

    def _addresses(self) -> Iterator[tantivy.DocAddress]:
        """Return the places of all live passages, by segments."""
        every = need("tantivy").Query.all_query()
        for start in range(0, self.documents, _AT_ONCE):
            hits = self._searcher.search(every, _AT_ONCE, count=False, offset=start).hits
            yield from (address for _, address in hits)

    @property
    def has_dead(self) -> bool:
        """Return whether segments hold passages that were deleted or replaced."""
        return self._with_deleted != self.documents

    def tells_dead_apart(self) -> bool:
        """Return whether `beside_dead` can tell which segments hold dead passages, and whether ids do.

        They cannot where the segments are in another order than in the library's file, or where a passage's id, which
        was deleted once or is another document's as well, also stands for passages of other segments.
        """
        alive = Counter(address.segment_ord for address in self._addresses())
        if [alive[number] for number in range(len(self.segments))] != [each.alive for each in self.segments]:
            return False
        shared = {each.id for each in self.beside_dead() if self._searcher.doc_freq("key", each.id) > 1}
        here: Counter[str] = Counter()
        for passage in self.beside_dead() if shared else ():
            here.update({passage.id, passage.whole} & shared)
        return all(self.count(key) == here[key] for key in shared)

    def beside_dead(self) -> Iterator[Document]:
        """Return the live passages of the segments that hold dead ones too, see `tells_dead_apart`."""
        return (self._document(each) for each in self._addresses() if self.segments[each.segment_ord].dead)

    def count(self, key: str) -> int:
        """Return how many live passages have that id or belong to that document."""
        if not self._searcher.doc_freq("key", key):
            return 0
        return self._matches(("key", key))

    def _search(self, ranked: Ranked, whole: Statistics | None, limit: int) -> list[Found]:
        if not self.documents:
            return []
        alone = whole is None and self._with_deleted == self.documents
        if whole is None:
            known = not alone or ranked.needs_idf
            whole = self.statistics(ranked) if known else Statistics(self.documents, self.tokens)
        local = whole if alone else self._local(ranked.terms)
        query = Compiler(self._schema, ranked, local, whole, corrected=True).query()
        scale = self._scale(ranked, whole)
        exactly = _Exactly(self, self._schema, ranked, whole)
        if alone and scale is None:
            chosen = self._as_ranked(query, limit, exactly)
        else:
            chosen = self._rescored(query, limit, scale or 1.0, exactly)
        return self._best(chosen, limit)

    def _as_ranked(self, query: tantivy.Query, limit: int, exactly: _Exactly) -> list[_Candidate]:
        """Return the library's ranking, long enough that the last score is not tied with the k-th; scores that single
        precision does not tell apart are reckoned again.
        """
        count = limit + _SPARE
        while True:
            hits = self._searcher.search(query, count, count=False).hits
            if len(hits) < count or count >= _MOST:
                break
            if hits[-1][0] < hits[limit - 1][0] * (1 - _SAME):
                break
            count *= 4
        close = _close([score for score, _ in hits])
        return [
            _Candidate(exactly(address) if place in close else score, address)
            for place, (score, address) in enumerate(hits)
        ]

    def _rescored(self, query: tantivy.Query, limit: int, scale: float, exactly: _Exactly) -> list[_Candidate]:
        """Return candidates with exact scores, enough that nothing unseen can be among the best: an unseen score is
        at most the library's last one times ``scale``.
        """
        count, known = limit + _SPARE, list[_Candidate]()
        while True:
            hits = self._searcher.search(query, count, count=False).hits
            new = hits[len(known) :]
            known += [_Candidate(exactly(address), address) for _, address in new]
            if len(hits) < count or count >= _MOST:
                return known
            kth = sorted((one.score for one in known), reverse=True)[limit - 1]
            if kth > hits[-1][0] * scale * (1 + _SAME):
                return known
            count *= 2

    def _best(self, candidates: list[_Candidate], limit: int) -> list[Found]:
        """Return the best of the candidates, equal ones in their fixed order."""
        best = sorted(candidates, key=lambda one: -one.score)
        if any(one.score == other.score for one, other in pairwise(best[: limit + 1])):
            orders = self._searcher.fast_field_values("order", [one.address for one in best])
            rows = zip(best, orders, strict=True)
            best = [one for one, _ in sorted(rows, key=lambda row: (-row[0].score, row[1] or 0))]
        return [(one.score, self._document(one.address)) for one in best[:limit]]

    def _scale(self, ranked: Ranked, whole: Statistics) -> float | None:
        """Return by how much a score grows at most when the whole's mean lengths replace the library's.

        None when they are equal.
        """
        most, differ = 1.0, False
        for name in {name for name, _ in ranked.terms}:
            mean = self.means.get(name) or self._library_mean(name, ranked.terms)
            if not mean:  # no term is in this field here
                continue
            self.means[name] = mean
            ratio = whole.mean_length(name) / mean
            most, differ = max(most, ratio), differ or abs(ratio - 1) > _SAME
        return most if differ else None

    def _local(self, terms: Iterable[Term]) -> Statistics:
        """Return the library's own counts here, deleted passages included."""
        frequencies = {term: self._library_frequency(term) for term in terms}
        return Statistics(self._with_deleted, {}, frequencies)

    def _library_frequency(self, term: Term) -> int:
        return self._searcher.doc_freq(*term)

    def _library_mean(self, name: str, terms: Iterable[Term]) -> float:
        """Return the mean length of a field by the library's reckoning; 0 while none of ``terms`` is in it here."""
        for term in terms:
            if term[0] == name and self._library_frequency(term):
                query = need("tantivy").Query.term_query(self._schema, *term, "freq")
                hits = self._searcher.search(query, 1, count=False).hits
                if hits:
                    return mean_length(self.explain(query, hits[0][1]))
        return 0.0

    def _frequency(self, term: Term) -> int:
        """Return the number of live passages with the term, counted one by one only where some are deleted."""
        if self._with_deleted == self.documents:
            return self._library_frequency(term)
        count = self._frequencies.get(term)
        if count is None:
            count = self._matches(term)
            if len(self._frequencies) >= _CACHED_FREQUENCIES:
                self._frequencies.clear()
            self._frequencies[term] = count
        return count

    def explain(self, query: tantivy.Query, address: tantivy.DocAddress) -> str:
        """Return the library's account of a score, as JSON."""
        return query.explain(self._searcher, address).to_json()

    def _matches(self, term: Term) -> int:
        query = need("tantivy").Query.term_query(self._schema, *term, "basic")
        answer = self._searcher.search(query, 1, count=True)
        return int(getattr(answer, "count", 0) or 0)

    def _document(self, address: tantivy.DocAddress) -> Document:
        return Document.restored(self._searcher.doc(address)["record"][0])


def _close(scores: list[float]) -> set[int]:
    """Return the places of scores so close to a neighbour that single precision may have swapped them.

    At most the first `_CLOSE`.
    """
    close: set[int] = set()
    for place, (first, last) in enumerate(pairwise(scores)):
        if last < first <= last * (1 + _SAME) and len(close) < _CLOSE:
            close |= {place, place + 1}
    return close


class _Exactly:
    """Scores in double precision, computed from the library's explanations."""

    def __init__(self, snapshot: Snapshot, schema: tantivy.Schema, ranked: Ranked, whole: Statistics) -> None:
        self._snapshot, self._schema = snapshot, schema
        self._ranked, self._whole = ranked, whole
        self._ready: tuple[tantivy.Query, ScoreExplanation] | None = None

    def __call__(self, address: tantivy.DocAddress) -> float:
        if self._ready is None:
            whole = self._whole
            if not whole.frequencies:
                whole = self._snapshot.statistics(self._ranked)
            made = Compiler(self._schema, self._ranked, whole, whole, corrected=False)
            self._ready = made.query(), ScoreExplanation(whole, FIELDS, self._snapshot.means)
        query, account = self._ready
        return account.score(self._snapshot.explain(query, address))


def rank(found: Found) -> tuple[float, int, str]:
    """Return the key by which passages are ordered, everywhere."""
    score, passage = found
    return -score, order_of(passage.id), passage.id
