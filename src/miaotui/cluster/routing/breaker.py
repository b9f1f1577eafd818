"""Circuit breaker of one replica: after failures in a row it takes no requests for a while.

Owns the count and the pauses. Knows no clock: times come in, in seconds. Invariant: while a breaker is open nothing is
sent; after the pause one request goes out as a trial, and only its success closes the breaker.
Source: Nygard, Release It! (2007), chapter 5.2, "Circuit Breaker".
"""

from __future__ import annotations

from dataclasses import dataclass

FAILURES = 3  # in a row open it
FIRST_PAUSE_S, MOST_PAUSE_S = 0.5, 30.0


@dataclass(slots=True)
class Breaker:
    """State of one breaker."""

    failures: int = 0  # in a row
    open_until_s: float = 0.0
    _pause_s: float = FIRST_PAUSE_S
    _on_trial: bool = False

    def allows(self, now_s: float) -> bool:
        """Return whether a request may be sent now."""
        if self.failures < FAILURES:
            return True
        return now_s >= self.open_until_s and not self._on_trial

    def sent(self) -> None:
        """Note a request that was sent: after a pause it is the trial."""
        if self.failures >= FAILURES:
            self._on_trial = True

    def succeed(self) -> None:
        """Note an answer that came, and close."""
        self.failures, self._pause_s, self._on_trial = 0, FIRST_PAUSE_S, False

    def fail(self, now_s: float) -> None:
        """Note a failure of the replica; each pause is twice as long as the one before."""
        self.failures += 1
        self._on_trial = False
        if self.failures >= FAILURES:
            self.open_until_s = now_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, MOST_PAUSE_S)

    def abandon(self) -> None:
        """Note a trial that ended without a verdict, such as a cancelled one: the next request is a trial again."""
        self._on_trial = False
