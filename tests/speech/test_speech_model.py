"""Whole recordings through a tiny random Whisper: the same transcripts alone and together, in windows that move on."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import miaotui
from miaotui.errors import DeadlineUnattainableError, FieldError, RequestError, UnsupportedModelError
from miaotui.speech.model import SpeechModel, load_speech
from miaotui.speech.transcript import SAMPLE_RATE, Samples, Transcript, TranscriptionOptions
from tiny_models import make_tiny_folder
from tiny_seq2seq import tiny_folder
from tiny_whisper import LANGUAGES, SOURCE_ROWS, TIMESTAMPS, whisper_folder

WINDOW_S = SOURCE_ROWS / 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whisper_folder(tmp_path_factory.mktemp("speech") / "tiny-whisper", seed=3)


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[SpeechModel]:
    with load_speech(folder, threads=1) as loaded:
        yield loaded


def sound(seconds: float, seed: int = 0) -> Samples:
    """Tones that change, each about a tenth of a second."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = np.repeat(rng.uniform(200, 2000, len(time) // 1600 + 1), 1600)[: len(time)]
    level = np.repeat(rng.choice([0.02, 0.5], len(time) // 1600 + 1), 1600)[: len(time)]
    return (level * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def heard(model: SpeechModel, samples: Samples, **fields: Any) -> Transcript:
    segments = model.segments(samples, TranscriptionOptions(**fields))
    kept = tuple(segments)
    return Transcript("".join(each.text for each in kept), segments.language, 0.0, kept, model.name)


def test_segments_lie_in_the_recording_one_after_another(model: SpeechModel) -> None:
    found = heard(model, sound(0.9), language="en")
    assert found.language == "en"
    assert found.segments
    assert [each.id for each in found.segments] == list(range(len(found.segments)))
    end_s = 0.0
    for each in found.segments:
        assert end_s <= each.start_s < each.end_s <= 0.9 + WINDOW_S
        end_s = each.start_s
        assert each.tokens[0] >= TIMESTAMPS
        assert each.compression_ratio > 0
        assert each.avg_logprob < 0
        assert 0 <= each.no_speech_prob <= 1
        assert not each.words


def test_a_language_is_detected_among_those_that_the_model_knows(model: SpeechModel) -> None:
    assert model.languages == tuple(LANGUAGES)
    assert heard(model, sound(0.4)).language in LANGUAGES
    detected = heard(model, sound(0.4), prompt="the one").language
    assert detected == heard(model, sound(0.4)).language  # a prompt does not sway it


@pytest.mark.parametrize("fields", [{}, {"beam_size": 3}, {"temperature": 0.7, "seed": 5}, {"task": "translate"}])
def test_recordings_are_the_same_alone_and_beside_others(model: SpeechModel, fields: dict[str, Any]) -> None:
    recordings = [sound(length, seed) for seed, length in enumerate((0.4, 0.7, 0.3))]
    alone = [heard(model, each, language="de", **fields) for each in recordings]
    together: dict[int, Transcript] = {}
    threads = [
        threading.Thread(target=lambda i=i, s=s: together.update({i: heard(model, s, language="de", **fields)}))
        for i, s in enumerate(recordings)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[i] for i in range(len(recordings))] == alone


def test_words_have_times_that_do_not_go_back(model: SpeechModel) -> None:
    found = heard(model, sound(0.6, 4), language="en", word_times=True)
    words = [word for each in found.segments for word in each.words]
    assert words
    for each in found.segments:
        assert "".join(word.word for word in each.words).split() == each.text.split()
    for before, after in itertools.pairwise(words):
        assert before.start_s <= before.end_s
        assert before.start_s <= after.start_s
    assert all(0 <= word.probability <= 1 for word in words)


def test_another_seed_draws_another_text(model: SpeechModel) -> None:
    samples = sound(0.45)
    texts = {heard(model, samples, language="en", temperature=1.0, seed=seed).text for seed in range(4)}
    assert len(texts) > 1


def test_what_the_model_lacks_is_refused_at_once(model: SpeechModel) -> None:
    with pytest.raises(FieldError, match="fr"):
        model.transcribe(sound(0.3), language="fr")
    with pytest.raises(RequestError, match="colour"):
        model.transcribe(sound(0.3), colour="red")
    with pytest.raises(RequestError, match="not both"):
        model.transcribe(sound(0.3), TranscriptionOptions(), language="en")
    with pytest.raises(RequestError, match="samples are floats"):
        model.transcribe(np.zeros((3, 3), np.float32))


def test_a_deadline_that_cannot_be_met_says_what_would_fit(model: SpeechModel) -> None:
    with pytest.raises(DeadlineUnattainableError, match="no sound would fit") as caught:
        model.segments(sound(20.0), TranscriptionOptions(deadline_s=1e-6))
    assert caught.value.predicted_ms is not None
    assert caught.value.predicted_ms > 1e-3
    limit_s = 0.6 * model.predicted_s(400, TranscriptionOptions())
    with pytest.raises(DeadlineUnattainableError, match="of sound would fit") as caught:
        model.require_time(400, TranscriptionOptions(deadline_s=limit_s))
    fits_s = float(re.findall(r"about (\d+) s of sound", str(caught.value))[0])
    model.require_time(fits_s, TranscriptionOptions(deadline_s=limit_s))
    assert model.predicted_s(fits_s + 1, TranscriptionOptions()) > limit_s
    assert model.predicted_s(60, TranscriptionOptions()) > model.predicted_s(1, TranscriptionOptions())
    assert heard(model, sound(0.3), deadline_s=500.0).segments == heard(model, sound(0.3)).segments


def test_a_stream_that_is_closed_ends(model: SpeechModel) -> None:
    stream = model.segments(sound(30.0), TranscriptionOptions(language="en"))
    next(stream)
    stream.close()
    assert len(list(stream)) < 40  # those of the window that was done


def test_an_event_loop_gets_the_transcript_of_a_thread(folder: Path, model: SpeechModel) -> None:
    samples = sound(0.6, 2)

    async def both() -> tuple[Transcript, int]:
        async with await miaotui.load_speech_async(folder, threads=1) as loaded:
            transcript, streamed = await asyncio.gather(
                loaded.transcribe(samples, language="en"), anext(loaded.stream(samples, language="en"))
            )
            waiting = asyncio.ensure_future(loaded.transcribe(sound(60.0), language="en"))
            await asyncio.sleep(0.2)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            return transcript, streamed.id

    transcript, first = asyncio.run(both())
    assert transcript == model.transcribe(samples, language="en")
    assert first == 0


def test_models_of_another_kind_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="load_speech"):
        miaotui.load_seq2seq(folder)
    with pytest.raises(UnsupportedModelError, match=r"miaotui\.load"):
        load_speech(tiny_folder(tmp_path / "bart", "bart"))
    with pytest.raises(UnsupportedModelError, match="holds no speech model"):
        load_speech(make_tiny_folder(tmp_path, "llama"))
    with pytest.raises(UnsupportedModelError, match="load_speech"):
        miaotui.load_encoder(folder)


def test_compiled_transcripts_do_not_depend_on_threads(folder: Path) -> None:
    recordings = [sound(0.45, 1), sound(0.7, 2)]
    found = []
    for threads in (1, 2):
        with load_speech(folder, threads=threads) as loaded:
            found.append([heard(loaded, each, language="en", beam_size=3, word_times=True) for each in recordings])
    assert found[0] == found[1]
    assert any(each.text for each in found[0])
