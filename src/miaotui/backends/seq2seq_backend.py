"""The seam between a search for targets and the arithmetic of an encoder-decoder.

Owns the protocol `Seq2SeqBackend` and its value types; it lies beside `backend.py` and `encoder_backend.py`. Sources
are encoded once, whole; their keys and values stay until they are released. A target row continues a kept prefix, which
it leaves unchanged, so that several beams may continue one. Knows no tokens' meaning. Invariant: a row's scores are the
same bytes alone and beside any other rows and sources, on any number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.target_scores import TargetScores
from miaotui.errors import RequestError

NO_PREFIX = -1
Frames = NDArray[np.float32]
Source = Sequence[int] | Frames  # token ids, or frames of sound [2 x rows, mel bins]
Head = tuple[int, int]  # a decoder's layer, and a head of its cross-attention


class TargetRow(NamedTuple):
    """A token of a target: ``prefix`` is the number of the row before it, `NO_PREFIX` for a start token.

    ``candidates``: how many of the next tokens will be asked for; 0: none, and the row has no scores. ``before``:
    tokens between the prefix and this one, which the same pass computes; each is one more row of it.
    """

    source: int
    prefix: int
    token: int
    candidates: int = 1
    before: tuple[int, ...] = ()


def source_rows(source: Source) -> int:
    """Return how many rows a source has in the encoder: its tokens, or half its frames."""
    return len(source) // 2 if isinstance(source, np.ndarray) else len(source)


def target_rows(rows: Sequence[TargetRow]) -> int:
    """Return how many rows a pass has."""
    return sum(1 + len(row.before) for row in rows)


class TargetRows(NamedTuple):
    """A pass's outcome: each row's number, which later rows may continue, and the scores of its next token."""

    prefixes: list[int]
    scores: TargetScores  # valid until the next pass
    seconds: float


class TargetAlignment(NamedTuple):
    """Cross-attention of a target's tokens: scaled scores ``[heads, tokens, source rows]``, before any softmax.

    ``logits`` ``[tokens, vocabulary]``: of the token behind each.
    """

    scores: NDArray[np.float32]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Seq2SeqLimits:
    """Sizes of a backend."""

    source_tokens: int  # of one source
    source_rows: int  # of one pass over sources; a source fits: ``source_tokens <= source_rows``
    target_tokens: int  # of one target
    target_rows: int  # of one pass over targets
    sources: int  # that may be kept
    kept_rows: int = 1 << 20  # of targets that may be kept

    def __post_init__(self) -> None:
        if not 1 <= self.source_tokens <= self.source_rows:
            raise RequestError(
                f"a pass of {self.source_rows:,} rows cannot hold a source of {self.source_tokens:,} tokens: raise rows"
            )
        if self.kept_rows < self.target_rows:
            raise RequestError(f"a pass of {self.target_rows:,} target rows must fit the {self.kept_rows:,} kept ones")


@dataclass(frozen=True)
class Seq2SeqIdentity:
    """The parts of a backend that decide its logits, besides the model's file: a key for caches."""

    name: str
    formats: tuple[str, ...]  # of packed weights, sorted
    arithmetic: str


class Seq2SeqBackend(Protocol):
    """An encoder-decoder's arithmetic. One thread at a time runs passes."""

    @property
    def limits(self) -> Seq2SeqLimits:
        """Return its sizes."""

    @property
    def identity(self) -> Seq2SeqIdentity:
        """Return a key for caches of what it computes."""

    @property
    def free_rows(self) -> int:
        """Return how many more target rows may be kept now."""

    def fitting(self, sizes: Sequence[int]) -> int:
        """Return how many of the first sources, of ``sizes`` tokens, one call of `encode` takes now.

        At least one where nothing is kept and it fits `limits`.
        """

    def encode(self, sources: Sequence[Source]) -> list[int]:
        """Encode whole sources in one pass and keep what targets attend to; returns their numbers.

        Raises `RequestError` where they do not fit `limits` or name ids that there are not.
        """

    def run(self, rows: Sequence[TargetRow]) -> TargetRows:
        """Compute one row of each of several targets in one pass and keep them.

        Raises `RequestError` where they do not fit `limits` or name ids that there are not.
        """

    def align(self, source: int, tokens: Sequence[int], heads: Sequence[Head]) -> TargetAlignment:
        """Compute the cross-attention of some heads for a whole target, in a pass of its own that keeps no row.

        Raises `RequestError` where the tokens do not fit `limits` or name ids that there are not.
        """

    def release(self, prefixes: Sequence[int], sources: Sequence[int] = ()) -> None:
        """Forget rows that nothing will continue, and sources without targets."""

    def close(self) -> None:
        """Give the memory of the weights back; the backend must not be used after."""
