"""A job: one request to a model whose results come together, from its submission to its end.

Owns the record and its future. Knows no model. Invariant: its future is settled exactly once: with all results, with an
error, or by being cancelled.
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import Future, InvalidStateError
from typing import Any, Literal

from miaotui.types import Deadline, Promise

JobEnd = Literal["stop", "cancelled", "failed"]
_NUMBERS = itertools.count(1)


class PromisedJob:
    """A request for ``n_results`` results of ``n_tokens`` tokens. Times are `time.perf_counter` seconds."""

    def __init__(self, n_tokens: int, n_results: int, deadline: Deadline | None, arrived_s: float) -> None:
        self.number = next(_NUMBERS)
        self.deadline, self.arrived_s = deadline, arrived_s
        self.n_tokens, self.n_results = n_tokens, n_results
        self.future: Future[list[Any]] = Future()
        self.due_s = math.inf  # of a promise
        self.predicted_ms = 0.0
        self.written_tokens = 0  # of its results, where these are texts
        self.began_s: float | None = None
        self.ended_s: float | None = None
        self._results: list[Any] = [None] * n_results
        self._open = n_results

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

    def keep(self, index: int, result: Any) -> None:
        """Keep one result."""
        self._results[index] = result
        self._open -= 1

    @property
    def is_complete(self) -> bool:
        """Return whether every result is there."""
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
