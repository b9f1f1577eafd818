"""The examples of docs/speech.md, run with a tiny random model in place of the named one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serving import Serving, serving

from miaotui.cli import main
from miaotui.serve.models import ServedModels
from miaotui.serve.speech.models import SpeechModels
from miaotui.speech.model import load_speech
from miaotui.speech.transcript import SAMPLE_RATE
from sound_files import wav
from tiny_engine import settings_in
from tiny_whisper import whisper_folder

PAGE = (Path(__file__).parents[2] / "docs" / "speech.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line.removeprefix("$ ") for line in "".join(BLOCKS).splitlines() if line.startswith("$ miaotui transcribe")]
PROGRAMS = [block for block in BLOCKS if "import " in block]
FILES = ("talk.mp3", "interview.wav", "lectures/first.m4a", "lectures/second.m4a")  # which their first bytes tell apart


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whisper_folder(tmp_path_factory.mktemp("page") / "tiny-whisper", seed=3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tone = 0.3 * np.sin(np.arange(SAMPLE_RATE // 2) * 0.2).astype(np.float32)
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(wav(tone, SAMPLE_RATE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    def parts(_: ServedModels) -> dict[str, object]:
        return {"speech": SpeechModels({"speech": load_speech(model, threads=1)})}

    with serving({}, settings_in(tmp_path_factory.mktemp("home")), parts=parts) as running:
        yield running


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_write_transcripts(command: str, model: Path, folder: Path) -> None:
    words = [
        str(found.relative_to(folder)) if "*" in word else word
        for word in shlex.split(command)[1:]
        for found in (sorted(folder.glob(word)) if "*" in word else [folder])
    ]
    assert main([*words, "--model", str(model), "--backend", "reference"]) == 0
    if "--output" in words:
        assert sorted(path.name for path in (folder / "subtitles").iterdir()) == ["first.srt", "second.srt"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_programs_print_transcripts(
    program: str, model: Path, server: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    code = program.replace('"whisper-base"', repr(str(model))).replace("http://127.0.0.1:8000", server.url)
    assert code != program
    exec(compile(code, "speech.md", "exec"), {})
    assert capsys.readouterr().out


def test_no_example_is_left_out() -> None:
    shown = [block for block in BLOCKS if "$ " in block or "miaotui" in block or "openai" in block]
    assert len(COMMANDS) == sum(block.count("$ miaotui transcribe") for block in shown)
    assert len(PROGRAMS) == len([block for block in shown if "$ " not in block])
