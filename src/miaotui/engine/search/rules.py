"""Rules that change a row's scores before its next token is chosen: forced, forbidden and repeated tokens.

Owns each rule and their order. Knows neither beams nor models. Invariant: a rule reads the row's own tokens and the
settings alone, so rows do not depend on each other. Source: transformers' logits processors, in the order in which its
``generate`` applies them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.model.seq2seq.generation import GenerationSettings

Scores = NDArray[np.float32]
NEVER = np.float32(-np.inf)


class ScoreRules:
    """Rules of one search, over targets that begin with the start token and ``settings.prefix``."""

    def __init__(self, settings: GenerationSettings) -> None:
        self._settings = settings
        self._eos = np.array(settings.eos_ids, np.intp)
        self._suppressed = np.array(settings.suppressed_ids, np.intp)
        self._words = [word for word in settings.bad_words if len(word) > 1]
        single = [word[0] for word in settings.bad_words if len(word) == 1 and word[0] not in settings.eos_ids]
        self._single = np.array(single, np.intp)
        self._first_length = 1 + len(settings.prefix)
        begins_later = settings.forced_bos_id is not None and self._first_length == 1
        self._begin_length = self._first_length + begins_later

    def apply(self, tokens: Sequence[int], scores: Scores) -> Scores:
        """Return the scores ``[vocab]`` of the token behind ``tokens``; those given are changed."""
        settings, length = self._settings, len(tokens)
        if settings.no_repeat_ngram_size:
            scores[repeated(tokens, settings.no_repeat_ngram_size)] = NEVER
        if settings.bad_words:
            self._ban_words(tokens, scores)
        if length < settings.min_length:
            scores[self._eos] = NEVER
        if settings.forced_bos_id is not None and length == 1:
            scores[:] = NEVER
            scores[settings.forced_bos_id] = 0
        if settings.forced_eos_ids and length == settings.max_length - 1:
            scores[:] = NEVER
            scores[list(settings.forced_eos_ids)] = 0
        scores[self._suppressed] = NEVER
        if length == self._begin_length and settings.begin_suppressed_ids:
            scores[list(settings.begin_suppressed_ids)] = NEVER
        return scores

    def _ban_words(self, tokens: Sequence[int], scores: Scores) -> None:
        scores[self._single] = NEVER
        for word in self._words:
            before = len(word) - 1
            if before <= len(tokens) and tuple(tokens[len(tokens) - before :]) == word[:-1]:
                scores[word[-1]] = NEVER


def repeated(tokens: Sequence[int], size: int) -> list[int]:
    """Return the tokens that would repeat a run of ``size`` tokens."""
    if len(tokens) < size:
        return []
    end = tuple(tokens[len(tokens) + 1 - size :])
    starts = range(len(tokens) - size + 1)
    return [tokens[start + size - 1] for start in starts if tuple(tokens[start : start + size - 1]) == end]


def log_softmax(logits: Scores) -> Scores:
    """Return log-probabilities over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    scores: Scores = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return scores
