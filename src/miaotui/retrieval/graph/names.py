"""Names of entities in questions: exact by words, else by spelling.

Owns how names and questions are cut into words and which mention wins. Knows entities as numbers. Invariants: a longer
mention wins over the shorter ones within it; among equals the exact spelling wins; Chinese characters are words of
their own; a misspelt name has the numbers of the name ("Charles V" is no "Charles X").
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_NAME_WORDS = 16
MAX_QUESTION_WORDS = 64
LEAST_LIKENESS = 0.75  # of the trigrams of a misspelt name and the name
_LEAST_CHARACTERS = 5  # of a name that may be misspelt
_CANDIDATES = 32
_UNITS = ("", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix")
_ROMAN = re.compile(rf"(x{{0,3}})({'|'.join(sorted(_UNITS, key=len, reverse=True))})")
_DIGITS = re.compile(r"([0-9]+)(?:st|nd|rd|th)?")
_ORDINAL_TEXT = """first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth
fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"""
_ORDINALS = tuple(_ORDINAL_TEXT.split())
_WORD = re.compile(r"'s\b|[\u2e80-\u9fff\uf900-\ufaff]|[^\W_\u2e80-\u9fff\uf900-\ufaff]+")


@dataclass(frozen=True)
class Mention:
    """Words ``[start, end)`` of a question that name entities, and how alike name and mention are (1: equal)."""

    start: int
    end: int
    entities: tuple[int, ...]
    likeness: float = 1.0


def words_of(text: str) -> list[str]:
    """Return the words of a text: lower case, no accents, no underscores or marks; ``'s`` is a word."""
    plain = unicodedata.normalize("NFKD", text.replace("’", "'").lower())
    plain = "".join(each for each in plain if not unicodedata.combining(each))
    return _WORD.findall(plain)


class EntityNames:
    """Index of names: by their words, and by trigrams for misspelt ones."""

    def __init__(self, names: Iterable[tuple[str, int]]) -> None:
        self._by_words: dict[str, list[int]] = defaultdict(list)
        for name, entity in names:
            key = " ".join(words_of(name)[:MAX_NAME_WORDS])
            if key and entity not in self._by_words[key]:
                self._by_words[key].append(entity)
        self._longest = max((key.count(" ") + 1 for key in self._by_words), default=0)
        self._keys = list(self._by_words)
        self._trigrams: dict[str, list[int]] | None = None  # until a name is misspelt

    @property
    def keys(self) -> Sequence[str]:
        """Return the different names, as words with a space between."""
        return self._keys

    def entities_of(self, key: str) -> tuple[int, ...]:
        """Return the entities of one of the `keys`."""
        return tuple(self._by_words[key])

    def mentions(self, words: Sequence[str]) -> list[Mention]:
        """Return the mentions in a question, best first: exact ones, else misspelt ones."""
        found = self._exact(words)
        if not any(self._is_telling(words[each.start : each.end]) for each in found):
            found += self._near(words)
        found = [each for each in found if not any(_covers(other, each) for other in found)]
        return sorted(found, key=lambda each: (-each.likeness, each.start - each.end, each.start))

    def _exact(self, words: Sequence[str]) -> list[Mention]:
        found = []
        for start in range(len(words)):
            for end in range(min(len(words), start + self._longest), start, -1):
                entities = self._by_words.get(" ".join(words[start:end]))
                if entities:
                    found.append(Mention(start, end, tuple(entities)))
                    break
        return found

    @staticmethod
    def _is_telling(words: Sequence[str]) -> bool:
        return len(words) > 1 or len(words[0]) > 2

    def _near(self, words: Sequence[str]) -> list[Mention]:
        """Return mentions whose trigrams are those of a name, mostly."""
        index = self._spelling()
        found = []
        for start in range(len(words)):
            for end in range(start + 1, min(len(words), start + self._longest) + 1):
                text = " ".join(words[start:end])
                if len(text) < _LEAST_CHARACTERS:
                    continue
                best = self._nearest(text, index)
                if best is not None:
                    found.append(Mention(start, end, tuple(self._by_words[self._keys[best[1]]]), best[0]))
        best_first = sorted(found, key=lambda each: (-each.likeness, each.start - each.end))
        return best_first[:4]

    def _nearest(self, text: str, index: dict[str, list[int]]) -> tuple[float, int] | None:
        parts, wanted = trigrams(text), numbers_of(text)
        shared: dict[int, int] = defaultdict(int)
        rare = sorted(parts, key=lambda part: (len(index.get(part, ())), part))[: max(4, len(parts) // 2)]
        for part in rare:
            for key in index.get(part, ())[:4096]:
                shared[key] += 1
        best = None
        for key in sorted(shared, key=lambda key: (-shared[key], key))[:_CANDIDATES]:
            other = trigrams(self._keys[key])
            likeness = 2 * len(parts & other) / (len(parts) + len(other))
            is_nearer = likeness >= LEAST_LIKENESS and (best is None or likeness > best[0])
            if is_nearer and numbers_of(self._keys[key]) == wanted:
                best = (likeness, key)
        return best

    def _spelling(self) -> dict[str, list[int]]:
        if self._trigrams is None:
            made: dict[str, list[int]] = defaultdict(list)
            for number, key in enumerate(self._keys):
                if len(key) >= _LEAST_CHARACTERS:
                    for part in trigrams(key):
                        made[part].append(number)
            self._trigrams = dict(made)
        return self._trigrams


def numbers_of(text: str) -> list[int]:
    """Return the numbers in a text of words, ascending: digits, ordinals to 20, and Roman numerals to 39."""
    return sorted(value for word in text.split(" ") if (value := _number(word)) is not None)


def _number(word: str) -> int | None:
    digits = _DIGITS.fullmatch(word)
    if digits:
        return int(digits[1][:18])
    roman = _ROMAN.fullmatch(word)
    if word and roman:
        return 10 * len(roman[1]) + _UNITS.index(roman[2])
    return 1 + _ORDINALS.index(word) if word in _ORDINALS else None


def trigrams(text: str) -> set[str]:
    """Return the runs of three characters of a text with its ends marked."""
    marked = f" {text} "
    return {marked[at : at + 3] for at in range(len(marked) - 2)}


def _covers(one: Mention, other: Mention) -> bool:
    """Return whether one mention holds another and is longer, and no worse."""
    longer = one.end - one.start > other.end - other.start
    return longer and one.start <= other.start and other.end <= one.end and one.likeness >= other.likeness
