"""Cuts text into words as byte-level BPE models do, by the names in GGUF files.

Owns the table of patterns and the cutting, done by the `tokenizers` library's regular expressions.
Knows no tokens. Invariant: the words of a text, joined, are the text.
Source: the models' own ``tokenizer.json`` files; the names are those of llama.cpp's converter.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from miaotui.errors import UnsupportedModelError

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# GPT-2's after every digit was cut off on its own, in one pattern: the end of a run before a digit
# is then the end of a piece, hence the changed look-ahead.
_DIGITS_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _TAIL
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_MIXED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+"  # aWord, Word
_CAPITAL = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"  # WORD, Word
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _TAIL
_TEKKEN = rf"{_MIXED}|{_CAPITAL}|\p{{N}}|{_SYMBOLS}"
_GPT4O = rf"{_MIXED}{_CONTRACTIONS}?|{_CAPITAL}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_SYMBOLS}"
# Letters with case, as one version of Unicode knew them; escaped, since editors compose some.
_CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1"
    "\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5"
    "\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a"
    "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3"
    "\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115"
    "\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149"
    "\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
_HAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"


class PreTokenizer(NamedTuple):
    """Treatment of text before merging in one family of models.

    `patterns` are applied one after the other: each cuts what the one before left into matches and
    the text between them. `whole_words`: a word that is a token needs no merges. `begins`: a
    beginning-of-text token is put first unless the file says otherwise. `composes`: Unicode NFC.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    begins: bool = False
    composes: bool = False

    def splitter(self) -> Callable[[str], list[tuple[str, tuple[int, int]]]]:
        """Return a function that cuts text into words, each with its place."""
        from tokenizers import Regex, pre_tokenizers  # noqa: PLC0415 - only these models need it

        steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        cut = (steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)).pre_tokenize_str
        if not self.composes:
            return cut
        normalize = unicodedata.normalize
        return lambda text: cut(normalize("NFC", text))


_JINA = ("jina-v1-en", "jina-v2-code", "jina-v2-de", "jina-v2-en", "jina-v2-es")
_FAMILIES: tuple[tuple[PreTokenizer, tuple[str, ...]], ...] = (
    (PreTokenizer((_GPT2,)), ("default", "gpt-2", "phi-2", "mpt", "olmo", "roberta-bpe", *_JINA)),
    (PreTokenizer((_DIGITS_GPT2,)), ("smollm", "starcoder", "refact", "command-r", "codeshell")),
    (
        PreTokenizer((_LLAMA3,), whole_words=True, begins=True),
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"),
    ),
    (PreTokenizer((_LLAMA3,)), ("dbrx", "smaug-bpe")),
    (PreTokenizer((_QWEN2,), composes=True), ("qwen2",)),
    (PreTokenizer((_QWEN2,)), ("deepseek-r1-qwen", "stablelm2")),
    (PreTokenizer((_TEKKEN,), whole_words=True, begins=True), ("tekken",)),
    (PreTokenizer((_GPT4O,)), ("gpt-4o", "llama4")),
    (
        PreTokenizer(
            (
                r"[\r\n]",
                r"\s?[" + _CASED_LETTERS + "]+",
                r"\s?[!-/:-~" + "\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
                r"\s+$",
                _HAN,
                r"\p{N}+",
            )
        ),
        ("deepseek-llm",),
    ),
    (PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, r"\p{N}")), ("deepseek-coder",)),
)
_BY_NAME = {name: family for family, names in _FAMILIES for name in names}


def pretokenizer(name: str) -> PreTokenizer:
    """Return the pre-tokenizer of a GGUF name. Raises `UnsupportedModelError` for an unknown one."""
    found = _BY_NAME.get(name)
    if found is None:
        raise UnsupportedModelError(
            f"unknown pre-tokenizer {name[:64]!r}; known ones: {', '.join(sorted(_BY_NAME))}. "
            "Use the model's own folder with its tokenizer.json instead of this GGUF file."
        )
    return found
