"""GPT-2's byte-level BPE: text is split into words, a word's bytes are merged into tokens.

Owns the alphabet that writes each byte as one printable character, and the merging of a word. Knows neither
special tokens nor the cuts between words. Invariant: every text can be written, since every byte has a character;
a byte missing from the vocabulary is dropped, as the model's own tokenizer drops it.
Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from miaotui.text.tokenizers.merges import merges_in_order
from miaotui.text.tokenizers.tokenizer import SpellingTable

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in set(_PRINTABLE)]
# Printable Latin-1 characters stand for themselves, the others for U+0100, U+0101, ...
_CHARACTERS = {byte: chr(byte) for byte in _PRINTABLE}
_CHARACTERS |= {byte: chr(0x100 + index) for index, byte in enumerate(_HIDDEN)}
_NO_LETTER = 0xFFFF  # Latin-1 cannot write it
_LETTERS = dict.fromkeys(_HIDDEN, _NO_LETTER) | {ord(character): byte for byte, character in _CHARACTERS.items()}


def to_alphabet(text: str) -> str:
    """Write the UTF-8 bytes of `text`, one character for each."""
    return bytes_to_alphabet(text.encode())


def bytes_to_alphabet(raw: bytes) -> str:
    """Write bytes, one character for each."""
    return raw.decode("latin-1").translate(_CHARACTERS)


def byte_level_spelling(text_of: Callable[[int], str | None], literal: Mapping[int, str]) -> SpellingTable:
    """Return the spelling of tokens in this alphabet; `literal` ones, and those outside it, are their own text."""
    return SpellingTable(text_of, _LETTERS, "latin-1", {token: text.encode() for token, text in literal.items()})


class ByteLevelWords:
    """Encoder of single words. `vocab` holds only tokens that text may become.

    `whole_words`: a word that is itself a token becomes that token, whatever the merges say.
    """

    def __init__(self, vocab: Mapping[str, int], merges: Sequence[str], whole_words: bool = False) -> None:
        self._vocab = vocab
        self._merges = merges_in_order(merges)
        self._whole_words = whole_words

    def encode_word(self, word: str) -> tuple[int, ...]:
        """Return the token ids of one word."""
        written = to_alphabet(word)
        if self._whole_words and written in self._vocab:
            return (self._vocab[written],)
        ids: list[int] = []
        for symbol in self._merges.join(list(written)):
            token = self._vocab.get(symbol)
            if token is not None:
                ids.append(token)
            else:  # a merge whose result is no token: its bytes are
                ids += (self._vocab[byte] for byte in symbol if byte in self._vocab)
        return tuple(ids)
