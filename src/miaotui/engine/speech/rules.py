"""Rules about the next token of a window's text: suppressed tokens, and timestamps in pairs that never go back.

Owns each rule. Knows neither searches nor models. Invariant: a rule reads the tokens written so far and their scores
alone. Source: openai/whisper, ``decoding.py`` (`SuppressBlank`, `SuppressTokens`, `ApplyTimestampRules`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.text.speech.tokens import TOKENS_A_SECOND, SpeechTokens

Floats = NDArray[np.float32]
NEVER = np.float32(-np.inf)
MAX_INITIAL_S = 1.0  # a window's first timestamp is no later


class TimestampRules:
    """Rules of one vocabulary."""

    def __init__(self, tokens: SpeechTokens) -> None:
        self._first, self._end = tokens.first_timestamp, tokens.end
        self._suppressed = np.array(tokens.suppressed, np.intp)
        self._begin_suppressed = np.array(tokens.begin_suppressed, np.intp)
        self._last_initial = tokens.first_timestamp + int(MAX_INITIAL_S * TOKENS_A_SECOND)

    def logprobs(self, logits: Floats, written: Sequence[int]) -> Floats:
        """Return log-probabilities of the tokens that may follow ``written``, from logits ``[vocab]``.

        Those that may not follow have -inf. Logits that are not numbers count as -inf.
        """
        scores = np.nan_to_num(logits, nan=-np.inf, posinf=np.finfo(np.float32).max, neginf=-np.inf)
        scores[self._suppressed] = NEVER
        if written:
            self._pair(scores, written)
            self._prefer_timestamps(scores)
        else:
            scores[self._begin_suppressed] = NEVER
            scores[: self._first] = NEVER
            scores[self._last_initial + 1 :] = NEVER
        return normalized(scores)

    def _pair(self, scores: Floats, written: Sequence[int]) -> None:
        """Let timestamps come in pairs, which end one segment and begin the next, and never decrease."""
        last_is_time = written[-1] >= self._first
        before_is_time = len(written) < 2 or written[-2] >= self._first
        if last_is_time and before_is_time:
            scores[self._first :] = NEVER
        elif last_is_time:
            scores[: self._end] = NEVER
        times = [token for token in written if token >= self._first]
        if times:
            opens = last_is_time and not before_is_time  # the next segment may begin where the last one ends
            scores[self._first : times[-1] + (not opens)] = NEVER

    def _prefer_timestamps(self, scores: Floats) -> None:
        """Keep text out where all timestamps together are likelier than the likeliest text."""
        times = scores[self._first :]
        highest = times.max()
        if highest == NEVER:
            return
        total = highest + np.log(np.exp(times - highest).sum())
        if total > scores[: self._first].max():
            scores[: self._first] = NEVER


def normalized(scores: Floats) -> Floats:
    """Return scores less the log of their total, in place; all -inf where nothing may follow."""
    highest = scores.max()
    if highest == NEVER:
        return scores
    scores -= highest + np.log(np.exp(scores - highest).sum())
    return scores
