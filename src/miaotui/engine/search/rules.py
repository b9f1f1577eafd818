"""Rules of a search about the next token: which is forced, and which are kept out.

Owns each rule. Knows neither scores nor beams nor models. Invariant: a rule reads the target's own tokens and the
settings alone, so targets do not depend on each other. Source: transformers' logits processors, as its ``generate``
applies them: a forced token is the only one, at no cost, and is kept out by suppressed tokens alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from miaotui.model.seq2seq.generation import GenerationSettings


class TokenRules:
    """Rules of one search, over targets that begin with the start token and ``settings.prefix``."""

    def __init__(self, settings: GenerationSettings) -> None:
        self._settings = settings
        self._suppressed = frozenset(settings.suppressed_ids)
        self._words = [word for word in settings.bad_words if len(word) > 1]
        single = [word[0] for word in settings.bad_words if len(word) == 1 and word[0] not in settings.eos_ids]
        self._single = frozenset(single)
        self._first_length = 1 + len(settings.prefix)
        begins_later = settings.forced_bos_id is not None and self._first_length == 1
        self._begin_length = self._first_length + begins_later

    def forced(self, length: int) -> tuple[int, ...] | None:
        """Return the only tokens that may stand behind ``length`` tokens; None: the scores decide."""
        settings = self._settings
        if length < self._first_length:
            return (settings.prefix[length - 1],)
        if settings.forced_eos_ids and length == settings.max_length - 1:
            return self._without(settings.forced_eos_ids, length)
        if settings.forced_bos_id is not None and length == 1:
            return self._without((settings.forced_bos_id,), length)
        return None

    def kept_out(self, tokens: Sequence[int]) -> Collection[int]:
        """Return the tokens that may not stand behind ``tokens``."""
        settings, length = self._settings, len(tokens)
        found = set(self._suppressed | self._single)
        if settings.no_repeat_ngram_size:
            found.update(repeated(tokens, settings.no_repeat_ngram_size))
        if length < settings.min_length:
            found.update(settings.eos_ids)
        if length == self._begin_length:
            found.update(settings.begin_suppressed_ids)
        for word in self._words:
            before = len(word) - 1
            if before <= length and tuple(tokens[length - before :]) == word[:-1]:
                found.add(word[-1])
        return found

    def _without(self, forced: Sequence[int], length: int) -> tuple[int, ...]:
        also = self._settings.begin_suppressed_ids if length == self._begin_length else ()
        return tuple(token for token in forced if token not in self._suppressed and token not in also)


def repeated(tokens: Sequence[int], size: int) -> list[int]:
    """Return the tokens that would repeat a run of ``size`` tokens."""
    if len(tokens) < size:
        return []
    end = tuple(tokens[len(tokens) + 1 - size :])
    starts = range(len(tokens) - size + 1)
    return [tokens[start + size - 1] for start in starts if tuple(tokens[start : start + size - 1]) == end]
