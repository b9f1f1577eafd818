"""Whether a second candidate is worth a branch beside the first one, and the tree of both.

Owns the estimates that a draft without branches has no need of: how often the branch is right where the trunk is
wrong, and what a branch costs besides its rows (a page copied in every layer, keys and values read once more). The
former is learned without trying. Invariant: a branch is added only to a trunk that pays for itself, and must pay for
itself as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from miaotui.schedule.tree import DraftTree
from miaotui.speculation.acceptance_rates import RequestRecord, cumulative_chances, kinds_of
from miaotui.speculation.drafters.protocol import Candidate
from miaotui.speculation.policy import MAX_CHANCES, DraftPolicy
from miaotui.speculation.row_cost import RowCost

_PRIOR, _PRIOR_WEIGHT, _MEMORY = 0.1, 20.0, 400.0  # branches are rarely right
_FIRST_COST, _MAX_COST = 0.05, 1.0  # of a branch, in passes of one row


class Fork(NamedTuple):
    """Two candidates that have their first ``depth`` tokens in common and then part."""

    trunk: Candidate
    branch: Candidate
    depth: int

    def learn(self, came: Sequence[int], rate: BranchRate) -> None:
        """Observe whether the branch was right, if the trunk was wrong where they part."""
        depth, trunk = self.depth, self.trunk.tokens
        reached = depth < len(came) and list(came[:depth]) == list(trunk[:depth])
        if reached and came[depth] != trunk[depth]:
            rate.note(came[depth] == self.branch.tokens[depth])

    def chances(
        self,
        trunk_chances: Sequence[float],
        rates: Sequence[float],
        record: RequestRecord,
        branch_rate: BranchRate,
        most: int,
    ) -> list[float]:
        """Return the probabilities that the branch's first 1, 2, ... ``most`` tokens are accepted, counted from the
        fork.

        ``rates`` and ``record`` are those of the branch's source.
        """
        depth = self.depth
        reached = trunk_chances[depth - 1] if depth else 1.0
        first = (reached - trunk_chances[depth]) * branch_rate.rate
        later = cumulative_chances(rates, record, kinds_of(self.branch)[depth + 1 :], most - 1)
        return [first, *(first * chance for chance in later[: len(self.branch.tokens) - depth - 1])]

    def tree(self, trunk_rows: int, branch_rows: int) -> DraftTree:
        """Return the tree of the trunk's first tokens, and of the branch's after the fork."""
        depth = self.depth
        trunk = self.trunk.tokens[:trunk_rows]
        branch = self.branch.tokens[depth : depth + branch_rows]
        parents = (*range(-1, trunk_rows - 1), depth - 1, *range(trunk_rows, trunk_rows + branch_rows - 1))
        return DraftTree((*trunk, *branch), parents)


def find_fork(trunk: Candidate, candidates: Sequence[Candidate]) -> Fork | None:
    """Return the fork of ``trunk`` and of the candidate with the most evidence that parts from it."""
    best: Fork | None = None
    for candidate in candidates:
        if candidate is trunk or (best is not None and candidate.evidence <= best.branch.evidence):
            continue
        for depth, (one, other) in enumerate(zip(trunk.tokens, candidate.tokens, strict=False)):
            if one != other:
                best = Fork(trunk, candidate, depth)
                break
    return best


class BranchRate:
    """How often a source's branches are right where the trunk is wrong."""

    __slots__ = ("_right", "_seen", "rate")

    def __init__(self) -> None:
        self._seen, self._right = _PRIOR_WEIGHT, _PRIOR * _PRIOR_WEIGHT
        self.rate = _PRIOR

    def note(self, right: bool) -> None:
        """Observe a fork whose trunk was wrong."""
        self._seen, self._right = self._seen + 1.0, self._right + right
        if self._seen > _MEMORY:
            self._seen, self._right = self._seen / 2, self._right / 2
        self.rate = self._right / self._seen


class BranchCost:
    """Cost of a branch besides its rows, in passes of one row."""

    def __init__(self) -> None:
        self.ratio = _FIRST_COST

    def note(self, cost: RowCost, rows: int, branches: int, seconds: float) -> None:
        """Learn from a pass with branches that took ``seconds``, where ``cost`` is known of ``rows`` rows alone."""
        unit = cost.seconds(1)
        if unit > 0.0:
            extra = (seconds - cost.seconds(rows)) / unit / branches
            self.ratio += (min(max(extra, 0.0), _MAX_COST) - self.ratio) / 16


class BranchOffer(NamedTuple):
    """A fork whose branch could be verified in a step, and the chances of the branch's tokens."""

    fork: Fork
    chances: Sequence[float]


def choose_branch(
    offers: Sequence[BranchOffer | None], gain: float, rows: int, cost: RowCost, branch: BranchCost, policy: DraftPolicy
) -> tuple[int, int]:
    """Return the offer that brings a step the most tokens per second, and its number of rows; (-1, 0) if none pays.

    Without a branch the step brings ``gain`` tokens from ``rows`` rows.
    """
    best, chosen, extra = 0.0, (-1, 0), branch.ratio * cost.ratio(1)
    for index, offer in enumerate(offers):
        if offer is not None:
            costs = cost.costs(rows, min(len(offer.chances), MAX_CHANCES))
            count, speed = policy.rows_worth(offer.chances, costs, gain, extra=extra)
            if count and speed > best:
                best, chosen = speed, (index, count)
    return chosen
