"""Builds the tokenizer and the chat template that a GGUF file's metadata describe.

Owns the choice between the two families: ``gpt2`` (byte-level BPE with merges) and ``llama``
(SentencePiece's BPE by scores), and the rules around special tokens. Reads no files itself.
Invariant: text becomes a control token only where it is written out and `special` is true.
Source: llama.cpp, which defines these keys, and the models' own ``tokenizer.json`` files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.text.tokenizers.byte_level import ByteLevelEncoder, from_alphabet
from miaotui.text.tokenizers.gguf_vocabulary import GgufVocabulary, TokenType, read_vocabulary
from miaotui.text.tokenizers.pretokenizer import pretokenizer
from miaotui.text.tokenizers.sentencepiece import SPACE, SentencePieceEncoder, byte_of
from miaotui.text.tokenizers.special_tokens import SpecialTokens
from miaotui.text.tokenizers.tokenizer import Tokenizer, TokenRoles

_MARKERS = {TokenType.CONTROL, TokenType.UNKNOWN}
_PHI3_PLAIN = {"<unk>", "<s>", "<|endoftext|>"}  # those that swallow no whitespace


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer described by a GGUF file's metadata.

    Raises `ModelFormatError` when keys are missing, damaged or contradict each other, and
    `UnsupportedModelError` for a family or pre-tokenizer that is not known here.
    """
    family = metadata.get("tokenizer.ggml.model")
    if family is None:
        raise ModelFormatError(
            "the GGUF file has no tokenizer (tokenizer.ggml.model is missing); "
            "use a file that was converted with its tokenizer"
        )
    build = {"gpt2": _byte_level, "llama": _sentencepiece}.get(str(family))
    if build is None:
        raise UnsupportedModelError(
            f"unknown tokenizer {str(family)[:64]!r}; known ones: gpt2, llama. "
            "Use the model's own folder with its tokenizer.json instead of this GGUF file."
        )
    return build(read_vocabulary(metadata))


def _byte_level(vocabulary: GgufVocabulary) -> Tokenizer:
    rules = pretokenizer(str(vocabulary.metadata.get("tokenizer.ggml.pre", "default")))
    ordinary = ByteLevelEncoder(
        vocabulary.plain(_MARKERS | {TokenType.USER_DEFINED}),
        vocabulary.strings("merges"),
        rules.splitter(),
        rules.whole_words,
    )
    all_special, user_defined = _special_tokens(vocabulary, lambda text: text)
    literal = vocabulary.marker_ids | set(vocabulary.groups[TokenType.USER_DEFINED])
    tokens = vocabulary.tokens

    def encode(text: str, special: bool) -> list[int]:
        ids: list[int] = []
        for part in (all_special if special else user_defined).split(text):
            ids += [part] if isinstance(part, int) else ordinary.encode(part)
        return ids

    def spell(token: int) -> bytes:
        return tokens[token].encode() if token in literal else from_alphabet(tokens[token])

    return Tokenizer(encode, spell, _roles(vocabulary, begins=rules.begins))


def _sentencepiece(vocabulary: GgufVocabulary) -> Tokenizer:
    adds_space = vocabulary.flag("add_space_prefix", True)
    ordinary = _piece_encoder(vocabulary)
    all_special, user_defined = _special_tokens(vocabulary, _escape)
    byte_ids = set(vocabulary.groups[TokenType.BYTE])
    tokens = vocabulary.tokens

    def encode(text: str, special: bool) -> list[int]:
        ids: list[int] = []
        for part in (all_special if special else user_defined).split(_escape(text), SPACE):
            if isinstance(part, int):
                ids.append(part)
            else:  # every stretch of text gets the space, as llama.cpp does it
                ids += ordinary.encode(SPACE + part if adds_space else part)
        return ids

    def spell(token: int) -> bytes:
        byte = byte_of(tokens[token]) if token in byte_ids else None
        return tokens[token].replace(SPACE, " ").encode() if byte is None else bytes([byte])

    return Tokenizer(encode, spell, _roles(vocabulary, begins=True, drops_space=adds_space))


def _piece_encoder(vocabulary: GgufVocabulary) -> SentencePieceEncoder:
    if vocabulary.flag("remove_extra_whitespaces", False):
        raise UnsupportedModelError(
            "this SentencePiece tokenizer removes repeated spaces, which is not supported; "
            "use the model's own folder with its tokenizer.json instead of this GGUF file"
        )
    scores = vocabulary.numbers("scores")
    plain = vocabulary.plain(_MARKERS | {TokenType.USER_DEFINED, TokenType.BYTE})
    byte_ids = _byte_ids(vocabulary)
    unknown = vocabulary.token_id("unknown_token_id")
    if unknown is None and vocabulary.groups[TokenType.UNKNOWN]:
        unknown = vocabulary.groups[TokenType.UNKNOWN][0]
    return SentencePieceEncoder(plain, scores, byte_ids, unknown)


def _byte_ids(vocabulary: GgufVocabulary) -> list[int]:
    """Ids of the 256 byte pieces in order of their bytes; none if the file lacks any."""
    found = {byte_of(vocabulary.tokens[t]): t for t in vocabulary.groups[TokenType.BYTE]}
    return [found[byte] for byte in range(256)] if found.keys() >= set(range(256)) else []


def _escape(text: str) -> str:
    return text.replace(" ", SPACE)


def _special_tokens(vocabulary: GgufVocabulary, write: Callable[[str], str]) -> tuple[SpecialTokens, SpecialTokens]:
    """What to look for in trusted text, and in plain text; `write` as the text is written."""
    users = vocabulary.texts(TokenType.USER_DEFINED)
    everything = vocabulary.texts(*_MARKERS) | users
    swallowing: set[int] = set()
    if vocabulary.metadata.get("general.architecture") == "phi3" and (
        vocabulary.metadata.get("tokenizer.ggml.model") == "llama"
    ):  # Phi-3's tokens swallow the line break behind them; GGUF has no key that says so
        swallowing = {token for text, token in everything.items() if text not in _PHI3_PLAIN}
    trusted, plain = (
        SpecialTokens({write(text): token for text, token in some.items()}, swallowing) for some in (everything, users)
    )
    return trusted, plain


def _roles(vocabulary: GgufVocabulary, begins: bool, drops_space: bool = False) -> TokenRoles:
    bos, eos = vocabulary.token_id("bos_token_id"), vocabulary.token_id("eos_token_id")
    adds_bos = vocabulary.flag("add_bos_token", begins)
    adds_eos = vocabulary.flag("add_eos_token", False)
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
