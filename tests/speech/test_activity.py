"""Voice activity: silence and steady noise go, speech stays, and times come back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.speech.activity import (
    ActivityOptions,
    VoicedSamples,
    _least_around,
    active_frames,
    band_energy_db,
    speech_spans,
)
from miaotui.speech.transcript import SAMPLE_RATE
from scripted_speech import bursts


def seconds(pattern: str) -> list[tuple[int, int]]:
    """Spans of a pattern, in whole seconds around them."""
    return [(start // SAMPLE_RATE, -(-stop // SAMPLE_RATE)) for start, stop in speech_spans(bursts(pattern))]


@pytest.mark.parametrize("pattern", ["", "." * 20, "n" * 20])
def test_silence_and_steady_noise_hold_no_speech(pattern: str) -> None:
    assert speech_spans(bursts(pattern)) == []


def test_loud_and_soft_noise_alike_hold_no_speech() -> None:
    for level in (0.3, 0.01, 1e-4):
        noise = level * bursts("n" * 15) / 0.05
        assert not active_frames(band_energy_db(noise)).any()


@pytest.mark.parametrize("pattern", ["ssss", "s.s.s", ".ss.", "s"])
def test_a_recording_without_long_silence_stays_whole(pattern: str) -> None:
    samples = bursts(pattern)
    assert speech_spans(samples) == [(0, len(samples))]
    assert VoicedSamples(samples, speech_spans(samples)).samples is samples


def test_long_silence_goes_and_speech_stays() -> None:
    assert seconds("......ss......s..........") == [(5, 9), (13, 16)]
    in_noise = bursts("n" * 23) + bursts("." * 10 + "sss" + "." * 10)
    ((start, stop),) = speech_spans(in_noise)
    assert 9 * SAMPLE_RATE < start < 10.1 * SAMPLE_RATE
    assert 12.9 * SAMPLE_RATE < stop < 14 * SAMPLE_RATE
    loud_after_soft = np.concatenate([0.01 * bursts("sss"), bursts("....."), bursts("s")])
    assert speech_spans(loud_after_soft)[0][0] == 0
    assert len(speech_spans(loud_after_soft)) == 2


def test_noise_that_covers_speech_as_loud_as_itself_does_not_hide_it() -> None:
    speech, noise = bursts("." * 8 + "sss" + "." * 8), bursts("n" * 19, seed=1)
    loud = noise * np.sqrt((speech[8 * SAMPLE_RATE : 11 * SAMPLE_RATE] ** 2).mean()) / 0.05
    (span,) = speech_spans(speech + loud)
    assert span[0] < 8.2 * SAMPLE_RATE
    assert span[1] > 10.8 * SAMPLE_RATE


@settings(max_examples=40, deadline=None)
@given(st.text("s.", max_size=14), st.floats(0, 3))
def test_spans_are_apart_and_cover_every_second_of_speech(pattern: str, pause_s: float) -> None:
    samples = bursts(pattern)
    spans = speech_spans(samples, ActivityOptions(pause_s=pause_s))
    edges = [edge for span in spans for edge in span]
    assert edges == sorted(set(edges))
    for second, kind in enumerate(pattern):
        middle = round((second + 0.5) * SAMPLE_RATE)
        if kind == "s":
            assert any(start <= middle < stop for start, stop in spans)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 90_000), st.integers(1, 90_000)), min_size=1, max_size=6), st.data())
def test_times_of_the_voiced_part_come_back_in_order(gaps: list[tuple[int, int]], data: st.DataObject) -> None:
    spans, place = [], 0
    for silence, speech in gaps:
        spans.append((place + silence, place + silence + speech))
        place += silence + speech
    recording = np.arange(place + 5, dtype=np.float32)
    voiced = VoicedSamples(recording, spans)
    at = data.draw(st.integers(0, len(voiced.samples) - 1))
    assert round(voiced.time_of(at / SAMPLE_RATE) * SAMPLE_RATE) == voiced.samples[at]
    later = data.draw(st.integers(at, len(voiced.samples)))
    assert voiced.time_of(at / SAMPLE_RATE) <= voiced.time_of(later / SAMPLE_RATE) + 1e-9
    ends = [stop for _, stop in spans]
    total = len(voiced.samples) / SAMPLE_RATE
    assert voiced.time_of(total, is_end=True) == pytest.approx(ends[-1] / SAMPLE_RATE)


@given(st.lists(st.floats(-90, 0, width=32), max_size=200), st.integers(1, 30))
def test_the_least_value_around_is_that_of_a_slow_search(values: list[float], reach: int) -> None:
    given_values = np.array(values, np.float32)
    slow = [min(values[max(0, place - reach) : place + reach + 1]) for place in range(len(values))]
    assert _least_around(given_values, reach).tolist() == np.array(slow, np.float32).tolist()
