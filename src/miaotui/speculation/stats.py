"""Statistics of each source of drafts: counts of tokens, and the time that they saved.

Owns the counts alone. The engine's thread changes them; any thread reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from miaotui.engine.speculator import SourceReport


class Verified(NamedTuple):
    """Drafted tokens of one source that a pass verified for one request."""

    source: str
    proposed: int
    accepted: int


@dataclass(slots=True)
class DraftStats:
    """Running counts of one source; `report` is a copy of them."""

    drafts: int = 0
    proposed: int = 0
    accepted: int = 0
    saved_s: float = 0.0

    def note(self, verified: Verified, saved_s: float) -> None:
        """Count a draft that was verified, and the seconds that it saved."""
        self.drafts += 1
        self.proposed += verified.proposed
        self.accepted += verified.accepted
        self.saved_s += saved_s

    def report(self, name: str) -> SourceReport:
        """Return the counts so far."""
        return SourceReport(name, self.drafts, self.proposed, self.accepted, self.saved_s)
