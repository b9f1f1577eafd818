"""The query language: text to a tree of clauses.

    cats dogs            ranked by either word         +cats -dogs      must, must not
    cats AND (dogs OR mice) NOT birds                  "black cat"      the words in this order
    "black cat"~2        up to two words between       cat*             words that begin so
    kitten~1  kitten~    within 1 (2) letters          title:cat        in the title only, body: text and title
    cats^2               counts twice                  tag:pets  source:docs/*  lang:zh  id:7
    time:[2024-01-01 TO 2024-12-31]                    {a TO b} leaves the ends out; * is open

Owns the grammar and its bounds. Knows nothing of analysis, fields' storage or scores. Invariant:
every string gives a tree or one `RequestError` that says where it went wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from miaotui.errors import RequestError

MAX_QUERY_CHARS = 8_192
MAX_CLAUSES = 512
MAX_DEPTH = 16
MAX_BOOST = 1_000.0
MAX_SLOP = 50

FILTERS = {
    "lang": "language",
    "language": "language",
    "tag": "tags",
    "tags": "tags",
    "source": "source",
    "id": "key",
    "time": "time",
}


@dataclass(frozen=True)
class Words:
    """Words that are analysed; ``field`` is a text field, or empty for all of them."""

    text: str
    field: str = ""
    boost: float = 1.0


@dataclass(frozen=True)
class Phrase:
    """Words in order, with up to ``slop`` moves between them."""

    text: str
    slop: int = 0
    boost: float = 1.0


@dataclass(frozen=True)
class Near:
    """Words within ``distance`` letters of ``text`` (0 with ``prefix``: that begin with it)."""

    text: str
    distance: int
    prefix: bool = False
    boost: float = 1.0


@dataclass(frozen=True)
class Equal:
    """A filter: ``field`` holds exactly ``value``, or with ``prefix`` something beginning so."""

    field: str
    value: str
    prefix: bool = False


@dataclass(frozen=True)
class Range:
    """A filter on time: between ``low`` and ``high`` as they were written; empty is open."""

    low: str
    high: str
    with_low: bool = True
    with_high: bool = True


@dataclass(frozen=True)
class ClauseGroup:
    """Clauses that must, should and must not hold; filters belong to ``must``."""

    must: tuple[Clause, ...] = ()
    should: tuple[Clause, ...] = ()
    must_not: tuple[Clause, ...] = ()
    boost: float = 1.0


Clause: TypeAlias = Words | Phrase | Near | Equal | Range | ClauseGroup

_NO_SYNTAX = re.compile(r"(?!\s)(?:(?!\b(?:AND|OR|NOT)\b)[\w\s,.?!;%&/，。？！])+")
_TOKEN = re.compile(
    r"""\s*(?:(?P<mark>[()+\-])
    |(?P<filter>(?i:lang|language|tags?|source|id|time):(?:"[^"]*"|[\[{][^\[\]{}]*[\]}]|[^\s()"]+))
    |(?P<field>(?i:title|body)):(?=\S)
    |"(?P<phrase>[^"]*)"
    |(?P<range>[\[{][^\[\]{}]*[\]}])
    |(?P<word>[^\s()"\[\]{}^~]+)
    |(?P<suffix>~\d*|\^[\d.]+)
    |(?P<other>\S))""",
    re.VERBOSE,
)
_SUFFIX = re.compile(r"~(\d*)|\^(\d+(?:\.\d*)?|\.\d+)(?![\d.])")
_RANGE = re.compile(r"([\[{])\s*(\S+)\s+TO\s+(\S+)\s*([\]}])")


def parse(text: str, plain: bool = False) -> Clause:
    """Return the tree of a query; with ``plain`` every character is text and none is syntax.

    Raises `RequestError`.
    """
    if len(text) > MAX_QUERY_CHARS:
        raise RequestError(f"the query has {len(text):,} characters; at most {MAX_QUERY_CHARS:,} are read. Shorten it")
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    if "\0" in text:
        text = text.replace("\0", " ")
    if plain or _NO_SYNTAX.fullmatch(text):  # most queries; worth a tenth of a search's time
        return Words(text)
    return _Parser(text).query()


class _Parser:
    """Recursive-descent parser over the tokens. Depth and clauses are counted as they open."""

    def __init__(self, text: str) -> None:
        self._tokens = [
            (str(match.lastgroup), match[str(match.lastgroup)], match.start(str(match.lastgroup)))
            for match in _TOKEN.finditer(text)
            if match.lastgroup
        ]
        self._place = 0
        self._clauses = 0
        self._end = len(text)

    def query(self) -> Clause:
        clause = self._alternatives(0)
        if self._place < len(self._tokens):
            raise self._wrong("a closing parenthesis without an opening one")
        return clause

    def _alternatives(self, depth: int) -> Clause:
        """Parse groups joined by OR, each a list of clauses that AND may join."""
        if depth > MAX_DEPTH:
            raise self._wrong(f"parentheses deeper than {MAX_DEPTH}")
        groups = [self._list(depth)]
        while self._takes("OR"):
            groups.append(self._list(depth))
        if any(group == ClauseGroup() for group in groups) and len(groups) > 1:
            raise self._wrong("OR without a clause on both sides")
        return groups[0] if len(groups) == 1 else ClauseGroup(should=tuple(_flat(groups)))

    def _list(self, depth: int) -> Clause:
        must: list[Clause] = []
        should: list[Clause] = []
        must_not: list[Clause] = []
        while self._place < len(self._tokens) and not self._sees(")") and not self._sees("OR"):
            joined = self._takes("AND")
            if joined and not (must or should or must_not):
                raise self._wrong("AND without a clause before it")
            if joined and should:  # the clause before AND binds as tightly as the one after
                must.append(should.pop())
            no = self._takes("NOT") or self._takes("-")
            plus = not no and self._takes("+")
            clause = self._clause(depth)
            if no:
                must_not.append(clause)
            elif plus or joined or isinstance(clause, Equal | Range):
                must.append(clause)
            else:
                should.append(clause)
        if not must_not and len(must) + len(should) == 1:
            return (must or should)[0]
        return ClauseGroup(tuple(must), tuple(_words_joined(should)), tuple(must_not))

    def _clause(self, depth: int) -> Clause:
        if self._place >= len(self._tokens):
            raise self._wrong("an operator without a clause after it")
        self._clauses += 1
        if self._clauses > MAX_CLAUSES:
            raise self._wrong(f"more than {MAX_CLAUSES} clauses")
        kind, value, _ = self._tokens[self._place]
        self._place += 1
        readers: dict[str, Callable[[str], Clause]] = {
            "field": self._fielded,
            "filter": self._filter,
            "phrase": self._phrase,
            "word": self._word,
            "range": lambda text: self._boosted(Words(text)),  # brackets alone are text
            "mark": lambda text: self._nested(text, depth),
        }
        reader = readers.get(kind)
        return reader(value) if reader else Words("")  # stray signs find nothing

    def _nested(self, mark: str, depth: int) -> Clause:
        if mark != "(":
            raise self._wrong(f"{mark!r} without a clause after it", back=1)
        inner = self._alternatives(depth + 1)
        if not self._takes(")"):
            raise self._wrong("a parenthesis that is never closed")
        return self._boosted(inner)

    def _fielded(self, name: str) -> Clause:
        kind, value, _ = self._tokens[self._place]
        if kind not in {"word", "phrase"}:
            raise self._wrong(f"{name}: takes a word or quoted words")
        self._place += 1
        return self._boosted(Words(value, field=name.lower()))

    def _filter(self, text: str) -> Clause:
        name, _, value = text.partition(":")
        field = FILTERS[name.lower()]
        quoted = value.startswith('"') and value.endswith('"') and len(value) > 1
        value = value[1:-1] if quoted else value
        if field == "time":
            match = _RANGE.fullmatch(value)
            if match is None:
                return Range(value, value)
            low, high = (end if end != "*" else "" for end in match.group(2, 3))
            return Range(low, high, match[1] == "[", match[4] == "]")
        if field == "source" and value.endswith("*") and not quoted:
            return Equal(field, value[:-1], prefix=True)
        return Equal(field, value)

    def _phrase(self, text: str) -> Clause:
        slop, boost = self._suffixes()
        return Phrase(text, min(MAX_SLOP, int(slop or 0)), boost)

    def _word(self, text: str) -> Clause:
        distance, boost = self._suffixes()
        if distance is not None:
            return Near(text, min(2, int(distance or 2)), boost=boost)
        if text.endswith("*") and len(text) > 1:
            return Near(text[:-1], 0, prefix=True, boost=boost)
        return Words(text, boost=boost)

    def _boosted(self, clause: Clause) -> Clause:
        _, boost = self._suffixes()
        if boost == 1.0:
            return clause
        if isinstance(clause, Words | Phrase | Near | ClauseGroup):
            return replace(clause, boost=min(MAX_BOOST, clause.boost * boost))
        return clause

    def _suffixes(self) -> tuple[str | None, float]:
        """Return (what follows ``~``, the number after ``^``) directly behind a clause."""
        near: str | None = None
        boost = 1.0
        while self._place < len(self._tokens) and self._tokens[self._place][0] == "suffix":
            match = _SUFFIX.fullmatch(self._tokens[self._place][1])
            if match is None:
                raise self._wrong("^ takes a number")
            self._place += 1
            if match[2] is None:
                near = match[1][:4]
            else:
                boost = min(MAX_BOOST, float(match[2][:32]))
        return near, boost

    def _sees(self, value: str) -> bool:
        if self._place >= len(self._tokens):
            return False
        kind, text, _ = self._tokens[self._place]
        return text == value and kind in {"mark", "word"}

    def _takes(self, value: str) -> bool:
        seen = self._sees(value)
        self._place += seen
        return seen

    def _wrong(self, what: str, back: int = 0) -> RequestError:
        place = max(0, self._place - back)
        at = self._tokens[place][2] if place < len(self._tokens) else self._end
        return RequestError(
            f"the query cannot be read at character {at + 1}: {what}. Correct it, or search for it as plain text"
        )


def _flat(groups: list[Clause]) -> list[Clause]:
    """Merge alternatives that are plain lists of should-clauses into one list."""
    flat: list[Clause] = []
    for group in groups:
        plain = isinstance(group, ClauseGroup) and not group.must and not group.must_not
        flat += group.should if plain and isinstance(group, ClauseGroup) else [group]
    return _words_joined(flat)


def _words_joined(clauses: list[Clause]) -> list[Clause]:
    """Return neighbouring plain words as one clause, so that they are analysed as one text."""
    joined: list[Clause] = []
    for clause in clauses:
        last = joined[-1] if joined else None
        if (
            isinstance(clause, Words)
            and isinstance(last, Words)
            and (clause.field, clause.boost) == (last.field, last.boost)
        ):
            joined[-1] = replace(last, text=f"{last.text} {clause.text}")
        else:
            joined.append(clause)
    return joined
