"""Spectrograms are those of transformers; windows keep their frames."""

from __future__ import annotations

import numpy as np
import pytest

from miaotui.speech.log_mel import FFT_SAMPLES, HOP_SAMPLES, WINDOW_FRAMES, log_mel, mel_filters, window
from miaotui.speech.transcript import SAMPLE_RATE, Samples


def sound(seconds: float) -> Samples:
    """Chirps with noise and a silent part."""
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(3).standard_normal(len(time))
    made = 0.4 * np.sin(2 * np.pi * (200 + 300 * time) * time) + 0.01 * noise
    made[len(made) // 3 : len(made) // 2] = 0
    return made.astype(np.float32)


@pytest.mark.compare
@pytest.mark.parametrize("bins", [80, 128])
def test_frames_are_those_of_transformers(bins: int) -> None:
    transformers = pytest.importorskip("transformers")
    samples = sound(7.3)
    extractor = transformers.WhisperFeatureExtractor(feature_size=bins)
    padded = np.pad(samples, (0, 30 * SAMPLE_RATE - len(samples)))
    exact = extractor._np_extract_fbank_features(padded[None], "cpu")[
        0
    ].T  # its torch form rounds to float32 on the way
    public = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="np").input_features[0].T
    found = log_mel(samples, bins, len(padded) - len(samples))
    assert found.shape == (WINDOW_FRAMES, bins)
    np.testing.assert_allclose(found, exact, atol=1e-5)
    np.testing.assert_allclose(found, public, atol=1e-3)


@pytest.mark.parametrize("bins", [80, 128])
def test_filters_have_equal_areas(bins: int) -> None:
    widths = SAMPLE_RATE / FFT_SAMPLES
    areas = mel_filters(bins)[bins // 2 :].sum(axis=1) * widths
    np.testing.assert_allclose(areas, 1.0, rtol=0.1)


@pytest.mark.parametrize("count", [0, 1, 159, 160, 399, 16_000])
def test_few_samples_have_their_frames(count: int) -> None:
    found = log_mel(np.ones(count, np.float32), 80)
    assert found.shape == ((count + HOP_SAMPLES) // HOP_SAMPLES, 80)
    assert np.isfinite(found).all()


def test_long_recordings_have_the_frames_of_short_ones() -> None:
    samples = sound(70)
    whole = log_mel(samples, 80)
    assert len(whole) == 7_001
    middle = log_mel(samples[20 * SAMPLE_RATE : 65 * SAMPLE_RATE], 80)
    loudest = max(whole.max(), middle.max())
    near = whole[2_010:6_490] > loudest - 1.5  # elsewhere each is bounded by its own loudest
    np.testing.assert_allclose(whole[2_010:6_490][near], middle[10:4_490][near], atol=1e-5)


def test_a_window_behind_the_end_is_filled_with_nothing() -> None:
    frames = log_mel(sound(2), 80)
    cut = window(frames, 150)
    assert cut.shape == (WINDOW_FRAMES, 80)
    np.testing.assert_array_equal(cut[: len(frames) - 150], frames[150:])
    assert not cut[len(frames) - 150 :].any()
