"""Transcripts in the forms that people and programs read: text, JSON, subtitles.

Owns the forms of OpenAI's API (``json``, ``text``, ``srt``, ``vtt``, ``verbose_json``) and how times are written.
Knows neither models nor HTTP. Invariants: times of subtitles never run backwards; no text of a transcript can end a
cue, begin another, or become markup. Sources: WebVTT (W3C), SubRip as players read it, OpenAI's API reference, "Audio".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal

from miaotui.speech.transcript import Segment, SpeechTask, Transcript

TranscriptForm = Literal["json", "text", "srt", "verbose_json", "vtt"]
Granularity = Literal["word", "segment"]
SEGMENTS: tuple[Granularity, ...] = ("segment",)
FORMS: tuple[TranscriptForm, ...] = ("json", "text", "srt", "verbose_json", "vtt")
_VTT_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def as_text(transcript: Transcript) -> str:
    """Return the text alone, and a line's end."""
    return f"{transcript.text.strip()}\n"


def as_srt(transcript: Transcript) -> str:
    """Return SubRip subtitles, one for each segment that has text."""
    cues = (
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{_one_line(text).replace('-->', '->')}\n"
        for number, (start, end, text) in enumerate(_cues(transcript.segments), 1)
    )
    return "\n".join(cues)


def as_vtt(transcript: Transcript) -> str:
    """Return WebVTT subtitles, one for each segment that has text."""
    cues = (
        f"{_clock(start, '.')} --> {_clock(end, '.')}\n{_escaped(_one_line(text))}\n"
        for start, end, text in _cues(transcript.segments)
    )
    return "\n".join(["WEBVTT\n", *cues])


def as_json(transcript: Transcript) -> dict[str, Any]:
    """Return the text, with the seconds of sound."""
    return {"text": transcript.text.strip(), "usage": _usage(transcript)}


def as_verbose_json(
    transcript: Transcript, granularities: Collection[Granularity] = SEGMENTS, task: SpeechTask = "transcribe"
) -> dict[str, Any]:
    """Return everything: language, duration, text, and segments or words or both."""
    found: dict[str, Any] = {
        "task": task,
        "language": transcript.language,
        "duration": round(transcript.duration_s, 2),
        "text": transcript.text.strip(),
        "usage": _usage(transcript),
    }
    if "segment" in granularities:
        found["segments"] = [segment_json(each) for each in transcript.segments]
    if "word" in granularities:
        found["words"] = [
            {"word": word.word.strip(), "start": round(word.start_s, 2), "end": round(word.end_s, 2)}
            for segment in transcript.segments
            for word in segment.words
        ]
    return found


def segment_json(segment: Segment) -> dict[str, Any]:
    """Return the ten fields of a segment."""
    return {
        "id": segment.id,
        "seek": segment.seek,
        "start": round(segment.start_s, 2),
        "end": round(segment.end_s, 2),
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }


def rendered(
    transcript: Transcript,
    form: TranscriptForm,
    granularities: Collection[Granularity] = SEGMENTS,
    task: SpeechTask = "transcribe",
) -> str:
    """Return a transcript as the content of a file of that form."""
    if form in _TEXTS:
        return _TEXTS[form](transcript)
    value = as_json(transcript) if form == "json" else as_verbose_json(transcript, granularities, task)
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


_TEXTS: dict[TranscriptForm, Callable[[Transcript], str]] = {"text": as_text, "srt": as_srt, "vtt": as_vtt}


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(transcript.duration_s, 2)}


def _cues(segments: Sequence[Segment]) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, text) in milliseconds; none begins before another that stands before it."""
    last_ms = 0
    for segment in segments:
        if segment.text.strip():
            start_ms = max(round(1e3 * segment.start_s), last_ms)
            yield start_ms, max(round(1e3 * segment.end_s), start_ms), segment.text
            last_ms = start_ms


def _clock(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: str) -> str:
    return "".join(_VTT_ESCAPES.get(character, character) for character in text)
