"""`miaotui index` and `miaotui search`: what they print and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from miaotui.cli import main


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "cats.txt").write_text("Cats sleep sixteen\x1b[31m hours a day.")
    (tmp_path / "docs" / "dogs.md").write_text("# Dogs\n\nThey bark.")
    (tmp_path / "docs" / "x.bin").write_bytes(b"\0")
    return tmp_path


def test_documents_are_added_found_and_deleted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "create", "pets", "--partitions", "2"]) == 0
    assert main(["index", "add", "pets", "docs", "--workers", "1", "--tag", "animals"]) == 0
    said = capsys.readouterr()
    assert "passages: 2; files: 3; left out: 1, duplicates among them: 0" in said.out
    assert "docs/x.bin: files of type .bin are not read" in said.err
    assert main(["search", "pets", "sleeping tag:animals"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("1. cats  (docs/cats.txt, ")
    assert "Cats sleep sixteen" in shown
    assert "\x1b" not in shown
    assert main(["search", "pets", "bark", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert [hit["document"] for hit in hits] == ["docs/dogs.md"]
    assert main(["index", "delete", "pets", "docs/dogs.md", "nothing"]) == 0
    assert capsys.readouterr().out == "1 passages deleted\n"
    assert main(["index", "stats", "pets", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passages"] == 1
    assert main(["index", "list"]) == 0
    assert capsys.readouterr().out == "pets\n"
    assert main(["search", "pets", "bark"]) == 0
    assert "nothing was found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (["index", "fetch", "pets"], "no action 'fetch'"),
        (["index", "add"], "say which index"),
        (["index", "add", "pets"], "say which files"),
        (["index", "delete", "pets"], "say which ids"),
        (["index", "update", "pets", "docs"], "no index 'pets'"),
        (["search", "pets", "x"], "no index 'pets'"),
        (["index", "create", "../x", "--language", "klingon"], "no stemmer for 'klingon'"),
        (["index", "create", ".."], "no name for an index"),
    ],
)
def test_mistakes_are_one_line(line: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1


def test_chinese(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert main(["index", "add", "pets", "docs/cats.txt", "--workers", "1"]) == 0
    assert "已从 1 个文件加入 1 段" in capsys.readouterr().out
