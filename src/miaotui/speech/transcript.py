"""The values of speech recognition: its options, words, segments and transcripts, and the protocol of a recogniser.

Knows neither models nor files of sound. Times are seconds from the recording's start; samples are float32 in [-1, 1]
at `SAMPLE_RATE`, one channel. Invariant: an existing `TranscriptionOptions` has been checked. The fields of a segment
are those of Whisper's and OpenAI's ``verbose_json``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import FieldError

SAMPLE_RATE = 16_000  # samples a second
TASKS = ("transcribe", "translate")
SCRIPTS = ("simplified", "traditional", "as_is")
MAX_PROMPT = 1 << 16  # characters
MAX_BEAM_SIZE = 16
MAX_LANGUAGE = 32  # characters of a language's code or name

SpeechTask = Literal["transcribe", "translate"]
Script = Literal["simplified", "traditional", "as_is"]
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class TranscriptionOptions:
    """Options of a transcription. Raises `FieldError` for values of the wrong type or outside their range.

    ``temperature`` 0 tries 0, 0.2, 0.4, 0.6, 0.8 and 1 until a window's text is sound (Radford et al. 2022, section
    4.5); another one is used as it is. ``prompt`` is text that is taken to stand before the recording. ``script`` is
    that of Chinese text.
    """

    language: str = ""  # empty: detected
    task: SpeechTask = "transcribe"  # "translate": into English
    prompt: str = ""
    temperature: float = 0.0
    beam_size: int = 1
    word_times: bool = False
    deadline_s: float | None = None
    seed: int = 0
    script: Script = "simplified"

    def __post_init__(self) -> None:
        language, prompt = self.language, self.prompt
        _require(isinstance(language, str) and len(language) <= MAX_LANGUAGE, "language", "a language's code", language)
        _require(self.task in TASKS, "task", " or ".join(TASKS), self.task)
        expected = f"a text of at most {MAX_PROMPT:,} characters"
        _require(isinstance(prompt, str) and len(prompt) <= MAX_PROMPT, "prompt", expected, prompt)
        _require(_is_number(self.temperature) and 0 <= self.temperature <= 1, "temperature", "0 to 1", self.temperature)
        beams = type(self.beam_size) is int and 1 <= self.beam_size <= MAX_BEAM_SIZE
        _require(beams, "beam_size", f"a whole number from 1 to {MAX_BEAM_SIZE}", self.beam_size)
        _require(isinstance(self.word_times, bool), "word_times", "true or false", self.word_times)
        limit = self.deadline_s
        _require(limit is None or (_is_number(limit) and limit > 0), "deadline_s", "seconds above 0", limit)
        seed = type(self.seed) is int and 0 <= self.seed < 1 << 63
        _require(seed, "seed", "a whole number in [0, 2**63)", self.seed)
        _require(self.script in SCRIPTS, "script", ", ".join(SCRIPTS), self.script)


@dataclass(frozen=True)
class SpokenWord:
    """A spoken word with its times. ``word`` has the space before it; ``probability``: mean of its tokens'."""

    word: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True)
class Segment:
    """A stretch of speech with its text and scores.

    ``seek`` is the frame (10 ms) at which its window begins; ``tokens`` have the timestamps around the text;
    ``avg_logprob``, ``compression_ratio`` and ``no_speech_prob`` are of the whole window.
    """

    id: int
    seek: int
    start_s: float
    end_s: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: tuple[SpokenWord, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """The text of a recording. ``language`` is a code of two or three letters."""

    text: str
    language: str
    duration_s: float
    segments: tuple[Segment, ...]
    model: str


class SegmentStream(Protocol):
    """The segments of a recording as its windows are done. Closing it stops the work; ending it does too."""

    @property
    def language(self) -> str:
        """Return the code of the recording's language; empty until the first segment was given, or the end reached."""

    def __iter__(self) -> Iterator[Segment]:
        """Return itself."""

    def __next__(self) -> Segment:
        """Return the next segment. Raises `StopIteration`, and as `Recogniser.transcribe` does."""

    def close(self) -> None:
        """Cancel what is not done yet, from any thread. Closing twice does nothing."""


class Recogniser(Protocol):
    """A model that turns speech into text. Its methods may be called from any thread."""

    @property
    def name(self) -> str:
        """Return the model's name."""

    @property
    def languages(self) -> tuple[str, ...]:
        """Return the codes of the languages that it knows."""

    def transcribe(self, samples: Samples, /, options: TranscriptionOptions) -> Transcript:
        """Return the transcript of samples ``(n,)``.

        Raises `FieldError` for a language that there is not, `DeadlineUnattainableError` and `OverloadedError`.
        """

    def segments(self, samples: Samples, options: TranscriptionOptions) -> SegmentStream:
        """Return the segments of samples ``(n,)``, each window's when it is done. Raises as `transcribe` does."""

    def predicted_s(self, duration_s: float, options: TranscriptionOptions) -> float:
        """Return the seconds that a recording of ``duration_s`` seconds would take now."""

    def work_s(self, duration_s: float, options: TranscriptionOptions) -> float:
        """Return the seconds that it would take if nothing else were computed."""


def fitting_s(predicted_s: Callable[[float], float], allowed_s: float, most_s: float) -> float:
    """Return the longest recording predicted to take at most ``allowed_s``, in whole seconds up to ``most_s``."""
    low, high = 0, int(most_s)
    while low < high:
        middle = (low + high + 1) // 2
        if predicted_s(middle) <= allowed_s:
            low = middle
        else:
            high = middle - 1
    return float(low)


def _require(holds: bool, field: str, expected: str, value: object) -> None:
    if not holds:
        raise FieldError(field, f"it must be {expected}, not {str(value)[:40]!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
