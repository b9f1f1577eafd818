"""Exact scores: the library's explanation of a score, computed again with the statistics of the whole collection.

tantivy takes mean lengths and frequencies from the one index it searches, and does not accept others. It explains
each score leaf by leaf, with term frequency and length, and BM25 needs nothing else besides. Owns the reading of that
explanation. Knows nothing of queries. Invariant: a passage gets equal scores, to the last bit, in every partition.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from miaotui.retrieval.index.statistics import Statistics

_TERM = re.compile(r'field=(\d+), type=Str, "(.*)"\)')
_ESCAPE = re.compile(r"\\u\{([0-9a-f]{1,6})\}")
_BOOST = re.compile(r"Boost x(\S+) of")
_LEAF = "TermQuery"


class ScoreExplanation:
    """Reader of explanations for one collection. ``fields`` names the schema's fields in order, ``means`` are the
    library's own mean lengths.
    """

    def __init__(self, whole: Statistics, fields: tuple[str, ...], means: Mapping[str, float]) -> None:
        self._whole, self._fields, self._means = whole, fields, means

    def score(self, explanation: str) -> float:
        """Return the score of an explanation (JSON) of a query that was compiled for it."""
        return self._value(json.loads(explanation))

    def _value(self, node: dict[str, Any]) -> float:
        about, details = node["description"], node.get("details", ())
        if about.startswith(_LEAF):
            return self._leaf(node)
        boost = _BOOST.match(about)
        if boost and details:
            return float(boost[1]) * self._value(details[0])
        if "sum of" in about:
            return sum(map(self._value, details))
        if about.startswith("Phrase") and details:
            return self._value(details[0])
        return float(node["value"])  # constants: filters, near words

    def _leaf(self, leaf: dict[str, Any]) -> float:
        """Return BM25 of a term, or of a phrase without its idf, which is in its boost.

        A phrase is the only leaf that names no term.
        """
        numbers = _numbers(leaf)
        count, k1, b, length = (numbers[name] for name in ("freq", "k1", "b", "dl"))
        match = _TERM.search(" ".join(leaf.get("context", ())))
        name = self._fields[int(match[1])] if match else self._field_with(numbers["avgdl"])
        mean = self._whole.mean_length(name) or numbers["avgdl"]
        share = count / (count + k1 * (1 - b + b * length / mean))
        if match is None:
            return (k1 + 1) * share
        term = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), match[2])
        return self._whole.idf((name, term)) * (k1 + 1) * share

    def _field_with(self, mean: float) -> str:
        """Return the field of phrases that has this mean length, because an explanation of a phrase names no field."""
        return min(("body", "phrase"), key=lambda name: abs(self._means.get(name, 0.0) - mean))


def mean_length(explanation: str) -> float:
    """Return the mean length that the first leaf of an explanation used; 0 without a leaf."""
    nodes = [json.loads(explanation)]
    while nodes:
        node = nodes.pop()
        if node["description"].startswith(_LEAF):
            return float(_numbers(node)["avgdl"])
        nodes += node.get("details", ())
    return 0.0


def _numbers(leaf: dict[str, Any]) -> dict[str, float]:
    """Return frequency, length and parameters, with decimals as they were before single precision."""
    share = next(part for part in leaf["details"] if part["description"].startswith("freq /"))
    return {part["description"].split(",")[0]: round(float(part["value"]), 6) for part in share["details"]}
