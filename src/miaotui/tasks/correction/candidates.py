"""Candidates of correction in both languages: a span of a sentence, a text for it, and how much it must gain.

Owns `EditCandidate` and the choice by script. Invariant: candidates depend on the sentence alone.
"""

from __future__ import annotations

from typing import NamedTuple


class EditCandidate(NamedTuple):
    """A text for ``sentence[start:end]``, taken if the sentence's log-likelihood gains ``need`` nats.

    ``need`` is the negative logarithm of how often such an edit is right, as far as one can say before reading.
    """

    start: int
    end: int
    text: str
    need: float

    def applied(self, sentence: str) -> str:
        """Return the sentence with this edit."""
        return sentence[: self.start] + self.text + sentence[self.end :]
