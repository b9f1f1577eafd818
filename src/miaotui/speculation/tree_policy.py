"""Whether a second guess is worth a branch beside the first one, and the tree of both.

Owns the estimates that a line of drafts has no need of: how often a rival is right where the line is
wrong, and what a branch costs beyond its rows (a page copied in every layer, keys and values read once
more). Both are learned from what comes, the former without trying. Invariant: a branch is only ever
added to a line that pays for itself, and must pay for itself as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from miaotui.schedule.tree import DraftTree
from miaotui.speculation.acceptance_rates import AcceptanceRates, kinds_of, survivals
from miaotui.speculation.drafters.protocol import Guess
from miaotui.speculation.row_cost import RowCost

_PRIOR, _PRIOR_WEIGHT, _MEMORY = 0.1, 20.0, 400.0  # rivals are rarely right
_FIRST_COST, _DEAREST = 0.05, 1.0  # of a branch, in passes of one row


class Rival(NamedTuple):
    """A guess that goes another way than the line that is followed."""

    line: Guess
    other: Guess
    fork: int  # tokens that they have in common

    def judge(self, came: Sequence[int], rescue: Rescue) -> None:
        """Note whether it was right, if the line was wrong where they part."""
        fork, line = self.fork, self.line.tokens
        reached = fork < len(came) and list(came[:fork]) == list(line[:fork])
        if reached and came[fork] != line[fork]:
            rescue.note(came[fork] == self.other.tokens[fork])

    def chances(
        self, of_line: Sequence[float], rates: AcceptanceRates, odds: float, rescue: Rescue, most: int
    ) -> list[float]:
        """The probability that each of its tokens from the fork on comes, ``most`` at most.

        ``of_line`` are those of the line's.
        """
        fork = self.fork
        reached = of_line[fork - 1] if fork else 1.0
        first = (reached - of_line[fork]) * rescue.rate
        after = survivals(rates.rates, odds, kinds_of(self.other)[fork + 1 :], most - 1)
        return [first, *(first * chance for chance in after[: len(self.other.tokens) - fork - 1])]

    def tree(self, share: int, count: int) -> DraftTree:
        """``share`` tokens of the line, and ``count`` of its own beside them."""
        fork = self.fork
        trunk = self.line.tokens[:share]
        side = self.other.tokens[fork : fork + count]
        parents = (*range(-1, share - 1), fork - 1, *range(share, share + count - 1))
        return DraftTree((*trunk, *side), parents)


def rival_of(line: Guess, guesses: Sequence[Guess]) -> Rival | None:
    """The best founded guess that goes another way than ``line``."""
    best: Rival | None = None
    for guess in guesses:
        if guess is line or (best is not None and guess.length <= best.other.length):
            continue
        for fork, (one, other) in enumerate(zip(line.tokens, guess.tokens, strict=False)):
            if one != other:
                best = Rival(line, guess, fork)
                break
    return best


class Rescue:
    """How often a source's rivals are right where a line is wrong."""

    __slots__ = ("_held", "_seen", "rate")

    def __init__(self) -> None:
        self._seen, self._held = _PRIOR_WEIGHT, _PRIOR * _PRIOR_WEIGHT
        self.rate = _PRIOR

    def note(self, held: bool) -> None:
        """A line was wrong, and its rival right or not."""
        self._seen, self._held = self._seen + 1.0, self._held + held
        if self._seen > _MEMORY:
            self._seen, self._held = self._seen / 2, self._held / 2
        self.rate = self._held / self._seen


class BranchCost:
    """What a branch takes beyond its rows, in passes of one row."""

    def __init__(self) -> None:
        self.ratio = _FIRST_COST

    def note(self, cost: RowCost, rows: int, branches: int, seconds: float) -> None:
        """A pass with branches took ``seconds``, where a pass of so many rows takes ``cost``."""
        unit = cost.seconds(1)
        if unit > 0.0:
            extra = (seconds - cost.seconds(rows)) / unit / branches
            self.ratio += (min(max(extra, 0.0), _DEAREST) - self.ratio) / 16


class Offer(NamedTuple):
    """A rival that could be tried in a step, and the chances of its tokens."""

    rival: Rival
    chances: Sequence[float]


def choose_branch(
    offers: Sequence[Offer | None], gain: float, rows: int, cost: RowCost, branch: BranchCost, margin: float
) -> tuple[int, int]:
    """The offer that makes the most of a step, and how many of its tokens; (-1, 0): none does.

    Without it the step brings ``gain`` tokens from ``rows`` rows. A branch must bring ``margin`` times as
    many tokens per second.
    """
    best, chosen = margin * gain / cost.ratio(rows), (-1, 0)
    extra = branch.ratio * cost.ratio(1)
    for index, offer in enumerate(offers):
        if offer is None:
            continue
        more, dearest = gain, cost.ratio(rows)
        for count, chance in enumerate(offer.chances, 1):
            more += chance
            dearest = max(dearest, cost.ratio(rows + count))
            speed = more / (dearest + extra)
            if speed > best:
                best, chosen = speed, (index, count)
    return chosen
