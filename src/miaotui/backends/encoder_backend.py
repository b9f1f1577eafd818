"""The seam between a queue of texts and the arithmetic of an encoder: whole texts go in, their states come out.

Owns the protocol `EncoderBackend` and its value types; it lies beside `backend.py`, whose passes are chunks of
sequences with a cache, which an encoder has no use for. Knows neither heads nor pooling. Invariant: a text's states
are the same bytes alone and beside any other texts, on any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import RequestError

Floats = NDArray[np.float32]
RowsProduct = Callable[[Floats], Floats]  # of rows [n, inputs] with a matrix, [n, outputs]


class TextRows(NamedTuple):
    """One text's rows: token ids with the special tokens, and the segment of each (``()``: all in segment 0)."""

    tokens: Sequence[int]
    types: Sequence[int] = ()


@dataclass(frozen=True)
class EncoderLimits:
    """Sizes of an encoder's backend. Every text fits a pass: ``tokens <= rows``."""

    rows: int  # tokens of one pass, over all its texts
    tokens: int  # of one text, special tokens included

    def __post_init__(self) -> None:
        if not 1 <= self.tokens <= self.rows:
            raise RequestError(f"a pass of {self.rows:,} rows cannot hold a text of {self.tokens:,} tokens: raise rows")


@dataclass(frozen=True)
class EncoderIdentity:
    """The parts of a backend that decide a text's states, besides the model's file: a key for caches."""

    name: str
    formats: tuple[str, ...]  # of packed weights, sorted
    arithmetic: str  # changes when the same weights would give other states


class EncodeResult(NamedTuple):
    """A pass's outcome."""

    states: list[Floats]  # [n, hidden] of each text, after the last layer; valid until the next pass
    seconds: float


class EncoderBackend(Protocol):
    """An encoder's arithmetic. One thread at a time runs passes."""

    @property
    def limits(self) -> EncoderLimits:
        """Return its sizes."""

    @property
    def identity(self) -> EncoderIdentity:
        """Return a key for caches of what it computes."""

    def encode(self, texts: Sequence[TextRows]) -> EncodeResult:
        """Compute the states of whole texts in one pass.

        Raises `RequestError` where the texts do not fit `limits` (`check_texts`) or name ids that there are not.
        """

    def output_product(self) -> RowsProduct | None:
        """Return the product of rows with the token embedding; None: this backend leaves it to NumPy."""

    def close(self) -> None:
        """Give the memory of the weights back; the backend must not be used after."""


def check_texts(texts: Sequence[TextRows], limits: EncoderLimits, vocab_size: int, n_types: int) -> None:
    """Raise `RequestError` unless ``texts`` fit one pass and their ids are of the vocabulary and of the segments."""
    if not texts:
        raise RequestError("a pass needs at least one text")
    rows = sum(len(text.tokens) for text in texts)
    if rows > limits.rows:
        raise RequestError(f"{rows:,} rows do not fit a pass of {limits.rows:,}: share the texts out over passes")
    for text in texts:
        _check_text(text, limits, vocab_size, n_types)


def _check_text(text: TextRows, limits: EncoderLimits, vocab_size: int, n_types: int) -> None:
    n = len(text.tokens)
    if not 1 <= n <= limits.tokens:
        raise RequestError(f"a text must have 1 to {limits.tokens:,} tokens, not {n:,}")
    if text.types and len(text.types) != n:
        raise RequestError(f"a text of {n:,} tokens has segments for {len(text.types):,}: give one for each")
    for name, ids, end in (("token", text.tokens, vocab_size), ("segment", text.types, max(n_types, 1))):
        if len(ids) and (min(ids) < 0 or max(ids) >= end):
            raise RequestError(f"{name} ids must be 0 to {end - 1:,}: these are of another vocabulary")
