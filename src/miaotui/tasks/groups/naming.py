"""Names of groups of texts: the words that many of a group's texts have and few others.

Owns the score of a word. Knows no vectors. Invariant: a name is made of words of the group's own texts. The score is
the share of the group's texts with the word, times the logarithm of how rare the word is in all texts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from miaotui.tasks.word_effects import placed_words

NAME_WORDS = 3
LONGEST_WORD = 40  # characters
MOST_WORDS = 64  # of a text that are counted


def words_in(text: str) -> set[str]:
    """Return the different words of a text, in lower case; single letters and numbers are none."""
    found = (each.text.lower() for each in placed_words(text[:4096])[:MOST_WORDS])
    return {each for each in found if len(each) <= LONGEST_WORD and not each.isdigit() and _is_word(each)}


def group_words(groups: Sequence[Sequence[str]], count: int = NAME_WORDS) -> list[list[str]]:
    """Return the words that describe each group of texts, the most telling first."""
    inside = [Counter(word for text in texts for word in words_in(text)) for texts in groups]
    everywhere: Counter[str] = Counter()
    for each in inside:
        everywhere.update(each)
    total = sum(len(texts) for texts in groups)

    def score(word: str, words: Counter[str], size: int) -> float:
        return words[word] / size * math.log(1.0 + total / everywhere[word])

    return [
        sorted(words, key=lambda word: (-score(word, words, max(len(texts), 1)), word))[:count]
        for words, texts in zip(inside, groups, strict=True)
    ]


def _is_word(text: str) -> bool:
    return len(text) > 1 or text >= "\u3400"
