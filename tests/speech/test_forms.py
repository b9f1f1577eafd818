"""Forms of transcripts: subtitles that no text can break, times that never run backwards, OpenAI's JSON."""

from __future__ import annotations

import html
import json
import re

from hypothesis import given
from hypothesis import strategies as st

from miaotui.speech.forms import FORMS, as_srt, as_text, as_verbose_json, as_vtt, rendered
from miaotui.speech.transcript import Segment, SpokenWord, Transcript

TIMES = st.floats(0, 400_000, allow_nan=False)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["-->", "\n\n2\n00:00:00,000 --> 00:00:01,000\nhello", "<i>&amp;</i>", "WEBVTT", " NOTE a\n\nb"]
)
SEGMENTS = st.builds(
    Segment,
    st.integers(0, 99),
    st.integers(0, 10**6),
    TIMES,
    TIMES,
    WORDS,
    st.tuples(st.integers(0, 51864)),
    st.just(0.0),
    st.just(-0.5),
    st.just(1.0),
    st.just(0.1),
    st.tuples(st.builds(SpokenWord, WORDS, TIMES, TIMES, st.just(1.0))),
)
TRANSCRIPTS = st.builds(
    lambda segments: Transcript("".join(s.text for s in segments), "en", 9.0, tuple(segments), "tiny"),
    st.lists(SEGMENTS, max_size=6),
)
ESCAPED = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}
ONE = Segment(3, 100, 3661.0015, 3662.5, " One & two.", (5, 6), 0.2, -0.5, 1.25, 0.125, (SpokenWord(" One", 1, 2, 1),))
SAID = Transcript(" One & two.", "en", 3663.257, (ONE,), "tiny")


def milliseconds(clock: str) -> int:
    hours, minutes, seconds = re.split(r":", clock.replace(",", "."))
    return 3_600_000 * int(hours) + 60_000 * int(minutes) + round(1000 * float(seconds))


def check_times(found: list[tuple[str, str]]) -> None:
    times = [(milliseconds(start), milliseconds(end)) for start, end in found]
    assert all(start <= end for start, end in times)
    assert [start for start, _ in times] == sorted(start for start, _ in times)


@given(TRANSCRIPTS)
def test_srt_has_one_cue_for_each_segment_with_text(transcript: Transcript) -> None:
    blocks = [block for block in as_srt(transcript).split("\n\n") if block]
    said = [each for each in transcript.segments if each.text.strip()]
    assert len(blocks) == len(said)
    times = []
    for number, (block, segment) in enumerate(zip(blocks, said, strict=True), 1):
        index, clock, text = block.removesuffix("\n").split("\n")
        assert index == str(number)
        times.append(re.fullmatch(r"(\d\d+:\d\d:\d\d,\d{3}) --> (\d\d+:\d\d:\d\d,\d{3})", clock).groups())
        assert "-->" not in text
        assert text == " ".join(segment.text.split()).replace("-->", "->")
    check_times(times)


@given(TRANSCRIPTS)
def test_vtt_keeps_texts_as_texts(transcript: Transcript) -> None:
    head, *blocks = [block.removesuffix("\n") for block in as_vtt(transcript).split("\n\n") if block]
    assert head == "WEBVTT"
    said = [each for each in transcript.segments if each.text.strip()]
    assert len(blocks) == len(said)
    times = []
    for block, segment in zip(blocks, said, strict=True):
        clock, text = block.removesuffix("\n").split("\n")
        times.append(re.fullmatch(r"(\d\d+:\d\d:\d\d\.\d{3}) --> (\d\d+:\d\d:\d\d\.\d{3})", clock).groups())
        assert not set(text) & set("<>")
        assert re.sub("&lt;|&gt;|&amp;", lambda match: ESCAPED[match[0]], text) == " ".join(segment.text.split())
    check_times(times)


def test_the_forms_of_one_transcript() -> None:
    assert as_text(SAID) == "One & two.\n"
    assert as_srt(SAID) == "1\n01:01:01,002 --> 01:01:02,500\nOne & two.\n"
    assert as_vtt(SAID) == "WEBVTT\n\n01:01:01.002 --> 01:01:02.500\nOne &amp; two.\n"
    assert html.unescape(as_vtt(SAID)).endswith("One & two.\n")
    assert json.loads(rendered(SAID, "json")) == {
        "text": "One & two.",
        "usage": {"type": "duration", "seconds": 3663.26},
    }


def test_verbose_json_has_the_ten_fields_and_the_words_that_are_asked_for() -> None:
    both = as_verbose_json(SAID, ("word", "segment"))
    assert both["segments"] == [
        {
            "id": 3,
            "seek": 100,
            "start": 3661.0,
            "end": 3662.5,
            "text": " One & two.",
            "tokens": [5, 6],
            "temperature": 0.2,
            "avg_logprob": -0.5,
            "compression_ratio": 1.25,
            "no_speech_prob": 0.125,
        }
    ]
    assert both["words"] == [{"word": "One", "start": 1, "end": 2}]
    assert (both["task"], both["language"], both["duration"]) == ("transcribe", "en", 3663.26)
    assert "words" not in as_verbose_json(SAID)
    assert "segments" not in as_verbose_json(SAID, ("word",))


@given(TRANSCRIPTS)
def test_every_form_is_text_of_whole_lines(transcript: Transcript) -> None:
    for form in FORMS:
        text = rendered(transcript, form)
        assert text == "" or text.endswith("\n")
        text.encode()
