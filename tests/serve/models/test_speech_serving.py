"""A speech model behind the server: recordings at once share its passes, and have the texts that Python gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Serving, serving

from miaotui.cli.serve import _open_beside_imports, _Opened
from miaotui.serve.models import ServedModels
from miaotui.serve.ops.operations import Operations
from miaotui.serve.settings import ServeSettings
from miaotui.serve.speech.models import SpeechModels
from miaotui.speech.model import SpeechModel
from miaotui.speech.transcript import SAMPLE_RATE
from scripted_speech import bursts
from seq2seq_files import marian_folder
from sound_files import wav
from tiny_engine import settings_in
from tiny_whisper import whisper_folder

RECORDINGS = [bursts("s", seed)[: SAMPLE_RATE * tenths // 10] for seed, tenths in enumerate((5, 9, 3, 7))]
ONE_ATTEMPT = {"language": "en", "seed": 5, "temperature": 0.5}  # a random model's texts are never sound


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> _Opened:
    """Models as ``miaotui serve`` opens them, told apart by their files."""
    folder = tmp_path_factory.mktemp("models")
    whisper, marian = whisper_folder(folder / "tiny-whisper", seed=3), marian_folder(folder / "marian")
    settings = ServeSettings(models=(f"ears={whisper}", f"en-de={marian}"), backend="reference", threads=1)
    return _open_beside_imports(settings, lambda *_: None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server(opened: _Opened, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    def parts(_: ServedModels) -> Mapping[str, Any]:
        speech = SpeechModels(opened.speech)
        models = ServedModels(speech_names=speech.keys)
        return {"models": models, "speech": speech, "operations": Operations(models, speech=speech)}

    with serving({}, settings_in(tmp_path_factory.mktemp("home")), parts=parts) as running:
        yield running
    for loop in opened.targets.values():
        loop.close()


def post(server: Serving, number: int, **fields: Any) -> httpx.Response:
    content = wav(RECORDINGS[number], SAMPLE_RATE)
    url = f"{server.url}/v1/audio/transcriptions"
    return httpx.post(url, files={"file": ("sound.wav", content)}, data=fields, timeout=60)


def test_kinds_of_models_are_told_apart(opened: _Opened) -> None:
    assert list(opened.speech) == ["ears"]
    assert list(opened.targets) == ["en-de"]
    assert not opened.chats


def test_recordings_at_once_have_the_texts_of_each_alone(server: Serving, opened: _Opened, tmp_path: Path) -> None:
    model = opened.speech["ears"]
    assert isinstance(model, SpeechModel)
    alone = []
    for samples in RECORDINGS:
        path = tmp_path / "sound.wav"
        path.write_bytes(wav(samples, SAMPLE_RATE))
        alone.append(model.transcribe(path, **ONE_ATTEMPT).text)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda number: post(server, number, **ONE_ATTEMPT), range(4)))
    assert [each.json()["text"] for each in answers] == alone
    assert any(alone)
    metrics = httpx.get(server.url + "/metrics").text
    assert 'miaotui_step_seconds_count{model_name="ears"}' in metrics
    assert 'vllm:num_requests_running{model_name="ears"} 0.0' in metrics


def test_what_the_model_lacks_is_named_and_deadlines_are_checked(server: Serving) -> None:
    wrong = post(server, 0, language="tlh")
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "language"
    late = post(server, 0, deadline_ms=0.01)
    assert late.status_code == 429
    assert post(server, 0, deadline_ms=50_000, **ONE_ATTEMPT).json()["deadline"]["met"]
    assert httpx.get(server.url + "/ready").status_code == 200


@pytest.mark.slow
@pytest.mark.model
def test_a_folder_of_ctranslate2s_is_told_apart_too() -> None:
    opened = _open_beside_imports(ServeSettings(models=("ears=whisper-base",)), lambda *_: None)  # type: ignore[arg-type]
    assert list(opened.speech) == ["ears"]
    opened.speech["ears"].close()
