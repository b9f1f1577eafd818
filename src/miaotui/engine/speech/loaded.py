"""A speech model in memory, and its loop: the windows of all recordings share its passes.

Owns the record, which `miaotui.runtime` fills, and the forecast of a recording. Knows no sound. Invariant: everything
in it is open until its backend is closed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from miaotui.backends.seq2seq_backend import Frames, Head, Seq2SeqBackend
from miaotui.engine.jobs.job import PromisedJob
from miaotui.engine.seq2seq.loop import TargetLoop
from miaotui.engine.speech.window import HeardWindow, WindowSettings
from miaotui.engine.speech.window_errors import WindowErrors
from miaotui.model.seq2seq.config import Seq2SeqConfig
from miaotui.text.speech.tokenizer import SpeechTokenizer
from miaotui.text.speech.tokens import TOKENS_A_SECOND
from miaotui.types import Deadline

FIRST_TOKENS_A_SECOND = 5.0  # of speech, before any was heard
FORGET = 0.9  # of the rate, with each window
USUAL_ADVANCE = 0.9  # share of a window by which the next one begins later


@dataclass(frozen=True)
class SpeechText:
    """Parts of a speech model besides its arithmetic. ``alignment_heads`` follow the sound in time."""

    name: str
    path: Path
    config: Seq2SeqConfig
    tokenizer: SpeechTokenizer
    alignment_heads: tuple[Head, ...]

    @property
    def window_frames(self) -> int:
        """Return the frames of a window."""
        return 2 * self.config.encoder.max_tokens

    @property
    def window_s(self) -> float:
        """Return the seconds of a window."""
        return self.config.encoder.max_tokens / TOKENS_A_SECOND


@dataclass(frozen=True)
class LoadedSpeech(SpeechText):
    """A speech model in memory."""

    backend: Seq2SeqBackend


class SoundForecast:
    """Forecast of a recording's work. ``step_s(source_rows, target_rows)`` predicts the seconds of a step."""

    def __init__(self, model: SpeechText, step_s: Callable[[int, int], float]) -> None:
        self.errors = WindowErrors()
        self._model, self._step_s = model, step_s
        self._tokens_a_second = FIRST_TOKENS_A_SECOND

    def sound_s(self, duration_s: float, beam_size: int) -> float:
        """Predict the seconds of work to allow a recording of ``duration_s``, errors of earlier forecasts included."""
        return self.errors.factor(self._windows(duration_s)) * self._predicted_s(duration_s, beam_size)

    def learn_sound(self, heard: HeardWindow) -> None:
        """Learn from a window how many tokens a second of speech has."""
        seen = len(heard.tokens) / self._model.window_s
        self._tokens_a_second = max(seen, self._tokens_a_second * FORGET)

    def learn_time(self, duration_s: float, beam_size: int, took_s: float) -> None:
        """Learn from the time that a window of ``duration_s`` took by itself."""
        self.errors.add(self._predicted_s(duration_s, beam_size), took_s)

    def _windows(self, duration_s: float) -> int:
        window_s = self._model.window_s
        return 1 + math.ceil(max(duration_s - window_s, 0.0) / (USUAL_ADVANCE * window_s))

    def _predicted_s(self, duration_s: float, beam_size: int) -> float:
        """Predict the parts of a recording: its windows' sources, and a row for each beam and token."""
        windows = self._windows(duration_s)
        heard_s = duration_s if windows == 1 else windows * self._model.window_s  # windows overlap
        steps = heard_s * self._tokens_a_second + 3 * windows  # the first passes of a window have no text
        encode_s = self._step_s(self._model.config.encoder.max_tokens, 0)
        return windows * encode_s + steps * self._step_s(0, beam_size)


class HearingLoop(Protocol):
    """One speech model that runs, here or elsewhere; its methods may be called from any thread."""

    @property
    def model(self) -> SpeechText:
        """Return the model's parts."""

    @property
    def sound(self) -> SoundForecast:
        """Return the forecast of recordings."""

    @property
    def in_flight(self) -> int:
        """Return jobs that have not ended."""

    def ahead_s(self) -> float:
        """Return the seconds of promised work, and of the pass under way."""

    def submit(self, wanted: Sequence[tuple[Frames, WindowSettings]], deadline: Deadline | None = None) -> PromisedJob:
        """Take windows on; the job's future gives a `FoundTarget` with a `HeardWindow` for each, in order.

        Raises `FieldError` and `RefusedError`.
        """

    def close(self) -> None:
        """Cancel what waits and give the memory back."""


class SpeechLoop(TargetLoop[LoadedSpeech]):
    """One speech model that runs here (see `HearingLoop`)."""

    noun = "speech model"

    @cached_property
    def sound(self) -> SoundForecast:
        """Return the forecast of recordings."""
        return SoundForecast(self.model, self._cost.step_s)

    def step_s(self, source_rows: int, target_rows: int) -> float:
        """Predict the seconds of a step of so many rows of sources and targets."""
        return self._cost.step_s(source_rows, target_rows)
