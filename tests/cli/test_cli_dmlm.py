"""``miaotui dmlm``: train, resume, write, fill, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from miaotui.cli import INTERRUPTED, main
from tiny_encoder_models import make_encoder_folder
from training_texts import write_texts

SMALL = {"layers": 1, "width": 32, "heads": 2, "ffn": 32, "vocabulary": 300, "length": 32, "batch": 4, "threads": 1}


@pytest.mark.compare
def test_train_resume_and_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    small = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    texts, out = str(write_texts(tmp_path)), str(tmp_path / "model")
    assert main(["dmlm", "train", texts, "--out", out, "--steps", "5", "--masks", "words", *small]) == 0
    first = capsys.readouterr()
    assert "from step 0" in first.err
    assert "held-out bound:" in first.out
    assert "a bigram model of the same texts:" in first.out
    assert main(["dmlm", "train", texts, "--out", out, "--steps", "8"]) == 0
    second = capsys.readouterr()
    assert "words masks" in second.err
    assert "from step 5" in second.err
    assert main(["dmlm", "train", texts, "--out", out, "--masks", "random"]) == 1
    assert "trained with masks 'words'" in capsys.readouterr().err
    fine, others = str(tmp_path / "fine"), str(write_texts(tmp_path, seed=3))
    assert main(["dmlm", "train", others, "--out", fine, "--from", out, "--steps", "3", "--length", "16"]) == 0
    assert "from step 0" in capsys.readouterr().err
    assert main(["dmlm", "train", others, "--out", str(tmp_path / "x"), "--from", out, "--width", "64"]) == 1
    assert "width 32, not 64" in capsys.readouterr().err
    assert main(["dmlm", "train", others, "--out", str(tmp_path / "x"), "--from", out, "--vocabulary", "400"]) == 1
    assert "vocabulary 300, not 400" in capsys.readouterr().err
    assert main(["dmlm", "train", others, "--out", str(tmp_path / "x"), "--from", str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err
    from miaotui.dmlm import load_masked  # noqa: PLC0415

    with load_masked(out, backend="reference") as model:
        assert model.generate("The cat").prompt_tokens > 0


@pytest.mark.compare
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    texts, cut, whole = str(write_texts(tmp_path)), tmp_path / "cut", tmp_path / "whole"

    said: list[str] = []

    def interrupt(text: str) -> None:
        said.append(text)
        if text.startswith("step 3"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("miaotui.cli.dmlm.dmlm.REPORT_S", 0.0)  # each step is reported
        patched.setattr("miaotui.cli.dmlm.dmlm._say", interrupt)
        assert main(["dmlm", "train", texts, "--out", str(cut), "--steps", "6", *small]) == INTERRUPTED
    assert said[-1] == "stopped after step 3 of 6: the same command goes on from there"
    assert main(["dmlm", "train", texts, "--out", str(cut), "--steps", "6"]) == 0
    assert "from step 3" in capsys.readouterr().err
    assert main(["dmlm", "train", texts, "--out", str(whole), "--steps", "6", *small]) == 0
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_fill_lists_tokens_for_each_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_encoder_folder(tmp_path, "fill_mask")
    assert main(["dmlm", "fill", str(model), "the [MASK] sat", "--top", "3"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["1"] * 3
    assert sorted((float(line[1]) for line in lines), reverse=True) == [float(line[1]) for line in lines]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--out", "x"], "say which texts"),
        (["fill"], "say which encoder"),
        (["dance", "x"], "Actions: train"),
        (["train", "missing.txt"], "--out"),
        (["write", "x"], "FOLDER PROMPT"),
        (["fill", "x"], "MODEL TEXT"),
    ],
)
def test_wrong_words_are_refused(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dmlm", *arguments]) == 1
    assert words in capsys.readouterr().err
