"""Correction of misspelt English words, for scanned and hastily typed texts. Optional, off by default.

Owns the rule for changing a word: it is lower-case, unknown, and one edit away from a word at least a hundred times
likelier than chance. Knows nothing of documents. The dictionary and method are SymSpell's (symspellpy).
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from typing import Any

from miaotui.libraries import need

_WORD = re.compile(r"(?<![\w'-])[a-z]{4,24}(?![\w'-])")
_COMMON = 100_000  # occurrences in the dictionary's corpus


def corrected(text: str) -> str:
    """Return ``text`` with misspelt words replaced. Names, numbers and words with capitals stay."""
    return _WORD.sub(lambda match: _correction(match[0]), text)


@lru_cache(maxsize=65_536)
def _correction(word: str) -> str:
    speller, verbosity = _speller()
    near = speller.lookup(word, verbosity, max_edit_distance=1)
    return str(near[0].term) if near and near[0].distance and near[0].count > _COMMON else word


@lru_cache(maxsize=1)
def _speller() -> tuple[Any, Any]:
    symspellpy = need("symspellpy")
    speller = symspellpy.SymSpell(max_dictionary_edit_distance=1)
    path = files("symspellpy") / "frequency_dictionary_en_82_765.txt"
    speller.load_dictionary(str(path), term_index=0, count_index=1)
    return speller, symspellpy.Verbosity.TOP
