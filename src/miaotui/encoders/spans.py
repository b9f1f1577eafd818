"""From labels of tokens to labelled stretches of a text.

Owns the aggregation of transformers' token classification pipeline, over the rows of one text. Knows no model.
Invariant: a stretch's places are characters of the text as it was given, and ``text[start:end]`` is what it shows.
Source: transformers' ``TokenClassificationPipeline``; BIO tags after Ramshaw and Marcus, arXiv:cmp-lg/9505040.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from miaotui.encoders.results import TaggedSpan
from miaotui.errors import FieldError, RequestError
from miaotui.text.encoders.layout import EncodedText

Aggregation = Literal["none", "simple", "first", "average", "max"]
Floats = NDArray[np.float32]
OUTSIDE = "O"


class _Piece(NamedTuple):
    """A token or a word: its scores ``[labels]``, the best of them, and its place in characters."""

    scores: Floats
    best: int
    start: int
    end: int


def spans_of(
    text: str, encoded: EncodedText, scores: Floats, labels: Sequence[str], aggregation: Aggregation
) -> list[TaggedSpan]:
    """Return the labelled stretches of ``text``, in order.

    ``scores`` are probabilities ``[rows, labels]``. ``none`` gives each token as it is; ``simple`` joins neighbours of
    the same kind; the others first give each word one label: its first token's, that of the mean of its tokens, or
    that of its surest token. What is outside (``O``) is left out. Raises `RequestError` where places are unknown.
    """
    if encoded.offsets is None:
        raise RequestError("this model's tokenizer does not tell where tokens are: use the model's own folder")
    pieces = [
        _Piece(row, int(row.argmax()), start, end)
        for row, (start, end), is_special in zip(scores, encoded.offsets, encoded.special, strict=True)
        if not is_special and end > start
    ]
    if aggregation == "none":
        inside = [piece for piece in pieces if labels[piece.best] != OUTSIDE]
        return [_span(text, [piece], labels[piece.best]) for piece in inside]
    if aggregation != "simple":
        pieces = [_word(word, aggregation) for word in _words(text, pieces)]
    return _grouped(text, pieces, labels)


def require_aggregation(aggregation: str) -> None:
    """Raise `FieldError` for an aggregation that there is not."""
    if aggregation not in get_args(Aggregation):
        raise FieldError("aggregation", f"must be one of {', '.join(get_args(Aggregation))}, not {aggregation!r}")


def _words(text: str, pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """Group tokens that touch, with no space between or within the text there, to words."""
    words: list[list[_Piece]] = []
    for piece in pieces:
        begins = not words or piece.start > words[-1][-1].end or text[piece.start : piece.start + 1].isspace()
        if begins or _is_apart(text, words[-1][-1].end, piece.start):
            words.append([piece])
        else:
            words[-1].append(piece)
    return words


def _is_apart(text: str, end: int, start: int) -> bool:
    """Return whether two touching tokens belong to different words: punctuation and CJK characters stand alone."""
    is_joined = text[end - 1 : end].isalnum() and text[start : start + 1].isalnum()
    return not is_joined or "\u4e00" <= text[start] <= "\u9fff"


def _word(tokens: Sequence[_Piece], aggregation: Aggregation) -> _Piece:
    """Return a word's scores and label."""
    if aggregation == "first":
        scores = tokens[0].scores
    elif aggregation == "average":
        scores = np.mean([token.scores for token in tokens], axis=0, dtype=np.float32)
    else:
        scores = max(tokens, key=lambda token: float(token.scores.max())).scores
    return _Piece(scores, int(scores.argmax()), tokens[0].start, tokens[-1].end)


def _grouped(text: str, pieces: Sequence[_Piece], labels: Sequence[str]) -> list[TaggedSpan]:
    """Join neighbours of the same kind; ``B-`` begins a new stretch."""
    spans: list[TaggedSpan] = []
    group: list[_Piece] = []
    kind = OUTSIDE
    for piece in pieces:
        begins, found = _kind_of(labels[piece.best])
        if group and (found != kind or begins):
            spans += _closed(text, group, kind)
            group = []
        group, kind = [*group, piece], found
    return spans + _closed(text, group, kind)


def _closed(text: str, group: Sequence[_Piece], kind: str) -> list[TaggedSpan]:
    if not group or kind == OUTSIDE:
        return []
    return [_span(text, group, kind)]


def _kind_of(label: str) -> tuple[bool, str]:
    """Return whether a label begins a stretch, and the label without its ``B-`` or ``I-``."""
    prefix, dash, kind = label.partition("-")
    return (prefix == "B", kind) if dash and prefix in ("B", "I") else (False, label)


def _span(text: str, pieces: Sequence[_Piece], label: str) -> TaggedSpan:
    score = float(np.mean([piece.scores[piece.best] for piece in pieces], dtype=np.float64))
    start, end = pieces[0].start, pieces[-1].end
    return TaggedSpan(label, score, start, end, text[start:end])
