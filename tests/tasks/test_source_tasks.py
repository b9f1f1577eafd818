"""Translations and summaries of tasks by encoder-decoders: those of the model's own calls, in Python and by command."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

import miaotui
from miaotui import Seq2Seq, tasks
from miaotui.cli import main
from miaotui.errors import FieldError
from seq2seq_files import SENTENCES, marian_folder

ENGLISH = SENTENCES[::2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return marian_folder(tmp_path_factory.mktemp("sources") / "m")


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Seq2Seq]:
    with miaotui.load_seq2seq(folder, backend="reference") as opened:
        yield opened


def test_translations_are_the_models_own(model: Seq2Seq) -> None:
    own = model.translate(ENGLISH, source="en", target="de")
    found = tasks.translate(ENGLISH, "German", source="English", model=model)
    assert [(each.text, each.error, each.index) for each in found] == [
        (each.text, each.error, each.index) for each in own
    ]
    assert {each.model for each in found} == {"m"}
    with pytest.raises(FieldError, match="from en to de"):
        tasks.translate(ENGLISH, "fr", source="en", model=model)
    with pytest.raises(FieldError, match="format"):
        tasks.translate(ENGLISH, "de", format="rtf", model=model)  # type: ignore[arg-type]


def test_summaries_are_checked_as_those_of_chat_models_are(model: Seq2Seq) -> None:
    found = tasks.summarize([ENGLISH[0], "dog " * 500, ""], sentences=1, model=model)
    assert found[0].text
    assert found[0].model == "m"
    assert "takes" in (found[1].error or "")
    assert found[2].error
    with pytest.raises(FieldError, match="writes"):
        tasks.summarize(ENGLISH, method="extract", model=model)


@pytest.mark.slow  # the command line compiles its kernels
def test_the_command_line_takes_its_folder(folder: Path, tmp_path: Path, model: Seq2Seq) -> None:
    source = tmp_path / "in.txt"
    source.write_text("\n".join(ENGLISH) + "\n")
    output = tmp_path / "out.csv"
    words = [str(source), "--to", "de", "--from", "en", "--model", str(folder), "--output", str(output)]
    assert main(["translate", *words]) == 0
    rows = list(csv.DictReader(output.open()))
    assert len(rows) == len(ENGLISH)
    assert all(row["translation"] or row["error"] for row in rows)


def test_other_tasks_refuse_it(model: Seq2Seq) -> None:
    with pytest.raises(FieldError, match="encoder-decoder"):
        tasks.generate("write a poem", model=model)
