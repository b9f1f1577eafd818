"""Splitting documents into passages at their structure.

Owns the places where a text may be cut: before headings, between paragraphs, after sentences, and only then between
words. Knows nothing of markup; `headings` says which lines are headings. Invariant: the passages, in order, hold every
word of the body; no passage is longer than asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from miaotui.retrieval.document import Document
from miaotui.retrieval.index.settings import IndexSettings
from miaotui.retrieval.ingest.headings import lines_of

_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE = re.compile(r"(?<=[.!?。！？；;])[\"'”’）)]*\s+|(?<=[。！？；])")
_LONGEST_TITLE = 300


def split(document: Document, plan: IndexSettings) -> list[Document]:
    """Return the document's passages; the document itself when it is short enough."""
    limit = plan.passage_chars
    if not limit or (len(document.body) <= limit and "#" not in document.body):
        return [document]
    passages = [
        (title, text)
        for headings, section in _sections(document.body)
        for title in (_joined(document.title, headings),)
        for text in _packed(section, limit)
    ]
    if len(passages) <= 1 and len(document.body) <= limit:
        return [document]
    return [document.passage(number, title, text) for number, (title, text) in enumerate(passages, 1)]


def _joined(title: str, headings: list[str]) -> str:
    parts = [title, *(heading for heading in headings if heading != title)]
    return " › ".join(filter(None, parts))[:_LONGEST_TITLE]


def _sections(body: str) -> Iterator[tuple[list[str], str]]:
    """Return (headings above, text) of each stretch between headings."""
    above: list[tuple[int, str]] = []
    lines: list[str] = []
    for line in lines_of(body):
        if not line.level:
            lines.append(line.text)
            continue
        if any(map(str.strip, lines)):
            yield [text for _, text in above], "\n".join(lines)
        lines = []
        above = [(level, text) for level, text in above if level < line.level]
        above.append((line.level, line.heading))
    if any(map(str.strip, lines)):
        yield [text for _, text in above], "\n".join(lines)
    elif above:  # a heading with nothing below it is text too
        yield [text for _, text in above[:-1]], above[-1][1]


def _packed(text: str, limit: int) -> Iterator[str]:
    """Return neighbouring paragraphs together, as long as they fit."""
    held = ""
    for paragraph in _PARAGRAPH.split(text.strip()):
        for piece in _pieces(paragraph, limit):
            if held and len(held) + 2 + len(piece) > limit:
                yield held
                held = ""
            held = f"{held}\n\n{piece}" if held else piece
    if held.strip():
        yield held


def _pieces(paragraph: str, limit: int) -> Iterator[str]:
    """Return a paragraph, or when it is too long its sentences, filled up to ``limit``."""
    if len(paragraph) <= limit:
        yield paragraph
        return
    held = ""
    for sentence in _sentences(paragraph):
        for start in range(0, len(sentence), limit):
            piece = sentence[start : start + limit]
            if held and len(held) + len(piece) > limit:
                yield held.strip()
                held = ""
            held += piece
    if held.strip():
        yield held.strip()


def _sentences(paragraph: str) -> Iterator[str]:
    start = 0
    for match in _SENTENCE.finditer(paragraph):
        if match.end() > start:
            yield paragraph[start : match.end()]
            start = match.end()
    yield paragraph[start:]
