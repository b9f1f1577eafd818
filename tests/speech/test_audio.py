"""Files of sound become samples: every format, lying headers, damage, bounds."""

from __future__ import annotations

import resource
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.errors import AudioError
from miaotui.speech.audio import AudioLimits, read_audio
from miaotui.speech.transcript import SAMPLE_RATE
from sound_files import FORMS, HOSTILE, encoded, endless_wav, table_bomb, tone, wav

SECONDS = 0.5
FILES = {form: encoded(form, tone(SECONDS)) for form in FORMS}


def loudest_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * SAMPLE_RATE / len(samples)


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_its_sound(form: str, tmp_path: Path) -> None:
    samples = read_audio(FILES[form])
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert len(samples) == pytest.approx(SECONDS * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)
    assert loudest_hz(samples) == pytest.approx(440, abs=4)
    path = tmp_path / "named as nothing"
    path.write_bytes(FILES[form])
    assert read_audio(path).tobytes() == samples.tobytes()


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (8_000, 2), (44_100, 8), (192_000, 1)])
def test_rates_and_channels_are_mixed_and_resampled(rate: int, channels: int) -> None:
    samples = read_audio(wav(tone(SECONDS, rate), rate, channels))
    assert len(samples) == pytest.approx(SECONDS * SAMPLE_RATE, abs=40)
    assert np.abs(samples).max() == pytest.approx(0.4, abs=0.02)
    if (rate, channels) == (SAMPLE_RATE, 1):
        assert np.array_equal(samples, np.rint(32767 * tone(SECONDS, rate)).astype(np.float32) / 32768)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_have_one_clear_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    path.write_bytes(HOSTILE[name]())
    with pytest.raises(AudioError, match=r"sound\.wav") as caught:
        read_audio(path)
    assert "\n" not in str(caught.value)


def test_a_header_of_2_to_the_63_samples_gives_those_that_are_there() -> None:
    samples = read_audio(endless_wav(tone(SECONDS, 16_000), 16_000))
    assert len(samples) == SECONDS * SAMPLE_RATE


@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "opus", "webm", "aac"])
def test_a_truncated_file_gives_the_sound_before_its_end(form: str) -> None:
    content = encoded(form, tone(3, 16_000), 16_000) if form != "opus" else encoded(form, tone(3))
    whole, part = read_audio(content), read_audio(content[: len(content) * 2 // 3])
    assert 0.1 * len(whole) < len(part) < 0.9 * len(whole)


def test_long_silence_is_read_within_its_bound() -> None:
    rate = 8_000
    content = encoded("flac", np.zeros(600 * rate, np.float32), rate)
    assert len(content) < 120_000  # a bomb: 19 MB of samples
    assert not read_audio(content).any()
    tracemalloc.start()
    with pytest.raises(AudioError, match=r"longer than 0\.1 hours"):
        read_audio(content, AudioLimits(max_s=360))
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most_bytes < 40e6


def test_a_table_bomb_takes_little_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AudioError):
        read_audio(table_bomb())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kilobytes; unbounded: 1.2 million


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "none.wav", "http://127.0.0.1/sound.wav"):
        with pytest.raises(AudioError):
            read_audio(wrong)
    with pytest.raises(AudioError, match="at most 100 are read"):
        read_audio(FILES["wav"], AudioLimits(max_bytes=100))


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(FORMS),
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
    st.floats(0, 1),
)
def test_damaged_files_give_sound_or_one_error(form: str, damage: list[tuple[float, bytes]], end: float) -> None:
    content = bytearray(FILES[form])
    for place, new in damage:
        start = int(place**3 * len(content))  # headers most of all
        content[start : start + len(new)] = new
    content = content[: int((1 - end**4) * len(content))]
    try:
        samples = read_audio(bytes(content), AudioLimits(max_s=3600))
    except AudioError:
        return
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1
    assert len(samples) <= 3600 * SAMPLE_RATE
