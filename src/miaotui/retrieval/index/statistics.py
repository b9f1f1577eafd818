"""Statistics of a collection for BM25, and how partitions' shares add up.

Owns the numbers: documents, tokens per field, documents per term. Knows nothing of postings or queries. Invariant:
the statistics of a union are the sum of its parts' statistics, so a passage's score does not depend on its partition
(Robertson & Zaragoza 2009 for the formula).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from miaotui.errors import RequestError

Term = tuple[str, str]  # (field, analysed term)


@dataclass(frozen=True)
class Statistics:
    """Counts over live passages: how many, tokens per field, passages per (field, term)."""

    documents: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict)
    frequencies: Mapping[Term, int] = field(default_factory=dict)
    version: str = ""

    def mean_length(self, name: str) -> float:
        """Return the mean tokens of a field per passage; 0 when there are none."""
        return self.tokens.get(name, 0) / self.documents if self.documents else 0.0

    def idf(self, term: Term) -> float:
        """Return the inverse document frequency of a term, natural logarithm, above 0."""
        count = min(self.frequencies.get(term, 0), self.documents)
        return idf(count, self.documents)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for another host."""
        rows = [[name, term, count] for (name, term), count in self.frequencies.items()]
        return {"documents": self.documents, "tokens": dict(self.tokens), "frequencies": rows, "version": self.version}

    @classmethod
    def from_json(cls, value: Any) -> Statistics:
        """Read the result of `to_json`; raises `RequestError` for anything else."""
        try:
            frequencies = {(str(name), str(term)): int(count) for name, term, count in value["frequencies"]}
            tokens = {str(name): int(count) for name, count in value["tokens"].items()}
            made = cls(int(value["documents"]), tokens, frequencies, str(value["version"]))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise RequestError("statistics must have documents, tokens, frequencies and version") from error
        if min([made.documents, *tokens.values(), *frequencies.values()]) < 0:
            raise RequestError("statistics must not be negative")
        return made


def idf(count: int, documents: int) -> float:
    """Compute ln(1 + (N - n + 0.5) / (n + 0.5)), as Lucene and tantivy do."""
    return math.log1p((documents - count + 0.5) / (count + 0.5))


def total(parts: Iterable[Statistics]) -> Statistics:
    """Return the statistics of the union of disjoint parts; versions are joined in order."""
    documents = 0
    tokens: dict[str, int] = {}
    frequencies: dict[Term, int] = {}
    versions = []
    for part in parts:
        documents += part.documents
        versions.append(part.version)
        for name, count in part.tokens.items():
            tokens[name] = tokens.get(name, 0) + count
        for term, count in part.frequencies.items():
            frequencies[term] = frequencies.get(term, 0) + count
    return Statistics(documents, tokens, frequencies, "+".join(versions))
