"""``miaotui recommend`` and ``miaotui graph``: files in, answers out, wrong command lines named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from miaotui.cli import main

Run = Callable[..., int]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    rows = [(f"u{user}", f"i{(user * 7 + step) % 12 + 12 * (user % 2)}") for user in range(24) for step in range(6)]
    log = "userId,movieId,rating,timestamp\n" + "".join(f"{u},{i},4,{t}\n" for t, (u, i) in enumerate(rows))
    (tmp_path / "log.csv").write_text(log + "u1,,4,9\nu1,i3,-1,9\n")
    (tmp_path / "more.jsonl").write_text('{"user": "new", "item": "i1", "time": 500}\n{"user": "new", "item": "i2"}\n')
    (tmp_path / "family.tsv").write_text(
        "Anna Lind\tspouse\tBo Berg\nBo Berg\tprofession\tcarpenter\nAnna Lind\tspouse\n"
    )
    return tmp_path


def test_a_recommender_is_fitted_asked_and_added_to(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "fit", "films", "log.csv"]) == 0
    shown = capsys.readouterr()
    assert "144 events of 24 users and 24 items; rows left out: 2" in shown.err
    assert "log.csv, row 145: item: must be a name" in shown.err
    assert main(["recommend", "ask", "films", "u2", "--n", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["basis"] == "history"
    assert len(found["items"]) == 3
    assert main(["recommend", "similar", "films", "i1", "--n", "2"]) == 0
    assert capsys.readouterr().out.startswith("1. i")
    assert main(["recommend", "add", "films", "more.jsonl"]) == 0
    assert "146 events of 25 users" in capsys.readouterr().err
    assert main(["recommend", "ask", "films", "new"]) == 0
    assert "←" in capsys.readouterr().out
    assert main(["recommend", "refit", "films"]) == 0
    assert main(["recommend", "ask", "films", "--history", "i1, i99", "--n", "2"]) == 0
    assert "there is no item 'i99'" in capsys.readouterr().err
    assert (home / "home" / "recommenders" / "films.npz").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["guess", "films"], "no action 'guess'"),
        (["ask", "none"], "cannot be read"),
        (["fit", "films"], "expected NAME LOG"),
        (["fit", "films", "log.txt"], "must be .csv, .tsv or .jsonl"),
        (["fit", "films", "none.csv"], "cannot be read"),
        (["fit", "no name!", "log.csv"], "is no name"),
    ],
)
def test_wrong_recommendations(home: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(["recommend", *words]) == 1
    assert message in capsys.readouterr().err


def test_a_graph_is_filled_and_asked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", "add", "family", "family.tsv"]) == 0
    shown = capsys.readouterr()
    assert "2 new triples, 2 in all; rows left out: 1" in shown.err
    assert "family.tsv, row 3: triple: has 2 fields" in shown.err
    assert main(["graph", "ask", "family", "the profession of Anna Lind's spouse"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "carpenter",
        "   Anna Lind → spouse → Bo Berg; Bo Berg → profession → carpenter",
    ]
    assert main(["graph", "ask", "family", "the spouse of Bo Berg", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["found"]
    assert found["text"] == "Not in the graph: it has no spouse of Bo Berg."
    assert main(["graph", "ask", "family", "the spouse of Bo Berg", "--backward", "spouse"]) == 0
    assert capsys.readouterr().out.startswith("Anna Lind\n")
    (home / "learn.csv").write_text("Anna Lind's hubby?,Anna Lind,spouse\n" * 3)
    assert main(["graph", "ask", "family", "the spouse of Bo Berg", "--words-from", "./none.gguf"]) == 0
    assert "Not in the graph" in capsys.readouterr().out  # no model is opened
    assert main(["graph", "ask", "family", "the spouse of Anna Lind", "--words-from", "./none.gguf"]) == 1
    assert "none.gguf" in capsys.readouterr().err
    assert main(["graph", "learn", "family", "learn.csv"]) == 0
    assert "learned from 3 of 3 questions" in capsys.readouterr().err
    assert main(["graph", "ask", "family", "who is the hubby of Anna Lind"]) == 0
    assert capsys.readouterr().out.startswith("Bo Berg\n")
    assert main(["graph", "links", "family", "Anna Lind", "spouse", "--n", "1"]) == 0
    assert "Bo Berg" in capsys.readouterr().out
    assert main(["graph", "stats", "family"]) == 0
    assert "triples: 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["guess", "family"], "no action 'guess'"),
        (["ask", "none", "who?"], "cannot be read"),
        (["ask", "family"], "got 1 words"),
        (["add", "family", "none.tsv"], "cannot be read"),
    ],
)
def test_wrong_graphs(home: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(["graph", *words]) == 1
    assert message in capsys.readouterr().err
