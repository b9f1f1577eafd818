"""``miaotui classify`` over a tiny encoder: files in, files out, going on, and wrong command lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import miaotui
from miaotui.cli import main
from miaotui.cli.tasks.lists import listed
from tiny_encoder_models import make_encoder_folder
from tiny_models import make_tiny_folder

EXAMPLES = [("the cat sat", "animal"), ("a cat", "animal"), ("cat cat", "animal"), ("ping", "game"), ("pong", "game")]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_encoder_folder(tmp_path_factory.mktemp("encoder"), "embed")
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True}
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return path


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "examples.csv").write_text("text,label\n" + "".join(f"{a},{b}\n" for a, b in EXAMPLES))
    (tmp_path / "in.csv").write_text('id,text\n1,the cat\n2,"pong\npong"\n3,\n4\n5,pong\n')
    return tmp_path


Classify = Callable[..., int]


@pytest.fixture
def classify(encoder: Path) -> Classify:
    return lambda *words: main(["classify", "--model", str(encoder), "--backend", "reference", *map(str, words)])


def test_a_file_comes_back_with_labels(classify: Classify, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert classify(files / "in.csv", "--examples", files / "examples.csv", "--save", files / "head.json") == 0
    shown = capsys.readouterr()
    rows = list(csv.DictReader(shown.out.splitlines(keepends=True)))
    assert [row["id"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [row["label"] for row in rows] == ["animal", "game", "", "", "game"]
    assert rows[1]["text"] == "pong\npong"
    assert rows[2]["error"] == "line 5: the text is empty"
    assert "has 1 fields" in rows[3]["error"]
    assert 0.5 < float(rows[0]["probability"]) <= 1.0
    assert "5 rows" in shown.err
    assert "2 with errors" in shown.err
    assert classify("the cat", "--head", files / "head.json", "--json", "--explain") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["label"] == "animal"
    assert "held out: " in shown.err


def test_an_output_is_continued(classify: Classify, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = files / "out.csv"
    assert classify(files / "in.csv", "--labels", "cat,pong", "--output", out) == 0
    whole = out.read_bytes()
    assert classify(files / "in.csv", "--labels", "cat,pong", "--output", out) == 1
    assert "continue it with --resume" in capsys.readouterr().err
    for cut in (0, 3, len(whole) // 2, len(whole)):
        out.write_bytes(whole[:cut])
        assert classify(files / "in.csv", "--labels", "cat,pong", "--output", out, "--resume") == 0
        assert out.read_bytes() == whole


def test_a_limit_of_time_leaves_rows(classify: Classify, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "long.txt").write_text("the cat sat on the mat\n" * 3000)
    assert classify(files / "long.txt", "--labels", "cat,pong", "--limit-s", "0.3s") == 0
    shown = capsys.readouterr()
    assert 0 < len(shown.out.splitlines()) < 3000
    assert "rows are left" in shown.err


def test_sentiments_with_their_words(classify: Classify, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "in.txt").write_text("the cat\nping pong\n")
    assert classify(files / "in.txt", "--sentiment", "--words", "1") == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines(keepends=True)))
    assert {row["label"] for row in rows} <= {"positive", "negative", "neutral"}
    assert all(row["words"] for row in rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x"], "give one of --labels, --examples and --head"),
        (["x", "--labels", "a,a"], "--labels names 'a' twice"),
        (["x", "--labels", "a"], "must name 2 to 4,096 labels"),
        (["nowhere.csv", "--labels", "a,b"], "nowhere.csv cannot be read"),
        (["x", "--head", "nowhere.json"], "nowhere.json cannot be read"),
        (["x", "--examples", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["x", "--labels", "a,b", "--engine", "head"], "a head needs examples"),
        (["x", "--sentiment", "--engine", "logits"], "--engine is for labels"),
    ],
)
def test_wrong_command_lines(
    classify: Classify, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert classify(*words) == 1
    assert message in capsys.readouterr().err


def test_the_engine_is_named_or_chosen(classify: Classify, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = ["--examples", files / "examples.csv", "--explain", "--json"]
    assert classify("the cat", *examples) == 0
    shown = capsys.readouterr()
    assert "engine: head (named" in shown.err  # an encoder is named
    assert "examples · " in shown.err
    assert classify("the cat", *examples, "--engine", "similarity") == 0
    shown = capsys.readouterr()
    assert "engine: similarity (named" in shown.err
    assert "label names · " in shown.err
    assert set(json.loads(shown.out)) >= {"label", "probability"}


def test_labels_by_a_chat_models_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny_folder(tmp_path, "llama")
    monkeypatch.setattr("miaotui.tasks.writing.open.load", partial(miaotui.load, backend="reference"))
    words = ["--engine", "logits", "--model", str(model), "--json", "--labels", "it,an"]
    assert main(["classify", "cat", *words]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("it", "an")
    assert main(["classify", "cat", *words, "--save", str(tmp_path / "head.json")]) == 1
    assert "logits have none" in capsys.readouterr().err


def test_groups_and_likeness_of_a_file(encoder: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "in.csv").write_text("text\nthe cat\nping\n\nthe cat\n")
    model = ["--model", str(encoder), "--backend", "reference"]
    assert main(["group", str(files / "in.csv"), "--duplicates", "--least", "0.9999", *model]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["group"] for row in rows] == ["0", "", "0"]
    assert main(["group", str(files / "in.csv"), "--groups", "2", *model]) == 0
    shown = capsys.readouterr()
    assert len({row["group"] for row in csv.DictReader(shown.out.splitlines())}) == 2
    assert "cat" in shown.err
    assert main(["similar", str(files / "in.csv"), "--query", "the cat", *model]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert rows[0]["similarity"] == "1.0"
    assert main(["similar", str(files / "in.csv"), *model]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert rows[0]["nearest_text"] == "the cat"
    assert main(["group", str(files / "in.csv"), "--groups", "9", *model]) == 1
    assert "groups: must be a whole number from 1 to 3" in capsys.readouterr().err


def test_a_table_from_a_spreadsheet_in_chinese(classify: Classify, tmp_path: Path) -> None:
    """GB 18030 in, its own column names, empty columns; out with the mark by which a spreadsheet knows UTF-8."""
    table = "评论,标签,,\r\nthe cat sat,动物,,\r\na cat,动物,,\r\nping,游戏,,\r\npong,游戏,,\r\n,动物,,\r\n"
    (tmp_path / "examples.csv").write_bytes(table.encode("gb18030"))
    (tmp_path / "in.csv").write_bytes("编号,评论\r\n一,a cat\r\n二,\r\n".encode("gb18030"))
    assert classify(tmp_path / "in.csv", "--examples", tmp_path / "examples.csv", "--output", tmp_path / "out.csv") == 0
    assert (tmp_path / "out.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert [(row["编号"], row["label"]) for row in rows] == [("一", "动物"), ("二", "")]
    assert rows[1]["error"] == "line 3: the text is empty"
    words = ("--examples", tmp_path / "examples.csv", "--output", tmp_path / "out.csv", "--resume")
    assert classify(tmp_path / "in.csv", *words) == 0
    assert len((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize(
    ("labels", "wrong"),
    [("", "empty name"), ("a,,b", "empty name"), ("好，坏、好", "'好' twice"), ("a,b,a", "'a' twice")],
)
def test_wrong_lists_of_labels_are_named(
    classify: Classify, files: Path, capsys: pytest.CaptureFixture[str], labels: str, wrong: str
) -> None:
    assert classify(files / "in.csv", "--labels", labels) == 1
    assert wrong in capsys.readouterr().err


def test_a_chinese_comma_divides_what_has_no_other_one() -> None:
    assert listed("好，坏、一般") == ["好", "坏", "一般"]
    assert listed("好=又好，又便宜,坏") == ["好=又好，又便宜", "坏"]
    assert listed(None) == []
