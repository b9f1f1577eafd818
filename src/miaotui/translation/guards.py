"""Guards of a translation: loops, echoes of the source, wrong scripts, and answers to the text instead of translations.

Owns the checks. Knows no models. Invariant: a check looks at source and translation alone, and its reason is one
sentence, or None where nothing is wrong.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher

MOST_REPEATS = 4  # of a run of words that the source does not repeat
MOST_GROWTH = 4.0  # of characters that carry meaning, a Chinese one counted as three
SLACK = 40  # characters that short texts may grow by
ECHO = 0.8  # likeness from which a translation is the source again
MOST_COMPARED = 2_000  # characters
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")
_WORD = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]|[^\\W\u3400-\u4dbf\u4e00-\u9fff]+")
_SAME = re.compile(r"(\S{1,12}?)\1{7,}")
_LOWER = re.compile(r"\b[a-z]{2,}\b")
_LEFT = re.compile(r"(?<![A-Za-z.@/-])[a-z]{3,}(?![A-Za-z.@/-])")
_LATIN = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_WITH_HAN = {"zh", "ja"}


def fault_of(source: str, translation: str, source_code: str, target_code: str) -> str | None:
    """Return what is wrong with a translation, None if nothing is."""
    if not translation.strip():
        return "the model wrote nothing"
    if repeats(translation) > max(MOST_REPEATS, repeats(source)):
        return "the model repeated itself"
    if weight(translation) > MOST_GROWTH * weight(source) + SLACK:
        return "the translation is far longer than the text"
    if source_code != target_code and is_echo(source, translation, target_code):
        return "the model gave the text back untranslated"
    return wrong_script(source, translation, target_code)


def repeats(text: str) -> int:
    """Return how often a run of one to eight words, or of few characters, stands one after the other at most."""
    words = [word.casefold() for word in _WORD.findall(text)]
    most = 1 if words else 0
    for size in range(1, 9):
        run = longest = 0
        for place in range(size, len(words)):
            run = run + 1 if words[place] == words[place - size] else 0
            longest = max(longest, run)
        most = max(most, longest // size + 1 if longest else 0)
    return max(most, *(len(match[0]) // len(match[1]) for match in _SAME.finditer(text)), 0, 0)


def weight(text: str) -> int:
    """Return the characters of a text, each Chinese, Japanese or Korean one counted as three."""
    return len(text) + 2 * len(_CJK.findall(text))


def is_echo(source: str, translation: str, target_code: str) -> bool:
    """Return whether a translation is the source, but for names and other words that both languages share."""
    before, after = " ".join(source.casefold().split()), " ".join(translation.casefold().split())
    if target_code in _WITH_HAN and not _CJK.search(source):
        return not _CJK.search(translation) and len(_LOWER.findall(translation)) > 1
    if _HAN.search(source) and target_code not in _WITH_HAN:
        return len(_HAN.findall(after)) > 0.5 * len(_HAN.findall(before)) and len(_HAN.findall(after)) > 1
    if len(_LOWER.findall(source)) < 3:
        return False
    return (
        SequenceMatcher(None, before, after, autojunk=False).ratio() > ECHO if len(before) < 2_000 else before == after
    )


def left_words(source: str, translation: str, target_code: str) -> list[str]:
    """Return the words of a source in Latin letters, but for names, that a Chinese or Japanese translation has."""
    if target_code not in _WITH_HAN or _CJK.search(source):
        return []
    known = set(_LEFT.findall(source))
    return [word for word in _LEFT.findall(translation) if word in known]


def names_of(source: str) -> list[str]:
    """Return the words of a source that a translation may keep: those with a capital, but for a plain first word."""
    words = _LATIN.findall(source)
    plain_first = words and words[0][1:].islower() and not (len(words) > 1 and words[1][:1].isupper())
    return [word for word in dict.fromkeys(words[1:] if plain_first else words) if not word.islower()]


def wrong_script(source: str, translation: str, target_code: str) -> str | None:
    """Return whether the translation is in a script that its language does not have."""
    letters = sum(letter.isalpha() for letter in translation)
    cjk = len(_CJK.findall(translation))
    if target_code not in ("zh", "ja", "ko") and cjk:
        return "the translation has characters that its language does not have"
    if target_code in ("zh", "ja", "ko") and letters and not cjk and len(_LOWER.findall(source)) > 1:
        return "the translation has no character of its language"
    return None
