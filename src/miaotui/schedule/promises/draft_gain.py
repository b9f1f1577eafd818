"""Gain of drafts: how much faster answers come than by one token in each pass.

Owns, by the number of answers that run together, the cost of a pass with drafts (over one without) and the tokens
that each answer gets from it, alone or beside prompts. Knows neither drafts nor clocks. Invariant: without drafts,
and before any have been seen, every ratio is one. The first passes count little beside that, later ones fade with
time, so a few requests are enough to learn from and none is remembered for long.
"""

from __future__ import annotations

from dataclasses import dataclass, field

COUNTS = (1, 2, 4, 8, 1 << 30)  # answers together: up to so many share statistics
PRIOR_PASSES = 4.0  # that count as passes without guesses
KEPT_PASSES = 400.0  # older ones fade
LEAST_SHARE = 0.1  # of the plain time: no guess gains more


@dataclass(slots=True)
class _Sums:
    """Faded sums over passes: their number, their cost in plain passes, the tokens of an answer."""

    passes: float = PRIOR_PASSES
    cost: float = PRIOR_PASSES
    tokens: float = PRIOR_PASSES

    def add(self, passes: float, cost: float, tokens: float) -> None:
        """Count some passes."""
        fade = max(1.0 - passes / KEPT_PASSES, 0.0)
        self.passes = self.passes * fade + passes
        self.cost = self.cost * fade + cost
        self.tokens = self.tokens * fade + tokens


def _kinds() -> list[_Sums]:
    return [_Sums() for _ in COUNTS]


@dataclass(slots=True)
class DraftGain:
    """Costs and gains of guesses; one thread adds, any may ask."""

    _alone: list[_Sums] = field(default_factory=_kinds)  # passes of answers only
    _beside: list[_Sums] = field(default_factory=_kinds)  # passes that read prompts as well

    def add(self, count: int, reading: bool, passes: int, cost: float, tokens: float) -> None:
        """Count ``passes`` over ``count`` answers.

        ``cost`` is what they took, in passes without guesses; ``tokens`` is what each answer got, on average.
        """
        self._sums(count, reading).add(passes, min(max(cost, 0.5 * passes), 8.0 * passes), tokens)

    def share(self, count: int) -> float:
        """Return the time of a token, over that of a pass without guesses, while ``count`` answers go on alone."""
        sums = self._sums(count, False)
        return max(sums.cost / sums.tokens, LEAST_SHARE)

    def pass_cost(self, count: int, reading: bool) -> float:
        """Return the time of a pass over that of one without guesses."""
        sums = self._sums(count, reading)
        return sums.cost / sums.passes

    def tokens(self, count: int, reading: bool) -> float:
        """Return the tokens that a pass brings each of ``count`` answers; at least one."""
        sums = self._sums(count, reading)
        return max(sums.tokens / sums.passes, 1.0)

    def _sums(self, count: int, reading: bool) -> _Sums:
        kinds = self._beside if reading else self._alone
        for sums, most in zip(kinds, COUNTS, strict=True):
            if count <= most:
                return sums
        return kinds[-1]
