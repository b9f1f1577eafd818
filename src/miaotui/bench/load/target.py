"""Targets of a load: how one planned request is asked, of whatever answers it.

Owns the protocol and the clock of a load. Knows no server. Invariant: `Target.ask` returns, whatever happens, within
the time that a request may take; it raises nothing but what cancels it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from miaotui.bench.load.outcome import RequestOutcome
from miaotui.bench.load.prompts import PlannedRequest


@dataclass(frozen=True)
class AskOptions:
    """Options that all requests of a load share. ``deadline_ms``: sent with each request; None: without a deadline."""

    timeout_s: float = 60.0  # for a whole answer
    stall_s: float = 30.0  # between two pieces
    deadline_ms: float | None = None
    ignore_eos: bool = False
    temperature: float = 0.0


class LoadClock:
    """Seconds since a load began."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()

    def __call__(self) -> float:
        """Return the seconds that have passed."""
        return time.perf_counter() - self._began_s


class Target(Protocol):
    """Answers requests of a load."""

    name: str

    async def ask(self, planned: PlannedRequest, outcome: RequestOutcome, clock: LoadClock) -> None:
        """Ask once, and note in ``outcome`` what came and how it ended."""

    async def close(self) -> None:
        """End connections."""
