"""Languages by code and English name, as people and programs write them: ``en-US``, ``zh_Hans_CN``, ``English``.

Owns the names and the older or longer forms of codes. Knows no models: `language_subtag` gives a short code, and the
model says whether it has it. Invariant: nothing is guessed; a word that is no known name or tag stays as it is.
Sources: BCP 47 (RFC 5646), section 2.2.1; openai/whisper, ``tokenizer.py``, for the codes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

NAMES: Mapping[str, str] = {
    "en": "English", "zh": "Chinese", "de": "German", "es": "Spanish", "ru": "Russian", "ko": "Korean",
    "fr": "French", "ja": "Japanese", "pt": "Portuguese", "tr": "Turkish", "pl": "Polish", "ca": "Catalan",
    "nl": "Dutch", "ar": "Arabic", "sv": "Swedish", "it": "Italian", "id": "Indonesian", "hi": "Hindi",
    "fi": "Finnish", "vi": "Vietnamese", "he": "Hebrew", "uk": "Ukrainian", "el": "Greek", "ms": "Malay",
    "cs": "Czech", "ro": "Romanian", "da": "Danish", "hu": "Hungarian", "ta": "Tamil", "no": "Norwegian",
    "th": "Thai", "ur": "Urdu", "hr": "Croatian", "bg": "Bulgarian", "lt": "Lithuanian", "la": "Latin", "mi": "Maori",
    "ml": "Malayalam", "cy": "Welsh", "sk": "Slovak", "te": "Telugu", "fa": "Persian", "lv": "Latvian",
    "bn": "Bengali", "sr": "Serbian", "az": "Azerbaijani", "sl": "Slovenian", "kn": "Kannada", "et": "Estonian",
    "mk": "Macedonian", "br": "Breton", "eu": "Basque", "is": "Icelandic", "hy": "Armenian", "ne": "Nepali",
    "mn": "Mongolian", "bs": "Bosnian", "kk": "Kazakh", "sq": "Albanian", "sw": "Swahili", "gl": "Galician",
    "mr": "Marathi", "pa": "Punjabi", "si": "Sinhala", "km": "Khmer", "sn": "Shona", "yo": "Yoruba", "so": "Somali",
    "af": "Afrikaans", "oc": "Occitan", "ka": "Georgian", "be": "Belarusian", "tg": "Tajik", "sd": "Sindhi",
    "gu": "Gujarati", "am": "Amharic", "yi": "Yiddish", "lo": "Lao", "uz": "Uzbek", "fo": "Faroese",
    "ht": "Haitian Creole", "ps": "Pashto", "tk": "Turkmen", "nn": "Nynorsk", "mt": "Maltese", "sa": "Sanskrit",
    "lb": "Luxembourgish", "my": "Burmese", "bo": "Tibetan", "tl": "Tagalog", "mg": "Malagasy", "as": "Assamese",
    "tt": "Tatar", "haw": "Hawaiian", "ln": "Lingala", "ha": "Hausa", "ba": "Bashkir", "jw": "Javanese",
    "su": "Sundanese", "yue": "Cantonese",
}  # fmt: skip
OTHER_NAMES: Mapping[str, str] = {
    "mandarin": "zh", "castilian": "es", "valencian": "ca", "flemish": "nl", "farsi": "fa", "moldavian": "ro",
    "moldovan": "ro", "sinhalese": "si", "panjabi": "pa", "pushto": "ps", "myanmar": "my", "letzeburgesch": "lb",
    "haitian": "ht", "filipino": "tl", "javanese": "jw",
}  # fmt: skip
OTHER_CODES: Mapping[str, str] = {
    "cmn": "zh", "iw": "he", "in": "id", "ji": "yi", "mo": "ro", "nb": "no", "fil": "tl", "jv": "jw",
}  # fmt: skip
_TAG = re.compile(r"([a-z]{2,3})(?:-[a-z0-9]{1,8})*")
_BY_NAME = {name.lower(): code for code, name in NAMES.items()} | dict(OTHER_NAMES)


def language_subtag(name: str) -> str:
    """Return the code of a language by tag or English name, in small letters; any other word in small letters."""
    wanted = name.strip().lower()
    if wanted in _BY_NAME:
        return _BY_NAME[wanted]
    tag = _TAG.fullmatch(wanted.replace("_", "-"))
    return OTHER_CODES.get(tag[1], tag[1]) if tag else wanted
