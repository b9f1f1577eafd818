"""A recogniser by a script: every stretch of sound within a window becomes a segment that says its length.

For tests of what stands around a model: forms, times, routes. Its segments follow from samples alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from miaotui.errors import FieldError
from miaotui.speech.transcript import SAMPLE_RATE, Samples, Segment, SpokenWord, Transcript, TranscriptionOptions

WINDOW = 30 * SAMPLE_RATE


def say(samples: Samples, options: TranscriptionOptions) -> str:
    """The words of a window: its length, and its task."""
    return f" {len(samples) / SAMPLE_RATE:.1f} seconds, {options.task}."


class ScriptedStream:
    def __init__(self, owner: ScriptedRecogniser, samples: Samples, options: TranscriptionOptions) -> None:
        self._owner, self._samples, self._options = owner, samples, options
        self._next, self.language, self._is_closed = 0, "", threading.Event()

    def __iter__(self) -> ScriptedStream:
        return self

    def __next__(self) -> Segment:
        start = self._next * WINDOW
        self.language = self._options.language or self._owner.language
        if self._is_closed.is_set() or start >= len(self._samples):
            raise StopIteration
        window = self._samples[start : start + WINDOW]
        self._is_closed.wait(self._owner.window_s)
        self._next += 1
        self._owner.windows += 1
        text = self._owner.words(window, self._options)
        begin_s, length_s = start / SAMPLE_RATE, len(window) / SAMPLE_RATE
        spoken = text.split()
        edges = np.linspace(begin_s, begin_s + length_s, len(spoken) + 1).tolist()
        words = tuple(SpokenWord(f" {w}", a, b, 0.9) for w, a, b in zip(spoken, edges, edges[1:], strict=False))
        return Segment(
            self._next - 1,
            round(100 * begin_s),
            begin_s,
            begin_s + length_s,
            text,
            tuple(range(50364, 50364 + len(spoken))),
            self._options.temperature,
            -0.25,
            1.1,
            0.01,
            words if self._options.word_times else (),
        )

    def close(self) -> None:
        self._is_closed.set()


class ScriptedRecogniser:
    """A `Recogniser` that takes ``window_s`` seconds for each window."""

    languages = ("en", "zh", "de")

    def __init__(
        self,
        name: str = "scripted",
        window_s: float = 0.0,
        language: str = "en",
        words: Callable[[Samples, TranscriptionOptions], str] = say,
    ) -> None:
        self.name, self.window_s, self.language, self.words = name, window_s, language, words
        self.windows = 0
        self.is_closed = False

    def segments(self, samples: Samples, options: TranscriptionOptions) -> ScriptedStream:
        if options.language not in ("", *self.languages):
            raise FieldError("language", f"{options.language!r} is not known; expected one of en, zh, de")
        return ScriptedStream(self, samples, options)

    def transcribe(self, samples: Samples, options: TranscriptionOptions) -> Transcript:
        stream = self.segments(samples, options)
        found = tuple(stream)
        text = "".join(each.text for each in found).strip()
        return Transcript(text, stream.language, len(samples) / SAMPLE_RATE, found, self.name)

    def predicted_s(self, duration_s: float, options: TranscriptionOptions) -> float:
        return -(-duration_s // 30) * max(self.window_s, 1e-3) * options.beam_size

    def work_s(self, duration_s: float, options: TranscriptionOptions) -> float:
        return self.predicted_s(duration_s, options)

    def close(self) -> None:
        self.is_closed = True


def bursts(pattern: str, seed: int = 0) -> Samples:
    """Sound for tests of activity: a second for each letter, ``s`` like speech, ``n`` noise, ``.`` silence."""
    rng = np.random.default_rng(seed)
    times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    voice = sum(np.sin(2 * np.pi * 150 * k * times) / k for k in range(1, 20)) * (0.5 - 0.5 * np.cos(8 * np.pi * times))
    kinds = {
        "s": lambda: 0.1 * voice + 1e-4 * rng.standard_normal(SAMPLE_RATE),
        "n": lambda: 0.05 * rng.standard_normal(SAMPLE_RATE),
        ".": lambda: np.zeros(SAMPLE_RATE),
    }
    return np.concatenate([np.zeros(0), *(kinds[each]() for each in pattern)]).astype(np.float32)


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)
