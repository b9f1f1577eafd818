"""A job: texts whose states a caller requests of an encoder, and their results.

Owns the record of one request from its submission to its end. Knows neither heads nor HTTP: a `Reduction` makes a
result of each text's states. Invariant: its future is settled exactly once: with one result for each text, with an
error, or by being cancelled.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Any, Literal

from miaotui.backends.encoder_backend import Floats, TextRows
from miaotui.types import Deadline, Promise

JobEnd = Literal["stop", "cancelled", "failed"]
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Reduction:
    """Way from a text's states to its result: a head, pooling, or both.

    ``reduce(index, states)`` is called once for each text, in the loop's thread; the states are valid during the
    call. ``name`` groups reductions whose time for a row is alike.
    """

    name: str
    reduce: Callable[[int, Floats], Any]


class EncodeJob:
    """Texts of one request. Times are `time.perf_counter` seconds."""

    def __init__(
        self, texts: Sequence[TextRows], reduction: Reduction, deadline: Deadline | None, arrived_s: float
    ) -> None:
        self.number = next(_NUMBERS)
        self.texts, self.reduction, self.deadline = texts, reduction, deadline
        self.arrived_s = arrived_s
        self.n_tokens = sum(len(text.tokens) for text in texts)
        self.future: Future[list[Any]] = Future()
        self.due_s = math.inf  # of a promise
        self.predicted_ms = 0.0
        self.reduce_row_s = 0.0  # seconds that the reduction takes for a row, as far as known
        self.tag = 0.0  # virtual time at which its next text is due (see `queue`)
        self.taken = 0  # texts that were put into a pass
        self.rows_left = self.n_tokens
        self.squares_left = sum(len(text.tokens) ** 2 for text in texts)
        self.began_s: float | None = None
        self.ended_s: float | None = None
        self._results: list[Any] = [None] * len(texts)
        self._open = len(texts)

    @property
    def promised(self) -> bool:
        """Return whether it must be done by `due_s`."""
        return self.due_s < math.inf

    @property
    def is_over(self) -> bool:
        """Return whether it has ended, in whatever way."""
        return self.future.done()

    @property
    def finish_reason(self) -> JobEnd | None:
        """Return how it ended; None: it has not."""
        if not self.future.done():
            return None
        if self.future.cancelled():
            return "cancelled"
        return "stop" if self.future.exception() is None else "failed"

    @property
    def promise(self) -> Promise:
        """Return how it stands to its deadline."""
        deadline = self.deadline
        asked_ms = None if deadline is None else asked_of(deadline)
        took_ms = None if self.ended_s is None else (self.ended_s - self.arrived_s) * 1e3
        is_timed = asked_ms is not None and took_ms is not None
        met = took_ms <= asked_ms if is_timed and asked_ms is not None and took_ms is not None else None
        return Promise(asked_ms, self.predicted_ms, took_ms, met)

    def take(self) -> int:
        """Take the next text for a pass; returns its index."""
        index = self.taken
        n = len(self.texts[index].tokens)
        self.taken += 1
        self.rows_left -= n
        self.squares_left -= n * n
        return index

    def put(self, index: int, states: Floats) -> None:
        """Reduce one text's states; the last one settles the future."""
        self._results[index] = self.reduction.reduce(index, states)
        self._open -= 1

    @property
    def is_complete(self) -> bool:
        """Return whether every text has its result."""
        return not self._open

    def end(self, now_s: float, error: BaseException | None = None) -> bool:
        """Settle the future with the results, or with ``error``; False if it was settled before."""
        if self.future.done():
            return False
        self.ended_s = now_s
        try:
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(self._results)
        except InvalidStateError:  # cancelled at this very moment
            return False
        return True

    def cancel(self) -> bool:
        """End it without results, from any thread; False if it has ended before."""
        return self.future.cancel()


def asked_of(deadline: Deadline) -> float | None:
    """Return the milliseconds that a deadline leaves for all results, which come together; None: no limit."""
    given = [each for each in (deadline.total_ms, deadline.ttft_ms) if each is not None]
    return min(given, default=None)
