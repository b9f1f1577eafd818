"""Rows of files in and out: formats, encodings, wrong rows, outputs that were broken off."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.errors import RequestError
from miaotui.tasks.rows import LABEL_COLUMNS, InputRow, RowFormat, RowReader, RowWriter, free_name, whole_rows

ADDED = ("label", "probability", "error")


def rows_of(data: bytes, form: RowFormat, column: str | None = None) -> list[InputRow]:
    return list(RowReader(io.BufferedReader(io.BytesIO(data)), form, column))  # type: ignore[arg-type]


def test_quoted_fields_hold_line_breaks() -> None:
    found = rows_of(b'id,text\r\n1,"two\nlines, one ""field"""\r\n\r\n2,plain\r\n', "csv")
    assert [row.text for row in found] == ['two\nlines, one "field"', "plain"]
    assert found[1].fields == {"id": "2", "text": "plain"}


def test_wrong_rows_have_errors_in_their_places() -> None:
    data = "id,text\n1,好\n2\n3,".encode() + b"\xff\xfe" + "x\n4,\n5,五\n6,六\n".encode()
    found = rows_of(data, "csv")
    assert [row.text for row in found] == ["好", None, None, None, "五", "六"]
    assert found[1].error == "line 3: has 1 fields, and the first row names 2 columns"
    assert "line 4: is not valid utf-8" in str(found[2].error)
    assert found[3].error == "line 5: the text is empty"


def test_a_file_in_another_encoding_is_read_as_a_whole() -> None:
    text = "text\n这家酒店的服务非常好，我们很满意\n房间太小，而且不干净\n"
    assert [row.text for row in rows_of(text.encode("gb18030"), "csv")] == text.splitlines()[1:]


def test_lines_and_json_lines() -> None:
    assert [row.text for row in rows_of(b"one\n\ntwo", "lines")] == ["one", None, "two"]
    found = rows_of(b'{"text": "a", "id": 7}\n"b"\n{"id": 1}\n{nope\n[1]\n', "jsonl")
    assert [row.text for row in found] == ["a", "b", None, None, None]
    assert found[0].fields["id"] == 7
    assert found[2].error == "line 3: must be an object with a text in 'text'"
    assert "line 4: is no JSON" in str(found[3].error)
    assert [row.text for row in rows_of(b'{"q": "a"}\n', "jsonl", "q")] == ["a"]


def test_the_column_of_texts_is_found_or_named() -> None:
    assert rows_of(b"label,sentence\n1,x\n", "csv")[0].text == "x"
    assert rows_of(b"anything\nx\n", "csv")[0].text == "x"
    assert rows_of(b"a\tb\n1\tx\n", "tsv", "b")[0].text == "x"
    with pytest.raises(RequestError, match="name the column of the texts"):
        rows_of(b"a,b\n1,x\n", "csv")
    with pytest.raises(RequestError, match="no column 'c'; it has: a, b"):
        rows_of(b"a,b\n1,x\n", "csv", "c")
    with pytest.raises(RequestError, match="must begin with a row of column names"):
        rows_of(b"a,a\n1,x\n", "csv")
    with pytest.raises(RequestError, match="must begin with"):
        rows_of(b"", "csv")


def test_columns_of_the_input_keep_their_names() -> None:
    assert free_name("label", ["label", "predicted_label"]) == "predicted_predicted_label"
    out = io.StringIO()
    writer = RowWriter(out, "csv", ["text", "label"], ADDED)
    writer.begin()
    writer.write({"text": "a,b", "label": "x"}, {"label": "y", "probability": 0.5, "error": None})
    assert out.getvalue() == 'text,label,predicted_label,probability,error\n"a,b",x,y,0.5,\n'


texts = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12), max_size=6)


@given(texts=texts, form=st.sampled_from(["csv", "tsv", "jsonl"]), cut=st.integers(0, 400))
def test_an_output_is_continued_after_its_last_whole_row(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], form: RowFormat, cut: int
) -> None:
    out = io.StringIO(newline="")
    writer = RowWriter(out, form, ["text"], ADDED)
    writer.begin()
    for text in texts:
        writer.write({"text": text}, {"label": "l", "probability": 1.0, "error": None})
    whole = out.getvalue().encode()
    path = tmp_path_factory.getbasetemp() / "out"
    path.write_bytes(whole[:cut])
    done, size = whole_rows(path, form)
    assert size <= min(cut, len(whole))
    if cut >= len(whole):
        assert done == len(texts)
    kept = whole[:size].decode()
    if form == "jsonl":
        assert [json.loads(line)["text"] for line in kept.split("\n")[:-1]] == texts[:done]
    else:
        read = list(csv.reader(io.StringIO(kept, newline=""), delimiter="\t" if form == "tsv" else ","))
        assert [row[0] for row in read[1:]] == texts[:done]


TABLE = 'text,label\r\n"很好,下次再来",好\r\n"第一行\r\n第二行",差\r\n,好\r\n\r\n一般,\r\n'


@pytest.mark.parametrize(
    "data",
    [
        TABLE.encode(),
        b"\xef\xbb\xbf" + TABLE.encode(),
        TABLE.encode("gb18030"),
        TABLE.replace(",", "\t").replace("很好\t", "很好,").encode("utf-16"),
        b"sep=;\r\n" + TABLE.replace(",", ";").replace("很好;", "很好,").encode(),
        TABLE.replace("label\r", "label,,\r").replace("好\r", "好,,\r").encode(),
    ],
    ids=["plain", "marked", "gb18030", "utf-16 with tabs", "semicolons", "empty columns"],
)
def test_tables_of_spreadsheets_are_read_as_they_are(data: bytes) -> None:
    found = rows_of(data, "csv")
    assert [row.text for row in found] == ["很好,下次再来", "第一行\r\n第二行", None, "一般"]
    assert found[0].fields == {"text": "很好,下次再来", "label": "好"}
    assert str(found[2].error).endswith("the text is empty")


def test_a_quote_that_is_not_closed_costs_one_row() -> None:
    found = rows_of(b'text,label\n"open,a\ntwo,b\n"three",c\nfour,d\n"five,e\nsix,f\n', "csv")
    assert [row.text for row in found] == [None, "two", "three", "four", None, "six"]
    assert found[0].error == "line 2: a quote is opened here and not closed"
    assert found[2].fields == {"text": "three", "label": "c"}


def test_files_that_are_no_text_are_refused() -> None:
    for data, wanted in (
        (b"PK\x03\x04" + bytes(100), "Excel workbook"),
        (b"\xd0\xcf\x11\xe0" + bytes(100), "old Excel"),
        (bytes(range(256)) * 9, "is no text"),
    ):
        with pytest.raises(RequestError, match=wanted):
            rows_of(data, "lines")
    with pytest.raises(RequestError, match="one JSON array"):
        rows_of(b' [{"text": "a"},\n{"text": "b"}]', "jsonl")


def test_columns_with_usual_names_are_found_in_both_languages() -> None:
    data = "序号,评论内容,标签\n1,很好,好\n".encode("gb18030")
    reader = RowReader(io.BufferedReader(io.BytesIO(data)), "csv")  # type: ignore[arg-type]
    assert (reader.text_column, reader.column("label", LABEL_COLUMNS, "--label-column")) == ("评论内容", "标签")
    with pytest.raises(RequestError, match="no column 'kind'; name one with --label-column: 序号, 评论内容, 标签"):
        reader.column("kind", LABEL_COLUMNS, "--label-column")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_what_is_no_character_is_written_as_a_replacement(form: RowFormat) -> None:
    out = io.StringIO(newline="")
    RowWriter(out, form, ["text"], ["label"]).write({"text": "a\udcffb\rc"}, {"label": "\ud800"})
    written = out.getvalue().encode()  # raises for halves of characters
    if form == "csv":
        assert list(csv.reader(io.StringIO(written.decode(), newline=""))) == [["a\ufffdb\rc", "\ufffd"]]
    else:
        assert json.loads(written) == {"text": "a\ufffdb\rc", "label": "\ufffd"}


def test_a_table_for_a_spreadsheet_begins_with_a_mark() -> None:
    assert all(RowReader(io.BufferedReader(io.BytesIO(data)), "csv").marked for data in (  # type: ignore[arg-type]
        b"\xef\xbb\xbftext\na\n", "text\n很好，下次再来\n".encode("gb18030")
    ))  # fmt: skip
    out = io.StringIO()
    RowWriter(out, "csv", ["text"], ["label"], marked=True).begin()
    assert out.getvalue() == "\ufefftext,label\n"
