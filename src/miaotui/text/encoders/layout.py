"""Arranges the tokens of one text or of a pair into the rows of an encoder: special tokens and segments.

Owns the arrangement and truncation. Knows neither text nor files. Invariant: no token is dropped without being counted
in `EncodedText.dropped`, and special tokens are never dropped. Source: Devlin et al. 2019, arXiv:1810.04805, section 3;
truncation is ``longest_first`` as in transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

Span = tuple[int, int]


class EncodedText(NamedTuple):
    """Rows of one text or pair: token ids and their segments, special tokens included.

    ``special``: whether a row is a special token of the model's. ``offsets``: where each row's token begins and ends
    in its text, in characters, (0, 0) for special tokens; None where the tokenizer does not tell. ``dropped``: tokens
    that were cut off to fit a limit. ``prompt_rows``: rows from the first on that a model's pooling leaves out.
    """

    tokens: list[int]
    types: list[int]
    special: list[bool]
    offsets: list[Span] | None = None
    dropped: int = 0
    prompt_rows: int = 0


class CutText(NamedTuple):
    """Tokens of a text without special tokens, and their places in it where they are known."""

    ids: list[int]
    offsets: list[Span] | None = None


@dataclass(frozen=True)
class SpecialRow:
    """Row of a special token, and its segment."""

    token: int
    type: int


@dataclass(frozen=True)
class TextSlot:
    """Place of the rows of a text: the first (0) or the second (1) of a pair, and their segment."""

    text: int
    type: int


@dataclass(frozen=True)
class SequenceLayout:
    """Order of special tokens and texts in the rows of an encoder, such as ``[CLS] A [SEP] B [SEP]``."""

    parts: tuple[SpecialRow | TextSlot, ...]

    @property
    def n_special(self) -> int:
        """Return the number of special tokens."""
        return sum(isinstance(part, SpecialRow) for part in self.parts)

    def join(self, texts: Sequence[CutText], max_tokens: int | None = None) -> EncodedText:
        """Arrange ``texts`` in rows, cut at their ends to ``max_tokens`` rows in all; the special tokens stay."""
        lengths = [len(text.ids) for text in texts]
        kept = lengths if max_tokens is None else fit(lengths, max(max_tokens - self.n_special, 0))
        rows = EncodedText([], [], [], [] if all(text.offsets is not None for text in texts) else None)
        for part in self.parts:
            if isinstance(part, SpecialRow):
                self._extend(rows, [part.token], part.type, special=True, offsets=[(0, 0)])
            else:
                ids, offsets = texts[part.text]
                end = kept[part.text]
                self._extend(rows, ids[:end], part.type, special=False, offsets=(offsets or [])[:end])
        return rows._replace(dropped=sum(lengths) - sum(kept))

    @staticmethod
    def _extend(rows: EncodedText, ids: list[int], segment: int, special: bool, offsets: list[Span]) -> None:
        rows.tokens.extend(ids)
        rows.types.extend([segment] * len(ids))
        rows.special.extend([special] * len(ids))
        if rows.offsets is not None:
            rows.offsets.extend(offsets)


def fit(lengths: Sequence[int], total: int) -> list[int]:
    """Return the lengths that one or two texts keep within ``total`` tokens: the longer one is cut first."""
    if sum(lengths) <= total:
        return list(lengths)
    if len(lengths) == 1:
        return [total]
    short, long = sorted(range(2), key=lambda text: lengths[text])
    kept = [0, 0]
    kept[short] = min(lengths[short], total // 2)
    kept[long] = total - kept[short]
    return kept
