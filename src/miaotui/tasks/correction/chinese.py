"""Candidates of correction for Chinese: characters that sound or look alike, and characters written twice.

Owns the choice among the groups of `confusions`. A character is exchanged where it then forms a word with its
neighbours, by jieba's dictionary, or where it is a common word of its own. Invariant: only Chinese characters are
exchanged, one for one.
"""

from __future__ import annotations

from collections.abc import Callable

from miaotui.tasks.correction.candidates import EditCandidate
from miaotui.tasks.correction.confusions import WORDS, confused

SOUND, ALONE, PARTICLE, DOUBLED = 3.5, 5.0, 2.0, 2.5  # nats
ONCE = "的了是在和就也都有我你他这那不"  # characters that are seldom meant twice


def chinese_candidates(sentence: str, is_word: Callable[[str], bool]) -> list[EditCandidate]:
    """Return what may be wrong in a sentence, with what may be right; ``is_word`` looks a word up."""
    found: list[EditCandidate] = []
    for at, character in enumerate(sentence):
        for other, is_particle in confused(character):
            if is_particle or _forms_word(sentence, at, other, is_word):
                found.append(EditCandidate(at, at + 1, other, PARTICLE if is_particle else SOUND))
            elif other in WORDS:
                found.append(EditCandidate(at, at + 1, other, ALONE))
        if character in ONCE and sentence[at + 1 : at + 2] == character:
            found.append(EditCandidate(at, at + 1, "", DOUBLED))
    return list(dict.fromkeys(found))


def _forms_word(sentence: str, at: int, other: str, is_word: Callable[[str], bool]) -> bool:
    """Return whether a character forms a word of two to four characters at this place."""
    changed = sentence[:at] + other + sentence[at + 1 :]
    for length in (2, 3, 4):
        for start in range(max(at - length + 1, 0), at + 1):
            word = changed[start : start + length]
            if len(word) == length and at < start + length and is_word(word):
                return True
    return False
