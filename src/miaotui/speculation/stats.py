"""What each source of guesses has brought: counts of tokens, and the time that they saved.

Owns the counts alone. Changed by the engine's thread, read by any.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceReport:
    """What one source of guesses has brought since the start."""

    name: str
    drafts: int  # passes that verified a draft of it, counted for each request
    proposed: int  # tokens
    accepted: int  # tokens
    saved_s: float  # seconds, by the passes that were not needed, less the rows that were

    @property
    def mean_accepted(self) -> float:
        """Accepted tokens per draft."""
        return self.accepted / self.drafts if self.drafts else 0.0


@dataclass(slots=True)
class DraftStats:
    """The same while it grows."""

    drafts: int = 0
    proposed: int = 0
    accepted: int = 0
    saved_s: float = 0.0
