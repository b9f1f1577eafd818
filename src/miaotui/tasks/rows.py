"""Rows of texts in files: lines, CSV, TSV and JSON lines in, and the rows out again with the results beside them.

Owns the formats, their encodings, and how an output that was broken off is continued. Knows no model. Invariants: a
row that cannot be read has an error in its place, so that rows out stand beside rows in; quoted fields may hold line
breaks; an output is continued after its last whole row.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from miaotui.errors import RequestError
from miaotui.retrieval.ingest.records import Record, RecordReader, TextFile

RowFormat = Literal["csv", "tsv", "jsonl", "lines"]
FORMATS: Mapping[str, RowFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
TEXT_COLUMNS = (
    *("text", "sentence", "content", "review", "query", "question", "title"),
    *("文本", "内容", "正文", "句子", "评论", "评论内容", "评价", "评价内容", "问题", "标题"),
)
LABEL_COLUMNS = ("label", "category", "class", "intent", "sentiment", "标签", "类别", "分类", "意图", "情感")
_SURROGATES = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are no text in the file's encoding


@dataclass(frozen=True)
class InputRow:
    """One row: its fields by column, and its text or the reason why it has none."""

    fields: Mapping[str, Any]
    text: str | None
    error: str | None = None


class RowReader:
    """Rows of a file. ``columns`` are its columns; ``text_column`` is the one that holds the texts.

    ``text_column`` may name several, of which the first that is there holds. ``marked``: a program such as Excel wrote
    the file and expects a mark at the beginning of what it reads.
    """

    def __init__(
        self, file: IO[bytes], form: RowFormat, text_column: str | Sequence[str] | None = None, name: str = "input"
    ) -> None:
        text = TextFile(file, name)
        self.form, self.name, self.marked = form, name, text.marked
        self._stream, self._encoding = text.stream, text.encoding_name
        self._records: RecordReader | None = None
        self.columns: list[str] = ["text"]
        if form in ("csv", "tsv"):
            self._records = RecordReader(text, "\t" if form == "tsv" else ",")
            self.columns = _named(next(iter(self._records), None), name)
            self._records.width = len(self.columns)
        elif form == "jsonl" and text.sample.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            raise RequestError(f"{name} is one JSON array: write each of its objects in a line of its own (.jsonl)")
        self.text_column = self._text_column(text_column)

    def __iter__(self) -> Iterator[InputRow]:
        if self._records is not None:
            yield from map(self._table_row, self._records)
        else:
            for number, line in enumerate(self._stream, 1):
                stripped = line.rstrip("\r\n")
                if self.form != "jsonl":
                    yield self._checked({"text": stripped}, stripped, number)
                elif stripped.strip():
                    yield self._json_row(stripped, number)

    def column(self, wanted: str, usual: Sequence[str], option: str) -> str:
        """Return the column that ``option`` names; if it is not there, the only one of the ``usual`` ones that is.

        JSON lines have no columns, so that ``wanted`` holds. Raises `RequestError`.
        """
        if self.form == "jsonl" or wanted in self.columns:
            return wanted
        others = [name for name in self.columns if name in usual and name != self.text_column]
        if wanted not in usual or len(others) != 1:
            has = ", ".join(self.columns)
            raise RequestError(f"{self.name} has no column {wanted!r}; name one with {option}: {has}")
        return others[0]

    def _text_column(self, wanted: str | Sequence[str] | None) -> str:
        several = [wanted] if isinstance(wanted, str) else list(wanted or ())
        if self.form == "jsonl":
            return several[0] if several else "text"
        known = next((name for name in several or TEXT_COLUMNS if name in self.columns), None)
        if known is None and several:
            raise RequestError(f"{self.name} has no column {several[0]!r}; it has: {', '.join(self.columns)}")
        if known is None and len(self.columns) > 1:
            raise RequestError(f"name the column of the texts (--text-column): {', '.join(self.columns)}")
        return known or self.columns[0]

    def _table_row(self, record: Record) -> InputRow:
        fields = dict(zip(self.columns, record.fields, strict=False))
        if record.error is not None:
            return InputRow(fields, None, record.error)
        if len(record.fields) != len(self.columns):
            wrong = f"has {len(record.fields)} fields, and the first row names {len(self.columns)} columns"
            return InputRow(fields, None, f"line {record.line}: {wrong}")
        return self._checked(fields, fields[self.text_column], record.line)

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
        if _ESCAPED.search(text):
            return InputRow(fields, None, f"line {number}: is not valid {self._encoding}: convert it first")
        if _SURROGATES.search(text):
            return InputRow(fields, None, f"line {number}: a character is cut in half")
        if not text.strip():
            return InputRow(fields, None, f"line {number}: the text is empty")
        return InputRow(fields, text)


def _named(first: Record | None, name: str) -> list[str]:
    """Return the names of columns in a first record; columns without one are numbered. Raises `RequestError`."""
    names = [each.strip() for each in first.fields] if first is not None else []
    while names and not names[-1]:
        names.pop()
    names = [each or f"column {number}" for number, each in enumerate(names, 1)]
    if not names or len(set(names)) < len(names):
        raise RequestError(f"{name} must begin with a row of column names, each there once")
    return names


class RowWriter:
    """Writes rows with added columns, as CSV, TSV or JSON lines; lines become CSV.

    ``marked``: a table begins with the mark by which Excel knows UTF-8. What is no character becomes U+FFFD.
    """

    def __init__(
        self, file: IO[str], form: RowFormat, columns: Sequence[str], added: Sequence[str], *, marked: bool = False
    ) -> None:
        self._file, self._form, self._marked = file, form, marked
        self.names = {name: free_name(name, columns) for name in added}
        self.columns = [*columns, *self.names.values()]
        delimiter = "\t" if form == "tsv" else ","
        self._csv = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        self._quoted = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def begin(self) -> None:
        """Write the row of column names, which JSON lines do without."""
        if self._form != "jsonl":
            self._file.write("\ufeff" if self._marked else "")
            self._csv.writerow(self.columns)

    def write(self, fields: Mapping[str, Any], added: Mapping[str, Any]) -> None:
        """Write one row."""
        whole = {**fields, **{self.names[name]: value for name, value in added.items()}}
        if self._form == "jsonl":
            self._file.write(_whole(json.dumps(whole, ensure_ascii=False)) + "\n")
        else:
            row = ["" if whole.get(name) is None else _whole(str(whole[name])) for name in self.columns]
            # The library leaves a lone carriage return unquoted, which ends a row for every reader.
            (self._quoted if any("\r" in each for each in row) else self._csv).writerow(row)


def _whole(text: str) -> str:
    """Return a text that can be written: halves of characters become U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


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


def format_of(path: Path) -> RowFormat:
    """Return the format of a file by its name."""
    return FORMATS.get(path.suffix.lower(), "lines")
