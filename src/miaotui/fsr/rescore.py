"""The library's account of a score, reckoned again with the mean lengths of the whole collection.

tantivy takes a field's mean length from the one index it searches and has no way to be given
another; it does explain each score leaf by leaf, with term frequency, length and mean, which is all
that is needed to replace the mean exactly. Owns the reading of that account. Knows nothing of
queries. Invariant: with unchanged means the score comes out unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_FIELD = re.compile(r"field=(\d+)")
_LEAF = "TermQuery"


def rescored(account: str, means: Mapping[str, float], fields: tuple[str, ...]) -> float:
    """The score that ``account`` (an explanation as JSON) explains, had the mean lengths been
    ``means``; ``fields`` names the schema's fields in order.
    """
    return _value(json.loads(account), means, fields)


def mean_length(account: str) -> float:
    """The mean length that the first leaf of an explanation was reckoned with; 0: no leaf."""
    nodes = [json.loads(account)]
    while nodes:
        node = nodes.pop()
        if node["description"].startswith(_LEAF):
            return float(_numbers(node)["avgdl"])
        nodes += node.get("details", ())
    return 0.0


def _value(node: dict[str, Any], means: Mapping[str, float], fields: tuple[str, ...]) -> float:
    about, score = node["description"], float(node["value"])
    details = node.get("details", ())
    if about.startswith(_LEAF):
        return score * _ratio(node, means, fields)
    if about.startswith("Boost") and details:
        inner = float(details[0]["value"])
        return score * _value(details[0], means, fields) / inner if inner else 0.0
    if "sum of" in about:
        return sum(_value(detail, means, fields) for detail in details)
    if about.startswith("Phrase") and details:
        return _value(details[0], means, fields)
    return score  # constants: filters, near words


def _ratio(leaf: dict[str, Any], means: Mapping[str, float], fields: tuple[str, ...]) -> float:
    """How much larger the leaf is with the new mean; phrases are the only leaves without a term."""
    match = _FIELD.search(" ".join(leaf.get("context", ())))
    mean = means.get(fields[int(match[1])] if match else "phrase", 0.0)
    numbers = _numbers(leaf)
    frequency, k1, b, length = (numbers[name] for name in ("freq", "k1", "b", "dl"))
    if not mean or not numbers["avgdl"]:
        return 1.0
    here = frequency + k1 * (1 - b + b * length / numbers["avgdl"])
    there = frequency + k1 * (1 - b + b * length / mean)
    return float(here / there)


def _numbers(leaf: dict[str, Any]) -> dict[str, float]:
    share = next(part for part in leaf["details"] if part["description"].startswith("freq /"))
    return {part["description"].split(",")[0]: float(part["value"]) for part in share["details"]}
