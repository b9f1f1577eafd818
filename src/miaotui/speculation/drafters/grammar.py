"""Drafts from grammars: the tokens that a constraint leaves no choice about.

Owns nothing but which request has a constraint. Knows no grammar: the constraint says what is forced. Invariant:
such tokens are verified like any draft, under the constraint's masks.
"""

from __future__ import annotations

from collections.abc import Sequence

from miaotui.engine.constraint import Constraint
from miaotui.speculation.drafters.protocol import Candidate, DraftRequest

GRAMMAR = "grammar"  # the name of this source
_EVIDENCE, _MAX_TOKENS = 64, 32  # the evidence for a forced token; how many of them at once


class GrammarDrafter:
    """A `Drafter` of forced tokens."""

    sources = (GRAMMAR,)
    is_certain = True

    def __init__(self) -> None:
        self._constraints: dict[int, Constraint] = {}

    def enter(self, request: DraftRequest) -> bool:
        """See `Drafter.enter`: only requests with a constraint have forced tokens."""
        if request.constraint is None:
            return False
        self._constraints[request.number] = request.constraint
        return True

    def extend(self, number: int, tokens: Sequence[int]) -> None:
        """See `Drafter.extend`; the constraint itself has seen the tokens already."""

    def propose(self, number: int, after: Sequence[int] = ()) -> Sequence[Candidate]:
        """See `Drafter.propose`; nothing follows tokens that may not come."""
        forced = () if after else self._constraints[number].forced()
        return [Candidate(GRAMMAR, _EVIDENCE, forced[:_MAX_TOKENS])] if forced else ()

    def leave(self, number: int, finished: bool) -> None:
        """See `Drafter.leave`."""
        del self._constraints[number]
