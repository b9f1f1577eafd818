"""Builds BERT's WordPiece tokenizer from a vocabulary alone: ``vocab.txt``, or llama.cpp's in a GGUF file.

Owns BERT's rules (clean-up, CJK characters apart, lower case and accents, punctuation apart, greedy longest match) as
settings of the `tokenizers` library. Invariant: the vocabulary keeps its ids. Source: Devlin et al. 2019,
arXiv:1810.04805; GGUF's vocabulary writes ``word`` as ``▁word`` and ``##part`` as ``part``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaotui.errors import ModelFormatError
from miaotui.text.model_files import read_json, read_text, token_text
from miaotui.text.tokenizers.gguf_vocabulary import GgufVocabulary, TokenType
from miaotui.text.tokenizers.huggingface import CONTINUATION
from miaotui.text.tokenizers.sentencepiece import SPACE

if TYPE_CHECKING:
    import tokenizers

MAX_WORDS = 1 << 21
MAX_CHARACTERS = 100  # a longer word is unknown
_BRACKETED = re.compile(r"\[(PAD|UNK|CLS|SEP|MASK|unused\d+)\]")


@dataclass(frozen=True, kw_only=True)
class WordPieceRules:
    """Treatment of text before it is matched, and the special tokens' texts.

    ``strip_accents``: None means as ``lower_case``.
    """

    lower_case: bool = True
    strip_accents: bool | None = None
    chinese_characters: bool = True
    unknown: str = "[UNK]"
    first: str = "[CLS]"
    separator: str = "[SEP]"
    others: tuple[str, ...] = ("[PAD]", "[MASK]")


def wordpiece_from_vocabulary(folder: Path) -> tokenizers.Tokenizer:
    """Build the tokenizer of a folder's ``vocab.txt`` and ``tokenizer_config.json``; raises `ModelFormatError`."""
    file = folder / "vocab.txt"
    words = read_text(file).split("\n")
    if words and not words[-1]:
        words.pop()
    config = read_json(folder / "special_tokens_map.json") | read_json(folder / "tokenizer_config.json")
    ids: dict[str, int] = {}
    for index, word in enumerate(words):
        ids[word.rstrip("\r")] = index  # a word written twice has its last id, as in transformers
    return wordpiece_backend(ids, _rules(config), str(file))


def wordpiece_from_gguf(vocabulary: GgufVocabulary) -> tokenizers.Tokenizer:
    """Build the tokenizer of a GGUF file whose ``tokenizer.ggml.model`` is ``bert``; raises `ModelFormatError`."""
    controls = vocabulary.marker_ids
    ids: dict[str, int] = {}
    for index, token in enumerate(vocabulary.tokens):
        ids.setdefault(_plain(token, index in controls), index)
    names = {
        key: vocabulary.tokens[found]
        for key in ("unknown", "cls", "bos", "seperator", "separator", "eos", "padding", "mask")
        if (found := vocabulary.token_id(f"{key}_token_id")) is not None
    }
    rules = WordPieceRules(
        lower_case=vocabulary.flag("normalizer.lowercase", not _is_cased(vocabulary)),
        strip_accents=_flag_or_none(vocabulary, "normalizer.strip_accents"),
        unknown=names.get("unknown", "[UNK]"),
        first=names.get("cls") or names.get("bos", "[CLS]"),
        separator=names.get("seperator") or names.get("separator") or names.get("eos", "[SEP]"),
        others=(names.get("padding", "[PAD]"), names.get("mask", "[MASK]")),
    )
    return wordpiece_backend(ids, rules, "the GGUF file's tokenizer")


def wordpiece_backend(ids: Mapping[str, int], rules: WordPieceRules, source: str) -> tokenizers.Tokenizer:
    """Build the library's tokenizer for WordPiece ``ids`` by text; ``source`` names them in errors.

    Raises `ModelFormatError` without the special tokens that ``rules`` name, or with too many words.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors  # noqa: PLC0415

    if not 1 <= len(ids) <= MAX_WORDS:
        raise ModelFormatError(f"{source} has {len(ids):,} words; expected 1 to {MAX_WORDS:,}: get it again")
    missing = [name for name in (rules.unknown, rules.first, rules.separator) if name not in ids]
    if missing:
        raise ModelFormatError(f"{source} lacks the special token {missing[0]!r}: get the model again")
    backend = Tokenizer(models.WordPiece(dict(ids), unk_token=rules.unknown, max_input_chars_per_word=MAX_CHARACTERS))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=rules.chinese_characters,
        strip_accents=rules.strip_accents,
        lowercase=rules.lower_case,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=CONTINUATION, cleanup=False)
    first, separator = rules.first, rules.separator
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first}:0 $A:0 {separator}:0",
        pair=f"{first}:0 $A:0 {separator}:0 $B:1 {separator}:1",
        special_tokens=[(name, ids[name]) for name in dict.fromkeys((first, separator))],
    )
    special = dict.fromkeys(name for name in (rules.unknown, first, separator, *rules.others) if name in ids)
    backend.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    return backend


def _plain(token: str, is_control: bool) -> str:
    """Return a GGUF token as BERT's vocabulary writes it."""
    if is_control or _BRACKETED.fullmatch(token):
        return token
    return token[1:] if token.startswith(SPACE) else CONTINUATION + token


def _is_cased(vocabulary: GgufVocabulary) -> bool:
    """Return whether the vocabulary has words in capital letters, so that lower case would lose them."""
    unmarked = vocabulary.groups[TokenType.CONTROL] + vocabulary.groups[TokenType.USER_DEFINED]
    skipped = set(unmarked)
    return any(
        token.startswith(SPACE) and "A" <= token[1:2] <= "Z"
        for index, token in enumerate(vocabulary.tokens)
        if index not in skipped
    )


def _flag_or_none(vocabulary: GgufVocabulary, name: str) -> bool | None:
    present = f"tokenizer.ggml.{name}" in vocabulary.metadata
    return vocabulary.flag(name, False) if present else None


def _rules(config: Mapping[str, Any]) -> WordPieceRules:
    def text(name: str, default: str) -> str:
        return token_text(config, f"{name}_token") or default

    accents = config.get("strip_accents")
    return WordPieceRules(
        lower_case=config.get("do_lower_case") is not False,
        strip_accents=accents if isinstance(accents, bool) else None,
        chinese_characters=config.get("tokenize_chinese_chars") is not False,
        unknown=text("unk", "[UNK]"),
        first=text("cls", "[CLS]"),
        separator=text("sep", "[SEP]"),
        others=(text("pad", "[PAD]"), text("mask", "[MASK]")),
    )
