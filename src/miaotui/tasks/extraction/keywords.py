"""Keywords of a text: words and short phrases that it is about, with their places; no model is needed.

Owns the candidates and their scores. Knows nothing of fields. Invariant: a keyword is ``text[start:end]``. Source:
Campos et al. 2020 (YAKE): frequency, place of the first occurrence, and how many sentences have it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from miaotui.libraries import need
from miaotui.retrieval.query.analysis import Analyzer
from miaotui.retrieval.sentences import sentences

MAX_WORDS = 3  # of a phrase
_RUN = re.compile("[\u3400-\u9fff]+|[^\\W\u3400-\u9fff][^\\W\u3400-\u9fff'’-]*(?:['’-][^\\W\u3400-\u9fff]+)*")
_NOUNS = ("n", "nr", "ns", "nt", "nz", "vn", "eng", "j", "l", "an")
_ANALYZER = Analyzer()


class Keyword(NamedTuple):
    """Word or phrase ``text[start:end]``, its first occurrence; the best one's score is 1."""

    text: str
    start: int
    end: int
    score: float


def keywords_of(text: str, count: int = 10) -> list[Keyword]:
    """Return the keywords of a text, the best first; a phrase stands for the words in it."""
    seen: dict[str, list[tuple[int, int, int]]] = {}
    for number, (start, end) in enumerate(sentences(text)):
        for first, last in _phrases(text, start, end):
            seen.setdefault(_key(text[first:last]), []).append((first, last, number))
    scored = []
    for key, places in seen.items():
        words = key.count(" ") + 1
        spread = len({number for *_, number in places})
        score = len(places) * math.sqrt(words) * (1 + math.log(spread)) / math.log(math.e + places[0][2])
        scored.append((score, -places[0][0], key, places[0]))
    found: list[Keyword] = []
    taken: set[str] = set()
    for score, _, key, (first, last, _) in sorted(scored, reverse=True):
        parts = set(key.split(" "))
        if parts <= taken:
            continue
        taken |= parts
        found.append(Keyword(text[first:last], first, last, score))
        if len(found) == count:
            break
    best = max((each.score for each in found), default=1.0)
    return [each._replace(score=round(each.score / best, 4)) for each in found]


def _phrases(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the places of words that mean something, and of up to three in a row that begin with one."""
    row: list[tuple[int, int]] = []
    for first, last in _words(text, start, end):
        if row and text[row[-1][1] : first].strip(" "):
            row = []
        if not row or first >= row[-1][1]:
            row = [*row[1 - MAX_WORDS :], (first, last)] if _is_joined(text, row, first) else [(first, last)]
        for begin, end_of_first in row:
            if text[begin:end_of_first].casefold() not in _stop_words():
                yield begin, last


def _is_joined(text: str, row: list[tuple[int, int]], first: int) -> bool:
    return bool(row) and text[row[-1][1] : first] in ("", " ")


def _words(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for run in _RUN.finditer(text, start, end):
        if "\u3400" <= run[0][0] <= "\u9fff":
            place = run.start()
            for word, tag in need("rjieba").tag(run[0]):
                if tag in _NOUNS and len(word) > 1:
                    yield place, place + len(word)
                place += len(word)
        elif len(run[0]) > 2 and not run[0].isdigit() and _ANALYZER.terms(run[0]):
            yield run.span()


@lru_cache(maxsize=1)
def _stop_words() -> frozenset[str]:
    return frozenset(need("stopwordsiso").stopwords("en"))


def _key(phrase: str) -> str:
    return " ".join(_ANALYZER.terms(phrase)) or phrase
