"""Rows of files in and out: formats, encodings, wrong rows, outputs that were broken off."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.errors import RequestError
from miaotui.tasks.rows import InputRow, RowFormat, RowReader, RowWriter, free_name, whole_rows

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


texts = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1, max_size=12), max_size=6)


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
