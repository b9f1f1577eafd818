"""Units that a summary is chosen from: the sentences of a text, or its clauses, with their places and words.

Owns where a clause ends and what of its beginning says only that something is said. Knows no scores. Invariant: a
unit is ``text[start:end]``, and units do not overlap.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from miaotui.retrieval.query.analysis import Analyzer, has_chinese
from miaotui.retrieval.sentences import sentences

UnitKind = Literal["sentence", "clause"]
MAX_UNITS = 500  # of one text: centrality takes the square of it
WRAPPED = 50  # characters of a line that may be wrapped, not ended
_ENDED = re.compile(r"[.!?:;。！？：；][\"”’')）]*$")
_BREAK = re.compile(r"[,，;；:：。！？!?\n]+|[.](?=\s|$|[^\W\d_a-z])|\s+-+\s+|[—]+")
_ENDING = re.compile(r"[\s。．.!！?？;；,，:：、]+$")
_ZH_OPENING = re.compile(
    r"^(?:(?:目的|方法|结果|结论|背景|目标)[\s：:]+)?"
    r"(?:(?:本文|文章|文中|该文|本研究|本课题|作者|笔者|我们|论文)?(?:主要|首先|重点|通过|分别|还|对此)?"
    r"(?:提出|介绍|探讨|研究|分析|观察|讨论|阐述|论述|评价|了解|考察|探索|比较|总结|综述|设计|给出|建立|报道|针对|为了?|旨在)"
    r"(?:并|和|与|及|了|出)?)*(?:一种|一个|的)?"
)
_EN_OPENING = re.compile(
    r"^(?:in this (?:paper|work|article|study|report)|to this end|here|specifically|in particular|however|moreover|"
    r"furthermore|additionally|therefore|thus|finally|in addition)[,\s]+",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class TextUnit:
    """Sentence or clause ``text[start:end]`` with the terms that it is about; ``sentence`` is its sentence's number."""

    text: str
    start: int
    end: int
    terms: tuple[str, ...]
    sentence: int


@lru_cache(maxsize=1)
def _analyzer() -> Analyzer:
    return Analyzer()


def units_of(text: str, kind: UnitKind = "sentence") -> list[TextUnit]:
    """Return the first units of a text, at most `MAX_UNITS`, in order."""
    found = []
    for number, (start, end) in enumerate(_unwrapped(text)):
        places = [(start, end)] if kind == "sentence" else _clauses(text, start, end)
        for first, last in places:
            part = text[first:last]
            found.append(TextUnit(part, first, last, tuple(_analyzer().terms(part)), number))
        if len(found) >= MAX_UNITS:
            break
    return found[:MAX_UNITS]


def _unwrapped(text: str) -> Iterator[tuple[int, int]]:
    """Yield the places of sentences; a sentence goes over the end of a line that was only wrapped."""
    open_start: int | None = None
    places = sentences(text)
    for place, (start, end) in enumerate(places):
        begun = start if open_start is None else open_start
        line = text[text.rfind("\n", 0, end) + 1 : end]
        between = text[end : places[place + 1][0]] if place + 1 < len(places) else "\n\n"
        is_wrapped = between.count("\n") == 1 and len(line) >= WRAPPED and not _ENDED.search(line)
        open_start = begun if is_wrapped else None
        if not is_wrapped:
            yield begun, end


def _clauses(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the places of a sentence's clauses, without openings that only announce them."""
    place = start
    for match in [*_BREAK.finditer(text, start, end), None]:
        last = end if match is None else match.start()
        part = text[place:last]
        opening = _ZH_OPENING if has_chinese(part) else _EN_OPENING
        first = place + len(part) - len(part.lstrip())
        found = opening.match(text[first:last])
        first += 0 if found is None else found.end()
        last = first + len(_ENDING.sub("", text[first:last]))
        if text[first:last].strip():
            yield first, last
        place = last if match is None else match.end()
        place = max(place, last)
