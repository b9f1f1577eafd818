"""Form of a table file: its encoding, its delimiter and its columns, found out from its beginning.

Owns the choice of the delimiter (comma, semicolon, tab or pipe). Knows nothing of documents. Invariant: line breaks,
delimiters and doubled quotes within quotation marks never count; the choice depends on the beginning alone
(`SAMPLE_BYTES`), so a table of any size is read as a stream.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

DELIMITERS = (",", ";", "\t", "|")
_NAMED = re.compile(r"\ufeff?\"?sep=(?P<sign>[,;\t|])\"?[\r\n]*")  # a first line by which Excel names the delimiter
_SAMPLE_ROWS = 200
_SAMPLE_CHARS = 131_072


@dataclass(frozen=True)
class TableForm:
    """Form of one table. ``columns`` are the names in its heading line."""

    name: str
    delimiter: str
    encoding: str
    columns: tuple[str, ...]


def delimiter_of(sample: str, default: str = ",") -> str:
    """Return the delimiter of the table that begins with ``sample``; ``default`` if it has one column only.

    The delimiter that cuts most rows into as many columns as the heading line wins; among equals the one with more
    columns, then ``default``.
    """
    named = _NAMED.match(sample)
    if named is not None:
        return named["sign"]
    best, chosen = (0.0, 0, False), default
    for sign in DELIMITERS:
        worth = (*_agreement(sample[:_SAMPLE_CHARS], sign), sign == default)
        if worth > best:
            best, chosen = worth, sign
    return chosen


def names_delimiter(line: str) -> bool:
    """Return whether this first line only names the delimiter (``sep=;``)."""
    return _NAMED.fullmatch(line) is not None


def rows_of(lines: Iterable[str], delimiter: str) -> Iterator[dict[str | None, str | list[str] | None]]:
    """Return the rows of a table as mappings from the names in its heading line; a ``sep=`` line is passed over.

    Values beyond the heading line's columns are under None. Raises `csv.Error` for a value that is too long.
    """
    yield from csv.DictReader(_without_named(lines), delimiter=delimiter)


def columns_of(sample: str, delimiter: str) -> tuple[str, ...]:
    """Return the names in the heading line of the table that begins with ``sample``."""
    for row in _first_rows(sample, delimiter):
        return tuple(name.strip() for name in row)
    return ()


def _without_named(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        if number or not names_delimiter(line):
            yield line.lstrip("\ufeff") if number == 0 else line


def _agreement(sample: str, delimiter: str) -> tuple[float, int]:
    """Return (share of rows that have the heading line's columns, columns); (0, 0) for fewer than two columns."""
    counts = [len(row) for row in _first_rows(sample, delimiter)]
    if not counts or counts[0] < 2:
        return 0.0, 0
    return Counter(counts)[counts[0]] / len(counts), counts[0]


def _first_rows(sample: str, delimiter: str) -> list[list[str]]:
    """Return the first rows of the sample that are not empty; none where the library cannot read them.

    The last line may be torn, so it is left out unless it is the only one.
    """
    lines = _without_named(re.findall(r"[^\n]*\n|[^\n]+", sample[:_SAMPLE_CHARS].replace("\0", "")))
    whole = list(lines)
    if len(sample) >= _SAMPLE_CHARS and len(whole) > 1:
        whole.pop()
    try:
        rows = list(islice(csv.reader(whole, delimiter=delimiter), _SAMPLE_ROWS))
    except csv.Error:
        return []
    return [row for row in rows if any(map(str.strip, row))]
