"""Language of a text, as a two-letter code for filters.

Owns the decision; ranking does not depend on it. Scripts that belong to one language decide by themselves; only
alphabetic text goes to the classifier (py3langid, Lui & Baldwin 2012).
"""

from __future__ import annotations

import re

from miaotui.libraries import need

_SAMPLE_CHARS = 2_000
_FEWEST_LETTERS = 20
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_KANA = re.compile("[\u3040-\u30ff]")
_HANGUL = re.compile("[\uac00-\ud7af]")


def language_of(text: str) -> str:
    """Return ``zh``, ``en``, … or an empty text if the text is too short."""
    sample = text[:_SAMPLE_CHARS]
    letters = sum(char.isalpha() for char in sample)
    if not sample.isascii():
        han, kana = len(_HAN.findall(sample)), len(_KANA.findall(sample))
        hangul = len(_HANGUL.findall(sample))
        if 2 * (han + kana + hangul) > letters:
            if 5 * kana > han:
                return "ja"
            return "ko" if hangul > han else "zh"
    if letters < _FEWEST_LETTERS:
        return ""
    return str(need("py3langid").classify(sample)[0])
