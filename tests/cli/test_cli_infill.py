"""``miaotui run --suffix``: the text between two others."""

from __future__ import annotations

from pathlib import Path

import pytest

import miaotui
from infill_models import make_infill_folder
from miaotui.cli import main
from miaotui.kernels.runtime import compiled
from tiny_models import make_tiny_folder


def test_the_gap_is_filled(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.cache_folder()  # remembered for the rest of the process
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    model = make_infill_folder(tmp_path)
    with miaotui.load(model, threads=1) as llm:
        expected = llm.infill("def f(", "return x", max_tokens=6).text
    arguments = ["run", str(model), "def f(", "--suffix", "return x", "--max-tokens", "6", "--threads", "1"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.rstrip("\n") == expected.rstrip("\n")
    assert main([*arguments, "--raw"]) == 1
    assert "--suffix" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    assert main(["run", str(make_tiny_folder(other, "llama")), "a", "--suffix", "b"]) == 1
    assert "cannot fill in" in capsys.readouterr().err
