"""The search of a window's text: language, then attempts at rising temperatures until a text is sound.

Owns the order of these, and the measures by which a text is judged. Knows tokens, not sound: a `TargetSearch` over one
encoded source. Invariant: its result depends on the source, the prompt and the settings alone. Source: Radford et al.
2022, section 4.5.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from miaotui.backends.seq2seq_backend import Head, TargetAlignment
from miaotui.backends.target_scores import TargetScores
from miaotui.engine.search.search import NO_PARENT, FoundTarget, SearchRow, start_search
from miaotui.engine.speech.attempts import Attempt, BeamAttempt, DrawnAttempt, SpokenText
from miaotui.engine.speech.rules import Floats, TimestampRules
from miaotui.engine.speech.segments import cut_window
from miaotui.errors import FieldError
from miaotui.text.speech.tokens import SpeechTokens

LADDER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # temperatures
MOST_RATIO = 2.4  # of a text's bytes and their compressed form: more repeats itself
LEAST_LOGPROB = -1.0  # mean of a text that is sound
MOST_SILENCE = 0.6  # probability of no speech, above which a text that is not sound is none
DRAWS = 5  # texts of an attempt that draws


@dataclass(frozen=True, kw_only=True)
class WindowSettings:
    """Settings of the search for a window's text. Raises `FieldError` where a prompt leaves no room for the text.

    ``prompt`` are text tokens that stand before the window. ``language``: token, or None to detect it, which models of
    English alone ignore. ``aligned``: heads whose attention is wanted with the text. ``text`` says what tokens say.
    """

    tokens: SpeechTokens
    text: Callable[[Sequence[int]], str]
    frames: int  # of the window that are of the recording
    max_length: int
    prompt: tuple[int, ...] = ()
    language: int | None = None
    task: str = "transcribe"
    temperatures: tuple[float, ...] = LADDER
    beam_size: int = 1
    seed: int = 0
    aligned: tuple[Head, ...] = ()
    prefix: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.prompt) > self.max_length // 2 - 1:
            raise FieldError("prompt", f"it has {len(self.prompt)} tokens, and {self.max_length // 2 - 1} fit")

    @property
    def num_beams(self) -> int:
        """Return the most rows of a step."""
        return max(self.beam_size, DRAWS if any(self.temperatures) else 1)

    @property
    def before(self) -> tuple[int, ...]:
        """Return the tokens up to the start of the transcript."""
        return (*((self.tokens.previous, *self.prompt) if self.prompt else ()), self.tokens.start)

    def check_vocabulary(self, size: int) -> None:
        """Raise `FieldError` for a token id that is not below ``size``."""
        if max((self.tokens.vocab_size - 1, *self.prompt)) >= size:
            raise FieldError("prompt", f"it names a token that is not among the model's {size:,}")


class SpokenAlignment(NamedTuple):
    """Where the decoder looks while it writes a window's text.

    ``scores`` are `TargetAlignment.scores` ``[heads, tokens, source rows]``; ``chances`` ``[text tokens]``: the
    probability of each text token among those of text.
    """

    scores: Floats
    chances: Floats


class HeardWindow(NamedTuple):
    """Text of a window with its measures. ``language`` is None for models of English alone.

    ``is_silent``: nothing is spoken, whatever the tokens say.
    """

    tokens: tuple[int, ...]
    language: int | None
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    alignment: SpokenAlignment | None = None

    @property
    def is_silent(self) -> bool:
        """Return whether nothing is spoken."""
        return self.no_speech_prob > MOST_SILENCE and self.avg_logprob <= LEAST_LOGPROB

    @property
    def is_sound(self) -> bool:
        """Return whether no further attempt is needed."""
        if self.no_speech_prob > MOST_SILENCE and self.avg_logprob < LEAST_LOGPROB:
            return True
        return self.compression_ratio <= MOST_RATIO and self.avg_logprob >= LEAST_LOGPROB


class WindowSearch:
    """A search in progress."""

    def __init__(self, settings: WindowSettings) -> None:
        self._settings, self._rules = settings, TimestampRules(settings.tokens)
        self._language, self._no_speech = settings.language, 0.0
        self._left = list(settings.temperatures)
        self._heard: list[HeardWindow] = []
        self._attempt: Attempt | None = None
        self._result: HeardWindow | None = None
        before, start = settings.before[:-1], settings.tokens.start
        rows = [SearchRow(NO_PARENT, start, 1, before)]
        if self._detects and before:
            rows.append(SearchRow(NO_PARENT, start, 1))  # a language is detected without a prompt
        self.rows: Sequence[SearchRow] = rows

    @property
    def alignment(self) -> tuple[tuple[int, ...], tuple[Head, ...]] | None:
        """Return the tokens and heads whose attention is wanted, once the search is over; None for nothing."""
        heard, settings = self._result, self._settings
        if heard is None or not settings.aligned or heard.is_silent or heard.alignment is not None:
            return None
        spoken = spoken_tokens(heard.tokens, settings.frames, settings.tokens)
        given = (*self._given, settings.tokens.no_timestamps)
        return ((settings.tokens.start, *given, *spoken, settings.tokens.end), settings.aligned) if spoken else None

    def align(self, alignment: TargetAlignment) -> None:
        """Take the attention in that was wanted."""
        assert self._result is not None
        tokens = self._settings.tokens
        spoken = spoken_tokens(self._result.tokens, self._settings.frames, tokens)
        first = len(alignment.logits) - len(spoken) - 2  # the row whose next token is the first of the text
        chances = _chances(alignment.logits[first : first + len(spoken), : tokens.end], spoken)
        self._result = self._result._replace(alignment=SpokenAlignment(alignment.scores, chances))

    def advance(self, scores: TargetScores) -> None:
        """Go on with the scores of ``rows``."""
        logits = [scores.logits(row) for row in range(len(self.rows))]
        if self._attempt is None:
            self._begin(logits)
            return
        self._attempt.advance(logits)
        self._continue(self._attempt)

    def found(self) -> FoundTarget:
        """Return the window's text once the search is over."""
        heard = self._result
        assert heard is not None
        return FoundTarget((self._settings.tokens.start, *heard.tokens), heard.avg_logprob, heard)

    @property
    def _detects(self) -> bool:
        return self._settings.language is None and bool(self._settings.tokens.languages)

    @property
    def _given(self) -> tuple[int, ...]:
        """Return the tokens between the start and the text: language and task."""
        task = self._settings.tokens.task(self._settings.task)
        return tuple(token for token in (self._language, task) if token is not None)

    def _begin(self, logits: Sequence[Floats]) -> None:
        """Read the probability of silence and the language, then begin the first attempt."""
        tokens = self._settings.tokens
        at_start = logits[0].astype(np.float64)
        shifted = np.exp(at_start - at_start.max())
        self._no_speech = float(shifted[tokens.no_speech] / shifted.sum())
        if self._detects:
            self._language = max(tokens.languages.values(), key=lambda token: float(logits[-1][token]))
        self._attempt = self._next_attempt()
        if given := self._given:
            self.rows = [SearchRow(0, given[-1], 1, given[:-1])]
        else:
            self._attempt.advance(logits[:1])
            self._continue(self._attempt)

    def _next_attempt(self) -> Attempt:
        settings, number = self._settings, len(self._heard)
        self._temperature, end = self._left.pop(0), settings.tokens.end
        most = min(settings.max_length // 2, settings.max_length - len(settings.before) - len(self._given))
        if not self._temperature and settings.beam_size > 1:
            return BeamAttempt(self._rules, end, most, settings.beam_size)
        return DrawnAttempt(self._rules, end, most, self._temperature, DRAWS, settings.seed + number)

    def _continue(self, attempt: Attempt) -> None:
        """Want the attempt's rows, or judge it and begin the next one."""
        self.rows = [SearchRow(row.parent, row.token, 1) for row in attempt.rows]
        if self.rows:
            return
        self._heard.append(self._judged(attempt.best()))
        if self._heard[-1].is_sound or not self._left:
            self._result = self._chosen()
            return
        self._attempt = self._next_attempt()
        before = (*self._settings.before, *self._given)
        self.rows = [SearchRow(NO_PARENT, before[-1], 1, before[:-1])]

    def _judged(self, text: SpokenText) -> HeardWindow:
        ratio = compression_ratio(self._settings.text(text.tokens).strip())
        mean = text.mean_logprob if math.isfinite(text.logprob) else -math.inf
        return HeardWindow(text.tokens, self._language, self._temperature, mean, ratio, self._no_speech)

    def _chosen(self) -> HeardWindow:
        """Return the sound text, or else the likeliest of those that do not repeat themselves, or of all."""
        last = self._heard[-1]
        if last.is_sound:
            return last
        plain = [each for each in self._heard if each.compression_ratio <= MOST_RATIO]
        best = max(plain or self._heard, key=lambda each: each.avg_logprob)
        return best._replace(temperature=last.temperature)


@start_search.register
def _start(settings: WindowSettings) -> WindowSearch:
    return WindowSearch(settings)


def compression_ratio(text: str) -> float:
    """Return how many times larger a text is than its compressed form."""
    raw = text.encode(errors="replace")
    return len(raw) / len(zlib.compress(raw))


def _chances(logits: Floats, tokens: Sequence[int]) -> Floats:
    """Return the probability of each token among those of text."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    chances: Floats = shifted[np.arange(len(tokens)), np.asarray(tokens)] / shifted.sum(axis=-1)
    return chances


def spoken_tokens(written: Sequence[int], frames: int, tokens: SpeechTokens) -> tuple[int, ...]:
    """Return the text tokens of a window's segments."""
    parts = cut_window(written, frames, tokens).parts
    return tuple(token for part in parts for token in part.tokens if token < tokens.end)
