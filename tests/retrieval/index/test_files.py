"""Files to passages: every format, and what is wrong with a file costs that file alone."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.retrieval import Document, Index, IndexSettings
from miaotui.retrieval.ingest.duplicates import Seen, fingerprint
from miaotui.retrieval.ingest.files import LONGEST_LINE_BYTES, FileSource, Skipped, read, sources
from miaotui.retrieval.ingest.language_id import language_of
from miaotui.retrieval.ingest.markup import from_html, from_markdown
from miaotui.retrieval.ingest.passages import split
from miaotui.retrieval.ingest.pipeline import Preparation, load
from miaotui.retrieval.ingest.repair import decoded, repaired
from pdf_files import pdf_of

PAGE = """<html><head><title> A  page </title><style>b{}</style><script>evil()</script></head><body>
<nav><a>one</a></nav><div><a>Home page</a> <a>About us</a> <a>Contact</a></div>
<h1>First <i>part</i></h1><p>Some <b>bold</b>
text.</p><h2>Second</h2><table><tr><td>cell</td></tr></table><footer>(c)</footer></body></html>"""


def only(path: Path) -> Document | Skipped:
    (found,) = read(FileSource(path, path.name))
    return found


def test_html_keeps_text_and_headings() -> None:
    title, text = from_html(PAGE)
    assert title == "A page"
    assert text == "# First part\n\nSome bold text.\n\n## Second\n\ncell"


def test_markdown_keeps_text_and_headings() -> None:
    title, text = from_markdown(
        "---\ntitle: 'Named'\n---\n# A *b*\n\nline\nnext [link](http://x)\n\n- item\n\n```\ncode\n```\n"
    )
    assert title == "Named"
    assert text == "# A b\n\nline next link\n\nitem\n\ncode"


SIGNS = st.sampled_from([*"<>/='&;#!-*`[]() \n\"", "h1", "p", "script", "div", "x"])


@settings(max_examples=60, deadline=None)
@given(st.lists(SIGNS, max_size=60).map("".join))
def test_hostile_markup_never_fails(text: str) -> None:
    from_html(text)
    from_markdown(text)


def test_pages_nested_too_deep_are_skipped(tmp_path: Path) -> None:
    from_html("<div>" * 1_000 + "deep")
    path = tmp_path / "a.html"
    path.write_text("<div>" * 100_000)
    found = only(path)
    assert isinstance(found, Skipped)
    assert "nested deeper" in found.reason


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030", "big5"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    text = "这是一份中文文件，用来测试编码。" if encoding != "big5" else "這是一份中文文件，測試編碼。"
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    found = only(path)
    assert isinstance(found, Document)
    assert found.body == text


@pytest.mark.parametrize(
    "text", ["Hier, in Köln", "Café; très bien", "naïve", "größer – schöner, 5 €", "El niño «dijo»"]
)
def test_western_texts_are_not_taken_for_chinese(text: str) -> None:
    assert decoded(text.encode("cp1252")) == text


@pytest.mark.parametrize("text", ["退货 within 7 days: 运费由买家承担", "Привет, как дела? Хорошо, спасибо большое."])
def test_other_texts_are_not_taken_for_western(text: str) -> None:
    assert decoded(text.encode("gb18030" if "退" in text else "cp1251")) == text


def test_repair() -> None:
    assert repaired("schÃ¶n\r\nz\x00\x07") == "schön\nz"
    assert repaired("e\u0301") == "é"
    assert decoded(b"\xff\xfe\x00") is not None


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_become_valid_text(data: bytes) -> None:
    decoded(data).encode()


def test_rows_of_json_and_tables(tmp_path: Path) -> None:
    rows = [{"id": 1, "text": "one", "tags": ["a"], "time": "2024-05-01"}, {"body": "two", "title": "T"}]
    bad = ["not json", "[1]", '{"colour": 1}', '{"body": ""}', "[" * 100_000]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*map(json.dumps, rows), "", *bad]), encoding="utf-8")
    found = list(read(FileSource(path, "a.jsonl")))
    documents = [one for one in found if isinstance(one, Document)]
    assert [(one.id, one.body) for one in documents] == [("1", "one"), ("a.jsonl:2", "two")]
    assert documents[0].time_s == 1_714_521_600
    assert len(found) - len(documents) == len(bad)
    table = tmp_path / "b.csv"
    table.write_text('id,question,answer\nq1,"Why, so?",Because.\nq2,How?,\n', encoding="utf-8")
    _, first, second = read(FileSource(table, "b.csv"))
    assert isinstance(first, Document)
    assert (first.id, first.body) == ("q1", "Because.\nquestion: Why, so?")
    assert isinstance(second, Document)


def test_pdf_whole_and_broken(tmp_path: Path) -> None:
    whole, path = pdf_of("Hello from a page"), tmp_path / "a.pdf"
    path.write_bytes(whole)
    found = only(path)
    assert isinstance(found, Document)
    assert found.body == "Hello from a page"
    for data in (b"", b"%PDF-1.4", whole[:200], whole.replace(b"2 0 R", b"9 9 R"), b"\0" * 999):
        path.write_bytes(data)
        assert isinstance(only(path), Skipped)


def test_lines_longer_than_memory_allows_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.truncate(15 * LONGEST_LINE_BYTES)  # zeros that take no room on the disk
        file.seek(0, 2)
        file.write(b'\n{"body": "after"}\n')
    tracemalloc.start()
    found = list(read(FileSource(path, "a.jsonl")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [type(one) for one in found] == [Skipped, Document]
    assert peak < 4 * LONGEST_LINE_BYTES


def test_long_texts_are_read_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("一二三四五六七八九十" * 300_000, encoding="utf-8")  # one line
    found = list(read(FileSource(path, "a.txt")))
    assert {one.whole for one in found if isinstance(one, Document)} == {"a.txt"}
    assert sum(len(one.body) for one in found if isinstance(one, Document)) == 3_000_000
    assert len(found) == 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "docs"
    (made / "sub").mkdir(parents=True)
    sleepy = "Cats sleep most of the day and hunt mice in the early morning hours, or at dusk."
    (made / "a.txt").write_text(sleepy)
    (made / "b.txt").write_text(sleepy.upper() + "\n")
    (made / "sub" / "c.md").write_text("# Guide\n\nIntro.\n\n## Install\n\nRun the installer.\n")
    (made / "d.html").write_text(PAGE)
    (made / "e.jsonl").write_text('{"id": "x", "body": "row one"}\nbroken\n')
    (made / "f.pdf").write_bytes(b"%PDF")
    (made / "g.bin").write_bytes(b"\0")
    (made / ".hidden.txt").write_text("secret")
    (made / "empty.txt").write_text(" \n")
    return made


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_load_says_what_became_of_everything(folder: Path, tmp_path: Path, workers: int) -> None:
    told: list[tuple[str, int, int | None]] = []
    with Index.create(tmp_path / "index") as index:
        preparation = Preparation(workers=workers, tags=("batch1",))
        summary = load(index, [folder, tmp_path / "nothing"], preparation, lambda *now: told.append(now))
        assert (summary.files, summary.duplicates) == (8, 1)
        reasons = {one.name: one.reason for one in summary.skipped}
        assert "no such file" in reasons.pop(str(tmp_path / "nothing"))
        assert reasons.pop("docs/b.txt") == "it repeats docs/a.txt"
        assert reasons.keys() == {"docs/e.jsonl:2", "docs/f.pdf", "docs/g.bin", "docs/empty.txt"}
        assert summary.passages == len(index)
        assert told[-1] == ("index", 8, 8)
        (hit,) = index.search("installer")
        assert (hit.document, hit.title) == ("docs/sub/c.md", "Guide › Install")
        assert {one.id for one in index.search("secret")} == set()
        assert len(index.search("tag:batch1", 100)) == len(index)
        again = load(index, [folder], preparation)
        assert again.passages == summary.passages == len(index)


def test_sources_are_in_order(folder: Path) -> None:
    names = [one.name for one in sources([folder])]
    assert names == [
        *(f"docs/{name}" for name in ("a.txt", "b.txt", "d.html", "e.jsonl", "empty.txt")),
        *(["docs/f.pdf", "docs/g.bin", "docs/sub/c.md"]),
    ]


def words_of(documents: list[Document]) -> Iterator[str]:
    for one in documents:
        yield from one.body.split()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(["word", "End. ", "\n\n", "中文。", "x" * 300, "next! "]), max_size=120))
def test_passages_keep_every_word_and_their_bound(pieces: list[str]) -> None:
    body = " ".join(pieces) or "x"
    passages = split(Document("1", body), IndexSettings(passage_chars=200))
    assert all(len(one.body) <= 200 for one in passages)
    assert "".join(words_of(passages)) == "".join(body.split())


def test_passages_keep_titles() -> None:
    body = "Before.\n\n# One\n\ntext\n\n## Two\n\nmore\n\n# Three\n\nlast"
    passages = split(Document("d", body, "Book"), IndexSettings())
    assert [one.title for one in passages] == ["Book", "Book › One", "Book › One › Two", "Book › Three"]
    assert [one.id for one in passages] == ["d#1", "d#2", "d#3", "d#4"]


def test_near_duplicates() -> None:
    text = " ".join(f"word{n} and so on" for n in range(60))
    seen = Seen()
    seen.add(fingerprint(text), "first")
    assert seen.before(fingerprint(text.upper() + " !")) == "first"
    assert seen.before(fingerprint(text.replace("word30 and", "word31 or"))) == "first"
    assert seen.before(fingerprint(" ".join(f"other{n} text it is" for n in range(60)))) is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("这是一个测试", "zh"),
        ("これはテストです", "ja"),
        ("이것은 시험입니다", "ko"),
        ("This is nothing but a small test of the system.", "en"),
        ("Das ist ein kleiner Test mit vielen deutschen Wörtern.", "de"),
        ("12 + 3", ""),
    ],
)
def test_languages(text: str, code: str) -> None:
    assert language_of(text) == code
