"""Codes of languages in encoder-decoders' vocabularies, and which one a caller means.

Owns the forms of codes of M2M100 (``__de__``), NLLB (``deu_Latn``), mBART (``de_DE``) and Marian (``>>deu<<``). Knows
no models. Invariant: a language is found only by a code that the vocabulary has; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from miaotui.errors import FieldError
from miaotui.text.language_names import language_subtag

MAX_SHOWN = 12
CODE = re.compile(r"__([a-z]{2,3})__|([a-z]{3}_[A-Z][a-z]{3})|([a-z]{2}_[A-Z]{2})|>>([A-Za-z_]{2,16})<<")
# Codes of two letters with their codes of three letters and NLLB's script, for what people write most.
LONG_CODES: Mapping[str, str] = {
    "ar": "arb_Arab", "bg": "bul_Cyrl", "cs": "ces_Latn", "da": "dan_Latn", "de": "deu_Latn", "el": "ell_Grek",
    "en": "eng_Latn", "es": "spa_Latn", "et": "est_Latn", "fa": "pes_Arab", "fi": "fin_Latn", "fr": "fra_Latn",
    "he": "heb_Hebr", "hi": "hin_Deva", "hu": "hun_Latn", "id": "ind_Latn", "it": "ita_Latn", "ja": "jpn_Jpan",
    "ko": "kor_Hang", "lt": "lit_Latn", "lv": "lvs_Latn", "ms": "zsm_Latn", "nl": "nld_Latn", "no": "nob_Latn",
    "pl": "pol_Latn", "pt": "por_Latn", "ro": "ron_Latn", "ru": "rus_Cyrl", "sk": "slk_Latn", "sl": "slv_Latn",
    "sv": "swe_Latn", "sw": "swh_Latn", "th": "tha_Thai", "tr": "tur_Latn", "uk": "ukr_Cyrl", "ur": "urd_Arab",
    "vi": "vie_Latn", "zh": "zho_Hans",
}  # fmt: skip


def language_codes(vocabulary: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return the codes among a vocabulary's tokens, without their brackets, and their ids."""
    found = {}
    for text, token in vocabulary:
        match = CODE.fullmatch(text)
        if match is not None:
            found[next(group for group in match.groups() if group)] = token
    return found


def found_language(name: str | None, codes: Mapping[str, int], role: str) -> str:
    """Return the code that ``name`` means; ``role`` names the field in errors.

    Raises `FieldError` where no language is named and where the model has none of that name.
    """
    shown = ", ".join(sorted(codes)[:MAX_SHOWN]) + (f" and {len(codes) - MAX_SHOWN} more" * (len(codes) > MAX_SHOWN))
    if not name:
        raise FieldError(role, f"this model translates between many languages: name one of {shown}")
    wanted = name.strip()
    long = LONG_CODES.get(wanted.lower(), wanted)
    short = language_subtag(wanted)
    exact = [code for code in codes if code.lower() in (wanted.lower(), long.lower(), long[:3].lower())]
    near = [code for code in codes if re.fullmatch(f"{re.escape(wanted)}_[A-Z]{{2}}", code)]
    tagged = [code for code in codes if code.lower() in (short, LONG_CODES.get(short, short).lower())]
    found = exact or (near if len(near) == 1 else tagged)
    if not found:
        raise FieldError(role, f"the model has no language {name[:40]!r}; it has {shown or 'none'}")
    return found[0]
