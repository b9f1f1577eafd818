"""``miaotui ask`` and ``miaotui support``: what they print, keep and refuse."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from miaotui.cli import main
from miaotui.retrieval import Document, Index
from tiny_models import make_tiny_folder

QUESTION = "When was the mill of Orrin built?"


@pytest.fixture
def library(documents: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    return documents


@pytest.fixture
def documents(tmp_path: Path) -> str:
    folder = tmp_path / "library"
    with Index.create(folder) as index:
        index.add([Document("mill", "The mill of Orrin was built in 1802.", source="mill.md")])
    return f"{folder}/"


def test_a_span_its_passage_and_the_cache(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--extract", library, QUESTION]) == 0
    first = capsys.readouterr()
    assert first.out == "1802\n[1] mill.md: The mill of Orrin was built in 1802.\n"
    assert "cache: miss" in first.err
    assert main(["ask", "--extract", "--json", library, QUESTION]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["text"], again["cache"]) == ("1802", "hit")
    assert main(["ask", "--extract", "--no-cache", "--json", library, QUESTION]) == 0
    assert json.loads(capsys.readouterr().out)["cache"] == "miss"


def test_a_model_writes_or_gives_way(documents: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_tiny_folder(tmp_path, "llama", max_position_embeddings=2048)
    words = ["ask", "--json", "--no-cache", "--model", str(model), "--threads", "1"]
    assert main([*words, "--deadline", "1ms", documents, QUESTION]) == 0
    assert json.loads(capsys.readouterr().out)["how"] == "extractive"


def test_what_is_not_there_is_said(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--extract", library, "Which moon orbits Neptune backwards?"]) == 0
    assert capsys.readouterr().out == "Not found in the documents.\n"
    assert main(["ask", "--extract", f"{library}none", QUESTION]) == 1
    assert main(["ask", "--extract", library, " "]) == 1
    assert "empty" in capsys.readouterr().err


def test_a_conversation(
    library: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    faq = tmp_path / "faq.csv"
    faq.write_text("question,answer\nWhen do you open?,At nine.\n", encoding="utf-8")
    lines = ["when do you open", QUESTION, "/rate 5", "/rate 9", "/help", "x" * 5000]
    lines += ["/person", "hello?", "/transcript", "/exit", "never read"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    words = ["support", "--faq", str(faq), "--docs", library, "--extract", "--language", "en"]
    assert main(words) == 0
    told = capsys.readouterr()
    out = told.out.split("\n")
    assert out[0] == "Hello! How can I help?"
    assert out[1:3] == ["At nine.", "The mill of Orrin was built in 1802."]
    assert out[3].startswith("I am passing you on")
    told_all = json.loads("\n".join(out[4:]))
    assert [turn["role"] for turn in told_all["turns"]][-1] == "user"
    assert told_all["ratings"] == [{"turn": None, "score": 5, "comment": ""}]
    for part in ("(faq,", "Thank you.", "from 1 to 5", "/transcript", "shorten it"):
        assert part in told.err


def test_replies_as_json_and_nothing_to_say(
    library: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUESTION}\n"))
    assert main(["support", "--json", "--docs", library, "--extract", "--language", "zh"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["how"] for row in rows] == ["greeting", "documents"]
    assert main(["support"]) == 1
    assert "--faq FILE" in capsys.readouterr().err
