"""Silence, noise and music have no words: the gate before the model, and the model's own thresholds behind it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from miaotui.speech.model import SpeechModel, load_speech
from miaotui.speech.recordings import Recording
from miaotui.speech.transcript import SAMPLE_RATE, Samples, TranscriptionOptions
from scripted_speech import bursts

pytestmark = [pytest.mark.slow, pytest.mark.model]


@pytest.fixture(scope="module")
def model() -> Iterator[SpeechModel]:
    with load_speech("whisper-base") as loaded:
        yield loaded


def music(seconds: int, seed: int = 0) -> Samples:
    """Tones with overtones that die away, two in a second."""
    rng = np.random.default_rng(seed)
    sound = np.zeros((seconds + 2) * SAMPLE_RATE)
    times = np.arange(3 * SAMPLE_RATE // 4) / SAMPLE_RATE
    for start in range(0, seconds * SAMPLE_RATE, SAMPLE_RATE // 2):
        hz = 440 * 2 ** ((rng.integers(48, 72) - 69) / 12)
        tone = sum(np.sin(2 * np.pi * hz * k * times) / k for k in range(1, 6)) * np.exp(-3 * times)
        sound[start : start + len(times)] += tone
    sound = sound[: seconds * SAMPLE_RATE]
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def test_music_and_noise_have_no_words(model: SpeechModel) -> None:
    song = Recording(music(40))
    assert song.voiced_s == 40  # all of it reaches the model
    assert song.transcribe(model, TranscriptionOptions()).text == ""
    noise = bursts("n" * 30)
    assert Recording(noise).voiced_s == 0
    assert Recording(noise, keep_silence=True).transcribe(model, TranscriptionOptions()).text == ""


def test_ten_minutes_of_silence_take_no_time(model: SpeechModel) -> None:
    recording = Recording(np.zeros(600 * SAMPLE_RATE, np.float32))
    assert recording.predicted_s(model, TranscriptionOptions()) == 0
    assert recording.transcribe(model, TranscriptionOptions()).text == ""
