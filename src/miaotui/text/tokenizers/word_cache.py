"""Caches the encodings of words, since text repeats its words.

Owns the cache and its bounds. Does not know how a word is encoded.
Invariant: the answer is the same with and without the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

MAX_WORDS = 1 << 15
MAX_WORD_LENGTH = 48  # longer words rarely repeat


class WordCache:
    """Cache over `encode_word` for the short words that came last."""

    def __init__(self, encode_word: Callable[[str], tuple[int, ...]]) -> None:
        self._fresh = encode_word
        self._remembered = lru_cache(MAX_WORDS)(encode_word)

    def encode(self, words: Iterable[str]) -> list[int]:
        """Return the token ids of all `words`, in order."""
        remembered, fresh = self._remembered, self._fresh
        ids: list[int] = []
        for word in words:
            ids += remembered(word) if len(word) <= MAX_WORD_LENGTH else fresh(word)
        return ids
