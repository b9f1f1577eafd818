"""Recent use of each key, compared with its limits.

Owns the counting of requests, tokens and requests at once, by key name; knows neither HTTP nor engines. A limit per
minute is a bucket that holds one minute's worth and refills evenly; tokens are charged when they are known, so that a
bucket may go below zero and then refuses until it has recovered. Invariant: memory is bounded by the number of keys.
Runs in one thread, the event loop's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from miaotui.serve.middleware.keys import Caller

CONCURRENT_RETRY_S = 1.0


@dataclass(frozen=True)
class Excess:
    """A limit that a request would break."""

    limit: str  # as a person reads it: "60 requests per minute"
    retry_after_s: float


@dataclass
class _Bucket:
    level: float
    at_s: float

    def refill(self, per_minute: int, now: float) -> None:
        self.level = min(self.level + (now - self.at_s) * per_minute / 60, per_minute)
        self.at_s = now


@dataclass
class _Use:
    running: int = 0
    requests: _Bucket | None = None
    tokens: _Bucket | None = None


class KeyUsage:
    """Use of all keys."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._used: dict[str, _Use] = {}

    def enter(self, caller: Caller) -> Excess | None:
        """Count one request in; or say which limit it would break, and count nothing.

        Each success must be followed by one `leave`.
        """
        limits, now = caller.limits, self._clock()
        use = self._used.setdefault(caller.name, _Use())
        if limits.concurrent is not None and use.running >= limits.concurrent:
            return Excess(f"{limits.concurrent} requests at once", CONCURRENT_RETRY_S)
        if limits.tokens_per_minute is not None:
            use.tokens = _current(use.tokens, limits.tokens_per_minute, now)
            if use.tokens.level <= 0:
                wait = (1 - use.tokens.level) * 60 / limits.tokens_per_minute
                return Excess(f"{limits.tokens_per_minute} tokens per minute", wait)
        if limits.requests_per_minute is not None:
            use.requests = _current(use.requests, limits.requests_per_minute, now)
            if use.requests.level < 1:
                wait = (1 - use.requests.level) * 60 / limits.requests_per_minute
                return Excess(f"{limits.requests_per_minute} requests per minute", wait)
            use.requests.level -= 1
        use.running += 1
        return None

    def charge(self, caller: Caller, tokens: int) -> None:
        """Count tokens that a request read or wrote."""
        if caller.limits.tokens_per_minute is not None:
            use = self._used.setdefault(caller.name, _Use())
            use.tokens = _current(use.tokens, caller.limits.tokens_per_minute, self._clock())
            use.tokens.level -= tokens

    def leave(self, caller: Caller) -> None:
        """Count a request out that entered."""
        self._used[caller.name].running -= 1


def _current(bucket: _Bucket | None, per_minute: int, now: float) -> _Bucket:
    if bucket is None:
        return _Bucket(per_minute, now)
    bucket.refill(per_minute, now)
    return bucket
