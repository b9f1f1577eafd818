"""``miaotui transcribe``: where transcripts go, and what is said of recordings that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from miaotui.cli import main
from miaotui.cli.options.parser import parse
from miaotui.cli.transcribe import _places, transcribe_files
from miaotui.speech.forms import FORMS, rendered
from miaotui.speech.recordings import Recording
from miaotui.speech.transcript import SAMPLE_RATE, TranscriptionOptions
from scripted_speech import ScriptedRecogniser, bursts
from sound_files import wav
from tiny_whisper import whisper_folder

PLAIN = TranscriptionOptions()
SPEECH = bursts("s" * 35)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "talk.wav"
    path.write_bytes(wav(SPEECH, SAMPLE_RATE))
    return path


def run(words: list[str], options: TranscriptionOptions = PLAIN) -> int:
    parsed = parse(["transcribe", *words])
    places = _places(parsed.words, parsed.output, parsed.form)
    return transcribe_files(ScriptedRecogniser(), places, options, parsed)


@pytest.mark.parametrize("form", FORMS)
def test_a_transcript_goes_to_standard_output(recording: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([str(recording), "--form", form]) == 0
    out, err = capsys.readouterr()
    assert out == rendered(Recording(SPEECH).transcribe(ScriptedRecogniser(), PLAIN), form)
    assert "talk.wav: 0:35 of sound (en)" in err


def test_files_go_to_a_folder_one_for_each_recording(recording: Path, tmp_path: Path) -> None:
    other = tmp_path / "silence.flac"
    other.write_bytes(wav(bursts("...."), SAMPLE_RATE))
    folder = tmp_path / "new" / "texts"
    words = [str(recording), str(other), "--output", str(folder), "--form", "verbose_json", "--words"]
    assert run(words, TranscriptionOptions(word_times=True)) == 0
    found = json.loads((folder / "talk.json").read_text())
    assert found["duration"] == 35
    assert found["words"]
    assert len(found["segments"]) == 2
    assert json.loads((folder / "silence.json").read_text())["text"] == ""


def test_a_recording_that_cannot_be_read_does_not_stop_the_others(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.wav"
    wrong.write_text("words")
    assert run([str(wrong), str(tmp_path / "none.mp3"), str(recording)]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"==> {recording} <==\n30.0 seconds")
    assert "wrong.wav is no recording" in err
    assert "none.mp3 cannot be read" in err


def test_a_transcript_that_cannot_be_written_does_not_stop_the_others(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, folder = tmp_path / "other.wav", tmp_path / "out"
    other.write_bytes(recording.read_bytes())
    (folder / "talk.txt").mkdir(parents=True)
    assert run([str(recording), str(other), "--output", str(folder)]) == 1
    assert (folder / "other.txt").read_text()
    assert "talk.txt cannot be written: Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["a.wav", "a.wav"], "named twice"),
        (["a.wav", "b/a.mp3", "--output", "out"], "one file"),
        (["a.wav", "--words"], "verbose_json"),
        (["a.wav", "--output", "/dev/null/x"], "--output"),
        (["a.wav", "."], "a.wav cannot be read"),
        (["."], "is a folder; name the recordings in it"),
    ],
)
def test_what_cannot_work_is_said_before_a_model_is_loaded(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["transcribe", *words]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert reason in err


def test_the_command_opens_a_model_and_writes(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    folder = whisper_folder(tmp_path / "tiny-whisper", seed=3)
    recording.write_bytes(wav(SPEECH[: SAMPLE_RATE // 2], SAMPLE_RATE))
    words = ["--model", str(folder), "--backend", "reference", "--language", "en"]
    assert main(["transcribe", str(recording), *words, "--form", "verbose_json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["duration"], found["language"]) == (0.5, "en")
    assert [each["id"] for each in found["segments"]] == list(range(len(found["segments"])))
    assert "0:00 of sound (en)" in err
    assert main(["transcribe", str(recording), *words[:-1], "tlh"]) == 1
    assert "language" in capsys.readouterr().err
