"""SentencePiece's BPE: whole text, spaces written as ``▁``, characters merged by piece scores.

Owns cut and merging, which equal SentencePiece's exactly: scores are ranks, ties go left, what is not in
the vocabulary becomes bytes ``<0x..>`` or the unknown token. Knows neither special tokens nor
the space before a text. Needs no table of merges, so it is ready as soon as the vocabulary is read.
Source: Kudo & Richardson 2018, arXiv:1808.06226, and the `sentencepiece` library's BPE model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.text.tokenizers.merges import Merges
from miaotui.text.tokenizers.tokenizer import SpellingTable

SPACE = "▁"
_BYTE = re.compile("<0x([0-9A-F]{2})>")


def byte_of(piece: str) -> int | None:
    """Return the byte that a piece ``<0x..>`` stands for, or None for any other text."""
    match = _BYTE.fullmatch(piece)
    return int(match.group(1), 16) if match else None


def piece_spelling(text_of: Callable[[int], str | None], byte_pieces: Mapping[int, int | None]) -> SpellingTable:
    """Return the spelling of pieces: `SPACE` is a space; `byte_pieces` are bytes by token id (None: plain text)."""
    exact = {token: bytes([byte]) for token, byte in byte_pieces.items() if byte is not None}
    return SpellingTable(text_of, {ord(SPACE): " "}, exact=exact)


class SentencePieceWords:
    """Encoder of single words, whose spaces are written ``▁``; see `word_splitter`.

    `vocab`: the pieces that text may become; `merges`: which pieces are joined first, such as `merges_by_scores`;
    `byte_ids`: of the 256 byte pieces in order, or empty for a model that has an `unknown_id` instead.
    """

    def __init__(
        self, vocab: Mapping[str, int], merges: Merges, byte_ids: Sequence[int], unknown_id: int | None
    ) -> None:
        self._vocab = vocab
        self._merges = merges
        self._byte_ids = byte_ids
        self._unknown = () if unknown_id is None else (unknown_id,)

    def encode_word(self, word: str) -> tuple[int, ...]:
        """Return the token ids of one word."""
        ids: list[int] = []
        unknown_before = False  # neighbouring unknown characters are one unknown token
        for symbol in self._merges.join(list(word)):
            token = self._vocab.get(symbol)
            if token is not None:
                ids.append(token)
            elif self._byte_ids:
                ids += (self._byte_ids[byte] for byte in symbol.encode())
            elif not unknown_before:
                ids += self._unknown
            unknown_before = token is None
        return tuple(ids)


def merges_by_scores(vocab: Mapping[str, int], scores: NDArray[np.float64]) -> Merges:
    """Return the merges of a vocabulary whose pieces have `scores`, float64 [token ids]: the highest goes first."""
    # Built without a Python loop, since vocabularies have up to 262,144 pieces.
    ranks = -scores[np.fromiter(vocab.values(), np.intp, len(vocab))]
    return Merges(dict(zip(vocab, ranks.tolist(), strict=True)), "")


def word_splitter(vocab: Mapping[str, int]) -> Callable[[str], list[str]]:
    """Return a function that cuts text before spaces, but nowhere that two characters could be merged.

    Few pieces reach over a space from the word before; where their letters meet one, no cut is
    made, so the parts can be encoded each on its own.
    """
    if SPACE not in vocab:  # an unknown space may belong to an unknown token of both sides
        return lambda text: [text]
    crossing = set(re.findall(f"([^{SPACE}\0]){SPACE}", "\0".join(vocab)))
    kept = "".join(map(re.escape, sorted(crossing | {SPACE, "\0"})))
    return re.compile(f"(?<=[^{kept}])(?={SPACE})").split
