"""Builds the tokenizer and the chat template that a GGUF file's metadata describe.

Owns the choice between the families: ``gpt2`` (byte-level BPE with merges), ``gemma4`` (merges too, in SentencePiece's
alphabet), ``llama`` (SentencePiece's BPE by scores), and encoders' ``bert`` (WordPiece) and ``t5`` (Unigram), and the
rules around special tokens. Reads no files itself.
Invariant: text becomes a control token only where it is written out and `special` is true.
Source: llama.cpp, which defines these keys, and the models' own ``tokenizer.json`` files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.text.tokenizers.byte_level import ByteLevelWords, byte_level_spelling
from miaotui.text.tokenizers.encoder import MarkedTextEncoder, WordEncoder, words_alone
from miaotui.text.tokenizers.gguf_vocabulary import GgufVocabulary, TokenType, read_vocabulary
from miaotui.text.tokenizers.huggingface import LibraryEncoder, encode_with, spelling_of
from miaotui.text.tokenizers.merges import merges_in_order
from miaotui.text.tokenizers.pretokenizer import PreTokenizer, pretokenizer
from miaotui.text.tokenizers.sentencepiece import (
    SPACE,
    SentencePieceWords,
    byte_of,
    merges_by_scores,
    piece_spelling,
    word_splitter,
)
from miaotui.text.tokenizers.tokenizer import Tokenizer, TokenRoles

if TYPE_CHECKING:
    import tokenizers

_MARKERS = {TokenType.CONTROL, TokenType.UNKNOWN}
GEMMA4 = "gemma4"  # a family, and its pre-tokenizer
_PHI3_PLAIN = {"<unk>", "<s>", "<|endoftext|>"}  # those that swallow no whitespace


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer that a GGUF file's metadata describe.

    Raises `ModelFormatError` when keys are missing, damaged or contradict each other, and
    `UnsupportedModelError` for a family or pre-tokenizer that is not known here.
    """
    family = metadata.get("tokenizer.ggml.model")
    if family is None:
        raise ModelFormatError(
            "the GGUF file has no tokenizer (tokenizer.ggml.model is missing); "
            "use a file that was converted with its tokenizer"
        )
    builders = {"gpt2": _merged, GEMMA4: _merged, "llama": _sentencepiece, "bert": _wordpiece, "t5": _unigram}
    build = builders.get(str(family))
    if build is None:
        raise UnsupportedModelError(
            f"unknown tokenizer {str(family)[:64]!r}; known ones: {', '.join(builders)}. "
            "Put the model's own tokenizer.json beside this GGUF file, or use the model's own folder instead."
        )
    return build(read_vocabulary(metadata))


def _merged(vocabulary: GgufVocabulary) -> Tokenizer:
    family = vocabulary.metadata["tokenizer.ggml.model"]
    name = str(vocabulary.metadata.get("tokenizer.ggml.pre", "default")) if family != GEMMA4 else GEMMA4
    rules = pretokenizer(name)
    return _marked(vocabulary, rules) if rules.marks_spaces else _byte_level(vocabulary, rules)


def _byte_level(vocabulary: GgufVocabulary, rules: PreTokenizer) -> Tokenizer:
    plain = vocabulary.plain(_MARKERS | {TokenType.USER_DEFINED})
    words = ByteLevelWords(plain, vocabulary.strings("merges"), rules.whole_words)
    ordinary = WordEncoder(words_alone(rules.splitter()), words.encode_word)
    tokens = vocabulary.tokens
    literal = vocabulary.marker_ids | set(vocabulary.groups[TokenType.USER_DEFINED])
    spell = byte_level_spelling(tokens.__getitem__, {token: tokens[token] for token in literal})
    encoder = _encoder(vocabulary, ordinary.encode)
    return Tokenizer(encoder, spell, _roles(vocabulary, begins=rules.begins))


def _marked(vocabulary: GgufVocabulary, rules: PreTokenizer) -> Tokenizer:
    """Build Gemma 4's tokenizer: SentencePiece's alphabet, merges by their order, none over a line's end."""
    plain = vocabulary.plain(_MARKERS | {TokenType.USER_DEFINED, TokenType.BYTE})
    merges = merges_in_order(vocabulary.strings("merges"))
    words = SentencePieceWords(plain, merges, _byte_ids(vocabulary), _unknown_id(vocabulary))
    lines, parts = words_alone(rules.splitter()), word_splitter(plain)

    def encode_word(word: str) -> tuple[int, ...]:
        is_token = word.startswith("\n") and word in plain  # a run of line ends needs no merges
        return (plain[word],) if is_token else words.encode_word(word)

    ordinary = WordEncoder(lambda text: (part for line in lines(text) for part in parts(line)), encode_word)
    encoder = _encoder(vocabulary, ordinary.encode, _escape, SPACE)
    roles = _roles(vocabulary, begins=rules.begins)
    if rules.begins and roles.bos_id is not None:  # early files of Gemma 4 say that it has none, wrongly
        roles = replace(roles, prefix=(roles.bos_id,))
    return Tokenizer(encoder, _piece_spelling(vocabulary), roles)


def _wordpiece(vocabulary: GgufVocabulary) -> Tokenizer:
    from miaotui.text.encoders.wordpiece import wordpiece_from_gguf  # noqa: PLC0415  (encoders only)

    return _on_library(vocabulary, wordpiece_from_gguf(vocabulary))


def _unigram(vocabulary: GgufVocabulary) -> Tokenizer:
    from miaotui.text.encoders.unigram import unigram_from_gguf  # noqa: PLC0415  (encoders only)

    encoder = _encoder(vocabulary, unigram_from_gguf(vocabulary))
    roles = _roles(vocabulary, begins=True, drops_space=vocabulary.flag("add_space_prefix", True), ends=True)
    return Tokenizer(encoder, _piece_spelling(vocabulary), roles)


def _on_library(vocabulary: GgufVocabulary, backend: tokenizers.Tokenizer) -> Tokenizer:
    """Return the tokenizer of an encoder's file, for those that only count and cut; see `text.encoders`."""
    spell, drops_space = spelling_of(backend, "the GGUF file")
    around = encode_with(backend, "", surrounded=True).ids
    roles = _roles(vocabulary, begins=True, drops_space=drops_space)
    roles = replace(roles, prefix=tuple(around[:1]) if len(around) > 1 else (), suffix=tuple(around[-1:]))
    return Tokenizer(LibraryEncoder(backend), spell, roles)


def _sentencepiece(vocabulary: GgufVocabulary) -> Tokenizer:
    adds_space = vocabulary.flag("add_space_prefix", True)
    ordinary = _piece_encoder(vocabulary)

    def with_space(part: str) -> list[int]:  # every stretch of text gets the space, as llama.cpp does it
        return ordinary.encode(SPACE + part)

    encoder = _encoder(vocabulary, with_space if adds_space else ordinary.encode, _escape, SPACE)
    roles = _roles(vocabulary, begins=True, drops_space=adds_space)
    return Tokenizer(encoder, _piece_spelling(vocabulary), roles)


def _piece_spelling(vocabulary: GgufVocabulary) -> Callable[[int], bytes]:
    tokens = vocabulary.tokens
    pieces = {token: byte_of(tokens[token]) for token in vocabulary.groups[TokenType.BYTE]}
    return piece_spelling(tokens.__getitem__, pieces)


def _encoder(
    vocabulary: GgufVocabulary,
    ordinary: Callable[[str], list[int]],
    write: Callable[[str], str] = str,
    spaces: str = "",
) -> MarkedTextEncoder:
    """Return the encoder of parts and special tokens; for ``write`` and ``spaces`` see `MarkedTextEncoder`."""
    controls, users = vocabulary.texts(*_MARKERS), vocabulary.texts(TokenType.USER_DEFINED)
    aliases = {text.replace(SPACE, " "): token for text, token in controls.items()}
    return MarkedTextEncoder(
        controls,
        users,
        _swallowing(vocabulary, controls | users),
        ordinary,
        write=write,
        spaces=spaces,
        aliases=aliases,
    )


def _piece_encoder(vocabulary: GgufVocabulary) -> WordEncoder:
    if vocabulary.flag("remove_extra_whitespaces", False):
        raise UnsupportedModelError(
            "this SentencePiece tokenizer removes repeated spaces, which is not supported; "
            "use the model's own folder with its tokenizer.json instead of this GGUF file"
        )
    scores = vocabulary.numbers("scores")
    plain = vocabulary.plain(_MARKERS | {TokenType.USER_DEFINED, TokenType.BYTE})
    merges = merges_by_scores(plain, scores)
    words = SentencePieceWords(plain, merges, _byte_ids(vocabulary), _unknown_id(vocabulary))
    return WordEncoder(word_splitter(plain), words.encode_word)


def _unknown_id(vocabulary: GgufVocabulary) -> int | None:
    unknown = vocabulary.token_id("unknown_token_id")
    if unknown is None and vocabulary.groups[TokenType.UNKNOWN]:
        return vocabulary.groups[TokenType.UNKNOWN][0]
    return unknown


def _byte_ids(vocabulary: GgufVocabulary) -> list[int]:
    """Return the ids of the 256 byte pieces in order of their bytes; none if the file lacks any."""
    found = {byte_of(vocabulary.tokens[t]): t for t in vocabulary.groups[TokenType.BYTE]}
    return [found[byte] for byte in range(256)] if found.keys() >= set(range(256)) else []


def _escape(text: str) -> str:
    return text.replace(" ", SPACE)


def _swallowing(vocabulary: GgufVocabulary, special: Mapping[str, int]) -> set[int]:
    """Return the special tokens that swallow the whitespace behind them.

    Those are Phi-3's, which swallow the line break; GGUF has no key that says so.
    """
    metadata = vocabulary.metadata
    if metadata.get("general.architecture") != "phi3" or metadata.get("tokenizer.ggml.model") != "llama":
        return set()
    return {token for text, token in special.items() if text not in _PHI3_PLAIN}


def _roles(vocabulary: GgufVocabulary, begins: bool, drops_space: bool = False, ends: bool = False) -> TokenRoles:
    bos, eos = vocabulary.token_id("bos_token_id"), vocabulary.token_id("eos_token_id")
    adds_bos = vocabulary.flag("add_bos_token", begins)
    adds_eos = vocabulary.flag("add_eos_token", ends)
    return TokenRoles(
        size=len(vocabulary.tokens),
        bos_id=bos,
        eos_ids=vocabulary.end_ids(),
        special_ids=vocabulary.marker_ids,
        prefix=(bos,) if adds_bos and bos is not None else (),
        suffix=(eos,) if adds_eos and eos is not None else (),
        drops_space=drops_space,
        eos_id=eos,
    )
