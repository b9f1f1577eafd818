"""Tables: delimiter, encoding and columns are found out, and quoted line breaks tear no row."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.retrieval import Document, Index
from miaotui.retrieval.ingest.files import FileSource, Read, read
from miaotui.retrieval.ingest.pipeline import load
from miaotui.retrieval.ingest.tables import DELIMITERS, TableForm, columns_of, delimiter_of, rows_of


def all_of(path: Path) -> tuple[TableForm, list[Read]]:
    form, *rows = read(FileSource(path, path.name))
    assert isinstance(form, TableForm)
    return form, rows


@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_what_spreadsheets_write(delimiter: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    body = 'Für Küche, Büro;\nzwei\tZeilen | "laut" größer als üblich: schön, heiß, günstig'
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["title", "text", "Preis"], ["Kessel", body, "19,90"], ["Kanne", "Für Tee", "9,50"]])
    form, rows = all_of(path)
    assert (form.delimiter, form.columns) == (delimiter, ("title", "text", "Preis"))
    first, second = rows
    assert isinstance(first, Document)
    assert isinstance(second, Document)
    assert (first.title, first.body) == ("Kessel", f"{body}\nPreis: 19,90")
    assert (second.title, second.body) == ("Kanne", "Für Tee\nPreis: 9,50")


def test_a_delimiter_that_the_first_line_names(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("sep=;\r\ntitle;text\r\nKettle;Boils, quickly\r\n", encoding="utf-8-sig")
    form, (row,) = all_of(path)
    assert (form.delimiter, form.columns) == (";", ("title", "text"))
    assert isinstance(row, Document)
    assert row.body == "Boils, quickly"


def test_one_column_is_one_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\nKettles; pots\nand cups\n", encoding="utf-8")
    form, rows = all_of(path)
    assert (form.delimiter, form.columns) == (",", ("text",))
    assert [row.body for row in rows if isinstance(row, Document)] == ["Kettles; pots", "and cups"]
    assert delimiter_of("") == ","
    assert columns_of("\n\n", ",") == ()


def test_chinese_tables(tmp_path: Path) -> None:
    path = tmp_path / "问答.csv"
    path.write_bytes("问题;正文\n怎么退货;七天内可以退货，运费由买家承担\n".encode("gb18030"))
    form, rows = all_of(path)
    assert (form.encoding, form.delimiter) == ("gb18030", ";")
    assert [row.body for row in rows if isinstance(row, Document)] == ["七天内可以退货，运费由买家承担\n问题: 怎么退货"]


def test_a_load_tells_how_tables_were_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("title;text\nKettle;Boils\n", encoding="utf-8")
    with Index.create(tmp_path / "index") as index:
        summary = load(index, [path])
    assert summary.passages == 1
    assert [(one.delimiter, one.encoding) for one in summary.tables] == [(";", "utf-8")]


CELL = st.text(st.sampled_from([*'ab ,;|\t"\n', "é", "中"]), max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    delimiter=st.sampled_from(DELIMITERS),
    rows=st.integers(2, 5).flatmap(lambda n: st.lists(st.lists(CELL, min_size=n, max_size=n), min_size=1, max_size=8)),
)
def test_what_was_written_is_read(delimiter: str, rows: list[list[str]]) -> None:
    heading = [f"column {number}" for number in range(len(rows[0]))]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([heading, *rows])
    text = file.getvalue()
    assert delimiter_of(text) == delimiter
    assert [list(row.values()) for row in rows_of(io.StringIO(text, newline=""), delimiter)] == rows


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*'ab,;|\t"\n\r\0', "sep="]), max_size=80).map("".join))
def test_any_text_has_a_form(text: str) -> None:
    assert delimiter_of(text) in DELIMITERS
    assert all(isinstance(name, str) for name in columns_of(text, ","))
