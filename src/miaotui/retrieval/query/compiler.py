"""Compiling a query's tree for the index library, with weights of the whole collection.

Owns the meaning of each clause over the fields. Knows nothing of partitions except their statistics: those of the
partition, which the library will use, and those of the whole, which the score must follow. Each term is boosted by
the ratio of its idf. Invariant: filters never change a score.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from miaotui.errors import RequestError
from miaotui.libraries import need
from miaotui.retrieval.document import seconds
from miaotui.retrieval.index.statistics import Statistics, Term
from miaotui.retrieval.query.analysis import Analyzer, has_chinese
from miaotui.retrieval.query.parser import Clause, ClauseGroup, Equal, Near, Phrase, Range, Words, parse

if TYPE_CHECKING:
    import tantivy

MAX_TERMS = 1_024
_FAR = 2**62
_K3 = 1.2  # as k1


@dataclass(frozen=True)
class Ranked:
    """Parsed query: its tree, and how its words are analysed and weighted."""

    text: str
    plain: bool
    tree: Clause
    analyzer: Analyzer
    weights: Mapping[str, float]
    _terms: dict[Clause, tuple[tuple[Term, float], ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, plain: bool, analyzer: Analyzer, weights: Mapping[str, float]) -> Ranked:
        """Parse a query. With ``plain`` nothing in it is syntax. Raises `RequestError`."""
        return cls(text, plain, parse(text, plain), analyzer, weights)

    @cached_property
    def terms(self) -> frozenset[Term]:
        """Return every (field, term) whose frequency the scores depend on; raises `RequestError` when there are too
        many.
        """
        found: set[Term] = set()
        for clause in leaves(self.tree):
            if isinstance(clause, Words):
                found.update(term for term, _ in self.weighted(clause))
            elif isinstance(clause, Phrase):
                found.update(self.in_order(clause))
        if len(found) > 2 * MAX_TERMS:
            raise RequestError(
                f"the query has {len(found):,} different terms; at most {2 * MAX_TERMS:,} are looked up. Shorten it"
            )
        return frozenset(found)

    def in_order(self, clause: Phrase) -> list[Term]:
        """Return the (field, term) that a phrase is a sequence of: stems, or Chinese characters with what is between
        them.
        """
        if has_chinese(clause.text):
            return [("phrase", word) for word in self.analyzer.words(clause.text)][:MAX_TERMS]
        return [("body", term) for term in self.analyzer.terms(clause.text)][:MAX_TERMS]

    @cached_property
    def needs_idf(self) -> bool:
        """Return whether compiling takes the terms' frequencies even when nothing is corrected."""
        return any(isinstance(clause, Phrase) and clause.slop for clause in leaves(self.tree))

    @cached_property
    def shown(self) -> frozenset[str]:
        """Return the terms that a snippet marks."""
        texts = [clause.text for clause in leaves(self.tree) if isinstance(clause, Words | Phrase | Near)]
        return frozenset(term for text in texts for term in self.analyzer.terms(text))

    def weighted(self, clause: Words) -> tuple[tuple[Term, float], ...]:
        """Return ((field, term), weight) of a clause of words; a word said again counts more, but saturates as it
        does in passages (k3 of Robertson et al. 1994). Chinese stop words alone are looked up as characters.
        """
        made = self._terms.get(clause)
        if made is None:
            counts = Counter(self.analyzer.terms(clause.text))
            fields = {clause.field: 1.0} if clause.field else self.weights
            if not counts and has_chinese(clause.text):
                counts = Counter(self.analyzer.words(clause.text))
                fields = {"phrase": 1.0}
            made = tuple(
                ((name, term), clause.boost * weight * (_K3 + 1) * count / (_K3 + count))
                for term, count in counts.items()
                for name, weight in fields.items()
            )
            self._terms[clause] = made
        return made


def leaves(clause: Clause) -> Iterable[Clause]:
    """Yield the clauses of a query that are no groups, in their order."""
    if isinstance(clause, ClauseGroup):
        for inner in (*clause.must, *clause.should, *clause.must_not):
            yield from leaves(inner)
    else:
        yield clause


class Compiler:
    """Compiler of queries for one partition. ``local`` holds the library's counts there, ``whole`` the statistics for
    scores.

    With ``corrected``, clauses are boosted to follow the whole. Without, the query is for `rescore`: terms have their
    plain weights, phrases their weights times their idf.
    """

    def __init__(
        self, schema: tantivy.Schema, ranked: Ranked, local: Statistics, whole: Statistics, corrected: bool
    ) -> None:
        self._corrected = corrected
        self._schema, self._ranked = schema, ranked
        self._local, self._whole = local, whole
        self._tantivy = need("tantivy")
        self._query: type[tantivy.Query] = self._tantivy.Query
        self._occur: type[tantivy.Occur] = self._tantivy.Occur

    def query(self) -> tantivy.Query:
        """Return the whole query; raises `RequestError` for values that a field cannot take."""
        return self._clause(self._ranked.tree)

    def _clause(self, clause: Clause) -> tantivy.Query:
        if isinstance(clause, Words):
            return self._words(clause)
        if isinstance(clause, Phrase):
            return self._phrase(clause)
        if isinstance(clause, Near):
            return self._near(clause)
        if isinstance(clause, ClauseGroup):
            return self._group(clause)
        return self._query.const_score_query(self._filter(clause), 0.0)

    def _words(self, clause: Words) -> tantivy.Query:
        return self._either([self._term(term, w) for term, w in self._ranked.weighted(clause)])

    def _term(self, term: Term, weight: float) -> tantivy.Query:
        query = self._query.term_query(self._schema, term[0], term[1], "freq")
        boost = weight * (self._correction([term]) if self._corrected else 1.0)
        return query if boost == 1.0 else self._query.boost_query(query, boost)

    def _correction(self, terms: list[Term]) -> float:
        if self._local is self._whole:
            return 1.0
        local = sum(map(self._local.idf, terms))
        return sum(map(self._whole.idf, terms)) / local if local > 0 else 1.0

    def _phrase(self, clause: Phrase) -> tantivy.Query:
        terms = self._ranked.in_order(clause)
        if not terms:
            return self._query.empty_query()
        if len(terms) == 1:
            return self._term(terms[0], clause.boost)
        words: list[str | tuple[int, str]] = [word for _, word in terms]
        made = self._query.phrase_query(self._schema, terms[0][0], words, clause.slop)
        if clause.slop:  # how often the library finds it depends on which word is rarest here
            worth = clause.boost * sum(map(self._whole.idf, terms))
            return self._query.const_score_query(made, worth)
        worth = self._correction(terms) if self._corrected else sum(map(self._whole.idf, terms))
        return self._query.boost_query(made, clause.boost * worth)

    def _near(self, clause: Near) -> tantivy.Query:
        """Compile a clause of several words, such as well-known*: only the last one is inexact."""
        analyzer = self._ranked.analyzer
        words = analyzer.words(clause.text)
        if not words:
            return self._query.empty_query()
        if has_chinese(clause.text):
            return self._words(Words(clause.text, boost=clause.boost))
        stems = analyzer.terms(words[-1]) or words[-1:]
        last = words[-1] if clause.prefix else stems[0]
        distance = min(clause.distance, len(last) // 3)
        near = self._query.fuzzy_term_query(self._schema, "body", last, distance, True, clause.prefix)
        others = [term for word in words[:-1] for term in analyzer.terms(word)]
        made = [self._query.term_query(self._schema, "body", term, "freq") for term in others]
        every = [(self._occur.Must, query) for query in (*made, near)]
        return self._query.const_score_query(self._query.boolean_query(every), clause.boost)

    def _group(self, group: ClauseGroup) -> tantivy.Query:
        if not (group.must or group.should or group.must_not):
            return self._query.empty_query()
        should = self._should(group.should)
        parts = [(self._occur.Must, self._clause(clause)) for clause in group.must]
        ranked_must = any(not isinstance(clause, Equal | Range) for clause in group.must)
        if should and parts and not ranked_must:  # filters alone do not make words optional
            parts.append((self._occur.Must, self._either(should)))
        else:
            parts += [(self._occur.Should, query) for query in should]
        parts += [(self._occur.MustNot, self._clause(clause)) for clause in group.must_not]
        if not group.must and not group.should:
            parts.append((self._occur.Must, self._const(self._query.all_query())))
        made = self._query.boolean_query(parts)
        return made if group.boost == 1.0 else self._query.boost_query(made, group.boost)

    def _should(self, clauses: Iterable[Clause]) -> list[tantivy.Query]:
        """Put words side by side in one union: the library prunes unions of single terms only."""
        made: list[tantivy.Query] = []
        for clause in clauses:
            if isinstance(clause, Words):
                made += [self._term(term, w) for term, w in self._ranked.weighted(clause)]
            else:
                made.append(self._clause(clause))
        return made

    def _either(self, queries: list[tantivy.Query]) -> tantivy.Query:
        if not queries:
            return self._query.empty_query()
        return self._query.boolean_query([(self._occur.Should, query) for query in queries])

    def _const(self, query: tantivy.Query) -> tantivy.Query:
        return self._query.const_score_query(query, 0.0)

    def _filter(self, clause: Equal | Range) -> tantivy.Query:
        if isinstance(clause, Range):
            return self._time(clause)
        if clause.prefix:
            pattern = re.sub(r"([^\w/ ])", r"\\\1", clause.value) + ".*"
            return self._query.regex_query(self._schema, clause.field, pattern)
        return self._query.term_query(self._schema, clause.field, clause.value, "basic")

    def _time(self, clause: Range) -> tantivy.Query:
        low, high = _moment(clause.low), _moment(clause.high)
        if high is not None and clause.with_high and _is_day(clause.high):
            high += 86_399  # a day as an upper end is the whole day
        return self._query.range_query(
            self._schema,
            "time",
            self._tantivy.FieldType.Integer,
            -_FAR if low is None else low,
            _FAR if high is None else high,
            clause.with_low,
            clause.with_high,
        )


def _moment(text: str) -> int | None:
    if re.fullmatch(r"-?\d{5,15}", text):
        return int(text)
    return seconds(f"{text}-01-01" if re.fullmatch(r"\d{4}", text) else text)


def _is_day(text: str) -> bool:
    return re.fullmatch(r"\d{4}-\d\d-\d\d", text) is not None
