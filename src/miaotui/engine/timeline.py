"""The times of one request, from its arrival to the moment when its whole answer was read.

Owns moments and the numbers made of them: reports, and whether a deadline was kept. Knows neither tokens nor text.
Invariant: moments are `time.perf_counter` seconds and only move forwards.
"""

from __future__ import annotations

import time
from array import array

from miaotui.types import Deadline, Timing


class Timeline:
    """Moments of one request, made when it is submitted."""

    def __init__(self) -> None:
        self._submitted_s = time.perf_counter()
        self.arrived_s = self._submitted_s  # from when its deadline counts
        self.gaps = array("f")  # seconds between what one step brought and the next
        self._begun_s: float | None = None  # when a step first computed for it
        self._first_s = self._last_s = self._over_s = self._submitted_s  # of its tokens
        self._handed_s: float | None = None  # when the whole answer was read
        self._passes = 0  # after the first token's

    def begin(self) -> None:
        """Note that a step is about to compute for it; only the first of them counts."""
        if self._begun_s is None:
            self._begun_s = time.perf_counter()

    def note(self, passes: int, is_first: bool) -> None:
        """Note that tokens have come, by so many passes."""
        now = time.perf_counter()
        if is_first:
            self._first_s = now
        else:
            self._passes += passes
            gap = (now - self._last_s) / passes
            for _ in range(passes):
                self.gaps.append(gap)
        self._last_s = self._over_s = now

    def end(self, has_tokens: bool) -> None:
        """Note that it was ended from outside, or without a token of its own."""
        self._over_s = time.perf_counter()
        if not has_tokens:
            self._first_s = self._last_s = self._over_s

    def hand_over(self) -> bool:
        """Note that the whole answer was read; False if that was known."""
        is_news = self._handed_s is None
        if is_news:
            self._handed_s = time.perf_counter()
        return is_news

    @property
    def hand_over_s(self) -> float:
        """Return the seconds from the last token until the answer was read; 0 as long as it was not."""
        return 0.0 if self._handed_s is None else self._handed_s - self._over_s

    @property
    def took_ms(self) -> float | None:
        """Return the milliseconds from its arrival until its answer was read; None as long as it was not."""
        return None if self._handed_s is None else (self._handed_s - self.arrived_s) * 1e3

    def keeps(self, deadline: Deadline, tokens: int) -> bool | None:
        """Return whether an answer of so many tokens kept its deadline; None as long as it was not read."""
        took_ms = self.took_ms
        if took_ms is None:
            return None
        first_ms = (self._first_s - self.arrived_s) * 1e3
        between_ms = (self._last_s - self._first_s) * 1e3 / max(tokens - 1, 1)
        return (
            (deadline.total_ms is None or took_ms <= deadline.total_ms)
            and (deadline.ttft_ms is None or first_ms <= deadline.ttft_ms)
            and (deadline.tpot_ms is None or between_ms <= deadline.tpot_ms)
        )

    def timing(self, tokens: int) -> Timing:
        """Return the times of an answer of so many tokens, for reports."""
        span = self._last_s - self._first_s
        return Timing(
            ttft_s=self._first_s - self._submitted_s,
            total_s=self._over_s - self._submitted_s,
            decode_tokens_per_s=(tokens - 1) / span if tokens > 1 and span > 0 else 0.0,
            tokens_per_pass=(tokens - 1) / self._passes if self._passes else 1.0,
            queue_s=(self._begun_s or self._over_s) - self._submitted_s,
        )
