"""Rows of texts in files: lines, CSV, TSV and JSON lines in, and the rows out again with the results beside them.

Owns the formats, their encodings, and how an output that was broken off is continued. Knows no model. Invariants: a
row that cannot be read has an error in its place, so that rows out stand beside rows in; quoted fields may hold line
breaks; an output is continued after its last whole row.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from miaotui.errors import RequestError
from miaotui.retrieval.ingest.repair import SAMPLE_BYTES, encoding_of

RowFormat = Literal["csv", "tsv", "jsonl", "lines"]
FORMATS: Mapping[str, RowFormat] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
TEXT_COLUMNS = ("text", "sentence", "content", "review", "query", "question", "title")
MAX_FIELD_CHARACTERS = 1 << 20
_SURROGATES = range(0xDC80, 0xDD00)  # bytes that are no text in the file's encoding


@dataclass(frozen=True)
class InputRow:
    """One row: its fields by column, and its text or the reason why it has none."""

    fields: Mapping[str, Any]
    text: str | None
    error: str | None = None


class RowReader:
    """Rows of a file. ``columns`` are its columns; ``text_column`` is the one that holds the texts."""

    def __init__(self, file: IO[bytes], form: RowFormat, text_column: str | None = None, name: str = "input") -> None:
        sample = file.peek(SAMPLE_BYTES)[:SAMPLE_BYTES] if isinstance(file, io.BufferedReader) else b""
        encoding = "utf-8-sig" if _is_mostly_utf8(sample) else encoding_of(sample)
        self.form, self.name = form, name
        self._stream = io.TextIOWrapper(file, encoding, "surrogateescape", newline="")
        self._csv: Any = None
        self.columns: list[str] = ["text"]
        if form in ("csv", "tsv"):
            csv.field_size_limit(MAX_FIELD_CHARACTERS)
            self._csv = csv.reader(self._stream, delimiter="\t" if form == "tsv" else ",", strict=False)
            self.columns = next(self._csv, [])
            if len(set(self.columns)) < len(self.columns) or not any(self.columns):
                raise RequestError(f"{name} must begin with a row of column names, each there once")
        self.text_column = self._text_column(text_column)

    def __iter__(self) -> Iterator[InputRow]:
        if self._csv is not None:
            yield from self._csv_rows()
        else:
            for number, line in enumerate(self._stream, 1):
                stripped = line.rstrip("\r\n")
                yield self._json_row(stripped, number) if self.form == "jsonl" else self._plain_row(stripped, number)

    def _text_column(self, wanted: str | None) -> str:
        if self.form == "jsonl":
            return wanted or "text"
        if wanted is not None:
            if wanted not in self.columns:
                raise RequestError(f"{self.name} has no column {wanted!r}; it has: {', '.join(self.columns)}")
            return wanted
        known = next((name for name in TEXT_COLUMNS if name in self.columns), None)
        if known is None and len(self.columns) > 1:
            raise RequestError(f"name the column of the texts (--text-column): {', '.join(self.columns)}")
        return known or self.columns[0]

    def _csv_rows(self) -> Iterator[InputRow]:
        while True:
            try:
                row = next(self._csv, None)
            except csv.Error as error:
                raise RequestError(f"{self.name}, line {self._csv.line_num}: {error}") from error
            if row is None:
                return
            if not row:
                continue
            number = self._csv.line_num
            fields = dict(zip(self.columns, row, strict=False))
            if len(row) != len(self.columns):
                wrong = f"line {number}: has {len(row)} fields, and the first row names {len(self.columns)} columns"
                yield InputRow(fields, None, wrong)
            else:
                yield self._checked(fields, fields[self.text_column], number)

    def _plain_row(self, line: str, number: int) -> InputRow:
        return self._checked({"text": line}, line, number)

    def _json_row(self, line: str, number: int) -> InputRow:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            return InputRow({}, None, f"line {number}: is no JSON: {error}")
        if isinstance(value, str):
            value = {self.text_column: value}
        if not isinstance(value, dict) or not isinstance(value.get(self.text_column), str):
            return InputRow(
                value if isinstance(value, dict) else {},
                None,
                f"line {number}: must be an object with a text in {self.text_column!r}",
            )
        return self._checked(value, value[self.text_column], number)

    def _checked(self, fields: Mapping[str, Any], text: str, number: int) -> InputRow:
        if any(ord(character) in _SURROGATES for character in text):
            return InputRow(fields, None, f"line {number}: is not valid {self._stream.encoding}: convert it first")
        if not text.strip():
            return InputRow(fields, None, f"line {number}: the text is empty")
        return InputRow(fields, text)


class RowWriter:
    """Writes rows with added columns, as CSV, TSV or JSON lines; lines become CSV."""

    def __init__(self, file: IO[str], form: RowFormat, columns: Sequence[str], added: Sequence[str]) -> None:
        self._file, self._form = file, form
        self.names = {name: free_name(name, columns) for name in added}
        self.columns = [*columns, *self.names.values()]
        delimiter = "\t" if form == "tsv" else ","
        self._csv = csv.writer(file, delimiter=delimiter, lineterminator="\n")

    def begin(self) -> None:
        """Write the row of column names, which JSON lines do without."""
        if self._form != "jsonl":
            self._csv.writerow(self.columns)

    def write(self, fields: Mapping[str, Any], added: Mapping[str, Any]) -> None:
        """Write one row."""
        whole = {**fields, **{self.names[name]: value for name, value in added.items()}}
        if self._form == "jsonl":
            self._file.write(json.dumps(whole, ensure_ascii=False) + "\n")
        else:
            self._csv.writerow(["" if whole.get(name) is None else whole[name] for name in self.columns])


def free_name(name: str, columns: Sequence[str]) -> str:
    """Return the name of an added column that no column of the input has."""
    while name in columns:
        name = f"predicted_{name}"
    return name


def whole_rows(path: Path, form: RowFormat) -> tuple[int, int]:
    """Return how many whole rows an output has, the row of names left out, and where in bytes they end."""
    data = path.read_bytes()
    text = data.decode("utf-8", "surrogateescape")
    lines = text.split("\n")  # no other character ends a line: texts may hold them
    if form == "jsonl":
        kept = "".join(line + "\n" for line in lines[:-1])
        return len(lines) - 1, len(kept.encode("utf-8", "surrogateescape"))
    ends = [0]
    reader = csv.reader((line + "\n" for line in lines[:-1]), delimiter="\t" if form == "tsv" else ",")
    width = None
    for row in reader:
        width = len(row) if width is None else width
        if len(row) != width:
            break
        ends.append(reader.line_num)
    if len(ends) > 1 and _is_open(lines[ends[-2] : ends[-1]]):
        ends.pop()
    kept_text = "".join(line + "\n" for line in lines[: ends[-1]])
    return max(len(ends) - 2, 0), len(kept_text.encode("utf-8", "surrogateescape"))


def _is_open(lines: Sequence[str]) -> bool:
    """Return whether a quoted field goes on after these lines."""
    return sum(line.count('"') for line in lines) % 2 == 1


def _is_mostly_utf8(sample: bytes) -> bool:
    """Return whether most lines that are not plain ASCII are UTF-8; the others are wrong rows of such a file."""
    lines = [line for line in sample.split(b"\n")[:-1] or [sample] if not line.isascii()]
    return 2 * sum(map(_is_utf8, lines)) >= len(lines)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def format_of(path: Path) -> RowFormat:
    """Return the format of a file by its name."""
    return FORMATS.get(path.suffix.lower(), "lines")
