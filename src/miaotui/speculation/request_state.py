"""What speculation remembers of one request between two steps: how its guesses fare, and what was guessed.

Owns the record, and how it learns from what came. Knows neither drafters nor passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from miaotui.engine.request import Request
from miaotui.speculation.acceptance_rates import AcceptanceRates, Record, kinds_of
from miaotui.speculation.draft_depth import Copying, Means
from miaotui.speculation.drafters.protocol import Guess
from miaotui.speculation.tree_policy import Rescue, Rival

NO_GUESSES: Sequence[Guess] = ()


@dataclass(slots=True)
class DraftState:
    """A request: how its guesses fare, and what was guessed for the pass under way."""

    request: Request
    rates: Sequence[AcceptanceRates]  # by source
    rescues: Sequence[Rescue]  # by source
    means: Means  # of the head
    record: Record = field(default_factory=Record)
    guesses: Sequence[Guess] = NO_GUESSES
    source: int = 0  # of the draft
    rival: Rival | None = None
    of_head: Record = field(default_factory=Record)
    copying: Copying = field(default_factory=Copying)
    turning: Copying = field(default_factory=Copying)  # from the head to a text, within runs
    row: int = -1  # of the last pass, that the newest token was drawn from; -1: none

    def judge(self, tokens: Sequence[int]) -> None:
        """Compare every guess with what came, whether it was tried or not, and forget it."""
        for guess in self.guesses:
            rates = self.rates[guess.source]
            pairs = zip(kinds_of(guess), guess.tokens, tokens, strict=False)
            for depth, (kind, token, came) in enumerate(pairs):
                held = token == came
                if depth < len(guess.evidence):
                    self.note_of_head(rates, kind, depth, held)
                else:
                    if not guess.evidence and guess.source == self.source:
                        self.record.note(rates.rates[kind], held)
                    rates.note(kind, held)
                if not held:
                    break
        if self.rival is not None:
            self.rival.judge(tokens, self.rescues[self.rival.other.source])
        self.guesses = NO_GUESSES

    def note_of_head(self, rates: AcceptanceRates, kind: int, depth: int, held: bool) -> None:
        """A token that the head guessed, ``depth`` tokens after its first, held or did not."""
        self.of_head.note(rates.rates[kind], held)
        self.means.note(depth, held)
        rates.note(kind, held)
