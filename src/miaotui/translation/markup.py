"""Markup of texts: which pieces are translated, and which stay as they are.

Owns the cut of plain text, HTML and Markdown into pieces. Knows no models. Invariants: the pieces joined are the
text; tags, code, addresses, white space and what has no letters are kept to the character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from itertools import pairwise
from typing import Literal, NamedTuple

from miaotui.retrieval.sentences import sentences

TextFormat = Literal["text", "html", "markdown"]
PIECE_CHARACTERS = 400  # of sentences that are translated together
_LETTERS = re.compile(r"[^\W\d_]")
_KEPT = ("script", "style", "code", "pre", "kbd", "samp", "var", "textarea")
_ADDRESS = re.compile(r"(?:https?://|www\.)[^\s<>\"'）)]+|[\w.+-]+@[\w-]+\.[\w.]+")
_INLINE = re.compile(
    r"(`+)(?:(?!\1).)+?\1|!\[[^\]]*\]\([^)]*\)|\]\([^)]*\)|\]\[[^\]]*\]|\[|\]|<[^>\s][^>]*>|\*{1,3}|_{2,3}|~~|\|"
    r"|\$[^$\n]+\$|" + _ADDRESS.pattern
)
_BLOCK = re.compile(r"^(?:[ \t]*(?:>|[-*+]|\d+[.)]|#{1,6})(?=\s))*[ \t]*(?:\[[ xX]\] )?")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_RULE = re.compile(r"^[\s|:=*_-]*$")


class MarkupPiece(NamedTuple):
    """Part of a text; ``translated`` says whether a translation takes its place."""

    text: str
    translated: bool


def pieces_of(text: str, form: TextFormat, most: int = PIECE_CHARACTERS) -> list[MarkupPiece]:
    """Return the pieces of a text, which joined are the text.

    Sentences are together in pieces of up to ``most`` characters; a longer one is a piece of its own.
    """
    raw = {"text": _plain, "html": _html, "markdown": _markdown}[form](text)
    found: list[MarkupPiece] = []
    for piece in raw:
        found += _cut(piece.text, most) if piece.translated else [piece]
    return [piece for piece in found if piece.text]


def joined_pieces(pieces: Sequence[MarkupPiece]) -> str:
    """Return the text that pieces make."""
    return "".join(piece.text for piece in pieces)


def _plain(text: str) -> Iterator[MarkupPiece]:
    place = 0
    for match in _ADDRESS.finditer(text):
        yield MarkupPiece(text[place : match.start()], True)
        yield MarkupPiece(match[0], False)
        place = match.end()
    yield MarkupPiece(text[place:], True)


def _cut(text: str, most: int) -> Iterator[MarkupPiece]:
    """Cut at line ends and, where it is long, between sentences; white space at the ends is kept."""
    for line in re.split(r"(\n+)", text):
        if not _LETTERS.search(line):
            yield MarkupPiece(line, False)
            continue
        start = place = 0
        for first, end in [*sentences(line), (len(line), len(line))]:
            if place > start and (end - start > most or first == len(line)):
                yield from _trimmed(line[start:first])
                start = first
            place = end
        yield from _trimmed(line[start:])


def _trimmed(part: str) -> Iterator[MarkupPiece]:
    core = part.strip()
    if not _LETTERS.search(core):
        yield MarkupPiece(part, False)
        return
    begin = part.index(core)
    yield from (
        MarkupPiece(part[:begin], False),
        MarkupPiece(core, True),
        MarkupPiece(part[begin + len(core) :], False),
    )


class _Places(HTMLParser):
    """Collects where runs of text begin and end; all else of an HTML text is markup."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=False)
        self._starts = [0]
        for match in re.finditer("\n", text):
            self._starts.append(match.end())
        self.events: list[tuple[int, bool]] = []  # place, whether text begins there
        self._kept = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._mark(False)
        self._kept += tag in _KEPT

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._mark(False)

    def handle_endtag(self, tag: str) -> None:
        self._mark(False)
        self._kept -= tag in _KEPT and self._kept > 0

    def handle_data(self, data: str) -> None:
        self._mark(not self._kept)

    def handle_entityref(self, name: str) -> None:
        self._mark(False)

    def handle_charref(self, name: str) -> None:
        self._mark(False)

    def handle_comment(self, data: str) -> None:
        self._mark(False)

    def handle_decl(self, decl: str) -> None:
        self._mark(False)

    def handle_pi(self, data: str) -> None:
        self._mark(False)

    def unknown_decl(self, data: str) -> None:
        self._mark(False)

    def _mark(self, is_text: bool) -> None:
        line, column = self.getpos()
        self.events.append((self._starts[line - 1] + column, is_text))


def _html(text: str) -> Iterator[MarkupPiece]:
    events = [(0, False), *_Places(text).events, (len(text), False)]
    for (start, is_text), (end, _) in pairwise(events):
        yield MarkupPiece(text[start:end], is_text)


def _markdown(text: str) -> Iterator[MarkupPiece]:
    fence = ""
    for line in re.split(r"(?<=\n)", text):
        match = _FENCE.match(line)
        if fence or match:
            yield MarkupPiece(line, False)
            if match and fence and match[1][0] == fence[0] and len(match[1]) >= len(fence):
                fence = ""
            elif match and not fence:
                fence = match[1]
            continue
        if line.startswith("    ") or _RULE.match(line):
            yield MarkupPiece(line, False)
            continue
        block = _BLOCK.match(line)
        begin = 0 if block is None else block.end()
        yield MarkupPiece(line[:begin], False)
        place = begin
        for inline in _INLINE.finditer(line, begin):
            yield MarkupPiece(line[place : inline.start()], True)
            yield MarkupPiece(inline[0], False)
            place = inline.end()
        yield MarkupPiece(line[place:], True)
