"""Utterances of a stream: found, cut, the same however the samples come, and bounded in memory."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.speech.live import MOST_S, LiveSpeech, Utterance
from miaotui.speech.transcript import SAMPLE_RATE, Samples
from scripted_speech import bursts

PATTERN = "..ss..n.sss....s.nnnnnnnn" + "n" * 4
STREAM = bursts(PATTERN)


def heard(stream: Samples, steps: list[int]) -> list[Utterance]:
    live, found, place = LiveSpeech(), [], 0
    while place < len(stream):
        step = steps[len(found) % len(steps)]
        found += live.push(stream[place : place + step])
        place += step
    return found + live.flush()


def times(found: list[Utterance]) -> list[tuple[float, float]]:
    return [(round(each.start_s, 1), round(each.end_s, 1)) for each in found]


def test_speech_between_silences_is_cut_out_with_its_surroundings() -> None:
    found = heard(bursts("..ss...sss..."), [1600])
    assert len(found) == 2
    for (start, stop), each in zip([(2, 4), (7, 10)], found, strict=True):
        assert start - 0.5 < each.start_s <= start + 0.1
        assert stop - 0.1 < each.end_s < stop + 0.4
        samples = bursts("..ss...sss...")
        assert np.array_equal(each.samples, samples[each.first : each.first + len(each.samples)])


def test_silence_and_steady_noise_are_no_speech() -> None:
    assert heard(bursts("." * 12), [1600]) == []
    assert heard(bursts("n" * 12), [1600]) == []


def test_what_is_being_said_can_be_read_before_it_ends() -> None:
    live = LiveSpeech()
    assert live.push(bursts("..")) == []
    assert live.open is None
    assert live.push(bursts("ss")) == []
    said = live.open
    assert said is not None
    assert said.start_s < 2.1
    assert said.end_s == live.seconds == 4
    (last,) = live.flush()
    assert last.first == said.first
    assert live.open is None


def test_a_long_speech_is_cut_without_a_gap() -> None:
    stream = bursts("s" * 70)
    found = heard(stream, [8000])
    assert all(len(each.samples) <= MOST_S * SAMPLE_RATE + 480 for each in found)
    assert [each.first for each in found[1:]] == [each.first + len(each.samples) for each in found[:-1]]
    assert found[0].start_s < 0.5
    assert found[-1].end_s == 70


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=5))
def test_utterances_do_not_depend_on_how_samples_come(steps: list[int]) -> None:
    steps = [max(step, 160) for step in steps]
    whole = heard(STREAM, [len(STREAM)])
    found = heard(STREAM, steps)
    assert times(found) == times(whole)
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(found, whole, strict=True))


def test_memory_is_bounded_however_much_comes() -> None:
    live = LiveSpeech()
    for _ in range(3):
        live.push(bursts("." * 60))
    assert live._kept.nbytes < 4 * 3 * SAMPLE_RATE
    live.push(bursts("s" * 120))
    assert live._kept.nbytes < 4 * (MOST_S + 3) * SAMPLE_RATE
