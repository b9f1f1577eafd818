"""SentencePiece's Unigram: of all ways to cut a text into pieces the likeliest one.

Owns the normalization that a GGUF file describes (``t5``) and the cut. Knows no special tokens. Needs no trie, so it is
ready as soon as the vocabulary is read. Invariant: the ids are SentencePiece's for the same pieces, scores and table.
Source: Kudo 2018, arXiv:1804.10959; the keys are llama.cpp's, which takes them from SentencePiece's model.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError, RequestError, UnsupportedModelError
from miaotui.text.tokenizers.encoder import WordEncoder
from miaotui.text.tokenizers.gguf_vocabulary import GgufVocabulary, TokenType
from miaotui.text.tokenizers.growth import require_bounded_growth
from miaotui.text.tokenizers.huggingface import require_library_fault
from miaotui.text.tokenizers.sentencepiece import SPACE, byte_of

# Keys that are none of GGUF's: of a container that holds its table as single characters, and without the rule for ends.
CHARACTER_MAP = "character_map"
STRIPS = "strip_whitespaces"
CHARSMAP = "tokenizer.ggml.precompiled_charsmap"
UNKNOWN_PENALTY = 10.0
_SPACES = re.compile(" {2,}")
_OTHER_TYPES = {TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED, TokenType.BYTE}


class UnigramWords:
    """Encoder of single words, whose spaces are written ``▁``.

    `pieces`: ids that text may become, by text; `scores`: float64 [token ids], logarithms of probabilities; `byte_ids`:
    of the 256 byte pieces in order, or empty for a model that has an `unknown_id` instead.
    """

    def __init__(
        self, pieces: Mapping[str, int], scores: NDArray[np.float64], byte_ids: Sequence[int], unknown_id: int
    ) -> None:
        self._pieces = pieces
        self._scores = scores.tolist()
        self._byte_ids = byte_ids
        self._unknown_id = unknown_id
        least = float(scores[np.fromiter(pieces.values(), np.intp, len(pieces))].min()) if pieces else 0.0
        self._unknown_score = least - UNKNOWN_PENALTY
        self._longest = _longest(pieces)
        # Where no piece reaches over a space, words are cut each on its own.
        crosses = re.search(f"[^{SPACE}\0]{SPACE}", "\0".join(pieces)) is not None
        self._cut: Callable[[str], list[str]] = re.compile(f"(?={SPACE})").split
        if crosses or SPACE not in pieces:
            self._cut = lambda text: [text]

    def split(self, text: str) -> Iterable[str]:
        """Cut a text into words that are encoded each on its own."""
        return filter(None, self._cut(text))

    def encode_word(self, word: str) -> tuple[int, ...]:
        """Return the ids of a word's best cut, by dynamic programming over ends of pieces; O(characters * longest)."""
        get, scores, longest = self._pieces.get, self._scores, self._longest
        end = len(word)
        best = [float("-inf")] * (end + 1)
        best[0] = 0.0
        ids, starts = [-1] * (end + 1), [0] * (end + 1)
        for start, first in enumerate(word):
            so_far = best[start]
            single = False
            for stop in range(start + 1, min(start + longest.get(first, 0), end) + 1):
                token = get(word[start:stop])
                if token is None:
                    continue
                single = single or stop == start + 1
                score = so_far + scores[token]
                if score > best[stop]:
                    best[stop], ids[stop], starts[stop] = score, token, start
            if not single and so_far + self._unknown_score > best[start + 1]:
                best[start + 1], ids[start + 1], starts[start + 1] = so_far + self._unknown_score, -1, start
        return self._followed(word, ids, starts)

    def _followed(self, word: str, ids: Sequence[int], starts: Sequence[int]) -> tuple[int, ...]:
        found: list[int] = []  # from the last to the first
        stop = len(word)
        unknown_behind = False  # neighbouring unknown characters are one unknown token
        while stop:
            start, token = starts[stop], ids[stop]
            if token >= 0:
                found.append(token)
            elif self._byte_ids:
                found += (self._byte_ids[byte] for byte in reversed(word[start:stop].encode()))
            elif not unknown_behind:
                found.append(self._unknown_id)
            unknown_behind = token < 0
            stop = start
        return tuple(reversed(found))


def unigram_from_gguf(vocabulary: GgufVocabulary) -> Callable[[str], list[int]]:
    """Return the function that encodes text between special tokens, for a GGUF file's ``t5`` vocabulary.

    Raises `ModelFormatError` for damaged keys, `UnsupportedModelError` for rules that are not known here.
    """
    unknown = vocabulary.token_id("unknown_token_id")
    if unknown is None:
        unknown = next(iter(vocabulary.groups[TokenType.UNKNOWN]), None)
    if unknown is None:
        raise ModelFormatError("the GGUF file's Unigram tokenizer has no unknown token: get the model again")
    if vocabulary.flag("treat_whitespace_as_suffix", False):
        raise UnsupportedModelError(
            "this Unigram tokenizer puts spaces behind words, which is not supported: use the model's own folder"
        )
    found = {byte_of(vocabulary.tokens[token]): token for token in vocabulary.groups[TokenType.BYTE]}
    byte_ids = [found[byte] for byte in range(256)] if found.keys() >= set(range(256)) else []
    plain = vocabulary.plain(_OTHER_TYPES | {TokenType.UNUSED})
    words = UnigramWords(plain, vocabulary.numbers("scores"), byte_ids, unknown)
    encoder = WordEncoder(words.split, words.encode_word)
    normalize = _normalizer(vocabulary)
    prefix = SPACE if vocabulary.flag("add_space_prefix", True) else ""

    def encode(text: str) -> list[int]:
        written = normalize(text).replace(" ", SPACE)
        if written and not written.startswith(SPACE):
            written = prefix + written
        return encoder.encode(written)

    return encode


def _longest(pieces: Mapping[str, int]) -> dict[str, int]:
    """Return the length of the longest piece by its first character."""
    return {piece[:1]: len(piece) for piece in sorted(pieces, key=len)}


def _normalizer(vocabulary: GgufVocabulary) -> Callable[[str], str]:
    """Return the function that applies the file's table of characters and its rule for repeated spaces."""
    table = _table(vocabulary.metadata)
    joins = vocabulary.flag("remove_extra_whitespaces", True)
    strips = joins and vocabulary.flag(STRIPS, True)

    def normalize(text: str) -> str:
        text = table(text)
        if strips:
            text = text.strip(" ")
        return _SPACES.sub(" ", text) if joins else text

    return normalize


def _table(metadata: Mapping[str, Any]) -> Callable[[str], str]:
    characters = metadata.get(f"tokenizer.ggml.{CHARACTER_MAP}")
    if characters is not None:  # and composition: with nmt_nfkc's single characters this is SentencePiece's own
        return lambda text: unicodedata.normalize("NFC", text.translate(characters))
    charsmap = metadata.get(CHARSMAP)
    if charsmap is None or not len(charsmap):
        return lambda text: text
    bytes_ = np.asarray(charsmap)
    if bytes_.ndim != 1 or bytes_.dtype.kind not in "iu" or bytes_.min() < -128 or bytes_.max() > 255:
        raise ModelFormatError(f"{CHARSMAP} must be bytes; get the GGUF file again")
    return _precompiled(bytes_.astype(np.uint8).tobytes())


def _precompiled(raw: bytes) -> Callable[[str], str]:
    """Return the function of SentencePiece's table in its own form; a hostile one ends in an error, not in a panic."""
    from tokenizers import normalizers  # noqa: PLC0415 - other models do not need it

    try:
        normalizer = normalizers.Precompiled(raw)
    except BaseException as error:
        require_library_fault(error)
        raise ModelFormatError(f"{CHARSMAP} is damaged: {str(error)[:200]}; get the GGUF file again") from error
    require_bounded_growth(json.loads(normalizer.__getstate__()), "the GGUF file's tokenizer")

    def normalize(text: str) -> str:
        try:
            return str(normalizer.normalize_str(text))
        except BaseException as error:
            require_library_fault(error)
            raise RequestError(
                f"the model's tokenizer cannot take this text ({str(error)[:200]}): change it, or get the model again"
            ) from error

    return normalize
