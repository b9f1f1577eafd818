"""A job: texts whose states a caller requests of an encoder, and their results.

Owns how far its texts were taken into passes. Knows neither heads nor HTTP: a `Reduction` makes a result of each text's
states. Invariant: texts are taken in their order, each once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from miaotui.backends.encoder_backend import Floats, TextRows
from miaotui.engine.encoding.loaded import LoadedEncoder
from miaotui.engine.encoding.reading import StateReading
from miaotui.engine.jobs.job import PromisedJob
from miaotui.types import Deadline


def _as_it_is(_index: int, value: Floats) -> Floats:
    return value


@dataclass(frozen=True)
class Reduction:
    """Way from a text's states to its result: a head, pooling, or both.

    ``reduce(index, states)`` is called once for each text, in the loop's thread; the states are valid during the
    call. ``name`` groups reductions whose time for a row is alike. Where another process computes the states, it
    evaluates ``reading`` there, and ``then(index, value)`` makes the result here; without a reading it cannot.
    """

    name: str
    reduce: Callable[[int, Floats], Any]
    reading: StateReading | None = None
    then: Callable[[int, Floats], Any] = _as_it_is

    @staticmethod
    def of(
        model: LoadedEncoder, name: str, reading: StateReading, then: Callable[[int, Floats], Any] = _as_it_is
    ) -> Reduction:
        """Return the reduction that evaluates a reading and makes the result of its value."""
        return Reduction(name, lambda index, states: then(index, reading.value(model, index, states)), reading, then)


class EncodeJob(PromisedJob):
    """Texts of one request."""

    def __init__(
        self, texts: Sequence[TextRows], reduction: Reduction, deadline: Deadline | None, arrived_s: float
    ) -> None:
        super().__init__(sum(len(text.tokens) for text in texts), len(texts), deadline, arrived_s)
        self.texts, self.reduction = texts, reduction
        self.reduce_row_s = 0.0  # seconds that the reduction takes for a row, as far as known
        self.tag = 0.0  # virtual time at which its next text is due (see `queue`)
        self.taken = 0  # texts that were put into a pass
        self.rows_left = self.n_tokens
        self.squares_left = sum(len(text.tokens) ** 2 for text in texts)

    def take(self) -> int:
        """Take the next text for a pass; returns its index."""
        index = self.taken
        n = len(self.texts[index].tokens)
        self.taken += 1
        self.rows_left -= n
        self.squares_left -= n * n
        return index

    def put(self, index: int, states: Floats) -> None:
        """Reduce one text's states and keep the result."""
        self.keep(index, self.reduction.reduce(index, states))
