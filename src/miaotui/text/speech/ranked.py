"""Whisper's tokenizer from a list of tokens alone, as whisper.cpp's files have it: a pair is joined by the id it makes.

Owns the ids of special tokens, which these files leave out. Reads no files. Invariant: text gives the ids of
openai/whisper's tokenizer; special tokens are never made from text. Source: openai/whisper, ``tokenizer.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from miaotui.errors import ModelFormatError
from miaotui.text.tokenizers.byte_level import bytes_to_alphabet, to_alphabet
from miaotui.text.tokenizers.encoder import MarkedTextEncoder, WordEncoder, words_alone
from miaotui.text.tokenizers.merges import Merges
from miaotui.text.tokenizers.pretokenizer import pretokenizer
from miaotui.text.tokenizers.tokenizer import Tokenizer, TokenRoles

BYTES = 256
CODES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml "
    "cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am "
    "yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue"
)
LANGUAGES = tuple(CODES.split())  # in the order of their tokens; the last one came with large-v3
BEHIND = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")


def special_ids(end: int, vocab_size: int, source_rows: int) -> dict[str, int]:
    """Return the ids of special tokens by text, by the order in which they follow the text's ``end`` token.

    Raises `ModelFormatError` for a vocabulary that has room for other numbers of languages.
    """
    count = vocab_size - (source_rows + 1) - len(BEHIND) - 2 - end
    if count not in (len(LANGUAGES) - 1, len(LANGUAGES)):
        raise ModelFormatError(
            f"a vocabulary of {vocab_size:,} tokens has room for {count} languages behind token {end:,}, and Whisper's "
            f"has {len(LANGUAGES) - 1} or {len(LANGUAGES)}: get the model again"
        )
    names = ("endoftext", "startoftranscript", *LANGUAGES[:count], *BEHIND)
    return {f"<|{name}|>": end + place for place, name in enumerate(names)}


def ranked_tokenizer(tokens: Sequence[bytes], special: Mapping[str, int], size: int) -> Tokenizer:
    """Return the tokenizer of ``tokens``, whose ids are their places. Raises `ModelFormatError` where bytes lack."""
    end = min(special.values())
    if len(tokens) < end or {bytes([byte]) for byte in range(BYTES)}.difference(tokens[:end]):
        raise ModelFormatError(f"the file lists {len(tokens):,} tokens, not all bytes and {end:,}: get the model again")
    text = tokens[:end]
    ranks = {bytes_to_alphabet(token): place for place, token in reversed(list(enumerate(text)))}
    merges = Merges(ranks, "")

    def encode_word(word: str) -> tuple[int, ...]:
        return tuple(ranks[symbol] for symbol in merges.join(list(to_alphabet(word))))

    ordinary = WordEncoder(words_alone(pretokenizer("gpt-2").splitter()), encode_word)
    encoder = MarkedTextEncoder(special, {}, frozenset(), ordinary.encode, write=str, spaces="", aliases={})
    names = {token: name.encode() for name, token in special.items()}
    roles = TokenRoles(size, None, frozenset({end}), frozenset(names))

    def spell(token: int) -> bytes:
        return text[token] if token < end else names.get(token, b"")

    return Tokenizer(encoder, spell, roles)
