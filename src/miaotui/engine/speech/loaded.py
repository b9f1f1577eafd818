"""A speech model in memory, and its loop: the windows of all recordings share its passes.

Owns the record, which `miaotui.runtime` fills, and the forecast of a recording. Knows no sound. Invariant: everything
in it is open until its backend is closed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from miaotui.backends.seq2seq_backend import Head, Seq2SeqBackend
from miaotui.engine.seq2seq.loop import TargetLoop
from miaotui.engine.speech.window import HeardWindow
from miaotui.engine.speech.window_errors import WindowErrors
from miaotui.model.seq2seq.config import Seq2SeqConfig
from miaotui.text.speech.tokenizer import SpeechTokenizer
from miaotui.text.speech.tokens import TOKENS_A_SECOND

FIRST_TOKENS_A_SECOND = 5.0  # of speech, before any was heard
FORGET = 0.9  # of the rate, with each window
USUAL_ADVANCE = 0.9  # share of a window by which the next one begins later


@dataclass(frozen=True)
class LoadedSpeech:
    """Parts of a speech model in memory. ``alignment_heads`` follow the sound in time."""

    name: str
    path: Path
    config: Seq2SeqConfig
    tokenizer: SpeechTokenizer
    backend: Seq2SeqBackend
    alignment_heads: tuple[Head, ...]

    @property
    def window_frames(self) -> int:
        """Return the frames of a window."""
        return 2 * self.config.encoder.max_tokens

    @property
    def window_s(self) -> float:
        """Return the seconds of a window."""
        return self.config.encoder.max_tokens / TOKENS_A_SECOND


class SpeechLoop(TargetLoop[LoadedSpeech]):
    """One speech model that runs."""

    noun = "speech model"
    _tokens_a_second = FIRST_TOKENS_A_SECOND

    @cached_property
    def errors(self) -> WindowErrors:
        """Return the errors of forecasts so far."""
        return WindowErrors()

    def sound_s(self, duration_s: float, beam_size: int) -> float:
        """Predict the seconds of work to allow a recording of ``duration_s``, errors of earlier forecasts included."""
        return self.errors.factor(self._windows(duration_s)) * self._predicted_s(duration_s, beam_size)

    def _windows(self, duration_s: float) -> int:
        return 1 + math.ceil(max(duration_s - self.model.window_s, 0.0) / (USUAL_ADVANCE * self.model.window_s))

    def _predicted_s(self, duration_s: float, beam_size: int) -> float:
        """Predict the parts of a recording: its windows' sources, and a row for each beam and token."""
        windows = self._windows(duration_s)
        heard_s = duration_s if windows == 1 else windows * self.model.window_s  # windows overlap
        steps = heard_s * self._tokens_a_second + 3 * windows  # the first passes of a window have no text
        encode_s = self._cost.step_s(self.model.config.encoder.max_tokens, 0)
        return windows * encode_s + steps * self._cost.step_s(0, beam_size)

    def learn_sound(self, heard: HeardWindow) -> None:
        """Learn from a window how many tokens a second of speech has."""
        seen = len(heard.tokens) / self.model.window_s
        self._tokens_a_second = max(seen, self._tokens_a_second * FORGET)

    def learn_time(self, duration_s: float, beam_size: int, took_s: float) -> None:
        """Learn from the time that a window of ``duration_s`` took by itself."""
        self.errors.add(self._predicted_s(duration_s, beam_size), took_s)
