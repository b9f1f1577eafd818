"""Languages of translations: their codes and names, and which one a text is in.

Owns the list and the decision. Knows no models. Invariant: scripts that belong to one language decide by themselves;
only alphabetic text goes to the classifier (py3langid, Lui and Baldwin 2012).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from miaotui.errors import FieldError
from miaotui.libraries import need
from miaotui.text.language_names import language_subtag

LANGUAGES: Mapping[str, str] = {
    "en": "English", "zh": "Chinese", "ar": "Arabic", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek",
    "es": "Spanish", "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi", "hu": "Hungarian",
    "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "ms": "Malay", "nl": "Dutch",
    "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sv": "Swedish",
    "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese",
}  # fmt: skip
AUTO = "auto"
_SAMPLE = 2_000  # characters
_HAN, _KANA = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]"), re.compile("[\u3040-\u30ff]")
_SCRIPTS = {  # of one language here
    "ko": re.compile("[\uac00-\ud7af]"), "th": re.compile("[\u0e00-\u0e7f]"), "el": re.compile("[\u0370-\u03ff]"),
    "he": re.compile("[\u0590-\u05ff]"), "hi": re.compile("[\u0900-\u097f]"),
}  # fmt: skip


class DetectedLanguage(NamedTuple):
    """Language of a text, and the probability that the classifier gives it, in (0, 1]; 0 where it has no letters."""

    code: str
    confidence: float


def language_code(name: str, field: str) -> str:
    """Return the code of a language by code, tag (``en-US``) or English name. Raises `FieldError`."""
    wanted = language_subtag(name) if isinstance(name, str) else ""
    if wanted in LANGUAGES:
        return wanted
    raise FieldError(field, f"{str(name)[:40]!r} is no language that is known here; known are: {', '.join(LANGUAGES)}")


def model_language(name: str) -> str:
    """Return a language's code of two letters for its English name; any other word as it is."""
    try:
        return language_code(name, "target")
    except FieldError:
        return name


def detect(text: str) -> DetectedLanguage:
    """Return the language of a text, English where none is recognised."""
    sample = text[:_SAMPLE]
    letters = sum(letter.isalpha() for letter in sample)
    if not letters:
        return DetectedLanguage("en", 0.0)
    han, kana = len(_HAN.findall(sample)), len(_KANA.findall(sample))
    if kana and 5 * kana > han and 3 * (han + kana) > letters:
        return DetectedLanguage("ja", (han + kana) / letters)
    if 3 * han > letters:  # a Chinese character stands for a word of letters
        return DetectedLanguage("zh", max(han / letters, 0.5))
    for code, script in _SCRIPTS.items():
        if 2 * len(script.findall(sample)) > letters:
            return DetectedLanguage(code, 1.0)
    known = [(code, score) for code, score in need("py3langid").rank(sample) if code in LANGUAGES and code != "zh"]
    best = known[0][1]
    share = 1.0 / sum(math.exp(min(score - best, 0.0)) for _, score in known)
    if known[0][0] != "en" and sample.isascii() and (letters < 25 or share < 0.9):
        return DetectedLanguage("en", 0.5)  # too short to tell
    return DetectedLanguage(known[0][0], float(share))
