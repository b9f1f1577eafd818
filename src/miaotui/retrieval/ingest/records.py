"""Records of a table that people wrote: encoding and delimiter found out, quotes that are never closed bounded.

Owns how bytes become records, each with the line it begins in. Knows no columns by meaning. Invariants: every line
belongs to one record; a quote that is opened and not closed costs its own line and no other, and a record that cannot
be read has an error in its place. A file that is no text is refused before anything of it is used.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from miaotui.errors import RequestError
from miaotui.retrieval.ingest.repair import SAMPLE_BYTES, encoding_of
from miaotui.retrieval.ingest.tables import delimiter_of, names_delimiter

MAX_FIELD_CHARACTERS = 1 << 20
_NO_TEXTS = {  # by what such files begin with
    b"PK\x03\x04": "an Excel workbook or another archive: save it as CSV (UTF-8) and give that",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file: save it as CSV (UTF-8) and give that",
    b"%PDF": "a PDF: give a table (.csv, .tsv, .jsonl) or lines of text",
}
_CONTROLS = frozenset(range(32)) - frozenset(b"\t\n\f\r\x1b")
_MOST_CONTROLS = 0.05  # of a text's bytes; a compressed file has twice as many
_FEW_CONTROLS = 8


@dataclass(frozen=True)
class Record:
    """Fields of one record, the number of the line it begins in, from 1, and perhaps why it cannot be read."""

    line: int
    fields: list[str]
    error: str | None = None


class TextFile:
    """Stream of a file's text. ``encoding`` is found out from its beginning, line ends are as they stand.

    Bytes that are no text in that encoding become lone surrogates. ``marked``: a program such as Excel wrote it, by the
    mark at its beginning or by an encoding that is not UTF-8. Raises `RequestError` for a file that is no text.
    """

    def __init__(self, file: IO[bytes], name: str = "input") -> None:
        self.sample = file.peek(SAMPLE_BYTES)[:SAMPLE_BYTES] if isinstance(file, io.BufferedReader) else b""
        _check_is_text(self.sample, name)
        self.encoding = "utf-8-sig" if _is_mostly_utf8(self.sample) else encoding_of(self.sample)
        self.marked = self.sample.startswith(b"\xef\xbb\xbf") or not self.encoding.startswith("utf-8")
        self.stream = io.TextIOWrapper(file, self.encoding, "surrogateescape", newline="")

    @property
    def encoding_name(self) -> str:
        """Return the name of the encoding, without its mark."""
        return self.encoding.removesuffix("-sig")


class RecordReader:
    """Records of a table. ``delimiter`` holds where the file does not show another one.

    ``width`` is the number of fields that a record has to have; empty fields beyond it, which spreadsheets write, are
    left out. It is None until it is set.
    """

    def __init__(self, text: TextFile, delimiter: str = ",") -> None:
        self.delimiter = delimiter_of(text.sample.decode(text.encoding, "replace"), delimiter)
        self.width: int | None = None
        self._lines = _Lines(text.stream)
        csv.field_size_limit(MAX_FIELD_CHARACTERS)

    def __iter__(self) -> Iterator[Record]:
        while (record := self._next()) is not None:
            if record.fields or record.error:
                yield record

    def _next(self) -> Record | None:
        lines = self._lines
        lines.begin()
        line, error = lines.number + 1, None
        try:
            fields = next(csv.reader(lines, delimiter=self.delimiter, strict=False), None)
        except csv.Error as found:
            fields, error = [], f"line {line}: {found}"
        if fields is None:
            return None
        if line == 1 and names_delimiter("".join(lines.taken)):
            return Record(line, [])
        if self.width is not None and not any(field.strip() for field in fields[self.width :]):
            fields = fields[: self.width]
        if len(lines.taken) > 1 and (error or sum(each.count('"') for each in lines.taken) % 2):
            lines.give_back()
            return Record(line, [], f"line {line}: a quote is opened here and not closed")
        return Record(line, fields, error)


class _Lines:
    """Lines of a stream. ``taken`` are those since `begin`; all but the first can be given back, to be read again."""

    def __init__(self, stream: Iterator[str]) -> None:
        self._stream = stream
        self._back: deque[str] = deque()
        self.number = 0
        self.taken: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._stream)
        self.number += 1
        self.taken.append(line)
        return line

    def begin(self) -> None:
        """Forget which lines were taken."""
        self.taken = []

    def give_back(self) -> None:
        """Give back all lines but the first one."""
        self._back.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1
        self.taken = self.taken[:1]


def _check_is_text(sample: bytes, name: str) -> None:
    for mark, what in _NO_TEXTS.items():
        if sample.startswith(mark):
            raise RequestError(f"{name} is {what}")
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        return
    controls = sum(map(sample.count, (bytes([each]) for each in _CONTROLS)))
    if controls > max(_FEW_CONTROLS, _MOST_CONTROLS * len(sample)):
        raise RequestError(f"{name} is no text: give a table (.csv, .tsv, .jsonl) or lines of text")


def _is_mostly_utf8(sample: bytes) -> bool:
    """Return whether most lines that are not plain ASCII are UTF-8; the others are wrong rows of such a file."""
    whole = sample.split(b"\n")[:-1]
    if not whole:  # one line, whose end may be cut
        return encoding_of(sample).startswith("utf-8")
    lines = [line for line in whole if not line.isascii()]
    return 2 * sum(map(_is_utf8, lines)) >= len(lines)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
