"""Turns one text or a pair of texts into the rows of an encoder, whatever file the tokenizer came from.

Owns the interface: limits, truncation that is counted, and control tokens that a text cannot write. Does not know how
text is cut, nor files. Invariant: the rows are those of transformers' tokenizer for the same files, with control tokens
in a text taken as characters (``split_special_tokens``) unless ``special`` is set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from miaotui.errors import PromptTooLongError, RequestError
from miaotui.text.encoders.layout import CutText, EncodedText, SequenceLayout
from miaotui.text.tokenizers.tokenizer import require_unicode

RECENT = 8  # first texts of pairs whose tokens are kept
RECENT_CHARACTERS = 1 << 12  # in each of them
Cut = Callable[[str, bool], CutText]
"""Cuts a text into tokens, with the control tokens written in it recognised or not."""


@dataclass(frozen=True, kw_only=True)
class EncoderVocabulary:
    """Facts about an encoder's tokens. ``size``: ids are below it; ``spell(id)`` gives a token's bytes."""

    size: int
    special_ids: frozenset[int]
    spell: Callable[[int], bytes]
    mask_id: int | None = None
    pad_id: int | None = None


class EncoderTokenizer:
    """Tokenizer of an encoder; safe to use from several threads.

    ``prepare`` changes a text before it is cut, such as to lower case.
    """

    def __init__(
        self,
        cut: Cut,
        single: SequenceLayout,
        pair: SequenceLayout | None,
        vocabulary: EncoderVocabulary,
        prepare: Callable[[str], str] | None = None,
    ) -> None:
        self._cut = cut
        self._single = single
        self._pair = pair
        self._prepare = prepare
        self.vocabulary = vocabulary
        self.vocab_size = vocabulary.size
        self.mask_id = vocabulary.mask_id
        self._recent = lru_cache(RECENT)(self._pieces)  # one question is paired with many documents

    def encode_text(
        self, text: str, *, max_tokens: int | None = None, truncate: bool = False, special: bool = False
    ) -> EncodedText:
        """Return the rows of one text.

        ``max_tokens``: limit of rows, special tokens included; a longer text is refused, or with ``truncate`` cut at
        its end. ``special``: control tokens written in the text (such as ``[MASK]``) are recognised. Raises
        `PromptTooLongError`, and `RequestError` for text that is not valid Unicode.
        """
        return self._joined(self._single, [self._pieces(text, special)], max_tokens, truncate)

    def encode_pair(
        self, first: str, second: str, *, max_tokens: int | None = None, truncate: bool = False
    ) -> EncodedText:
        """Return the rows of a pair, as a cross-encoder reads it; offsets are of the text each row belongs to.

        ``truncate`` cuts the longer text first. Raises as `encode_text`, and `RequestError` for a tokenizer that has no
        form for pairs.
        """
        if self._pair is None:
            raise RequestError("this model's tokenizer has no form for pairs of texts: use a cross-encoder")
        cut = self._recent if len(first) <= RECENT_CHARACTERS else self._pieces
        texts = [cut(first, False), self._pieces(second, False)]
        return self._joined(self._pair, texts, max_tokens, truncate)

    def count(self, text: str) -> int:
        """Return the number of rows of one text, special tokens included."""
        return len(self._pieces(text, False).ids) + self._single.n_special

    def special_tokens(self, *, pair: bool = False) -> int:
        """Return how many special tokens stand around one text, or around a pair."""
        layout = self._pair if pair and self._pair is not None else self._single
        return layout.n_special

    def token_text(self, token: int) -> str:
        """Return the text of a token, with the space in front that it may have; broken UTF-8 becomes U+FFFD."""
        known = 0 <= token < self.vocab_size
        return self.vocabulary.spell(token).decode("utf-8", "replace") if known else ""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ``tokens``, without special tokens and the first space; broken UTF-8 becomes U+FFFD."""
        special, spell = self.vocabulary.special_ids, self.vocabulary.spell
        spelled = (spell(token) for token in tokens if token not in special and 0 <= token < self.vocab_size)
        return b"".join(spelled).decode("utf-8", "replace").removeprefix(" ")

    def _pieces(self, text: str, special: bool) -> CutText:
        require_unicode(text)
        if self._prepare is None:
            return self._cut(text, special)
        prepared = self._prepare(text)
        pieces = self._cut(prepared, special)
        return pieces if len(prepared) == len(text) else pieces._replace(offsets=None)

    def _joined(
        self, layout: SequenceLayout, texts: Sequence[CutText], max_tokens: int | None, truncate: bool
    ) -> EncodedText:
        n_tokens = layout.n_special + sum(len(text.ids) for text in texts)
        if max_tokens is None or n_tokens <= max_tokens:
            return layout.join(texts)
        if max_tokens < layout.n_special:
            raise RequestError(f"max_tokens must be at least {layout.n_special}, for the special tokens")
        if not truncate:
            raise PromptTooLongError(
                f"the text has {n_tokens:,} tokens, and at most {max_tokens:,} fit: shorten it, or allow truncation"
            )
        return layout.join(texts, max_tokens)
