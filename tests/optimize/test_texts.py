"""Texts for calibration and tests: enough of them, text and not bytes, none in both sets."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from miaotui.config import Settings
from miaotui.errors import RequestError
from miaotui.optimize.texts import own_texts
from miaotui.optimize.texts.calibration import TextSet, read_texts, require_disjoint, token_rows
from miaotui.optimize.texts.openings import CALIBRATION, TEST
from miaotui.training.texts import text_lines
from tiny_models import make_tiny_gguf


class Bytes:
    def encode(self, text: str) -> list[int]:
        return list(text.encode())


def test_a_file_is_cut_at_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes("one\r\nline\r\n\r\n两行\n\n\n three ".encode())
    assert read_texts(path).texts == ("one\nline", "两行", "three")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00binary", b"PK\x03\x04 text \x00 text"])
def test_bytes_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "texts.bin"
    path.write_bytes(content)
    with pytest.raises(RequestError, match="plain text"):
        read_texts(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        read_texts(tmp_path / "none.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes by name")
@pytest.mark.parametrize("read", [read_texts, lambda path: text_lines(path, 1 << 20)], ids=["texts", "lines"])
def test_what_may_never_end_is_not_read(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull), tmp_path):
        with pytest.raises(RequestError, match="no regular file"):
            read(path)


def test_three_lines_are_too_few() -> None:
    with pytest.raises(RequestError, match="at least 1024 are needed"):
        token_rows(Bytes(), TextSet("few", ("a line", "a line", "a line")), 64, 4096)


def test_rows_are_cut_and_bounded() -> None:
    rows = token_rows(Bytes(), TextSet("many", ("x" * 1000, "y" * 1000)), 128, 1100)
    assert [len(row) for row in rows] == [128] * 8
    rows = token_rows(Bytes(), TextSet("odd", ("x" * 1100,)), 1024, 9999)
    assert [len(row) for row in rows] == [1024, 76]


def test_a_line_in_both_sets_is_refused() -> None:
    line = "This sentence is long enough to count as one."
    first, second = TextSet("a", (f"One.\n  {line}",)), TextSet("b", (line.upper(), "Yes."))
    with pytest.raises(RequestError, match="1 lines are in both"):
        require_disjoint(first, second)
    require_disjoint(TextSet("a", ("Yes.",)), TextSet("b", ("Yes.",)))  # short lines are everywhere


def test_own_openings_are_of_two_languages_and_share_none() -> None:
    assert not set(CALIBRATION) & set(TEST)
    require_disjoint(TextSet("a", CALIBRATION), TextSet("b", TEST))
    for texts in (CALIBRATION, TEST):
        chinese = sum(any("\u4e00" <= char <= "\u9fff" for char in text) for text in texts)
        assert chinese == len(texts) / 2


def test_a_model_writes_two_sets_of_its_own_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, settings = make_tiny_gguf(tmp_path, "llama"), Settings.from_env({"MIAOTUI_HOME": str(tmp_path / "home")})
    monkeypatch.setattr(own_texts, "TOKENS", 8)
    calibration, test = own_texts.own_texts(model, "digest", settings, None, 256)
    assert [len(each.texts) for each in (calibration, test)] == [len(CALIBRATION), len(TEST)]
    for texts, openings in ((calibration, CALIBRATION), (test, TEST)):
        half = len(openings) // 2
        turns = [opening for pair in zip(openings[:half], openings[half:], strict=True) for opening in pair]
        assert all(text.startswith(opening) for text, opening in zip(texts.texts, turns, strict=True))
        assert sum(len(text) for text in texts.texts) > sum(len(opening) for opening in openings)
    monkeypatch.setattr(own_texts, "load_llm", lambda *_, **__: pytest.fail("written again"))
    assert own_texts.own_texts(model, "digest", settings) == (calibration, test)
