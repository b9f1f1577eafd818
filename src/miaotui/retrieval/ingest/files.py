"""Files to documents: text, Markdown, HTML, JSON lines, CSV and PDF.

Owns the reader of each kind of file, streaming where a file may be larger than memory. Knows nothing of indexes.
Invariant: a file that cannot be read, or a wrong row, gives one `Skipped` with the reason and never ends the load;
memory is bounded by `PART_CHARS` and `LONGEST_LINE_BYTES`.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from miaotui.errors import RequestError
from miaotui.retrieval.document import MAX_ID_CHARS, MAX_TITLE_CHARS, Document
from miaotui.retrieval.ingest.markup import from_html, from_markdown
from miaotui.retrieval.ingest.pdf_text import pdf_text
from miaotui.retrieval.ingest.repair import SAMPLE_BYTES, decoded, encoding_of, is_binary, repaired
from miaotui.retrieval.ingest.tables import TableForm, columns_of, delimiter_of, rows_of

PART_CHARS = 1_000_000  # longer texts are read in parts of about this length
LONGEST_LINE_BYTES = 16_000_000
LARGEST_WHOLE_BYTES = 128_000_000  # of formats that have to be read as a whole
_BODY_COLUMNS = ("body", "text", "content", "answer", "abstract", "正文", "内容")


@dataclass(frozen=True)
class Skipped:
    """Something that was left out, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class FileSource:
    """File to read, and the name of its documents."""

    path: Path
    name: str


Read: TypeAlias = "Document | Skipped | TableForm"


def sources(paths: list[Path]) -> Iterator[FileSource | Skipped]:
    """Return the files among ``paths`` and in their folders, in order; hidden ones are left out."""
    for path in paths:
        if path.is_dir():
            yield from _in_folder(path)
        elif path.is_file():
            yield FileSource(path, path.name if path.is_absolute() else path.as_posix())
        else:
            yield Skipped(str(path), "there is no such file or folder")


def _in_folder(root: Path) -> Iterator[FileSource]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                yield FileSource(path, path.relative_to(root.parent).as_posix())


def holds_rows(source: FileSource) -> bool:
    """Return whether the file is a list of documents, to be read as a stream."""
    return source.path.suffix.lower() in _ROWS


def read(source: FileSource) -> Iterator[Read]:
    """Return the documents of a file, each with the file's name as its source; for a table its form first."""
    suffix = source.path.suffix.lower()
    reader = _ROWS.get(suffix) or _WHOLES.get(suffix)
    if reader is None:
        known = " ".join(sorted({*_ROWS, *_WHOLES}))
        yield Skipped(source.name, f"files of type {suffix or '(none)'} are not read, only {known}")
        return
    try:
        yield from reader(source)
    except (OSError, RequestError, ValueError, csv.Error) as error:
        yield Skipped(source.name, str(error))


# ---- one document each ---------------------------------------------------------------------------


def _text(source: FileSource) -> Iterator[Read]:
    """Read a text in parts, so that neither a long file nor a long line is held whole."""
    with source.path.open("rb") as file:
        sample = file.read(SAMPLE_BYTES)
        if is_binary(sample):
            yield Skipped(source.name, "it is not text")
            return
        decoder = codecs.getincrementaldecoder(encoding_of(sample))("replace")
        number, held, data = 0, "", sample
        while data:
            held += decoder.decode(data)
            while len(held) > PART_CHARS:
                number += 1
                cut = _cut(held)
                yield _part(source, number, held[:cut])
                held = held[cut:]
            data = file.read(SAMPLE_BYTES)
        held += decoder.decode(b"", final=True)
    if number == 0:
        yield _whole(source, _title_of(source), repaired(held))
    elif held.strip():
        yield _part(source, number + 1, held)


def _cut(text: str) -> int:
    """Return where to end a part: after a paragraph, a line, a word, or right at its length."""
    for sign in ("\n\n", "\n", "。", " "):
        place = text.rfind(sign, PART_CHARS // 2, PART_CHARS)
        if place > 0:
            return place + len(sign)
    return PART_CHARS


def _part(source: FileSource, number: int, text: str) -> Document:
    name = source.name[: MAX_ID_CHARS - 24]
    return Document(
        f"{name}@{number}", repaired(text), _title_of(source), source=source.name[:MAX_TITLE_CHARS], document=name
    )


def _whole(source: FileSource, title: str, body: str) -> Read:
    if not body.strip():
        return Skipped(source.name, "there is no text in it")
    return Document(
        source.name[:MAX_ID_CHARS],
        body,
        (title or _title_of(source))[:MAX_TITLE_CHARS],
        source=source.name[:MAX_TITLE_CHARS],
    )


def _title_of(source: FileSource) -> str:
    return source.path.stem.replace("_", " ")[:MAX_TITLE_CHARS]


def _marked_up(convert: Callable[[str], tuple[str, str]]) -> Callable[[FileSource], Iterator[Read]]:
    def read_markup(source: FileSource) -> Iterator[Read]:
        data = _bytes_of(source)
        if is_binary(data[:SAMPLE_BYTES]):
            yield Skipped(source.name, "it is not text")
        else:
            yield _whole(source, *convert(decoded(data)))

    return read_markup


def _pdf(source: FileSource) -> Iterator[Read]:
    try:
        found = pdf_text(_bytes_of(source))
    except RequestError as error:
        yield Skipped(source.name, str(error))
        return
    yield _whole(source, found.title, found.body)


def _bytes_of(source: FileSource) -> bytes:
    size_bytes = source.path.stat().st_size
    if size_bytes > LARGEST_WHOLE_BYTES:
        raise RequestError(
            f"it has {size_bytes:,} bytes; files of its type are read up to {LARGEST_WHOLE_BYTES:,}. Split it"
        )
    return source.path.read_bytes()


# ---- many documents each -------------------------------------------------------------------------


def _json_lines(source: FileSource) -> Iterator[Read]:
    with source.path.open("rb") as file:
        for number, line in _lines(file):
            name = f"{source.name}:{number}"
            if line is None:
                yield Skipped(name, f"the line is longer than {LONGEST_LINE_BYTES:,} bytes")
            elif line.strip():
                yield _row(source, name, partial(_parsed, line))


def _parsed(line: bytes) -> Any:
    return json.loads(line.decode("utf-8-sig"))


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Return (number, line); None for a line that is too long to hold, which is passed over."""
    number = 0
    while line := file.readline(LONGEST_LINE_BYTES):
        number += 1
        if len(line) == LONGEST_LINE_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(LONGEST_LINE_BYTES)
            yield number, None
        else:
            yield number, line


def _row(source: FileSource, name: str, make: Callable[[], Any]) -> Read:
    try:
        row = make()
        if not isinstance(row, dict):
            return Skipped(name, "the line is not a JSON object")
        row.setdefault("source", source.name)
        document = Document.from_mapping(row, default_id=name)
    except (RequestError, ValueError, RecursionError) as error:
        return Skipped(name, str(error)[:300] or "the line is nested too deeply")
    return document if document.body.strip() else Skipped(name, "it has no text")


def _table(source: FileSource) -> Iterator[Read]:
    """Return a table's form, then its rows. Columns that are no fields of a document join the body."""
    with source.path.open("rb") as file:
        sample = file.read(SAMPLE_BYTES)
    if is_binary(sample):
        yield Skipped(source.name, "it is not text")
        return
    csv.field_size_limit(LONGEST_LINE_BYTES)
    form = _form_of(source, sample)
    yield form
    with source.path.open(encoding=form.encoding, errors="replace", newline="") as text:
        for number, row in enumerate(rows_of(_bounded_lines(text), form.delimiter), 2):
            name = f"{source.name}:{number}"
            yield _row(source, name, partial(_fields, row))


def _form_of(source: FileSource, sample: bytes) -> TableForm:
    encoding = encoding_of(sample)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(sample)
    delimiter = delimiter_of(text, "\t" if source.path.suffix.lower() == ".tsv" else ",")
    return TableForm(source.name, delimiter, encoding, columns_of(text, delimiter))


def _bounded_lines(text: Any) -> Iterator[str]:
    while line := text.readline(LONGEST_LINE_BYTES):
        if len(line) == LONGEST_LINE_BYTES and not line.endswith("\n"):
            raise RequestError(f"a line is longer than {LONGEST_LINE_BYTES:,} characters. Split it")
        yield line.replace("\0", "")


def _fields(row: dict[str | None, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    others: list[str] = []
    for name, value in row.items():
        column = (name or "").strip().lower()
        if not isinstance(value, str) or not value.strip():
            continue
        if column in {"id", "title", "time", "language", "source"}:
            known[column] = repaired(value)
        elif column == "tags":
            known[column] = [tag.strip() for tag in value.split(";") if tag.strip()]
        elif column in _BODY_COLUMNS and "body" not in known:
            known["body"] = repaired(value)
        else:
            others.append(f"{name}: {repaired(value)}" if name else repaired(value))
    known["body"] = "\n".join(filter(None, [known.get("body", ""), *others]))
    return known


_Reader: TypeAlias = Callable[[FileSource], Iterator[Read]]
_WHOLES: dict[str, _Reader] = {
    **dict.fromkeys((".txt", ".text", ".log", ".rst"), _text),
    **dict.fromkeys((".md", ".markdown"), _marked_up(from_markdown)),
    **dict.fromkeys((".html", ".htm", ".xhtml"), _marked_up(from_html)),
    ".pdf": _pdf,
}
_ROWS: dict[str, _Reader] = {
    **dict.fromkeys((".jsonl", ".ndjson"), _json_lines),
    **dict.fromkeys((".csv", ".tsv"), _table),
}
