"""The tokenizer of speech recognition: text of a prompt into tokens, tokens of a window into text and words.

Owns the choice of files and the cuts between words. Knows no sound. Invariant: special tokens and timestamps are never
text, and text never becomes one.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from miaotui.errors import ModelFormatError
from miaotui.hub.formats.whisper.ggml import read_whisper_ggml
from miaotui.text.speech.ranked import ranked_tokenizer, special_ids
from miaotui.text.speech.tokens import ENGLISH_END, ENGLISH_TOKENS, SpeechTokens, speech_tokens
from miaotui.text.tokenizers.from_folder import from_folder
from miaotui.text.tokenizers.tokenizer import Tokenizer

UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # languages that write no spaces between words


@dataclass(frozen=True)
class SpeechTokenizer:
    """Tokenizer of one model; safe to use from several threads."""

    tokenizer: Tokenizer
    tokens: SpeechTokens

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a plain text."""
        return self.tokenizer.encode(text, special=False, whole=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, without special ones and timestamps."""
        return self.tokenizer.decode([token for token in ids if token < self.tokens.end])

    def words(self, ids: Sequence[int], language: str) -> list[tuple[str, list[int]]]:
        """Return the words of text tokens, each with its tokens: a word begins with a space, or is punctuation.

        In languages without spaces each run of tokens that makes whole characters is a word.
        """
        pieces = self._characters(ids)
        if language in UNSPACED:
            return pieces
        words: list[tuple[str, list[int]]] = []
        for text, tokens in pieces:
            if not words or text.startswith(" ") or text.strip() in string.punctuation:
                words.append((text, tokens))
            else:
                words[-1] = (words[-1][0] + text, words[-1][1] + tokens)
        return words

    def _characters(self, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Return the shortest runs of tokens that make whole characters."""
        found: list[tuple[str, list[int]]] = []
        written = b""
        run: list[int] = []
        for token in ids:
            written, run = written + self.tokenizer.token_bytes(token), [*run, token]
            try:
                found.append((written.decode(), run))
            except UnicodeDecodeError:
                if len(written) < 4 * 4:  # a character may still become whole
                    continue
                found.append((written.decode(errors="replace"), run))
            written, run = b"", []
        if run:
            found.append((written.decode(errors="replace"), run))
        return found


def load_speech_tokenizer(path: Path, vocab_size: int, source_rows: int) -> SpeechTokenizer:
    """Load the tokenizer of a model with ``vocab_size`` tokens and ``source_rows`` rows of the encoder.

    ``path`` is a folder with ``tokenizer.json``, or whisper.cpp's file. Raises `ModelNotFoundError`,
    `ModelFormatError` or `UnsupportedModelError`.
    """
    if path.is_file():
        end = ENGLISH_END + (vocab_size > ENGLISH_TOKENS)
        special = special_ids(end, vocab_size, source_rows)
        tokenizer = ranked_tokenizer(read_whisper_ggml(path).tokens, special, max(special.values()) + 1)
    else:
        tokenizer = from_folder(path)

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, special=False, whole=False)

    tokens = speech_tokens(tokenizer.control_texts, encode, vocab_size, source_rows)
    if tokenizer.vocab_size > vocab_size:
        raise ModelFormatError(
            f"the tokenizer in {path} has {tokenizer.vocab_size:,} tokens, and the model {vocab_size:,}: they are of "
            "different models; get both again"
        )
    return SpeechTokenizer(tokenizer, tokens)
