"""The state of one request on its way through a pool.

Owns the record: what was asked, where it is, what it has met. Knows no router. Invariant: what replicas are asked for
is fixed when the request is taken on, so that every one of them goes on with the same.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from miaotui.cluster.messages import Message
from miaotui.cluster.routing.router import Ticket
from miaotui.engine.request import Request, RequestOptions
from miaotui.types import SamplingParams


@dataclass
class Way:
    """One request on its way. ``losses``: replicas that died under it."""

    request: Request
    params: SamplingParams
    options: RequestOptions
    ticket: Ticket
    adapter: tuple[str, str] | None  # its name, and the digest of its numbers
    constraint: Message | None
    tried: set[str] = field(default_factory=set)
    losses: int = 0
    refusals: int = 0

    def left_s(self, limit_ms: float | None) -> float | None:
        """Return the seconds that a limit in milliseconds leaves from now."""
        if limit_ms is None:
            return None
        return limit_ms / 1e3 - (time.perf_counter() - self.request.timeline.arrived_s)
