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
_END_SPACES = r"\s+(?!\S)|\s+"
_TAIL = r"\s*[\r\n]+|" + _END_SPACES
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|" + _END_SPACES
# GPT-2's after every digit was cut off on its own, in one pattern: the end of a run before a digit
# is then the end of a piece, hence the changed look-ahead.
_DIGITS_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
GPT2_PATTERN, SINGLE_DIGITS = _GPT2, "[0-9]"  # the steps of ``tokenizer.json`` that have no pattern of their own
_LETTERS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|"
_LLAMA3 = rf"{_LETTERS}|\p{{N}}{{1,3}}|{_OTHERS}{_TAIL}"
_QWEN2 = rf"{_LETTERS}|\p{{N}}|{_OTHERS}{_TAIL}"
_QWEN35 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _TAIL
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|" + _END_SPACES
_SEED = rf"{_LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_TAIL}"
_EXAONE_MOE = (
    _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|"
    + _END_SPACES
)
_JAIS2 = (
    rf"{_LETTERS}|\p{{N}}{{1,3}}|{_OTHERS}\s*[\r\n]+|"
    + "".join(rf"\s{{{count}}}(?!\S)|" for count in (512, 256, 128, 64, 32, 16, 8, 4))
    + r"\s{1,2}(?!\S)|\s{1}"
)
_CAPITALS, _SMALL = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _TAIL


def _cased(capitals: str, small: str, ending: str = "") -> str:
    """Return the pattern of words with one change of case (aWord, Word; then WORD), each with its `ending`."""
    before = r"[^\r\n\p{L}\p{N}]?"
    return f"{before}[{capitals}]*[{small}]+{ending}|{before}[{capitals}]+[{small}]*{ending}"


_TEKKEN = rf"{_cased(_CAPITALS, _SMALL)}|\p{{N}}|{_SYMBOLS}"
_GPT4O_WORDS = _cased(_CAPITALS, _SMALL, _CONTRACTIONS + "?")
_GPT4O = rf"{_GPT4O_WORDS}|\p{{N}}{{1,3}}|{_SYMBOLS}"
_WITHOUT_HAN = r"&&[^\p{Han}]"
_KIMI = (
    rf"\p{{Han}}+|{_cased(_CAPITALS + _WITHOUT_HAN, _SMALL + _WITHOUT_HAN, _CONTRACTIONS + '?')}"
    rf"|\p{{N}}{{1,3}}|{_OTHERS}{_TAIL}"
)
_SIGNS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""  # of ASCII
_DEEPSEEK3_WORDS = _SIGNS + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"
_DEEPSEEK3 = rf"{_DEEPSEEK3_WORDS}[\r\n]*|{_TAIL}"
_KANJI = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"  # and kana
_YOUTU = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    "|[\u3105-\u312f]+|" + _KANJI
)
_ASIAN = (
    "[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f"
    "\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_BLOOM = r" ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_LINES = r"[^\n]+|\n+"
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
    `marks_spaces`: tokens are written in their own characters with ``▁`` for a space, and bytes as ``<0x..>``
    (SentencePiece's alphabet), instead of one character for each byte.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    begins: bool = False
    composes: bool = False
    marks_spaces: bool = False

    def splitter(self) -> Callable[[str], list[tuple[str, tuple[int, int]]]]:
        """Return a function that cuts text into words, each with its place."""
        from tokenizers import Regex, pre_tokenizers  # noqa: PLC0415 - only these models need it

        steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        cut = (steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)).pre_tokenize_str
        if not self.composes:
            return cut
        normalize = unicodedata.normalize
        return lambda text: cut(normalize("NFC", text))


_JINA = ("jina-v1-en", "jina-v2-code", "jina-v2-de", "jina-v2-en", "jina-v2-es", "jina-de", "jina-es")
_RENAMED_GPT2 = ("phi-2", "mpt", "olmo", "gigachat", "a.x-4.0", "mellum", "exaone4", "modern-bert", "roberta-bpe")
_FAMILIES: tuple[tuple[PreTokenizer, tuple[str, ...]], ...] = (
    (PreTokenizer((_GPT2,)), ("default", "gpt-2", "jais", "trillion", "granite-docling", *_RENAMED_GPT2, *_JINA)),
    (PreTokenizer((_DIGITS_GPT2,)), ("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2")),
    (PreTokenizer((_DIGITS_GPT2,), composes=True), ("command-r",)),
    (
        PreTokenizer((_LLAMA3,), whole_words=True, begins=True),
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
    ),
    (PreTokenizer((_LLAMA3,)), ("dbrx", "smaug-bpe", "chatglm-bpe")),
    (PreTokenizer((_LLAMA3,), whole_words=True), ("glm4", "glm5")),
    (PreTokenizer((r"\p{N}{1,3}", _LLAMA3.replace("{1,3}", "+")), whole_words=True), ("minicpm5",)),
    (PreTokenizer((_QWEN2,), composes=True), ("qwen2", "f2llmv2", "hunyuan")),
    (PreTokenizer((_QWEN2,)), ("deepseek-r1-qwen", "stablelm2", "kormo", "megrez", "grok-2", "solar-open")),
    (PreTokenizer((_QWEN35,), composes=True), ("qwen35",)),
    (PreTokenizer((_QWEN2.removeprefix(_CONTRACTIONS + "|"),)), ("ufakzeka",)),
    (PreTokenizer((_LINES, _QWEN2)), ("laguna",)),
    (PreTokenizer((_BAILING,)), ("bailingmoe", "bailingmoe2", "llada-moe")),
    (PreTokenizer((_SEED,)), ("seed-coder",)),
    (PreTokenizer((_EXAONE_MOE,)), ("exaone-moe",)),
    (PreTokenizer((_JAIS2,)), ("jais-2",)),
    (PreTokenizer((_TEKKEN,), whole_words=True, begins=True), ("tekken",)),
    (PreTokenizer((_GPT4O,)), ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2")),
    (PreTokenizer((_GPT4O,), whole_words=True), ("granite-embed-multi-97m",)),
    (PreTokenizer((r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)), ("tiny_aya", "cohere2moe")),
    (PreTokenizer((_KIMI,)), ("kimi-k2",)),
    (PreTokenizer((r"\p{N}{1,3}", _KANJI, _DEEPSEEK3)), ("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4")),
    (PreTokenizer((r"\p{N}{1,3}", _KANJI, rf"{_DEEPSEEK3_WORDS}|[\r\n]|{_END_SPACES}", r"\p{N}")), ("spark2_5",)),
    (PreTokenizer((_YOUTU, rf"{_GPT4O_WORDS}|\p{{N}}|{_SYMBOLS}"), whole_words=True), ("youtu",)),
    (PreTokenizer((r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", _ASIAN, _DEEPSEEK3)), ("afmoe",)),
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
    (PreTokenizer((r"[\p{P}$+<=>^~|`]+", _GPT2, "[0-9][0-9][0-9]")), ("falcon",)),
    (PreTokenizer((_BLOOM,)), ("poro-chat", "bloom", "gpt3-finnish")),
    (PreTokenizer((_BLOOM, r"\p{N}")), ("viking",)),
    (
        PreTokenizer(
            (
                "<sentinel:[0-9]+>",
                "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",  # an image token, as text
                r"[\t\n]|    |  ",
                r"\p{N}",
                r"[\p{P}!-/:-@\[-`{-~]",
                _GPT2,
            ),
            begins=True,
        ),
        ("chameleon",),
    ),
    (PreTokenizer((r"\p{N}+", r"(?=(\d{3})+(?!\d))")), ("superbpe",)),
    (PreTokenizer((_LINES,), begins=True, marks_spaces=True), ("gemma4", "granite-embed-multi-311m")),
    (PreTokenizer((_LINES,), marks_spaces=True), ("sarvam-moe",)),
)
_BY_NAME = {name: family for family, names in _FAMILIES for name in names}


def pretokenizer(name: str) -> PreTokenizer:
    """Return the pre-tokenizer of a GGUF name. Raises `UnsupportedModelError` for an unknown one."""
    found = _BY_NAME.get(name)
    if found is None:
        raise UnsupportedModelError(
            f"unknown pre-tokenizer {name[:64]!r}, none of the {len(_BY_NAME)} known here. Put the model's own "
            "tokenizer.json beside this GGUF file, or use the model's own folder instead."
        )
    return found


def cut_names(patterns: tuple[str, ...], whole_words: bool, composes: bool | None) -> list[str]:
    """Return the GGUF names under which text is cut by these ``patterns``, see `PreTokenizer`; none: unknown cuts."""
    if patterns == (SINGLE_DIGITS, GPT2_PATTERN):
        patterns = (_DIGITS_GPT2,)
    wanted = patterns, whole_words, composes, False
    return [
        name
        for family, names in _FAMILIES
        if (family.patterns, family.whole_words, family.composes, family.marks_spaces) == wanted
        for name in names
        if name != "default"
    ]
